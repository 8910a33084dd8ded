#![expect(clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use crate::testing::{SESSION_KEY, World};

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

/// A request of a session that is no message, where the session's id is bound to its holder.
fn of_session(method: &'static str) -> World {
    let request = World::mcp().with(|w| w.bundle["session_keys"] = json!([SESSION_KEY]));
    let mut request = request.without_body(method, "/mcp");
    for name in ["mcp-protocol-version", "mcp-method", "mcp-name"] {
        request.drop_header(name);
    }
    request.header("mcp-session-id", &request.session("s-1"));
    request
}

/// Where its id is bound to its holder, a session may be ended by that holder, who alone may hear what its server says.
#[test]
fn a_session_ends_by_delete_and_speaks_by_get() {
    for (method, without_session, resumed) in [
        ("DELETE", "mcp_malformed", "mcp_header_mismatch"),
        ("GET", "method_not_allowed", "method_not_allowed"),
    ] {
        let request = || of_session(method);
        assert_eq!(request().code(), "ok");
        assert_eq!(request().with(|w| w.claims = Value::Null).code(), "token_missing");
        for (name, value, code) in [
            ("mcp-protocol-version", "2025-11-25", "ok"),
            ("mcp-protocol-version", "2026-07-28", "method_not_allowed"),
            ("mcp-protocol-version", "2024-11-05", "mcp_header_mismatch"),
            ("mcp-method", "tools/call", "mcp_header_mismatch"),
            ("mcp-name", "pandas", "mcp_header_mismatch"),
            ("last-event-id", "1", resumed),
            ("last_event_id", "1", resumed),
        ] {
            let code_of = request().with(|w| w.header(name, value)).code();
            assert_eq!(code_of, code, "{method}, {name}: {value}");
        }
        let alone = request().with(|w| w.drop_header("mcp-session-id"));
        assert_eq!(alone.code(), without_session, "{method}");
        assert_eq!(request().with(|w| w.body = b"{}".to_vec()).code(), "mcp_malformed");
        assert_eq!(request().with(|w| w.path = "/mcp/".to_owned()).code(), "route_unknown");
        let unbound = request().with(|w| w.bundle["session_keys"] = json!([]));
        assert_eq!(unbound.code(), "method_not_allowed", "nobody would know whose it is");
        let many = request().with(|w| w.bundle["session_keys"] = json!(vec!["A".repeat(43); 9]));
        assert_eq!(many.code(), "policy_unavailable");
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
    for (id, code) in [
        ("0", "ok"),
        ("-1", "ok"),
        ("-0", "mcp_malformed"),
        ("1e0", "mcp_malformed"),
    ] {
        let ping = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        assert_eq!(with_body(ping.as_bytes()), code, "{id}");
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
        "prompts/gets",
        "resources/write",
        "tasks/gets",
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

/// A request of the older revisions with these params.
#[expect(clippy::needless_pass_by_value, reason = "calls read better with `json!` in them")]
fn named(method: &str, params: Value) -> World {
    World::legacy_mcp("pandas", json!({}))
        .with(|w| w.rpc(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})))
}

#[test]
fn a_prompt_is_authorised_by_its_name() {
    let code = |name: &str| named("prompts/get", json!({"name": name, "arguments": {}})).code();
    assert_eq!(code("greet"), "ok");
    assert_eq!(code("audit"), "prompt_not_in_policy");
    assert_eq!(code("pandas"), "prompt_not_offered");
    assert_eq!(code("review"), "scope_not_granted");
    let review = |table: &str| named("prompts/get", json!({"name": "review", "arguments": {"table": table}}));
    assert_eq!(review("sales_q1_2026").code(), "ok");
    let denied = review("hr").verdict();
    assert_eq!(
        (denied.code, denied.needed.prompt.as_deref()),
        ("scope_not_in_policy", Some("review"))
    );
    let unlisted = named("prompts/get", json!({"name": "greet"}));
    assert_eq!(unlisted.code(), "ok");
    assert_eq!(
        unlisted
            .with(|w| w.bundle["agents"][0]["prompts"] = json!(["lab/greet"]))
            .code(),
        "prompt_not_in_policy"
    );
}

#[test]
fn a_resource_is_authorised_by_its_uri() {
    for method in ["resources/read", "resources/subscribe", "resources/unsubscribe"] {
        let code = |uri: &str| named(method, json!({"uri": uri})).code();
        assert_eq!(code("memo://a"), "ok");
        assert_eq!(code("memo://b"), "resource_not_in_policy");
        assert_eq!(code("memo://c"), "resource_not_offered");
        assert_eq!(code("table://sales/sales_q1_2026"), "ok");
        assert_eq!(code("table://sales/hr"), "scope_not_in_policy");
        assert_eq!(code("table://sales/costs"), "scope_not_granted");
        assert_eq!(code("table://sales/A"), "scope_not_granted");
        assert_eq!(code("table://sales/{table}"), "scope_not_granted");
    }
    let denied = named("resources/read", json!({"uri": "table://sales/hr"})).verdict();
    assert_eq!(denied.needed.resource.as_deref(), Some("table://sales/hr"));
    let elsewhere = named("resources/read", json!({"uri": "memo://a"}));
    for (listed, code) in [
        ("mcp/memo://a", "ok"),
        ("lab/memo://a", "resource_not_in_policy"),
        ("tools/lab/memo://a", "resource_not_in_policy"),
    ] {
        let world = elsewhere
            .clone()
            .with(|w| w.bundle["agents"][0]["resources"] = json!([listed]));
        assert_eq!(world.code(), code, "{listed}");
    }
}

#[test]
fn values_are_completed_for_what_may_be_used() {
    let code = |reference: Value, context: Value| {
        let mut params = json!({"ref": reference, "argument": {"name": "x", "value": ""}});
        if !context.is_null() {
            params["context"] = json!({ "arguments": context });
        }
        named("completion/complete", params).code()
    };
    let prompt = |name: &str| json!({"type": "ref/prompt", "name": name});
    let resource = |uri: &str| json!({"type": "ref/resource", "uri": uri});
    assert_eq!(code(prompt("greet"), json!(null)), "ok");
    assert_eq!(code(prompt("audit"), json!(null)), "prompt_not_in_policy");
    assert_eq!(code(prompt("review"), json!(null)), "scope_not_granted");
    assert_eq!(code(prompt("review"), json!({"table": "sales_q1_2026"})), "ok");
    assert_eq!(code(resource("memo://a"), json!(null)), "ok");
    assert_eq!(code(resource("memo://b"), json!(null)), "resource_not_in_policy");
    let template = "table://sales/{table}";
    assert_eq!(code(resource(template), json!(null)), "scope_not_granted");
    assert_eq!(code(resource(template), json!({"table": "sales_q1_2026"})), "ok");
    assert_eq!(code(resource(template), json!({"table": "hr"})), "scope_not_in_policy");
    assert_eq!(
        code(resource("table://sales/sales_q1_2026"), json!(null)),
        "resource_not_offered"
    );
    for reference in [
        json!({}),
        json!([]),
        json!({"type": "ref/prompt"}),
        json!({"type": "ref/prompt", "uri": "memo://a"}),
        json!({"type": "ref/resource", "name": "greet"}),
        json!({"type": "ref/prompt", "name": "greet", "uri": "memo://a"}),
        json!({"type": "ref/prompt", "name": "greet", "Name": "audit"}),
    ] {
        assert_eq!(code(reference.clone(), json!(null)), "mcp_malformed", "{reference}");
    }
}

#[test]
fn what_belongs_to_a_completion_is_taken_and_nothing_else() {
    let fine = json!({
        "ref": {"type": "ref/prompt", "name": "greet", "title": "Greet"},
        "argument": {"name": "a", "value": "b"},
        "context": {"arguments": {"c": "d"}},
        "_meta": {},
    });
    assert_eq!(named("completion/complete", fine.clone()).code(), "ok");
    for (member, wrong) in [
        ("argument", json!("a")),
        ("context", json!([])),
        ("context", json!({"arguments": []})),
        ("context", json!({"Arguments": {}})),
        ("ref", json!({"type": "ref/prompt", "name": "greet", "Title": "Greet"})),
    ] {
        let mut bent = fine.clone();
        bent[member] = wrong;
        assert_eq!(
            named("completion/complete", bent.clone()).code(),
            "mcp_malformed",
            "{bent}"
        );
    }
    let arguments = named("tools/call", json!({"name": "pandas", "arguments": []})).verdict();
    let told = arguments.detail.as_deref();
    assert_eq!(
        (arguments.code, told),
        ("mcp_malformed", Some("`params.arguments` is no object"))
    );
}

#[test]
fn a_subscription_needs_all_that_it_names() {
    let code = |notifications: Value| named("subscriptions/listen", json!({ "notifications": notifications })).code();
    let uris = |uris: Value| json!({ "resourceSubscriptions": uris });
    assert_eq!(code(json!({"toolsListChanged": true})), "ok");
    assert_eq!(
        code(uris(json!(["memo://a", "memo://a", "table://sales/sales_q1_2026"]))),
        "ok"
    );
    assert_eq!(code(uris(json!(["memo://a", "memo://b"]))), "resource_not_in_policy");
    assert_eq!(code(uris(json!(["memo://a", "memo://c"]))), "resource_not_offered");
    assert_eq!(code(uris(json!(vec!["memo://a"; 24]))), "ok");
    assert_eq!(code(uris(json!(vec!["memo://a"; 25]))), "mcp_malformed");
    assert_eq!(code(uris(json!("memo://a"))), "mcp_malformed");
    assert_eq!(code(uris(json!([1]))), "mcp_malformed");
    assert_eq!(code(json!({"taskIds": []})), "ok");
    assert_eq!(code(json!({"taskIds": ["t"]})), "task_refused");
    assert_eq!(code(json!({"tasks": []})), "mcp_malformed");
    assert_eq!(code(json!(null)), "mcp_malformed");
}

#[test]
fn params_of_every_method_are_known() {
    for (method, params) in [
        ("prompts/get", json!({"name": "greet"})),
        ("resources/read", json!({"uri": "memo://a"})),
        ("resources/subscribe", json!({"uri": "memo://a"})),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {}, "context": {}}),
        ),
        ("subscriptions/listen", json!({"notifications": {}})),
    ] {
        assert_eq!(named(method, params.clone()).code(), "ok", "{method}");
        for member in ["URI", "Name", "x", "task"] {
            let mut more = params.clone();
            more[member] = json!({});
            assert_eq!(named(method, more).code(), "mcp_malformed", "{method}: {member}");
        }
        let no_id = named(method, params).with(|w| {
            let body: Value = serde_json::from_slice(&w.body).unwrap_or_default();
            w.rpc(json!({"jsonrpc": "2.0", "method": method, "params": body["params"]}));
        });
        assert_eq!(no_id.code(), "mcp_malformed", "{method}");
        assert_eq!(named(method, json!({})).code(), "mcp_malformed", "{method}");
    }
    let uri = |uri: &str| {
        let world = named("resources/read", json!({ "uri": uri }));
        world
            .with(|w| w.bundle["services"][1]["body_limit_bytes"] = json!(2048))
            .code()
    };
    assert_eq!(uri(&format!("memo://{}", "a".repeat(1017))), "resource_not_offered");
    for bad in [
        "",
        "memo://a ",
        "memo://\u{e9}",
        &format!("memo://{}", "a".repeat(1018)),
    ] {
        assert_eq!(uri(bad), "mcp_malformed", "{bad}");
    }
}

#[test]
fn what_is_told_of_a_list_is_what_may_be_used() {
    use crate::protocol::list::List;
    let world = named("tools/list", json!({}));
    let told = |list: List, names: &[&str]| -> Vec<String> {
        let told = names.iter().filter(|name| world.is_told(list, name));
        told.map(|name| (*name).to_owned()).collect()
    };
    let tools = [
        "pandas",
        "matplotlib",
        "bash",
        "sql_query",
        "http",
        "numpy",
        "Pandas",
        "",
    ];
    assert_eq!(told(List::Tools, &tools), ["pandas", "sql_query"]);
    assert_eq!(
        told(List::Prompts, &["greet", "audit", "review", "draft"]),
        ["greet", "review"]
    );
    let resources = [
        "memo://a",
        "memo://b",
        "memo://c",
        "table://sales/sales_q1_2026",
        "table://sales/hr",
        "table://sales/{table}",
    ];
    assert_eq!(
        told(List::Resources, &resources),
        ["memo://a", "table://sales/sales_q1_2026"]
    );
    let templates = ["table://sales/{table}", "table://sales/{x}", "memo://a"];
    assert_eq!(told(List::Templates, &templates), ["table://sales/{table}", "memo://a"]);
    // A tool whose every call would want a scope that is not held.
    let without = world
        .clone()
        .with(|w| w.claims["scope"] = json!(["read:data.hr", "read:other.sales_q1_2026"]));
    assert!(!without.is_told(List::Tools, "sql_query"));
    assert!(!without.is_told(List::Prompts, "review"));
    assert!(!without.is_told(List::Templates, "table://sales/{table}"));
    assert!(without.is_told(List::Tools, "pandas"));
}
