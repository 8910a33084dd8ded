#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests"
)]

use serde_json::{Value, json};

use super::*;
use crate::session::{Flow, Session};
use crate::testing::{self, AGENT, FakeHost, OTHER_AGENT, SERVICE, bearer, bundle, state};
use crate::vm::Vm;

mod mcp;

const PORT: i64 = 9000;

/// A VM of an agent whose tasks are held like this.
fn vm(host: &FakeHost, tasks: &str) -> Vm {
    let mut vm = testing::fresh_vm(host);
    tell(host, &mut vm, tasks, 1, &["A"]);
    vm
}

fn tell(host: &FakeHost, vm: &mut Vm, tasks: &str, version: u64, keys: &[&str]) {
    let keys: Vec<String> = keys.iter().map(|letter| letter.repeat(43)).collect();
    let fields = json!({
        "services": [{
            "id": "agents/scribe", "identity": SERVICE, "hosts": ["scribe"], "ports": [PORT], "protocol": "a2a",
            "agent": "scribe", "path": "/", "rest_path": "/", "tasks": tasks, "token_header": "authorization",
            "forward_token": false, "forward_claims": tasks == "application", "body_limit_bytes": 2000,
        }],
        "agents": [
            {"id": "analyst-7", "identity": AGENT, "may_call": ["scribe"], "reaches": ["agents/scribe"]},
            {"id": "writer-2", "identity": OTHER_AGENT, "may_call": ["scribe"], "reaches": ["agents/scribe"]},
        ],
        "session_keys": keys,
    });
    let answer = json!({"bundle": bundle(SERVICE, version, &fields), "state": state(version, &json!({}))});
    host.answer_poll(vm, 200, &answer);
}

fn claims(fields: &Value) -> String {
    let mut claims = json!({"scope": ["call:agent.scribe"], "tools": [], "forbidden_tools": []});
    for (name, value) in fields.as_object().unwrap() {
        claims[name] = value.clone();
    }
    bearer(&claims)
}

/// The headers of a request.
fn send(
    host: &FakeHost,
    vm: &mut Vm,
    flag: bool,
    (method, path): (&str, &str),
    token: &str,
    length: Option<usize>,
) -> (Session, Flow) {
    host.set("destination.port", &PORT.to_le_bytes());
    let length_text = length.unwrap_or_default().to_string();
    let mut headers = vec![
        (":method", method),
        (":authority", "scribe:9000"),
        (":path", path),
        (":scheme", "http"),
        ("authorization", token),
        ("accept-encoding", "gzip"),
    ];
    if length.is_some() {
        headers.extend([("content-type", "application/json"), ("content-length", &length_text)]);
    }
    host.set_headers(&headers);
    let mut session = Session::new(flag);
    let flow = session.request_headers(vm, host, headers.len(), length.is_none());
    (session, flow)
}

/// A request over JSON-RPC, whole; the body that goes on.
fn rpc(host: &FakeHost, vm: &mut Vm, flag: bool, token: &str, body: &Value) -> (Session, Result<String, String>) {
    let body = body.to_string();
    let denials = host.responses().len();
    let (mut session, flow) = send(host, vm, flag, ("POST", "/"), token, Some(body.len()));
    if host.responses().len() > denials {
        return (session, Err(host.denial().unwrap()));
    }
    assert_eq!(flow, if flag { Flow::Pause } else { Flow::Continue });
    if !flag {
        host.headers_go();
    }
    host.set_body(Message::Request, body.as_bytes());
    let flow = session.request_body(vm, host, body.len(), true);
    if host.responses().len() > denials {
        return (session, Err(host.denial().unwrap()));
    }
    assert_eq!(flow, Flow::Continue);
    let gone = host.body(Message::Request, 10_000).unwrap();
    (session, Ok(String::from_utf8(gone).unwrap()))
}

/// The answer to a request, in parts; what the caller is told.
fn answer(host: &FakeHost, vm: &mut Vm, session: &mut Session, content_type: &str, parts: &[&str]) -> String {
    host.set_response_headers(&[
        (":status", "200"),
        ("content-type", content_type),
        ("content-length", "99"),
        ("etag", "\"1\""),
    ]);
    assert_eq!(session.response_headers(vm, host, false), Flow::Continue);
    host.response_headers_go();
    let mut told = String::new();
    let last = parts.len();
    for (number, part) in (1..).zip(parts.iter().copied().chain([""])) {
        host.set_body(Message::Response, part.as_bytes());
        assert_eq!(session.response_body(host, part.len(), number > last), Flow::Continue);
        told += &host.response_body();
    }
    told
}

fn message(fields: &Value) -> Value {
    let mut message = json!({"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "a"}]});
    for (name, value) in fields.as_object().unwrap() {
        message[name] = value.clone();
    }
    json!({"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}})
}

fn get(id: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "GetTask", "params": {"id": id}})
}

const OPENED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"task":{"id":"t-1","contextId":"c-1","status":{}}}}"#;

/// Opens a task: its id and its context's, as the caller is told.
fn open(host: &FakeHost, vm: &mut Vm, flag: bool) -> (String, String) {
    let (mut session, gone) = rpc(host, vm, flag, &claims(&json!({})), &message(&json!({})));
    assert_eq!(gone.unwrap(), message(&json!({})).to_string());
    let told = answer(
        host,
        vm,
        &mut session,
        "application/a2a+json",
        &[&OPENED[..40], &OPENED[40..]],
    );
    session.finish(vm, host, false);
    let task: Value = serde_json::from_str(&told).unwrap();
    let task = &task["result"]["task"];
    let text = |name: &str| task[name].as_str().unwrap().to_owned();
    (text("id"), text("contextId"))
}

#[test]
fn a_task_is_its_openers_alone() {
    for flag in [true, false] {
        let host = FakeHost::inbound();
        let mut opener = vm(&host, "bound");
        let (task, context) = open(&host, &mut opener, flag);
        assert!(task.ends_with(".t-1") && context.ends_with(".c-1"), "{task} {context}");
        for name in ["content-length", "etag"] {
            assert_eq!(
                host.response_headers().unwrap().iter().find(|(other, _)| other == name),
                None
            );
        }
        // On another replica, by another token of the operation.
        let mut vm = vm(&host, "bound");
        let own = claims(&json!({"jti": "jti-2"}));
        let (_, gone) = rpc(&host, &mut vm, flag, &own, &get(&task));
        assert_eq!(gone.unwrap(), get("t-1").to_string());
        let lengths = host.header_values("content-length");
        let expected = get("t-1").to_string().len().to_string();
        assert_eq!(lengths, if flag { vec![expected] } else { Vec::new() });
        assert!(host.header_values("accept-encoding").is_empty());
        let named = message(&json!({"taskId": task, "contextId": context, "referenceTaskIds": [task]}));
        let (_, gone) = rpc(&host, &mut vm, flag, &own, &named);
        let plain = message(&json!({"taskId": "t-1", "contextId": "c-1", "referenceTaskIds": ["t-1"]}));
        assert_eq!(gone.unwrap(), plain.to_string());
        let elsewhere = claims(&json!({"operation_id": "another"}));
        for (token, id) in [(&elsewhere, &*task), (&own, "t-1"), (&own, &context)] {
            let (_, refused) = rpc(&host, &mut vm, flag, token, &get(id));
            assert_eq!(refused.unwrap_err(), "task_mismatch");
        }
        host.set("connection.uri_san_peer_certificate", OTHER_AGENT.as_bytes());
        host.set("connection.id", &7_u64.to_le_bytes());
        let writer = claims(&json!({"sub": OTHER_AGENT, "agent_id": "writer-2"}));
        let (_, refused) = rpc(&host, &mut vm, flag, &writer, &get(&task));
        assert_eq!(refused.unwrap_err(), "task_mismatch");
        let (_, gone) = rpc(&host, &mut vm, flag, &writer, &message(&json!({})));
        assert!(gone.is_ok(), "without the id it may call");
    }
}

#[test]
fn a_path_and_a_query_are_written_anew() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "bound");
    let (task, context) = open(&host, &mut vm, true);
    let (own, other) = (claims(&json!({})), claims(&json!({"operation_id": "another"})));
    for (method, path, expected) in [
        ("GET", format!("/tasks/{task}"), "/tasks/t-1"),
        (
            "GET",
            format!("/tasks/{task}?historyLength=1"),
            "/tasks/t-1?historyLength=1",
        ),
        (
            "POST",
            format!("/berlin/tasks/{task}:cancel"),
            "/berlin/tasks/t-1:cancel",
        ),
        ("GET", format!("/v1/tasks/{task}:subscribe"), "/v1/tasks/t-1:subscribe"),
        (
            "GET",
            format!("/tasks?pageSize=1&contextId={context}&status=x"),
            "/tasks?pageSize=1&contextId=c-1&status=x",
        ),
    ] {
        let denials = host.responses().len();
        let (_, flow) = send(&host, &mut vm, true, (method, &path), &own, None);
        assert_eq!((flow, host.responses().len()), (Flow::Continue, denials), "{path}");
        assert_eq!(host.header_values(":path"), [expected]);
        assert!(host.header_values("accept-encoding").is_empty());
        send(&host, &mut vm, true, (method, &path), &other, None);
        assert_eq!(host.denial().unwrap(), "task_mismatch", "{path}");
    }
}

#[test]
fn a_stream_is_sealed_event_by_event() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "bound");
    let (task, _) = open(&host, &mut vm, true);
    let (mut session, _) = rpc(&host, &mut vm, true, &claims(&json!({})), &message(&json!({})));
    let event = |id: &str| {
        let data = json!({"jsonrpc": "2.0", "id": 1, "result": {"statusUpdate": {"taskId": id, "status": {}}}});
        format!("data: {data}\n\n")
    };
    let given = event("t-1");
    let told = answer(
        &host,
        &mut vm,
        &mut session,
        "text/event-stream",
        &[&given[..9], &given[9..], &given],
    );
    assert_eq!(told, event(&task).repeat(2));
    session.finish(&mut vm, &host, true);
    let record = host.published("ostiary_completion").pop().unwrap();
    assert_eq!(record["end"], "complete");
    let digest = authz::digest::Digest::of(told.as_bytes()).to_string();
    let recorded = record["response_digest"].as_str().unwrap();
    assert!(
        digest.ends_with(recorded),
        "of what both sides see: {digest} {recorded}"
    );
}

#[test]
fn what_cannot_be_sealed_is_given_without_a_seal_or_broken_off() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "bound");
    let (mut session, _) = rpc(&host, &mut vm, true, &claims(&json!({})), &message(&json!({})));
    assert_eq!(answer(&host, &mut vm, &mut session, "text/plain", &[OPENED]), OPENED);
    let headers = host.response_headers().unwrap();
    assert!(
        headers.iter().any(|(name, _)| name == "content-length"),
        "it is the service's, as it came"
    );

    let (mut session, _) = rpc(&host, &mut vm, true, &claims(&json!({})), &message(&json!({})));
    host.set_response_headers(&[(":status", "200"), ("content-type", "application/json")]);
    session.response_headers(&mut vm, &host, false);
    host.set_body(Message::Response, OPENED.as_bytes());
    session.response_body(&host, OPENED.len(), false);
    assert!(host.response_body().is_empty());
    session.response_trailers(&host);
    assert_eq!(host.acted().0, [(0, "reset")]);
    session.finish(&mut vm, &host, true);
    let record = host.published("ostiary_completion").pop().unwrap();
    assert_eq!(record["end"], "broken");
}

#[test]
fn without_keys_nobody_names_a_task_and_elsewhere_ids_go_on_as_they_come() {
    let host = FakeHost::inbound();
    let mut bound = vm(&host, "bound");
    let (task, _) = open(&host, &mut bound, true);
    tell(&host, &mut bound, "bound", 2, &[]);
    let own = claims(&json!({}));
    let (_, refused) = rpc(&host, &mut bound, true, &own, &get(&task));
    assert_eq!(refused.unwrap_err(), "task_mismatch");
    let mut vm = vm(&host, "application");
    let (mut session, gone) = rpc(&host, &mut vm, true, &own, &get("t-1"));
    assert_eq!(gone.unwrap(), get("t-1").to_string());
    assert_eq!(
        answer(&host, &mut vm, &mut session, "application/json", &[OPENED]),
        OPENED
    );
}

#[test]
fn keys_change_while_a_request_that_names_a_task_is_on_its_way() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "bound");
    let (task, _) = open(&host, &mut vm, true);
    let path = format!("/tasks/{task}:cancel");
    let own = claims(&json!({}));
    let (mut session, flow) = send(&host, &mut vm, true, ("POST", &path), &own, Some(2));
    assert_eq!(flow, Flow::Pause);
    tell(&host, &mut vm, "bound", 2, &["E"]);
    host.set_body(Message::Request, b"{}");
    assert_eq!(session.request_body(&mut vm, &host, 2, true), Flow::Pause);
    assert_eq!(
        host.denial().unwrap(),
        "task_mismatch",
        "its key was withdrawn meanwhile"
    );
}
