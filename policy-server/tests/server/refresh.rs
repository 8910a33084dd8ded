//! Renewing tokens: a client that goes on for half an hour, and one whose agent's score rises.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::support::sidecar::Sidecar;
use crate::support::{MCP, ORCHESTRATOR, Place, Server, WAREHOUSE};
use authz::audit::{Kind, Outcome, Record, RecordedFacts};
use authz::identity::AgentId;
use authz::jws::NoExternal;
use authz::request::Side;
use authz::state::AgentState;
use authz::token::{Issuers, TokenLimits, UnverifiedToken};
use http::StatusCode;
use serde_json::{Value, json};

/// A permitted call of the agent, as the sidecar of the MCP service tells of it.
async fn call(sidecar: &mut Sidecar, server: &Server, tool: &str, request: &str) {
    let record = Record {
        agent_id: Some("analyst-7".into()),
        verdict: Some(Outcome::Permit),
        side: Some(Side::Inbound),
        service: Some("tools/mcp".into()),
        txn: Some(request.into()),
        facts: Some(RecordedFacts {
            right: Some("tool".into()),
            tool: Some(tool.into()),
            ..RecordedFacts::default()
        }),
        ..Record::new(Kind::Decision, server.app.clock.millis())
    };
    sidecar.post(server, &[record]).await;
}

fn analyst() -> AgentId {
    "analyst-7".parse().unwrap()
}

fn score(server: &Server) -> u8 {
    server.app.risk.score(&analyst(), server.app.clock.millis()).0
}

fn request(ttl_seconds: u64) -> Value {
    json!({
        "agent_id": "analyst-7", "operation_id": "o", "txn": "t", "ttl_seconds": ttl_seconds,
        "scope": ["read:data.sales"], "tools": ["pandas"],
    })
}

async fn issue(server: &Server, request: &Value) -> Value {
    let answer = server.token(ORCHESTRATOR, request).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

/// Whether a sidecar would take a token now.
async fn is_good(server: &Server, token: &Value) -> bool {
    let (bundle, states) = server.first(WAREHOUSE).await;
    let _ = bundle;
    let mut issuers = Issuers::default();
    issuers.insert(
        server.app.config.issuer.clone(),
        server.app.keys.in_force().published.clone(),
    );
    let compact = token["token"].as_str().unwrap();
    let verified = UnverifiedToken::parse(compact).unwrap().verify(
        &issuers,
        &TokenLimits::default(),
        server.app.clock.seconds(),
        &NoExternal,
    );
    verified
        .is_ok_and(|token| states.agent_state(&analyst()) == AgentState::Active && !states.revoked(&token.claims().jti))
}

/// It renews each token when three quarters of its time are over.
#[tokio::test]
async fn half_an_hour_of_short_tokens_interrupts_no_call() {
    let place = Place::new();
    place.configure("risk: { act: true }\n");
    let server = Server::start(&place).await;
    let mut sidecar = Sidecar::start(&server, 1, MCP).await;
    let mut token = issue(&server, &request(60)).await;
    let (mut renewals, mut calls) = (0, 0);
    for number in 0..360 {
        server.advance(5);
        let left = token["expires_at"].as_u64().unwrap() - server.app.clock.seconds();
        if left <= 15 {
            token = issue(&server, &request(60)).await;
            assert_eq!(token["expires_at"], server.app.clock.seconds() + 60);
            assert_eq!(token.get("narrowed"), None, "{token}");
            renewals += 1;
        }
        assert!(is_good(&server, &token).await, "call {number}: {token}");
        call(&mut sidecar, &server, "pandas", &format!("request {}", number / 4)).await;
        calls += 1;
    }
    assert_eq!((calls, renewals), (360, 40));
    server.scored().await;
    assert!(is_good(&server, &token).await, "{}", score(&server));
    let unrenewed = issue(&server, &request(60)).await;
    server.advance(66);
    assert!(!is_good(&server, &unrenewed).await, "one that is not renewed is over");
    server.stop().await;
}

#[tokio::test]
async fn a_renewal_of_an_agent_whose_score_rises_is_narrowed_and_then_denied() {
    let place = Place::new();
    place.configure("risk: { act: true }\n");
    let server = Server::start(&place).await;
    let mut sidecar = Sidecar::start(&server, 1, MCP).await;
    for number in 0..400 {
        server.advance(3);
        call(&mut sidecar, &server, "pandas", &format!("request {}", number / 4)).await;
    }
    server.scored().await;
    let before = issue(&server, &request(300)).await;
    assert_eq!(
        (score(&server), before.get("narrowed")),
        (score(&server).min(49), None),
        "{before}"
    );

    let mut odd = 0;
    while score(&server) < 50 {
        server.advance(3);
        call(&mut sidecar, &server, &format!("odd-{odd}"), "hijacked").await;
        server.scored().await;
        odd += 1;
        assert!(odd < 10, "the score does not rise: {}", score(&server));
    }
    assert!(score(&server) < 70, "{} after {odd} calls", score(&server));
    let narrowed = issue(&server, &request(300)).await;
    let now = server.app.clock.seconds();
    assert_eq!(narrowed["expires_at"], now + 60, "{narrowed}");
    assert_eq!(narrowed["narrowed"]["scope"], json!(["read:data.sales"]), "{narrowed}");
    assert_eq!(narrowed["narrowed"]["tools"], Value::Null, "it is known for that tool");
    let why = narrowed["narrowed"]["why"].as_str().unwrap();
    assert!(
        why.starts_with("score ") && why.contains("odd-0 never used in"),
        "{why}"
    );
    let unknown = json!({"agent_id": "analyst-7", "operation_id": "o", "scope": ["read:data.sales"]});
    let denied = server.token(ORCHESTRATOR, &unknown).await;
    assert_eq!(
        (denied.status, denied.code().as_str()),
        (StatusCode::FORBIDDEN, "risk_too_high")
    );

    for _ in 0..10 {
        server.advance(3);
        call(&mut sidecar, &server, &format!("odd-{odd}"), "hijacked").await;
        odd += 1;
    }
    server.scored().await;
    let denied = server.token(ORCHESTRATOR, &request(300)).await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN, "{denied:?}");
    assert!(
        ["agent_paused", "agent_suspended"].contains(&denied.code().as_str()),
        "{denied:?}"
    );
    server.stop().await;
}

/// Where scores are only shown, they take nothing from anybody.
#[tokio::test]
async fn without_leave_to_act_no_token_is_narrowed() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut sidecar = Sidecar::start(&server, 1, MCP).await;
    for number in 0..100 {
        server.advance(3);
        call(&mut sidecar, &server, "pandas", &format!("request {}", number / 4)).await;
    }
    for odd in 0..10 {
        server.advance(3);
        call(&mut sidecar, &server, &format!("odd-{odd}"), "hijacked").await;
    }
    server.scored().await;
    assert!(score(&server) >= 50, "{}", score(&server));
    let token = issue(&server, &request(300)).await;
    assert_eq!(
        (&token["expires_at"], token.get("narrowed")),
        (&json!(server.app.clock.seconds() + 300), None)
    );
    server.stop().await;
}
