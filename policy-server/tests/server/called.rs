//! Whom an agent called, as reviewers and operators are told it.

#![expect(clippy::indexing_slicing, reason = "tests")]

use crate::support::{ANALYST, AUDITOR, Answer, NOW, ORCHESTRATOR, Place, Server, WAREHOUSE, read, records};
use authz::audit::{Chain, Kind, Outcome, Record, RecordedFacts, SourceId};
use authz::request::Side;
use http::StatusCode;
use serde_json::{Value, json};

/// An agent that is called, with an identity of its own.
fn agent(name: &str) -> String {
    format!(
        "apiVersion: ostiary.dev/v1alpha1\nkind: Agent\nmetadata: {{ name: {name}, namespace: agents }}\nspec:\n  \
         serviceAccount: {name}\n  scope: [\"read:data.sales\"]\n  reaches: [warehouse]\n"
    )
}

fn identity(name: &str) -> String {
    format!("spiffe://cluster.local/ns/agents/sa/{name}")
}

/// A call of one agent by another, as a sidecar recorded it.
fn call(caller: &str, callee: &str, txn: &str, verdict: Outcome, recorded_by: &str) -> Record<'static> {
    Record {
        agent_id: Some(caller.to_owned().into()),
        facts: Some(RecordedFacts {
            right: Some("call".into()),
            scope: Some(format!("call:agent.{callee}").into()),
            ..RecordedFacts::default()
        }),
        peer: Some(identity(caller).into()),
        side: Some(Side::Inbound),
        txn: Some(txn.to_owned().into()),
        verdict: Some(verdict),
        workload: Some(recorded_by.to_owned().into()),
        ..Record::new(Kind::Decision, NOW * 1000)
    }
}

async fn post(server: &Server, source: u8, workload: &str, told: &[Record<'static>]) {
    let mut chain = Chain::new(SourceId([source; 16]));
    let first = [Record::source(NOW * 1000, workload, None)];
    let lines = first.iter().chain(told).map(|record| chain.seal(record).line);
    let body = lines.flat_map(|line| [&line[..], b"\n"].concat()).collect();
    let answer = server.send(records(workload, body)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

async fn ask(server: &Server, peer: &str) -> Answer {
    server.send(read("/v1/agents/analyst-7/called", peer)).await
}

#[tokio::test]
async fn whom_an_agent_called_is_told_of_the_user_requests_that_it_works_on() {
    let place = Place::new();
    for name in ["writer-2", "scribe", "clerk", "bystander"] {
        place.write_policy(&format!("agent-{name}.yaml"), &agent(name));
    }
    let server = Server::start(&place).await;
    let issued = json!({"agent_id": "analyst-7", "operation_id": "o", "scope": ["read:data.sales"], "txn": "t-1"});
    assert_eq!(server.token(ORCHESTRATOR, &issued).await.status, StatusCode::OK);
    assert_eq!(ask(&server, AUDITOR).await.json()["called"], json!([]), "nobody yet");

    let own = |callee: &str, txn: &str, verdict| call("analyst-7", callee, txn, verdict, ANALYST);
    let told = [
        own("writer-2", "t-1", Outcome::Permit),
        own("bystander", "t-1", Outcome::Deny),
        own("bystander", "t-2", Outcome::Permit),
    ];
    post(&server, 1, ANALYST, &told).await;
    let clerk = identity("clerk");
    let writer = identity("writer-2");
    let scribe = identity("scribe");
    post(
        &server,
        2,
        &writer,
        &[call("writer-2", "scribe", "t-1", Outcome::Permit, &writer)],
    )
    .await;
    // By the sidecar of the one that is called, and back to where it began.
    post(
        &server,
        3,
        &clerk,
        &[call("scribe", "clerk", "t-1", Outcome::Permit, &clerk)],
    )
    .await;
    post(
        &server,
        4,
        &scribe,
        &[call("scribe", "analyst-7", "t-1", Outcome::Permit, &scribe)],
    )
    .await;
    // By somebody who cannot know.
    post(
        &server,
        5,
        WAREHOUSE,
        &[call("analyst-7", "bystander", "t-1", Outcome::Permit, WAREHOUSE)],
    )
    .await;
    let answer = ask(&server, AUDITOR).await.json();
    let callee = |name: &str, by: &str| json!({"agent_id": name, "by": by, "txn": "t-1"});
    assert_eq!(
        answer,
        json!({
            "agent_id": "analyst-7", "complete": true,
            "called": [callee("writer-2", "analyst-7"), callee("scribe", "writer-2"), callee("clerk", "scribe")],
        })
    );

    assert_eq!(ask(&server, ANALYST).await.code(), "role_missing", "no agent is told");
    server.advance(300 + 3601);
    let later: Value = ask(&server, AUDITOR).await.json();
    assert_eq!(later["called"], json!([]), "what is long over is nobody's work");
    server.stop().await;
}
