#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{Host as _, Message};
use crate::session::{Flow, Session};
use crate::testing::{self, FakeHost, NOW, OTHER_AGENT, SERVICE, bearer};
use crate::vm::Vm;

const ROOT: u32 = 1;

/// A VM whose services have their calls end with their tokens, or go on.
fn vm(host: &FakeHost, on_expiry: &str) -> Vm {
    let outbound = host.property(&["xds", "listener_direction"]) == Some(2_i64.to_le_bytes().to_vec());
    let workload = if outbound { testing::AGENT } else { SERVICE };
    let mut claims = testing::bundle_claims(workload, 1, &json!({}));
    for service in claims["services"].as_array_mut().unwrap() {
        service["on_expiry"] = json!(on_expiry);
    }
    let mut vm = testing::fresh_vm(host);
    let bundle = testing::sign_head(&claims);
    host.answer_poll(
        &mut vm,
        200,
        &json!({"bundle": bundle, "state": testing::state(1, &json!({}))}),
    );
    vm
}

/// A call whose token expires in a minute.
fn passed(host: &FakeHost, vm: &mut Vm, context: u32) -> Session {
    let authorization = bearer(&json!({"exp": NOW + 60}));
    let headers = [
        (":method", "GET"),
        (":authority", "warehouse:8080"),
        (":path", "/v1/tables/sales"),
        ("authorization", &authorization),
    ];
    host.set_headers(&headers);
    let mut session = Session::new(true).in_context(context);
    let flow = session.request_headers(vm, host, headers.len(), true);
    assert_eq!(flow, Flow::Continue, "{:?}", host.responses());
    session
}

fn claims(fields: &Value) -> Value {
    let mut claims = json!({
        "iss": testing::POLICY_SERVER, "sub": testing::AGENT, "aud": [SERVICE],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
        "iat": NOW + 50, "nbf": NOW + 50, "exp": NOW + 350, "jti": "jti-2", "agent_id": "analyst-7",
        "operation_id": "report-2026-q1", "scope": ["read:data.sales"], "tools": [], "forbidden_tools": [],
    });
    for (name, value) in fields.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

/// So many seconds pass, with a list of states that stays fresh.
fn pass(host: &FakeHost, vm: &mut Vm, seconds: u64) {
    host.advance(Duration::from_secs(seconds));
    vm.tick(host);
    vm.end_calls(host, ROOT);
}

fn questions(host: &FakeHost) -> usize {
    host.sent().iter().filter(|sent| sent.path == "/v1/successors").count()
}

fn answer(host: &FakeHost, vm: &mut Vm, tokens: &[Value]) {
    let question = host.last_sent("/v1/successors").unwrap();
    host.answer(
        vm,
        question.token,
        200,
        json!({"tokens": tokens}).to_string().as_bytes(),
    );
    vm.end_calls(host, ROOT);
}

#[test]
fn a_call_ends_with_its_token_before_it_is_answered_and_after() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "cut");
    let _unanswered = passed(&host, &mut vm, 7);
    let mut answered = passed(&host, &mut vm, 8);
    answered.response_headers(&mut vm, &host, false);
    pass(&host, &mut vm, 54);
    assert_eq!(questions(&host), 0, "not before its time");
    pass(&host, &mut vm, 1);
    let question = host.last_sent("/v1/successors").unwrap();
    let asked: Value = serde_json::from_slice(&question.body).unwrap();
    let operation = json!({"sub": testing::AGENT, "operation_id": "report-2026-q1"});
    assert_eq!(
        asked,
        json!({"operations": [operation]}),
        "once, for all calls of the operation"
    );
    answer(&host, &mut vm, &[]);
    pass(&host, &mut vm, 4);
    assert_eq!(questions(&host), 2, "asked again");
    assert_eq!(host.acted().0, [], "as long as the token lives");
    pass(&host, &mut vm, 1);
    let mut acted = host.acted().0;
    acted.sort_unstable();
    assert_eq!(acted, [(7, "respond"), (8, "reset")]);
    assert_eq!(host.denial().as_deref(), Some("token_expired"));
}

#[test]
fn a_call_whose_service_says_so_goes_on_to_its_end() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "finish");
    let _call = passed(&host, &mut vm, 7);
    pass(&host, &mut vm, 100);
    assert_eq!((questions(&host), host.acted().0.len()), (0, 0));
}

/// The service's sidecar is the boundary that counts; the caller's is reset by it.
#[test]
fn the_callers_sidecar_cuts_nothing() {
    let host = FakeHost::outbound();
    let mut vm = vm(&host, "cut");
    let _call = passed(&host, &mut vm, 7);
    pass(&host, &mut vm, 100);
    assert_eq!((questions(&host), host.acted().0.len()), (0, 0));
}

#[test]
fn a_call_goes_on_by_a_token_that_permits_it_and_ends_with_that() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "cut");
    let _call = passed(&host, &mut vm, 7);
    pass(&host, &mut vm, 56);
    answer(&host, &mut vm, &[claims(&json!({"exp": NOW + 90}))]);
    pass(&host, &mut vm, 28);
    assert_eq!((questions(&host), host.acted().0.len()), (1, 0));
    pass(&host, &mut vm, 2);
    assert_eq!(questions(&host), 2, "and again before that one expires");
    answer(&host, &mut vm, &[]);
    pass(&host, &mut vm, 5);
    assert_eq!(host.acted().0, [(7, "respond")]);
}

#[test]
fn no_other_token_and_no_failure_lets_a_call_go_on() {
    let good = json!({});
    for (why, fields) in [
        ("none", None),
        (
            "another agent's",
            Some(json!({"sub": OTHER_AGENT, "agent_id": "writer-2"})),
        ),
        ("one in another name", Some(json!({"agent_id": "writer-2"}))),
        ("another operation's", Some(json!({"operation_id": "other"}))),
        ("one for another service", Some(json!({"aud": [OTHER_AGENT]}))),
        ("one with less", Some(json!({"scope": ["read:data.other"]}))),
        ("one that expires no later", Some(json!({"exp": NOW + 60}))),
        ("one of a later version", Some(json!({"act": {}}))),
        ("a good one", Some(good)),
    ] {
        let host = FakeHost::inbound();
        let mut vm = vm(&host, "cut");
        let _call = passed(&host, &mut vm, 7);
        pass(&host, &mut vm, 56);
        let tokens: Vec<Value> = fields.iter().map(claims).collect();
        answer(&host, &mut vm, &tokens);
        // The list of states is still fresh then.
        pass(&host, &mut vm, 4);
        let cut = host.acted().0 == [(7, "respond")];
        assert_eq!(cut, why != "a good one", "{why}");
    }
    for status in [0, 403, 404, 503] {
        let host = FakeHost::inbound();
        let mut vm = vm(&host, "cut");
        let _call = passed(&host, &mut vm, 7);
        pass(&host, &mut vm, 56);
        let question = host.last_sent("/v1/successors").unwrap();
        let good = json!({"tokens": [claims(&json!({}))]}).to_string();
        host.answer(&mut vm, question.token, status, good.as_bytes());
        pass(&host, &mut vm, 4);
        assert_eq!(host.acted().0, [(7, "respond")], "{status}");
    }
}

#[test]
fn a_call_ends_when_the_token_is_revoked_that_it_went_on_by() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "cut");
    let _call = passed(&host, &mut vm, 7);
    pass(&host, &mut vm, 56);
    answer(&host, &mut vm, &[claims(&json!({}))]);
    let told = |vm: &mut Vm, version: u64, revoked: &Value| {
        let fields = json!({"issued_at": NOW + 56, "revoked": revoked});
        host.answer_poll(vm, 200, &json!({"state": testing::state(version, &fields)}));
        vm.end_calls(&host, ROOT);
    };
    told(&mut vm, 2, &json!({"jti-3": NOW + 350}));
    assert_eq!(host.acted().0, []);
    told(&mut vm, 3, &json!({"jti-2": NOW + 350}));
    assert_eq!(host.acted().0, [(7, "respond")]);
    assert_eq!(host.denial().as_deref(), Some("token_revoked"));
}

#[test]
fn a_stream_of_events_ends_with_one_of_ours() {
    for (sent, expected) in [
        ("data: 1\n\n", "event: error\ndata: "),
        // Half an event is nothing that a caller should take for a whole one.
        ("data: 1\n\ndata: 2", ""),
    ] {
        let host = FakeHost::inbound();
        let mut vm = vm(&host, "cut");
        let mut session = passed(&host, &mut vm, 7);
        host.set_response_headers(&[(":status", "200"), ("content-type", "Text/Event-Stream; charset=utf-8")]);
        session.response_headers(&mut vm, &host, false);
        let mut chunk = |host: &FakeHost, bytes: &str| {
            host.set_body(Message::Response, bytes.as_bytes());
            assert_eq!(session.response_body(host, bytes.len(), false), Flow::Continue);
            host.response_body()
        };
        assert_eq!(chunk(&host, sent), sent);
        let answer = json!({"state": testing::state(2, &json!({"agents": {"analyst-7": "killed"}}))});
        host.answer_poll(&mut vm, 200, &answer);
        vm.end_calls(&host, ROOT);
        assert_eq!(host.acted().0, [], "the next part is waited for");
        let event = chunk(&host, "data: secret\n\n");
        assert!(
            event.starts_with(expected) && event.is_empty() == expected.is_empty(),
            "{event}"
        );
        if !event.is_empty() {
            let data = event.strip_prefix(expected).unwrap().strip_suffix("\n\n").unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["code"], "agent_killed");
        }
        assert_eq!(chunk(&host, "data: more\n\n"), "", "and nothing after it");
        host.advance(Duration::from_millis(50));
        vm.tick(&host);
        vm.end_calls(&host, ROOT);
        assert_eq!(host.acted().0, [(7, "reset")]);
        host.set("response.code", &200_i64.to_le_bytes());
        host.set("response.code_details", b"via_upstream");
        session.finish(&mut vm, &host, true);
        assert_eq!(host.published("ostiary_completion").pop().unwrap()["end"], "reset");
    }
}
