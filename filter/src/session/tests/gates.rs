//! Each gate of a session on its own: what is here fails if its gate is taken out.

use super::*;

/// A VM with the policy of the warehouse and few places for records.
fn vm_with_few_records(host: &FakeHost) -> Vm {
    let mut vm = Vm::default();
    let config = testing::config(BUNDLE_KEY, &json!({"record_queue": 64}));
    vm.configure(host, &config).unwrap();
    vm.tick(host);
    let answer = json!({"bundle": testing::bundle(SERVICE, 1, &json!({})), "state": testing::state(1, &json!({}))});
    host.answer_poll(&mut vm, 200, &answer);
    vm
}

fn denied(flow: Flow, host: &FakeHost) -> Option<String> {
    assert_eq!(flow, Flow::Pause);
    host.denial()
}

#[test]
fn headers_that_go_ahead_of_the_verdict_bear_a_mark_and_held_ones_none() {
    for (flag, mark) in [(false, vec![json!({"kind": "pending"})]), (true, Vec::new())] {
        for (tool, verdict) in [("pandas", "permit"), ("bash", "deny")] {
            let host = FakeHost::inbound();
            let mut vm = testing::ready_vm(&host);
            let (mut session, _) = post_tool(&host, &mut vm, flag);
            assert_eq!(host.published("ostiary"), mark);
            let body = tool_call(tool);
            host.set_body(Message::Request, &body);
            session.request_body(&mut vm, &host, body.len(), true);
            let published = host.published("ostiary");
            assert_eq!(published.len(), mark.len() + 1);
            assert_eq!(published.last().unwrap()["verdict"], verdict);
        }
    }
}

#[test]
fn a_thousand_headers_are_read_and_no_more() {
    for (count, code) in [(MOST_HEADERS, None), (MOST_HEADERS + 1, Some("request_malformed"))] {
        let host = FakeHost::inbound();
        let mut vm = testing::ready_vm(&host);
        host.set_headers(&[
            (":method", "GET"),
            (":authority", "warehouse:8080"),
            (":path", "/v1/tables/sales"),
            ("authorization", &bearer(&json!({}))),
        ]);
        Session::new(true).request_headers(&mut vm, &host, count, true);
        assert_eq!(host.denial().as_deref(), code);
    }
}

#[test]
fn what_headers_can_decide_is_decided_before_the_body() {
    for (authorization, code) in [
        (bearer(&json!({})), None),
        (bearer(&json!({"sub": OTHER_AGENT})), Some("peer_mismatch")),
        (bearer(&json!({"aud": [AGENT]})), Some("audience_mismatch")),
        (bearer(&json!({"agent_id": "analyst-8"})), Some("agent_unknown")),
        ("Bearer e30.e30.e30".to_owned(), Some("token_algorithm_refused")),
        ("Basic YTpi".to_owned(), Some("token_missing")),
    ] {
        let host = FakeHost::inbound();
        let mut vm = testing::ready_vm(&host);
        let (mut session, flow) = post_tool_with(&host, &mut vm, true, &authorization);
        assert_eq!((flow, host.denial().as_deref()), (Flow::Pause, code));
        let body = tool_call("pandas");
        host.set_body(Message::Request, &body);
        let flow = session.request_body(&mut vm, &host, body.len(), true);
        let permitted = code.is_none();
        assert_eq!(flow == Flow::Continue, permitted, "{code:?}");
        assert_eq!(host.responses().len(), usize::from(!permitted), "answered once");
    }
}

#[test]
fn without_current_policy_nothing_is_read() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let malformed = |host: &FakeHost, vm: &mut Vm| {
        let (_, flow) = get_table(host, vm, "../sales", &[]);
        denied(flow, host)
    };
    assert_eq!(malformed(&host, &mut vm).as_deref(), Some("path_not_canonical"));
    host.advance(Duration::from_secs(61));
    assert_eq!(malformed(&host, &mut vm).as_deref(), Some("policy_unavailable"));
}

#[test]
fn a_flaw_of_the_request_is_told_before_one_of_its_token() {
    for (table, code) in [("sales", "token_algorithm_refused"), ("a/b", "route_unknown")] {
        let host = FakeHost::inbound();
        let mut vm = testing::ready_vm(&host);
        let (_, flow) = get_table(&host, &mut vm, table, &[("authorization", "Bearer e30.e30.e30")]);
        assert_eq!(denied(flow, &host).as_deref(), Some(code));
    }
}

#[test]
fn the_token_of_an_exempt_peer_is_not_looked_at() {
    for (peer, code) in [(OTHER_AGENT, None), (AGENT, Some("token_algorithm_refused"))] {
        let host = FakeHost::inbound();
        host.set("connection.uri_san_peer_certificate", peer.as_bytes());
        let mut vm = testing::ready_vm(&host);
        host.set_headers(&[
            (":method", "GET"),
            (":authority", "warehouse"),
            (":path", "/metrics"),
            ("authorization", "Bearer e30.e30.e30"),
        ]);
        let flow = Session::new(true).request_headers(&mut vm, &host, 4, true);
        assert_eq!(
            (flow == Flow::Continue, host.denial().as_deref()),
            (code.is_none(), code)
        );
    }
}

#[test]
fn a_call_that_ends_without_the_body_that_it_announced_is_denied() {
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let (mut session, _) = post_tool(&host, &mut vm, true);
    let flow = session.request_trailers(&mut vm, &host);
    assert_eq!(denied(flow, &host).as_deref(), Some("mcp_malformed"));
}

#[test]
fn no_trailer_says_what_no_header_may() {
    let sent = ["x-end", "ostiary-claims", "ostiary_call", "authorization"];
    for (host, left) in [
        (FakeHost::inbound(), ["x-end"].as_slice()),
        (FakeHost::outbound(), &["x-end", "authorization"]),
    ] {
        let mut vm = testing::ready_vm(&host);
        host.set_trailers(Some(&sent));
        let (mut session, _) = get_table(&host, &mut vm, "sales", &[("authorization", &bearer(&json!({})))]);
        assert_eq!(session.request_trailers(&mut vm, &host), Flow::Continue);
        assert_eq!(host.trailers(), left);
    }
    let host = FakeHost::inbound();
    let mut vm = testing::ready_vm(&host);
    let body = tool_call("pandas");
    for (trailers, flow) in [(Some(sent.as_slice()), Flow::Continue), (None, Flow::Pause)] {
        host.set_trailers(trailers);
        let (mut session, _) = post_tool(&host, &mut vm, true);
        host.set_body(Message::Request, &body);
        assert_eq!(session.request_body(&mut vm, &host, body.len(), false), Flow::Pause);
        assert_eq!(session.request_trailers(&mut vm, &host), flow);
        finish(&mut session, &mut vm, &host, 200);
    }
    assert_eq!(host.responses().len(), 0);
}

#[test]
fn a_call_whose_service_changes_its_protocol_meanwhile_is_denied() {
    let tools = |protocol: Value| {
        let mut service = json!({
            "id": "data/tools", "identity": SERVICE, "hosts": ["tools"], "ports": [MCP_PORT],
            "token_header": "authorization", "forward_token": false, "forward_claims": false, "body_limit_bytes": 1000,
        });
        let fields = service.as_object_mut().unwrap();
        fields.extend(protocol.as_object().unwrap().clone());
        let mut agent = json!({"id": "analyst-7", "identity": AGENT, "reaches": ["data/tools"]});
        agent["tools"] = json!(["pandas"]);
        agent["scope"] = json!(["read:data.sales"]);
        let bundle = testing::bundle(SERVICE, 2, &json!({"services": [service], "agents": [agent]}));
        json!({ "bundle": bundle })
    };
    let mcp = json!({"protocol": "mcp", "path": "/mcp", "tools": {"pandas": {}}});
    let route = json!({"method": "POST", "path": "/mcp", "scope": "read:data.sales"});
    let http = json!({"protocol": "http", "routes": [route]});
    for (protocol, code) in [(mcp, None), (http, Some("internal_error"))] {
        let host = FakeHost::inbound();
        let mut vm = testing::ready_vm(&host);
        let (mut session, _) = post_tool(&host, &mut vm, true);
        host.answer_poll(&mut vm, 200, &tools(protocol));
        let body = tool_call("pandas");
        host.set_body(Message::Request, &body);
        let flow = session.request_body(&mut vm, &host, body.len(), true);
        assert_eq!(
            (flow == Flow::Continue, host.denial().as_deref()),
            (code.is_none(), code)
        );
    }
}

#[test]
fn nothing_of_an_answer_before_the_verdict_gets_through() {
    let host = FakeHost::inbound();
    host.set("response.code_details", b"via_upstream");
    let mut vm = testing::ready_vm(&host);
    let answer = |session: &mut Session, vm: &mut Vm| {
        host.set_body(Message::Response, b"rows");
        [
            session.response_headers(vm, &host, false),
            session.response_body(&host, 4, false),
            session.response_trailers(&host),
        ]
    };
    let (mut early, _) = post_tool(&host, &mut vm, false);
    assert_eq!(answer(&mut early, &mut vm), [Flow::Pause; 3]);
    assert_eq!(answer(&mut early, &mut vm), [Flow::Pause; 3], "an answer in two parts");
    assert_eq!(host.denial().as_deref(), Some("internal_error"));
    finish(&mut early, &mut vm, &host, 500);

    let (mut late, _) = post_tool(&host, &mut vm, false);
    let body = tool_call("pandas");
    host.set_body(Message::Request, &body);
    assert_eq!(late.request_body(&mut vm, &host, body.len(), true), Flow::Continue);
    assert_eq!(answer(&mut late, &mut vm), [Flow::Continue; 3]);
    finish(&mut late, &mut vm, &host, 200);
    let records = posted(&mut vm, &host);
    assert_eq!(kinds(&records), ["source", "decision", "decision", "completion"]);
    assert_eq!(records[3]["end"], "complete");
}

#[test]
fn a_call_that_finds_no_place_for_its_records_is_denied() {
    let host = FakeHost::inbound();
    let mut vm = vm_with_few_records(&host);
    let more = [("authorization", &*bearer(&json!({})))];
    let mut sessions: Vec<Session> = (0..16)
        .map(|_| {
            let (session, flow) = get_table(&host, &mut vm, "sales", &more);
            assert_eq!(flow, Flow::Continue);
            session
        })
        .collect();
    let (_, flow) = get_table(&host, &mut vm, "sales", &more);
    assert_eq!(denied(flow, &host).as_deref(), Some("records_unavailable"));
    for session in &mut sessions {
        finish(session, &mut vm, &host, 200);
    }
    vm.tick(&host);
    host.store_batch(&mut vm);
    let (_, flow) = get_table(&host, &mut vm, "sales", &more);
    assert_eq!((flow, host.responses().len()), (Flow::Continue, 1));
}

#[test]
fn a_call_whose_record_cannot_be_written_is_denied_and_gives_its_place_back() {
    let host = FakeHost::inbound();
    let mut vm = vm_with_few_records(&host);
    let more = [("authorization", &*bearer(&json!({})))];
    host.set_random_absent(true);
    for _ in 0..100 {
        let (_, flow) = get_table(&host, &mut vm, "sales", &more);
        assert_eq!(denied(flow, &host).as_deref(), Some("records_unavailable"));
        let (mut session, _) = post_tool(&host, &mut vm, true);
        let body = tool_call("pandas");
        host.set_body(Message::Request, &body);
        let flow = session.request_body(&mut vm, &host, body.len(), true);
        assert_eq!(denied(flow, &host).as_deref(), Some("records_unavailable"));
        host.set("destination.port", &testing::HTTP_PORT.to_le_bytes());
    }
    host.set_random_absent(false);
    let (_, flow) = get_table(&host, &mut vm, "sales", &more);
    assert_eq!(flow, Flow::Continue);
}

/// Sends what is queued and has it stored, a second later.
fn store_all(host: &FakeHost, vm: &mut Vm) {
    host.advance(Duration::from_secs(1));
    vm.tick(host);
    host.store_batch(vm);
}

#[test]
fn a_call_that_breaks_off_gives_back_the_place_that_it_does_not_use() {
    let host = FakeHost::inbound();
    let mut vm = vm_with_few_records(&host);
    // More than there are places, were each to keep one.
    for _ in 0..50 {
        let (mut session, _) = post_tool(&host, &mut vm, true);
        assert_eq!(host.responses(), [], "held");
        session.finish(&mut vm, &host, true);
        store_all(&host, &mut vm);
    }
}

#[test]
fn a_call_that_loses_its_token_meanwhile_gives_its_place_back() {
    let host = FakeHost::inbound();
    let mut vm = vm_with_few_records(&host);
    // The token rides in another header from one bundle to the next, so that the body is judged without one.
    let bundle = |version: u64| {
        let header = if version.is_multiple_of(2) {
            "x-capability"
        } else {
            "authorization"
        };
        let service = json!({
            "id": "data/tools", "identity": SERVICE, "hosts": ["tools"], "ports": [MCP_PORT], "protocol": "mcp",
            "path": "/mcp", "tools": {"pandas": {}}, "token_header": header, "forward_token": false,
            "forward_claims": false, "body_limit_bytes": 1000,
        });
        let agent = json!({"id": "analyst-7", "identity": AGENT, "tools": ["pandas"], "reaches": ["data/tools"]});
        let fields = json!({"services": [service], "agents": [agent]});
        json!({"bundle": testing::bundle(SERVICE, version, &fields), "state": testing::state(version, &json!({}))})
    };
    for round in 1..50 {
        host.answer_poll(&mut vm, 200, &bundle(2 * round + 1));
        let (mut session, _) = post_tool(&host, &mut vm, true);
        assert_eq!(host.responses().len() as u64, round - 1, "held");
        host.answer_poll(&mut vm, 200, &bundle(2 * round + 2));
        let body = tool_call("pandas");
        host.set_body(Message::Request, &body);
        let flow = session.request_body(&mut vm, &host, body.len(), true);
        assert_eq!(denied(flow, &host).as_deref(), Some("token_missing"));
        store_all(&host, &mut vm);
    }
}

#[test]
fn an_answer_without_a_body_is_complete_and_one_that_breaks_off_is_not() {
    for (end_of_stream, end) in [(true, "complete"), (false, "broken")] {
        let host = FakeHost::inbound();
        let mut vm = testing::ready_vm(&host);
        let (mut session, _) = get_table(&host, &mut vm, "sales", &[("authorization", &bearer(&json!({})))]);
        assert_eq!(session.response_headers(&mut vm, &host, end_of_stream), Flow::Continue);
        finish(&mut session, &mut vm, &host, 204);
        assert_eq!(posted(&mut vm, &host).last().unwrap()["end"], end);
    }
}
