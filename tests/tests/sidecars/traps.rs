//! What Envoy and the proxy-wasm SDK do to a filter that is not careful, each trap with the proof that ours is not caught.
//!
//! One sidecar stands before an application that notes all that reaches it; the tests are its caller, over mTLS.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use tests::backends::Backend;
use tests::client::{Answer, Call, Client};
use tests::envoy::Envoy;
use tests::feed::{self, Behaviour, Feed};
use tests::loopback::Loopback;
use tests::pki::{Ca, Workload};
use tests::run::RunDirectory;
use tests::sidecar::{FailurePolicy, Inbound, Plugin, Sidecar};
use tests::signing::TestKey;
use tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

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
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": name, "arguments": {"text": "x".repeat(padding)}},
        });
        Call::new("POST", &format!("{HOST}:8080"), "/mcp")
            .bearer(&self.token())
            .json(&body)
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

fn issuer() -> TestKey {
    TestKey::named("issuer-1")
}

async fn reloads(envoy: &Envoy) -> u64 {
    envoy.stats("vm_reload").await.unwrap().values().sum()
}

fn as_it_is(plugin: Plugin) -> Plugin {
    plugin
}

/// The body of a call in pieces of a few bytes.
fn in_pieces(call: Call) -> Call {
    let whole = call.chunks.concat();
    call.chunks(whole.chunks(17).map(<[u8]>::to_vec).collect())
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
        assert_eq!(stand.envoy.stat("wasmcustom.ostiary_config_rejected").await.unwrap(), 1);
        assert_eq!(stand.feed.polls().len(), 0, "nobody to ask by such a configuration");
        assert_eq!(reloads(&stand.envoy).await, 0);
    }
}

/// Trap 2: with trailers no body callback ever says that the stream has ended.
#[tokio::test]
async fn a_body_that_ends_with_trailers_is_decided_on() {
    for flag in [true, false] {
        let stand = Stand::start(|plugin| plugin.headers_stop_iteration(flag), |_| {}).await;
        for pieces in [false, true] {
            let shape = |call: Call| if pieces { in_pieces(call) } else { call }.trailer("x-end", "1");
            let refused = stand
                .send(shape(stand.tool("bash", 100)).header("x-case", "refused"))
                .await;
            assert_eq!((refused.status, refused.denial()), (403, Some("tool_forbidden")));
            let passed = stand
                .send(shape(stand.tool("pandas", 100)).header("x-case", "passed"))
                .await;
            assert_eq!(passed.status, 200);
        }
        assert_eq!(stand.application.seen_with("x-case", "passed").len(), 2);
        assert!(
            stand
                .application
                .seen_with("x-case", "refused")
                .iter()
                .all(|seen| seen.body.is_empty())
        );
        stand.unharmed().await;
    }
}

/// Trap 3, flag on: nothing of a request reaches the application before the verdict on its body.
#[tokio::test]
async fn with_the_flag_a_refused_request_never_reaches_the_application() {
    let stand = Stand::start(as_it_is, |_| {}).await;
    for size in [0, 100, 200_000] {
        let refused = stand.send(in_pieces(stand.tool("bash", size))).await;
        assert_eq!((refused.status, refused.denial()), (403, Some("tool_forbidden")));
    }
    assert_eq!(stand.application.seen().len(), 0);
    for size in [0, 100, 200_000] {
        let call = in_pieces(stand.tool("pandas", size));
        let sent = call.chunks.concat();
        assert_eq!(stand.send(call).await.status, 200);
        assert_eq!(stand.application.seen().last().unwrap().body, sent);
    }
    stand.unharmed().await;
}

/// Trap 3, flag off: the application may see the headers, but not a byte of the body, and the token not even then.
#[tokio::test]
async fn without_the_flag_only_headers_precede_the_verdict() {
    let stand = Stand::start(|plugin| plugin.headers_stop_iteration(false), |_| {}).await;
    for size in [0, 100, 200_000] {
        let refused = stand.send(in_pieces(stand.tool("bash", size))).await;
        assert_eq!((refused.status, refused.denial()), (403, Some("tool_forbidden")));
        let call = in_pieces(stand.tool("pandas", size));
        let sent = call.chunks.concat();
        assert_eq!(stand.send(call).await.status, 200);
        assert_eq!(stand.application.seen().last().unwrap().body, sent);
    }
    for seen in stand.application.seen() {
        assert_eq!(seen.header("authorization"), None);
        assert!(seen.complete || seen.body.is_empty());
    }
    // What headers alone can refuse, they refuse at once.
    let before = stand.application.seen().len();
    let mut stranger = stand.tool("pandas", 0);
    stranger.headers.retain(|(name, _)| name != "authorization");
    assert_eq!(stand.send(stranger).await.denial(), Some("token_missing"));
    assert_eq!(stand.application.seen().len(), before);
    stand.unharmed().await;
}

/// Trap 3, flag off: an application that answers the headers alone must not get its answer past a missing verdict.
#[tokio::test]
async fn an_answer_before_the_verdict_is_withheld() {
    let early = tempfile::tempdir().unwrap();
    let socket = early.path().join("early");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let hasty = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut first = [0; 1];
                stream.read_exact(&mut first).await?;
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret")
                    .await?;
                stream.read_to_end(&mut Vec::new()).await
            });
        }
    });
    let before_hasty = |sidecar: &mut Sidecar| sidecar.inbound.as_mut().unwrap().application = socket;
    let stand = Stand::start(|plugin| plugin.headers_stop_iteration(false), before_hasty).await;
    let answer = stand.client.raw(&stand.half_a_call(), SOON).await.unwrap();
    let text = String::from_utf8_lossy(&answer);
    assert_eq!(tests::client::raw_status(&answer).unwrap(), 500, "{text}");
    assert!(
        text.contains("ostiary-denial: internal_error") && !text.contains("secret"),
        "{text}"
    );
    assert_eq!(reloads(&stand.envoy).await, 0);
    hasty.abort();
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

/// Trap 5: Istio sets no `vm_id`, so any other plugin of the proxy can write what is shared by it. Ours shares nothing.
///
/// The SDK imports the calls whether they are used or not, so it is the source that must not name them.
#[test]
fn the_filter_never_names_shared_data() {
    let mut folders = vec![tests::built::workspace().join("filter/src")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            for name in ["shared_data", "shared_queue"] {
                assert!(!source.contains(name), "{name} in {}", path.display());
            }
            files += 1;
        }
    }
    assert!(files > 10);
}

/// Trap 6: a panic answers 503 and writes no log; what matters is that nothing passes, on any worker, ever after.
#[tokio::test]
async fn a_panic_lets_nothing_pass() {
    for failure_policy in [FailurePolicy::Reload, FailurePolicy::Closed] {
        for callback in ["proxy_on_request_headers", "proxy_on_request_body"] {
            let broken = |mut plugin: Plugin| {
                let name = format!("{callback}-{failure_policy:?}.wasm");
                plugin.wasm = panicking::filter(callback, &name);
                plugin.failure_policy = failure_policy;
                plugin
            };
            let stand = Stand::start(broken, |_| {}).await;
            let first = stand.send(stand.tool("pandas", 0)).await;
            assert_eq!((first.status, first.denial()), (503, None), "Envoy's answer, not ours");
            for _ in 0..20 {
                assert_eq!(stand.send(stand.tool("pandas", 0)).await.status, 503);
            }
            assert_eq!(stand.application.seen().len(), 0, "{callback}");
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

/// Trap 8: every thread ticks, so every VM polls.
#[tokio::test]
async fn every_vm_polls_once_at_a_time_and_says_what_it_has() {
    let stand = Stand::start(as_it_is, |_| {}).await;
    let polls = stand.feed.polls();
    let holding = polls
        .iter()
        .filter(|poll| poll.bundle.as_deref() == Some("1.1"))
        .count();
    assert_eq!(holding, WORKERS as usize + 1, "one held poll a VM");
    assert!(
        stand
            .feed
            .callouts()
            .iter()
            .all(|headers| headers.get("ostiary-callout").is_some())
    );
    stand.unharmed().await;
}

/// Trap 8: callouts to a cluster that is absent or empty fail at once, without a callback.
#[tokio::test]
async fn without_a_policy_cluster_or_endpoint_all_is_denied_and_nothing_dies() {
    let absent = |plugin: Plugin| plugin.configure("policy_cluster", json!("no-such-cluster"));
    let stand = Stand::start_without_policy(absent, |_| {}, |config| config).await;
    deny_for_want_of_policy(&stand).await;
    let empty = |mut config: Value| {
        for cluster in config["static_resources"]["clusters"].as_array_mut().unwrap() {
            if cluster["name"] == tests::sidecar::POLICY_CLUSTER {
                cluster["load_assignment"]["endpoints"] = json!([]);
            }
        }
        config
    };
    let stand = Stand::start_without_policy(as_it_is, |_| {}, empty).await;
    deny_for_want_of_policy(&stand).await;
}

async fn deny_for_want_of_policy(stand: &Stand) {
    // Denials are counted at ticks: seeing them counted is seeing that ticks still work.
    wait::until("counted denials", SOON, async || {
        let answer = stand.send(stand.tool("pandas", 0)).await;
        assert_eq!((answer.status, answer.denial()), (503, Some("policy_unavailable")));
        let name = "wasmcustom.ostiary_decisions.side.inbound.verdict.deny.code.policy_unavailable";
        (stand.envoy.stat(name).await.unwrap() >= 10).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(stand.application.seen().len(), 0);
    assert_eq!(reloads(&stand.envoy).await, 0);
}

/// Trap 8: a callout that times out calls back without headers; its late answer belongs to nobody.
#[tokio::test]
async fn slow_and_broken_answers_are_survived() {
    let short = |plugin: Plugin| plugin.configure("poll_timeout_seconds", json!(1));
    let stand = Stand::start_without_policy(short, |_| {}, |config| config).await;
    stand.give_policy();
    for behaviour in [
        Behaviour::Slow(Duration::from_secs(3)),
        Behaviour::Rubbish(200, b"{\"bundle\": \"e30.e30.e30\"}".to_vec()),
        Behaviour::Rubbish(200, b"\xff\xfe{".to_vec()),
        Behaviour::Rubbish(500, Vec::new()),
    ] {
        let seen = stand.feed.polls().len();
        stand.feed.behave(behaviour);
        wait::until("polls", SOON, async || {
            (stand.feed.polls().len() > seen + 6).then_some(())
        })
        .await
        .unwrap();
    }
    stand.feed.behave(Behaviour::Proper);
    stand.serving().await;
    stand.unharmed().await;
}

/// Trap 9: a root context has no stream to set a property of. Ours publishes records from streams alone, also of those
/// that break off.
#[tokio::test]
async fn broken_streams_are_recorded_and_harm_nothing() {
    let stand = Stand::start(as_it_is, |_| {}).await;
    for _ in 0..10 {
        let mut connection = stand.client.connect().await.unwrap();
        // The response is dropped with the connection, its body unread.
        drop(connection.begin(stand.tool("pandas", 200_000)).await.unwrap());
        let mut stream = stand.client.open().await.unwrap();
        stream.write_all(&stand.half_a_call()).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
    }
    let aborted = wait::until("records of what broke off", SOON, async || {
        let records = stand.feed.records();
        let of = |end: &str| records.iter().filter(|record| record["end"] == end).count();
        (of("aborted") >= 10 && of("complete") + of("broken") >= 10).then_some(records)
    })
    .await
    .unwrap();
    assert!(
        aborted
            .iter()
            .filter(|record| record["end"] == "aborted")
            .all(|record| record["kind"] == "completion")
    );
    stand.unharmed().await;
}

/// Trap 10: Envoy answers 413 itself where a held body outgrows its buffer.
#[tokio::test]
async fn envoys_own_413_is_a_refusal_too() {
    for flag in [true, false] {
        let small = |sidecar: &mut Sidecar| sidecar.buffer_limit_bytes = 64 << 10;
        let stand = Stand::start(|plugin| plugin.headers_stop_iteration(flag), small).await;
        // Over HTTP/2 it is the stream's window that bounds what is held.
        let over = stand.client.send(stand.tool("pandas", 300_000)).await.unwrap();
        assert_eq!((over.status, over.denial()), (413, None));
        assert!(stand.application.seen().iter().all(|seen| seen.body.is_empty()));
        let refused = stand.records(1).await;
        assert_eq!(
            (&refused[0]["kind"], &refused[0]["end"]),
            (&json!("completion"), &json!("refused"))
        );
        // Ours speaks first where its limit is the lower one.
        let stand = Stand::start(|plugin| plugin.headers_stop_iteration(flag), |_| {}).await;
        let over = stand.send(stand.tool("pandas", (1 << 20) + 1)).await;
        assert_eq!((over.status, over.denial()), (413, Some("body_too_large")));
        stand.unharmed().await;
    }
}

/// The shipped module with one callback replaced by a trap, which is what a panic comes to.
mod panicking {
    use std::path::PathBuf;

    const EXPORTS: u8 = 7;
    const IMPORTS: u8 = 2;
    const CODE: u8 = 10;
    /// No locals, `unreachable`, `end`.
    const TRAP: [u8; 3] = [0x00, 0x00, 0x0b];

    /// Writes the module beside the shipped one.
    pub(super) fn filter(callback: &str, name: &str) -> PathBuf {
        let module = std::fs::read(tests::built::filter().unwrap()).unwrap();
        let path = tests::built::target().join("run").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, with_trap(&module, callback)).unwrap();
        path
    }

    fn with_trap(module: &[u8], callback: &str) -> Vec<u8> {
        let mut imported = 0;
        let mut exported = 0;
        let mut out = module[..8].to_vec();
        let mut rest = &module[8..];
        while let Some((&id, after)) = rest.split_first() {
            rest = after;
            let size = take_number(&mut rest);
            let (section, after) = rest.split_at(size);
            rest = after;
            let section = match id {
                IMPORTS => {
                    imported = count_imported_functions(section);
                    section.to_vec()
                }
                EXPORTS => {
                    exported = find_export(section, callback);
                    section.to_vec()
                }
                CODE => replace_body(section, exported - imported),
                _ => section.to_vec(),
            };
            out.push(id);
            put_number(&mut out, section.len());
            out.extend(section);
        }
        out
    }

    fn count_imported_functions(mut section: &[u8]) -> usize {
        let count = take_number(&mut section);
        for _ in 0..count {
            take_name(&mut section);
            take_name(&mut section);
            assert_eq!(section[0], 0, "only functions are imported");
            section = &section[1..];
            take_number(&mut section);
        }
        count
    }

    fn find_export(mut section: &[u8], wanted: &str) -> usize {
        let count = take_number(&mut section);
        let exports = (0..count).map(|_| {
            let name = take_name(&mut section);
            section = &section[1..];
            (name, take_number(&mut section))
        });
        let found = exports
            .collect::<Vec<_>>()
            .into_iter()
            .find(|(name, _)| *name == wanted.as_bytes());
        found.unwrap().1
    }

    fn replace_body(mut section: &[u8], wanted: usize) -> Vec<u8> {
        let count = take_number(&mut section);
        let mut out = Vec::new();
        put_number(&mut out, count);
        for index in 0..count {
            let size = take_number(&mut section);
            let (body, after) = section.split_at(size);
            section = after;
            let body = if index == wanted { &TRAP[..] } else { body };
            put_number(&mut out, body.len());
            out.extend(body);
        }
        out
    }

    fn take_name<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
        let length = take_number(bytes);
        let (name, after) = bytes.split_at(length);
        *bytes = after;
        name
    }

    /// LEB128.
    fn take_number(bytes: &mut &[u8]) -> usize {
        let mut number = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        number
    }

    fn put_number(out: &mut Vec<u8>, mut number: usize) {
        while number >= 0x80 {
            out.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    }
}
