//! Calls that only one of their two sides tells of, from their records to what auditors read.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use crate::support::{ANALYST, AUDITOR, NOW, Place, Server, WAREHOUSE, read, records};
use authz::audit::{Chain, Kind, Outcome, Record, SOURCE_HEADER, SourceId, write_source};
use authz::request::Side;
use http::StatusCode;
use policy_server::app::App;
use serde_json::Value;

const WINDOW: u64 = 30;

/// A sidecar: its chain goes on, and it lives while it polls.
struct Sidecar {
    workload: &'static str,
    chain: Chain,
}

impl Sidecar {
    fn new(source: u8, workload: &'static str) -> Self {
        Self {
            workload,
            chain: Chain::new(SourceId([source; 16])),
        }
    }

    async fn tell(&mut self, server: &Server, told: &[Record<'static>]) {
        let first = self.chain.last_hash().is_none();
        let first = first.then(|| Record::source(NOW * 1000, self.workload, None));
        let lines = first.iter().chain(told).map(|record| self.chain.seal(record).line);
        let body: Vec<u8> = lines.flat_map(|line| [&line[..], b"\n"].concat()).collect();
        let answer = server.send(records(self.workload, body)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
}

fn record(kind: Kind, side: Side, caller: &'static str, call: &str) -> Record<'static> {
    let is_end = kind == Kind::Completion;
    Record {
        agent_id: Some("analyst-7".into()),
        call: (!call.is_empty()).then(|| call.to_owned().into()),
        end: is_end.then(|| "complete".into()),
        peer: Some(caller.into()),
        service: Some("data/warehouse".into()),
        side: Some(side),
        status: is_end.then_some(200),
        txn: Some("t-1".into()),
        verdict: (!is_end).then_some(Outcome::Permit),
        workload: Some(if side == Side::Outbound { ANALYST } else { WAREHOUSE }.into()),
        ..Record::new(kind, NOW * 1000)
    }
}

fn arrived(call: &str) -> Record<'static> {
    record(Kind::Decision, Side::Inbound, ANALYST, call)
}

fn let_out(call: &str) -> Record<'static> {
    record(Kind::Decision, Side::Outbound, ANALYST, call)
}

async fn poll(server: &Server, workloads: &[&str]) {
    for workload in workloads {
        assert_eq!(server.poll(workload, "").await.status, StatusCode::OK);
    }
}

async fn findings(server: &Server) -> Value {
    let answer = server.send(read("/v1/findings", AUDITOR)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

/// Waits until something holds of what is told.
async fn until(server: &Server, what: &str, holds: impl Fn(&App, &Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let told = findings(server).await;
        if holds(&server.app, &told) {
            return told;
        }
        assert!(Instant::now() < deadline, "{what}: {told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn found(told: &Value) -> Vec<(&str, &str)> {
    let findings = told["findings"].as_array().unwrap().iter();
    let mut found: Vec<_> = findings
        .map(|finding| {
            (
                finding["kind"].as_str().unwrap(),
                finding["call"].as_str().unwrap_or("-"),
            )
        })
        .collect();
    found.sort_unstable();
    found
}

fn unjudged(app: &App) -> u64 {
    app.metrics.calls_unjudged.get()
}

#[tokio::test]
async fn what_one_side_alone_saw_is_found_when_the_window_has_closed() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let (mut analyst, mut warehouse) = (Sidecar::new(1, ANALYST), Sidecar::new(2, WAREHOUSE));
    poll(&server, &[ANALYST, WAREHOUSE]).await;
    let end = |side, call| record(Kind::Completion, side, ANALYST, call);
    warehouse.tell(&server, &[arrived("late"), arrived("around")]).await;
    let answered = end(Side::Outbound, "answered");
    analyst
        .tell(&server, &[let_out("answered"), answered, let_out("lost")])
        .await;
    // Just before it closes, the other side of one call is told.
    server.advance(WINDOW - 1);
    analyst.tell(&server, &[let_out("late")]).await;
    let (there, here) = (end(Side::Inbound, "late"), end(Side::Outbound, "late"));
    warehouse.tell(&server, &[there]).await;
    analyst.tell(&server, &[here]).await;
    assert!(found(&findings(&server).await).is_empty());
    server.advance(1);
    let told = until(&server, "both", |_, told| found(told).len() == 2).await;
    assert_eq!(found(&told), [("caller_only", "answered"), ("service_only", "around")]);
    let findings = told["findings"].as_array().unwrap();
    for finding in findings {
        assert_eq!(
            (&finding["caller"], &finding["callee"]),
            (&ANALYST.into(), &WAREHOUSE.into())
        );
        assert_eq!(
            (&finding["count"], &finding["since_ms"]),
            (&1.into(), &(NOW * 1000).into())
        );
        assert_eq!(
            (&finding["agent_id"], &finding["txn"]),
            (&"analyst-7".into(), &"t-1".into())
        );
    }
    assert_eq!(told["window_seconds"], WINDOW);
    until(&server, "all judged", |_, told| told["judged"] == told["records"]).await;

    // Once more between the same two is a count, with the last call as the example.
    warehouse.tell(&server, &[arrived("")]).await;
    poll(&server, &[ANALYST, WAREHOUSE]).await;
    server.advance(WINDOW);
    let told = until(&server, "the third", |_, told| told["findings"][1]["count"] == 2).await;
    assert_eq!(found(&told), [("caller_only", "answered"), ("service_only", "-")]);
    server.stop().await;
}

#[tokio::test]
async fn silence_says_nothing_while_its_sidecar_may_be_gone() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut warehouse = Sidecar::new(2, WAREHOUSE);
    poll(&server, &[WAREHOUSE]).await;
    // An exempt caller has no filter and is not waited for.
    let exempt = "spiffe://cluster.local/ns/monitoring/sa/prometheus";
    let scraped = record(Kind::Decision, Side::Inbound, exempt, "");
    warehouse.tell(&server, &[arrived("unknown"), scraped]).await;
    // The window has closed, but another sidecar of the caller may not have polled since the start.
    server.advance(WINDOW);
    poll(&server, &[WAREHOUSE]).await;
    server.advance(WINDOW);
    until(&server, "it is given up", |app, _| unjudged(app) == 1).await;
    assert!(found(&findings(&server).await).is_empty());

    poll(&server, &[ANALYST, WAREHOUSE]).await;
    warehouse.tell(&server, &[arrived("known")]).await;
    server.advance(WINDOW);
    let told = until(&server, "the other", |_, told| !found(told).is_empty()).await;
    assert_eq!(
        (found(&told), unjudged(&server.app)),
        (vec![("service_only", "known")], 1)
    );
    server.stop().await;
}

#[tokio::test]
async fn a_call_that_was_open_at_a_restart_is_found_once() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut warehouse = Sidecar::new(2, WAREHOUSE);
    warehouse.tell(&server, &[arrived("open")]).await;
    server.stop().await;
    for round in 0..2 {
        let server = Server::start_at(&place.config(), NOW + 600 * (round + 1)).await;
        poll(&server, &[ANALYST, WAREHOUSE]).await;
        if round == 0 {
            assert!(found(&findings(&server).await).is_empty(), "its window begins anew");
        } else {
            warehouse.tell(&server, &[arrived("after")]).await;
        }
        server.advance(WINDOW);
        let count = round + 1;
        let told = until(&server, "it is found", |_, told| told["findings"][0]["count"] == count).await;
        assert_eq!(
            found(&told),
            [("service_only", ["open", "after"][usize::try_from(round).unwrap()])]
        );
        server.stop().await;
    }
}

#[tokio::test]
async fn a_definition_that_drifted_is_found_once_a_list() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let (mut analyst, mut warehouse) = (Sidecar::new(1, ANALYST), Sidecar::new(2, WAREHOUSE));
    let lists = |side, call| Record {
        drifted: vec!["bash".into(), "pandas".into()],
        ..record(Kind::Completion, side, ANALYST, call)
    };
    // The caller's side alone proves nothing of the service.
    analyst
        .tell(&server, &[let_out("one"), lists(Side::Outbound, "one")])
        .await;
    warehouse
        .tell(&server, &[arrived("one"), lists(Side::Inbound, "one")])
        .await;
    let told = until(&server, "it is found", |_, told| !found(told).is_empty()).await;
    assert_eq!(found(&told), [("drifted", "one")]);
    let finding = &told["findings"][0];
    assert_eq!(
        (&finding["caller"], &finding["callee"]),
        (&ANALYST.into(), &WAREHOUSE.into())
    );
    let why = "it defines tools otherwise than its file pins them: `bash`, `pandas`";
    assert_eq!((&finding["why"], &finding["count"]), (&why.into(), &1.into()));
    warehouse
        .tell(&server, &[arrived("two"), lists(Side::Inbound, "two")])
        .await;
    until(&server, "the next", |_, told| told["findings"][0]["count"] == 2).await;
    server.stop().await;
}

#[tokio::test]
async fn only_auditors_read_findings() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let answer = server.send(read("/v1/findings", ANALYST)).await;
    assert_eq!((answer.status.as_u16(), &*answer.code()), (403, "role_missing"));
    assert!(found(&findings(&server).await).is_empty());
    server.stop().await;
}

/// The sidecar says which chain it writes, and that it tells something every second.
async fn poll_as_writer(server: &Server, workload: &str, source: u8) {
    let mut poll = crate::support::poll(workload, "");
    let says = write_source(SourceId([source; 16]), 1).parse().unwrap();
    poll.headers_mut().insert(SOURCE_HEADER, says);
    assert_eq!(server.send(poll).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_sidecar_that_polls_and_tells_nothing_is_silent_and_accuses_nobody() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let (mut warehouse, mut analyst) = (Sidecar::new(1, WAREHOUSE), Sidecar::new(2, ANALYST));
    warehouse.tell(&server, &[arrived("A")]).await;
    poll(&server, &[WAREHOUSE]).await;
    poll_as_writer(&server, ANALYST, 2).await;
    assert_eq!(findings(&server).await["sources"][0]["silent"], false);
    server.advance(WINDOW + 1);
    let told = until(&server, "a call that is not judged", |app, _| unjudged(app) == 1).await;
    assert!(found(&told).is_empty(), "{told}");
    let source = &told["sources"][0];
    assert_eq!(
        (&source["workload"], &source["silent"], &source["told_ms"]),
        (&ANALYST.into(), &true.into(), &(NOW * 1000).into())
    );
    let metrics = async || {
        let answer = server.send(read("/metrics", AUDITOR)).await;
        String::from_utf8(answer.body).unwrap()
    };
    assert!(metrics().await.contains("\nostiary_sources_silent 1\n"));

    analyst
        .tell(&server, &[Record::heartbeat(NOW * 1000, ANALYST, None, None)])
        .await;
    warehouse.tell(&server, &[arrived("B")]).await;
    assert_eq!(findings(&server).await["sources"][0]["silent"], false);
    assert!(metrics().await.contains("\nostiary_sources_silent 0\n"));
    // Its word counts again: what it does not know of went around it.
    server.advance(14);
    poll(&server, &[WAREHOUSE]).await;
    poll_as_writer(&server, ANALYST, 2).await;
    analyst
        .tell(&server, &[Record::heartbeat(NOW * 1000, ANALYST, None, None)])
        .await;
    server.advance(WINDOW - 14 + 1);
    let told = until(&server, "a finding", |_, told| !found(told).is_empty()).await;
    assert_eq!(found(&told), [("service_only", "B")]);
    server.stop().await;
}
