//! `kill -9` of the policy server at any moment: nothing that it answered for is lost, and the mesh recovers by itself.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use authz::audit::{Chain, Kind, Record, SourceId};
use authz::log::tile;
use authz::log::tree::{Frontier, leaf_hash};
use authz::policy::Version;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Value, json};
use sqlx::Row as _;
use tests::client::{Answer, Call, Client};
use tests::load::ledger::{self, Ledger};
use tests::load::mesh::{ANALYST, LoadMesh, READER, TABLE, WRITER, token_request};
use tests::load::mix::{self, Budget};
use tests::sidecar::POLICY_AUTHORITY;
use tests::wait;

const KILLS: usize = 24;
/// Every fourth time the server is killed once more while it starts.
const KILL_STARTING_EVERY: usize = 4;

/// The longest time between a start and the kill, in milliseconds.
const LONGEST_LIFE_MS: u64 = 900;

const MAX_AGE: Duration = Duration::from_secs(20);
const RENEW: Duration = Duration::from_secs(2);

/// Answers in a row, each on a fresh connection, that show that every worker answers so.
const ALL_WORKERS: usize = 24;

const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_policy_server_loses_nothing_and_the_mesh_recovers_by_itself() {
    let config = json!({
        "token": {"maxTtlSeconds": 3600},
        "state": {"maxAgeSeconds": MAX_AGE.as_secs(), "renewSeconds": RENEW.as_secs()},
    });
    let mut mesh = LoadMesh::start("recovery-kill", config).await.unwrap();
    let (keys, published) = (keys(&mesh), published(&mesh).await);

    let calls = Budget::endless(0);
    let agents = [(ANALYST, READER), (READER, ANALYST)];
    let lines = mix::ordinary_lines(&mesh, &agents, Duration::from_millis(25))
        .await
        .unwrap();
    let traffic = tokio::spawn({
        let calls = calls.clone();
        async move { mix::drive(&lines, &calls).await }
    });
    let witness = Witness::start(&mesh);
    let longest_outage = kill_again_and_again(&mut mesh, &witness, &published).await;

    let answered = witness.stop().await;
    calls.stop();
    let outcome = traffic.await.unwrap();
    let outcome = outcome.unwrap_or_else(|error| panic!("after outages of at most {longest_outage:?}: {error:#}"));
    println!(
        "{KILLS} kills under {} calls: {} records acknowledged to the witness, {} tokens, {} lists of states; longest outage {longest_outage:?}",
        outcome.calls(),
        answered.hashes.len(),
        answered.tokens.len(),
        answered.lists,
    );
    assert_eq!(keys, self::keys(&mesh), "the keys are the same");

    mesh.at_rest().await.unwrap();
    check_stored(&mesh, &answered).await;
    check_tree(&mesh).await;
    let ledger = Ledger::read(&mesh.database()).await.unwrap();
    ledger.print(mesh.database_bytes());
    assert_eq!(
        ledger.restarts, 0,
        "no chain was refused: nothing acknowledged was missing"
    );
    ledger.check_closed().unwrap();
    ledger.check_traces(&outcome, outcome.no_room > 0).unwrap();
    let spiffe = |agent: &str| Ok(mesh.credential(agent)?.workload.spiffe());
    ledger.check_denials(&outcome, spiffe).unwrap();

    let (first, last) = (answered.tokens.first().unwrap(), answered.tokens.last().unwrap());
    let denied = denials_without_policy(&mesh, &ledger);
    stale_state_denies_and_heals(&mut mesh, &first.1, &last.1, denied).await;
    mesh.forget().unwrap();
}

/// Kills the server at random moments and starts it again; answers how long it was away at most.
async fn kill_again_and_again(mesh: &mut LoadMesh, witness: &Witness, published: &Value) -> Duration {
    let mut moments = Moments::new();
    let mut longest = Duration::ZERO;
    for round in 0..KILLS {
        tokio::time::sleep(moments.next()).await;
        let start = Instant::now();
        mesh.policy_server.kill_server();
        let answered = witness.answered();
        if round % KILL_STARTING_EVERY == 0 {
            // A start that is given up is a process that is killed.
            let _ = tokio::time::timeout(moments.next() / 3, mesh.policy_server.start_server()).await;
            mesh.policy_server.kill_server();
        }
        mesh.policy_server.start_server().await.unwrap();
        longest = longest.max(start.elapsed());
        check_stored(mesh, &answered).await;
        assert_eq!(
            *published,
            self::published(mesh).await,
            "the published keys are the same"
        );
        for (_, token) in answered.tokens.first().into_iter().chain(answered.tokens.last()) {
            let answer = read_table(&client(mesh), mesh, token).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    longest
}

/// Sidecars go on while their state list is fresh, then deny, and take calls again when the server is back.
async fn stale_state_denies_and_heals(mesh: &mut LoadMesh, first: &str, last: &str, denied_before: u64) {
    mesh.policy_server.kill_server();
    let killed = Instant::now();
    let (mut permitted, mut denied, mut in_a_row, mut first_denial) = (0_u64, 0_u64, 0, None);
    let client = client(mesh);
    wait::until("every worker to deny", MAX_AGE + PATIENCE, async || {
        let answer = read_table(&client, mesh, last).await.unwrap();
        match (answer.status, answer.denial()) {
            (200, _) => (permitted, in_a_row) = (permitted + 1, 0),
            (503, Some("policy_unavailable")) => {
                (denied, in_a_row) = (denied + 1, in_a_row + 1);
                assert!(answer.header("retry-after").is_some());
                first_denial.get_or_insert_with(|| killed.elapsed());
            }
            _ => panic!("{answer:?}"),
        }
        (in_a_row >= ALL_WORKERS).then_some(())
    })
    .await
    .unwrap();
    let first_denial = first_denial.unwrap();
    println!("  without a policy server {permitted} calls went on, and the first was denied after {first_denial:?}");
    assert!(first_denial > MAX_AGE / 2, "sidecars go on while their list is fresh");
    assert!(permitted > 0);

    mesh.policy_server.start_server().await.unwrap();
    let mut in_a_row = 0;
    wait::until("every worker to permit", PATIENCE, async || {
        let answer = read_table(&client, mesh, first).await.unwrap();
        match (answer.status, answer.denial()) {
            (200, _) => in_a_row += 1,
            (503, Some("policy_unavailable")) => (denied, in_a_row) = (denied + 1, 0),
            _ => panic!("{answer:?}"),
        }
        (in_a_row >= ALL_WORKERS).then_some(())
    })
    .await
    .unwrap();

    mesh.at_rest().await.unwrap();
    let ledger = Ledger::read(&mesh.database()).await.unwrap();
    assert_eq!(ledger.restarts, 0, "no chain was refused");
    let stored = denials_without_policy(mesh, &ledger) - denied_before;
    assert_eq!(stored, denied, "every denial was counted");
    // The sidecars that were not called meanwhile recover as well.
    mesh.settled().await.unwrap();
}

/// The denials of the peer that calls the warehouse alone.
fn denials_without_policy(mesh: &LoadMesh, ledger: &Ledger) -> u64 {
    let peer = mesh.credential(WRITER).unwrap().workload.spiffe();
    ledger.inbound_denials(&peer, "policy_unavailable")
}

/// A client of the warehouse whose peer makes no other calls.
fn client(mesh: &LoadMesh) -> Client {
    mesh.client(&mesh.warehouse, WRITER).unwrap()
}

async fn read_table(client: &Client, mesh: &LoadMesh, token: &str) -> anyhow::Result<Answer> {
    let call = Call::new("GET", &mesh.warehouse.authority, &format!("/v1/tables/{TABLE}"));
    client.send(call.bearer(token)).await
}

fn keys(mesh: &LoadMesh) -> Value {
    let mut command = Command::new(tests::built::ostiary().unwrap());
    command
        .args(["keys", "show", "--output", "json", "--config"])
        .arg(mesh.policy_server.config());
    let mut shown: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    // Who has polled lately is another question.
    shown.as_object_mut().unwrap().remove("sources");
    shown
}

async fn published(mesh: &LoadMesh) -> Value {
    let call = Call::new("GET", POLICY_AUTHORITY, "/.well-known/jwks.json");
    let answer = mesh.policy_server.direct().send(call).await.unwrap();
    assert_eq!(answer.status, 200);
    answer.json()
}

/// What was answered to somebody is stored: every acknowledged record under its hash, every token.
async fn check_stored(mesh: &LoadMesh, answered: &Answered) {
    let mut database = ledger::open(&mesh.database()).await.unwrap();
    let rows = sqlx::query("SELECT hash FROM records WHERE source = ? ORDER BY seq").bind(&answered.source);
    let rows = rows.fetch_all(&mut database).await.unwrap();
    assert!(
        rows.len() >= answered.hashes.len(),
        "records that were acknowledged are lost"
    );
    for (row, hash) in rows.iter().zip(&answered.hashes) {
        assert_eq!(row.get::<&[u8], _>(0), hash);
    }
    let rows = sqlx::query("SELECT jti FROM issued")
        .fetch_all(&mut database)
        .await
        .unwrap();
    let issued: std::collections::BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    for (jti, _) in &answered.tokens {
        assert!(issued.contains(jti), "token {jti} was answered, but is lost");
    }
}

/// Every record is a leaf of the tree, once and in its order, and every checkpoint signs a tree that this one continues.
async fn check_tree(mesh: &LoadMesh) {
    let mut database = ledger::open(&mesh.database()).await.unwrap();
    // One snapshot: records may still come.
    sqlx::query("BEGIN").execute(&mut database).await.unwrap();
    let rows = sqlx::query("SELECT record FROM records ORDER BY position");
    let rows = rows.fetch_all(&mut database).await.unwrap();
    let leaves: Vec<_> = rows.iter().map(|row| leaf_hash(row.get(0))).collect();
    let mut tree = Frontier::new();
    let mut roots = vec![tree.root()];
    for leaf in &leaves {
        tree.push(*leaf);
        roots.push(tree.root());
    }
    let tiles = sqlx::query("SELECT hashes FROM tiles WHERE level = 0 ORDER BY tile");
    let tiles = tiles.fetch_all(&mut database).await.unwrap();
    let in_tree: Vec<_> = tiles.iter().flat_map(|row| tile::hashes(row.get(0))).collect();
    assert!(in_tree == leaves, "the tree is not of the records");
    let signed = sqlx::query("SELECT size, root FROM checkpoints ORDER BY size");
    let signed = signed.fetch_all(&mut database).await.unwrap();
    assert!(!signed.is_empty());
    for row in signed {
        let size = usize::try_from(row.get::<i64, _>(0)).unwrap();
        assert_eq!(
            roots[size].as_bytes().as_slice(),
            row.get::<&[u8], _>(1),
            "the checkpoint of {size}"
        );
    }
}

/// Random moments, another sequence in each run; the seed is printed.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.unwrap().subsec_nanos().into();
        println!("moments from seed {seed}");
        Self(seed)
    }

    fn next(&mut self) -> Duration {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.0 >> 33) % (LONGEST_LIFE_MS + 1))
    }
}

/// What the server has answered for.
#[derive(Debug, Clone, Default)]
struct Answered {
    source: String,
    /// Hashes of acknowledged records, by seq.
    hashes: Vec<[u8; 32]>,
    /// Tokens with their ids.
    tokens: Vec<(String, String)>,
    /// Lists of states that were received.
    lists: u64,
}

/// A caller that does all the time what sidecars and orchestrators do, and remembers what it was answered.
struct Witness {
    answered: Arc<Mutex<Answered>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Witness {
    fn start(mesh: &LoadMesh) -> Self {
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

    fn answered(&self) -> Answered {
        self.answered.lock().unwrap().clone()
    }

    async fn stop(mut self) -> Answered {
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
