#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use serde_json::{Value, json};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use authz::digest::Digest;

use super::deciding::MOST_HEADERS;
use super::*;
use crate::host::Message;
use crate::testing::{self, AGENT, BUNDLE_KEY, FakeHost, MCP_PORT, NOW, OTHER_AGENT, SERVICE, bearer, get_table};

mod gates;
mod shadow;

/// Posts a call of a tool up to its headers.
fn post_tool(host: &FakeHost, vm: &mut Vm, flag: bool) -> (Session, Flow) {
    post_tool_with(host, vm, flag, &bearer(&json!({})))
}

fn post_tool_with(host: &FakeHost, vm: &mut Vm, flag: bool, authorization: &str) -> (Session, Flow) {
    testing::post_tool(host, vm, Session::new(flag), &[("authorization", authorization)])
}

fn tool_call(tool: &str) -> Vec<u8> {
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": tool, "arguments": {}}})
        .to_string()
        .into_bytes()
}

fn finish(session: &mut Session, vm: &mut Vm, host: &FakeHost, status: i64) {
    host.set("response.code", &status.to_le_bytes());
    session.finish(vm, host, true);
}

/// What has been posted once the VM has had a second to do so.
fn posted(vm: &mut Vm, host: &FakeHost) -> Vec<Value> {
    host.advance(Duration::from_secs(1));
    vm.tick(host);
    host.posted()
}

fn kinds(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["kind"].as_str().unwrap()).collect()
}

#[test]
fn a_permitted_call_goes_on_without_its_token_and_leaves_two_records() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let call = "AAAAAAAAAAAAAAAAAAAAAA";
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let more = [
        ("authorization", &*bearer(&json!({}))),
        ("ostiary-call", call),
        ("ostiary-claims", "forged"),
        ("traceparent", trace),
    ];
    let (mut session, flow) = get_table(&host, &mut vm, "sales", &more);
    assert_eq!(flow, Flow::Continue);
    assert_eq!(host.responses(), []);
    assert!(host.header_values("authorization").is_empty());
    assert!(host.header_values("ostiary-call").is_empty());
    let claims = URL_SAFE_NO_PAD
        .decode(&host.header_values("ostiary-claims")[0])
        .unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&claims).unwrap()["agent_id"],
        "analyst-7"
    );

    assert_eq!(session.response_headers(&mut vm, &host, false), Flow::Continue);
    host.set_body(Message::Response, b"rows");
    assert_eq!(session.response_body(&host, 4, true), Flow::Continue);
    host.advance(Duration::from_millis(5));
    finish(&mut session, &mut vm, &host, 200);

    let records = posted(&mut vm, &host);
    assert_eq!(kinds(&records), ["source", "decision", "completion"]);
    let (decision, completion) = (&records[1], &records[2]);
    assert_eq!(
        (&decision["verdict"], &decision["facts"]["scope"]),
        (&json!("permit"), &json!("read:data.sales"))
    );
    assert_eq!(
        (&decision["bundle"], &decision["state"]),
        (&json!("1.1"), &json!("1.1"))
    );
    assert_eq!(decision["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(
        (&completion["status"], &completion["end"]),
        (&json!(200), &json!("complete"))
    );
    assert_eq!(
        (&completion["response_bytes"], &completion["duration_us"]),
        (&json!(4), &json!(5000))
    );
    assert_eq!(completion["response_digest"], Digest::of(b"rows").to_base64url());
    for record in [decision, completion] {
        assert_eq!(
            (&record["call"], &record["peer"], &record["jti"]),
            (&json!(call), &json!(AGENT), &json!("jti-1"))
        );
    }
    assert_eq!(host.published("ostiary").as_slice(), std::slice::from_ref(decision));
    assert_eq!(
        host.published("ostiary_completion").as_slice(),
        std::slice::from_ref(completion)
    );
}

#[test]
fn bodies_are_hashed_as_they_stream() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let authorization = bearer(&json!({}));
    let headers = [
        (":method", "PUT"),
        (":authority", "warehouse"),
        (":path", "/v1/tables/sales"),
        ("authorization", &authorization),
    ];
    host.set_headers(&headers);
    let mut session = Session::new(true);
    assert_eq!(
        session.request_headers(&mut vm, &host, headers.len(), false),
        Flow::Continue
    );
    for chunk in ["one ", "two"] {
        host.set_body(Message::Request, chunk.as_bytes());
        assert_eq!(session.request_body(&mut vm, &host, chunk.len(), false), Flow::Continue);
    }
    assert_eq!(session.request_trailers(&mut vm, &host), Flow::Continue);
    finish(&mut session, &mut vm, &host, 0);
    let records = posted(&mut vm, &host);
    let completion = records.last().unwrap();
    assert_eq!(completion["request_digest"], Digest::of(b"one two").to_base64url());
    assert_eq!(
        (&completion["request_bytes"], &completion["end"]),
        (&json!(7), &json!("broken"))
    );
    assert_eq!(completion.get("status"), None);
}

#[test]
fn a_denial_of_a_bound_token_is_recorded_and_any_other_is_counted() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let good = bearer(&json!({}));
    let stolen = bearer(&json!({"sub": OTHER_AGENT}));
    for (table, authorization, code) in [
        ("other", Some(&*good), "scope_not_granted"),
        ("sales", None, "token_missing"),
        ("sales", Some("Bearer e30.e30.e30"), "token_algorithm_refused"),
        ("sales", Some(&*stolen), "peer_mismatch"),
        ("sales", Some(&*stolen), "peer_mismatch"),
    ] {
        let more: Vec<_> = authorization
            .map(|value| ("authorization", value))
            .into_iter()
            .collect();
        let (mut session, flow) = get_table(&host, &mut vm, table, &more);
        assert_eq!((flow, host.denial().as_deref()), (Flow::Pause, Some(code)));
        // Our own answer passes the response callbacks; it is neither hashed nor completed.
        assert_eq!(session.response_headers(&mut vm, &host, false), Flow::Continue);
        assert_eq!(session.response_body(&host, 10, true), Flow::Continue);
        finish(&mut session, &mut vm, &host, 403);
    }
    let records = posted(&mut vm, &host);
    assert_eq!(
        kinds(&records),
        ["source", "decision", "aggregate", "aggregate", "aggregate"]
    );
    assert_eq!(
        (&records[1]["code"], &records[1]["status"]),
        (&json!("scope_not_granted"), &json!(403))
    );
    assert_eq!(records[1]["facts"]["path"], "/v1/tables/other");
    let counts: Vec<_> = records[2..]
        .iter()
        .map(|record| (record["code"].as_str().unwrap(), &record["count"]))
        .collect();
    assert!(counts.contains(&("peer_mismatch", &json!(2))), "{counts:?}");
    let logged = host.published("ostiary");
    assert_eq!(logged.len(), 5);
    assert_eq!(
        logged[1],
        json!({"code": "token_missing", "kind": "aggregate", "peer": AGENT,
        "service": "data/warehouse", "side": "inbound", "verdict": "deny"})
    );
}

#[test]
fn a_request_that_matches_nothing_is_still_its_agents_denial() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let (_, flow) = get_table(&host, &mut vm, "a/b", &[("authorization", &bearer(&json!({})))]);
    assert_eq!((flow, host.denial().as_deref()), (Flow::Pause, Some("route_unknown")));
    let records = posted(&mut vm, &host);
    assert_eq!(
        (&records[1]["kind"], &records[1]["agent_id"]),
        (&json!("decision"), &json!("analyst-7"))
    );
}

#[test]
fn exempt_peers_need_no_token_and_are_recorded() {
    let host = FakeHost::inbound();
    host.set("connection.uri_san_peer_certificate", OTHER_AGENT.as_bytes());
    let mut vm = testing::ready_vm(&host);
    host.set_headers(&[(":method", "GET"), (":authority", "warehouse"), (":path", "/metrics")]);
    let mut session = Session::new(true);
    assert_eq!(session.request_headers(&mut vm, &host, 3, true), Flow::Continue);
    let records = posted(&mut vm, &host);
    assert_eq!(
        (&records[1]["facts"]["right"], &records[1]["peer"]),
        (&json!("exempt"), &json!(OTHER_AGENT))
    );
}

#[test]
fn a_tool_call_is_held_until_its_body_is_whole() {
    for (flag, on_headers) in [(true, Flow::Pause), (false, Flow::Continue)] {
        for trailers in [false, true] {
            for (tool, verdict) in [("pandas", Flow::Continue), ("bash", Flow::Pause), ("sql", Flow::Pause)] {
                let host = FakeHost::inbound();
                let mut vm = testing::ready_vm(&host);
                let (mut session, flow) = post_tool(&host, &mut vm, flag);
                assert_eq!(flow, on_headers);
                assert!(
                    host.header_values("authorization").is_empty(),
                    "headers may go on before the verdict"
                );
                let body = tool_call(tool);
                host.set_body(Message::Request, &body);
                assert_eq!(session.request_body(&mut vm, &host, 3, false), Flow::Pause);
                let flow = if trailers {
                    assert_eq!(session.request_body(&mut vm, &host, body.len(), false), Flow::Pause);
                    session.request_trailers(&mut vm, &host)
                } else {
                    session.request_body(&mut vm, &host, body.len(), true)
                };
                assert_eq!(flow, verdict, "{tool}");
                let records = posted(&mut vm, &host);
                assert_eq!(records[1]["request_digest"], Digest::of(&body).to_base64url());
                assert_eq!(records[1]["facts"]["tool"], tool);
                if verdict == Flow::Pause {
                    assert_eq!(host.responses()[0].1["id"], 7);
                }
            }
        }
    }
}

#[test]
fn a_body_over_the_limit_is_refused_as_soon_as_it_is() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let (mut session, _) = post_tool(&host, &mut vm, true);
    assert_eq!(session.request_body(&mut vm, &host, 1000, false), Flow::Pause);
    assert_eq!(host.responses(), []);
    assert_eq!(session.request_body(&mut vm, &host, 1001, false), Flow::Pause);
    assert_eq!(host.denial().as_deref(), Some("body_too_large"));
    assert_eq!(session.request_body(&mut vm, &host, 1002, true), Flow::Pause);
    assert_eq!(host.responses().len(), 1);
}

#[test]
fn a_body_that_cannot_be_read_whole_is_no_body() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let (mut session, _) = post_tool(&host, &mut vm, true);
    host.set_body(Message::Request, &tool_call("pandas"));
    assert_eq!(session.request_body(&mut vm, &host, 999, true), Flow::Pause);
    assert_eq!(host.denial().as_deref(), Some("internal_error"));
}

#[test]
fn what_changes_while_the_body_comes_counts() {
    let bundle = |fields: Value| json!({"bundle": testing::bundle(SERVICE, 2, &fields)});
    let state = |fields: Value| json!({"state": testing::state(2, &fields)});
    let no_agents = bundle(json!({"agents": []}));
    let no_issuers = bundle(json!({"issuers": []}));
    let killed = state(json!({"agents": {"analyst-7": "killed"}}));
    let revoked = state(json!({"revoked": {"jti-1": testing::NOW + 300}}));
    for (news, code) in [
        (no_agents, "agent_unknown"),
        (no_issuers, "token_issuer_unknown"),
        (killed, "agent_killed"),
        (revoked, "token_revoked"),
    ] {
        let host = FakeHost::inbound();
        let mut vm = testing::ready_vm(&host);
        let (mut session, _) = post_tool(&host, &mut vm, true);
        host.answer_poll(&mut vm, 200, &news);
        let body = tool_call("pandas");
        host.set_body(Message::Request, &body);
        assert_eq!(session.request_body(&mut vm, &host, body.len(), true), Flow::Pause);
        assert_eq!(host.denial().as_deref(), Some(code));
    }
}

#[test]
fn an_answer_before_the_verdict_is_withheld_unless_it_is_the_proxys() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let (mut session, _) = post_tool(&host, &mut vm, false);
    host.set("response.code_details", b"via_upstream");
    assert_eq!(session.response_headers(&mut vm, &host, false), Flow::Pause);
    assert_eq!(host.denial().as_deref(), Some("internal_error"));
    assert_eq!(session.response_body(&host, 10, true), Flow::Pause);

    let (mut session, _) = post_tool(&host, &mut vm, false);
    host.set("response.code_details", b"request_payload_too_large");
    assert_eq!(session.response_headers(&mut vm, &host, true), Flow::Continue);
    finish(&mut session, &mut vm, &host, 413);
    let records = posted(&mut vm, &host);
    let last = records.last().unwrap();
    assert_eq!(
        (&last["kind"], &last["end"], &last["status"]),
        (&json!("completion"), &json!("refused"), &json!(413))
    );
}

#[test]
fn a_request_that_breaks_off_unheard_gives_its_slots_back() {
    let host = FakeHost::inbound();
    let mut vm = Vm::default();
    vm.configure(&host, &testing::config(BUNDLE_KEY, &json!({"record_queue": 64})))
        .unwrap();
    vm.tick(&host);
    let answer = json!({"bundle": testing::bundle(SERVICE, 1, &json!({})), "state": testing::state(1, &json!({}))});
    host.answer_poll(&mut vm, 200, &answer);
    let mut sessions: Vec<Session> = (0..16).map(|_| post_tool(&host, &mut vm, true).0).collect();
    let (_, flow) = post_tool(&host, &mut vm, true);
    assert_eq!(
        (flow, host.denial().as_deref()),
        (Flow::Pause, Some("records_unavailable"))
    );
    for session in &mut sessions {
        session.finish(&mut vm, &host, false);
    }
    host.advance(Duration::from_secs(1));
    vm.tick(&host);
    host.store_batch(&mut vm);
    let (_, flow) = post_tool(&host, &mut vm, true);
    assert_eq!(
        (flow, host.responses().len()),
        (Flow::Pause, 1),
        "held again, not refused"
    );
    let records = host.posted();
    let aborted = records.iter().filter(|record| record["end"] == "aborted").count();
    assert_eq!(aborted, 16);
    assert!(
        host.published("ostiary_completion").is_empty(),
        "there was no access log to write"
    );
}

#[test]
fn the_outbound_side_names_the_call_and_keeps_the_token() {
    let host = FakeHost::outbound();
    let mut vm = testing::ready_vm(&host);
    let more = [
        ("authorization", &*bearer(&json!({}))),
        ("ostiary-call", "forged"),
        ("ostiary-callout", "1"),
    ];
    let (_, flow) = get_table(&host, &mut vm, "sales", &more);
    assert_eq!(flow, Flow::Continue);
    assert_eq!(host.header_values("authorization").len(), 1);
    assert!(host.header_values("ostiary-callout").is_empty());
    let call = host.header_values("ostiary-call");
    assert_eq!(call.len(), 1);
    assert_eq!(call[0].len(), 22);
    let records = posted(&mut vm, &host);
    assert_eq!(
        (&records[1]["call"], &records[1]["side"]),
        (&json!(call[0]), &json!("outbound"))
    );
    assert_eq!(records[1]["peer"], AGENT);
}

#[test]
fn without_current_policy_everything_is_denied() {
    let host = FakeHost::inbound();
    let mut vm = testing::fresh_vm(&host);
    let more = [("authorization", &*bearer(&json!({})))];
    let denied = |host: &FakeHost, vm: &mut Vm| {
        let (_, flow) = get_table(host, vm, "sales", &more);
        (flow, host.denial())
    };
    let unavailable = (Flow::Pause, Some("policy_unavailable".to_owned()));
    assert_eq!(denied(&host, &mut vm), unavailable);
    host.answer_poll(
        &mut vm,
        200,
        &json!({"bundle": testing::bundle(SERVICE, 1, &json!({}))}),
    );
    assert_eq!(denied(&host, &mut vm), unavailable, "no state list");
    host.answer_poll(&mut vm, 200, &json!({"state": testing::state(1, &json!({}))}));
    assert_eq!(get_table(&host, &mut vm, "sales", &more).1, Flow::Continue);
    host.advance(Duration::from_secs(61));
    assert_eq!(denied(&host, &mut vm), unavailable, "the state list is too old");
}

/// By an hour either way, on the sidecar's side or on the policy server's.
#[test]
fn a_stepped_clock_keeps_no_stale_list_fresh() {
    const HOUR: i64 = 3600;
    // A token that either clock takes, so that the list alone is judged.
    let lasting = json!({"iat": NOW - 3610, "nbf": NOW - 3610, "exp": NOW + 7000});
    let vm = |host: &FakeHost| {
        let mut vm = testing::fresh_vm(host);
        let long = json!({"max_token_ttl_seconds": 86_400, "expires_at": NOW + 9000});
        let answer = json!({"bundle": testing::bundle(SERVICE, 1, &long), "state": testing::state(1, &json!({}))});
        host.answer_poll(&mut vm, 200, &answer);
        vm
    };
    let code = |host: &FakeHost, vm: &mut Vm| {
        let more = [("authorization", &*bearer(&lasting))];
        match get_table(host, vm, "sales", &more).1 {
            Flow::Continue => "ok".to_owned(),
            Flow::Pause => host.denial().unwrap(),
        }
    };
    for step in [-HOUR, HOUR] {
        let host = FakeHost::inbound();
        let mut vm = vm(&host);
        assert_eq!(code(&host, &mut vm), "ok");
        host.advance(Duration::from_secs(61));
        assert_eq!(code(&host, &mut vm), "policy_unavailable");
        host.step_clock(step);
        assert_eq!(
            code(&host, &mut vm),
            "policy_unavailable",
            "the sidecar's clock by {step} s"
        );
    }
    for (step, expected) in [(-HOUR, "policy_unavailable"), (0, "ok"), (HOUR, "policy_unavailable")] {
        let host = FakeHost::inbound();
        let mut vm = vm(&host);
        host.advance(Duration::from_secs(61));
        // The age counts from when the poll was sent, so it must be a new one.
        vm.tick(&host);
        let issued = (NOW + 61).checked_add_signed(step).unwrap();
        let state = testing::state(2, &json!({"issued_at": issued}));
        host.answer_poll(&mut vm, 200, &json!({"state": state}));
        assert_eq!(code(&host, &mut vm), expected, "the policy server's clock by {step} s");
    }
}

#[test]
fn a_sidecar_that_is_not_who_its_policy_says_denies() {
    for (property, value, code) in [
        (
            "connection.uri_san_local_certificate",
            AGENT.as_bytes(),
            "workload_mismatch",
        ),
        ("connection.uri_san_peer_certificate", b"", "peer_missing"),
        ("connection.uri_san_peer_certificate", b"\xff", "peer_missing"),
        ("xds.listener_direction", &0_i64.to_le_bytes(), "direction_unknown"),
        ("xds.listener_direction", b"", "direction_unknown"),
        ("destination.port", b"", "internal_error"),
        ("destination.port", &9090_i64.to_le_bytes(), "service_unknown"),
    ] {
        let host = FakeHost::inbound();
        let mut vm = testing::ready_vm(&host);
        host.set(property, value);
        let (_, flow) = get_table(&host, &mut vm, "sales", &[("authorization", &bearer(&json!({})))]);
        assert_eq!(
            (flow, host.denial().as_deref()),
            (Flow::Pause, Some(code)),
            "{property}"
        );
    }
}

#[test]
fn callbacks_out_of_order_let_nothing_pass() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let mut session = Session::new(true);
    assert_eq!(session.request_body(&mut vm, &host, 10, true), Flow::Pause);
    assert_eq!(session.request_trailers(&mut vm, &host), Flow::Pause);
    session.finish(&mut vm, &host, true);
    session.finish(&mut vm, &host, false);
    assert_eq!(posted(&mut vm, &host).len(), 0);
    let (mut session, _) = get_table(&host, &mut vm, "sales", &[]);
    assert_eq!(host.denial().as_deref(), Some("token_missing"));
    assert_eq!(session.request_body(&mut vm, &host, 10, true), Flow::Pause);
    assert_eq!(session.request_trailers(&mut vm, &host), Flow::Pause);
}

/// What `analyst-7` may do, asked for over connection `number`.
fn code_on(host: &FakeHost, vm: &mut Vm, number: u64) -> Option<String> {
    host.set("connection.id", &number.to_le_bytes());
    let (_, flow) = get_table(host, vm, "sales", &[("authorization", &bearer(&json!({})))]);
    (flow == Flow::Pause).then(|| host.denial().unwrap())
}

#[test]
fn a_connection_is_read_once_and_another_for_itself() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    assert_eq!(code_on(&host, &mut vm, 1), None);
    // Envoy tells what it told before; what it would tell of others changes.
    host.set("connection.uri_san_peer_certificate", OTHER_AGENT.as_bytes());
    assert_eq!(code_on(&host, &mut vm, 1), None);
    assert_eq!(code_on(&host, &mut vm, 2).as_deref(), Some("peer_mismatch"));
    assert_eq!(code_on(&host, &mut vm, 1), None);
    // The same place, another number.
    assert_eq!(code_on(&host, &mut vm, 1025).as_deref(), Some("peer_mismatch"));
    assert_eq!(
        code_on(&host, &mut vm, 1).as_deref(),
        Some("peer_mismatch"),
        "read again"
    );
    host.set("xds.listener_direction", &0_i64.to_le_bytes());
    assert_eq!(code_on(&host, &mut vm, 3).as_deref(), Some("direction_unknown"));
    host.unset("connection.id");
    let denied = get_table(&host, &mut vm, "sales", &[("authorization", &bearer(&json!({})))]).1;
    assert_eq!(
        (denied, host.denial().as_deref()),
        (Flow::Pause, Some("direction_unknown"))
    );
}

#[test]
fn a_connection_without_a_peer_is_asked_about_again() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    host.unset("connection.uri_san_peer_certificate");
    assert_eq!(code_on(&host, &mut vm, 1).as_deref(), Some("peer_missing"));
    host.set("connection.uri_san_peer_certificate", AGENT.as_bytes());
    assert_eq!(code_on(&host, &mut vm, 1), None);
}

#[test]
fn connections_are_read_again_under_another_configuration() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    assert_eq!(code_on(&host, &mut vm, 1), None);
    host.set("connection.uri_san_local_certificate", OTHER_AGENT.as_bytes());
    assert_eq!(code_on(&host, &mut vm, 1), None);
    vm.configure(&host, &testing::config(BUNDLE_KEY, &json!({}))).unwrap();
    assert_eq!(code_on(&host, &mut vm, 1).as_deref(), Some("workload_mismatch"));
}
