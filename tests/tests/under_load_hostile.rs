//! Beside one hostile peer that sends bad tokens as fast as it can, for a minute in `make load`, the others notice nothing, and
//! nothing grows.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tests::load::ledger::Ledger;
use tests::load::memory::Memory;
use tests::load::mesh::{ANALYST, LoadMesh, READER, WRITER};
use tests::load::mix::{self, Budget, Line};
use tests::load::part_of;

/// Seconds, in `make load`.
const FLOOD: u64 = 60;
const BEFORE: Duration = Duration::from_secs(5);

/// Where the hostile peer's numbers start.
const HOSTILE: u64 = 1 << 40;

const MOST_GROWTH_KIB: u64 = 24 << 10;

/// The different things that a worker counts in a second: six codes, two sides.
const COUNTS_A_SECOND: u64 = 12;
const WORKERS: u64 = 2;

/// What the database may hold beside the bytes of its records: rows, indexes, and the write-ahead log.
const DATABASE_FACTOR: u64 = 3;
const DATABASE_SLACK: u64 = 16 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_tokens_touches_nobody_else() {
    let mesh = LoadMesh::start("load-hostile", json!({"token": {"maxTtlSeconds": 3600}}))
        .await
        .unwrap();
    let agents = [(ANALYST, READER), (READER, ANALYST)];
    let others = mix::ordinary_lines(&mesh, &agents, Duration::from_millis(40))
        .await
        .unwrap();
    let (token, other) = (mesh.token(WRITER).await.unwrap(), mesh.token(READER).await.unwrap());
    let cases = Arc::new(mix::hostile_cases(&mesh.warehouse, &token, &other).unwrap());
    let line = Line {
        agent: WRITER,
        client: mesh.client(&mesh.warehouse, WRITER).unwrap(),
        http2: true,
        callers: 24,
        cases,
        outbound: false,
        pause: Duration::ZERO,
    };
    let http1 = Line {
        http2: false,
        callers: 8,
        ..line.clone()
    };
    let flood = [line.clone(), line, http1];

    let (mut warm, mut after) = (Memory::default(), Memory::default());
    let start = tests::wait::unix_now();
    let before = Budget::time(0, BEFORE);
    let mut outcome = warm.watch(&mesh, mix::drive(&others, &before)).await.unwrap();
    // The peak that a flood brings, so that what comes after is growth.
    let peak = Budget::time(HOSTILE, BEFORE);
    let mut hostile = warm.watch(&mesh, mix::drive(&flood, &peak)).await.unwrap();
    let (quiet, database) = (outcome.calls(), mesh.database_bytes());

    let flood_time = Duration::from_secs(part_of(FLOOD).unwrap());
    let both = async {
        let (ours, theirs) = (Budget::time(1 << 32, flood_time), Budget::time(2 * HOSTILE, flood_time));
        tokio::try_join!(mix::drive(&others, &ours), mix::drive(&flood, &theirs))
    };
    let (ours, theirs) = after.watch(&mesh, both).await.unwrap();
    println!(
        "{} hostile calls in {:?}: {:.0} calls/s; beside them {} calls of others ({:.0}/s; without them {:.0}/s), {} times no room",
        theirs.calls(),
        theirs.elapsed,
        theirs.calls() as f64 / theirs.elapsed.as_secs_f64(),
        ours.calls(),
        ours.calls() as f64 / ours.elapsed.as_secs_f64(),
        quiet as f64 / BEFORE.as_secs_f64(),
        ours.no_room,
    );
    outcome.merge(ours);
    hostile.merge(theirs);
    assert_eq!(outcome.no_room, 0, "others always find room for their records");

    mesh.at_rest().await.unwrap();
    let seconds = tests::wait::unix_now() - start;
    after.sample(&mesh);
    after.check_growth(&warm, MOST_GROWTH_KIB).unwrap();

    let ledger = Ledger::read(&mesh.database()).await.unwrap();
    ledger.print(mesh.database_bytes());
    assert_eq!(ledger.restarts, 0, "no chain was refused");
    ledger.check_closed().unwrap();
    ledger.check_traces(&outcome, false).unwrap();
    let spiffe = |agent: &str| Ok(mesh.credential(agent)?.workload.spiffe());
    outcome.merge(hostile);
    ledger.check_denials(&outcome, spiffe).unwrap();
    assert!(
        ledger.overflow.is_empty(),
        "every denial is counted under its peer: {:?}",
        ledger.overflow
    );

    let peer = spiffe(WRITER).unwrap();
    let of_hostile = |of: &std::collections::BTreeMap<String, u64>| of.get(&peer).copied().unwrap_or_default();
    let (records, bytes) = (of_hostile(&ledger.records_by_peer), of_hostile(&ledger.bytes_by_peer));
    let growth = mesh.database_bytes().saturating_sub(database);
    println!(
        "  of the hostile peer: {records} records, {bytes} bytes; the database grew by {growth} bytes in {seconds} s"
    );
    assert!(
        ledger.denials.keys().all(|(_, of, _)| *of != peer),
        "a flood gets no records of its own"
    );
    assert!(
        records <= COUNTS_A_SECOND * WORKERS * (seconds + 2),
        "{records} records"
    );
    assert!(
        growth <= DATABASE_FACTOR * ledger.bytes + DATABASE_SLACK,
        "the database grew by {growth} bytes"
    );
    mesh.forget().unwrap();
}
