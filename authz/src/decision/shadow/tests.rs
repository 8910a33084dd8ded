#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::decision::decide;
use crate::identity::SpiffeId;
use crate::protocol::list::List;
use crate::testing::{ANALYST, NOW, WAREHOUSE, WRITER, World};

/// What is changed of a call.
type Change = fn(&mut World);

/// The same call to the same services, all of them in this mode.
fn in_mode(world: World, mode: &str) -> World {
    world.with(|w| {
        for service in w.bundle["services"].as_array_mut().unwrap() {
            service["mode"] = json!(mode);
        }
    })
}

fn told(world: &World) -> (&'static str, &'static str, u16) {
    let verdict = world.verdict();
    (verdict.verdict, verdict.code, verdict.status)
}

/// A call that each code is met by, of those that are shadowed and an inbound service can give.
fn denied() -> Vec<(Code, World)> {
    let warehouse = |change: Change| World::warehouse().with(change);
    vec![
        (Code::TokenMissing, warehouse(|w| w.claims = Value::Null)),
        (Code::TokenExpired, warehouse(|w| w.claims["exp"] = json!(NOW - 5))),
        (Code::AudienceMismatch, warehouse(|w| w.claims["aud"] = json!([WRITER]))),
        (
            Code::ServiceNotReached,
            warehouse(|w| w.bundle["agents"][0]["reaches"] = json!(["tools/mcp"])),
        ),
        (
            Code::ScopeNotGranted,
            warehouse(|w| w.path = "/v1/tables/costs".to_owned()),
        ),
        (
            Code::ScopeNotInPolicy,
            warehouse(|w| w.path = "/v1/tables/hr".to_owned()),
        ),
        (
            Code::OwnSegmentMismatch,
            warehouse(|w| w.path = "/memory/writer-2/notes".to_owned()),
        ),
        (Code::ToolForbidden, World::legacy_mcp("bash", json!({}))),
        (Code::ToolNotGranted, World::legacy_mcp("matplotlib", json!({}))),
        (Code::ToolNotInPolicy, World::legacy_mcp("http", json!({}))),
    ]
}

#[test]
fn the_table_is_this() {
    let shadowed: Vec<&str> = Code::ALL
        .iter()
        .filter(|code| is_shadowed(**code))
        .map(|code| code.as_str())
        .collect();
    assert_eq!(
        shadowed,
        [
            "token_missing",
            "token_expired",
            "audience_mismatch",
            "service_not_reached",
            "scope_not_granted",
            "scope_not_in_policy",
            "own_segment_mismatch",
            "tool_forbidden",
            "tool_not_granted",
            "tool_not_in_policy",
            "prompt_not_in_policy",
            "resource_not_in_policy",
        ]
    );
}

#[test]
fn what_is_shadowed_goes_on_with_its_code_and_is_denied_where_the_service_enforces() {
    for (code, world) in denied() {
        let word = code.as_str();
        let shadow = in_mode(world.clone(), "shadow");
        assert_eq!(told(&shadow), ("permit", word, 200));
        assert_eq!(told(&in_mode(world.clone(), "enforce")), ("deny", word, code.status()));
        assert_eq!(shadow.verdict().needed, world.verdict().needed, "{word}");
    }
}

/// Whatever check fails first: those for a stopped agent are asked all the same.
#[test]
fn no_call_of_an_agent_that_was_stopped_goes_on() {
    let stops: [(&str, Change); 6] = [
        ("paused", |w| w.state["agents"] = json!({"analyst-7": "paused"})),
        ("suspended", |w| w.state["agents"] = json!({"analyst-7": "suspended"})),
        ("killed", |w| w.state["agents"] = json!({"analyst-7": "killed"})),
        ("policy too old", |w| w.state["issued_at"] = json!(NOW - 61)),
        ("policy expired", |w| w.bundle["expires_at"] = json!(NOW)),
        ("another workload's policy", |w| w.bundle["aud"] = json!(WRITER)),
    ];
    for (code, world) in denied() {
        let world = in_mode(world, "shadow");
        assert_eq!(told(&world).0, "permit", "{code}");
        for (why, stop) in stops {
            assert_eq!(told(&world.clone().with(stop)).0, "deny", "{code}, {why}");
        }
    }
}

#[test]
fn no_call_by_a_dead_or_stolen_token_goes_on() {
    let ends: [(&str, Change); 3] = [
        ("revoked", |w| w.state["revoked"] = json!({"jti-1": NOW + 290})),
        ("reset", |w| w.state["not_before"] = json!({"analyst-7": NOW + 1})),
        ("stolen", |w| w.peer = json!(WRITER)),
    ];
    let without_claims = [Code::TokenMissing, Code::TokenExpired];
    for (code, world) in denied() {
        let world = in_mode(world, "shadow");
        for (why, end) in ends {
            if without_claims.contains(&code) {
                continue;
            }
            assert_eq!(told(&world.clone().with(end)).0, "deny", "{code}, {why}");
        }
    }
}

/// A filter asks with a flaw only where it may wait. The decision does not lean on that.
#[test]
fn a_flawed_token_waits_and_goes_on_by_the_table_alone() {
    for &code in Code::ALL {
        let flaw = Denial::new(code, "");
        let outcome = |mode: &str| {
            let world = in_mode(World::warehouse(), mode);
            let facts = world.facts();
            world.ask(|q| {
                let q = Question {
                    token: None,
                    flaw: Some(&flaw),
                    ..*q
                };
                let service = find_service(q.bundle, facts.service.as_ref().unwrap()).unwrap();
                let went_on = decide(&q, &facts).map(|_| ()).map_err(|denial| denial.code());
                (may_wait(&flaw, service), went_on)
            })
        };
        let word = code.as_str();
        let shadow = if is_shadowed(code) { Ok(()) } else { Err(code) };
        assert_eq!(outcome("shadow"), (is_shadowed(code), shadow), "{word}");
        assert_eq!(outcome("enforce"), (false, Err(code)), "{word}");
    }
}

/// That it has expired is what fails first; whose it is is asked all the same.
#[test]
fn a_stolen_token_that_has_expired_does_not_go_on() {
    let world = World::warehouse().with(|w| w.claims["exp"] = json!(NOW + 1));
    let world = in_mode(world, "shadow");
    let facts = world.facts();
    let outcome = |peer: &str| {
        let peer = SpiffeId::parse(peer).unwrap();
        world.ask(|q| {
            let q = Question {
                now: NOW + 10,
                peer: Some(&peer),
                ..*q
            };
            let permit = decide(&q, &facts).map_err(|denial| denial.code())?;
            Ok(permit.shadowed().map(|shadowed| shadowed.denial().code()))
        })
    };
    assert_eq!(outcome(ANALYST), Ok(Some(Code::TokenExpired)));
    assert_eq!(outcome(WRITER), Err(Code::TokenExpired));
}

#[test]
fn a_call_without_a_token_is_of_the_agent_whose_workload_it_comes_from() {
    let bare = |peer: Value, states: Value| {
        let world = World::warehouse().with(|w| {
            (w.claims, w.peer) = (Value::Null, peer);
            w.state["agents"] = states;
        });
        told(&in_mode(world, "shadow")).0
    };
    assert_eq!(bare(json!(ANALYST), json!({})), "permit");
    assert_eq!(bare(json!(ANALYST), json!({"writer-2": "killed"})), "permit");
    assert_eq!(bare(json!(WRITER), json!({"writer-2": "killed"})), "deny");
    assert_eq!(bare(json!(WAREHOUSE), json!({})), "deny", "no agent");
    assert_eq!(bare(Value::Null, json!({})), "deny", "nobody");
}

#[test]
fn the_callers_side_lets_it_go_on_too() {
    let call = World::outbound().with(|w| w.path = "/v1/tables/costs".to_owned());
    assert_eq!(
        told(&in_mode(call.clone(), "shadow")),
        ("permit", "scope_not_granted", 200)
    );
    assert_eq!(
        told(&in_mode(call.clone(), "enforce")),
        ("deny", "scope_not_granted", 403)
    );
    let bare = in_mode(call.with(|w| w.claims = Value::Null), "shadow");
    assert_eq!(told(&bare), ("permit", "token_missing", 200));
    let killed = bare.with(|w| w.state["agents"] = json!({"analyst-7": "killed"}));
    assert_eq!(told(&killed), ("deny", "token_missing", 401));
}

#[test]
fn what_is_granted_is_permitted_as_ever() {
    for world in [World::warehouse(), World::mcp(), World::outbound(), World::a2a()] {
        assert_eq!(told(&in_mode(world, "shadow")), ("permit", "ok", 200));
    }
}

#[test]
fn all_that_a_service_offers_is_told_in_shadow_and_no_more() {
    for (list, name, enforced, shadow) in [
        (List::Tools, "pandas", true, true),
        (List::Tools, "http", false, true),
        (List::Tools, "shell", false, false),
        (List::Prompts, "audit", false, true),
        (List::Resources, "memo://b", false, true),
        (List::Resources, "memo://c", false, false),
        (List::Templates, "table://sales/{table}", true, true),
        (List::Templates, "table://hr/{table}", false, false),
    ] {
        assert_eq!(World::mcp().is_told(list, name), enforced, "{name}");
        assert_eq!(in_mode(World::mcp(), "shadow").is_told(list, name), shadow, "{name}");
    }
}
