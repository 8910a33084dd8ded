//! The kill switch while calls are on their way, through real sidecars.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use hyper::body::Body as _;
use serde_json::Value;
use tests::backends::WAIT_HEADER;
use tests::client::{Answer, Call, Client};
use tests::demo::{Stage as _, token_request};
use tests::mesh::{Mesh, Options};
use tests::wait;
use tokio::task::JoinHandle;

use crate::recorded_first::stored;

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_calls_that_are_on_their_way() {
    let mesh = Mesh::start("cancelled", &Options::only(&["analyst-7", "warehouse"]))
        .await
        .unwrap();
    let token = mesh.token(&token_request()).await.unwrap();
    let warehouse = mesh.service("warehouse").unwrap();
    let direct = mesh.direct("warehouse", "analyst-7").unwrap();
    let own = mesh.agent("analyst-7").unwrap().client();
    let call = |wait: &str| {
        Call::new("GET", &warehouse.authority(), "/v1/tables/sales_q1_2026")
            .header(WAIT_HEADER, wait)
            .bearer(&token)
    };
    // Answered by nobody yet, past its own sidecar and through it; and one whose answer has begun.
    let (unanswered, through_both) = (sent(&direct, call("head")), sent(&own, call("head")));
    let mut connection = direct.connect().await.unwrap();
    let begun = connection.begin(call("body")).await.unwrap();
    assert_eq!(begun.status(), 200);
    let arrived = wait::until("the calls to arrive", LIMIT, async || {
        (warehouse.backend.seen_with(WAIT_HEADER, "head").len() == 2).then_some(())
    });
    arrived.await.unwrap();
    assert!(!unanswered.is_finished() && !through_both.is_finished());

    let asked = Instant::now();
    kill(&mesh);
    for (name, call) in [("direct", unanswered), ("through both", through_both)] {
        let answer = tokio::time::timeout(LIMIT, call).await.unwrap().unwrap();
        assert_eq!((answer.status, answer.denial()), (403, Some("agent_killed")), "{name}");
    }
    let body = axum::body::to_bytes(axum::body::Body::new(begun.into_body()), 1 << 20);
    assert!(
        tokio::time::timeout(LIMIT, body).await.unwrap().is_err(),
        "it is broken off"
    );
    println!(
        "calls on their way had ended {:?} after the command began",
        asked.elapsed()
    );

    for client in [&direct, &own] {
        let answer = client.send(call("no")).await.unwrap();
        assert_eq!((answer.status, answer.denial()), (403, Some("agent_killed")));
    }
    let ends = wait::until("the records of the ends", LIMIT, async || {
        let ends = inbound_ends(&mesh).await;
        (ends.len() >= 3).then_some(ends)
    });
    let mut ends = ends.await.unwrap();
    ends.sort();
    // Through both sidecars the caller's own may be the first to end it: then the service's sees its caller leave.
    let through_both = ends.remove(0);
    assert!(
        ["broken", "cancelled"].contains(&through_both.as_str()),
        "{through_both}"
    );
    assert_eq!(ends, ["cancelled", "reset"]);
}

fn sent(client: &Client, call: Call) -> JoinHandle<Answer> {
    let client = client.clone().within(Duration::from_secs(50));
    tokio::spawn(async move { client.send(call).await.unwrap() })
}

/// By the command that an operator types, as the server's own user.
fn kill(mesh: &Mesh) {
    let said = mesh
        .ostiary(&["agent", "kill", "analyst-7", "--reason", "a test"])
        .unwrap();
    assert!(said.starts_with("killed: analyst-7 is killed; "), "{said}");
}

/// How calls of the agent ended at the warehouse, as its records say.
async fn inbound_ends(mesh: &Mesh) -> Vec<String> {
    let records = stored(mesh).await.into_iter();
    let completions = records.filter(|record| {
        record["kind"] == "completion" && record["side"] == "inbound" && record["agent_id"] == "analyst-7"
    });
    completions
        .map(|record| record["end"].as_str().unwrap().to_owned())
        .collect()
}

/// The last that the caller of a stream of events reads is why it ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_ends_a_stream_of_events_with_one_of_ours() {
    let mesh = Mesh::start("events", &Options::only(&["analyst-7", "warehouse"]))
        .await
        .unwrap();
    let token = mesh.token(&token_request()).await.unwrap();
    let warehouse = mesh.service("warehouse").unwrap();
    let mut connection = mesh.direct("warehouse", "analyst-7").unwrap().connect().await.unwrap();
    let call = Call::new("GET", &warehouse.authority(), "/v1/tables/sales_q1_2026")
        .header(WAIT_HEADER, "events")
        .bearer(&token);
    let mut body = connection.begin(call).await.unwrap().into_body();
    let mut read = Vec::new();
    let whole = tokio::time::timeout(LIMIT, async {
        let mut killed = false;
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let Ok(frame) = frame else { return false };
            read.extend_from_slice(frame.data_ref().unwrap());
            if !killed {
                kill(&mesh);
                killed = true;
            }
        }
        true
    });
    assert!(!whole.await.unwrap(), "it is broken off");
    let read = String::from_utf8(read).unwrap();
    let mut events: Vec<&str> = read.split_terminator("\n\n").collect();
    let last = events.pop().unwrap();
    let problem: Value = serde_json::from_str(last.strip_prefix("event: error\ndata: ").unwrap()).unwrap();
    assert_eq!(problem["code"], "agent_killed");
    assert!(!events.is_empty() && events.iter().all(|event| *event == "data: tick"));
    let ends = wait::until("the record of the end", LIMIT, async || {
        let ends = inbound_ends(&mesh).await;
        (!ends.is_empty()).then_some(ends)
    });
    assert_eq!(ends.await.unwrap(), ["reset"]);
}

/// Two operations of one agent, of which one is renewed while its calls are on their way.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_with_its_token_unless_its_agent_holds_another_for_it() {
    let mesh = Mesh::start("expired", &Options::only(&["analyst-7", "warehouse"]))
        .await
        .unwrap();
    let warehouse = mesh.service("warehouse").unwrap();
    let direct = mesh.direct("warehouse", "analyst-7").unwrap();
    let token = async |operation: &str, ttl: u64| {
        let mut request = token_request();
        request["operation_id"] = operation.into();
        request["ttl_seconds"] = ttl.into();
        mesh.token(&request).await.unwrap()
    };
    let call = |token: &str, wait: &str| {
        Call::new("GET", &warehouse.authority(), "/v1/tables/sales_q1_2026")
            .header(WAIT_HEADER, wait)
            .bearer(token)
    };
    let (renewed, ended) = (token("renewed", 8).await, token("ended", 8).await);
    let goes_on = sent(&direct, call(&renewed, "head"));
    let unanswered = sent(&direct, call(&ended, "head"));
    let mut connection = direct.connect().await.unwrap();
    let begun = connection.begin(call(&ended, "body")).await.unwrap();
    assert_eq!(begun.status(), 200);
    token("renewed", 300).await;

    let answer = tokio::time::timeout(4 * LIMIT, unanswered).await.unwrap().unwrap();
    assert_eq!((answer.status, answer.denial()), (401, Some("token_expired")));
    let body = axum::body::to_bytes(axum::body::Body::new(begun.into_body()), 1 << 20);
    assert!(
        tokio::time::timeout(LIMIT, body).await.unwrap().is_err(),
        "it is broken off"
    );
    // By the time that another has lived and ended, the first token of the renewed operation is long dead.
    let last = sent(&direct, call(&token("last", 3).await, "head"));
    let answer = tokio::time::timeout(4 * LIMIT, last).await.unwrap().unwrap();
    assert_eq!(answer.denial(), Some("token_expired"));
    assert!(!goes_on.is_finished());
    let ends = wait::until("the records of the ends", LIMIT, async || {
        let ends = inbound_ends(&mesh).await;
        (ends.len() >= 3).then_some(ends)
    });
    let mut ends = ends.await.unwrap();
    ends.sort();
    assert_eq!(ends, ["cancelled", "cancelled", "reset"]);

    // What it goes on by is the other token, and dies with it.
    mesh.ostiary(&["revoke", "--operation", "renewed", "--reason", "a test"])
        .unwrap();
    let answer = tokio::time::timeout(LIMIT, goes_on).await.unwrap().unwrap();
    assert_eq!(answer.denial(), Some("token_revoked"));
}
