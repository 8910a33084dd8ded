//! A caller that does all the time what sidecars and orchestrators do, and remembers what it was answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use authz::audit::{Chain, Kind, Record, SourceId};
use authz::policy::Version;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::Value;
use tests::client::{Call, Client};
use tests::load::mesh::{LoadMesh, READER, WRITER, token_request};
use tests::sidecar::POLICY_AUTHORITY;

/// What the server has answered for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answered {
    pub(crate) source: String,
    /// Hashes of acknowledged records, by seq.
    pub(crate) hashes: Vec<[u8; 32]>,
    /// Tokens with their ids.
    pub(crate) tokens: Vec<(String, String)>,
    /// Lists of states that were received.
    pub(crate) lists: u64,
}

/// The caller.
pub(crate) struct Witness {
    answered: Arc<Mutex<Answered>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Witness {
    pub(crate) fn start(mesh: &LoadMesh) -> Self {
        // Sidecars draw theirs by chance.
        let source = SourceId([7; 16]);
        let answered = Arc::new(Mutex::new(Answered {
            source: source.to_string(),
            ..Answered::default()
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let credential = mesh.credential(READER).unwrap();
        let client = |credential| {
            let client = mesh.policy_server.client(&mesh.ca, credential).unwrap();
            client.http2().within(Duration::from_secs(30))
        };
        let sidecar = client(credential);
        let workload = credential.workload.spiffe();
        let tasks = vec![
            tokio::spawn(post_records(
                sidecar.clone(),
                workload,
                source,
                answered.clone(),
                stop.clone(),
            )),
            tokio::spawn(ask_tokens(client(&mesh.orchestrator), answered.clone(), stop.clone())),
            tokio::spawn(poll(sidecar, answered.clone(), stop.clone())),
        ];
        Self { answered, stop, tasks }
    }

    pub(crate) fn answered(&self) -> Answered {
        self.answered.lock().unwrap().clone()
    }

    pub(crate) async fn stop(mut self) -> Answered {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await.unwrap();
        }
        self.answered()
    }
}

/// Lets the server breathe between two questions.
async fn breathe() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

async fn post_records(
    client: Client,
    workload: String,
    source: SourceId,
    answered: Arc<Mutex<Answered>>,
    stop: Arc<AtomicBool>,
) {
    let mut chain = Chain::new(source);
    let mut batch = vec![chain.seal(&Record::source(1, &workload, None))];
    while !stop.load(Ordering::Relaxed) {
        let mut body = Vec::new();
        for sealed in &batch {
            body.extend_from_slice(&sealed.line);
            body.push(b'\n');
        }
        let call = Call::new("POST", POLICY_AUTHORITY, "/v1/records").header("ostiary-callout", "1");
        let answer = client
            .send(call.header("content-type", "application/x-ndjson").body(body))
            .await;
        breathe().await;
        let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else {
            continue;
        };
        let last = batch.last().unwrap().seq;
        assert_eq!(answer.json()["accepted_through"], last);
        let mut answered = answered.lock().unwrap();
        answered
            .hashes
            .extend(batch.iter().map(|sealed| *sealed.hash.as_bytes()));
        let records = 1 + usize::try_from(last % 20).unwrap();
        let mut record = Record::new(Kind::Aggregate, 1);
        record.workload = Some(workload.as_str().into());
        batch = (0..records).map(|_| chain.seal(&record)).collect();
    }
}

async fn ask_tokens(client: Client, answered: Arc<Mutex<Answered>>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let call = Call::new("POST", POLICY_AUTHORITY, "/v1/tokens").json(&token_request(WRITER));
        let answer = client.send(call).await;
        breathe().await;
        let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else {
            continue;
        };
        let answer = answer.json();
        let text = |field: &str| answer[field].as_str().unwrap().to_owned();
        answered.lock().unwrap().tokens.push((text("jti"), text("token")));
    }
}

/// Polls as a sidecar does; whatever comes must be newer than what is held.
async fn poll(client: Client, answered: Arc<Mutex<Answered>>, stop: Arc<AtomicBool>) {
    let mut held: BTreeMap<&str, Version> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        let mut path = "/v1/policy?formats=1".to_owned();
        for (stream, version) in &held {
            path.push_str(&format!("&{stream}={}.{}", version.epoch, version.counter));
        }
        let call = Call::new("GET", POLICY_AUTHORITY, &path).header("ostiary-callout", "1");
        let answer = client.send(call).await;
        breathe().await;
        let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else {
            continue;
        };
        let answer = answer.json();
        for stream in ["bundle", "state"] {
            let Some(jws) = answer[stream].as_str() else { continue };
            let claims: Value =
                serde_json::from_slice(&BASE64URL.decode(jws.split('.').nth(1).unwrap()).unwrap()).unwrap();
            let version = Version {
                epoch: claims["epoch"].as_u64().unwrap(),
                counter: claims["version"].as_u64().unwrap(),
            };
            let before = held.insert(stream, version);
            assert!(
                before.is_none_or(|before| before < version),
                "{stream}: {before:?}, then {version:?}"
            );
        }
        answered.lock().unwrap().lists += u64::from(answer["state"].is_string());
    }
}
