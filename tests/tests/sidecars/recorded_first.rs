//! Calls that wait until their records are stored: the application sees them afterwards, or never.

use std::time::Duration;

use authz::digest::Digest;
use policy_server::store::Store as _;
use policy_server::store::sqlite::SqliteStore;
use serde_json::{Value, json};
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnectOptions;
use tests::backends::Seen;
use tests::client::{Answer, Call, Client};
use tests::demo::token_request;
use tests::feed::{Feed, Intake, state_claims};
use tests::mesh::{Mesh, Options};
use tests::stand::{self, HOST, Stand};
use tests::{mcp, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(30);

/// By which a test finds its call in the application's log.
const MARK: &str = "x-held";

/// A stand whose service has its calls wait, and its feed.
async fn start(name: &str, mut service: Value, flag: bool) -> (Stand, Feed) {
    service["record"] = json!("before");
    let stand = Stand::start(name, service, |sidecar| {
        let plugin = sidecar.plugin.take();
        sidecar.plugin = plugin.map(|plugin| plugin.headers_stop_iteration(flag));
    });
    let stand = stand.await.unwrap();
    let feed = stand.settled_feed().await.unwrap();
    (stand, feed)
}

/// Makes a call whose record is held at the policy server, and waits until it is on its way.
async fn held(
    stand: &Stand,
    feed: &Feed,
    client: &Client,
    call: Call,
    mark: &str,
) -> JoinHandle<anyhow::Result<Answer>> {
    let before = feed.held();
    feed.take_records(Intake::Hold);
    let (client, call) = (client.clone().within(LIMIT), call.header(MARK, mark));
    let call = tokio::spawn(async move { client.send(call).await });
    wait::until("the call to wait", LIMIT, async || {
        let active = stand.envoy.stat("http.inbound.downstream_rq_active").await.ok()?;
        (active == 1 && feed.held() > before).then_some(())
    })
    .await
    .unwrap();
    assert!(!call.is_finished());
    call
}

/// What the application saw of a call: at most headers that went ahead of a body.
fn seen_nothing(stand: &Stand, mark: &str, name: &str) {
    let ahead = name.contains("mcp") && name.ends_with("false");
    let seen = stand.backend.seen_with(MARK, mark);
    let nothing = |seen: &Seen| ahead && seen.body.is_empty() && !seen.complete;
    assert!(seen.iter().all(nothing), "{name}: {seen:?}");
}

/// The records of the ends of calls that were not delivered.
async fn not_delivered(feed: &Feed, count: usize) -> Vec<Value> {
    let ends = wait::until("the records of the ends", LIMIT, async || {
        let records = feed.records().into_iter();
        let ends: Vec<Value> = records.filter(|record| record["end"] == "not_delivered").collect();
        (ends.len() >= count).then_some(ends)
    });
    ends.await.unwrap()
}

/// Waits for the record of a call that ended without being delivered, with this code or with none.
async fn ended_undelivered(feed: &Feed, code: Option<&str>) {
    let what = format!("the record of an end with {code:?}");
    let ended = wait::until(&what, LIMIT, async || {
        let mut records = feed.records().into_iter();
        let fits = |record: &Value| record["end"] == "not_delivered" && record["code"].as_str() == code;
        records.any(|record| fits(&record)).then_some(())
    });
    ended.await.unwrap();
}

/// What befalls a call that waits, each in its turn at one sidecar: what came before leaves nothing behind.
async fn a_call_that_waits(kind: &str, service: Value, flag: bool) {
    let name = format!("waits-{kind}-{flag}");
    let (stand, feed) = start(&name, service, flag).await;
    reaches_the_application_once_its_record_is_stored(&name, &stand, &feed).await;
    is_not_delivered_if_its_record_is_not_stored(&name, &stand, &feed).await;
    heeds_a_kill_while_it_waits(&name, &stand, &feed).await;
    is_not_served_to_a_caller_that_leaves_while_it_waits(&name, &stand, &feed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_where_headers_can_be_held() {
    a_call_that_waits("http", stand::http_service(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_where_headers_cannot_be_held() {
    a_call_that_waits("http", stand::http_service(), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_call_waits_where_headers_can_be_held() {
    a_call_that_waits("mcp", stand::mcp_service(), true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_call_waits_where_headers_cannot_be_held() {
    a_call_that_waits("mcp", stand::mcp_service(), false).await;
}

async fn reaches_the_application_once_its_record_is_stored(name: &str, stand: &Stand, feed: &Feed) {
    for (round, client) in [stand.inbound.clone(), stand.inbound.clone().http2()]
        .iter()
        .enumerate()
    {
        let mark = round.to_string();
        let call = held(stand, feed, client, stand.good_call(), &mark).await;
        seen_nothing(stand, &mark, name);
        let stored = feed.record_lines().len();
        feed.take_records(Intake::Accept);
        let answer = call.await.unwrap().unwrap();
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        let seen = stand.backend.seen_with(MARK, &mark);
        assert!(seen.len() == 1 && seen[0].complete, "{name}: {seen:?}");
        assert!(feed.record_lines().len() > stored, "{name}");
    }
    assert!(
        feed.records().iter().all(|record| record["end"] != "not_delivered"),
        "{name}"
    );
}

async fn is_not_delivered_if_its_record_is_not_stored(name: &str, stand: &Stand, feed: &Feed) {
    for intake in [
        Intake::Refuse(503, "records_unavailable".to_owned()),
        Intake::Refuse(409, "chain_fork".to_owned()),
    ] {
        feed.take_records(intake);
        let call = stand.good_call().header(MARK, "refused");
        let (answer, _) = stand
            .refused(&stand.inbound, call, 503, Some("records_unavailable"))
            .await
            .unwrap();
        assert!(answer.header("retry-after").is_some(), "{name}");
        seen_nothing(stand, "refused", name);
        feed.take_records(Intake::Accept);
        stand
            .eventually_allowed(&stand.inbound, || stand.good_call())
            .await
            .unwrap();
    }
}

async fn heeds_a_kill_while_it_waits(name: &str, stand: &Stand, feed: &Feed) {
    let call = held(stand, feed, &stand.inbound, stand.good_call(), "killed").await;
    feed.set_state(&state_claims(100, &json!({"agents": {"analyst-7": "killed"}})));
    let answer = call.await.unwrap().unwrap();
    assert_eq!(
        (answer.status, answer.code().as_deref()),
        (403, Some("agent_killed")),
        "{name}"
    );
    feed.take_records(Intake::Accept);
    ended_undelivered(feed, Some("agent_killed")).await;
    seen_nothing(stand, "killed", name);
    feed.set_state(&state_claims(200, &json!({})));
    stand
        .eventually_allowed(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
}

async fn is_not_served_to_a_caller_that_leaves_while_it_waits(name: &str, stand: &Stand, feed: &Feed) {
    let call = held(stand, feed, &stand.inbound.clone().http2(), stand.good_call(), "left").await;
    call.abort();
    let gone = wait::until("the call to be gone", LIMIT, async || {
        let active = stand.envoy.stat("http.inbound.downstream_rq_active").await.ok()?;
        (active == 0).then_some(())
    });
    gone.await.unwrap();
    feed.take_records(Intake::Accept);
    ended_undelivered(feed, None).await;
    seen_nothing(stand, "left", name);
    stand
        .every_worker_allows(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_its_record_decides() {
    let (stand, feed) = start("standing", stand::http_service(), false).await;
    for (standing, status, code) in [
        (json!({"state": "paused"}), 403, "agent_paused"),
        (json!({"state": "killed"}), 403, "agent_killed"),
        (json!({"not_before": wait::unix_now() + 60}), 401, "token_superseded"),
        (json!({"state": "unheard-of"}), 503, "records_unavailable"),
        (json!({"id": "keeper"}), 503, "records_unavailable"),
    ] {
        feed.tell_of_agents(standing);
        stand
            .denied(&stand.inbound, stand.good_call(), status, code)
            .await
            .unwrap();
        feed.tell_of_agents(json!({}));
        stand.allowed(&stand.inbound, stand.good_call()).await.unwrap();
    }
    let ends = not_delivered(&feed, 5).await;
    // Each worker posts its own, so that they come in any order.
    let mut codes: Vec<&str> = ends.iter().map(|end| end["code"].as_str().unwrap()).collect();
    codes.sort_unstable();
    assert_eq!(
        codes,
        [
            "agent_killed",
            "agent_paused",
            "records_unavailable",
            "records_unavailable",
            "token_superseded"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_server_that_never_answers_is_not_waited_for() {
    let (stand, feed) = start("hanging", stand::mcp_service(), true).await;
    feed.take_records(Intake::Hang);
    stand
        .denied(&stand.inbound, stand.good_call(), 503, "records_unavailable")
        .await
        .unwrap();
    feed.take_records(Intake::Accept);
    // What was in flight is given up before the next batch is sent.
    stand
        .eventually_allowed(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
}

/// So many bytes that tell their places.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|place| u8::try_from(place % 251).unwrap()).collect()
}

fn report(body: &[u8]) -> Call {
    let chunks = body.chunks(8 << 10).map(<[u8]>::to_vec).collect();
    Call::new("PUT", HOST, "/v1/reports/q1")
        .bearer(&stand::token("analyst-7"))
        .chunks(chunks)
}

async fn recorded(feed: &Feed, body: &[u8]) {
    let digest = Digest::of(body).to_base64url();
    wait::until("the digest of the body", LIMIT, async || {
        let mut records = feed.records().into_iter();
        records
            .any(|record| record["kind"] == "completion" && record["request_digest"] == digest.as_str())
            .then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_meanwhile_arrives_whole() {
    for flag in [true, false] {
        let (stand, feed) = start(&format!("body-{flag}"), stand::http_service(), flag).await;
        // Where headers cannot be held alone, the proxy holds the body by its flow control: any length will do.
        let length = if flag { 600 << 10 } else { 6 << 20 };
        for (round, client) in [stand.inbound.clone(), stand.inbound.clone().http2()]
            .iter()
            .enumerate()
        {
            for trailers in [false, true] {
                let body = bytes(length + round);
                let mark = format!("{round}-{trailers}");
                let call = report(&body);
                let call = if trailers {
                    call.header("trailer", "x-end").trailer("x-end", "1")
                } else {
                    call
                };
                let call = held(&stand, &feed, client, call, &mark).await;
                seen_nothing(&stand, &mark, "http");
                feed.take_records(Intake::Accept);
                let answer = call.await.unwrap().unwrap();
                assert_eq!(answer.status, 200, "{flag} {mark}");
                let seen = stand.backend.seen_with(MARK, &mark);
                assert!(
                    seen.len() == 1 && seen[0].complete && seen[0].body[..] == body,
                    "{flag} {mark}"
                );
                assert_eq!(seen[0].trailers.len(), usize::from(trailers), "{flag} {mark}");
                recorded(&feed, &body).await;
            }
        }
    }
}

/// The rest of a body comes after the call was let go.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_half_there_goes_on_with_its_rest() {
    for flag in [true, false] {
        let (stand, feed) = start(&format!("half-{flag}"), stand::http_service(), flag).await;
        let body = bytes(96 << 10);
        let (first, rest) = body.split_at(40 << 10);
        let before = feed.held();
        feed.take_records(Intake::Hold);
        let mut stream = stand.inbound.open().await.unwrap();
        let head = format!(
            "PUT /v1/reports/q1 HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {}\r\n{MARK}: half\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            stand::token("analyst-7"),
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(first).await.unwrap();
        stream.flush().await.unwrap();
        wait::until("the call to wait", LIMIT, async || {
            let active = stand.envoy.stat("http.inbound.downstream_rq_active").await.ok()?;
            let bytes = stand
                .envoy
                .stat("http.inbound.downstream_cx_rx_bytes_total")
                .await
                .ok()?;
            (active == 1 && feed.held() > before && bytes > 40 << 10).then_some(())
        })
        .await
        .unwrap();
        seen_nothing(&stand, "half", "http");
        let lines = feed.record_lines().len();
        feed.take_records(Intake::Accept);
        wait::until("its record to be stored", LIMIT, async || {
            let lines = feed.record_lines().split_off(lines);
            lines
                .iter()
                .any(|line| line["record"]["facts"]["path"] == "/v1/reports/q1")
                .then_some(())
        })
        .await
        .unwrap();
        for part in rest.chunks(7 << 10) {
            stream.write_all(part).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut answer = Vec::new();
        tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(tests::client::raw_status(&answer).unwrap(), 200, "{flag}");
        let seen = stand.backend.seen_with(MARK, "half");
        assert!(
            seen.len() == 1 && seen[0].complete && seen[0].body[..] == body,
            "{flag}"
        );
        recorded(&feed, &body).await;
    }
}

/// More of a body than the proxy buffers, where it buffers what comes while headers are held.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_the_proxy_cannot_hold_is_refused_by_it() {
    let (stand, feed) = start("too-much", stand::http_service(), true).await;
    feed.take_records(Intake::Hold);
    let call = report(&bytes(6 << 20)).header(MARK, "too-much");
    // Envoy closes before all has been sent, and its answer may be lost with that.
    if let Ok(answer) = stand.inbound.send(call).await {
        assert_eq!(answer.status, 413, "{answer:?}");
    }
    feed.take_records(Intake::Accept);
    let ends = not_delivered(&feed, 1).await;
    assert_eq!((&ends[0]["status"], ends[0].get("code")), (&json!(413), None));
    seen_nothing(&stand, "too-much", "http");
    stand
        .every_worker_allows(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
}

/// The records of a mesh, in the order in which they were stored.
pub(crate) async fn stored(mesh: &Mesh) -> Vec<Value> {
    let store = SqliteStore::open(&mesh.run.file("policy-server/ostiary.db"))
        .await
        .unwrap();
    let records = store.received(0, 10_000).await.unwrap();
    let records = records
        .iter()
        .map(|record| serde_json::from_slice(&record.canonical).unwrap());
    records.collect()
}

/// The real policy server, whose disk is held by somebody else, and then is away.
#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_called_after_its_record_is_on_the_disk_and_not_without() {
    let mut mesh = Mesh::start("recorded-first", &Options::only(&["analyst-7", "warehouse", "mcp"]))
        .await
        .unwrap();
    let token = mesh.token(&token_request()).await.unwrap();
    let (direct, tools) = (
        mesh.direct("mcp", "analyst-7").unwrap(),
        mesh.service("mcp").unwrap().authority(),
    );
    let tool = |mark: &str| {
        mcp::call_tool(&tools, "pandas", &json!({}))
            .header(MARK, mark)
            .bearer(&token)
    };
    let seen = |mesh: &Mesh, mark: &str| mesh.service("mcp").unwrap().backend.seen_with(MARK, mark).len();
    assert_eq!(direct.send(tool("free")).await.unwrap().status, 200);
    assert_eq!(seen(&mesh, "free"), 1);

    let database = SqliteConnectOptions::new().filename(mesh.run.file("policy-server/ostiary.db"));
    let mut disk = sqlx::SqliteConnection::connect_with(&database).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut disk).await.unwrap();
    let call = tokio::spawn({
        let (client, call) = (direct.clone().within(LIMIT), tool("held"));
        async move { client.send(call).await }
    });
    wait::until("the call to wait", LIMIT, async || {
        let envoy = &mesh.service("mcp").unwrap().envoy;
        (envoy.stat("http.inbound.downstream_rq_active").await.ok()? == 1).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(seen(&mesh, "held"), 0);
    sqlx::query("COMMIT").execute(&mut disk).await.unwrap();
    disk.close().await.unwrap();
    let answer = call.await.unwrap().unwrap();
    assert_eq!((answer.status, seen(&mesh, "held")), (200, 1), "{answer:?}");

    // A batch that fails before the next call would have that denied without a wait, and so without an end.
    wait::until("the ends of all that was permitted", LIMIT, async || {
        let records = stored(&mesh).await;
        let count = |field: &str, value: &str| records.iter().filter(|record| record[field] == value).count();
        (count("verdict", "permit") == count("kind", "completion")).then_some(())
    })
    .await
    .unwrap();
    mesh.policy_server.stop_server().await.unwrap();
    for _ in 0..4 {
        let answer = direct.send(tool("away")).await.unwrap();
        assert_eq!(
            (answer.status, answer.code().as_deref()),
            (503, Some("records_unavailable"))
        );
    }
    assert_eq!(seen(&mesh, "away"), 0);
    // A service with `record: batched` goes on.
    let warehouse = mesh.service("warehouse").unwrap().authority();
    let read = Call::new("GET", &warehouse, "/v1/tables/sales_q1_2026").bearer(&token);
    let answer = mesh.direct("warehouse", "analyst-7").unwrap().send(read).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");

    mesh.policy_server.start_server().await.unwrap();
    let again = wait::until("tools to be called again", LIMIT, async || {
        (direct.send(tool("again")).await.ok()?.status == 200).then_some(())
    });
    again.await.unwrap();
    let ends = wait::until("the records of what was not delivered", LIMIT, async || {
        let mut ends = stored(&mesh).await;
        ends.retain(|record| record["end"] == "not_delivered");
        (!ends.is_empty()).then_some(ends)
    });
    assert!(
        ends.await
            .unwrap()
            .iter()
            .all(|end| end["code"] == "records_unavailable")
    );
}
