//! A policy server in this process, with a clock that the test sets.

#![expect(clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod sidecar;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use authz::audit::{Chain, Kind, Record, SourceId};
use authz::identity::{AgentId, SpiffeId};
use authz::jwks::Jwks;
use authz::log::checkpoint::SignedCheckpoint;
use authz::log::tree::{Frontier, leaf_hash};
use authz::policy::{Bundle, BundleKeys, PolicyError, RawBundle, Version};
use authz::state::transition::{Change, Role};
use authz::state::{RawStateList, StateList};
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use policy_server::agents::{self, Asked};
use policy_server::app::{App, Tasks};
use policy_server::clock::Clock;
use policy_server::config::Config;
use policy_server::routes;
use serde_json::Value;
use tower::ServiceExt;

pub(crate) const SERVER: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";
pub(crate) const ORCHESTRATOR: &str = "spiffe://cluster.local/ns/orchestration/sa/orchestrator";
pub(crate) const SCHEDULER: &str = "spiffe://cluster.local/ns/orchestration/sa/scheduler";
pub(crate) const OPERATOR: &str = "spiffe://cluster.local/ns/people/sa/operator";
pub(crate) const REVIEWER: &str = "spiffe://cluster.local/ns/people/sa/reviewer";
pub(crate) const AUDITOR: &str = "spiffe://cluster.local/ns/people/sa/auditor";
pub(crate) const ANALYST: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";
pub(crate) const MCP: &str = "spiffe://cluster.local/ns/tools/sa/mcp";
pub(crate) const WAREHOUSE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) const ANALYST_FILE: &str = "\
apiVersion: ostiary.dev/v1alpha1
kind: Agent
metadata: { name: analyst-7, namespace: agents }
spec:
  serviceAccount: analyst-7
  tools: [pandas]
  forbiddenTools: [bash]
  scope: [\"read:data.sales\"]
  issuers: [spiffe://cluster.local/ns/orchestration/sa/orchestrator]
  reaches: [warehouse, mcp]
";
pub(crate) const WAREHOUSE_FILE: &str = "\
apiVersion: ostiary.dev/v1alpha1
kind: Service
metadata: { name: warehouse, namespace: data }
spec:
  serviceAccount: warehouse
  hosts: [warehouse.data.svc.cluster.local]
  ports: [8080]
  protocol: http
  routes:
  - { method: GET, path: \"/v1/tables/{table}\", scope: \"read:data.{table}\" }
";
pub(crate) const MCP_FILE: &str = "\
apiVersion: ostiary.dev/v1alpha1
kind: Service
metadata: { name: mcp, namespace: tools }
spec:
  serviceAccount: mcp
  hosts: [mcp.tools.svc.cluster.local]
  ports: [8080]
  protocol: mcp
  tools:
    pandas: {}
    bash: {}
";

/// A folder with a configuration and the policy of the tests.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(place.path("policy")).unwrap();
        place.write_policy("analyst-7.yaml", ANALYST_FILE);
        place.write_policy("warehouse.yaml", WAREHOUSE_FILE);
        place.write_policy("mcp.yaml", MCP_FILE);
        place.configure("");
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("ostiary.yaml")
    }

    /// Writes the configuration with lines added.
    pub(crate) fn configure(&self, more: &str) {
        let text = format!(
            "\
trustDomain: cluster.local
identity: {SERVER}
hosts: [policy-server.ostiary.svc.cluster.local]
listen: {{ unix: ostiary.sock }}
data: data
policy: policy
authentication: {{ mode: sidecar }}
roles:
  {ORCHESTRATOR}: [issuer]
  {SCHEDULER}: [issuer]
  {OPERATOR}: [operator]
  {REVIEWER}: [reviewer]
  {AUDITOR}: [auditor]
{more}"
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn write_policy(&self, name: &str, text: &str) {
        std::fs::write(self.path("policy").join(name), text).unwrap();
    }
}

/// A started server.
pub(crate) struct Server {
    pub(crate) app: Arc<App>,
    pub(crate) router: Router,
    pub(crate) clock: Arc<AtomicU64>,
    tasks: Tasks,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn code(&self) -> String {
        self.json()
            .get("code")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    pub(crate) fn text(&self, field: &str) -> Option<String> {
        self.json().get(field).and_then(Value::as_str).map(ToOwned::to_owned)
    }
}

impl Server {
    pub(crate) async fn start(place: &Place) -> Self {
        Self::start_at(&place.config(), NOW).await
    }

    pub(crate) async fn start_at(config: &Path, now: u64) -> Self {
        let clock = Arc::new(AtomicU64::new(now * 1000));
        let told = Arc::clone(&clock);
        let config = Config::load(config).unwrap();
        let (app, tasks) = App::start(config, Clock::from_millis(move || told.load(Ordering::Relaxed)))
            .await
            .unwrap();
        // The first state list comes from a task.
        let mut changes = app.feed.changes();
        while app.feed.state().is_none() {
            changes.changed().await.unwrap();
        }
        Self {
            router: routes::router(Arc::clone(&app)),
            app,
            clock,
            tasks,
        }
    }

    pub(crate) async fn stop(self) {
        drop((self.router, self.app));
        self.tasks.finish().await;
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.fetch_add(seconds * 1000, Ordering::Relaxed);
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        answer(self.router.clone(), request).await
    }

    pub(crate) async fn token(&self, peer: &str, body: &Value) -> Answer {
        self.send(post("/v1/tokens", peer, "application/json", body.to_string()))
            .await
    }

    /// Changes an agent's state as an operator would.
    pub(crate) async fn change(&self, agent: &AgentId, change: Change) {
        let asked = Asked {
            agent,
            change,
            roles: &[Role::Operator],
            by: "alice",
            reason: "a test",
        };
        agents::change(&self.app, asked).await.unwrap();
    }

    pub(crate) async fn poll(&self, peer: &str, query: &str) -> Answer {
        self.send(poll(peer, query)).await
    }

    pub(crate) async fn records(&self, peer: &str, lines: Vec<u8>) -> Answer {
        self.send(records(peer, lines)).await
    }

    /// Waits until every record so far has been scored, and that is stored.
    pub(crate) async fn scored(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let all = self.app.store().record_count().await.unwrap();
            if self.app.store().scored().await.unwrap().position >= all {
                return;
            }
            assert!(Instant::now() < deadline, "records have not been scored");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn bundle_keys(&self) -> BundleKeys {
        BundleKeys::new(Jwks::new(vec![self.app.keys.in_force().bundle.public().clone()]).unwrap()).unwrap()
    }

    pub(crate) fn verify_bundle(
        &self,
        jws: &str,
        workload: &str,
        held: Option<Version>,
    ) -> Result<Bundle, PolicyError> {
        RawBundle::new(jws).verify(
            &self.bundle_keys(),
            &workload.parse().unwrap(),
            held,
            self.app.clock.seconds(),
        )
    }

    pub(crate) fn verify_state(&self, jws: &str, held: Option<Version>) -> StateList {
        RawStateList::new(jws)
            .verify(&self.bundle_keys(), held, self.app.clock.seconds())
            .unwrap()
    }

    /// What a workload is told at first.
    pub(crate) async fn first(&self, workload: &str) -> (Bundle, StateList) {
        let answer = self.poll(workload, "formats=1").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let bundle = self
            .verify_bundle(&answer.text("bundle").unwrap(), workload, None)
            .unwrap();
        (bundle, self.verify_state(&answer.text("state").unwrap(), None))
    }
}

pub(crate) async fn answer(router: Router, request: Request<Body>) -> Answer {
    let response = router.oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 32 << 20).await.unwrap().to_vec();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    }
}

pub(crate) fn xfcc(peer: &str) -> String {
    format!("By={SERVER};Hash=00;Subject=\"\";URI={peer}")
}

pub(crate) fn post(path: &str, peer: &str, content_type: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header("x-forwarded-client-cert", xfcc(peer))
        .header("content-type", content_type)
        .body(body.into())
        .unwrap()
}

pub(crate) fn poll(peer: &str, query: &str) -> Request<Body> {
    Request::get(format!("/v1/policy?{query}"))
        .header("x-forwarded-client-cert", xfcc(peer))
        .header("ostiary-callout", "1")
        .body(Body::empty())
        .unwrap()
}

pub(crate) fn records(peer: &str, lines: Vec<u8>) -> Request<Body> {
    let mut request = post("/v1/records", peer, "application/x-ndjson", lines);
    request.headers_mut().insert("ostiary-callout", "1".parse().unwrap());
    request
}

/// A sidecar VM's chain of records.
pub(crate) struct Source {
    chain: Chain,
    workload: SpiffeId,
    started: bool,
    count: u64,
}

impl Source {
    pub(crate) fn new(id: u8, workload: &str) -> Self {
        Self {
            chain: Chain::new(SourceId([id; 16])),
            workload: workload.parse().unwrap(),
            started: false,
            count: 1,
        }
    }

    /// The same chain telling something else.
    pub(crate) fn telling(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// The next line, without its line feed.
    pub(crate) fn line(&mut self) -> Vec<u8> {
        let first = !std::mem::replace(&mut self.started, true);
        let record = if first {
            Record::source(NOW * 1000, self.workload.as_str(), None)
        } else {
            Record {
                workload: Some(self.workload.as_str().into()),
                count: Some(self.count),
                ..Record::new(Kind::Aggregate, NOW * 1000)
            }
        };
        self.chain.seal(&record).line
    }

    /// The next `count` lines as a batch.
    pub(crate) fn batch(&mut self, count: usize) -> Vec<u8> {
        let mut body = Vec::new();
        for _ in 0..count {
            body.extend(self.line());
            body.push(b'\n');
        }
        body
    }
}

/// Every stored record is in the tree once, in its order, and every checkpoint that was signed is of that tree.
pub(crate) async fn assert_the_tree_is_whole(app: &App) {
    let store = app.store();
    let mut tree = Frontier::new();
    let mut roots = vec![tree.root()];
    loop {
        let records = store.records_from(tree.size() + 1, 1000).await.unwrap();
        if records.is_empty() {
            break;
        }
        for record in records {
            assert_eq!(record.position, tree.size() + 1);
            tree.push(leaf_hash(&record.canonical));
            roots.push(tree.root());
        }
    }
    let head = store.tree().await.unwrap();
    assert_eq!((head.size, head.root), (tree.size(), tree.root()));
    assert_eq!(head.size, store.record_count().await.unwrap());
    let keys: Vec<_> = app.log.keys().iter().map(|key| key.public().clone()).collect();
    let checkpoints = store.checkpoints(0, 1000).await.unwrap();
    assert!(!checkpoints.is_empty());
    for kept in checkpoints {
        let signed = SignedCheckpoint::verify(&kept.note, &keys).unwrap().checkpoint;
        let size = usize::try_from(signed.size).unwrap();
        assert_eq!(Some(&signed.root), roots.get(size), "the checkpoint of {size}");
    }
}

/// A request of an auditor, or whoever `peer` is.
pub(crate) fn read(path: &str, peer: &str) -> Request<Body> {
    Request::get(path)
        .header("x-forwarded-client-cert", xfcc(peer))
        .body(Body::empty())
        .unwrap()
}
