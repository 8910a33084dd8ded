//! Revocation of an operation and of a user request, and the endpoints of RFC 7009 and RFC 7662.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::support::{
    ANALYST, AUDITOR, Answer, NOW, OPERATOR, ORCHESTRATOR, Place, REVIEWER, SCHEDULER, Server, WAREHOUSE, post,
};
use authz::state::transition::Change;
use http::StatusCode;
use serde_json::{Value, json};

fn request(operation: &str, txn: &str) -> Value {
    json!({ "agent_id": "analyst-7", "operation_id": operation, "txn": txn, "scope": ["read:data.sales"] })
}

async fn issue(server: &Server, operation: &str, txn: &str) -> Value {
    let answer = server.token(ORCHESTRATOR, &request(operation, txn)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

async fn revoke(server: &Server, peer: &str, body: &Value) -> Answer {
    let asked = post("/v1/revocations", peer, "application/json", body.to_string());
    server.send(asked).await
}

async fn form(server: &Server, peer: &str, path: &str, body: &str) -> Answer {
    let asked = post(path, peer, "application/x-www-form-urlencoded", body.to_owned());
    server.send(asked).await
}

async fn is_revoked(server: &Server, token: &Value) -> bool {
    let (_, list) = server.first(WAREHOUSE).await;
    list.revoked(&token["jti"].as_str().unwrap().parse().unwrap())
}

#[tokio::test]
async fn an_operation_and_a_user_request_are_ended_by_an_operator_alone() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let first = issue(&server, "report", "t1").await;
    let second = issue(&server, "report", "t2").await;
    let other = issue(&server, "other", "t3").await;
    let txn = json!({"txn": "t1", "reason": "the user asked to stop"});
    assert_eq!(revoke(&server, REVIEWER, &txn).await.code(), "role_missing");
    assert_eq!(revoke(&server, ANALYST, &txn).await.code(), "role_missing");
    let answer = revoke(&server, OPERATOR, &txn).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(
        answer.json(),
        json!({"txn": "t1", "tokens": 1, "expires_at": first["expires_at"]})
    );
    assert!(is_revoked(&server, &first).await && !is_revoked(&server, &second).await);
    let again = server.token(ORCHESTRATOR, &request("report", "t1")).await;
    assert_eq!(
        (again.status, again.code().as_str()),
        (StatusCode::FORBIDDEN, "txn_ended")
    );
    assert_eq!(again.text("field").as_deref(), Some("txn"));
    issue(&server, "report", "t4").await;

    let operation = json!({"operation_id": "report", "reason": "INC-42"});
    let answer = revoke(&server, OPERATOR, &operation).await.json();
    assert_eq!(answer["tokens"], 2, "{answer}");
    assert_eq!(answer["refused_until"], NOW + 305);
    assert!(is_revoked(&server, &second).await && !is_revoked(&server, &other).await);
    let again = server.token(ORCHESTRATOR, &request("report", "t5")).await;
    assert_eq!(again.code(), "operation_ended");
    issue(&server, "other", "t5").await;
    server.advance(305);
    issue(&server, "report", "t5").await;
    let again = server.token(ORCHESTRATOR, &request("report", "t1")).await;
    assert_eq!(again.code(), "txn_ended", "a user request does not come again");
    server.stop().await;
}

#[tokio::test]
async fn a_token_is_revoked_by_who_asked_for_it_and_by_operators() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let token = issue(&server, "o", "t").await;
    let body = format!(
        "token={}&token_type_hint=access_token",
        token["token"].as_str().unwrap()
    );
    for (peer, code) in [
        (SCHEDULER, "role_missing"),
        (REVIEWER, "role_missing"),
        (ANALYST, "role_missing"),
    ] {
        let answer = form(&server, peer, "/oauth/revoke", &body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (StatusCode::FORBIDDEN, code),
            "{peer}"
        );
        assert_eq!(answer.text("error").as_deref(), Some("unauthorized_client"));
    }
    assert!(!is_revoked(&server, &token).await);
    for _ in 0..2 {
        let answer = form(&server, ORCHESTRATOR, "/oauth/revoke", &body).await;
        assert_eq!((answer.status, answer.body.as_slice()), (StatusCode::OK, &b""[..]));
        assert!(is_revoked(&server, &token).await);
    }
    let token = issue(&server, "o", "t").await;
    let body = format!("token={}", token["token"].as_str().unwrap());
    assert_eq!(
        form(&server, OPERATOR, "/oauth/revoke", &body).await.status,
        StatusCode::OK
    );
    assert!(is_revoked(&server, &token).await);
    // What cannot be used is as good as revoked; what is no request is not.
    for unknown in ["token=abc", "token=a.b.c", "token=%2e"] {
        let answer = form(&server, ORCHESTRATOR, "/oauth/revoke", unknown).await;
        assert_eq!(answer.status, StatusCode::OK, "{unknown}");
    }
    for malformed in ["", "token=", "token=a&token=b", "tokens=a"] {
        let answer = form(&server, ORCHESTRATOR, "/oauth/revoke", malformed).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{malformed}");
        assert_eq!(answer.text("error").as_deref(), Some("invalid_request"));
    }
    let json = post("/oauth/revoke", ORCHESTRATOR, "application/json", "{}");
    assert_eq!(server.send(json).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    server.stop().await;
}

#[tokio::test]
async fn introspection_says_what_may_be_used_now_to_whom_it_concerns() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let token = issue(&server, "o", "t").await;
    let compact = token["token"].as_str().unwrap();
    let ask = async |peer: &str, token: &str| {
        form(&server, peer, "/oauth/introspect", &format!("token={token}"))
            .await
            .json()
    };
    let known = ask(ORCHESTRATOR, compact).await;
    assert_eq!(known["active"], true, "{known}");
    assert_eq!(
        (&known["scope"], &known["agent_id"], &known["client_id"], &known["txn"]),
        (
            &json!("read:data.sales"),
            &json!("analyst-7"),
            &json!(ORCHESTRATOR),
            &json!("t")
        )
    );
    assert_eq!((&known["exp"], &known["jti"]), (&token["expires_at"], &token["jti"]));
    let inactive = json!({"active": false});
    for peer in [AUDITOR, REVIEWER, OPERATOR] {
        assert_eq!(ask(peer, compact).await["active"], true, "{peer}");
    }
    assert_eq!(ask(SCHEDULER, compact).await, inactive, "it asked for another's");
    let agent = form(&server, ANALYST, "/oauth/introspect", &format!("token={compact}")).await;
    assert_eq!(agent.code(), "role_missing");
    // One bit of the signature: nobody signed this.
    let (rest, last) = compact.split_at(compact.len() - 2);
    let forged = format!("{rest}{}", if last.starts_with('A') { "BA" } else { "AA" });
    assert_eq!(ask(OPERATOR, &forged).await, inactive);
    assert_eq!(ask(OPERATOR, "abc").await, inactive);

    let analyst = "analyst-7".parse().unwrap();
    server.change(&analyst, Change::Pause).await;
    assert_eq!(ask(OPERATOR, compact).await, inactive, "paused");
    server.change(&analyst, Change::Approve).await;
    assert_eq!(
        ask(OPERATOR, compact).await["active"],
        true,
        "approved: the token is good still"
    );
    server.change(&analyst, Change::Suspend).await;
    server.advance(2);
    server.change(&analyst, Change::Resume).await;
    assert_eq!(ask(OPERATOR, compact).await, inactive, "of before the suspension");
    server.advance(2);
    let token = issue(&server, "o", "t").await;
    let compact = token["token"].as_str().unwrap();
    assert_eq!(ask(OPERATOR, compact).await["active"], true);
    server.advance(300);
    assert_eq!(ask(OPERATOR, compact).await, inactive, "expired");
    let token = issue(&server, "o", "t").await;
    let compact = token["token"].as_str().unwrap();
    form(&server, ORCHESTRATOR, "/oauth/revoke", &format!("token={compact}")).await;
    assert_eq!(ask(OPERATOR, compact).await, inactive, "revoked");
    server.stop().await;
}
