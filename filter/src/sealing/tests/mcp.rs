//! Tasks of MCP, in the bodies and the one header that name them.

use super::*;

/// A VM of a service of MCP whose tasks are bound, or held otherwise.
fn vm(host: &FakeHost, tasks: &str) -> Vm {
    let mut vm = testing::fresh_vm(host);
    let fields = json!({
        "services": [{
            "id": "tools/mcp", "identity": SERVICE, "hosts": ["scribe"], "ports": [PORT], "protocol": "mcp",
            "path": "/", "tasks": tasks, "tools": {"pandas": {}}, "token_header": "authorization",
            "forward_token": false, "forward_claims": tasks == "application", "body_limit_bytes": 2000,
        }],
        "agents": [
            {"id": "analyst-7", "identity": AGENT, "tools": ["tools/mcp/pandas"], "reaches": ["tools/mcp"]},
            {"id": "writer-2", "identity": OTHER_AGENT, "reaches": ["tools/mcp"]},
        ],
        "session_keys": ["A".repeat(43)],
    });
    let answer = json!({"bundle": bundle(SERVICE, 1, &fields), "state": state(1, &json!({}))});
    host.answer_poll(&mut vm, 200, &answer);
    vm
}

fn own() -> String {
    bearer(&json!({"scope": [], "tools": ["tools/mcp/pandas"], "forbidden_tools": []}))
}

fn message(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

fn call() -> Value {
    message(
        "tools/call",
        &json!({"name": "pandas", "arguments": {}, "task": {"ttl": 1000}}),
    )
}

fn get(id: &str) -> Value {
    message("tasks/get", &json!({"taskId": id}))
}

const OPENED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"task":{"taskId":"t-1","status":"working"}}}"#;

/// Opens a task: its id, as the caller is told.
fn open(host: &FakeHost, vm: &mut Vm, flag: bool) -> String {
    let (mut session, gone) = rpc(host, vm, flag, &own(), &call());
    assert_eq!(gone.unwrap(), call().to_string());
    let told = answer(
        host,
        vm,
        &mut session,
        "application/json",
        &[&OPENED[..40], &OPENED[40..]],
    );
    session.finish(vm, host, true);
    let record = host.published("ostiary_completion").pop().unwrap();
    assert_eq!(record["outcome"], "result", "how the call ended is read all the same");
    let told: Value = serde_json::from_str(&told).unwrap();
    told["result"]["task"]["taskId"].as_str().unwrap().to_owned()
}

#[test]
fn a_task_is_its_openers_alone() {
    for flag in [true, false] {
        let host = FakeHost::inbound();
        let mut opener = vm(&host, "bound");
        let task = open(&host, &mut opener, flag);
        assert!(task.ends_with(".t-1") && task.len() == 26, "{task}");
        // On another replica.
        let mut vm = vm(&host, "bound");
        let (mut session, gone) = rpc(&host, &mut vm, flag, &own(), &get(&task));
        assert_eq!(gone.unwrap(), get("t-1").to_string());
        let ended = r#"{"jsonrpc":"2.0","id":1,"result":{"taskId":"t-1","status":"completed"}}"#;
        let told = answer(&host, &mut vm, &mut session, "application/json", &[ended]);
        assert_eq!(told, ended.replace("t-1", &task));
        let elsewhere = bearer(&json!({"scope": [], "tools": [], "forbidden_tools": [], "operation_id": "another"}));
        for (token, id) in [(&elsewhere, &*task), (&own(), "t-1")] {
            let (_, refused) = rpc(&host, &mut vm, flag, token, &get(id));
            assert_eq!(refused.unwrap_err(), "mcp_task_mismatch");
        }
    }
}

#[test]
fn what_says_of_which_task_it_is_part_is_opened_and_sealed_for_that_task_alone() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "bound");
    let task = open(&host, &mut vm, true);
    let part = |id: &str| json!({"io.modelcontextprotocol/related-task": {"taskId": id}});
    let asks = |id: &str| message("tasks/result", &json!({"taskId": id, "_meta": part(id)}));
    let (mut session, gone) = rpc(&host, &mut vm, true, &own(), &asks(&task));
    assert_eq!(gone.unwrap(), asks("t-1").to_string());
    let event = |id: &str| {
        let question =
            json!({"jsonrpc": "2.0", "id": 1, "method": "elicitation/create", "params": {"_meta": part(id)}});
        format!("data: {question}\n\n")
    };
    let told = answer(
        &host,
        &mut vm,
        &mut session,
        "text/event-stream",
        &[&event("t-1"), &event("t-2")],
    );
    assert_eq!(told, event(&task) + &event("t-2"));
}

#[test]
fn the_header_that_names_a_task_goes_on_as_the_body_does() {
    for flag in [true, false] {
        let host = FakeHost::inbound();
        let mut vm = vm(&host, "bound");
        let task = open(&host, &mut vm, flag);
        let version = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        let body = message("tasks/get", &json!({"taskId": task, "_meta": version})).to_string();
        let length = body.len().to_string();
        let mut ask = |name: &str| {
            host.set("destination.port", &PORT.to_le_bytes());
            host.set_headers(&[
                (":method", "POST"),
                (":authority", "scribe:9000"),
                (":path", "/"),
                (":scheme", "http"),
                ("authorization", &own()),
                ("content-type", "application/json"),
                ("content-length", &length),
                ("mcp-protocol-version", "2026-07-28"),
                ("mcp-method", "tasks/get"),
                ("mcp-name", name),
            ]);
            let denials = host.responses().len();
            let mut session = Session::new(flag);
            session.request_headers(&mut vm, &host, 10, false);
            if host.responses().len() > denials {
                return Err(host.denial().unwrap());
            }
            if !flag {
                host.headers_go();
            }
            host.set_body(Message::Request, body.as_bytes());
            assert_eq!(session.request_body(&mut vm, &host, body.len(), true), Flow::Continue);
            Ok(host.header_values("mcp-name"))
        };
        assert_eq!(ask(&task), Ok(vec!["t-1".to_owned()]));
        assert_eq!(ask("t-1"), Err("mcp_task_mismatch".to_owned()));
    }
}

#[test]
fn the_stream_of_a_session_tells_of_tasks_by_their_seals() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "bound");
    let task = open(&host, &mut vm, true);
    let (mut session, _) = rpc(&host, &mut vm, true, &own(), &message("initialize", &json!({})));
    host.set_response_headers(&[
        (":status", "200"),
        ("content-type", "application/json"),
        ("mcp-session-id", "s-1"),
    ]);
    session.response_headers(&mut vm, &host, true);
    let id = host.response_headers().unwrap();
    let id = id.iter().find(|(name, _)| name == "mcp-session-id").unwrap();
    let id = String::from_utf8(id.1.clone()).unwrap();
    host.set_headers(&[
        (":method", "GET"),
        (":authority", "scribe:9000"),
        (":path", "/"),
        (":scheme", "http"),
        ("authorization", &own()),
        ("accept", "text/event-stream"),
        ("mcp-session-id", &id),
    ]);
    let denials = host.responses().len();
    let mut stream = Session::new(true);
    assert_eq!(stream.request_headers(&mut vm, &host, 7, true), Flow::Continue);
    assert_eq!(host.responses().len(), denials);
    let told_of = |id: &str| {
        let params = json!({"taskId": id, "status": "completed"});
        let told = json!({"jsonrpc": "2.0", "method": "notifications/tasks/status", "params": params});
        format!("data: {told}\n\n")
    };
    let told = answer(&host, &mut vm, &mut stream, "text/event-stream", &[&told_of("t-1")]);
    assert_eq!(told, told_of(&task));
}

#[test]
fn a_list_is_filtered_as_ever_and_elsewhere_ids_go_on_as_they_come() {
    let host = FakeHost::inbound();
    let mut bound = vm(&host, "bound");
    let (mut session, _) = rpc(&host, &mut bound, false, &own(), &message("tools/list", &json!({})));
    let list = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"pandas"},{"name":"bash"}]}}"#;
    host.set_response_headers(&[(":status", "200"), ("content-type", "application/json")]);
    session.response_headers(&mut bound, &host, false);
    host.response_headers_go();
    host.set_body(Message::Response, list.as_bytes());
    session.response_body(&host, list.len(), true);
    assert_eq!(host.response_body(), list.replace(r#",{"name":"bash"}"#, ""));

    let mut application = vm(&host, "application");
    let (mut session, gone) = rpc(&host, &mut application, true, &own(), &get("t-1"));
    assert_eq!(gone.unwrap(), get("t-1").to_string());
    let told = answer(&host, &mut application, &mut session, "application/json", &[OPENED]);
    assert_eq!(told, OPENED);
    let mut refused = vm(&host, "refused");
    let (_, gone) = rpc(&host, &mut refused, true, &own(), &get("t-1"));
    assert_eq!(gone.unwrap_err(), "task_refused");
}
