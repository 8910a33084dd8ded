#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::policy::Protocol;
use crate::protocol::list::Media;
use crate::protocol::tasks::Answer;
use crate::request::Facts;
use crate::testing::{Caller, SESSION_KEY, World};

fn task(id: &str) -> String {
    Caller::analyst().sealed(Sealed::McpTask, id)
}

/// A message of the service, as the caller is told it, who has asked for this task.
fn told(asked: Option<&str>, message: &Value) -> Value {
    let facts = Facts {
        protocol: Protocol::Mcp,
        task: asked.map(str::to_owned),
        ..World::warehouse().facts()
    };
    let caller = Caller::analyst();
    let text = message.to_string().into_bytes();
    let told = Answer::new(&facts, Some(Media::Json)).push(text, true, &caller.binding());
    serde_json::from_slice(&told).unwrap()
}

fn result(result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "result": result})
}

fn notification(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "method": method, "params": params})
}

fn part_of(id: &str) -> Value {
    json!({RELATED: {"taskId": id}})
}

#[test]
fn what_tells_of_a_task_is_sealed() {
    let of = |id: &str| json!({"taskId": id, "status": "working", "ttl": null, "statusMessage": "t1"});
    let (plain, bound) = (of("t1"), of(&task("t1")));
    for (given, expected) in [
        // 2025-11-25: what opens one; what asks for it or ends it. 2026-07-28: all of them.
        (result(&json!({"task": plain})), result(&json!({"task": bound}))),
        (result(&plain), result(&bound)),
        (
            notification("notifications/tasks/status", &plain),
            notification("notifications/tasks/status", &bound),
        ),
        (
            notification("notifications/tasks", &plain),
            notification("notifications/tasks", &bound),
        ),
        (
            notification(
                "notifications/subscriptions/acknowledged",
                &json!({"notifications": {"taskIds": ["t1", "t2"]}}),
            ),
            notification(
                "notifications/subscriptions/acknowledged",
                &json!({"notifications": {"taskIds": [task("t1"), task("t2")]}}),
            ),
        ),
    ] {
        assert_eq!(told(None, &given), expected, "{given}");
    }
}

#[test]
fn what_may_be_anything_is_not() {
    let of = json!({"taskId": "t1", "status": "working"});
    for message in [
        // A tool's own words.
        result(&json!({"taskId": "t1"})),
        result(&json!({"taskId": "t1", "status": 1})),
        result(&json!({"structuredContent": of, "content": [{"type": "text", "text": "t1"}]})),
        result(&json!({"task": {"taskId": "t1"}})),
        result(&json!({"task": {"taskId": 1, "status": "working"}})),
        result(&json!({"task": {"taskId": "a/b", "status": "working"}})),
        result(&json!({"tasks": [of]})),
        // A question about a task of the client's, and what is none.
        json!({"jsonrpc": "2.0", "id": 1, "method": "notifications/tasks", "params": of}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": of}),
        notification("notifications/message", &of),
        json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": of, "result": of}),
        json!({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "", "data": of}}),
        json!({"jsonrpc": "2.0", "method": "notifications/tasks"}),
    ] {
        assert_eq!(told(Some(&task("t1")), &message), message);
    }
}

/// Whoever has a tool write `_meta` gets a seal for nothing but what he has asked for.
#[test]
fn a_message_is_part_of_the_task_that_was_asked_for_and_of_no_other() {
    let question =
        |id: &str| json!({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": {"_meta": part_of(id)}});
    let brought = |id: &str| result(&json!({"content": [], "_meta": part_of(id)}));
    for message in [&question as &dyn Fn(&str) -> Value, &brought] {
        assert_eq!(told(Some(&task("t1")), &message("t1")), message(&task("t1")));
        for asked in [
            None,
            Some("t1".to_owned()),
            Some(task("t2")),
            Some(Caller::new("writer-2", "report").sealed(Sealed::McpTask, "t1")),
        ] {
            assert_eq!(told(asked.as_deref(), &message("t1")), message("t1"), "{asked:?}");
        }
    }
}

/// What becomes of an id that has been read, and is not sealed.
const READ: &str = "mcp_task_mismatch";

/// A service whose tasks are held like this.
fn world(tasks: &str, message: &Value) -> World {
    World::legacy_mcp("pandas", json!({})).with(|w| {
        w.bundle["session_keys"] = json!([SESSION_KEY]);
        let services = w.bundle["services"].as_array_mut().unwrap();
        let service = services
            .iter_mut()
            .find(|service| service["protocol"] == "mcp")
            .unwrap();
        service["tasks"] = json!(tasks);
        service["forward_claims"] = json!(tasks == "application");
        w.rpc(message.clone());
    })
}

fn ask(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

#[test]
fn who_asks_for_a_task_is_told_why_there_is_none() {
    for method in ["tasks/get", "tasks/result", "tasks/update", "tasks/cancel"] {
        let verdict = world("refused", &ask(method, &json!({"taskId": "t"}))).verdict();
        assert_eq!(verdict.code, "task_refused", "{method}");
        assert!(verdict.detail.unwrap().contains("`tasks: bound`"));
        for (tasks, code) in [("bound", READ), ("application", "ok")] {
            assert_eq!(
                world(tasks, &ask(method, &json!({"taskId": "t"}))).code(),
                code,
                "{method}"
            );
        }
    }
    for (tasks, code) in [
        ("refused", "task_refused"),
        ("bound", "task_refused"),
        ("application", "ok"),
    ] {
        assert_eq!(world(tasks, &ask("tasks/list", &json!({"cursor": "1"}))).code(), code);
    }
    let without = json!({"jsonrpc": "2.0", "id": 1, "method": "tasks/list"});
    assert_eq!(world("application", &without).code(), "ok");
}

#[test]
fn what_belongs_to_a_task_is_taken_and_nothing_else() {
    for (method, more, code) in [
        ("tasks/get", json!({"task": {"ttl": 1}, "_meta": {}}), READ),
        ("tasks/update", json!({"inputResponses": {}, "_meta": {}}), READ),
        ("tasks/update", json!({"task": {}}), "mcp_malformed"),
        ("tasks/result", json!({"inputResponses": {}}), "mcp_malformed"),
        ("tasks/cancel", json!({"TaskId": "u"}), "mcp_malformed"),
    ] {
        let mut params = more.clone();
        params["taskId"] = json!("t");
        assert_eq!(world("bound", &ask(method, &params)).code(), code, "{method} {more}");
    }
    assert_eq!(
        world("application", &ask("tasks/list", &json!({"taskId": "t"}))).code(),
        "mcp_malformed"
    );
}

#[test]
fn an_id_of_a_task_is_one_string() {
    for (id, code) in [
        (json!("t"), READ),
        (json!("t".repeat(256)), READ),
        (json!("t".repeat(257)), "mcp_malformed"),
        (json!(""), "mcp_malformed"),
        (json!(1), "mcp_malformed"),
        (json!(null), "mcp_malformed"),
    ] {
        assert_eq!(
            world("bound", &ask("tasks/get", &json!({"taskId": id}))).code(),
            code,
            "{id}"
        );
        let listening = json!({"notifications": {"taskIds": [id]}});
        assert_eq!(
            world("bound", &ask("subscriptions/listen", &listening)).code(),
            code,
            "{id}"
        );
    }
    for (tasks, count, code) in [
        ("bound", 24, READ),
        ("bound", 25, "mcp_malformed"),
        ("refused", 0, "ok"),
        ("refused", 1, "task_refused"),
    ] {
        let listening = json!({"notifications": {"taskIds": vec!["t"; count]}});
        assert_eq!(world(tasks, &ask("subscriptions/listen", &listening)).code(), code);
    }
}

#[test]
fn what_a_message_is_part_of_is_read_however_it_is_spelled() {
    let call = |meta: &Value| ask("ping", &json!({"_meta": meta}));
    for (tasks, meta, code) in [
        ("refused", json!({"progressToken": 1}), "ok"),
        ("refused", part_of("t"), "task_refused"),
        ("bound", part_of("t"), READ),
        ("application", part_of("t"), "ok"),
        ("bound", json!({RELATED: {}}), "mcp_malformed"),
        ("bound", json!({RELATED: "t"}), "mcp_malformed"),
        ("bound", json!({RELATED: {"taskId": 1}}), "mcp_malformed"),
        ("bound", json!({RELATED: {"taskid": "t"}}), "mcp_malformed"),
        (
            "bound",
            json!({RELATED: {"taskId": "t", "taskid": "u"}}),
            "mcp_malformed",
        ),
        (
            "bound",
            json!({"IO.modelcontextprotocol/related-task": {"taskId": "t"}}),
            "mcp_malformed",
        ),
        (
            "bound",
            json!({"io.modelcontextprotocol/related-ta\u{17f}k": {"taskId": "t"}}),
            "mcp_malformed",
        ),
    ] {
        assert_eq!(world(tasks, &call(&meta)).code(), code, "{tasks} {meta}");
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"_meta": meta}});
        assert_eq!(world(tasks, &answer).code(), code, "{tasks} {meta}");
    }
    let folded = ask("ping", &json!({"_Meta": part_of("t")}));
    assert_eq!(world("bound", &folded).code(), "mcp_malformed");
}

fn opened(message: &Value) -> Result<Option<Value>, Code> {
    let opened = open_body(message.to_string().as_bytes(), &Caller::analyst().binding());
    let opened = opened.map_err(|denial| denial.code())?;
    Ok(opened.map(|opened| serde_json::from_str(&opened).unwrap()))
}

#[test]
fn a_body_goes_on_with_every_id_in_it_opened() {
    type Written = fn(&str) -> Value;
    let messages: [Written; 6] = [
        |id| ask("tasks/get", &json!({"taskId": id, "_meta": {"taskId": "t9"}})),
        |id| {
            ask(
                "tasks/update",
                &json!({"taskId": id, "inputResponses": {"taskId": "t9"}}),
            )
        },
        |id| ask("tasks/result", &json!({"taskId": id, "_meta": part_of(id)})),
        |id| ask("subscriptions/listen", &json!({"notifications": {"taskIds": [id, id]}})),
        |id| {
            ask(
                "tools/call",
                &json!({"name": "pandas", "task": {"ttl": 1}, "_meta": part_of(id)}),
            )
        },
        |id| json!({"jsonrpc": "2.0", "id": 1, "result": {"_meta": part_of(id), "task": {"taskId": "t9"}}}),
    ];
    for message in messages {
        assert_eq!(opened(&message(&task("t1"))), Ok(Some(message("t1"))));
        assert_eq!(opened(&message("t1")), Err(Code::McpTaskMismatch));
        let another = Caller::new("writer-2", "report").sealed(Sealed::McpTask, "t1");
        assert_eq!(opened(&message(&another)), Err(Code::McpTaskMismatch));
    }
    for message in [
        ask(
            "tools/call",
            &json!({"name": "pandas", "arguments": {"taskId": "t1"}, "task": {"taskId": "t1"}}),
        ),
        ask("subscriptions/listen", &json!({"notifications": {}})),
        json!({"jsonrpc": "2.0", "id": 1, "result": {"task": {"taskId": "t1", "status": "working"}}}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    ] {
        assert_eq!(opened(&message), Ok(None), "{message}");
    }
}

#[test]
fn a_name_is_opened_where_the_method_says_that_it_is_a_tasks() {
    let caller = Caller::analyst();
    let name = |method: Option<&str>, name: Option<&str>| {
        let (method, name) = (method.map(str::as_bytes), name.map(str::as_bytes));
        open_name(method, name, &caller.binding()).map_err(|denial| denial.code())
    };
    let encoded = |text: &str| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(text);
        format!("=?base64?{text}?=")
    };
    let sealed = task("t1");
    for method in ["tasks/get", "tasks/result", "tasks/update", "tasks/cancel"] {
        assert_eq!(name(Some(method), Some(&sealed)), Ok(Some("t1".to_owned())));
        assert_eq!(name(Some(method), Some(&encoded(&sealed))), Ok(Some("t1".to_owned())));
        for wrong in ["t1", "", &encoded("t1"), "=?base64?*?="] {
            assert_eq!(name(Some(method), Some(wrong)), Err(Code::McpTaskMismatch), "{wrong}");
        }
        assert_eq!(name(Some(method), None), Ok(None));
    }
    for method in [None, Some("tools/call"), Some("tasks/list")] {
        assert_eq!(name(method, Some("t1")), Ok(None));
    }
}
