//! The risk engine on stored records: who is paused by whose records, and what survives a crash.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use crate::support::sidecar::Sidecar;
use crate::support::{
    ANALYST, ANALYST_FILE, AUDITOR, MCP, NOW, OPERATOR, Place, REVIEWER, Server, WAREHOUSE, post, xfcc,
};
use authz::audit::{Kind, Outcome, Record, RecordedFacts};
use authz::denial::Code;
use authz::request::Side;
use authz::risk::Settings;
use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::{Value, json};

const WRITER: &str = "spiffe://cluster.local/ns/agents/sa/writer-2";

fn place() -> Place {
    let place = Place::new();
    place.write_policy("writer-2.yaml", &ANALYST_FILE.replace("analyst-7", "writer-2"));
    place.configure("risk: { act: true }\n");
    place
}

/// A call that the agent was denied, as the sidecar of `side` tells of it.
fn denied<'a>(agent: &'a str, side: Side, tool: &'a str, code: Code) -> Record<'a> {
    Record {
        agent_id: Some(agent.into()),
        verdict: Some(Outcome::Deny),
        code: Some(code),
        side: Some(side),
        service: Some("tools/mcp".into()),
        facts: Some(RecordedFacts {
            right: Some("tool".into()),
            tool: Some(tool.into()),
            ..RecordedFacts::default()
        }),
        ..Record::new(Kind::Decision, NOW * 1000)
    }
}

async fn shown(server: &Server, agent: &str) -> Value {
    let request = Request::get(format!("/v1/agents/{agent}")).header("x-forwarded-client-cert", xfcc(AUDITOR));
    server.send(request.body(Body::empty()).unwrap()).await.json()
}

async fn wait_for(server: &Server, agent: &str, is: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..600 {
        let shown = shown(server, agent).await;
        if is(&shown) {
            return shown;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shown(server, agent).await
}

fn hijack(agent: &str, side: Side) -> Vec<Record<'_>> {
    (0..8)
        .map(|_| denied(agent, side, "bash", Code::ToolForbidden))
        .collect()
}

#[tokio::test]
async fn a_hijacked_agent_is_stopped_with_reasons_and_a_person_lets_it_go_on() {
    let place = place();
    let server = Server::start(&place).await;
    let mut mcp = Sidecar::start(&server, 1, MCP).await;
    mcp.post(&server, &hijack("analyst-7", Side::Inbound)).await;
    let stopped = wait_for(&server, "analyst-7", |agent| {
        agent["state"] != "active" && agent["score"].as_u64() >= Some(70)
    })
    .await;
    assert_ne!(stopped["state"], "active", "{stopped}");
    let change = &stopped["last_change"];
    assert_eq!(
        (&change["by"], &change["role"]),
        (&json!("risk-engine"), &json!("risk-engine"))
    );
    let reason = change["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("score ") && reason.contains("denials in 60 s"),
        "{reason}"
    );
    assert!(stopped["score"].as_u64().unwrap() >= 70);
    assert_eq!(shown(&server, "writer-2").await["score"], 0);

    let (who, how) = if stopped["state"] == "paused" {
        (REVIEWER, "approve")
    } else {
        (OPERATOR, "resume")
    };
    let body = json!({"reason": "looked"}).to_string();
    let path = format!("/v1/agents/analyst-7/{how}");
    let answer = server.send(post(&path, who, "application/json", body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let forgiven = wait_for(&server, "analyst-7", |agent| agent["score"] == 0).await;
    assert_eq!((&forgiven["state"], &forgiven["score"]), (&json!("active"), &json!(0)));

    // No crash has what was forgiven count again: it is stored long before it would be while records come.
    let stored = async || {
        let profiles = server.app.store().scored().await.unwrap().profiles;
        let (_, profile) = profiles.into_iter().find(|(agent, _)| agent.as_str() == "analyst-7")?;
        Some(profile.score(NOW * 1000, &Settings::default()))
    };
    for _ in 0..200 {
        if stored().await == Some(0) {
            break;
        }
        mcp.post(&server, &hijack("writer-2", Side::Inbound)[..1]).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(stored().await, Some(0));
    server.stop().await;
}

/// Denials that its own state made, calls that the other side counts, and what a sidecar cannot know.
#[tokio::test]
async fn what_proves_nothing_moves_no_score() {
    let place = place();
    let server = Server::start(&place).await;
    let mut mcp = Sidecar::start(&server, 1, MCP).await;
    let paused: Vec<_> = (0..50)
        .map(|_| denied("analyst-7", Side::Inbound, "bash", Code::AgentPaused))
        .collect();
    mcp.post(&server, &paused).await;
    // An agent's sidecar tells of another agent, and a workload that is no service of any.
    let mut writer = Sidecar::start(&server, 2, WRITER).await;
    writer.post(&server, &hijack("analyst-7", Side::Outbound)).await;
    writer.post(&server, &hijack("analyst-7", Side::Inbound)).await;
    server.scored().await;
    let agent = shown(&server, "analyst-7").await;
    assert_eq!(
        (&agent["state"], &agent["score"]),
        (&json!("active"), &json!(0)),
        "{agent}"
    );
    // The same of itself counts: what its own sidecar denied never arrives anywhere.
    writer.post(&server, &hijack("writer-2", Side::Outbound)).await;
    let stopped = wait_for(&server, "writer-2", |agent| agent["state"] != "active").await;
    assert_ne!(stopped["state"], "active", "{stopped}");
    server.stop().await;
}

/// Stolen tokens: the thief's score rises, and that of the agent that they name does not move.
#[tokio::test]
async fn a_flood_with_stolen_tokens_counts_for_the_thief() {
    let place = place();
    let server = Server::start(&place).await;
    let mut warehouse = Sidecar::start(&server, 1, WAREHOUSE).await;
    let stolen = Record {
        peer: Some(WRITER.into()),
        code: Some(Code::PeerMismatch),
        count: Some(400),
        side: Some(Side::Inbound),
        service: Some("data/warehouse".into()),
        ..Record::new(Kind::Aggregate, NOW * 1000)
    };
    warehouse.post(&server, &[stolen]).await;
    let thief = wait_for(&server, "writer-2", |agent| agent["state"] != "active").await;
    assert_ne!(thief["state"], "active", "{thief}");
    let named = shown(&server, "analyst-7").await;
    assert_eq!((&named["identity"], &named["score"]), (&json!(ANALYST), &json!(0)));
    server.stop().await;
}

#[tokio::test]
async fn scores_survive_a_restart_and_without_leave_to_act_nothing_happens() {
    let place = place();
    place.configure("");
    let server = Server::start(&place).await;
    let mut mcp = Sidecar::start(&server, 1, MCP).await;
    mcp.post(&server, &hijack("analyst-7", Side::Inbound)).await;
    let high = wait_for(&server, "analyst-7", |agent| agent["score"].as_u64() >= Some(70)).await;
    assert!(high["score"].as_u64().unwrap() >= 70, "{high}");
    assert_eq!(high["state"], "active");
    server.scored().await;
    let before = server.app.store().scored().await.unwrap();
    server.stop().await;
    let server = Server::start(&place).await;
    let after = wait_for(&server, "analyst-7", |agent| agent["score"] != 0).await;
    assert_eq!(
        (&after["score"], &after["score_reasons"]),
        (&high["score"], &high["score_reasons"])
    );
    assert_eq!(
        server.app.store().scored().await.unwrap(),
        before,
        "no record counts twice"
    );
    server.stop().await;
}

/// Calls and what came of them, as a service's sidecar tells: what it refuses counts, what ails it does not, and no end is a
/// call.
#[tokio::test]
async fn what_comes_of_calls_is_scored() {
    let place = place();
    let server = Server::start(&place).await;
    let mut mcp = Sidecar::start(&server, 1, MCP).await;
    let calls = |agent: &'static str, status| -> Vec<Record<'static>> {
        let both = (0..20).flat_map(|number| {
            let made = Record {
                verdict: Some(Outcome::Permit),
                code: None,
                call: Some(format!("{agent} {number}").into()),
                ..denied(agent, Side::Inbound, "pandas", Code::ToolForbidden)
            };
            let ended = Record {
                kind: Kind::Completion,
                verdict: None,
                facts: None,
                status: Some(status),
                end: Some("complete".into()),
                response_bytes: Some(1000),
                ..made.clone()
            };
            [made, ended]
        });
        both.collect()
    };
    mcp.post(&server, &calls("analyst-7", 404)).await;
    mcp.post(&server, &calls("writer-2", 503)).await;
    server.scored().await;
    let (refused, unlucky) = (shown(&server, "analyst-7").await, shown(&server, "writer-2").await);
    let reasons = refused["score_reasons"].to_string();
    assert!(reasons.contains("calls failed in 60 s"), "{refused}");
    assert_eq!(refused["state"], "active", "{refused}");
    assert!(!unlucky["score_reasons"].to_string().contains("failed"), "{unlucky}");
    assert!(
        refused["score"].as_u64() > unlucky["score"].as_u64(),
        "{refused} {unlucky}"
    );
    server.stop().await;
}

/// What pauses one agent need not pause another.
#[tokio::test]
async fn thresholds_are_an_agents_own() {
    let place = place();
    place.configure("risk: { act: true, agents: { analyst-7: { pauseAt: 100, suspendAt: 100 } } }\n");
    let server = Server::start(&place).await;
    let mut mcp = Sidecar::start(&server, 1, MCP).await;
    let calls = |agent| -> Vec<_> { hijack(agent, Side::Inbound).into_iter().take(5).collect() };
    mcp.post(&server, &calls("analyst-7")).await;
    let mut writer = Sidecar::start(&server, 2, WRITER).await;
    writer.post(&server, &hijack("writer-2", Side::Outbound)[..5]).await;
    let stopped = wait_for(&server, "writer-2", |agent| agent["state"] != "active").await;
    assert_ne!(stopped["state"], "active", "{stopped}");
    server.scored().await;
    let patient = shown(&server, "analyst-7").await;
    assert_eq!(patient["state"], "active", "{patient}");
    assert!(patient["score"].as_u64() >= Some(70), "{patient}");
    server.stop().await;
    place.configure("risk: { agents: { analyst-7: { pauseAt: 20 } } }\n");
    let refused = policy_server::config::Config::load(&place.config())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("risk.agents.analyst-7.pauseAt"), "{refused}");
}
