//! Agents' states over the HTTP interface: who may change them, what sidecars are told, and what stays recorded.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::support::{
    ANALYST, ANALYST_FILE, AUDITOR, Answer, NOW, OPERATOR, ORCHESTRATOR, Place, REVIEWER, SCHEDULER, Server, WAREHOUSE,
    post, xfcc,
};
use authz::identity::AgentId;
use authz::state::AgentState;
use axum::body::Body;
use http::{Request, StatusCode};
use policy_server::routes;
use serde_json::{Value, json};

fn request() -> Value {
    json!({ "agent_id": "analyst-7", "operation_id": "o", "scope": ["read:data.sales"] })
}

fn analyst() -> AgentId {
    "analyst-7".parse().unwrap()
}

async fn ask(server: &Server, peer: &str, change: &str, reason: &str) -> Answer {
    let path = format!("/v1/agents/analyst-7/{change}");
    let body = json!({ "reason": reason }).to_string();
    server.send(post(&path, peer, "application/json", body)).await
}

async fn get(server: &Server, peer: &str, path: &str) -> Answer {
    let request = Request::get(path).header("x-forwarded-client-cert", xfcc(peer));
    server.send(request.body(Body::empty()).unwrap()).await
}

/// What sidecars are told.
async fn told(server: &Server) -> AgentState {
    server.first(WAREHOUSE).await.1.agent_state(&analyst())
}

#[tokio::test]
async fn an_agent_is_paused_approved_suspended_killed_and_resumed_and_every_step_is_told_and_recorded() {
    let place = Place::new();
    let server = Server::start(&place).await;
    for (peer, change, state, code) in [
        (REVIEWER, "pause", AgentState::Paused, "agent_paused"),
        (REVIEWER, "approve", AgentState::Active, ""),
        (OPERATOR, "pause", AgentState::Paused, "agent_paused"),
        (REVIEWER, "suspend", AgentState::Suspended, "agent_suspended"),
        (OPERATOR, "kill", AgentState::Killed, "agent_killed"),
        (OPERATOR, "resume", AgentState::Active, ""),
    ] {
        server.advance(10);
        let answer = ask(&server, peer, change, &format!("to {change}")).await;
        assert_eq!(answer.status, StatusCode::OK, "{change}: {answer:?}");
        assert_eq!(answer.json()["state"], state.as_str());
        assert_eq!(answer.json()["changed"], true);
        assert_eq!(told(&server).await, state);
        server.advance(1);
        assert_eq!(server.token(ORCHESTRATOR, &request()).await.code(), code, "{change}");
    }
    let shown = get(&server, AUDITOR, "/v1/agents/analyst-7").await.json();
    assert_eq!(
        (&shown["state"], &shown["identity"]),
        (&json!("active"), &json!(ANALYST))
    );
    let changes: Vec<_> = shown["changes"].as_array().unwrap().iter().collect();
    assert_eq!(changes.len(), 6);
    let last = json!({
        "change": "resume", "from": "killed", "to": "active", "role": "operator", "by": OPERATOR,
        "reason": "to resume", "at": NOW + 65,
    });
    assert_eq!(*changes[0], last);
    assert_eq!(
        (&changes[2]["role"], &changes[2]["by"]),
        (&json!("reviewer"), &json!(REVIEWER))
    );
    server.stop().await;
}

/// Of a suspended agent every token dies, those of the same second too, and none comes back with the agent.
#[tokio::test]
async fn resuming_needs_new_tokens() {
    let place = Place::new();
    let server = Server::start(&place).await;
    assert_eq!(server.token(ORCHESTRATOR, &request()).await.status, StatusCode::OK);
    ask(&server, OPERATOR, "suspend", "hijacked").await;
    let (_, list) = server.first(WAREHOUSE).await;
    assert_eq!(
        list.not_before(&analyst()),
        Some(NOW + 1),
        "one of this very second too"
    );
    server.advance(20);
    assert_eq!(ask(&server, OPERATOR, "resume", "mended").await.status, StatusCode::OK);
    let (_, list) = server.first(WAREHOUSE).await;
    assert_eq!(list.agent_state(&analyst()), AgentState::Active);
    assert_eq!(list.not_before(&analyst()), Some(NOW + 21));
    let early = server.token(ORCHESTRATOR, &request()).await;
    assert_eq!(
        (early.status, early.code().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "tokens_reset"),
        "one that would be dead at once is not issued"
    );
    assert!(early.headers.contains_key("retry-after"));
    server.advance(1);
    assert_eq!(server.token(ORCHESTRATOR, &request()).await.status, StatusCode::OK);
    server.stop().await;
}

#[tokio::test]
async fn who_has_no_role_changes_nothing_and_nobody_exceeds_theirs() {
    let place = Place::new();
    let server = Server::start(&place).await;
    for peer in [ANALYST, ORCHESTRATOR, SCHEDULER, WAREHOUSE, AUDITOR] {
        for change in ["approve", "pause", "resume", "suspend", "kill"] {
            let answer = ask(&server, peer, change, "because").await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::FORBIDDEN, "role_missing"),
                "{peer} {change}"
            );
        }
    }
    for change in ["suspend", "kill"] {
        let answer = ask(&server, REVIEWER, change, "because").await;
        assert_eq!(
            answer.code(),
            "role_missing",
            "an active agent is no reviewer's: {change}"
        );
        assert!(answer.text("detail").unwrap().contains("an operator"), "{answer:?}");
    }
    for (peer, allowed) in [
        (REVIEWER, true),
        (OPERATOR, true),
        (AUDITOR, true),
        (ORCHESTRATOR, false),
    ] {
        for path in ["/v1/agents", "/v1/agents/analyst-7"] {
            let status = get(&server, peer, path).await.status;
            assert_eq!(status == StatusCode::OK, allowed, "{peer} {path}: {status}");
        }
    }
    assert_eq!(told(&server).await, AgentState::Active);
    let unauthenticated = Request::post("/v1/agents/analyst-7/kill").body(Body::empty()).unwrap();
    assert_eq!(server.send(unauthenticated).await.status, StatusCode::UNAUTHORIZED);
    server.stop().await;
}

/// Whatever roles the configuration gives it: an identity that a file gives to an agent decides about none.
#[tokio::test]
async fn no_agent_approves_anything() {
    let place = Place::new();
    place.configure(&format!("  {ANALYST}: [operator, reviewer, auditor]\n"));
    let server = Server::start(&place).await;
    ask(&server, OPERATOR, "pause", "look").await;
    for change in ["approve", "resume", "suspend", "kill"] {
        let answer = ask(&server, ANALYST, change, "I am fine").await;
        assert_eq!(answer.code(), "role_missing", "{change}");
    }
    assert_eq!(get(&server, ANALYST, "/v1/agents").await.status, StatusCode::FORBIDDEN);
    let body = json!({"jti": "j", "reason": "r"}).to_string();
    let revoked = server
        .send(post("/v1/revocations", ANALYST, "application/json", body))
        .await;
    assert_eq!(revoked.code(), "role_missing");
    assert_eq!(told(&server).await, AgentState::Paused);
    server.stop().await;
}

/// Without a policy nobody knows which callers are agents: trust is taken away as ever, and not given back.
#[tokio::test]
async fn before_there_is_a_policy_trust_is_only_taken_away() {
    let place = Place::new();
    place.write_policy("analyst-7.yaml", "kind: Agent");
    let server = Server::start(&place).await;
    assert_eq!(ask(&server, OPERATOR, "kill", "now").await.status, StatusCode::OK);
    let answer = ask(&server, OPERATOR, "resume", "again").await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "policy_unavailable")
    );
    server.stop().await;
}

#[tokio::test]
async fn a_change_that_is_not_exact_is_refused_and_says_why() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let send = async |path: &str, body: &str| {
        server
            .send(post(path, OPERATOR, "application/json", body.to_owned()))
            .await
    };
    let long = json!({"reason": "x".repeat(1001)}).to_string();
    for (path, body, status, code) in [
        ("analyst-7/kill", "{}", 400, "request_malformed"),
        ("analyst-7/kill", r#"{"reason":" "}"#, 400, "request_malformed"),
        ("analyst-7/kill", r#"{"reason":"a\u0007b"}"#, 400, "request_malformed"),
        ("analyst-7/kill", r#"{"reason":"a","by":"b"}"#, 400, "request_malformed"),
        ("analyst-7/kill", &long, 400, "request_malformed"),
        ("analyst-7/forgive", r#"{"reason":"a"}"#, 404, "not_found"),
        ("analyst-8/kill", r#"{"reason":"a"}"#, 404, "agent_unknown"),
        ("Analyst/kill", r#"{"reason":"a"}"#, 400, "request_malformed"),
        ("analyst-7/resume", r#"{"reason":"a"}"#, 200, ""),
    ] {
        let answer = send(&format!("/v1/agents/{path}"), body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{path} {body}"
        );
    }
    send("/v1/agents/analyst-7/kill", r#"{"reason":"a"}"#).await;
    let answer = send("/v1/agents/analyst-7/pause", r#"{"reason":"a"}"#).await;
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_str()),
        (409, "transition_impossible")
    );
    let again = send("/v1/agents/analyst-7/kill", r#"{"reason":"a"}"#).await;
    assert_eq!(
        (&again.json()["changed"], &again.json()["state"]),
        (&json!(false), &json!("killed"))
    );
    let plain = server
        .send(post("/v1/agents/analyst-7/kill", OPERATOR, "text/plain", "x"))
        .await;
    assert_eq!(plain.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    server.stop().await;
}

#[tokio::test]
async fn states_outlive_the_server_and_the_agents_file() {
    let place = Place::new();
    let server = Server::start(&place).await;
    assert_eq!(ask(&server, OPERATOR, "kill", "rogue").await.status, StatusCode::OK);
    server.stop().await;
    std::fs::remove_file(place.path("policy").join("analyst-7.yaml")).unwrap();
    let server = Server::start(&place).await;
    let listed = get(&server, REVIEWER, "/v1/agents?state=killed").await.json();
    assert_eq!(listed["agents"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["agents"][0]["last_change"]["reason"], "rogue");
    assert!(listed["agents"][0].get("identity").is_none());
    assert_eq!(ask(&server, OPERATOR, "resume", "again").await.status, StatusCode::OK);
    let listed = get(&server, REVIEWER, "/v1/agents").await.json();
    assert_eq!(listed["agents"], json!([]), "active, and no file names it");
    server.stop().await;
}

#[tokio::test]
async fn agents_are_listed_in_pages_and_by_state() {
    let place = Place::new();
    for number in 0..201 {
        let name = format!("a-{number:03}");
        place.write_policy(&format!("{name}.yaml"), &ANALYST_FILE.replace("analyst-7", &name));
    }
    let server = Server::start(&place).await;
    ask(&server, OPERATOR, "pause", "look").await;
    let first = get(&server, AUDITOR, "/v1/agents").await.json();
    assert_eq!(
        (first["agents"].as_array().unwrap().len(), &first["next"]),
        (200, &json!("a-199"))
    );
    let second = get(&server, AUDITOR, "/v1/agents?after=a-199").await.json();
    let ids: Vec<_> = second["agents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|agent| &agent["agent_id"])
        .collect();
    assert_eq!(ids, ["a-200", "analyst-7"]);
    assert!(second.get("next").is_none());
    let paused = get(&server, AUDITOR, "/v1/agents?state=paused").await.json();
    assert_eq!(paused["agents"].as_array().unwrap().len(), 1);
    for query in ["state=asleep", "state=paused&state=paused", "page=2", "after=A"] {
        let answer = get(&server, AUDITOR, &format!("/v1/agents?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn one_token_is_revoked_by_an_operator_alone() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let issued = server.token(ORCHESTRATOR, &request()).await.json();
    let revoke = async |peer: &str, jti: &Value| {
        let body = json!({"jti": jti, "reason": "leaked"}).to_string();
        server
            .send(post("/v1/revocations", peer, "application/json", body))
            .await
    };
    assert_eq!(revoke(REVIEWER, &issued["jti"]).await.code(), "role_missing");
    let answer = revoke(OPERATOR, &issued["jti"]).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        (&answer.json()["agent_id"], &answer.json()["expires_at"]),
        (&json!("analyst-7"), &issued["expires_at"])
    );
    let (_, list) = server.first(WAREHOUSE).await;
    let jti = |text: &str| text.parse().unwrap();
    assert!(list.revoked(&jti(issued["jti"].as_str().unwrap())));
    let foreign = revoke(OPERATOR, &json!("of-another-issuer")).await.json();
    assert_eq!(foreign["expires_at"], NOW + 305, "as long as any token may live");
    assert_eq!(revoke(OPERATOR, &json!("")).await.status, StatusCode::BAD_REQUEST);
    for body in [
        json!({"reason": "r"}),
        json!({"jti": "j", "txn": "t", "reason": "r"}),
        json!({"operation_id": "o o", "reason": "r"}),
        json!({"txn": "t"}),
    ] {
        let asked = post("/v1/revocations", OPERATOR, "application/json", body.to_string());
        assert_eq!(server.send(asked).await.status, StatusCode::BAD_REQUEST, "{body}");
    }
    server.stop().await;
}

/// On the operators' socket the kernel says who asks.
#[tokio::test]
async fn the_servers_own_user_is_an_operator() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let own = routes::operator_router(std::sync::Arc::clone(&server.app));
    let request = Request::post("/v1/agents/analyst-7/kill")
        .header("content-type", "application/json")
        .body(Body::from(r#"{"reason":"now"}"#))
        .unwrap();
    let answer = crate::support::answer(own, request).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let shown = get(&server, AUDITOR, "/v1/agents/analyst-7").await.json();
    assert_eq!(shown["last_change"]["by"], "the server's own user");
    assert_eq!(told(&server).await, AgentState::Killed);
    server.stop().await;
}
