#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::json;

use super::*;
use crate::testing::{ANALYST, MCP, NOW, WAREHOUSE, WRITER, World};

#[test]
fn what_is_granted_by_all_is_permitted() {
    for world in [
        World::warehouse(),
        World::mcp(),
        World::outbound(),
        World::legacy_mcp("pandas", json!({})),
    ] {
        let verdict = world.verdict();
        assert_eq!(
            (verdict.verdict, verdict.code, verdict.status),
            ("permit", "ok", 200),
            "{world:?}"
        );
        assert_eq!(
            verdict.agent_id.as_ref().map(ToString::to_string).as_deref(),
            Some("analyst-7")
        );
    }
    assert_eq!(
        World::warehouse().verdict().scope.as_deref(),
        Some("read:data.sales_q1_2026")
    );
    assert_eq!(World::mcp().verdict().tool.as_deref(), Some("pandas"));
}

#[test]
fn policy_and_state_must_be_current() {
    let code = |change: fn(&mut World)| World::warehouse().with(change).code();
    assert_eq!(code(|w| w.bundle["expires_at"] = json!(NOW + 1)), "ok");
    assert_eq!(code(|w| w.bundle["expires_at"] = json!(NOW)), "policy_unavailable");
    assert_eq!(code(|w| w.state["issued_at"] = json!(NOW - 60)), "ok");
    assert_eq!(code(|w| w.state["issued_at"] = json!(NOW - 61)), "policy_unavailable");
    assert_eq!(code(|w| w.state["issued_at"] = json!(NOW + 6)), "policy_unavailable");
    assert_eq!(code(|w| w.bundle["aud"] = json!(MCP)), "workload_mismatch");
    assert_eq!(code(|w| w.bundle["format"] = json!(2)), "policy_unavailable");
}

#[test]
fn a_pause_denies_at_the_service_and_at_the_caller_only_where_the_service_does_not_hold() {
    let code = |world: World, mode: &str, state: &str| {
        let changed = world.with(|w| {
            w.state["agents"] = json!({"analyst-7": state});
            for service in w.bundle["services"].as_array_mut().unwrap() {
                service["on_pause"] = json!(mode);
            }
        });
        changed.code()
    };
    for (mode, outbound) in [("deny", "agent_paused"), ("hold", "ok")] {
        assert_eq!(code(World::outbound(), mode, "paused"), outbound);
        assert_eq!(code(World::warehouse(), mode, "paused"), "agent_paused");
        assert_eq!(code(World::mcp(), mode, "paused"), "agent_paused");
        assert_eq!(code(World::outbound(), mode, "suspended"), "agent_suspended");
    }
}

#[test]
fn the_token_must_be_there_and_in_time() {
    let code = |change: fn(&mut World)| World::warehouse().with(change).code();
    assert_eq!(code(|w| w.claims = json!(null)), "token_missing");
    assert_eq!(code(|w| w.claims["exp"] = json!(NOW - 4)), "ok");
    assert_eq!(code(|w| w.claims["exp"] = json!(NOW - 5)), "token_expired");
    assert_eq!(code(|w| w.claims["nbf"] = json!(NOW + 5)), "ok");
    assert_eq!(code(|w| w.claims["nbf"] = json!(NOW + 6)), "token_not_yet_valid");
    assert_eq!(code(|w| w.claims["exp"] = json!(NOW + 291)), "token_lifetime_exceeded");
    assert_eq!(
        code(|w| w.claims["iss"] = json!("spiffe://cluster.local/x")),
        "token_issuer_unknown"
    );
    assert_eq!(
        code(|w| w.headers.push(("authorization".to_owned(), "Bearer a.b.c".to_owned()))),
        "token_malformed"
    );
    let twice = World::warehouse().with(|w| {
        w.headers
            .push(("authorization".to_owned(), "Bearer a,Bearer b".to_owned()));
    });
    assert_eq!(twice.code(), "header_duplicate");
}

#[test]
fn the_token_is_bound_to_its_peer() {
    let code = |change: fn(&mut World)| World::warehouse().with(change).code();
    assert_eq!(code(|w| w.peer = json!(null)), "peer_missing");
    assert_eq!(code(|w| w.peer = json!("not a SPIFFE ID")), "peer_missing");
    assert_eq!(code(|w| w.peer = json!(WRITER)), "peer_mismatch");
    assert_eq!(code(|w| w.claims["sub"] = json!(WRITER)), "peer_mismatch");
    assert_eq!(
        World::outbound().with(|w| w.claims["sub"] = json!(WRITER)).code(),
        "peer_mismatch"
    );
}

#[test]
fn the_token_names_the_service() {
    let verdict = World::warehouse().with(|w| w.claims["aud"] = json!([MCP])).verdict();
    assert_eq!(verdict.code, "audience_mismatch");
    assert_eq!(verdict.needed.audience.as_deref(), Some(WAREHOUSE));
    assert_eq!(
        World::warehouse().with(|w| w.claims["aud"] = json!(WAREHOUSE)).code(),
        "ok"
    );
}

#[test]
fn the_agent_is_known_as_itself() {
    let code = |change: fn(&mut World)| World::warehouse().with(change).code();
    assert_eq!(code(|w| w.claims["agent_id"] = json!("analyst-8")), "agent_unknown");
    assert_eq!(
        code(|w| w.claims["agent_id"] = json!("writer-2")),
        "agent_identity_mismatch"
    );
    assert_eq!(
        code(|w| w.bundle["agents"][0]["reaches"] = json!(["tools/mcp"])),
        "service_not_reached"
    );
}

#[test]
fn the_state_of_the_agent_and_its_tokens_counts() {
    let code = |change: fn(&mut World)| World::warehouse().with(change).code();
    for state in ["paused", "suspended", "killed"] {
        let world = World::warehouse().with(|w| w.state["agents"] = json!({"analyst-7": state}));
        assert_eq!(world.code(), format!("agent_{state}"));
    }
    assert_eq!(code(|w| w.state["agents"] = json!({"analyst-7": "active"})), "ok");
    assert_eq!(code(|w| w.state["agents"] = json!({"writer-2": "killed"})), "ok");
    assert_eq!(code(|w| w.state["not_before"] = json!({"analyst-7": NOW - 10})), "ok");
    assert_eq!(
        code(|w| w.state["not_before"] = json!({"analyst-7": NOW - 9})),
        "token_superseded"
    );
    assert_eq!(code(|w| w.state["revoked"] = json!({"jti-2": NOW + 290})), "ok");
    assert_eq!(
        code(|w| w.state["revoked"] = json!({"jti-1": NOW + 290})),
        "token_revoked"
    );
}

#[test]
fn a_scope_is_granted_by_token_and_policy() {
    let verdict = |table: &str| {
        World::warehouse()
            .with(|w| w.path = format!("/v1/tables/{table}"))
            .verdict()
    };
    assert_eq!(verdict("sales_q1_2026").code, "ok");
    assert_eq!(verdict("costs").code, "scope_not_granted");
    assert_eq!(verdict("costs").needed.scope.as_deref(), Some("read:data.costs"));
    assert_eq!(verdict("hr").code, "scope_not_in_policy");
}

#[test]
fn an_own_segment_is_the_callers() {
    let code = |path: &str| World::warehouse().with(|w| w.path = path.to_owned()).code();
    assert_eq!(code("/memory/analyst-7/plan"), "ok");
    assert_eq!(code("/memory/writer-2/plan"), "own_segment_mismatch");
}

#[test]
fn forbidden_wins_whoever_says_it_and_however() {
    assert_eq!(World::legacy_mcp("pandas", json!({})).code(), "ok");
    for forbidden in ["pandas", "mcp/pandas", "tools/mcp/pandas"] {
        let world = World::legacy_mcp("pandas", json!({}));
        let by_token = world.clone().with(|w| w.claims["forbidden_tools"] = json!([forbidden]));
        let by_policy = world.with(|w| w.bundle["agents"][0]["forbidden_tools"] = json!([forbidden]));
        assert_eq!(
            (by_token.code(), by_policy.code()),
            ("tool_forbidden", "tool_forbidden"),
            "{forbidden}"
        );
    }
    for other in ["other/pandas", "tools/other/pandas", "Pandas"] {
        let world = World::legacy_mcp("pandas", json!({}));
        assert_eq!(
            world.with(|w| w.claims["forbidden_tools"] = json!([other])).code(),
            "ok",
            "{other}"
        );
    }
    assert_eq!(World::legacy_mcp("bash", json!({})).code(), "tool_forbidden");
}

#[test]
fn a_tool_is_granted_by_token_and_policy_and_offered() {
    let code = |tool: &str| World::legacy_mcp(tool, json!({})).code();
    assert_eq!(code("pandas"), "ok");
    assert_eq!(code("matplotlib"), "tool_not_granted");
    assert_eq!(code("http"), "tool_not_in_policy");
    assert_eq!(code("PANDAS"), "tool_not_offered");
    assert_eq!(code("unlisted"), "tool_not_offered");
    let qualified = World::legacy_mcp("pandas", json!({}));
    assert_eq!(
        qualified
            .clone()
            .with(|w| w.claims["tools"] = json!(["mcp/pandas"]))
            .code(),
        "ok"
    );
    assert_eq!(
        qualified.with(|w| w.claims["tools"] = json!(["other/pandas"])).code(),
        "tool_not_granted"
    );
}

#[test]
fn a_tools_arguments_may_ask_for_a_scope() {
    let code = |arguments| World::legacy_mcp("sql_query", arguments).code();
    assert_eq!(code(json!({"query": {"table": "sales_q1_2026"}})), "ok");
    assert_eq!(code(json!({"query": {"table": "hr"}})), "scope_not_in_policy");
    for table in [
        json!("costs"),
        json!("sales.q1"),
        json!("SALES"),
        json!(""),
        json!(1),
        json!(null),
        json!(["a"]),
    ] {
        assert_eq!(code(json!({"query": {"table": table}})), "scope_not_granted", "{table}");
    }
    assert_eq!(code(json!({})), "scope_not_granted");
    // A reader that folds case could take the other member.
    assert_eq!(
        code(json!({"query": {"table": "sales_q1_2026", "tabLe": "hr"}})),
        "scope_not_granted"
    );
    assert_eq!(code(json!({"query": {"table": "sales_q1_2026", "taable": "hr"}})), "ok");
    assert_eq!(
        code(json!({"Query": {"table": "hr"}, "query": {"table": "sales_q1_2026"}})),
        "scope_not_granted"
    );
}

#[test]
fn only_the_exempt_peer_needs_no_token() {
    let metrics = World::warehouse().with(|w| w.path = "/metrics".to_owned());
    let exempt = metrics.clone().with(|w| {
        w.peer = json!("spiffe://cluster.local/ns/monitoring/sa/prometheus");
        w.claims = json!(null);
    });
    assert_eq!(exempt.code(), "ok");
    assert_eq!(exempt.verdict().agent_id, None);
    // Its credentials are not looked at.
    assert_eq!(
        exempt.clone().with(|w| w.header("authorization", "Basic x")).code(),
        "ok"
    );
    assert_eq!(
        exempt.clone().with(|w| w.path = "/v1/tables/costs".to_owned()).code(),
        "token_missing"
    );
    assert_eq!(exempt.clone().with(|w| w.method = "POST").code(), "route_unknown");
    assert_eq!(exempt.clone().with(|w| w.peer = json!(ANALYST)).code(), "token_missing");
    assert_eq!(exempt.clone().with(|w| w.peer = json!(null)).code(), "token_missing");
    assert_eq!(
        exempt.with(|w| w.state["issued_at"] = json!(NOW - 61)).code(),
        "policy_unavailable"
    );
    assert_eq!(metrics.code(), "route_unknown");
}

#[test]
fn applications_reach_four_endpoints_of_the_policy_server() {
    let call = |method, path: &str| {
        let world = World::outbound().with(|w| {
            w.header("host", "policy-server.ostiary.svc.cluster.local");
            w.claims = json!(null);
            w.method = method;
            w.path = path.to_owned();
        });
        world.code()
    };
    for path in ["/v1/tokens", "/oauth/revoke", "/oauth/introspect"] {
        assert_eq!(call("POST", path), "ok", "{path}");
    }
    assert_eq!(call("GET", "/.well-known/jwks.json"), "ok");
    for (method, path) in [
        ("GET", "/v1/policy"),
        ("POST", "/v1/records"),
        ("GET", "/v1/tokens"),
        ("GET", "/oauth/introspect"),
        ("POST", "/v1/revocations"),
        ("POST", "/v1/tokens/"),
    ] {
        assert_eq!(call(method, path), "endpoint_refused", "{method} {path}");
    }
}

#[test]
fn the_service_is_found_by_port_or_by_host() {
    let inbound = |host: &str| World::warehouse().with(|w| w.header("host", host)).code();
    assert_eq!(inbound("warehouse.data.svc.cluster.local"), "ok");
    assert_eq!(inbound("Warehouse.data.svc.cluster.local:8080"), "ok");
    assert_eq!(inbound("mcp.tools.svc.cluster.local:8080"), "host_unknown");
    assert_eq!(inbound("warehouse.data.svc.cluster.local:9090"), "service_unknown");
    let outbound = |host: &str| World::outbound().with(|w| w.header("host", host)).code();
    assert_eq!(outbound("warehouse.data.svc.cluster.local:8080"), "ok");
    assert_eq!(outbound("example.com"), "service_unknown");
    // The policy server is reached from the outbound side only.
    assert_eq!(inbound("policy-server.ostiary.svc.cluster.local:8080"), "host_unknown");
}

#[test]
fn the_route_is_matched_exactly() {
    let code = |method, path: &str| {
        World::warehouse()
            .with(|w| (w.method, w.path) = (method, path.to_owned()))
            .verdict()
            .code
    };
    assert_eq!(code("GET", "/v1/tables/sales_q1_2026?limit=1"), "ok");
    for (method, path) in [
        ("HEAD", "/v1/tables/sales_q1_2026"),
        ("OPTIONS", "/v1/tables/sales_q1_2026"),
        ("get", "/v1/tables/sales_q1_2026"),
        ("GET", "/v1/tables/sales_q1_2026/"),
        ("GET", "/v1/tables/"),
        ("GET", "/v1/tables"),
        ("GET", "/V1/tables/sales_q1_2026"),
        ("GET", "/v1/tables/Sales_q1_2026"),
        ("GET", "/v1/tables/sales.q1"),
        ("GET", "/v1/tables/sales%20q1"),
        ("GET", "/memory/analyst-7/A"),
        ("GET", "/"),
    ] {
        assert_eq!(code(method, path), "route_unknown", "{method} {path}");
    }
}

#[test]
fn a_call_of_a_paused_agent_is_held_where_its_service_holds_and_for_nothing_else() {
    let held = |mode: &str, agents: serde_json::Value, change: fn(&mut World)| {
        let world = World::warehouse().with(|w| {
            w.bundle["services"][0]["on_pause"] = json!(mode);
            w.state["agents"] = agents;
        });
        let world = world.with(change);
        let facts = world.facts();
        world.ask(|q| hold(q, &facts).map(|held| held.service().id().to_string()))
    };
    let paused = json!({"analyst-7": "paused"});
    let same = |_: &mut World| {};
    assert_eq!(held("hold", paused.clone(), same).as_deref(), Some("data/warehouse"));
    assert_eq!(held("deny", paused.clone(), same), None);
    assert_eq!(held("hold", json!({"analyst-7": "suspended"}), same), None);
    assert_eq!(held("hold", json!({"analyst-7": "killed"}), same), None);
    assert_eq!(held("hold", paused, |w| w.claims["scope"] = json!([])), None);
}

#[test]
fn a_call_goes_on_by_a_token_of_its_operation_that_permits_it() {
    let world = World::warehouse();
    let facts = world.facts();
    let code = |change: fn(&mut serde_json::Value)| {
        let mut other = world.claims.clone();
        other["jti"] = json!("another");
        change(&mut other);
        let text = other.to_string();
        let document = crate::json::parse(text.as_bytes(), &crate::json::Limits::REQUEST).unwrap();
        let other = Claims::read(document.root()).unwrap();
        let outcome = world.ask(|q| goes_on_by(q, &other, &facts));
        outcome.err().map_or("goes on", |denial| denial.code().as_str())
    };
    assert_eq!(code(|_| {}), "goes on");
    assert_eq!(code(|other| other["operation_id"] = json!("another")), "token_expired");
    assert_eq!(code(|other| other["agent_id"] = json!("writer-2")), "token_expired");
    assert_eq!(code(|other| other["sub"] = json!(WRITER)), "token_expired");
    assert_eq!(code(|other| other["scope"] = json!([])), "scope_not_granted");
}
