#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use authz::digest::Digest;
use serde_json::{Value, json};

use crate::host::Message;
use crate::session::{Flow, Session};
use crate::testing::{self, FakeHost, NOW, OTHER_AGENT, bearer};
use crate::vm::Vm;

const ROOT: u32 = 1;
const STREAM: u32 = 7;
const TOOL: &[u8] = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"pandas","arguments":{}}}"#;

/// A request for a table that has been permitted, and waits.
fn waiting(host: &FakeHost, vm: &mut Vm, stream: u32) -> Session {
    let (session, flow) = begun(host, vm, stream, "GET", true);
    assert_eq!((flow, host.denial()), (Flow::Pause, None));
    session
}

fn begun(host: &FakeHost, vm: &mut Vm, stream: u32, method: &str, end: bool) -> (Session, Flow) {
    let authorization = bearer(&json!({}));
    let headers = [
        (":method", method),
        (":authority", "warehouse:8080"),
        (":path", "/v1/tables/sales"),
        ("authorization", &authorization),
    ];
    host.set_headers(&headers);
    let mut session = Session::new(true).in_context(stream);
    let flow = session.request_headers(vm, host, headers.len(), end);
    (session, flow)
}

/// The bell is answered, as the proxy has it done.
fn post(host: &FakeHost, vm: &mut Vm) {
    vm.answer_bell(host);
    vm.end_calls(host, ROOT);
}

fn stored(host: &FakeHost, vm: &mut Vm) {
    told(host, vm, |_| ());
}

fn told(host: &FakeHost, vm: &mut Vm, change: impl Fn(&mut Value)) {
    host.store_batch_and_tell(vm, change);
    vm.end_calls(host, ROOT);
}

fn listed(host: &FakeHost, vm: &mut Vm, version: u64, fields: &Value) {
    host.answer_poll(vm, 200, &json!({ "state": testing::state(version, fields) }));
    vm.end_calls(host, ROOT);
}

fn later(host: &FakeHost, vm: &mut Vm, by: Duration) {
    host.advance(by);
    vm.tick(host);
    vm.end_calls(host, ROOT);
}

/// What was done to streams out of the root context.
fn acts(host: &FakeHost) -> Vec<&'static str> {
    let acted = host.acted().0.into_iter();
    acted
        .filter(|(context, _)| *context != ROOT)
        .map(|(_, act)| act)
        .collect()
}

/// The record of the end, once the stream is over.
fn end(host: &FakeHost, vm: &mut Vm, mut session: Session, status: Option<i64>) -> Value {
    match status {
        Some(status) => host.set("response.code", &status.to_le_bytes()),
        None => host.unset("response.code"),
    }
    session.finish(vm, host, true);
    host.published("ostiary_completion").pop().unwrap()
}

/// A call that was denied while it waited: the answer, its record, and that it never went on.
fn denied(host: &FakeHost, vm: &mut Vm, mut session: Session, code: &str) {
    assert_eq!(acts(host), ["respond"], "{code}");
    assert_eq!(host.denial().as_deref(), Some(code));
    let (status, _) = host.responses().pop().unwrap();
    // Envoy sends the answer through the filter.
    assert_eq!(session.response_headers(vm, host, false), Flow::Continue);
    assert_eq!(session.response_body(host, 10, true), Flow::Continue);
    let end = end(host, vm, session, Some(status.into()));
    assert_eq!(
        (&end["end"], &end["code"], &end["status"]),
        (&json!("not_delivered"), &json!(code), &json!(status))
    );
    assert_eq!(vm.calls.len(), 0);
    later(host, vm, Duration::from_secs(1));
    assert_eq!(acts(host), ["respond"], "what has ended is left alone");
}

#[test]
fn a_call_goes_on_once_its_record_is_stored() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let mut session = waiting(&host, &mut vm, STREAM);
    assert_eq!(host.rings(), 1);
    assert_eq!(
        host.last_sent("/v1/records").map(|sent| sent.path),
        None,
        "a stream posts nothing"
    );
    post(&host, &mut vm);
    let batch = host.last_sent("/v1/records").unwrap();
    assert_eq!(
        batch.headers["ostiary-waiting"], "1",
        "the source's own record has nobody waiting"
    );
    assert_eq!(host.posted()[1]["verdict"], "permit");
    assert_eq!(acts(&host), [""; 0]);
    stored(&host, &mut vm);
    assert_eq!(
        host.acted(),
        (vec![(STREAM, "resume")], Some(ROOT)),
        "and back to the root context"
    );
    assert_eq!(session.response_headers(&mut vm, &host, false), Flow::Continue);
    assert_eq!(vm.calls.len(), 1, "a kill would end it now");
    assert_eq!(end(&host, &mut vm, session, Some(200))["end"], "broken");
    assert_eq!(vm.calls.len(), 0);
}

#[test]
fn waiters_join_the_batch_after_the_one_that_is_out() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let _one = waiting(&host, &mut vm, 7);
    let _two = waiting(&host, &mut vm, 8);
    assert_eq!(host.rings(), 1, "one call of the root context posts both");
    post(&host, &mut vm);
    assert_eq!(host.last_sent("/v1/records").unwrap().headers["ostiary-waiting"], "1,2");
    let _three = waiting(&host, &mut vm, 9);
    let _four = waiting(&host, &mut vm, 10);
    assert_eq!(host.rings(), 1, "the answer is followed by the next batch");
    stored(&host, &mut vm);
    assert_eq!(host.acted().0, [(7, "resume"), (8, "resume")]);
    assert_eq!(host.last_sent("/v1/records").unwrap().headers["ostiary-waiting"], "3,4");
    stored(&host, &mut vm);
    assert_eq!(host.acted().0[2..], [(9, "resume"), (10, "resume")]);
    let _five = waiting(&host, &mut vm, 11);
    assert_eq!(host.rings(), 2);
}

#[test]
fn without_a_bell_the_tick_posts() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    vm.take_bell_down(1);
    let _session = waiting(&host, &mut vm, STREAM);
    assert_eq!(host.rings(), 0);
    later(&host, &mut vm, Duration::from_millis(50));
    stored(&host, &mut vm);
    assert_eq!(acts(&host), ["resume"]);
}

/// A batch of which a part was stored.
#[test]
fn what_is_not_stored_yet_waits_on() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let _one = waiting(&host, &mut vm, 7);
    let _two = waiting(&host, &mut vm, 8);
    post(&host, &mut vm);
    let batch = host.last_sent("/v1/records").unwrap();
    let lines: Vec<Value> = String::from_utf8(batch.body)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let call = json!({"seq": 1, "hash": lines[1]["hash"], "agent": {"id": "analyst-7", "state": "active"}});
    let body = json!({"source": lines[0]["record"]["source"], "accepted_through": 1, "calls": [call]}).to_string();
    host.answer(&mut vm, batch.token, 200, body.as_bytes());
    vm.end_calls(&host, ROOT);
    assert_eq!(host.acted().0, [(7, "resume")]);
    assert_eq!(host.last_sent("/v1/records").unwrap().headers["ostiary-waiting"], "2");
    stored(&host, &mut vm);
    assert_eq!(host.acted().0[1..], [(8, "resume")]);
}

#[test]
fn a_tool_call_waits_with_its_whole_body() {
    for flag in [true, false] {
        for trailers in [false, true] {
            let host = FakeHost::inbound();
            let mut vm = testing::waiting_vm(&host);
            let mut session = tool(&host, &mut vm, flag);
            host.set_body(Message::Request, TOOL);
            host.set_trailers(Some(&["ostiary-call", "x-end"]));
            assert_eq!(session.request_body(&mut vm, &host, TOOL.len(), !trailers), Flow::Pause);
            if trailers {
                assert_eq!(host.rings(), 0, "not whole yet");
                assert_eq!(session.request_trailers(&mut vm, &host), Flow::Pause);
                assert_eq!(host.trailers(), ["x-end"], "nobody looks at them when they go on");
            }
            post(&host, &mut vm);
            assert_eq!(host.denial(), None);
            stored(&host, &mut vm);
            assert_eq!(acts(&host), ["resume"], "{flag} {trailers}");
            let end = end(&host, &mut vm, session, Some(200));
            assert_eq!(
                (&end["request_bytes"], &end["end"]),
                (&json!(TOOL.len()), &json!("broken"))
            );
        }
    }
}

/// Posts a call of a tool up to its headers.
fn tool(host: &FakeHost, vm: &mut Vm, flag: bool) -> Session {
    let authorization = bearer(&json!({}));
    let more = [("authorization", &*authorization)];
    testing::post_tool(host, vm, Session::new(flag).in_context(STREAM), &more).0
}

#[test]
fn what_the_answer_says_of_the_agent_decides() {
    let agent = |change: Value| move |told: &mut Value| told["agent"] = change.clone();
    let id = "analyst-7";
    for (change, code) in [
        (json!({"id": id, "state": "paused"}), "agent_paused"),
        (json!({"id": id, "state": "suspended"}), "agent_suspended"),
        (json!({"id": id, "state": "killed"}), "agent_killed"),
        (
            json!({"id": id, "state": "active", "not_before": NOW + 1}),
            "token_superseded",
        ),
        (json!({"id": id, "state": "dreaming"}), "records_unavailable"),
        (json!({"id": "writer-2", "state": "active"}), "records_unavailable"),
        (Value::Null, "records_unavailable"),
    ] {
        let host = FakeHost::inbound();
        let mut vm = testing::waiting_vm(&host);
        let session = waiting(&host, &mut vm, STREAM);
        post(&host, &mut vm);
        told(&host, &mut vm, agent(change));
        denied(&host, &mut vm, session, code);
    }
}

/// An answer to another record, to another place, or to none: of a policy server that does not know that calls wait.
#[test]
fn what_is_said_of_another_call_lets_none_go() {
    let changes: [fn(&mut Value); 3] = [
        |told| told["hash"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        |told| told["seq"] = json!(0),
        |told| *told = Value::Null,
    ];
    for change in changes {
        let host = FakeHost::inbound();
        let mut vm = testing::waiting_vm(&host);
        let session = waiting(&host, &mut vm, STREAM);
        post(&host, &mut vm);
        told(&host, &mut vm, change);
        denied(&host, &mut vm, session, "records_unavailable");
    }
}

#[test]
fn what_is_not_stored_does_not_go_on_and_what_comes_next_is_denied_at_once() {
    for status in [503, 409, 413, 500] {
        let host = FakeHost::inbound();
        let mut vm = testing::waiting_vm(&host);
        let session = waiting(&host, &mut vm, STREAM);
        post(&host, &mut vm);
        let batch = host.last_sent("/v1/records").unwrap();
        host.answer(&mut vm, batch.token, status, b"");
        vm.end_calls(&host, ROOT);
        assert_eq!(acts(&host), ["respond"]);
        let (_, flow) = begun(&host, &mut vm, 8, "GET", true);
        assert_eq!((flow, host.responses().len()), (Flow::Pause, 2), "denied, not held");
        assert_eq!(host.denial().as_deref(), Some("records_unavailable"));
        denied(&host, &mut vm, session, "records_unavailable");
        // With the next batch calls pass again.
        stored(&host, &mut vm);
        let (_session, flow) = begun(&host, &mut vm, 9, "GET", true);
        assert_eq!((flow, host.responses().len()), (Flow::Pause, 2), "held, not denied");
        // After a 413 batches are shorter.
        for _ in 0..8 {
            later(&host, &mut vm, Duration::from_millis(100));
            stored(&host, &mut vm);
        }
        assert_eq!(host.acted().0.last(), Some(&(9, "resume")), "{status}");
        let ends: Vec<Value> = host
            .posted()
            .into_iter()
            .filter_map(|record| record.get("end").cloned())
            .collect();
        assert!(ends.contains(&json!("not_delivered")), "{status}: {ends:?}");
    }
}

#[test]
fn without_a_policy_server_nothing_waits_for_it() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    host.set_cluster_absent(true);
    let session = waiting(&host, &mut vm, STREAM);
    post(&host, &mut vm);
    denied(&host, &mut vm, session, "records_unavailable");
}

#[test]
fn a_wait_has_an_end() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let session = waiting(&host, &mut vm, STREAM);
    post(&host, &mut vm);
    later(&host, &mut vm, Duration::from_millis(4900));
    assert_eq!(acts(&host), [""; 0]);
    later(&host, &mut vm, Duration::from_millis(200));
    assert_eq!(acts(&host), ["respond"]);
    stored(&host, &mut vm);
    denied(&host, &mut vm, session, "records_unavailable");
}

#[test]
fn a_change_of_state_meanwhile_is_heeded_at_once() {
    for (fields, code) in [
        (json!({"agents": {"analyst-7": "paused"}}), "agent_paused"),
        (json!({"agents": {"analyst-7": "killed"}}), "agent_killed"),
        (json!({"revoked": {"jti-1": NOW + 300}}), "token_revoked"),
        (json!({"not_before": {"analyst-7": NOW + 1}}), "token_superseded"),
    ] {
        let host = FakeHost::inbound();
        let mut vm = testing::waiting_vm(&host);
        let session = waiting(&host, &mut vm, STREAM);
        post(&host, &mut vm);
        listed(&host, &mut vm, 2, &json!({"agents": {"writer-2": "killed"}}));
        assert_eq!(acts(&host), [""; 0], "another agent's");
        listed(&host, &mut vm, 3, &fields);
        assert_eq!(host.denial().as_deref(), Some(code), "before the batch is answered");
        stored(&host, &mut vm);
        denied(&host, &mut vm, session, code);
    }
}

/// The list in force counts beside the answer, should it be newer.
#[test]
fn an_answer_and_a_list_must_both_agree() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let session = waiting(&host, &mut vm, STREAM);
    post(&host, &mut vm);
    // Both come before the root context's callback ends.
    host.store_batch(&mut vm);
    listed(&host, &mut vm, 2, &json!({"agents": {"analyst-7": "killed"}}));
    denied(&host, &mut vm, session, "agent_killed");
}

#[test]
fn a_caller_that_leaves_while_it_waits_leaves_a_record() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let session = waiting(&host, &mut vm, STREAM);
    post(&host, &mut vm);
    let end = end(&host, &mut vm, session, None);
    assert_eq!(
        (&end["end"], end.get("code"), end.get("status")),
        (&json!("not_delivered"), None, None)
    );
    stored(&host, &mut vm);
    assert_eq!(acts(&host), [""; 0]);
    assert_eq!(vm.calls.len(), 0);
    // Its place in the chain is not another's: a later call waits for its own record.
    stored(&host, &mut vm);
    let _next = waiting(&host, &mut vm, 8);
    post(&host, &mut vm);
    stored(&host, &mut vm);
    assert_eq!(host.acted().0, [(8, "resume")]);
}

#[test]
fn a_stream_that_is_gone_harms_no_other() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let _gone = waiting(&host, &mut vm, 7);
    let _there = waiting(&host, &mut vm, 8);
    post(&host, &mut vm);
    host.lose_context(7);
    stored(&host, &mut vm);
    assert_eq!(host.acted(), (vec![(8, "resume")], Some(ROOT)));
}

/// Where headers are held and body callbacks come all the same.
#[test]
fn a_body_that_comes_while_headers_wait_goes_on_with_its_next_part() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let (mut session, flow) = begun(&host, &mut vm, STREAM, "PUT", false);
    assert_eq!(flow, Flow::Pause);
    host.set_body(Message::Request, b"one");
    assert_eq!(session.request_body(&mut vm, &host, 3, false), Flow::Pause);
    post(&host, &mut vm);
    stored(&host, &mut vm);
    assert_eq!(acts(&host), [""; 0], "the proxy would lose what comes after");
    host.set_body(Message::Request, b"onetwo");
    assert_eq!(session.request_body(&mut vm, &host, 6, false), Flow::Continue);
    host.set_body(Message::Request, b"three");
    assert_eq!(session.request_body(&mut vm, &host, 5, true), Flow::Continue);
    let end = end(&host, &mut vm, session, Some(200));
    assert_eq!(end["request_digest"], Digest::of(b"onetwothree").to_base64url());
    assert_eq!((&end["request_bytes"], &end["end"]), (&json!(11), &json!("broken")));
}

#[test]
fn a_body_that_is_whole_while_headers_wait_goes_on_with_them() {
    for trailers in [false, true] {
        let host = FakeHost::inbound();
        let mut vm = testing::waiting_vm(&host);
        let (mut session, _) = begun(&host, &mut vm, STREAM, "PUT", false);
        host.set_body(Message::Request, b"one");
        assert_eq!(session.request_body(&mut vm, &host, 3, false), Flow::Pause);
        host.set_body(Message::Request, b"onetwo");
        assert_eq!(session.request_body(&mut vm, &host, 6, !trailers), Flow::Pause);
        if trailers {
            assert_eq!(session.request_trailers(&mut vm, &host), Flow::Pause);
        }
        post(&host, &mut vm);
        stored(&host, &mut vm);
        assert_eq!(acts(&host), ["resume"]);
        let end = end(&host, &mut vm, session, Some(200));
        assert_eq!(end["request_digest"], Digest::of(b"onetwo").to_base64url());
    }
}

/// A body of which nothing comes while its headers wait.
#[test]
fn a_body_that_comes_afterwards_streams() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let (mut session, _) = begun(&host, &mut vm, STREAM, "PUT", false);
    post(&host, &mut vm);
    stored(&host, &mut vm);
    assert_eq!(acts(&host), ["resume"]);
    for part in [b"one", b"two"] {
        host.set_body(Message::Request, part);
        assert_eq!(session.request_body(&mut vm, &host, 3, part == b"two"), Flow::Continue);
    }
    let end = end(&host, &mut vm, session, Some(200));
    assert_eq!(end["request_digest"], Digest::of(b"onetwo").to_base64url());
}

#[test]
fn a_call_that_is_denied_while_a_part_of_its_body_is_held_stays_where_it_is() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let (mut session, _) = begun(&host, &mut vm, STREAM, "PUT", false);
    host.set_body(Message::Request, b"one");
    assert_eq!(session.request_body(&mut vm, &host, 3, false), Flow::Pause);
    listed(&host, &mut vm, 2, &json!({"agents": {"analyst-7": "killed"}}));
    host.set_body(Message::Request, b"onetwo");
    assert_eq!(session.request_body(&mut vm, &host, 6, true), Flow::Pause);
    assert_eq!(session.request_trailers(&mut vm, &host), Flow::Pause);
    denied(&host, &mut vm, session, "agent_killed");
}

#[test]
fn an_answer_to_headers_that_went_ahead_is_withheld() {
    let host = FakeHost::inbound();
    let mut vm = testing::waiting_vm(&host);
    let mut session = tool(&host, &mut vm, false);
    host.set_body(Message::Request, TOOL);
    assert_eq!(session.request_body(&mut vm, &host, TOOL.len(), true), Flow::Pause);
    host.set("response.code_details", b"via_upstream");
    assert_eq!(session.response_headers(&mut vm, &host, false), Flow::Pause);
    assert_eq!(host.denial().as_deref(), Some("internal_error"));
    assert_eq!(session.response_body(&host, 10, true), Flow::Pause);
    assert_eq!(session.response_trailers(&host), Flow::Pause);
    post(&host, &mut vm);
    stored(&host, &mut vm);
    assert_eq!(acts(&host), [""; 0], "it does not go on any more");
    let end = end(&host, &mut vm, session, Some(500));
    assert_eq!(
        (&end["end"], &end["code"]),
        (&json!("not_delivered"), &json!("internal_error"))
    );
}

#[test]
fn only_the_services_side_waits() {
    let host = FakeHost::outbound();
    let mut vm = testing::waiting_vm(&host);
    let (_, flow) = begun(&host, &mut vm, STREAM, "GET", true);
    assert_eq!((flow, host.rings()), (Flow::Continue, 0));
}

#[test]
fn a_call_without_a_capability_waits_for_its_record_and_for_no_agent() {
    let host = FakeHost::inbound();
    host.set("connection.uri_san_peer_certificate", OTHER_AGENT.as_bytes());
    let mut vm = testing::waiting_vm(&host);
    host.set_headers(&[(":method", "GET"), (":authority", "warehouse"), (":path", "/metrics")]);
    let mut session = Session::new(true).in_context(STREAM);
    assert_eq!(session.request_headers(&mut vm, &host, 3, true), Flow::Pause);
    post(&host, &mut vm);
    listed(&host, &mut vm, 2, &json!({"agents": {"writer-2": "killed"}}));
    stored(&host, &mut vm);
    assert_eq!(acts(&host), ["resume"]);
    assert_eq!(end(&host, &mut vm, session, Some(200))["peer"], OTHER_AGENT);
}
