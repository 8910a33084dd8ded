//! Calls to a service in shadow.

use super::*;

const ROOT: u32 = 1;
const STREAM: u32 = 7;

fn vm(host: &FakeHost, mode: &str) -> Vm {
    testing::vm_of_services(host, &json!({"mode": mode}))
}

fn read(host: &FakeHost, vm: &mut Vm, table: &str, authorization: Option<&str>) -> (Session, Flow) {
    let path = format!("/v1/tables/{table}");
    let mut headers = vec![(":method", "GET"), (":authority", "warehouse:8080"), (":path", &*path)];
    headers.extend(authorization.map(|value| ("authorization", value)));
    host.set_headers(&headers);
    let mut session = Session::new(true).in_context(STREAM);
    let flow = session.request_headers(vm, host, headers.len(), true);
    (session, flow)
}

/// The policy server stores what is queued.
fn stored(host: &FakeHost, vm: &mut Vm) {
    vm.answer_bell(host);
    vm.end_calls(host, ROOT);
    host.store_batch(vm);
    vm.end_calls(host, ROOT);
}

fn listed(host: &FakeHost, vm: &mut Vm, state: &str) {
    let fields = json!({"agents": {"analyst-7": state}});
    host.answer_poll(vm, 200, &json!({"state": testing::state(2, &fields)}));
    vm.end_calls(host, ROOT);
}

fn acts(host: &FakeHost) -> Vec<&'static str> {
    let acted = host.acted().0.into_iter();
    acted
        .filter(|(context, _)| *context == STREAM)
        .map(|(_, act)| act)
        .collect()
}

fn decision(host: &FakeHost) -> Value {
    host.published("ostiary").pop().unwrap()
}

#[test]
fn what_a_rule_denies_goes_on_once_its_record_is_stored() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "shadow");
    let (mut session, flow) = read(&host, &mut vm, "salaries", Some(&bearer(&json!({}))));
    assert_eq!((flow, host.responses().len(), acts(&host).len()), (Flow::Pause, 0, 0));
    let decision = decision(&host);
    assert_eq!(
        (&decision["verdict"], &decision["code"], &decision["agent_id"]),
        (&json!("permit"), &json!("scope_not_granted"), &json!("analyst-7"))
    );
    assert_eq!(decision["facts"]["scope"], "read:data.salaries");
    assert_eq!(decision.get("status"), None);
    stored(&host, &mut vm);
    assert_eq!(acts(&host), ["resume"]);
    assert_eq!(session.response_headers(&mut vm, &host, true), Flow::Continue);
    finish(&mut session, &mut vm, &host, 200);
    let completion = host.published("ostiary_completion").pop().unwrap();
    assert_eq!((&completion["end"], completion.get("code")), (&json!("complete"), None));
}

#[test]
fn what_is_granted_waits_for_nothing_that_its_service_does_not_ask_for() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "shadow");
    let (_, flow) = read(&host, &mut vm, "sales", Some(&bearer(&json!({}))));
    assert_eq!(flow, Flow::Continue);
    assert_eq!(decision(&host).get("code"), None);
}

#[test]
fn a_service_that_enforces_denies() {
    for mode in ["shadow", "enforce"] {
        let host = FakeHost::inbound();
        let mut vm = vm(&host, mode);
        read(&host, &mut vm, "salaries", Some(&bearer(&json!({}))));
        let denial = (mode == "enforce").then_some("scope_not_granted");
        assert_eq!(host.denial().as_deref(), denial);
        read(&host, &mut vm, "salaries", None);
        let denial = (mode == "enforce").then_some("token_missing");
        assert_eq!(host.denial().as_deref(), denial);
    }
}

#[test]
fn what_cannot_be_recorded_first_is_denied() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "shadow");
    read(&host, &mut vm, "salaries", Some(&bearer(&json!({}))));
    vm.answer_bell(&host);
    let batch = host.last_sent("/v1/records").unwrap();
    host.answer(&mut vm, batch.token, 503, b"");
    vm.end_calls(&host, ROOT);
    assert_eq!(acts(&host), ["respond"]);
    assert_eq!(host.denial().as_deref(), Some("records_unavailable"));
    read(&host, &mut vm, "salaries", None);
    assert_eq!(
        host.denial().as_deref(),
        Some("records_unavailable"),
        "while the server fails"
    );
    let (_, flow) = read(&host, &mut vm, "sales", Some(&bearer(&json!({}))));
    assert_eq!(flow, Flow::Continue, "what is granted is queued");
}

#[test]
fn a_call_without_a_token_has_its_own_record_and_is_its_peers() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "shadow");
    let (_, flow) = read(&host, &mut vm, "sales", None);
    assert_eq!((flow, host.responses().len()), (Flow::Pause, 0));
    let decision = decision(&host);
    assert_eq!(
        (&decision["verdict"], &decision["code"], &decision["peer"]),
        (&json!("permit"), &json!("token_missing"), &json!(AGENT))
    );
    assert_eq!((decision.get("agent_id"), decision.get("claims")), (None, None));
    stored(&host, &mut vm);
    assert_eq!(acts(&host), ["resume"]);
}

#[test]
fn a_workload_that_is_no_agent_known_here_is_denied() {
    let host = FakeHost::inbound();
    host.set("connection.uri_san_peer_certificate", OTHER_AGENT.as_bytes());
    let mut vm = vm(&host, "shadow");
    read(&host, &mut vm, "sales", None);
    assert_eq!(host.denial().as_deref(), Some("token_missing"));
    assert_eq!(decision(&host)["kind"], "aggregate");
}

#[test]
fn a_kill_denies_ends_and_stops_calls_without_a_token_too() {
    for (token, code) in [(true, "agent_killed"), (false, "token_missing")] {
        let authorization = bearer(&json!({}));
        let authorization = token.then_some(&*authorization);
        let host = FakeHost::inbound();
        let mut vm = vm(&host, "shadow");
        let (mut waiting, _) = read(&host, &mut vm, "salaries", authorization);
        listed(&host, &mut vm, "killed");
        assert_eq!(acts(&host), ["respond"], "one that waits is denied");
        assert_eq!(host.denial().as_deref(), Some("agent_killed"));
        finish(&mut waiting, &mut vm, &host, 403);
        read(&host, &mut vm, "salaries", authorization);
        assert_eq!(host.denial().as_deref(), Some(code), "a new one is denied");

        let host = FakeHost::inbound();
        let mut vm = testing::vm_of_services(&host, &json!({"mode": "shadow"}));
        let (mut session, _) = read(&host, &mut vm, "salaries", authorization);
        stored(&host, &mut vm);
        session.response_headers(&mut vm, &host, false);
        listed(&host, &mut vm, "killed");
        assert_eq!(acts(&host), ["resume", "reset"], "one on its way is ended");
    }
}

#[test]
fn a_pause_stops_what_has_not_begun_and_nothing_else() {
    for begun in [true, false] {
        let host = FakeHost::inbound();
        let mut vm = vm(&host, "shadow");
        let (_session, _) = read(&host, &mut vm, "sales", None);
        if begun {
            stored(&host, &mut vm);
        }
        listed(&host, &mut vm, "paused");
        assert_eq!(acts(&host), [if begun { "resume" } else { "respond" }]);
    }
}

#[test]
fn an_expired_token_is_recorded_as_that_and_a_forged_one_is_denied() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "shadow");
    let times = json!({"iat": NOW - 300, "nbf": NOW - 300, "exp": NOW - 60});
    let expired = bearer(&times);
    read(&host, &mut vm, "sales", Some(&expired));
    assert_eq!(host.responses().len(), 0);
    assert_eq!(decision(&host)["code"], "token_expired");
    assert!(host.header_values("authorization").is_empty(), "taken out as any token");
    let (signed, _) = expired.rsplit_once('.').unwrap();
    read(&host, &mut vm, "sales", Some(&format!("{signed}.{}", "A".repeat(86))));
    assert_eq!(host.denial().as_deref(), Some("token_signature_invalid"));
}

#[test]
fn a_tool_named_in_the_body_goes_on_if_the_service_offers_it() {
    for (tool, code) in [("bash", None), ("sql", None), ("shell", Some("tool_not_offered"))] {
        for authorization in [Some(bearer(&json!({}))), None] {
            let host = FakeHost::inbound();
            let mut vm = vm(&host, "shadow");
            let headers: Vec<_> = authorization.iter().map(|value| ("authorization", &**value)).collect();
            let session = Session::new(true).in_context(STREAM);
            let (mut session, flow) = testing::post_tool(&host, &mut vm, session, &headers);
            assert_eq!((flow, host.responses().len()), (Flow::Pause, 0));
            let body = tool_call(tool);
            host.set_body(Message::Request, &body);
            assert_eq!(session.request_body(&mut vm, &host, body.len(), true), Flow::Pause);
            assert_eq!(host.denial().as_deref(), code);
            if code.is_none() {
                assert_eq!(decision(&host)["facts"]["tool"], tool);
                stored(&host, &mut vm);
                assert_eq!(acts(&host), ["resume"]);
            }
        }
    }
}

#[test]
fn the_callers_sidecar_lets_it_go_on_at_once() {
    for (mode, flow) in [("shadow", Flow::Continue), ("enforce", Flow::Pause)] {
        let host = FakeHost::outbound();
        let mut vm = vm(&host, mode);
        let (_, got) = read(&host, &mut vm, "salaries", Some(&bearer(&json!({}))));
        assert_eq!((got, &decision(&host)["code"]), (flow, &json!("scope_not_granted")));
    }
}

#[test]
fn what_cannot_be_read_is_denied() {
    let host = FakeHost::inbound();
    let mut vm = vm(&host, "shadow");
    let (_, flow) = read(&host, &mut vm, "../salaries", Some(&bearer(&json!({}))));
    assert_eq!(
        (flow, host.denial().as_deref()),
        (Flow::Pause, Some("path_not_canonical"))
    );
    read(&host, &mut vm, "a/b", Some(&bearer(&json!({}))));
    assert_eq!(host.denial().as_deref(), Some("route_unknown"));
}

#[test]
fn a_call_in_shadow_does_not_end_with_its_token() {
    for (mode, ended) in [("shadow", false), ("enforce", true)] {
        let host = FakeHost::inbound();
        let mut vm = testing::vm_of_services(&host, &json!({"mode": mode, "on_expiry": "cut"}));
        let (mut session, flow) = read(&host, &mut vm, "sales", Some(&bearer(&json!({"exp": NOW + 20}))));
        assert_eq!(flow, Flow::Continue);
        session.response_headers(&mut vm, &host, false);
        host.advance(Duration::from_secs(21));
        vm.tick(&host);
        vm.end_calls(&host, ROOT);
        assert_eq!(!acts(&host).is_empty(), ended, "{mode}");
    }
}
