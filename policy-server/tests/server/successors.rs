//! What sidecars are told of live tokens, when others are about to expire.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::support::{ANALYST, Answer, MCP, NOW, OPERATOR, ORCHESTRATOR, Place, Server, WAREHOUSE, post};
use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::{Value, json};

fn question(peer: &str, body: String) -> Request<Body> {
    let mut request = post("/v1/successors", peer, "application/json", body);
    request.headers_mut().insert("ostiary-callout", "1".parse().unwrap());
    request
}

async fn ask(server: &Server, peer: &str, operation: &str) -> Answer {
    let body = json!({"operations": [{"sub": ANALYST, "operation_id": operation}]});
    server.send(question(peer, body.to_string())).await
}

/// The names of the tokens that a service is told of.
async fn told(server: &Server, peer: &str, operation: &str) -> Vec<String> {
    let answer = ask(server, peer, operation).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let tokens = answer.json()["tokens"].as_array().unwrap().clone();
    tokens
        .iter()
        .map(|claims| claims["jti"].as_str().unwrap().to_owned())
        .collect()
}

/// Asks for a token, and gives its name.
async fn issue(server: &Server, fields: &Value) -> String {
    let mut request = json!({"agent_id": "analyst-7", "operation_id": "o", "scope": ["read:data.sales"]});
    for (name, value) in fields.as_object().unwrap() {
        request[name] = value.clone();
    }
    let answer = server.token(ORCHESTRATOR, &request).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.text("jti").unwrap()
}

#[tokio::test]
async fn a_service_is_told_of_live_tokens_that_it_may_be_shown_and_of_no_others() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let short = issue(&server, &json!({"ttl_seconds": 20})).await;
    let long = issue(&server, &json!({"ttl_seconds": 200})).await;
    let elsewhere = issue(&server, &json!({"ttl_seconds": 100, "aud": [MCP]})).await;
    let other = issue(&server, &json!({"operation_id": "p"})).await;
    assert_eq!(told(&server, WAREHOUSE, "o").await, [&*long, &*short]);
    assert_eq!(told(&server, WAREHOUSE, "p").await, [&*other]);
    assert_eq!(told(&server, MCP, "o").await, [&*long, &*elsewhere, &*short]);
    assert_eq!(told(&server, ANALYST, "o").await, [""; 0], "a token is for services");
    let answer = ask(&server, WAREHOUSE, "o").await;
    let claims = authz::successor::read_answer(&answer.body).unwrap();
    assert_eq!((claims[0].exp, claims[0].sub.as_str()), (NOW + 200, ANALYST));

    server.advance(20);
    assert_eq!(
        told(&server, WAREHOUSE, "o").await,
        [&*long],
        "what has expired is no token"
    );
    let body = json!({"jti": long, "reason": "a test"}).to_string();
    let revoked = server
        .send(post("/v1/revocations", OPERATOR, "application/json", body))
        .await;
    assert_eq!(revoked.status, StatusCode::OK, "{revoked:?}");
    assert_eq!(told(&server, WAREHOUSE, "o").await, [""; 0]);
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_question_of_a_sidecar_is_refused() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let operation = json!({"sub": ANALYST, "operation_id": "o"});
    let good = json!({"operations": [operation]}).to_string();
    assert_eq!(
        server.send(question(WAREHOUSE, good.clone())).await.status,
        StatusCode::OK
    );
    let from_an_application = post("/v1/successors", WAREHOUSE, "application/json", good.clone());
    assert_eq!(server.send(from_an_application).await.code(), "endpoint_refused");
    let mut nobody = question(WAREHOUSE, good);
    nobody.headers_mut().remove("x-forwarded-client-cert");
    assert_eq!(server.send(nobody).await.code(), "peer_unauthenticated");
    let most = json!({"operations": vec![operation.clone(); 256]}).to_string();
    assert_eq!(server.send(question(WAREHOUSE, most)).await.status, StatusCode::OK);
    let more = json!({"operations": vec![operation; 257]}).to_string();
    assert_eq!(server.send(question(WAREHOUSE, more)).await.code(), "body_too_large");
    for body in [
        "",
        "{}",
        r#"{"operations":[{"sub":"x","operation_id":"o"}]}"#,
        r#"{"operations":[],"more":1}"#,
        r#"{"operations":[],"operations":[]}"#,
    ] {
        let answer = server.send(question(WAREHOUSE, body.to_owned())).await;
        assert_eq!(answer.code(), "request_malformed", "{body}");
    }
    let long = format!("{{\"operations\":[]{}}}", " ".repeat(256 << 10));
    assert_eq!(server.send(question(WAREHOUSE, long)).await.code(), "body_too_large");
    server.stop().await;
}
