//! Calls that their callers break off at every point, 100,000 of them in `make load`: nothing leaks, and every chain is whole and
//! closed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::json;
use tests::client::Client;
use tests::load::aborts::{self, Broken, Target};
use tests::load::application::{ENDLESS_TABLE, HANGING_TABLE};
use tests::load::ledger::Ledger;
use tests::load::memory::Memory;
use tests::load::mesh::{ANALYST, LoadMesh, READER, Served};
use tests::load::mix::{self, Budget};
use tests::load::part_of;
use tests::load::wire::Request;

const ABORTS: u64 = 100_000;
const WARM_UP: u64 = 25_000;

/// Of a hundred calls so many go over HTTP/1.1 with mTLS, whose handshake each of them pays, and so many in the clear to
/// the agent's own sidecar, which breaks off the call that it makes in turn.
const HTTP1_PERCENT: u64 = 8;
const OUTBOUND_PERCENT: u64 = 12;

const MOST_GROWTH_KIB: u64 = 24 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_broken_off_leave_nothing_but_their_records() {
    let mesh = LoadMesh::start("load-aborts", json!({"token": {"maxTtlSeconds": 3600}}))
        .await
        .unwrap();
    let targets = Targets::new(&mesh).await;
    let broken = Arc::new(Broken::default());
    let (calls, warm_up) = (part_of(ABORTS).unwrap(), part_of(WARM_UP).unwrap());

    let (mut warm, mut after) = (Memory::default(), Memory::default());
    let start = Instant::now();
    let first = targets.break_off(0, warm_up, &broken);
    warm.watch(&mesh, first).await.unwrap();
    let rest = targets.break_off(warm_up, calls - warm_up, &broken);
    after.watch(&mesh, rest).await.unwrap();
    let elapsed = start.elapsed();
    println!(
        "{} calls broken off in {elapsed:?}: {:.0} calls/s; {} of them in the answer",
        broken.calls.load(Ordering::Relaxed),
        broken.calls.load(Ordering::Relaxed) as f64 / elapsed.as_secs_f64(),
        broken.in_answer.load(Ordering::Relaxed),
    );
    assert_eq!(broken.calls.load(Ordering::Relaxed), calls);

    mesh.at_rest().await.unwrap();
    after.sample(&mesh);
    after.check_growth(&warm, MOST_GROWTH_KIB).unwrap();

    let ledger = Ledger::read(&mesh.database()).await.unwrap();
    ledger.print(mesh.database_bytes());
    assert_eq!(ledger.restarts, 0, "no chain was refused");
    ledger.check_closed().unwrap();
    let (mut permits, mut begun, mut reset, mut by_code_alone) = (0, 0, 0, 0);
    for (_, envoy) in mesh.envoys() {
        let stats = envoy.stats("").await.unwrap();
        let of = |part: &str| -> u64 {
            stats
                .iter()
                .filter(|(name, _)| name.ends_with(part))
                .map(|(_, n)| n)
                .sum()
        };
        permits += of("verdict.permit.code.ok");
        begun += of("http.inbound.downstream_rq_total") + of("http.outbound.downstream_rq_total");
        reset += of("http.inbound.downstream_rq_rx_reset") + of("http.outbound.downstream_rq_rx_reset");
        by_code_alone += of("ostiary_records_dropped");
    }
    // Where the disk is too slow for what comes, a full queue denies, and what it denied is counted by its code.
    assert!(
        ledger.overflow.keys().all(|code| code == "records_unavailable"),
        "{:?}",
        ledger.overflow
    );
    assert_eq!(
        ledger.overflow.values().sum::<u64>(),
        by_code_alone,
        "every denial without a record is counted in one"
    );
    println!("  {begun} requests reached a sidecar, {reset} were reset by the caller, {permits} were permitted");
    assert_eq!(
        ledger.permits.values().sum::<u64>(),
        permits,
        "every permit is on record"
    );
    assert!(begun >= calls / 2, "most calls got as far as a sidecar");

    // And the mesh is as good as new.
    let lines = mix::ordinary_lines(&mesh, &[(ANALYST, READER)], std::time::Duration::ZERO)
        .await
        .unwrap();
    mix::drive(&lines, &Budget::calls(calls, 1000)).await.unwrap();
    mesh.forget().unwrap();
}

struct Targets {
    warehouse: Target,
    mcp: Target,
    outbound: Target,
}

impl Targets {
    async fn new(mesh: &LoadMesh) -> Self {
        let token = mesh.token(ANALYST).await.unwrap();
        let get = |table| Request::get(&mesh.warehouse.authority, &format!("/v1/tables/{table}")).bearer(&token);
        let tool = mix::tool_call(&mesh.mcp, "pandas").bearer(&token);
        let client = |service: &Served| mesh.client(service, ANALYST).unwrap();
        let warehouse = Target {
            client: client(&mesh.warehouse),
            with_body: None,
            hanging: get(HANGING_TABLE),
            endless: get(ENDLESS_TABLE),
        };
        let mcp = Target {
            client: client(&mesh.mcp),
            with_body: Some(tool.clone()),
            hanging: tool.clone(),
            endless: tool.clone(),
        };
        let outbound = Target {
            client: Client::plain(mesh.outbound_address),
            with_body: Some(tool),
            ..warehouse.clone()
        };
        Self {
            warehouse,
            mcp,
            outbound,
        }
    }

    async fn break_off(&self, first: u64, calls: u64, broken: &Arc<Broken>) -> anyhow::Result<()> {
        let share = |percent: u64| calls * percent / 100;
        let (http1, outbound) = (share(HTTP1_PERCENT), share(OUTBOUND_PERCENT));
        let http2 = (calls - 2 * http1 - outbound) / 2;
        let mut next = first;
        let mut budget = |calls: u64| {
            let budget = Budget::calls(next, calls);
            next += calls;
            budget
        };
        let budgets = [http1, http1, outbound, http2, calls - 2 * http1 - outbound - http2].map(&mut budget);
        let [first, second, third, fourth, fifth] = &budgets;
        tokio::try_join!(
            aborts::http1(&self.warehouse, 4, first, broken),
            aborts::http1(&self.mcp, 4, second, broken),
            aborts::http1(&self.outbound, 8, third, broken),
            aborts::http2(&self.warehouse, 3, fourth, broken),
            aborts::http2(&self.mcp, 3, fifth, broken),
        )?;
        Ok(())
    }
}
