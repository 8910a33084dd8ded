//! A policy server that dies, and sidecars that start before it.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use policy_server::store::Store as _;
use policy_server::store::sqlite::SqliteStore;
use serde_json::{Value, json};
use tests::client::{Answer, Call};
use tests::demo::token_request;
use tests::envoy::Envoy;
use tests::mesh::{Mesh, Options};
use tests::sidecar::POLICY_AUTHORITY;
use tests::wait;

/// Long enough to see calls pass without the policy server, short enough to wait for.
const MAX_STATE_AGE_SECONDS: u64 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_policy_server_loses_nothing_and_the_mesh_recovers_by_itself() {
    let state = json!({"state": {"maxAgeSeconds": MAX_STATE_AGE_SECONDS, "renewSeconds": 2}});
    let options = Options {
        policy_server: state,
        ..Options::default()
    };
    let mut mesh = Mesh::start("recovery", &options).await.unwrap();
    let (token, keys) = (mesh.token(&token_request()).await.unwrap(), jwks(&mesh).await);
    read(&mesh, &token).await.unwrap();

    for round in 0..3 {
        // Calls are under way, so the kill falls at a moment of its own each time.
        for _ in 0..20 {
            assert_eq!(read(&mesh, &token).await.unwrap().status, 200, "round {round}");
        }
        mesh.policy_server.kill_server();
        let killed = Instant::now();
        assert_eq!(
            read(&mesh, &token).await.unwrap().status,
            200,
            "sidecars go on without the policy server"
        );

        let denied = wait::until("calls to be denied", Duration::from_secs(40), async || {
            read(&mesh, &token).await.ok().filter(|answer| answer.status != 200)
        });
        let denied = denied.await.unwrap();
        assert_eq!((denied.status, denied.denial()), (503, Some("policy_unavailable")));
        assert!(denied.header("retry-after").is_some());
        let least = Duration::from_secs(MAX_STATE_AGE_SECONDS - 4);
        assert!(
            killed.elapsed() >= least,
            "denied already {:?} after the kill",
            killed.elapsed()
        );

        mesh.policy_server.start_server().await.unwrap();
        mesh.settled().await.unwrap();
        assert_eq!(
            read(&mesh, &token).await.unwrap().status,
            200,
            "a token from before the kill is still good"
        );
        assert_eq!(jwks(&mesh).await, keys, "no key is lost");
    }
    every_record_arrives(&mesh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_start_a_minute_before_the_policy_server_recover_without_a_herd() {
    let options = Options {
        without_policy_server: true,
        ..Options::default()
    };
    let mut mesh = Mesh::start("bootstrap", &options).await.unwrap();
    let started = Instant::now();
    let alone = Duration::from_secs(60);
    let mut before = polls(&mesh).await;
    let mut most_a_second = 0;
    while started.elapsed() < alone {
        let second = Instant::now();
        for call in [table(&mesh, "x"), table(&mesh, "x").bearer("a.b.c")] {
            let own = mesh
                .agent("analyst-7")
                .unwrap()
                .client()
                .send(call.clone())
                .await
                .unwrap();
            let direct = mesh.direct("warehouse", "analyst-7").unwrap().send(call).await.unwrap();
            for answer in [own, direct] {
                assert_eq!((answer.status, answer.denial()), (503, Some("policy_unavailable")));
                assert!(answer.header("retry-after").is_some());
            }
        }
        let sampled = wait::until("a second to pass", Duration::from_secs(5), async || {
            (second.elapsed() >= Duration::from_secs(1)).then_some(())
        });
        sampled.await.unwrap();
        let now = polls(&mesh).await;
        // The first seconds hold the first tries; after them the backoff must have spread them.
        if started.elapsed() > Duration::from_secs(10) {
            most_a_second = most_a_second.max(now - before);
        }
        before = now;
    }
    assert!(
        mesh.service("warehouse").unwrap().backend.seen().is_empty(),
        "no call reached the application"
    );
    // 5 sidecars of 3 VMs each; a backoff of up to 5 s spreads them.
    assert!(most_a_second <= 15, "{most_a_second} polls in one second");

    mesh.policy_server.start_server().await.unwrap();
    let server_up = Instant::now();
    mesh.settled().await.unwrap();
    println!(
        "every sidecar recovered {:?} after the policy server came up",
        server_up.elapsed()
    );
    let token = mesh.token(&token_request()).await.unwrap();
    assert_eq!(read(&mesh, &token).await.unwrap().status, 200);
}

fn table(mesh: &Mesh, table: &str) -> Call {
    Call::new(
        "GET",
        &mesh.service("warehouse").unwrap().authority(),
        &format!("/v1/tables/{table}"),
    )
}

async fn read(mesh: &Mesh, token: &str) -> anyhow::Result<Answer> {
    mesh.agent("analyst-7")?
        .client()
        .send(table(mesh, "sales_q1_2026").bearer(token))
        .await
}

async fn jwks(mesh: &Mesh) -> Value {
    let client = mesh.policy_server.client(&mesh.ca, &mesh.orchestrator).unwrap();
    let answer = client
        .send(Call::new("GET", POLICY_AUTHORITY, "/.well-known/jwks.json"))
        .await
        .unwrap();
    assert_eq!(answer.status, 200);
    answer.json()
}

/// How many requests the policy server's sidecar has seen.
async fn polls(mesh: &Mesh) -> u64 {
    mesh.policy_server
        .sidecar()
        .unwrap()
        .stat("http.inbound.downstream_rq_total")
        .await
        .unwrap()
}

/// Whatever a sidecar's access log has as a record of a chain must come to the policy server.
async fn every_record_arrives(mesh: &Mesh) {
    let sidecars = mesh.agents.values().map(|agent| &agent.envoy);
    let sidecars: Vec<&Envoy> = sidecars
        .chain(mesh.services.values().map(|service| &service.envoy))
        .collect();
    let mut wanted: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for record in sidecars.iter().flat_map(|envoy| envoy.records()) {
        if let (Some(source), Some(seq)) = (record["source"].as_str(), record["seq"].as_u64()) {
            wanted.entry(source.to_owned()).or_default().insert(seq);
        }
    }
    assert!(
        wanted.values().map(BTreeSet::len).sum::<usize>() >= 60,
        "the access logs have records: {wanted:?}"
    );
    let store = SqliteStore::open(&mesh.run.file("policy-server/ostiary.db"))
        .await
        .unwrap();
    for (source, seqs) in wanted {
        let what = format!("records {seqs:?} of source {source}");
        let arrived = wait::until(&what, Duration::from_secs(30), async || {
            let stored = store.records(&source, 0, 10_000).await.ok()?;
            let stored: BTreeSet<u64> = stored.iter().map(|record| record.seq).collect();
            seqs.is_subset(&stored).then_some(())
        });
        arrived.await.unwrap();
    }
}
