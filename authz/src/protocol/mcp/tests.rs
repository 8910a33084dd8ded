#![expect(clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::is_json;
use crate::testing::World;

fn with_body(body: &[u8]) -> &'static str {
    World::legacy_mcp("pandas", json!({}))
        .with(|w| w.body = body.to_vec())
        .code()
}

fn with_header(name: &str, value: &str) -> &'static str {
    World::mcp().with(|w| w.header(name, value)).code()
}

fn without_header(name: &str) -> &'static str {
    World::mcp().with(|w| w.drop_header(name)).code()
}

fn legacy(method: &str, id: Value, params: Value) -> &'static str {
    let mut body = json!({"jsonrpc": "2.0", "method": method, "params": params});
    if !id.is_null() {
        body["id"] = id;
    }
    with_body(body.to_string().as_bytes())
}

#[test]
fn one_endpoint_one_method_one_type() {
    assert_eq!(World::mcp().code(), "ok");
    assert_eq!(
        World::mcp().with(|w| w.path = "/mcp/".to_owned()).code(),
        "route_unknown"
    );
    assert_eq!(World::mcp().with(|w| w.path = "/mcp?x=1".to_owned()).code(), "ok");
    for method in ["GET", "DELETE", "HEAD", "post"] {
        assert_eq!(
            World::mcp().with(|w| w.method = method).code(),
            "method_not_allowed",
            "{method}"
        );
    }
    assert_eq!(with_header("content-type", "text/plain"), "media_type_refused");
    assert_eq!(without_header("content-type"), "media_type_refused");
    assert_eq!(with_header("content-encoding", "identity"), "ok");
    assert_eq!(with_header("content-encoding", "gzip"), "body_encoded");
}

#[test]
fn json_is_one_type_with_one_parameter() {
    for fine in [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=\"UTF-8\"",
    ] {
        assert!(is_json(fine.as_bytes()), "{fine}");
    }
    for other in [
        "application/json; charset=utf-7",
        "application/json; x=1",
        "application/json; charset=utf-8; x=1",
        "application/json;",
        "application/jsonx",
        "application/vnd.api+json",
        "text/json",
        "",
        "application/json, application/json",
    ] {
        assert!(!is_json(other.as_bytes()), "{other}");
    }
}

#[test]
fn the_body_is_bounded() {
    let body = |length: usize| {
        let start = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pandas"}}"#.to_vec();
        World::legacy_mcp("pandas", json!({})).with(|w| {
            w.body = start;
            w.body.resize(length, b' ');
        })
    };
    assert_eq!(body(1024).code(), "ok");
    assert_eq!(body(1025).code(), "body_too_large");
    assert_eq!(with_header("content-length", "1024"), "ok");
    assert_eq!(with_header("content-length", "1025"), "body_too_large");
}

#[test]
fn the_body_is_one_strict_message() {
    assert_eq!(
        with_body(br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pandas"}}"#),
        "ok"
    );
    assert_eq!(
        with_body(br#" {"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"p\u0061ndas"}} "#),
        "ok"
    );
    for body in [
        r#""#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pandas"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pandas"}}{}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pandas","name":"bash"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pandas","n\u0061me":"bash"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pandas","Name":"bash"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pandas","arguments":[]}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pandas"},"Params":{"name":"bash"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","param\u017f":{},"params":{"name":"pandas"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["pandas"]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"p\u0430ndas"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"pandas "}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7,"params":{"name":"pandas"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"params":{"name":"pandas"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","result":{},"params":{"name":"pandas"}}"#,
        r#"{"jsonrpc":"1.0","id":1,"method":"tools/call","params":{"name":"pandas"}}"#,
        r#"{"id":1,"method":"tools/call","params":{"name":"pandas"}}"#,
        r#""tools/call""#,
        "\u{feff}{}",
    ] {
        assert_eq!(with_body(body.as_bytes()), "mcp_malformed", "{body}");
    }
    assert_eq!(with_body(b"{\"\xff\":1}"), "mcp_malformed");
    assert_eq!(with_body(br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#), "mcp_batch");
    assert_eq!(with_body(b"[]"), "mcp_batch");
    assert_eq!(
        with_body(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
        "mcp_method_refused"
    );
}

#[test]
fn a_request_has_an_id_and_a_notification_none() {
    let call = json!({"name": "pandas"});
    for id in [json!(0), json!(-1), json!("x"), json!(u64::MAX)] {
        assert_eq!(legacy("tools/call", id, call.clone()), "ok");
    }
    for id in [
        json!(null),
        json!(1.5),
        json!(true),
        json!([]),
        json!({}),
        json!("x".repeat(300)),
    ] {
        assert_eq!(legacy("tools/call", id, call.clone()), "mcp_malformed");
    }
    let with_null = br#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#;
    assert_eq!(with_body(with_null), "mcp_malformed");
    assert_eq!(legacy("notifications/initialized", json!(null), json!({})), "ok");
    assert_eq!(
        legacy("notifications/initialized", json!(1), json!({})),
        "mcp_malformed"
    );
    assert_eq!(legacy("ping", json!(null), json!({})), "mcp_malformed");
}

#[test]
fn sessions_need_no_tool_and_other_names_are_refused() {
    for method in [
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "logging/setLevel",
    ] {
        assert_eq!(legacy(method, json!(1), json!({})), "ok", "{method}");
    }
    for method in [
        "prompts/get",
        "resources/read",
        "resources/subscribe",
        "completion/complete",
        "subscriptions/listen",
        "tasks/get",
        "Tools/call",
        "tools/call ",
        "tools/calls",
        "",
    ] {
        assert_eq!(
            legacy(method, json!(1), json!({"name": "pandas"})),
            "mcp_method_refused",
            "{method}"
        );
    }
    let bound = World::mcp().with(|w| w.claims = json!(null));
    assert_eq!(bound.code(), "token_missing");
}

#[test]
fn headers_of_2026_07_28_are_there_and_agree() {
    for missing in ["mcp-method", "mcp-name", "mcp-protocol-version"] {
        assert_eq!(without_header(missing), "mcp_header_mismatch", "{missing}");
    }
    for (name, value) in [
        ("mcp-method", "tools/list"),
        ("mcp-method", "Tools/call"),
        ("mcp-name", "bash"),
        ("mcp-name", "Pandas"),
        ("mcp-name", ""),
        ("mcp-protocol-version", "2025-11-25"),
        ("mcp-protocol-version", "2026-07-29"),
        ("mcp-protocol-version", ""),
        ("mcp-name", "=?base64?YmFzaA==?="),
        ("mcp-name", "=?base64?cGFuZGFz"),
    ] {
        assert_eq!(with_header(name, value), "mcp_header_mismatch", "{name}: {value}");
    }
    assert_eq!(with_header("mcp-name", "=?base64?cGFuZGFz?="), "ok");
    let no_meta = World::mcp().with(|w| {
        w.rpc(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "pandas"}}));
    });
    assert_eq!(no_meta.code(), "mcp_header_mismatch");
}

#[test]
fn headers_agree_in_older_eras_too() {
    let code = |name: &str, value: &str| {
        World::legacy_mcp("pandas", json!({}))
            .with(|w| w.header(name, value))
            .code()
    };
    for version in ["2025-03-26", "2025-06-18", "2025-11-25"] {
        assert_eq!(code("mcp-protocol-version", version), "ok", "{version}");
    }
    assert_eq!(code("mcp-protocol-version", "2024-11-05"), "mcp_header_mismatch");
    assert_eq!(code("mcp-method", "tools/call"), "ok");
    assert_eq!(code("mcp-method", "tools/list"), "mcp_header_mismatch");
    assert_eq!(code("mcp-name", "pandas"), "ok");
    assert_eq!(code("mcp-name", "bash"), "mcp_header_mismatch");
    let list = World::legacy_mcp("pandas", json!({})).with(|w| {
        w.rpc(json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
    });
    assert_eq!(list.code(), "ok");
    assert_eq!(
        list.with(|w| w.header("mcp-name", "pandas")).code(),
        "mcp_header_mismatch"
    );
}

#[test]
fn a_retry_with_answers_is_a_call_like_any_other() {
    let retry = |tool: &str| {
        let params = json!({"name": tool, "arguments": {}, "inputResponses": {"a": {}}, "requestState": "s"});
        legacy("tools/call", json!(1), params)
    };
    assert_eq!(retry("pandas"), "ok");
    assert_eq!(retry("bash"), "tool_forbidden");
}

#[test]
fn an_element_of_an_array_is_named_by_its_index_in_one_spelling() {
    let code = |index: &str, tables: Value| {
        World::legacy_mcp("sql_query", json!({ "tables": tables }))
            .with(|w| {
                let scope = format!("read:data.{{arguments./tables/{index}}}");
                w.bundle["services"][1]["tools"]["sql_query"]["scope"] = scope.into();
            })
            .code()
    };
    let (granted, other) = ("sales_q1_2026", "hr");
    assert_eq!(code("0", json!([granted, other])), "ok");
    assert_eq!(code("0", json!([other, granted])), "scope_not_in_policy");
    assert_eq!(code("1", json!([other, granted])), "ok");
    assert_eq!(code("1", json!([granted])), "scope_not_granted");
    assert_eq!(code("2", json!([other, other, granted])), "ok");
    for index in ["00", "02", "-", "a"] {
        assert_eq!(
            code(index, json!([granted, granted, granted])),
            "scope_not_granted",
            "{index}"
        );
    }
}
