//! What Envoy and the proxy-wasm SDK do to a filter that is not careful, each trap with the proof that ours is not caught.
//!
//! One sidecar stands before an application that notes all that reaches it; the tests are its caller, over mTLS.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tests::backends::Backend;
use tests::client::{Answer, Call, Client};
use tests::envoy::Envoy;
use tests::feed::{self, Feed};
use tests::loopback::Loopback;
use tests::pki::{Ca, Workload};
use tests::run::RunDirectory;
use tests::sidecar::{FailurePolicy, Inbound, Plugin, Sidecar};
use tests::signing::TestKey;
use tests::trapdoor::{self, Trap};
use tests::wait;

mod answers;
mod bodies;
mod callouts;
mod forms;

const HOST: &str = "mcp.tools.svc.cluster.local";
const POLICY_SERVER: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";
const WORKERS: u32 = 2;

/// Long enough for a busy machine; everything is waited for, nothing is slept.
const SOON: Duration = Duration::from_secs(30);

/// A sidecar with the filter, an MCP application behind it, and a policy feed.
struct Stand {
    _run: RunDirectory,
    feed: Feed,
    application: Backend,
    agent: Workload,
    service: Workload,
    client: Client,
    envoy: Envoy,
    _net: Loopback,
}

impl Stand {
    /// One with policy, its plugin and sidecar changed by `plugin` and `sidecar`.
    async fn start(plugin: impl FnOnce(Plugin) -> Plugin, sidecar: impl FnOnce(&mut Sidecar)) -> Self {
        let stand = Self::start_without_policy(plugin, sidecar, |config| config).await;
        stand.give_policy();
        stand.serving().await;
        stand
    }

    async fn start_without_policy(
        plugin: impl FnOnce(Plugin) -> Plugin,
        change: impl FnOnce(&mut Sidecar),
        config: impl FnOnce(Value) -> Value,
    ) -> Self {
        let run = RunDirectory::create("traps").unwrap();
        let net = Loopback::claim().unwrap();
        let ca = Ca::create(&run.file("pki")).unwrap();
        let (agent, service) = (Workload::new("agents", "analyst-7"), Workload::new("tools", "mcp"));
        let application = Backend::echo("mcp", &run).unwrap();
        let feed = Feed::start(net.socket(1, 0)).await.unwrap();
        let address = net.socket(21, 8080);
        let mut sidecar = Sidecar::new(&ca.issue(&service, &[HOST]).unwrap(), &ca, net.socket(21, 15_000))
            .with_filter(plugin(Plugin::built(&feed.key().jwks()).unwrap()), feed.upstream())
            .with_inbound(Inbound::new(address, application.socket()));
        sidecar.concurrency = WORKERS;
        change(&mut sidecar);
        let config = config(sidecar.config(&run));
        let envoy = Envoy::spawn(&sidecar.name, &config, sidecar.admin, sidecar.concurrency, &run).unwrap();
        envoy.ready().await.unwrap();
        let credential = ca.issue(&agent, &[]).unwrap();
        let client = Client::tls(address, HOST, &ca, Some(&credential)).unwrap();
        Self {
            _run: run,
            feed,
            application,
            agent,
            service,
            client,
            envoy,
            _net: net,
        }
    }

    fn give_policy(&self) {
        let (agent, service) = (self.agent.spiffe(), self.service.spiffe());
        self.feed.set_state(&feed::state_claims(1, &json!({})));
        self.feed.set_bundle(&feed::bundle_claims(
            &service,
            1,
            &json!({
                "issuers": [{"iss": POLICY_SERVER, "jwks": issuer().jwks()}],
                "services": [{
                    "id": "tools/mcp", "identity": service, "hosts": [HOST], "ports": [8080],
                    "protocol": "mcp", "path": "/mcp", "tools": {"pandas": {}, "bash": {}},
                    "token_header": "authorization", "forward_token": false, "forward_claims": false,
                    "body_limit_bytes": 1 << 20,
                }],
                "agents": [{
                    "id": "analyst-7", "identity": agent, "tools": ["pandas"], "forbidden_tools": ["bash"],
                    "scope": [], "may_call": [], "reaches": ["tools/mcp"],
                }],
            }),
        ));
    }

    /// Waits until every worker lets calls pass.
    async fn serving(&self) {
        self.feed.adopted("1.1", WORKERS as usize + 1).await.unwrap();
    }

    fn token(&self) -> String {
        let now = wait::unix_now();
        issuer().sign(
            "cap+jwt",
            &json!({
                "iss": POLICY_SERVER, "sub": self.agent.spiffe(), "aud": [self.service.spiffe()],
                "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
                "iat": now, "nbf": now, "exp": now + 300, "jti": format!("jti-{now}"), "agent_id": "analyst-7",
                "operation_id": "report-2026-q1", "scope": [], "tools": ["pandas"], "forbidden_tools": ["bash"],
            }),
        )
    }

    /// A call of a tool; `padding` makes its body longer.
    fn tool(&self, name: &str, padding: usize) -> Call {
        Call::new("POST", &format!("{HOST}:8080"), "/mcp")
            .bearer(&self.token())
            .json(&tool_body(name, padding))
    }

    /// A call of HTTP/1.1 whose body never comes to its end.
    fn half_a_call(&self) -> Vec<u8> {
        let head = [
            "POST /mcp HTTP/1.1",
            &format!("host: {HOST}:8080"),
            "content-type: application/json",
            &format!("authorization: Bearer {}", self.token()),
            "connection: close",
            "content-length: 100",
        ];
        format!("{}\r\n\r\n{{", head.join("\r\n")).into_bytes()
    }

    async fn send(&self, call: Call) -> Answer {
        self.client.clone().http2().send(call).await.unwrap()
    }

    /// No VM has died: the filter still works, and Envoy never had to make a new VM.
    async fn unharmed(&self) {
        let answer = self.send(self.tool("pandas", 0)).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        assert_eq!(reloads(&self.envoy).await, 0);
    }

    /// The records of calls (not the ones that a stand makes itself), once there are as many as `count`.
    async fn records(&self, count: usize) -> Vec<Value> {
        wait::until("the records", SOON, async || {
            let records: Vec<Value> = self
                .feed
                .records()
                .into_iter()
                .filter(|record| record["kind"] != "source")
                .collect();
            (records.len() >= count).then_some(records)
        })
        .await
        .unwrap()
    }
}

fn tool_body(name: &str, padding: usize) -> Value {
    json!({
        "jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": name, "arguments": {"text": "x".repeat(padding)}},
    })
}

fn issuer() -> TestKey {
    TestKey::named("issuer-1")
}

async fn reloads(envoy: &Envoy) -> u64 {
    envoy.stats("vm_reload").await.unwrap().values().sum()
}

fn as_it_is(plugin: Plugin) -> Plugin {
    plugin
}

/// Trap 1: Envoy lets requests pass unfiltered where a worker's VM refuses what the canary VM took. Ours refuses nothing.
#[tokio::test]
async fn a_bad_configuration_denies_on_every_worker() {
    let no_keys = json!({"keys": []});
    let bad: [fn(Plugin, &Value) -> Plugin; 3] = [
        |plugin, _| plugin.configure("no_such_field", json!(1)),
        |plugin, no_keys| plugin.configure("bundle_keys", no_keys.clone()),
        |mut plugin, _| {
            plugin.configuration = json!("not even an object");
            plugin
        },
    ];
    for spoil in bad {
        let stand = Stand::start_without_policy(|plugin| spoil(plugin, &no_keys), |_| {}, |config| config).await;
        stand.give_policy();
        for _ in 0..20 {
            // A connection each, so that every worker gets some.
            let answer = stand.send(stand.tool("pandas", 0)).await;
            assert_eq!((answer.status, answer.denial()), (503, Some("policy_unavailable")));
        }
        assert_eq!(stand.application.seen().len(), 0);
        // Meters are written with the next tick.
        wait::until("the meter", SOON, async || {
            let rejected = stand.envoy.stat("wasmcustom.ostiary_config_rejected").await.ok()?;
            (rejected == 1).then_some(())
        })
        .await
        .unwrap();
        assert_eq!(stand.feed.polls().len(), 0, "nobody to ask by such a configuration");
        assert_eq!(reloads(&stand.envoy).await, 0);
    }
}

/// Trap 4: getters of one header give the first of duplicates, and those of strings panic on other bytes than UTF-8.
#[tokio::test]
async fn duplicate_headers_and_odd_bytes_are_refused_not_misread() {
    let stand = Stand::start(as_it_is, |_| {}).await;
    let forged = stand.tool("pandas", 0).bearer("e30.e30.e30");
    assert_eq!(stand.send(forged).await.denial(), Some("header_duplicate"));
    for name in ["mcp-method", "mcp-name", "mcp-protocol-version"] {
        let twice = stand
            .tool("pandas", 0)
            .header(name, "tools/call")
            .header(name, "tools/list");
        assert_eq!(stand.send(twice).await.denial(), Some("header_duplicate"), "{name}");
    }
    // Envoy itself joins this one by a comma.
    let twice = stand.tool("pandas", 0).header("content-type", "application/json");
    assert_eq!(stand.send(twice).await.denial(), Some("media_type_refused"));
    for name in ["mcp-name", "traceparent", "content-type", "authorization"] {
        let mut odd = stand.tool("pandas", 0);
        odd.headers.retain(|(other, _)| other != name);
        let answer = stand.send(odd.header(name, b"Bearer \xff\xfe\x80")).await;
        if name != "traceparent" {
            assert!(answer.denial().is_some(), "{name}");
        }
    }
    let path = stand
        .send(Call {
            path: "/mcp/%FF".to_owned(),
            ..stand.tool("pandas", 0)
        })
        .await;
    assert!(path.denial().is_some());
    assert_eq!(
        stand
            .send(stand.tool("pandas", 0).header("x-note", b"caf\xe9 \xff"))
            .await
            .status,
        200
    );
    assert_eq!(
        stand.application.seen().len(),
        2,
        "the ones with an odd `traceparent` and `x-note`"
    );
    stand.unharmed().await;
}

/// Trap 5: Istio sets no `vm_id`, so any other plugin of the proxy can write what is shared by it. Ours shares nothing but a
/// queue of its own VM, whose items wake the root context and say nothing: who empties it makes it wake by its next tick.
///
/// The SDK imports the calls whether they are used or not, so it is the source that must not name them.
#[test]
fn the_filter_never_names_shared_data() {
    let mut folders = vec![tests::built::workspace().join("filter/src")];
    let (mut files, mut told) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            assert!(!source.contains("shared_data"), "{}", path.display());
            let queued = source.lines().filter(|line| line.contains("shared_queue"));
            told.extend(queued.map(|line| line.trim().to_owned()));
            files += 1;
        }
    }
    assert!(files > 10);
    told.sort();
    assert_eq!(
        told,
        [
            "hostcalls::register_shared_queue(&name).ok()",
            "let _ = hostcalls::enqueue_shared_queue(bell, Some(b\"1\"));",
            "while let Ok(Some(_)) = hostcalls::dequeue_shared_queue(queue) {}",
        ],
        "no item of a queue is read"
    );
}

/// Trap 6: a panic answers 503 and writes no log; what matters is that nothing passes, on any worker, ever after.
#[tokio::test]
async fn a_panic_lets_nothing_pass() {
    let module = std::fs::read(tests::built::filter().unwrap()).unwrap();
    let size = tool_body("pandas", 0).to_string().len();
    for failure_policy in [FailurePolicy::Reload, FailurePolicy::Closed] {
        for trap in [Trap::RequestHeaders(1), Trap::RequestBody(size.try_into().unwrap())] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), trapdoor::sew(&module, trap).unwrap()).unwrap();
            let broken = |mut plugin: Plugin| {
                plugin.wasm = file.path().to_owned();
                plugin.failure_policy = failure_policy;
                plugin
            };
            let stand = Stand::start(broken, |_| {}).await;
            let first = stand.send(stand.tool("pandas", 0)).await;
            assert_eq!((first.status, first.denial()), (503, None), "Envoy's answer, not ours");
            for _ in 0..20 {
                assert_eq!(stand.send(stand.tool("pandas", 0)).await.status, 503);
            }
            assert_eq!(stand.application.seen().len(), 0, "{trap:?}");
        }
    }
}

/// Trap 7: response callbacks come for our own denials and for Envoy's answers too.
#[tokio::test]
async fn a_denial_is_one_record_and_keeps_its_body() {
    let stand = Stand::start(as_it_is, |_| {}).await;
    let refused = stand.send(stand.tool("bash", 0)).await;
    assert_eq!(refused.code().as_deref(), Some("tool_forbidden"));
    assert_eq!(refused.json()["error"]["code"], -31403);
    assert_eq!(stand.send(stand.tool("pandas", 0)).await.status, 200);
    let records = stand.records(3).await;
    let kinds: Vec<_> = records
        .iter()
        .map(|record| (record["kind"].as_str(), record["code"].as_str()))
        .collect();
    // Each worker has a chain of its own, so their order says nothing.
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == (Some("decision"), Some("tool_forbidden")))
            .count(),
        1
    );
    assert_eq!(
        kinds.iter().filter(|kind| **kind == (Some("decision"), None)).count(),
        1
    );
    assert_eq!(
        kinds.iter().filter(|kind| **kind == (Some("completion"), None)).count(),
        1
    );
    let completion = records.iter().find(|record| record["kind"] == "completion").unwrap();
    assert_eq!(
        (&completion["status"], &completion["end"]),
        (&json!(200), &json!("complete"))
    );
    wait::until("the access log", SOON, async || {
        (stand.envoy.records().len() >= 2).then_some(())
    })
    .await
    .unwrap();
    let logged: BTreeSet<_> = stand
        .envoy
        .records()
        .iter()
        .map(|record| record["verdict"].to_string())
        .collect();
    assert_eq!(logged, BTreeSet::from(["\"deny\"".to_owned(), "\"permit\"".to_owned()]));
}
