//! Mixed calls of several clients over HTTP/1.1 and HTTP/2, 200,000 of them in `make load`: every verdict as expected, every
//! call on record, and no sidecar grows.

use std::time::Duration;

use serde_json::json;
use tests::load::ledger::Ledger;
use tests::load::memory::Memory;
use tests::load::mesh::{ANALYST, LoadMesh, READER};
use tests::load::mix::{self, Budget};
use tests::load::part_of;

const CALLS: u64 = 200_000;
const WARM_UP: u64 = 50_000;

/// 150,000 calls that left 170 bytes each would grow as much; in `make test` they are a tenth, and the same growth is ten times
/// as much a call.
const MOST_GROWTH_KIB: u64 = 24 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mixed_calls_are_judged_and_recorded_one_by_one_and_memory_stays_flat() {
    let mesh = LoadMesh::start("load-mixed", json!({"token": {"maxTtlSeconds": 3600}}))
        .await
        .unwrap();
    let agents = [(ANALYST, READER), (READER, ANALYST)];
    let lines = mix::ordinary_lines(&mesh, &agents, Duration::ZERO).await.unwrap();

    let (mut warm, mut after) = (Memory::default(), Memory::default());
    let (calls, warm_up) = (part_of(CALLS).unwrap(), part_of(WARM_UP).unwrap());
    let (first, rest) = (Budget::calls(0, warm_up), Budget::calls(warm_up, calls - warm_up));
    let mut outcome = warm.watch(&mesh, mix::drive(&lines, &first)).await.unwrap();
    outcome.merge(after.watch(&mesh, mix::drive(&lines, &rest)).await.unwrap());
    println!(
        "{} calls in {:?}: {:.0} calls/s; permits {:?}, denials {:?}, by the outbound side {:?}; {} times no room",
        outcome.calls(),
        outcome.elapsed,
        outcome.calls() as f64 / outcome.elapsed.as_secs_f64(),
        outcome.permits,
        outcome.denials,
        outcome.outbound_denials,
        outcome.no_room,
    );
    assert_eq!(outcome.calls(), calls);

    mesh.at_rest().await.unwrap();
    after.sample(&mesh);
    after.check_growth(&warm, MOST_GROWTH_KIB).unwrap();

    let ledger = Ledger::read(&mesh.database()).await.unwrap();
    ledger.print(mesh.database_bytes());
    assert_eq!(ledger.restarts, 0, "no chain was refused");
    ledger.check_closed().unwrap();
    ledger.check_traces(&outcome, outcome.no_room > 0).unwrap();
    let spiffe = |agent: &str| Ok(mesh.credential(agent)?.workload.spiffe());
    ledger.check_denials(&outcome, spiffe).unwrap();
    let permits: u64 = outcome.permits.values().sum();
    assert_eq!(ledger.permits.get("inbound"), Some(&permits));
    // What the caller's side permitted the service's may have had no room for.
    let outbound = ledger.permits.get("outbound").copied().unwrap_or_default();
    let more = outbound.checked_sub(outcome.outbound_permits);
    assert!(
        more.is_some_and(|more| more <= outcome.no_room),
        "{outbound} permits outbound"
    );
    let reached = mesh.warehouse.application.requests() + mesh.mcp.application.requests();
    assert_eq!(reached, permits, "applications saw what was permitted and nothing else");
    mesh.forget().unwrap();
}
