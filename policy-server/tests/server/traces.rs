//! All that happened for one user request, as auditors are told it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::support::{ANALYST, AUDITOR, NOW, Place, Server, WAREHOUSE, read, records};
use authz::audit::{Chain, Kind, Outcome, Record, SourceId};
use authz::denial::Code;
use authz::request::Side;
use http::StatusCode;
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Row as _};

const CALL: &str = "AAAAAAAAAAAAAAAAAAAAAA";

fn record(kind: Kind, side: Side, call: Option<&str>, txn: Option<&str>) -> Record<'static> {
    let is_end = kind == Kind::Completion;
    Record {
        agent_id: Some("analyst-7".into()),
        call: call.map(|call| call.to_owned().into()),
        end: is_end.then(|| "complete".into()),
        jti: Some("j-1".into()),
        peer: Some(ANALYST.into()),
        service: Some("data/warehouse".into()),
        side: Some(side),
        status: is_end.then_some(200),
        txn: txn.map(|txn| txn.to_owned().into()),
        verdict: (!is_end).then_some(Outcome::Permit),
        workload: Some(if side == Side::Outbound { ANALYST } else { WAREHOUSE }.into()),
        ..Record::new(kind, NOW * 1000)
    }
}

/// Posts records as one new source of a workload.
async fn post(server: &Server, source: u8, workload: &'static str, told: &[Record<'static>]) {
    let mut chain = Chain::new(SourceId([source; 16]));
    let first = [Record::source(NOW * 1000, workload, None)];
    let sealed: Vec<_> = first.iter().chain(told).map(|record| chain.seal(record).line).collect();
    for batch in sealed.chunks(500) {
        let body = batch.iter().flat_map(|line| [&line[..], b"\n"].concat()).collect();
        let answer = server.send(records(workload, body)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
}

/// One whole call of `t/1`, seen by both sides; the service's end of it names no user request, as where no token is read.
async fn one_call(server: &Server) {
    let side = |side, txn| [Kind::Decision, Kind::Completion].map(|kind| record(kind, side, Some(CALL), txn));
    post(server, 1, ANALYST, &side(Side::Outbound, Some("t/1"))).await;
    post(server, 2, WAREHOUSE, &side(Side::Inbound, None)).await;
}

async fn trace(server: &Server, txn: &str) -> Value {
    let answer = server.send(read(&format!("/v1/traces/{txn}"), AUDITOR)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn a_user_request_is_told_as_soon_as_its_records_are_accepted() {
    let place = Place::new();
    let server = Server::start(&place).await;
    one_call(&server).await;
    let told = trace(&server, "t%2F1").await;
    assert_eq!(
        (
            told["txn"].as_str(),
            told["records"].as_u64(),
            told["complete"].as_bool()
        ),
        (Some("t/1"), Some(4), Some(true))
    );
    let call = &told["agents"][0]["calls"][0];
    assert_eq!((&call["call"], &call["seen_by"]), (&CALL.into(), &"both".into()));

    let mut denied = record(Kind::Decision, Side::Inbound, None, Some("t/1"));
    (denied.verdict, denied.code) = (Some(Outcome::Deny), Some(Code::AgentPaused));
    let other = record(
        Kind::Decision,
        Side::Inbound,
        Some("BAAAAAAAAAAAAAAAAAAAAA"),
        Some("t-2"),
    );
    // The same call under another user request is not of this one.
    let foreign = record(Kind::Decision, Side::Inbound, Some(CALL), Some("t-2"));
    post(&server, 3, WAREHOUSE, &[denied, other, foreign]).await;
    let told = trace(&server, "t%2F1").await;
    let calls = told["agents"][0]["calls"].as_array().unwrap();
    let told: Vec<_> = calls
        .iter()
        .map(|call| {
            (
                call["seen_by"].as_str().unwrap(),
                call["attempts"].as_array().unwrap().len(),
            )
        })
        .collect();
    assert_eq!(told, [("both", 2), ("service", 1)]);
    server.stop().await;
}

#[tokio::test]
async fn only_auditors_are_told_and_that_they_were_is_written_down() {
    let place = Place::new();
    let server = Server::start(&place).await;
    one_call(&server).await;
    for (path, peer, status, code) in [
        ("/v1/traces/t%2F1", ANALYST, 403, "role_missing"),
        ("/v1/traces/t-2", AUDITOR, 404, "txn_unknown"),
        ("/v1/traces/t%202", AUDITOR, 400, "request_malformed"),
    ] {
        let answer = server.send(read(path, peer)).await;
        assert_eq!((answer.status.as_u16(), &*answer.code()), (status, code), "{path}");
    }
    trace(&server, "t%2F1").await;
    server.stop().await;
    let mut database = database(&place).await;
    let row = sqlx::query("SELECT principal, count FROM log_reads WHERE what = 'trace'");
    let row = row.fetch_one(&mut database).await.unwrap();
    assert_eq!((row.get::<&str, _>(0), row.get::<i64, _>(1)), (AUDITOR, 3));
}

async fn database(place: &Place) -> sqlx::SqliteConnection {
    let options = SqliteConnectOptions::new().filename(place.path("data/ostiary.db"));
    options.connect().await.unwrap()
}

#[tokio::test]
async fn the_index_goes_on_after_a_restart_and_is_made_for_an_older_database() {
    let place = Place::new();
    let server = Server::start(&place).await;
    one_call(&server).await;
    trace(&server, "t%2F1").await;
    server.stop().await;

    let server = Server::start(&place).await;
    let second = record(Kind::Decision, Side::Inbound, None, Some("t/1"));
    post(&server, 3, WAREHOUSE, &[second]).await;
    let told = trace(&server, "t%2F1").await;
    assert_eq!(told["records"], 5);
    server.stop().await;

    let mut older = database(&place).await;
    for statement in [
        "DROP TABLE traces",
        "DROP TABLE trace_progress",
        "DROP TABLE findings",
        "DROP TABLE findings_progress",
        "DELETE FROM _sqlx_migrations WHERE version = 6",
    ] {
        sqlx::query(statement).execute(&mut older).await.unwrap();
    }
    drop(older);
    let server = Server::start(&place).await;
    assert_eq!(trace(&server, "t%2F1").await, told);
    server.stop().await;
}

#[tokio::test]
async fn a_user_request_of_too_many_records_says_that_it_is_not_whole() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let many = |count| vec![record(Kind::Decision, Side::Inbound, None, Some("t/1")); count];
    post(&server, 1, WAREHOUSE, &many(4096)).await;
    assert_eq!(trace(&server, "t%2F1").await["complete"], true);
    post(&server, 2, WAREHOUSE, &many(1)).await;
    let told = trace(&server, "t%2F1").await;
    assert_eq!((&told["complete"], &told["records"]), (&false.into(), &4096.into()));
    server.stop().await;
}
