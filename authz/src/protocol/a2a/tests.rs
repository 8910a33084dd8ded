#![expect(clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::message::MAX_ID_BYTES;
use crate::denial::Form;
use crate::testing::{ANALYST, World, message};

/// A message over JSON-RPC whose parameters are changed.
fn send(method: &str, change: impl FnOnce(&mut Value)) -> World {
    let mut params = message();
    change(&mut params);
    rpc(method, params)
}

fn rpc(method: &str, params: Value) -> World {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    World::a2a().with(|w| w.rpc(body))
}

/// The same over REST.
fn rest(change: impl FnOnce(&mut Value)) -> &'static str {
    let mut params = message();
    change(&mut params);
    World::a2a_rest().with(|w| w.rpc(params)).code()
}

/// Leaves tasks to the application.
fn by_application(mut world: World) -> World {
    let service = &mut world.bundle["services"][2];
    service["tasks"] = json!("application");
    service["forward_claims"] = json!(true);
    world
}

const TASKS: [&str; 16] = [
    "GetTask",
    "ListTasks",
    "CancelTask",
    "SubscribeToTask",
    "CreateTaskPushNotificationConfig",
    "GetTaskPushNotificationConfig",
    "ListTaskPushNotificationConfigs",
    "DeleteTaskPushNotificationConfig",
    "tasks/get",
    "tasks/list",
    "tasks/cancel",
    "tasks/resubscribe",
    "tasks/pushNotificationConfig/set",
    "tasks/pushNotificationConfig/get",
    "tasks/pushNotificationConfig/list",
    "tasks/pushNotificationConfig/delete",
];

#[test]
fn a_call_needs_the_agents_name_in_token_and_policy() {
    for world in [World::a2a(), World::a2a_rest()] {
        assert_eq!(world.code(), "ok");
        let verdict = world.verdict();
        assert_eq!(verdict.scope.as_deref(), Some("call:agent.writer-2"));
        let not_granted = world.clone().with(|w| w.claims["scope"] = json!(["read:data.hr"]));
        let verdict = not_granted.verdict();
        assert_eq!(verdict.code, "scope_not_granted");
        assert_eq!(verdict.needed.scope.as_deref(), Some("call:agent.writer-2"));
        for granted in [json!([]), json!(["writer", "analyst-7"])] {
            let not_listed = world.clone().with(|w| w.bundle["agents"][0]["may_call"] = granted);
            assert_eq!(not_listed.code(), "scope_not_in_policy");
        }
        let by_scope = world.clone().with(|w| {
            w.bundle["agents"][0]["may_call"] = json!([]);
            w.bundle["agents"][0]["scope"] = json!(["call:agent.writer-2"]);
        });
        assert_eq!(by_scope.code(), "scope_not_in_policy", "`scope` is for routes");
        let no_token = world.with(|w| w.claims = Value::Null);
        assert_eq!(no_token.code(), "token_missing");
    }
}

#[test]
fn an_id_has_a_longest_length() {
    let named = |bytes: usize| {
        let id = "x".repeat(bytes);
        by_application(send("SendMessage", |params| params["message"]["taskId"] = json!(id))).code()
    };
    // With its quotes.
    assert_eq!(named(MAX_ID_BYTES - 2), "ok");
    assert_eq!(named(MAX_ID_BYTES - 1), "a2a_malformed");
}

#[test]
fn rest_has_its_own_base() {
    let based = |path: &str| {
        World::a2a_rest().with(|w| {
            w.bundle["services"][2]["rest_path"] = json!("/a2a/v1");
            w.path = path.to_owned();
        })
    };
    assert_eq!(based("/a2a/v1/message:send").code(), "ok");
    for elsewhere in [
        "/message:send",
        "/a2a/message:send",
        "/b2b/v1/message:send",
        "/a2a/v2/message:send",
        "/v1/a2a/message:send",
    ] {
        assert_eq!(based(elsewhere).code(), "route_unknown", "{elsewhere}");
    }
}

#[test]
fn a_denial_is_told_in_the_callers_own_binding() {
    assert_eq!(World::a2a().denial_form(), Form::JsonRpc);
    assert_eq!(World::a2a_rest().denial_form(), Form::Problem);
    assert_eq!(World::mcp().denial_form(), Form::JsonRpc);
    assert_eq!(World::warehouse().denial_form(), Form::Problem);
}

#[test]
fn the_card_is_for_those_who_may_call() {
    for path in [
        "/.well-known/agent-card.json",
        "/.well-known/agent.json",
        "/extendedAgentCard",
        "/berlin/extendedAgentCard",
        "/v1/card",
    ] {
        let card = World::a2a_rest().without_body("GET", path);
        assert_eq!(card.code(), "ok", "{path}");
        let stranger = card.clone().with(|w| w.bundle["agents"][0]["may_call"] = json!([]));
        assert_eq!(stranger.code(), "scope_not_in_policy", "{path}");
        assert_eq!(card.without_body("PUT", path).code(), "route_unknown", "{path}");
    }
    assert_eq!(
        World::a2a_rest().without_body("GET", "/v2/card").code(),
        "route_unknown",
        "only 0.3 has a card there"
    );
    for method in ["GetExtendedAgentCard", "agent/getAuthenticatedExtendedCard"] {
        assert_eq!(rpc(method, json!({})).code(), "ok", "{method}");
    }
}

#[test]
fn a_peer_without_capability_may_read_the_card_where_the_file_says_so() {
    let exempt = |path: &str| {
        World::a2a_rest().without_body("GET", path).with(|w| {
            w.claims = Value::Null;
            w.bundle["services"][2]["exempt"] = json!([
                {"peer": ANALYST, "method": "GET", "path": "/.well-known/agent-card.json"},
                {"peer": ANALYST, "method": "GET", "path": "/healthz"},
            ]);
        })
    };
    assert_eq!(exempt("/.well-known/agent-card.json").code(), "ok");
    assert_eq!(exempt("/healthz").code(), "ok");
    assert_eq!(exempt("/extendedAgentCard").code(), "token_missing");
}

#[test]
fn the_methods_of_both_versions_are_known_and_no_others() {
    for method in ["SendMessage", "SendStreamingMessage", "message/send", "message/stream"] {
        assert_eq!(send(method, |_| {}).code(), "ok", "{method}");
    }
    for method in TASKS {
        assert_eq!(rpc(method, json!({"id": "t1"})).code(), "task_refused", "{method}");
        let allowed = by_application(rpc(method, json!({"id": "t1"})));
        assert_eq!(allowed.code(), "ok", "{method}");
    }
    for method in [
        "sendMessage",
        "SENDMESSAGE",
        "message/Send",
        "message/send ",
        "QuerySkill",
        "tasks/delete",
        "tools/call",
        "",
    ] {
        assert_eq!(send(method, |_| {}).code(), "a2a_method_refused", "{method}");
        assert_eq!(
            by_application(send(method, |_| {})).code(),
            "a2a_method_refused",
            "{method}"
        );
    }
}

#[test]
fn whoever_names_a_task_or_a_context_in_a_message_is_refused() {
    for (pointer, member, value) in [
        ("/message", "taskId", json!("t1")),
        ("/message", "task_id", json!("t1")),
        ("/message", "contextId", json!("c1")),
        ("/message", "context_id", json!("c1")),
        ("/message", "referenceTaskIds", json!(["t1"])),
        ("/message", "reference_task_ids", json!(["t1"])),
        (
            "/configuration",
            "taskPushNotificationConfig",
            json!({"url": "http://a"}),
        ),
        ("/configuration", "pushNotificationConfig", json!({"url": "http://a"})),
        ("/configuration", "push_notification", json!({"url": "http://a"})),
    ] {
        let name = |params: &mut Value| {
            if let Some(object) = params.pointer_mut(pointer) {
                object[member] = value.clone();
            }
        };
        for method in ["SendMessage", "message/stream"] {
            assert_eq!(send(method, name).code(), "task_refused", "{member}");
            assert_eq!(by_application(send(method, name)).code(), "ok", "{member}");
        }
        assert_eq!(rest(name), "task_refused", "{member}");
        let nothing = |params: &mut Value| {
            if let Some(object) = params.pointer_mut(pointer) {
                object[member] = if value.is_string() { json!("") } else { Value::Null };
            }
        };
        assert_eq!(rest(nothing), "ok", "{member}");
    }
}

#[test]
fn a_message_is_read_in_the_spellings_that_peers_write() {
    let snake = json!({
        "request": {"message_id": "m1", "role": "ROLE_USER", "content": [{"text": "a"}]},
        "configuration": {"accepted_output_modes": [], "history_length": 1, "blocking": true},
        "metadata": {}, "tenant": "berlin",
    });
    assert_eq!(World::a2a_rest().with(|w| w.rpc(snake)).code(), "ok");
    for change in [
        (|params: &mut Value| params["request"] = params["message"].clone()) as fn(&mut Value),
        |params| params["message"]["message_id"] = json!("m1"),
        |params| {
            params["message"]["task_id"] = json!("");
            params["message"]["taskId"] = Value::Null;
        },
        |params| params["message"]["TaskId"] = json!("t1"),
        |params| params["message"]["ta\u{17f}kId"] = json!("t1"),
        |params| params["Message"] = json!({}),
        |params| params["message"] = Value::Null,
        |params| params["message"] = json!([]),
        |params| params["message"]["taskId"] = json!(1),
        |params| params["message"]["contextId"] = json!("c".repeat(255)),
        |params| params["message"]["referenceTaskIds"] = json!("t1"),
        |params| params["configuration"] = json!("x"),
        |params| params["configuration"]["blockin"] = json!(true),
    ] {
        assert_eq!(rest(change), "a2a_malformed");
        assert_eq!(send("SendMessage", change).code(), "a2a_malformed");
        let by_application = by_application(send("SendMessage", change));
        assert_eq!(by_application.code(), "a2a_malformed");
    }
}

#[test]
fn the_paths_of_rest_are_known_and_no_others() {
    let code = |method: &'static str, path: &str| {
        let world = World::a2a_rest().without_body(method, path);
        (world.code(), by_application(world).code())
    };
    for (method, path) in [
        ("GET", "/tasks"),
        ("GET", "/tasks/t1"),
        ("GET", "/tasks/t1:subscribe"),
        ("POST", "/tasks/t1:subscribe"),
        ("POST", "/tasks/t1:cancel"),
        ("GET", "/tasks/t1/pushNotificationConfigs"),
        ("POST", "/tasks/t1/pushNotificationConfigs"),
        ("GET", "/tasks/t1/pushNotificationConfigs/p1"),
        ("DELETE", "/tasks/t1/pushNotificationConfigs/p1"),
        // A tenant, of whatever name; 0.3's prefix reads as one.
        ("GET", "/berlin/tasks/t1"),
        ("GET", "/v1/tasks/t1"),
        ("GET", "/tasks/tasks"),
        ("GET", "/tasks/tasks/t1"),
        ("GET", "/tasks/extendedAgentCard"),
    ] {
        assert_eq!(code(method, path), ("task_refused", "ok"), "{method} {path}");
    }
    let unknown = ("route_unknown", "route_unknown");
    for (method, path) in [
        ("GET", "/message:send"),
        ("POST", "/message"),
        ("POST", "/message:Send"),
        ("POST", "/message%3Asend"),
        ("POST", "/a/b/message:send"),
        ("POST", "/message:send/"),
        ("POST", "/tasks"),
        ("PUT", "/tasks/t1"),
        ("GET", "/tasks/"),
        ("GET", "/tasks/t1/"),
        ("GET", "/tasks/t1:cancel"),
        ("PATCH", "/tasks/t1:cancel"),
        ("GET", "/tasks/t1/pushNotificationConfigs/"),
        ("POST", "/tasks/t1/pushNotificationConfigs/p1"),
        ("GET", "/a/b/tasks/t1"),
        ("POST", "/skills/x/query"),
        ("GET", "/healthz"),
    ] {
        assert_eq!(code(method, path), unknown, "{method} {path}");
    }
    assert_eq!(code("GET", "/").0, "method_not_allowed");
    for path in [
        "/message:stream",
        "/berlin/message:send",
        "/v1/message:stream",
        "/tasks/message:send",
    ] {
        let sent = World::a2a_rest().with(|w| path.clone_into(&mut w.path));
        assert_eq!(sent.code(), "ok", "{path}");
        let named = sent.with(|w| {
            let mut params = message();
            params["message"]["taskId"] = json!("t1");
            w.rpc(params);
        });
        assert_eq!(named.code(), "task_refused", "{path}");
    }
}

#[test]
fn both_bindings_lie_where_the_file_says() {
    let moved = |mut world: World, path: &str| {
        world.bundle["services"][2]["path"] = json!("/a2a/rpc");
        world.bundle["services"][2]["rest_path"] = json!("/a2a/rest");
        path.clone_into(&mut world.path);
        world.code()
    };
    assert_eq!(moved(World::a2a(), "/a2a/rpc"), "ok");
    for elsewhere in ["/", "/a2a/rpc/", "/a2a"] {
        assert_eq!(moved(World::a2a(), elsewhere), "route_unknown", "{elsewhere}");
    }
    assert_eq!(moved(World::a2a_rest(), "/a2a/rest/message:send"), "ok");
    for elsewhere in [
        "/message:send",
        "/a2a/message:send",
        "/a2a/rest/x/y/message:send",
        "/a2a/rest",
    ] {
        assert_eq!(moved(World::a2a_rest(), elsewhere), "route_unknown", "{elsewhere}");
    }
    let card = World::a2a_rest().without_body("GET", "/");
    assert_eq!(moved(card.clone(), "/.well-known/agent-card.json"), "ok");
    assert_eq!(moved(card.clone(), "/a2a/rest/.well-known/agent-card.json"), "ok");
    let mut rpc_alone = card.with(|w| w.path = "/extendedAgentCard".to_owned());
    assert_eq!(rpc_alone.code(), "ok");
    if let Some(service) = rpc_alone.bundle["services"][2].as_object_mut() {
        service.remove("rest_path");
    }
    assert_eq!(rpc_alone.code(), "route_unknown");
}

#[test]
fn bodies_are_one_strict_message_of_the_known_types() {
    for world in [World::a2a(), World::a2a_rest()] {
        let typed = |kind: &str| world.clone().with(|w| w.header("content-type", kind)).code();
        for fine in [
            "application/json",
            "application/a2a+json",
            "Application/A2A+JSON; charset=utf-8",
        ] {
            assert_eq!(typed(fine), "ok", "{fine}");
        }
        for other in [
            "text/plain",
            "application/json; x=1",
            "application/problem+json",
            "application/a2a",
            "application/grpc",
            "application/grpc+proto",
            "Application/gRPC-web+json",
            "",
        ] {
            assert_eq!(typed(other), "media_type_refused", "{other}");
        }
        let with_body = |body: &[u8]| world.clone().with(|w| w.body = body.to_vec()).code();
        assert_eq!(with_body(b""), "a2a_malformed");
        assert_eq!(with_body(b"{\"message\":{},\"message\":{}}"), "a2a_malformed");
        assert_eq!(with_body(b"\xef\xbb\xbf{}"), "a2a_malformed");
        assert_eq!(with_body(b"{} {}"), "a2a_malformed");
        assert_eq!(with_body(&b"x".repeat(1025)), "body_too_large");
        let encoded = world.clone().with(|w| w.header("content-encoding", "gzip"));
        assert_eq!(encoded.code(), "body_encoded");
    }
    let batch = World::a2a().with(|w| w.rpc(json!([])));
    assert_eq!(batch.code(), "a2a_batch");
    let twice = br#"{"jsonrpc":"2.0","id":1,"method":"GetExtendedAgentCard","method":"GetTask"}"#;
    assert_eq!(World::a2a().with(|w| w.body = twice.to_vec()).code(), "a2a_malformed");
    for body in [
        json!({"jsonrpc": "2.0", "method": "SendMessage", "params": message()}),
        json!({"jsonrpc": "1.0", "id": 1, "method": "SendMessage", "params": message()}),
        json!({"jsonrpc": "2.0", "id": null, "method": "SendMessage", "params": message()}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "SendMessage"}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": message(), "Method": "GetTask"}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": message(), "result": {}}),
        json!({"jsonrpc": "2.0", "id": 1, "params": message()}),
    ] {
        assert_eq!(
            World::a2a().with(|w| w.rpc(body.clone())).code(),
            "a2a_malformed",
            "{body}"
        );
    }
    let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {}});
    assert_eq!(World::a2a().with(|w| w.rpc(answer)).code(), "a2a_method_refused");
}

#[test]
fn the_version_is_known_and_named_once() {
    for world in [
        World::a2a(),
        World::a2a_rest(),
        World::a2a_rest().without_body("GET", "/extendedAgentCard"),
        by_application(World::a2a_rest().without_body("GET", "/tasks/t1")),
    ] {
        let header = |value: &str| world.clone().with(|w| w.header("a2a-version", value)).code();
        for fine in ["1.0", "0.3", "1.0.1", "0.3.0", ""] {
            assert_eq!(header(fine), "ok", "{fine}");
        }
        for other in [
            "1", "1.1", "2.0", "0.2", "1.0.", "1.0.x", "1.0.1234", "1.00", "v1.0", "1.0, 0.3", "1.0-rc1",
        ] {
            assert_eq!(header(other), "a2a_version_refused", "{other}");
        }
        assert_eq!(world.clone().with(|w| w.drop_header("a2a-version")).code(), "ok");
        let twice = |name: &str| {
            let more = (name.to_owned(), "1.0".to_owned());
            world.clone().with(|w| w.headers.push(more)).code()
        };
        assert_eq!(twice("a2a-version"), "header_duplicate");
        assert_eq!(twice("a2a_version"), "header_duplicate");
        let query = |query: &str| world.clone().with(|w| w.path = format!("{}?{query}", w.path)).code();
        for fine in ["A2A-Version=1.0", "A2A-Version=1.0.2", "x=1", "historyLength=2"] {
            assert_eq!(query(fine), "ok", "{fine}");
        }
        for other in [
            "A2A-Version=0.3",
            "A2A-Version=9.9",
            "A2A-Version=1.0&A2A-Version=1.0",
            "a2a-version=1.0",
            "A2A%2DVersion=1.0",
        ] {
            assert_eq!(query(other), "a2a_version_refused", "{other}");
        }
    }
}

#[test]
fn a_body_of_a_task_is_read_strictly_too() {
    let cancel = |body: &str| {
        by_application(World::a2a_rest())
            .with(|w| {
                w.path = "/tasks/t1:cancel".to_owned();
                w.body = body.as_bytes().to_vec();
            })
            .code()
    };
    assert_eq!(cancel(r#"{"id":"t1","metadata":{}}"#), "ok");
    assert_eq!(cancel(r#"{"id":"t1","id":"t2"}"#), "a2a_malformed");
}

#[test]
fn a_service_of_another_protocol_has_no_agent_and_one_of_a2a_no_tools() {
    let code = |service: usize, member: &str, value: Value| {
        World::a2a()
            .with(|w| w.bundle["services"][service][member] = value)
            .code()
    };
    for (service, member, value) in [
        (0, "agent", json!("writer-2")),
        (0, "rest_path", json!("/")),
        (1, "tasks", json!("application")),
        (2, "tools", json!({"pandas": {}})),
        (2, "routes", json!([{"method": "GET", "path": "/", "scope": "read:x"}])),
        (2, "agent", Value::Null),
        (2, "path", Value::Null),
        (2, "rest_path", json!("/{tenant}")),
        (2, "tasks", json!("application")),
    ] {
        assert_eq!(code(service, member, value), "policy_unavailable", "{member}");
    }
    assert_eq!(code(2, "tasks", json!("refused")), "ok");
}
