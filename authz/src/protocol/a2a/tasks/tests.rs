#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::denial::Code;
use crate::policy::Protocol;
use crate::protocol::list::Media;
use crate::protocol::tasks::{Answer, MAX_ANSWER_BYTES};
use crate::testing::{Caller, SESSION_KEY, World};

/// The answer of an agent.
fn answer(media: Option<Media>) -> Answer {
    let facts = Facts {
        protocol: Protocol::A2a,
        ..World::warehouse().facts()
    };
    Answer::new(&facts, media)
}

/// What becomes of an answer that comes in parts of this many bytes.
fn answered(media: Media, text: &str, part: usize) -> String {
    let caller = Caller::analyst();
    let mut answer = answer(Some(media));
    let parts: Vec<&[u8]> = text.as_bytes().chunks(part).collect();
    let (last, parts) = parts.split_last().unwrap();
    let mut out = Vec::new();
    for part in parts {
        out.extend(answer.push(part.to_vec(), false, &caller.binding()));
    }
    out.extend(answer.push(last.to_vec(), true, &caller.binding()));
    assert!(!answer.is_holding());
    String::from_utf8(out).unwrap()
}

fn sealed(message: &Value) -> Value {
    serde_json::from_str(&answered(Media::Json, &message.to_string(), 7)).unwrap()
}

#[test]
fn every_shape_of_an_answer_is_sealed() {
    let caller = Caller::analyst();
    let (task, context) = (caller.sealed(Sealed::Task, "t1"), caller.sealed(Sealed::Context, "c1"));
    let plain = json!({"id": "t1", "contextId": "c1", "status": {"state": "TASK_STATE_COMPLETED",
        "message": {"taskId": "t1", "contextId": "c1", "role": "ROLE_AGENT"}},
        "history": [{"taskId": "t1", "context_id": "c1", "messageId": "t1"}, {"taskId": "t2"}],
        "artifacts": [{"artifactId": "t1", "parts": [{"text": "t1", "data": {"taskId": "t1"}}]}],
        "metadata": {"taskId": "t1", "id": "t1"}});
    let bound = json!({"id": task, "contextId": context, "status": {"state": "TASK_STATE_COMPLETED",
        "message": {"taskId": task, "contextId": context, "role": "ROLE_AGENT"}},
        "history": [{"taskId": task, "context_id": context, "messageId": "t1"}, {"taskId": "t2"}],
        "artifacts": [{"artifactId": "t1", "parts": [{"text": "t1", "data": {"taskId": "t1"}}]}],
        "metadata": {"taskId": "t1", "id": "t1"}});
    let update = json!({"taskId": "t1", "contextId": "c1", "status": {"update": {"task_id": "t1"}}, "final": true});
    let bound_update =
        json!({"taskId": task, "contextId": context, "status": {"update": {"task_id": task}}, "final": true});
    let rpc = |result: &Value| json!({"jsonrpc": "2.0", "id": "t1", "result": result});
    let kind = |value: &Value, kind: &str| {
        let mut value = value.clone();
        value["kind"] = json!(kind);
        value
    };
    for (plain, bound) in [
        (json!({"task": plain}), json!({"task": bound})),
        (plain.clone(), bound.clone()),
        (kind(&plain, "task"), kind(&bound, "task")),
        (json!({"kind": "task", "id": "t1"}), json!({"kind": "task", "id": task})),
        (
            json!({"tasks": [plain], "nextPageToken": ""}),
            json!({"tasks": [bound], "nextPageToken": ""}),
        ),
        (json!({"statusUpdate": update}), json!({"statusUpdate": bound_update})),
        (kind(&update, "status-update"), kind(&bound_update, "status-update")),
        (
            json!({"artifactUpdate": {"taskId": "t1", "contextId": "c1", "artifact": {}}}),
            json!({"artifactUpdate": {"taskId": task, "contextId": context, "artifact": {}}}),
        ),
        (
            json!({"message": {"taskId": "t1", "contextId": "c1", "referenceTaskIds": ["t1"], "parts": [{"text": "t1"}]}}),
            json!({"message": {"taskId": task, "contextId": context, "referenceTaskIds": ["t1"], "parts": [{"text": "t1"}]}}),
        ),
        (json!({"msg": {"task_id": "t1"}}), json!({"msg": {"task_id": task}})),
    ] {
        assert_eq!(sealed(&plain), bound);
        assert_eq!(sealed(&rpc(&plain)), rpc(&bound));
    }
}

#[test]
fn what_is_no_answer_of_a_task_goes_on_byte_for_byte() {
    let long = "x".repeat(201);
    for text in [
        r#"{"name": "scribe", "id": "t1", "skills": [{"id": "t1"}]}"#,
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"t1"}}"#,
        r#"{"task":{"id":"t1"},"task":{"id":"t1"}}"#,
        r#"{"id":"t1","status":"ok"}"#,
        r#"{"task":{"id":1}}"#,
        r#"{"task":{"id":"a/b"}}"#,
        r#"{"task":{"id":""}}"#,
        &format!(r#"{{"task":{{"id":"{long}"}}}}"#),
        "not JSON",
        r#"[{"task":{"id":"t1"}}]"#,
    ] {
        assert_eq!(answered(Media::Json, text, 5), text);
    }
    let whole = r#"{"task":{"id":"t1"}}"#;
    let mut unknown = answer(None);
    let caller = Caller::analyst();
    assert_eq!(unknown.push(whole.into(), true, &caller.binding()), whole.as_bytes());
    let stranger = Binding {
        holder: None,
        ..caller.binding()
    };
    let mut nobody = answer(Some(Media::Json));
    assert_eq!(nobody.push(whole.into(), true, &stranger), whole.as_bytes());
}

#[test]
fn the_media_types_of_both_bindings_are_read() {
    for (content_type, media) in [
        ("application/json", Some(Media::Json)),
        ("application/a2a+json", Some(Media::Json)),
        ("Application/A2A+JSON; charset=utf-8", Some(Media::Json)),
        ("text/event-stream", Some(Media::Events)),
        ("application/a2a+jsonx", None),
        ("text/html", None),
    ] {
        assert_eq!(Answer::media(content_type.as_bytes()), media, "{content_type}");
    }
}

#[test]
fn a_long_answer_goes_on_without_seals() {
    let caller = Caller::analyst();
    for (media, begin) in [
        (Media::Json, r#"{"task":{"id":"t1"}"#),
        (Media::Events, r#"data: {"task":{"id":"t1"}"#),
    ] {
        let mut answer = answer(Some(media));
        assert!(!answer.is_holding());
        assert!(answer.push(begin.into(), false, &caller.binding()).is_empty());
        assert!(answer.is_holding());
        let filler = " ".repeat(MAX_ANSWER_BYTES - begin.len());
        assert!(answer.push(filler.into(), false, &caller.binding()).is_empty());
        let through = answer.push(b" ".to_vec(), false, &caller.binding());
        assert_eq!(through.len(), MAX_ANSWER_BYTES + 1);
        assert!(!answer.is_holding());
        let rest = answer.push(b"}\n\n".to_vec(), true, &caller.binding());
        assert_eq!(rest, b"}\n\n");
    }
}

#[test]
fn events_go_on_as_soon_as_they_are_whole() {
    let caller = Caller::analyst();
    let mut answer = answer(Some(Media::Events));
    let mut push = |part: &str| String::from_utf8(answer.push(part.into(), false, &caller.binding())).unwrap();
    assert_eq!(push("id: 1\nda"), "");
    assert_eq!(push("ta: {\"task\":{\"id\":"), "");
    let bound = format!(
        "id: 1\ndata: {{\"task\":{{\"id\":\"{}\"}}}}\n\n",
        caller.sealed(Sealed::Task, "t1")
    );
    assert_eq!(push("\"t1\"}}\n\n: ping\n"), bound);
    assert_eq!(push("\n"), ": ping\n\n");
    // What some readers take for the middle of a line end goes on with what it ends.
    assert_eq!(push("data: 1\r\n\r"), "data: 1\r\n\r");
    assert_eq!(push("\ndata: 2"), "\n");
    assert_eq!(push("\r\r"), "data: 2\r\r");
    let two = format!("{bound}{bound}");
    assert_eq!(push(&two.replace(&caller.sealed(Sealed::Task, "t1"), "t1")), two);
}

#[test]
fn a_stream_is_sealed_however_it_is_cut() {
    let caller = Caller::analyst();
    for end in ["\n", "\r\n", "\r"] {
        let event = |task: &str, text: &str| {
            let data = format!("{{\"statusUpdate\":{{\"taskId\":\"{task}\",\"status\":{{\"t\":\"{text}\"}}}}}}");
            format!("event: m{end}data: {data}{end}{end}")
        };
        let given = format!("{}: ping{end}{end}{}", event("t1", "one"), event("t2", "two"));
        for part in 1..given.len() {
            let told = answered(Media::Events, &given, part);
            for (task, text) in [("t1", "one"), ("t2", "two")] {
                assert!(
                    told.contains(&caller.sealed(Sealed::Task, task)) && told.contains(text),
                    "{part}: {told:?}"
                );
                assert!(!told.contains(&format!("\"{task}\"")), "{part}: {told:?}");
            }
            assert!(told.contains(": ping"));
        }
    }
}

/// A message on several lines of data, whatever ends them, is one.
#[test]
fn an_event_is_whole_at_its_empty_line_and_not_before() {
    let task = Caller::analyst().sealed(Sealed::Task, "t1");
    for end in ["\n", "\r\n", "\r"] {
        let given = ["data: {\"task\":", "data: {\"id\":\"t1\"}}", "", ""].join(end);
        for part in 1..given.len() {
            let told = answered(Media::Events, &given, part);
            assert!(told.contains(&task), "{end:?}, {part}: {told:?}");
        }
    }
}

/// A mesh whose agent has its tasks bound.
fn bound() -> World {
    World::a2a().with(|w| {
        w.bundle["session_keys"] = json!([SESSION_KEY]);
        w.bundle["services"][2]["tasks"] = json!("bound");
    })
}

fn with_service<T>(ask: impl Fn(&Service) -> T) -> T {
    bound().ask(|q| {
        let mut services = q.bundle.services().iter();
        ask(services.find(|service| service.tasks() == Tasks::Bound).unwrap())
    })
}

#[test]
fn a_body_goes_on_with_its_ids_opened_and_as_it_is_without_any() {
    let (caller, mut facts) = (Caller::analyst(), World::warehouse().facts());
    (facts.method, facts.path) = ("POST".to_owned(), bound().path);
    let mut body: Value = serde_json::from_slice(&bound().body).unwrap();
    let opened = |body: &Value| {
        let body = body.to_string();
        let opened = with_service(|service| open_body(&facts, body.as_bytes(), service, &caller.binding()));
        opened.map_err(|denial| denial.code())
    };
    assert_eq!(opened(&body), Ok(None));
    body["params"]["message"]["taskId"] = json!(caller.sealed(Sealed::Task, "t-1"));
    let mut expected = body.clone();
    expected["params"]["message"]["taskId"] = json!("t-1");
    assert_eq!(opened(&body), Ok(Some(expected.to_string())));
    body["params"]["message"]["taskId"] = json!(Caller::new("writer-2", "report").sealed(Sealed::Task, "t-1"));
    assert_eq!(opened(&body), Err(Code::TaskMismatch));
}

#[test]
fn a_target_goes_on_with_its_id_opened_and_as_it_is_without_one() {
    let caller = Caller::analyst();
    let (task, context) = (
        caller.sealed(Sealed::Task, "t-1"),
        caller.sealed(Sealed::Context, "c-1"),
    );
    let opened = |method: &str, target: &str| {
        let opened = with_service(|service| open_target(method, target, service, &caller.binding()));
        opened.map_err(|denial| denial.code())
    };
    for (method, target, expected) in [
        ("GET", format!("/tasks/{task}"), "/tasks/t-1"),
        (
            "GET",
            format!("/tasks/{task}?historyLength=2"),
            "/tasks/t-1?historyLength=2",
        ),
        ("POST", format!("/v1/tasks/{task}:cancel"), "/v1/tasks/t-1:cancel"),
        ("GET", format!("/tasks/{task}:subscribe"), "/tasks/t-1:subscribe"),
        (
            "GET",
            format!("/tasks?contextId={context}&pageSize=2"),
            "/tasks?contextId=c-1&pageSize=2",
        ),
    ] {
        assert_eq!(opened(method, &target), Ok(Some(expected.to_owned())), "{target}");
    }
    for (method, target) in [
        ("POST", "/"),
        ("POST", "/message:send"),
        ("GET", "/.well-known/agent-card.json"),
    ] {
        assert_eq!(opened(method, target), Ok(None), "{target}");
    }
    for target in ["/tasks/t-1".to_owned(), format!("/tasks/{context}")] {
        assert_eq!(opened("GET", &target), Err(Code::TaskMismatch), "{target}");
    }
}

/// Whoever stands before the request: the caller's sidecar opens nothing, and refuses it all the same.
#[test]
fn only_the_tasks_of_one_context_are_listed() {
    let code = |query: Option<&str>| {
        let outcome = with_service(|service| check_query(query, Operation::List, service));
        outcome.err().map(|denial| denial.code())
    };
    assert_eq!(code(Some("contextId=c-1&pageSize=2")), None);
    for none in [None, Some("pageSize=2"), Some("contextId=")] {
        assert_eq!(code(none), Some(Code::TaskRefused), "{none:?}");
    }
    for bad in ["contextId=c-1&contextId=c-2", "contextId=c-1&tenant=t"] {
        assert_eq!(code(Some(bad)), Some(Code::A2aMalformed), "{bad}");
    }
}
