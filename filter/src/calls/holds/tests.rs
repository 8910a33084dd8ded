#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use serde_json::{Value, json};

use crate::host::{Host as _, Message};
use crate::session::{Flow, Session};
use crate::testing::{self, AGENT, BUNDLE_KEY, FakeHost, NOW, SERVICE, bearer};
use crate::vm::Vm;

const ROOT: u32 = 1;
const TOOL: &[u8] = br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"pandas","arguments":{}}}"#;

/// A VM whose services hold calls of paused agents, in a mesh where `analyst-7` is paused.
fn vm(host: &FakeHost, service: &Value) -> Vm {
    let outbound = host.property(&["xds", "listener_direction"]) == Some(2_i64.to_le_bytes().to_vec());
    let mut claims = testing::bundle_claims(if outbound { AGENT } else { SERVICE }, 1, &json!({}));
    for existing in claims["services"].as_array_mut().unwrap() {
        for (name, value) in service.as_object().unwrap() {
            existing[name] = value.clone();
        }
    }
    let mut vm = Vm::default();
    let config = testing::config(BUNDLE_KEY, &json!({"held_calls": 2}));
    vm.configure(host, &config).unwrap();
    vm.tick(host);
    let answer = json!({"bundle": testing::sign_head(&claims), "state": testing::state(1, &paused())});
    host.answer_poll(&mut vm, 200, &answer);
    vm
}

fn paused() -> Value {
    json!({"agents": {"analyst-7": "paused"}})
}

fn read(host: &FakeHost, vm: &mut Vm, context: u32, table: &str) -> (Session, Flow) {
    let (authorization, path) = (bearer(&json!({"exp": NOW + 200})), format!("/v1/tables/{table}"));
    let headers = [
        (":method", "GET"),
        (":authority", "warehouse:8080"),
        (":path", &*path),
        ("authorization", &*authorization),
    ];
    host.set_headers(&headers);
    let mut session = Session::new(true).in_context(context);
    let flow = session.request_headers(vm, host, headers.len(), true);
    (session, flow)
}

fn held(host: &FakeHost, vm: &mut Vm, context: u32) -> Session {
    let before = host.responses().len();
    let (session, flow) = read(host, vm, context, "sales");
    assert_eq!((flow, host.responses().len()), (Flow::Pause, before));
    session
}

/// A list of states comes, and so much time passes.
fn told(host: &FakeHost, vm: &mut Vm, version: u64, fields: &Value) {
    host.answer_poll(vm, 200, &json!({"state": testing::state(version, fields)}));
    pass(host, vm, Duration::from_millis(50));
}

fn pass(host: &FakeHost, vm: &mut Vm, time: Duration) {
    host.advance(time);
    vm.tick(host);
    vm.end_calls(host, ROOT);
}

fn hold() -> Value {
    json!({"on_pause": "hold"})
}

#[test]
fn a_call_goes_on_once_a_person_approves_and_not_before() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, &hold());
    let mut session = held(&host, &mut vm, 7);
    let decision = host.published("ostiary").pop().unwrap();
    assert_eq!(decision["verdict"], "permit", "as if its agent were active");
    told(&host, &mut vm, 2, &paused());
    assert_eq!(host.acted().0, []);
    told(&host, &mut vm, 3, &json!({}));
    assert_eq!(host.acted().0, [(7, "resume")]);
    session.response_headers(&mut vm, &host, true);
    host.set("response.code", &200_i64.to_le_bytes());
    session.finish(&mut vm, &host, true);
    assert_eq!(host.published("ostiary_completion").pop().unwrap()["end"], "complete");
    assert_eq!(vm.calls.held(), 0);
}

#[test]
fn a_service_that_does_not_say_so_holds_nothing() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, &json!({}));
    assert_eq!(read(&host, &mut vm, 7, "sales").1, Flow::Pause);
    assert_eq!(host.denial().as_deref(), Some("agent_paused"));
    assert_eq!(vm.calls.held(), 0);
}

#[test]
fn what_an_active_agent_may_not_do_is_not_held() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, &hold());
    assert_eq!(read(&host, &mut vm, 7, "salaries").1, Flow::Pause);
    assert_eq!(host.denial().as_deref(), Some("agent_paused"));
    assert_eq!(vm.calls.held(), 0);
}

#[test]
fn nobody_is_held_for_longer_than_is_configured_and_no_more_than_there_is_room_for() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, &hold());
    let session = held(&host, &mut vm, 7);
    let _other = held(&host, &mut vm, 8);
    read(&host, &mut vm, 9, "sales");
    assert_eq!(host.denial().as_deref(), Some("agent_paused"), "two may wait");
    assert_eq!((vm.calls.held(), host.responses().len()), (2, 1));
    for _ in 0..3 {
        // As the policy server does while nothing happens.
        let version = vm.standing().unwrap().state.list.version().counter + 1;
        let renewed = json!({"agents": {"analyst-7": "paused"}, "issued_at": host.now()});
        host.answer_poll(&mut vm, 200, &json!({"state": testing::state(version, &renewed)}));
        pass(&host, &mut vm, Duration::from_secs(6));
    }
    assert_eq!(host.acted().0, []);
    pass(&host, &mut vm, Duration::from_secs(12));
    let mut acted = host.acted().0;
    acted.sort_unstable();
    assert_eq!(acted, [(7, "respond"), (8, "respond")]);
    host.set("response.code", &403_i64.to_le_bytes());
    let mut session = session;
    session.finish(&mut vm, &host, true);
    let end = host.published("ostiary_completion").pop().unwrap();
    assert_eq!(
        (&end["end"], &end["code"]),
        (&json!("not_delivered"), &json!("agent_paused"))
    );
}

/// Whatever has changed since counts.
#[test]
fn a_call_is_decided_anew_when_it_may_go_on() {
    let less = testing::agents(&["read:data.other"], 0);
    for (state, bundle, code) in [
        (json!({"agents": {"analyst-7": "suspended"}}), None, "agent_suspended"),
        (json!({"agents": {"analyst-7": "killed"}}), None, "agent_killed"),
        (json!({"revoked": {"jti-1": NOW + 300}}), None, "token_revoked"),
        (json!({"not_before": {"analyst-7": NOW + 1}}), None, "token_superseded"),
        (json!({}), Some(json!({"agents": less})), "scope_not_in_policy"),
    ] {
        let host = FakeHost::inbound();
        let mut vm = vm(&host, &hold());
        let _session = held(&host, &mut vm, 7);
        if let Some(fields) = bundle {
            let bundle = testing::bundle(SERVICE, 2, &fields);
            host.answer_poll(&mut vm, 200, &json!({"bundle": bundle}));
        }
        told(&host, &mut vm, 2, &state);
        assert_eq!(
            (host.acted().0, host.denial().as_deref()),
            (vec![(7, "respond")], Some(code))
        );
    }
}

/// A tool's call is held whole, and waits for its record too.
#[test]
fn a_held_call_goes_on_only_once_its_record_is_durable() {
    let both = json!({"on_pause": "hold", "record": "before"});
    for approved_first in [true, false] {
        let host = FakeHost::inbound();
        let mut vm = vm(&host, &both);
        let authorization = bearer(&json!({}));
        let more = [("authorization", &*authorization)];
        let (mut session, flow) = testing::post_tool(&host, &mut vm, Session::new(true).in_context(7), &more);
        assert_eq!((flow, host.denial()), (Flow::Pause, None), "its body is waited for");
        host.set_body(Message::Request, TOOL);
        assert_eq!(session.request_body(&mut vm, &host, TOOL.len(), true), Flow::Pause);
        assert_eq!(host.denial(), None);
        pass(&host, &mut vm, Duration::from_millis(50));
        let stored = |vm: &mut Vm| {
            host.store_batch_and_tell(vm, |told| told["agent"]["state"] = json!("paused"));
            pass(&host, vm, Duration::from_millis(50));
        };
        if approved_first {
            told(&host, &mut vm, 2, &json!({}));
            assert_eq!(host.acted().0, []);
            stored(&mut vm);
        } else {
            stored(&mut vm);
            assert_eq!(host.acted().0, []);
            told(&host, &mut vm, 2, &json!({}));
        }
        assert_eq!(host.acted().0, [(7, "resume")], "{approved_first}");
    }
}

#[test]
fn the_callers_sidecar_leaves_it_to_the_services() {
    for (service, passes) in [(hold(), true), (json!({}), false)] {
        let host = FakeHost::outbound();
        let mut vm = vm(&host, &service);
        let (_, flow) = read(&host, &mut vm, 7, "sales");
        assert_eq!(flow == Flow::Continue, passes);
        assert_eq!(host.denial().as_deref(), (!passes).then_some("agent_paused"));
    }
}
