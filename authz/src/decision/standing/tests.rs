#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::json;

use super::*;
use crate::testing::{NOW, World};

#[test]
fn a_call_on_its_way_outlives_a_pause_and_nothing_worse() {
    let claims = |iat: u64| {
        let mut claims = World::warehouse().claims;
        claims["iat"] = json!(iat);
        claims["nbf"] = json!(iat);
        let text = claims.to_string();
        let document = crate::json::parse(text.as_bytes(), &crate::json::Limits::REQUEST).unwrap();
        Claims::read(document.root()).unwrap()
    };
    let outcome = |iat: u64, state: serde_json::Value| {
        let mut list = World::warehouse().state;
        for (name, value) in state.as_object().unwrap() {
            list[name] = value.clone();
        }
        let list = StateList::from_own_claims(serde_json::from_value(list).unwrap(), NOW).unwrap();
        match outlives(&list, &claims(iat)) {
            Ok(()) => "goes on",
            Err(denial) => denial.code().as_str(),
        }
    };
    let jti = World::warehouse().claims["jti"].clone();
    let jti = jti.as_str().unwrap();
    assert_eq!(outcome(NOW, json!({})), "goes on");
    for (state, expected) in [
        ("paused", "goes on"),
        ("suspended", "agent_suspended"),
        ("killed", "agent_killed"),
    ] {
        assert_eq!(outcome(NOW, json!({"agents": {"analyst-7": state}})), expected);
        assert_eq!(outcome(NOW, json!({"agents": {"writer-2": state}})), "goes on");
    }
    for agents in [json!({}), json!({"analyst-7": "paused"})] {
        let dead = json!({"agents": agents, "not_before": {"analyst-7": NOW}});
        assert_eq!(outcome(NOW - 1, dead.clone()), "token_superseded");
        assert_eq!(outcome(NOW, dead), "goes on");
        let revoked = json!({"agents": agents, "revoked": {jti: NOW + 9}});
        assert_eq!(outcome(NOW, revoked), "token_revoked");
    }
}

/// A call that has not begun is stopped by a pause too, whether a list says so or the answer to its record.
#[test]
fn a_call_that_waited_begins_only_for_an_active_agent() {
    let claims = World::warehouse().claims.to_string();
    let document = crate::json::parse(claims.as_bytes(), &crate::json::Limits::REQUEST).unwrap();
    let claims = Claims::read(document.root()).unwrap();
    let listed = |agents: serde_json::Value| {
        let mut list = World::warehouse().state;
        list["agents"] = agents;
        StateList::from_own_claims(serde_json::from_value(list).unwrap(), NOW).unwrap()
    };
    let answered = |id: &str, state: &str, not_before| crate::audit::AgentStanding {
        id: id.to_owned(),
        state: state.to_owned(),
        not_before,
        risk: Some(100),
    };
    let code = |outcome: Result<(), Denial>| outcome.err().map_or("begins", |denial| denial.code().as_str());
    for (state, expected) in [
        ("active", "begins"),
        ("paused", "agent_paused"),
        ("suspended", "agent_suspended"),
        ("killed", "agent_killed"),
    ] {
        assert_eq!(
            code(may_begin_by(&answered("analyst-7", state, None), &claims)),
            expected
        );
        if state != "active" {
            assert_eq!(code(may_begin(&listed(json!({"analyst-7": state})), &claims)), expected);
        }
        assert_eq!(
            code(may_begin(&listed(json!({"writer-2": "killed"})), &claims)),
            "begins"
        );
    }
    let issued = claims.iat;
    let dead = |not_before| {
        code(may_begin_by(
            &answered("analyst-7", "active", Some(not_before)),
            &claims,
        ))
    };
    assert_eq!((dead(issued), dead(issued + 1)), ("begins", "token_superseded"));
    // What is said of another agent, or in a word that is not known, lets nothing begin.
    for (id, state) in [("writer-2", "active"), ("analyst-7", "Active"), ("analyst-7", "")] {
        let standing = answered(id, state, None);
        assert_eq!(code(may_begin_by(&standing, &claims)), "records_unavailable");
    }
}

/// As with a token: a pause lets a call go on that has begun.
#[test]
fn a_call_without_a_token_begins_and_goes_on_by_its_agents_state() {
    let agent = AgentId::parse("analyst-7").unwrap();
    let code = |outcome: Result<(), Denial>| outcome.map_err(|denial| denial.code());
    for (agents, begins, goes_on) in [
        (json!({"writer-2": "killed"}), Ok(()), Ok(())),
        (json!({"analyst-7": "paused"}), Err(Code::AgentPaused), Ok(())),
        (
            json!({"analyst-7": "suspended"}),
            Err(Code::AgentSuspended),
            Err(Code::AgentSuspended),
        ),
        (
            json!({"analyst-7": "killed"}),
            Err(Code::AgentKilled),
            Err(Code::AgentKilled),
        ),
    ] {
        World::warehouse().with(|w| w.state["agents"] = agents).ask(|q| {
            assert_eq!(code(may_begin_tokenless(q.state, &agent)), begins);
            assert_eq!(code(outlives_tokenless(q.state, &agent)), goes_on);
        });
    }
}
