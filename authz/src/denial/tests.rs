#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;

fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
    response
        .headers
        .iter()
        .find(|(other, _)| *other == name)
        .map(|(_, value)| value.as_str())
}

fn json(response: &Response) -> serde_json::Value {
    serde_json::from_slice(&response.body).unwrap()
}

#[test]
fn every_code_has_its_own_word_and_a_status_of_denials() {
    for code in Code::ALL {
        assert_eq!(code.as_str().parse::<Code>().unwrap(), *code);
        assert!(
            [400, 401, 403, 404, 405, 413, 415, 421, 500, 502, 503].contains(&code.status()),
            "{code}"
        );
        let passes_by_itself = code.status() == 503 || *code == Code::AgentPaused;
        assert_eq!(code.retry_after_seconds().is_some(), passes_by_itself, "{code}");
        let reserved = -32_768..=-32_000;
        let of_protocol = ["mcp_", "a2a_"].iter().any(|prefix| code.as_str().starts_with(prefix));
        let own_of_protocol =
            of_protocol && code.status() == 400 || matches!(code, Code::TaskMismatch | Code::McpTaskMismatch);
        assert_eq!(reserved.contains(&code.rpc_code()), own_of_protocol, "{code}");
    }
    let words: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(words.len(), Code::ALL.len());
    assert!("ok".parse::<Code>().is_err());
}

#[test]
fn a_problem_names_what_was_needed() {
    let needed = Needed {
        scope: Some("read:data.sales".to_owned()),
        ..Needed::default()
    };
    let denial = Denial::new(Code::ScopeNotGranted, "the token does not hold the scope").with_needed(needed);
    let response = denial.render(Form::Problem, None, Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    assert_eq!(response.status, 403);
    assert_eq!(header(&response, "content-type"), Some("application/problem+json"));
    assert_eq!(header(&response, "cache-control"), Some("no-store"));
    assert_eq!(header(&response, DENIAL_HEADER), Some("scope_not_granted"));
    assert_eq!(
        header(&response, "www-authenticate"),
        Some("Bearer realm=\"ostiary\", error=\"insufficient_scope\", scope=\"read:data.sales\"")
    );
    assert_eq!(
        json(&response),
        serde_json::json!({
            "type": "https://ostiary.dev/denials#scope_not_granted",
            "title": "The token does not grant the needed scope",
            "status": 403,
            "code": "scope_not_granted",
            "detail": "the token does not hold the scope",
            "needed": {"scope": "read:data.sales"},
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        })
    );
}

#[test]
fn a_challenge_says_invalid_token_only_of_a_token_that_was_shown() {
    let challenge = |code| {
        let response = Denial::new(code, "").render(Form::Problem, None, None);
        header(&response, "www-authenticate").map(str::to_owned)
    };
    assert_eq!(challenge(Code::TokenMissing).unwrap(), "Bearer realm=\"ostiary\"");
    assert_eq!(
        challenge(Code::TokenExpired).unwrap(),
        "Bearer realm=\"ostiary\", error=\"invalid_token\""
    );
    assert_eq!(
        challenge(Code::ToolNotGranted).unwrap(),
        "Bearer realm=\"ostiary\", error=\"insufficient_scope\""
    );
    assert_eq!(challenge(Code::AgentKilled).unwrap(), "Bearer realm=\"ostiary\"");
    assert_eq!(challenge(Code::ToolForbidden).unwrap(), "Bearer realm=\"ostiary\"");
    assert_eq!(challenge(Code::PathNotCanonical), None);
}

#[test]
fn an_mcp_caller_gets_an_error_for_its_own_request() {
    let needed = Needed {
        tool: Some("bash".to_owned()),
        ..Needed::default()
    };
    let denial = Denial::new(Code::ToolForbidden, "the tool is forbidden to this agent").with_needed(needed);
    let response = denial
        .clone()
        .with_rpc_id(Some("\"a\\\"1\""))
        .render(Form::JsonRpc, Some("7"), None);
    assert_eq!(
        (response.status, header(&response, "content-type")),
        (403, Some("application/json"))
    );
    let body = json(&response);
    assert_eq!(body["id"], "a\"1");
    assert_eq!(
        (&body["jsonrpc"], &body["error"]["code"]),
        (&"2.0".into(), &(-31403).into())
    );
    assert_eq!(body["error"]["data"]["code"], "tool_forbidden");
    assert_eq!(body["error"]["data"]["needed"], serde_json::json!({"tool": "bash"}));
    assert_eq!(json(&denial.render(Form::JsonRpc, Some("7"), None))["id"], 7);
    assert!(json(&denial.render(Form::JsonRpc, None, None))["id"].is_null());
}

#[test]
fn codes_that_mcp_defines_are_used() {
    let rpc_code = |denial: Denial| json(&denial.render(Form::JsonRpc, None, None))["error"]["code"].clone();
    assert_eq!(rpc_code(Denial::new(Code::McpBatch, "")), -32600);
    assert_eq!(rpc_code(Denial::new(Code::McpHeaderMismatch, "")), -32020);
    assert_eq!(rpc_code(Denial::new(Code::McpMalformed, "")), -32600);
    assert_eq!(
        rpc_code(Denial::new(Code::McpMalformed, "").with_rpc_code(RPC_PARSE_ERROR)),
        -32700
    );
    assert_eq!(rpc_code(Denial::new(Code::PolicyUnavailable, "")), -31503);
}

#[test]
fn retry_and_allow_are_told() {
    let unavailable = Denial::new(Code::PolicyUnavailable, "").render(Form::Problem, None, None);
    assert_eq!(header(&unavailable, "retry-after"), Some("1"));
    let method = Denial::new(Code::MethodNotAllowed, "")
        .with_allow("POST")
        .render(Form::JsonRpc, None, None);
    assert_eq!(
        (header(&method, "allow"), header(&method, "retry-after")),
        (Some("POST"), None)
    );
}

#[test]
fn a_scope_cannot_leave_its_quotes() {
    let needed = Needed {
        scope: Some("a\"\r\nx: y\\".to_owned()),
        ..Needed::default()
    };
    let denial = Denial::new(Code::ScopeNotGranted, "").with_needed(needed);
    let response = denial.render(Form::Problem, None, None);
    assert!(
        header(&response, "www-authenticate")
            .unwrap()
            .ends_with("scope=\"ax:y\"")
    );
}
