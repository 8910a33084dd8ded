#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::session::{Flow, Session};
use crate::testing::{self, AGENT, FakeHost, MCP_PORT, OTHER_AGENT, SERVICE, bearer, bundle, state};
use crate::vm::Vm;

/// A VM of the service, and one of another replica, with these keys.
fn vm(host: &FakeHost, version: u64, keys: &[&str]) -> Vm {
    let mut vm = testing::fresh_vm(host);
    tell(host, &mut vm, version, keys);
    vm
}

fn tell(host: &FakeHost, vm: &mut Vm, version: u64, keys: &[&str]) {
    let agents = json!([
        {"id": "analyst-7", "identity": AGENT, "tools": ["pandas"], "reaches": ["data/tools"]},
        {"id": "writer-2", "identity": OTHER_AGENT, "tools": ["pandas"], "reaches": ["data/tools"]},
    ]);
    let mut fields = json!({"agents": agents});
    if !keys.is_empty() {
        let keys: Vec<String> = keys.iter().map(|letter| letter.repeat(43)).collect();
        fields["session_keys"] = json!(keys);
    }
    let answer = json!({"bundle": bundle(SERVICE, version, &fields), "state": state(version, &json!({}))});
    host.answer_poll(vm, 200, &answer);
}

fn host() -> FakeHost {
    FakeHost::inbound()
}

/// The headers of a message by the caller whose token has these fields, with the id of a session.
fn post(host: &FakeHost, vm: &mut Vm, claims: &Value, id: Option<&str>) -> (Session, Flow) {
    let authorization = bearer(claims);
    let mut more = vec![("authorization", authorization.as_str())];
    more.extend(id.map(|id| (SESSION_HEADER, id)));
    testing::post_tool(host, vm, Session::new(true), &more)
}

/// Calls a tool, which the service answers with the id of a session; the id that the caller is told.
fn open_session(host: &FakeHost, vm: &mut Vm, given: &[&str]) -> Option<String> {
    let (mut session, flow) = post(host, vm, &json!({}), None);
    assert_eq!(flow, Flow::Pause, "{:?}", host.denial());
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}).to_string();
    host.set_body(Message::Request, body.as_bytes());
    assert_eq!(session.request_body(vm, host, body.len(), true), Flow::Continue);
    let mut headers = vec![(":status", "200"), ("content-type", "application/json")];
    headers.extend(given.iter().map(|id| (SESSION_HEADER, *id)));
    host.set_response_headers(&headers);
    assert_eq!(session.response_headers(vm, host, true), Flow::Continue);
    session.finish(vm, host, false);
    host.response_header(SESSION_HEADER)
}

#[test]
fn a_session_goes_on_for_its_caller_on_any_replica() {
    let host = host();
    let mut opener = vm(&host, 1, &["A"]);
    let sealed = open_session(&host, &mut opener, &["s-1"]).unwrap();
    assert!(sealed.ends_with(".s-1") && sealed != "s-1", "{sealed}");
    let mut replica = vm(&host, 1, &["A"]);
    let (_, flow) = post(&host, &mut replica, &json!({"jti": "jti-2"}), Some(&sealed));
    assert_eq!(flow, Flow::Pause);
    assert_eq!(host.denial(), None);
    assert_eq!(
        host.header_values(SESSION_HEADER),
        ["s-1"],
        "the service sees its own id"
    );
}

#[test]
fn a_session_is_nobody_elses() {
    let host = host();
    let mut vm = vm(&host, 1, &["A"]);
    let sealed = open_session(&host, &mut vm, &["s-1"]).unwrap();
    // Of another operation, forged, and known from the service's log.
    let other = json!({"operation_id": "another"});
    for (claims, id) in [
        (&other, &*sealed),
        (&json!({}), &*format!("{sealed}1")),
        (&json!({}), "s-1"),
    ] {
        let (_, flow) = post(&host, &mut vm, claims, Some(id));
        assert_eq!((flow, host.responses().pop().unwrap().0), (Flow::Pause, 404));
        assert_eq!(host.denial().unwrap(), "session_mismatch");
    }
    // Of another agent, in its own workload.
    let mut replica = {
        host.set("connection.uri_san_peer_certificate", OTHER_AGENT.as_bytes());
        self::vm(&host, 1, &["A"])
    };
    let writer = json!({"sub": OTHER_AGENT, "agent_id": "writer-2"});
    let denials = host.responses().len();
    post(&host, &mut replica, &writer, None);
    assert_eq!(host.responses().len(), denials, "without the id it may call");
    post(&host, &mut replica, &writer, Some(&sealed));
    assert_eq!(host.denial().unwrap(), "session_mismatch");
    assert_eq!(host.published("ostiary").pop().unwrap()["code"], "session_mismatch");
}

#[test]
fn a_session_is_ended_by_its_caller_alone() {
    let host = host();
    let mut vm = vm(&host, 1, &["A"]);
    let sealed = open_session(&host, &mut vm, &["s-1"]).unwrap();
    let mut delete = |claims: &Value, id: Option<&str>, end: bool| {
        host.set("destination.port", &MCP_PORT.to_le_bytes());
        let authorization = bearer(claims);
        let mut headers = vec![
            (":method", "DELETE"),
            (":authority", "tools:8081"),
            (":path", "/mcp"),
            (":scheme", "http"),
            ("authorization", &*authorization),
        ];
        headers.extend(id.map(|id| (SESSION_HEADER, id)));
        host.set_headers(&headers);
        let denials = host.responses().len();
        let flow = Session::new(true).request_headers(&mut vm, &host, headers.len(), end);
        match host.responses().len() - denials {
            0 => format!("{flow:?}"),
            _ => host.denial().unwrap(),
        }
    };
    assert_eq!(
        delete(&json!({"operation_id": "another"}), Some(&sealed), true),
        "session_mismatch"
    );
    assert_eq!(delete(&json!({}), Some("s-1"), true), "session_mismatch");
    assert_eq!(delete(&json!({}), None, true), "mcp_malformed");
    assert_eq!(
        delete(&json!({}), Some(&sealed), false),
        "mcp_malformed",
        "a body comes"
    );
    assert_eq!(delete(&json!({}), Some(&sealed), true), "Continue");
    assert_eq!(host.header_values(SESSION_HEADER), ["s-1"]);
}

#[test]
fn keys_change_while_a_session_and_a_request_of_it_are_on_their_way() {
    let host = host();
    let mut vm = vm(&host, 1, &["A", "E"]);
    let sealed = open_session(&host, &mut vm, &["s-1"]).unwrap();
    tell(&host, &mut vm, 2, &["E", "A"]);
    let (mut session, _) = post(&host, &mut vm, &json!({}), Some(&sealed));
    assert_eq!(host.denial(), None);
    tell(&host, &mut vm, 3, &["E"]);
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    host.set_body(Message::Request, body.as_bytes());
    assert_eq!(session.request_body(&mut vm, &host, body.len(), true), Flow::Pause);
    assert_eq!(
        host.denial().unwrap(),
        "session_mismatch",
        "its key was withdrawn meanwhile"
    );
}

#[test]
fn an_id_that_cannot_be_sealed_is_left_out() {
    let host = host();
    let mut vm = vm(&host, 1, &["A"]);
    let long = "x".repeat(1025);
    for given in [&["two words"][..], &[""], &[&*long], &["s-1", "s-2"]] {
        assert_eq!(open_session(&host, &mut vm, given), None, "{given:?}");
    }
}

#[test]
fn without_keys_and_at_the_caller_ids_go_on_as_they_come() {
    let host = host();
    let mut vm = vm(&host, 1, &[]);
    assert_eq!(open_session(&host, &mut vm, &["s-1"]).unwrap(), "s-1");
    post(&host, &mut vm, &json!({}), Some("s-1"));
    assert_eq!(host.denial(), None);
    assert_eq!(host.header_values(SESSION_HEADER), ["s-1"]);

    let host = FakeHost::outbound();
    let mut vm = testing::ready_vm(&host);
    post(&host, &mut vm, &json!({}), Some("s-1"));
    assert_eq!(host.denial(), None);
    assert_eq!(host.header_values(SESSION_HEADER), ["s-1"]);
}

#[test]
fn no_trailer_names_a_session() {
    let host = host();
    let mut vm = vm(&host, 1, &["A"]);
    let (mut session, _) = post(&host, &mut vm, &json!({}), None);
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    host.set_body(Message::Request, body.as_bytes());
    session.request_body(&mut vm, &host, body.len(), false);
    host.set_trailers(Some(&["mcp-session-id", "mcp_session_id", "grpc-status"]));
    assert_eq!(session.request_trailers(&mut vm, &host), Flow::Continue);
    assert_eq!(host.trailers(), ["grpc-status"]);
}
