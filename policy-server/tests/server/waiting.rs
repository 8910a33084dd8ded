//! What calls are told that wait for their records: how their agents stand, once the record is durable and scored.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::support::sidecar::{Sidecar, lines};
use crate::support::{ANALYST, ANALYST_FILE, Answer, MCP, NOW, Place, Server, WAREHOUSE, records};
use authz::audit::{Kind, Outcome, Record, RecordedFacts, Sealed, SourceId, Stored};
use authz::denial::Code;
use authz::request::Side;
use authz::state::transition::Change;
use http::StatusCode;
use serde_json::json;

/// Posts records, some of which calls wait for.
async fn post(
    sidecar: &mut Sidecar,
    server: &Server,
    batch: &[Record<'_>],
    waiting: Option<&str>,
) -> (Answer, Vec<Sealed>) {
    let sealed = sidecar.seal(batch);
    (send(server, sidecar.workload, &sealed, waiting).await, sealed)
}

async fn send(server: &Server, workload: &str, sealed: &[Sealed], waiting: Option<&str>) -> Answer {
    let mut request = records(workload, lines(sealed));
    if let Some(waiting) = waiting {
        request
            .headers_mut()
            .insert("ostiary-waiting", waiting.parse().unwrap());
    }
    server.send(request).await
}

fn stored(answer: &Answer) -> Stored {
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    serde_json::from_value(answer.json()).unwrap()
}

fn call<'a>(agent: Option<&'a str>, tool: &'a str, code: Option<Code>) -> Record<'a> {
    Record {
        agent_id: agent.map(Into::into),
        verdict: Some(if code.is_some() { Outcome::Deny } else { Outcome::Permit }),
        code,
        side: Some(Side::Inbound),
        service: Some("tools/mcp".into()),
        facts: Some(RecordedFacts {
            right: Some("tool".into()),
            tool: Some(tool.into()),
            ..RecordedFacts::default()
        }),
        ..Record::new(Kind::Decision, NOW * 1000)
    }
}

fn permitted(agent: &str) -> Record<'_> {
    call(Some(agent), "pandas", None)
}

#[tokio::test]
async fn those_that_wait_are_told_and_no_others() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut mcp = Sidecar::start(&server, 1, MCP).await;
    let batch = [
        permitted("analyst-7"),
        permitted("analyst-7"),
        call(None, "pandas", None),
    ];
    let (answer, sealed) = post(&mut mcp, &server, &batch, Some("2,3")).await;
    let told = stored(&answer);
    assert_eq!((told.accepted_through, told.calls.len()), (3, 2));
    let first = &told.calls[0];
    assert!(first.is_of(2, &sealed[1].hash));
    let agent = first.agent.as_ref().unwrap();
    assert_eq!(
        (agent.id.as_str(), agent.state.as_str(), agent.not_before),
        ("analyst-7", "active", None)
    );
    assert!(agent.risk.is_some());
    assert_eq!(told.calls[1].agent, None, "it needs no capability");
    // The answer was lost: the same again.
    let again = send(&server, MCP, &sealed, Some("2,3")).await;
    assert_eq!(stored(&again), told);
    // A filter of the version before.
    let (answer, _) = post(&mut mcp, &server, &[permitted("analyst-7")], None).await;
    let source = SourceId([1; 16]).to_string();
    assert_eq!(
        answer.json(),
        json!({"source": source, "accepted_through": 4, "heartbeat_seconds": 300})
    );
    server.stop().await;
}

#[tokio::test]
async fn a_change_of_state_is_in_the_next_answer() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut mcp = Sidecar::start(&server, 1, MCP).await;
    let agent = "analyst-7".parse().unwrap();
    for (seq, change, state) in [("1", Change::Pause, "paused"), ("2", Change::Kill, "killed")] {
        server.change(&agent, change).await;
        let (answer, _) = post(&mut mcp, &server, &[permitted("analyst-7")], Some(seq)).await;
        let standing = stored(&answer).calls.remove(0).agent.unwrap();
        assert_eq!(standing.state, state);
        assert_eq!(standing.not_before.is_some(), state == "killed", "its tokens are dead");
    }
    server.stop().await;
}

/// The call that brings its agent to the score that stops it is told so itself.
#[tokio::test]
async fn the_score_counts_the_call_that_waits() {
    let place = Place::new();
    place.configure("risk: { act: true }\n");
    let server = Server::start(&place).await;
    let mut mcp = Sidecar::start(&server, 1, MCP).await;
    let mut last = 0;
    for seq in 1..40_u64 {
        let denied = call(Some("analyst-7"), "bash", Some(Code::ToolForbidden));
        let (answer, _) = post(&mut mcp, &server, &[denied], Some(&seq.to_string())).await;
        let standing = stored(&answer).calls.remove(0).agent.unwrap();
        let risk = standing.risk.unwrap();
        assert_eq!(
            standing.state != "active",
            risk >= 70,
            "{seq}: {risk} {}",
            standing.state
        );
        if risk >= 70 {
            assert!(last < 70);
            server.stop().await;
            return;
        }
        last = risk;
    }
    assert_eq!(last, 70, "it was never stopped");
}

#[tokio::test]
async fn nobody_is_told_of_agents_that_do_not_concern_them() {
    let place = Place::new();
    let writer = ANALYST_FILE.replace("analyst-7", "writer-2");
    let writer = writer
        .replace("[warehouse, mcp]", "[mcp]")
        .replace("[\"read:data.sales\"]", "[]");
    place.write_policy("writer-2.yaml", &writer);
    let server = Server::start(&place).await;
    assert!(server.app.feed.policy().is_some());
    for (id, workload, agent, told) in [
        (1, MCP, "writer-2", true),
        (2, WAREHOUSE, "writer-2", false),
        (3, WAREHOUSE, "analyst-7", true),
        (4, ANALYST, "writer-2", false),
        (5, WAREHOUSE, "unheard-of", false),
        (6, WAREHOUSE, "no name", false),
    ] {
        let mut sidecar = Sidecar::start(&server, id, workload).await;
        let (answer, _) = post(&mut sidecar, &server, &[permitted(agent)], Some("1")).await;
        assert_eq!(!stored(&answer).calls.is_empty(), told, "{workload} {agent}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_waits_is_read_strictly() {
    let place = Place::new();
    let server = Server::start(&place).await;
    let mut mcp = Sidecar::start(&server, 1, MCP).await;
    for bad in ["", "x", "1,", "1, 2", "-1"] {
        let chain = mcp.chain.clone();
        let (answer, _) = post(&mut mcp, &server, &[permitted("analyst-7")], Some(bad)).await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (400, "request_malformed"),
            "{bad}"
        );
        mcp.chain = chain;
    }
    // Of a record that is not in the batch there is nothing to say.
    let (answer, _) = post(&mut mcp, &server, &[permitted("analyst-7")], Some("7")).await;
    assert_eq!(stored(&answer).calls, []);
    server.stop().await;
}

/// Without a policy nobody is scored, and calls of filters that have one go on.
#[tokio::test]
async fn without_a_policy_there_is_a_state_and_no_score() {
    let place = Place::new();
    place.write_policy("mcp.yaml", "spec: nonsense");
    let server = Server::start(&place).await;
    assert!(server.app.feed.policy().is_none());
    let mut mcp = Sidecar::start(&server, 1, MCP).await;
    let (answer, _) = post(&mut mcp, &server, &[permitted("analyst-7")], Some("1")).await;
    let standing = stored(&answer).calls.remove(0).agent.unwrap();
    assert_eq!((standing.state.as_str(), standing.risk), ("active", None));
    server.stop().await;
}
