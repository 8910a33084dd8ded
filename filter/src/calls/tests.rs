#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use serde_json::{Value, json};

use crate::host::Message;
use crate::session::{Flow, Session};
use crate::testing::{self, FakeHost, NOW, bearer};
use crate::vm::Vm;

const ROOT: u32 = 1;

/// A call of `analyst-7` that has passed, of the stream with this context.
fn passed(host: &FakeHost, vm: &mut Vm, context: u32) -> Session {
    passed_with(host, vm, context, &json!({}))
}

fn passed_with(host: &FakeHost, vm: &mut Vm, context: u32, claims: &Value) -> Session {
    let authorization = bearer(claims);
    let headers = [
        (":method", "GET"),
        (":authority", "warehouse:8080"),
        (":path", "/v1/tables/sales"),
        ("authorization", &authorization),
    ];
    host.set_headers(&headers);
    let mut session = Session::new(true).in_context(context);
    assert_eq!(
        session.request_headers(vm, host, headers.len(), true),
        Flow::Continue,
        "{:?}",
        host.responses()
    );
    session
}

/// A new state list comes, and the root context's callback ends.
fn told(host: &FakeHost, vm: &mut Vm, version: u64, fields: &Value) {
    let answer = json!({ "state": testing::state(version, fields) });
    host.answer_poll(vm, 200, &answer);
    vm.end_calls(host, ROOT);
}

fn tick(host: &FakeHost, vm: &mut Vm) {
    vm.tick(host);
    vm.end_calls(host, ROOT);
}

/// How the record of a call's end says that it ended. `details` are Envoy's of the response.
fn end(host: &FakeHost, vm: &mut Vm, mut session: Session, status: Option<i64>, details: &str) -> String {
    match status {
        Some(status) => host.set("response.code", &status.to_le_bytes()),
        None => host.unset("response.code"),
    }
    host.set("response.code_details", details.as_bytes());
    session.finish(vm, host, true);
    let completion = host.published("ostiary_completion").pop().unwrap();
    completion["end"].as_str().unwrap().to_owned()
}

#[test]
fn a_kill_answers_calls_that_have_no_answer_yet_and_no_others() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let mut session = passed(&host, &mut vm, 7);
    told(&host, &mut vm, 2, &json!({"agents": {"writer-2": "killed"}}));
    assert_eq!(host.acted().0, []);
    told(&host, &mut vm, 3, &json!({"agents": {"analyst-7": "killed"}}));
    assert_eq!(
        host.acted(),
        (vec![(7, "respond")], Some(ROOT)),
        "and goes back to the root context"
    );
    let (status, body) = host.responses().pop().unwrap();
    assert_eq!((status, &body["code"]), (403, &json!("agent_killed")));

    // Envoy sends the answer through the filter.
    assert_eq!(session.response_headers(&mut vm, &host, false), Flow::Continue);
    assert_eq!(session.response_body(&host, 10, true), Flow::Continue);
    assert_eq!(end(&host, &mut vm, session, Some(403), ""), "cancelled");
    assert_eq!(vm.calls.len(), 0);
    host.advance(Duration::from_secs(1));
    tick(&host, &mut vm);
    assert_eq!(host.acted().0.len(), 1, "what has ended is left alone");
}

#[test]
fn a_suspension_resets_what_is_being_answered() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let mut session = passed(&host, &mut vm, 7);
    session.response_headers(&mut vm, &host, false);
    host.set_body(Message::Response, b"rows");
    session.response_body(&host, 4, false);
    told(&host, &mut vm, 2, &json!({"agents": {"analyst-7": "suspended"}}));
    assert_eq!(host.acted(), (vec![(7, "reset")], Some(ROOT)));
    assert_eq!(host.responses(), [], "no second answer");
    assert_eq!(end(&host, &mut vm, session, Some(200), "via_upstream"), "reset");
}

/// The proxy said that it did, and did nothing.
#[test]
fn what_is_still_there_is_reset_and_at_last_left() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let session = passed(&host, &mut vm, 7);
    told(&host, &mut vm, 2, &json!({"agents": {"analyst-7": "killed"}}));
    for expected in [1, 2, 3, 3, 3] {
        assert_eq!(host.acted().0.len(), expected);
        tick(&host, &mut vm);
        assert_eq!(host.acted().0.len(), expected, "not before its time");
        host.advance(Duration::from_millis(250));
        tick(&host, &mut vm);
    }
    assert_eq!(host.acted().0, [(7, "respond"), (7, "reset"), (7, "reset")]);
    assert_eq!(end(&host, &mut vm, session, None, ""), "reset");
}

#[test]
fn a_call_that_was_through_first_says_so() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    for (context, status) in [(7, 200), (8, 403)] {
        let mut session = passed(&host, &mut vm, context);
        let version = vm.standing().unwrap().state.list.version().counter + 1;
        told(&host, &mut vm, version, &json!({"agents": {"analyst-7": "killed"}}));
        session.response_headers(&mut vm, &host, true);
        assert_eq!(end(&host, &mut vm, session, Some(status), "via_upstream"), "outran");
        told(&host, &mut vm, version + 1, &json!({}));
    }
}

#[test]
fn a_context_that_is_gone_harms_no_other() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let gone = passed(&host, &mut vm, 7);
    let there = passed(&host, &mut vm, 8);
    host.lose_context(7);
    told(&host, &mut vm, 2, &json!({"agents": {"analyst-7": "killed"}}));
    assert_eq!(host.acted(), (vec![(8, "respond")], Some(ROOT)));
    assert_eq!(end(&host, &mut vm, there, Some(403), ""), "cancelled");
    assert_eq!(end(&host, &mut vm, gone, None, ""), "reset");
}

#[test]
fn dead_tokens_end_their_calls_and_a_pause_ends_none() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let _one = passed_with(&host, &mut vm, 7, &json!({"jti": "one"}));
    let _two = passed_with(
        &host,
        &mut vm,
        8,
        &json!({"jti": "two", "iat": NOW - 9, "nbf": NOW - 9, "exp": NOW + 200}),
    );
    told(&host, &mut vm, 2, &json!({"agents": {"analyst-7": "paused"}}));
    assert_eq!(host.acted().0, [], "a pause is for a person to judge");
    told(&host, &mut vm, 3, &json!({"revoked": {"one": NOW + 300}}));
    assert_eq!(host.acted().0, [(7, "respond")]);
    assert_eq!(host.denial().as_deref(), Some("token_revoked"));
    // Suspended and resumed between two polls: only this is told.
    told(
        &host,
        &mut vm,
        4,
        &json!({"agents": {"analyst-7": "paused"}, "not_before": {"analyst-7": NOW}}),
    );
    assert_eq!(host.acted().0, [(7, "respond"), (8, "respond")]);
    assert_eq!(host.denial().as_deref(), Some("token_superseded"));
}

/// What is held is decided on with the list that is in force when its body is there.
#[test]
fn a_call_that_is_held_is_denied_and_not_cancelled() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let authorization = bearer(&json!({}));
    let more = [("authorization", &*authorization)];
    let (mut session, _) = testing::post_tool(&host, &mut vm, Session::new(true).in_context(7), &more);
    told(&host, &mut vm, 2, &json!({"agents": {"analyst-7": "killed"}}));
    assert_eq!(host.acted().0, []);
    let body = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"pandas","arguments":{}}}"#;
    host.set_body(Message::Request, body);
    assert_eq!(session.request_body(&mut vm, &host, body.len(), true), Flow::Pause);
    assert_eq!(host.denial().as_deref(), Some("agent_killed"));
    assert_eq!(vm.calls.len(), 0);
}
