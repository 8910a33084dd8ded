//! Each call has two witnesses: what goes around one of the two real sidecars is found, and what goes through both is not.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::client::{Call, Client};
use tests::demo::token_request;
use tests::mesh::{Mesh, Options};
use tests::sidecar::{Destination, Inbound, Outbound, Plugin, Sidecar};
use tests::wait;

/// Seconds that both sides have to tell of a call.
const WINDOW: u64 = 3;

/// How long after that a finding may take: the test waits for it, and says how long it was.
const LIMIT: Duration = Duration::from_secs(60);

const ANALYST: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";
const WAREHOUSE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";

async fn mesh(name: &str) -> Mesh {
    mesh_with(name, json!({"reconcileSeconds": WINDOW})).await
}

async fn mesh_with(name: &str, audit: Value) -> Mesh {
    let options = Options {
        policy_server: json!({ "audit": audit }),
        ..Options::only(&["analyst-7", "warehouse", "reports"])
    };
    Mesh::start(name, &options).await.unwrap()
}

/// What `ostiary audit findings` says to the server's own user.
pub(crate) async fn findings(mesh: &Mesh) -> Value {
    let mut command = Command::new(tests::built::ostiary().unwrap());
    command
        .args(["--output", "json", "audit", "findings", "--config"])
        .arg(mesh.policy_server.config());
    let output = tokio::task::spawn_blocking(move || command.output());
    let output = output.await.unwrap().unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
        panic!("{}", String::from_utf8_lossy(&output.stderr));
    });
    let none = told["findings"].as_array().unwrap().is_empty();
    assert_eq!(output.status.code(), Some(if none { 0 } else { 1 }));
    told
}

fn kinds(told: &Value) -> Vec<[&str; 3]> {
    let findings = told["findings"].as_array().unwrap().iter();
    let kind = |finding| ["kind", "caller", "callee"].map(|field| text(finding, field));
    let mut kinds: Vec<_> = findings.map(kind).collect();
    kinds.sort_unstable();
    kinds
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap()
}

fn read_table(mesh: &Mesh, token: &str) -> Call {
    let authority = mesh.service("warehouse").unwrap().authority();
    Call::new("GET", &authority, "/v1/tables/sales_q1_2026").bearer(token)
}

/// Waits until there are so many records, and every call that one tells of has been judged.
async fn all_judged(mesh: &Mesh, records: u64) -> Value {
    let judged = wait::until("all calls to be judged", LIMIT, async || {
        let told = findings(mesh).await;
        (told["records"].as_u64() >= Some(records) && told["judged"] == told["records"]).then_some(told)
    });
    judged.await.unwrap()
}

async fn permitted(client: &Client, call: Call) {
    let answer = client.send(call).await.unwrap();
    assert_eq!(answer.status, 200, "{:?}", answer.code());
}

/// Waits for so many calls of a finding, and says how long it took after their window had closed.
async fn found(mesh: &Mesh, kind: &str, count: u64, since: Instant) -> Value {
    let what = format!("{count} of a finding `{kind}`");
    let found = wait::until(&what, LIMIT, async || {
        let told = findings(mesh).await;
        let mut findings = told["findings"].as_array().unwrap().iter();
        findings
            .find(|finding| finding["kind"] == kind && finding["count"].as_u64() >= Some(count))
            .cloned()
    });
    let found = found.await.unwrap();
    let after = since.elapsed().saturating_sub(Duration::from_secs(WINDOW));
    println!("`{kind}` was told {after:?} after its window had closed");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_goes_around_its_sidecar_is_found() {
    let mesh = mesh("around-agent").await;
    let token = mesh.token(&token_request()).await.unwrap();
    let agent = mesh.agent("analyst-7").unwrap().client();
    // Through both: reads, a body, and what a sidecar denies.
    permitted(&agent, read_table(&mesh, &token)).await;
    let reports = mesh.service("reports").unwrap().authority();
    let report = Call::new("PUT", &reports, "/v1/reports/2026q1")
        .bearer(&token)
        .body("a draft");
    assert!(agent.send(report).await.unwrap().status < 300);
    let denied = Call::new(
        "GET",
        &mesh.service("warehouse").unwrap().authority(),
        "/v1/tables/hr_salaries",
    );
    assert_eq!(agent.send(denied.bearer(&token)).await.unwrap().status, 403);
    // Three sources have told of nine decisions and ends.
    assert!(kinds(&all_judged(&mesh, 12).await).is_empty());

    // The same read with the same token and certificate, straight to the service's sidecar.
    let direct = mesh.direct("warehouse", "analyst-7").unwrap();
    let called = Instant::now();
    permitted(&direct, read_table(&mesh, &token)).await;
    let finding = found(&mesh, "service_only", 1, called).await;
    assert_eq!(
        (&finding["caller"], &finding["callee"]),
        (&ANALYST.into(), &WAREHOUSE.into())
    );
    assert_eq!((&finding["call"], &finding["count"]), (&Value::Null, &1.into()));

    // And under an id that it made up.
    let called = Instant::now();
    let made_up = "AAAAAAAAAAAAAAAAAAAAAA";
    permitted(&direct, read_table(&mesh, &token).header("ostiary-call", made_up)).await;
    let second = found(&mesh, "service_only", 2, called).await;
    assert_eq!((&second["call"], &second["count"]), (&made_up.into(), &2.into()));
    assert_eq!(
        kinds(&all_judged(&mesh, 16).await),
        [["service_only", ANALYST, WAREHOUSE]]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_answers_around_its_sidecar_is_found() {
    let mesh = mesh("around-service").await;
    let token = mesh.token(&token_request()).await.unwrap();
    let warehouse = mesh.service("warehouse").unwrap();
    // A listener of the warehouse's own, with its certificate and without the filter, and a pod of the agent that is led to it.
    let around = mesh.net.socket(31, 8080);
    let mut listener = Sidecar::new(&warehouse.credential, &mesh.ca, mesh.net.socket(31, 15_000));
    listener.name = "around-warehouse".to_owned();
    let listener = listener.with_inbound(Inbound::new(around, warehouse.backend.socket()));
    let _listener = listener.start(&mesh.run).await.unwrap();
    let outbound = mesh.net.socket(32, 15_001);
    let agent = mesh.agent("analyst-7").unwrap();
    let plugin = Plugin::built(mesh.policy_server.bundle_jwks()).unwrap();
    let mut sidecar = Sidecar::new(&agent.credential, &mesh.ca, mesh.net.socket(32, 15_000));
    sidecar.name = "astray-analyst-7".to_owned();
    let sidecar = sidecar
        .with_filter(plugin, mesh.policy_server.upstream())
        .with_outbound(Outbound {
            address: outbound,
            inside: None,
            destinations: vec![Destination {
                name: "warehouse".to_owned(),
                hosts: vec![warehouse.host.clone()],
                address: around,
                identity: warehouse.credential.workload.spiffe(),
            }],
        });
    let _envoy = sidecar.start(&mesh.run).await.unwrap();

    permitted(&agent.client(), read_table(&mesh, &token)).await;
    // Two sources have told of four.
    assert!(kinds(&all_judged(&mesh, 6).await).is_empty());
    let led_astray = Client::plain(outbound);
    let called = wait::until("the agent's other sidecar to have its policy", LIMIT, async || {
        let called = Instant::now();
        let answer = led_astray.send(read_table(&mesh, &token)).await.unwrap();
        (answer.status == 200).then_some(called)
    });
    let finding = found(&mesh, "caller_only", 1, called.await.unwrap()).await;
    assert_eq!(
        (&finding["caller"], &finding["callee"]),
        (&ANALYST.into(), &WAREHOUSE.into())
    );
    assert_eq!(
        kinds(&all_judged(&mesh, 8).await),
        [["caller_only", ANALYST, WAREHOUSE]]
    );
}

/// The heartbeats that are in the log, by source.
fn heartbeats(mesh: &Mesh) -> std::collections::BTreeMap<String, Vec<u64>> {
    let mut command = Command::new(tests::built::ostiary().unwrap());
    command
        .args(["--output", "json", "audit", "tail", "--lines", "1000", "--config"])
        .arg(mesh.policy_server.config());
    let mut beats: std::collections::BTreeMap<_, Vec<u64>> = std::collections::BTreeMap::new();
    for line in String::from_utf8(command.output().unwrap().stdout).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["kind"] == "aggregate" && record["count"] == 0 {
            let seqs = beats.entry(text(&record, "source").to_owned()).or_default();
            seqs.push(record["seq"].as_u64().unwrap());
        }
    }
    beats
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_have_nothing_to_tell_say_so_and_are_known_to_live() {
    let audit = json!({"reconcileSeconds": WINDOW, "heartbeatSeconds": 2});
    let mesh = mesh_with("heartbeats", audit).await;
    let token = mesh.token(&token_request()).await.unwrap();
    let agent = mesh.agent("analyst-7").unwrap().client();
    permitted(&agent, read_table(&mesh, &token)).await;
    let both = wait::until(
        "two heartbeats in a row of all sources, of both sides",
        LIMIT,
        async || {
            let told = findings(&mesh).await;
            let beats = tokio::task::block_in_place(|| heartbeats(&mesh));
            let in_a_row = |source: &Value| {
                let seqs = beats.get(text(source, "source"));
                seqs.is_some_and(|seqs| seqs.windows(2).any(|pair| pair[1] == pair[0] + 1))
            };
            let sources = told["sources"].as_array().unwrap().clone();
            let of = |workload: &str| sources.iter().any(|source| source["workload"] == workload);
            (of(ANALYST) && of(WAREHOUSE) && sources.iter().all(in_a_row)).then_some(sources)
        },
    );
    for source in both.await.unwrap() {
        assert_eq!(
            (&source["silent"], &source["heartbeat_seconds"]),
            (&false.into(), &2.into()),
            "{source}"
        );
    }
}
