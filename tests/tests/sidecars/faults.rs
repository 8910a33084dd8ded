//! States of agents while something fails: the server stops in the middle, sidecars are cut off, two people act at once.

use std::time::Duration;

use serde_json::{Value, json};
use tests::client::{Answer, Call, Client};
use tests::demo::{Stage as _, token_request};
use tests::mesh::{Mesh, Options};
use tests::wait;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);

/// Calls that must all be met alike: each connection lands on a random worker.
const PROBES: usize = 12;

fn read(mesh: &Mesh, token: &str) -> (Client, Call) {
    let authority = mesh.service("warehouse").unwrap().authority();
    let call = Call::new("GET", &authority, "/v1/tables/sales_q1_2026").bearer(token);
    (mesh.direct("warehouse", "analyst-7").unwrap(), call)
}

/// Waits until every worker meets the call with this denial, or none.
async fn met_with((client, call): &(Client, Call), denial: Option<&str>) {
    let mut found = 0;
    let what = format!("{denial:?} of every worker");
    wait::until(&what, LIMIT, async || {
        let met = client.send(call.clone()).await;
        let met = met.is_ok_and(|answer| answer.denial() == denial);
        found = if met { found + 1 } else { 0 };
        (found >= PROBES).then_some(())
    })
    .await
    .unwrap();
}

fn change(mesh: &Mesh, change: &str) {
    let said = mesh
        .ostiary(&["agent", change, "analyst-7", "--reason", "a test"])
        .unwrap();
    assert!(said.contains("sidecars are told"), "{said}");
}

fn shown(mesh: &Mesh) -> Value {
    let shown = mesh
        .ostiary(&["--output", "json", "agent", "show", "analyst-7"])
        .unwrap();
    serde_json::from_str(&shown).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlives_the_policy_server() {
    let mut mesh = Mesh::start("paused", &Options::only(&["analyst-7", "warehouse"]))
        .await
        .unwrap();
    let token = mesh.token(&token_request()).await.unwrap();
    let call = read(&mesh, &token);
    met_with(&call, None).await;
    change(&mesh, "pause");
    met_with(&call, Some("agent_paused")).await;
    mesh.policy_server.kill_server();
    met_with(&call, Some("agent_paused")).await;
    mesh.policy_server.start_server().await.unwrap();
    assert_eq!(shown(&mesh)["state"], "paused");
    met_with(&call, Some("agent_paused")).await;
    change(&mesh, "approve");
    met_with(&call, None).await;
}

/// The kill is in force there once the list that lacks it is too old, and nothing passes from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_cut_off_during_a_kill_denies_by_age() {
    let options = Options {
        policy_server: json!({"state": {"maxAgeSeconds": 15, "renewSeconds": 2}}),
        ..Options::only(&["analyst-7", "warehouse"])
    };
    let mut mesh = Mesh::start("cut-off", &options).await.unwrap();
    let token = mesh.token(&token_request()).await.unwrap();
    let call = read(&mesh, &token);
    met_with(&call, None).await;
    mesh.policy_server.cut_off();
    change(&mesh, "kill");
    met_with(&call, Some("policy_unavailable")).await;
    for _ in 0..PROBES {
        let answer = call.0.send(call.1.clone()).await.unwrap();
        assert_eq!((answer.status, answer.denial()), (503, Some("policy_unavailable")));
    }
}

/// Whoever comes second meets the state that the first one left, and what both did can be told apart.
#[tokio::test(flavor = "multi_thread")]
async fn two_who_change_an_agent_at_once_are_served_one_after_the_other() {
    let mesh = Mesh::start("race", &Options::only(&["analyst-7", "warehouse"]))
        .await
        .unwrap();
    for _ in 0..4 {
        std::thread::scope(|threads| {
            for change in ["pause", "kill", "suspend"] {
                let mesh = &mesh;
                // The one that comes too late is refused: nobody pauses or suspends who is killed.
                threads.spawn(move || mesh.ostiary(&["agent", change, "analyst-7", "--reason", "a race"]));
            }
        });
        assert_eq!(shown(&mesh)["state"], "killed");
        change(&mesh, "resume");
    }
    let shown = shown(&mesh);
    let changes = shown["changes"].as_array().unwrap();
    assert!(changes.len() >= 8, "{changes:?}");
    for pair in changes.windows(2) {
        assert_eq!(
            pair[0]["from"], pair[1]["to"],
            "newest first, each from where the last one led"
        );
    }
    assert_eq!(changes.last().unwrap()["from"], "active");
}

/// Begins calls of a paused agent until one is neither answered nor with the application, as the application's log would tell
/// by the mark that is given too: that one is held.
async fn held(mesh: &Mesh, token: &str) -> (JoinHandle<Answer>, String) {
    let (_, call) = read(mesh, token);
    let client = mesh.agent("analyst-7").unwrap().client().within(LIMIT);
    let mut number = 0;
    loop {
        number += 1;
        let mark = format!("{number}");
        let (client, call) = (client.clone(), call.clone().header("x-mark", &mark));
        let mut begun = tokio::spawn(async move { client.send(call).await.unwrap() });
        // What is answered was before the pause, or before the service's file, had reached both sidecars.
        if tokio::time::timeout(Duration::from_secs(2), &mut begun).await.is_err() {
            return (begun, mark);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_call_goes_on_once_a_person_approves_and_never_for_who_is_killed() {
    let mesh = Mesh::start("held", &Options::only(&["analyst-7", "warehouse"]))
        .await
        .unwrap();
    let token = mesh.token(&token_request()).await.unwrap();
    let file = mesh.policy.join("service-warehouse.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{}\n  onPause: hold\n", text.trim_end())).unwrap();
    let seen = |mark: &str| {
        let backend = &mesh.service("warehouse").unwrap().backend;
        backend.seen_with("x-mark", mark).len()
    };

    change(&mesh, "pause");
    let (call, mark) = held(&mesh, &token).await;
    assert_eq!(seen(&mark), 0);
    change(&mesh, "approve");
    assert_eq!(call.await.unwrap().status, 200);
    assert_eq!(seen(&mark), 1);

    change(&mesh, "pause");
    let (call, mark) = held(&mesh, &token).await;
    let before = seen(&mark);
    change(&mesh, "kill");
    let answer = call.await.unwrap();
    assert_eq!((answer.status, answer.denial()), (403, Some("agent_killed")));
    assert_eq!(seen(&mark), before);
}
