//! The HTTP interface, request by request.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use crate::support::{
    ANALYST, ANALYST_FILE, Answer, NOW, ORCHESTRATOR, Place, SCHEDULER, SERVER, Server, Source, WAREHOUSE, poll, post,
    records, xfcc,
};
use authz::policy::{PolicyError, Version};
use authz::state::AgentState;
use authz::state::transition::Change;
use authz::token::{Issuers, TokenLimits, UnverifiedToken};
use axum::body::Body;
use http::{Request, StatusCode};
use policy_server::app::{App, StartError};
use policy_server::clock::Clock;
use policy_server::config::Config;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

fn request() -> Value {
    json!({
        "agent_id": "analyst-7", "operation_id": "report-2026-q1", "scope": ["read:data.sales"],
        "tools": ["pandas"], "forbidden_tools": ["bash"], "ttl_seconds": 60, "max_tokens": 50_000,
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut body = request();
    body.as_object_mut().unwrap().insert(field.to_owned(), value);
    body
}

#[tokio::test]
async fn a_token_says_what_was_asked_for_and_verifies_by_the_published_keys() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let answer = server.token(ORCHESTRATOR, &request()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let body = answer.json();
    assert_eq!(body["expires_at"], NOW + 60);

    let jwks = server
        .send(Request::get("/.well-known/jwks.json").body(Body::empty()).unwrap())
        .await;
    let mut issuers = Issuers::default();
    issuers.insert(SERVER.parse().unwrap(), serde_json::from_slice(&jwks.body).unwrap());
    let limits = TokenLimits {
        max_lifetime_seconds: 300,
        skew_seconds: 5,
    };
    let token = answer.text("token").unwrap();
    let token = UnverifiedToken::parse(&token).unwrap();
    let token = token.verify(&issuers, &limits, NOW, &authz::jws::NoExternal).unwrap();
    let claims = token.claims();
    assert_eq!(claims.sub.as_str(), ANALYST);
    assert_eq!(claims.issued_by.as_str(), ORCHESTRATOR);
    assert_eq!(claims.jti.as_str(), body["jti"]);
    assert_eq!(claims.txn.as_ref().unwrap().as_str(), body["txn"]);
    assert_eq!(
        (claims.iat, claims.exp, claims.max_tokens),
        (NOW, NOW + 60, Some(50_000))
    );
    assert!(claims.aud.iter().any(|aud| aud.as_str() == WAREHOUSE));
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_is_not_granted_names_the_field() {
    let place = Place::new();
    let server = Server::start(&place).await;
    for (peer, body, status, code, field) in [
        (ANALYST, request(), 403, "role_missing", None),
        (SCHEDULER, request(), 403, "issuer_not_listed", Some("agent_id")),
        (
            ORCHESTRATOR,
            with("agent_id", json!("nobody")),
            404,
            "agent_unknown",
            Some("agent_id"),
        ),
        (
            ORCHESTRATOR,
            with("scope", json!(["read:data.*"])),
            400,
            "wildcard_refused",
            Some("scope/0"),
        ),
        (
            ORCHESTRATOR,
            with("scope", json!(["read:data.other"])),
            403,
            "scope_not_in_policy",
            Some("scope/0"),
        ),
        (
            ORCHESTRATOR,
            with("tools", json!(["matplotlib"])),
            403,
            "tool_not_in_policy",
            Some("tools/0"),
        ),
        (
            ORCHESTRATOR,
            with("ttl_seconds", json!(301)),
            400,
            "ttl_out_of_range",
            Some("ttl_seconds"),
        ),
        (
            ORCHESTRATOR,
            with("ttl_seconds", json!(0)),
            400,
            "ttl_out_of_range",
            Some("ttl_seconds"),
        ),
        (
            ORCHESTRATOR,
            with("sub", json!("x")),
            400,
            "request_malformed",
            Some("sub"),
        ),
        (
            ORCHESTRATOR,
            with("scope", json!("read:data.sales")),
            400,
            "request_malformed",
            Some("scope"),
        ),
    ] {
        let answer = server.token(peer, &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{body}"
        );
        assert_eq!(answer.text("field").as_deref(), field, "{body}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    let twice = r#"{"agent_id":"analyst-7","agent_id":"analyst-7","operation_id":"o"}"#;
    let answer = server
        .send(post("/v1/tokens", ORCHESTRATOR, "application/json", twice))
        .await;
    assert_eq!(answer.code(), "request_malformed");
    let answer = server.send(post("/v1/tokens", ORCHESTRATOR, "text/plain", "{}")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (415, "media_type_refused")
    );
    let answer = server
        .send(post(
            "/v1/tokens",
            ORCHESTRATOR,
            "application/json",
            vec![b' '; 65 << 10],
        ))
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (413, "body_too_large")
    );
    server.app.write_refusals().await;
    server.stop().await;
}

#[tokio::test]
async fn nobody_is_believed_without_the_sidecar() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let bare = Request::post("/v1/tokens").body(Body::empty()).unwrap();
    let mut forged = poll(WAREHOUSE, "");
    forged
        .headers_mut()
        .append("x-forwarded-client-cert", xfcc(WAREHOUSE).parse().unwrap());
    let mut appended = poll(WAREHOUSE, "");
    let both = format!("{},{}", xfcc(WAREHOUSE), xfcc(ANALYST));
    appended
        .headers_mut()
        .insert("x-forwarded-client-cert", both.parse().unwrap());
    for request in [bare, forged, appended] {
        let answer = server.send(request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (401, "peer_unauthenticated")
        );
        assert!(answer.headers.contains_key("www-authenticate"));
    }
    server.stop().await;
}

#[tokio::test]
async fn an_application_may_neither_poll_nor_post_records() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut source = Source::new(1, ANALYST);
    for mut request in [poll(ANALYST, ""), records(ANALYST, source.batch(1))] {
        request.headers_mut().remove("ostiary-callout");
        let answer = server.send(request).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (403, "endpoint_refused")
        );
    }
    let mut twice = poll(ANALYST, "");
    twice.headers_mut().append("ostiary-callout", "1".parse().unwrap());
    assert_eq!(server.send(twice).await.code(), "endpoint_refused");
    assert_eq!(server.app.store().record_count().await.unwrap(), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_workload_is_told_its_own_policy_and_no_other() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let (bundle, state) = server.first(WAREHOUSE).await;
    assert_eq!(bundle.services().len(), 1);
    assert!(bundle.agent("analyst-7").is_some());
    assert_eq!(state.issued_at(), NOW);
    let answer = server.poll(WAREHOUSE, "").await;
    let jws = answer.text("bundle").unwrap();
    assert_eq!(
        server.verify_bundle(&jws, ANALYST, None).unwrap_err(),
        PolicyError::Audience
    );
    let answer = server.poll("spiffe://cluster.local/ns/data/sa/stranger", "").await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (404, "workload_unknown")
    );
    let answer = server.poll(WAREHOUSE, "formats=6").await;
    assert_eq!(answer.code(), "format_unsupported");
    server.stop().await;
}

/// A poll of a workload that has been told all there is, held by the server.
struct HeldPoll {
    query: String,
    /// The version of the state list that the workload has.
    state: Version,
    answer: JoinHandle<Answer>,
}

impl HeldPoll {
    async fn of(server: &Server, workload: &str) -> Self {
        let (bundle, state) = server.first(workload).await;
        let query = format!("bundle={}&state={}&formats=1", bundle.version(), state.version());
        let answer = tokio::spawn(crate::support::answer(server.router.clone(), poll(workload, &query)));
        wait_for(|| server.app.metrics.polls.get() == 1).await;
        Self {
            query,
            state: state.version(),
            answer,
        }
    }

    async fn answered(self) -> Answer {
        let limit = Duration::from_secs(60);
        tokio::time::timeout(limit, self.answer).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_poll_is_held_until_something_changes_and_brings_only_that() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let poll = HeldPoll::of(&server, WAREHOUSE).await;
    let agent = "analyst-7".parse().unwrap();
    server.change(&agent, Change::Pause).await;
    let held = poll.state;
    let answer = poll.answered().await;
    assert_eq!(answer.text("bundle"), None);
    let newer = server.verify_state(&answer.text("state").unwrap(), Some(held));
    assert!(newer.version() > held);
    assert_eq!(newer.agent_state(&agent), AgentState::Paused);
    assert_eq!(server.token(ORCHESTRATOR, &request()).await.code(), "agent_paused");
    server.change(&agent, Change::Approve).await;
    assert_eq!(server.token(ORCHESTRATOR, &request()).await.status, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn a_held_poll_is_answered_when_the_server_stops() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let poll = HeldPoll::of(&server, WAREHOUSE).await;
    server.stop().await;
    let answer = poll.answered().await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_caller_that_goes_away_gives_its_place_back() {
    let place = Place::new();
    place.configure("limits: { pollsPerPeer: 1 }\n");
    let server = Server::start(&place).await;
    let poll = HeldPoll::of(&server, WAREHOUSE).await;
    let answer = server.poll(WAREHOUSE, &poll.query).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (429, "too_many_requests")
    );
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(
        server.poll(ANALYST, "").await.status,
        StatusCode::OK,
        "another peer is not affected"
    );
    poll.answer.abort();
    wait_for(|| server.app.metrics.polls.get() == 0).await;
    assert_eq!(server.poll(WAREHOUSE, "").await.status, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn a_bundle_is_renewed_at_half_its_lifetime_and_not_before() {
    let place = Place::new();
    place.configure("bundle: { lifetimeSeconds: 100 }\n");
    let server = Server::start(&place).await;
    let (first, _) = server.first(WAREHOUSE).await;
    server.advance(49);
    let (second, _) = server.first(WAREHOUSE).await;
    assert_eq!(second.version(), first.version());
    server.advance(1);
    let (third, _) = server.first(WAREHOUSE).await;
    assert!(third.version() > first.version());
    assert_eq!(third.expires_at(), NOW + 150);
    server.stop().await;
}

#[tokio::test]
async fn changed_files_are_put_in_force_and_bad_ones_keep_the_last_good_policy() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let (first, _) = server.first(WAREHOUSE).await;
    let (mcp, _) = server.first("spiffe://cluster.local/ns/tools/sa/mcp").await;

    place.write_policy("analyst-7.yaml", &ANALYST_FILE.replace("tools:", "tolls:"));
    wait_for(|| !server.app.policy_status().current).await;
    let problems = server.app.policy_status().problems;
    assert!(
        problems.iter().any(|problem| problem.contains("analyst-7.yaml:6:")),
        "{problems:?}"
    );
    let ready = server.send(Request::get("/readyz").body(Body::empty()).unwrap()).await;
    assert_eq!(
        (ready.status, ready.json()["policy_current"].clone()),
        (StatusCode::OK, json!(false))
    );
    let (same, _) = server.first(WAREHOUSE).await;
    assert_eq!(same.version(), first.version());

    place.write_policy("analyst-7.yaml", &ANALYST_FILE.replace("[pandas]", "[]"));
    wait_for(|| server.app.policy_status().current).await;
    let (newer, _) = server.first("spiffe://cluster.local/ns/tools/sa/mcp").await;
    assert!(newer.version() > mcp.version());
    let refused = server.token(ORCHESTRATOR, &request()).await;
    assert_eq!(refused.code(), "tool_not_in_policy");
    let metrics = server.send(Request::get("/metrics").body(Body::empty()).unwrap()).await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    assert!(
        metrics.contains("ostiary_policy_reloads_total{code=\"refused\"} 1"),
        "{metrics}"
    );
    server.stop().await;
}

#[tokio::test]
async fn without_a_valid_policy_the_server_runs_but_is_not_ready() {
    let place = Place::new();
    place.write_policy("analyst-7.yaml", "kind: Agent");
    let server = Server::start(&place).await;
    let ready = server.send(Request::get("/readyz").body(Body::empty()).unwrap()).await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    let answer = server.poll(WAREHOUSE, "").await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (503, "policy_unavailable")
    );
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(
        server.token(ORCHESTRATOR, &request()).await.code(),
        "policy_unavailable"
    );
    place.write_policy("analyst-7.yaml", ANALYST_FILE);
    wait_for(|| server.app.policy_status().current).await;
    let ready = server.send(Request::get("/readyz").body(Body::empty()).unwrap()).await;
    assert_eq!(ready.status, StatusCode::OK, "{ready:?}");
    server.stop().await;
}

#[tokio::test]
async fn keys_versions_and_states_survive_a_restart() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let agent = "analyst-7".parse().unwrap();
    server.change(&agent, Change::Kill).await;
    let (bundle, state) = server.first(WAREHOUSE).await;
    let kids = |server: &Server| {
        let keys = server.app.keys.in_force();
        (keys.token.kid().to_owned(), keys.bundle.kid().to_owned())
    };
    let keys = kids(&server);
    let second = App::start(Config::load(&place.config()).unwrap(), Clock::system()).await;
    assert!(
        matches!(second, Err(StartError::InUse(_))),
        "one data folder, one server"
    );
    server.stop().await;

    let server = Server::start(&place).await;
    assert_eq!(kids(&server), keys);
    let (newer, newer_state) = server.first(WAREHOUSE).await;
    assert!(newer.version() > bundle.version());
    assert!(newer_state.version() > state.version());
    assert_eq!(newer_state.agent_state(&agent), AgentState::Killed);
    server.stop().await;
}

#[tokio::test]
async fn records_are_stored_once_and_acknowledged_as_often_as_asked() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut source = Source::new(1, WAREHOUSE);
    let first = source.batch(3);
    for _ in 0..2 {
        let answer = server.records(WAREHOUSE, first.clone()).await;
        assert_eq!(
            (answer.status, answer.json()["accepted_through"].clone()),
            (StatusCode::OK, json!(2)),
            "{answer:?}"
        );
    }
    assert_eq!(
        server.records(WAREHOUSE, source.batch(512)).await.json()["accepted_through"],
        514
    );
    assert_eq!(server.app.store().record_count().await.unwrap(), 515);
    server.stop().await;

    let server = Server::start(&place).await;
    assert_eq!(
        server.records(WAREHOUSE, source.batch(1)).await.json()["accepted_through"],
        515
    );
    server.stop().await;
}

#[tokio::test]
async fn records_that_break_the_chain_or_speak_for_another_are_refused() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut source = Source::new(1, WAREHOUSE);
    let mut liar = Source::new(1, WAREHOUSE).telling(2);
    liar.batch(1);
    assert_eq!(server.records(WAREHOUSE, source.batch(2)).await.status, StatusCode::OK);

    let mut gap = Source::new(1, WAREHOUSE);
    gap.batch(4);
    for (peer, body, status, code) in [
        (WAREHOUSE, liar.batch(1), 409, "chain_fork"),
        (WAREHOUSE, liar.batch(3), 409, "chain_fork"),
        (WAREHOUSE, gap.batch(1), 409, "chain_gap"),
        (ANALYST, Source::new(2, WAREHOUSE).batch(1), 403, "workload_mismatch"),
        (ANALYST, Source::new(1, ANALYST).batch(1), 403, "source_refused"),
        (WAREHOUSE, b"{}\n".to_vec(), 400, "record_malformed"),
        (WAREHOUSE, Vec::new(), 400, "record_malformed"),
        (WAREHOUSE, Source::new(3, WAREHOUSE).batch(513), 413, "body_too_large"),
        (WAREHOUSE, vec![b'\n'; (1 << 20) + 1], 413, "body_too_large"),
    ] {
        let answer = server.records(peer, body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{answer:?}"
        );
    }
    let mut altered = Source::new(4, WAREHOUSE).batch(1);
    let place_of_digit = altered.iter().rposition(u8::is_ascii_digit).unwrap();
    if let Some(byte) = altered.get_mut(place_of_digit) {
        *byte = if *byte == b'1' { b'2' } else { b'1' };
    }
    assert_eq!(server.records(WAREHOUSE, altered).await.code(), "record_malformed");
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_opens_sources_too_fast_is_slowed_and_others_are_not() {
    let place = Place::new();
    place.configure("limits: { newSourcesPerMinute: 2 }\n");
    let server = Server::start(&place).await;
    for (id, status) in [(1, 200), (2, 200), (3, 429)] {
        assert_eq!(
            server
                .records(WAREHOUSE, Source::new(id, WAREHOUSE).batch(1))
                .await
                .status
                .as_u16(),
            status
        );
    }
    assert_eq!(
        server.records(ANALYST, Source::new(9, ANALYST).batch(1)).await.status,
        StatusCode::OK
    );
    server.advance(60);
    assert_eq!(
        server
            .records(WAREHOUSE, Source::new(3, WAREHOUSE).batch(1))
            .await
            .status,
        StatusCode::OK
    );
    server.stop().await;
}

#[tokio::test]
async fn many_batches_at_once_are_all_stored() {
    let place = Place::new();
    place.configure("limits: { recordBatchesPerPeer: 64 }\n");
    let server = Server::start(&place).await;
    let mut posts = tokio::task::JoinSet::new();
    for id in 0..40 {
        let body = Source::new(id, WAREHOUSE).batch(20);
        posts.spawn(crate::support::answer(server.router.clone(), records(WAREHOUSE, body)));
    }
    while let Some(answer) = posts.join_next().await {
        assert_eq!(answer.unwrap().status, StatusCode::OK);
    }
    assert_eq!(server.app.store().record_count().await.unwrap(), 800);
    server.stop().await;
}

/// Breaks what the server's database needs for one thing, as a fault of the disk would.
async fn break_table(place: &Place, table: &'static str) {
    use sqlx::Connection;
    let path = place.path("data").join("ostiary.db");
    let mut connection = sqlx::SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    let statement = match table {
        "records" => "ALTER TABLE records RENAME TO broken_records",
        "issued" => "ALTER TABLE issued RENAME TO broken_issued",
        _ => "ALTER TABLE meta RENAME TO broken_meta",
    };
    sqlx::query(statement).execute(&mut connection).await.unwrap();
}

#[tokio::test]
async fn when_the_store_fails_nothing_is_acknowledged_issued_or_called_ready() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut source = Source::new(1, WAREHOUSE);
    assert_eq!(server.records(WAREHOUSE, source.batch(1)).await.status, StatusCode::OK);
    for table in ["records", "issued", "meta"] {
        break_table(&place, table).await;
    }
    let answer = server.records(WAREHOUSE, source.batch(1)).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (503, "records_unavailable")
    );
    assert!(answer.headers.contains_key("retry-after"));
    let answer = server.token(ORCHESTRATOR, &request()).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (503, "store_unavailable")
    );
    assert_eq!(
        answer.text("token"),
        None,
        "a token that is not recorded is not given away"
    );
    let ready = server.send(Request::get("/readyz").body(Body::empty()).unwrap()).await;
    assert_eq!(
        (ready.status.as_u16(), ready.json()["store"].clone()),
        (503, json!(false))
    );
    assert_eq!(
        server
            .send(Request::get("/healthz").body(Body::empty()).unwrap())
            .await
            .status,
        StatusCode::OK
    );
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_too() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let answer = server.send(Request::get("/v2").body(Body::empty()).unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"));
    let answer = server
        .send(Request::get("/v1/tokens").body(Body::empty()).unwrap())
        .await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (405, "method_not_allowed")
    );
    assert!(answer.headers.contains_key("allow"));
    assert_eq!(
        server
            .send(Request::get("/healthz").body(Body::empty()).unwrap())
            .await
            .status,
        StatusCode::OK
    );
    server.stop().await;
}

/// Waits for a condition; fails after a while.
async fn wait_for(condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.unwrap();
}
