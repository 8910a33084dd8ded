//! Traps about callouts to the policy server.

use std::time::Duration;

use serde_json::{Value, json};
use tests::feed::Behaviour;
use tests::sidecar::Plugin;
use tests::wait;

use super::{SOON, Stand, WORKERS, as_it_is, reloads};

/// Trap 8: every thread ticks, so every VM polls.
#[tokio::test]
async fn every_vm_polls_once_at_a_time_and_says_what_it_has() {
    let stand = Stand::start(as_it_is, |_| {}).await;
    let polls = stand.feed.polls();
    let holding = polls
        .iter()
        .filter(|poll| poll.bundle.as_deref() == Some("1.1"))
        .count();
    assert_eq!(holding, WORKERS as usize + 1, "one held poll a VM");
    assert!(
        stand
            .feed
            .callouts()
            .iter()
            .all(|headers| headers.get("ostiary-callout").is_some())
    );
    stand.unharmed().await;
}

/// Trap 8: callouts to a cluster that is absent or empty fail at once, without a callback.
#[tokio::test]
async fn without_a_policy_cluster_or_endpoint_all_is_denied_and_nothing_dies() {
    let absent = |plugin: Plugin| plugin.configure("policy_cluster", json!("no-such-cluster"));
    let stand = Stand::start_without_policy(absent, |_| {}, |config| config).await;
    deny_for_want_of_policy(&stand).await;
    let empty = |mut config: Value| {
        for cluster in config["static_resources"]["clusters"].as_array_mut().unwrap() {
            if cluster["name"] == tests::sidecar::POLICY_CLUSTER {
                cluster["load_assignment"]["endpoints"] = json!([]);
            }
        }
        config
    };
    let stand = Stand::start_without_policy(as_it_is, |_| {}, empty).await;
    deny_for_want_of_policy(&stand).await;
}

async fn deny_for_want_of_policy(stand: &Stand) {
    // Denials are counted at ticks: seeing them counted is seeing that ticks still work.
    wait::until("counted denials", SOON, async || {
        let answer = stand.send(stand.tool("pandas", 0)).await;
        assert_eq!((answer.status, answer.denial()), (503, Some("policy_unavailable")));
        let name = "wasmcustom.ostiary_decisions.side.inbound.verdict.deny.code.policy_unavailable";
        (stand.envoy.stat(name).await.unwrap() >= 10).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(stand.application.seen().len(), 0);
    assert_eq!(reloads(&stand.envoy).await, 0);
}

/// Trap 8: a callout that times out calls back without headers; its late answer belongs to nobody.
#[tokio::test]
async fn slow_and_broken_answers_are_survived() {
    let short = |plugin: Plugin| plugin.configure("poll_timeout_seconds", json!(1));
    let stand = Stand::start_without_policy(short, |_| {}, |config| config).await;
    stand.give_policy();
    for behaviour in [
        Behaviour::Slow(Duration::from_secs(3)),
        Behaviour::Rubbish(200, b"{\"bundle\": \"e30.e30.e30\"}".to_vec()),
        Behaviour::Rubbish(200, b"\xff\xfe{".to_vec()),
        Behaviour::Rubbish(500, Vec::new()),
    ] {
        let seen = stand.feed.polls().len();
        stand.feed.behave(behaviour);
        wait::until("polls", SOON, async || {
            (stand.feed.polls().len() > seen + 6).then_some(())
        })
        .await
        .unwrap();
    }
    stand.feed.behave(Behaviour::Proper);
    // Polls are so short here that three of them with the policy may all be one VM's.
    let mut in_a_row = 0;
    wait::until("every worker to let calls pass", SOON, async || {
        let answer = stand.send(stand.tool("pandas", 0)).await;
        in_a_row = if answer.status == 200 { in_a_row + 1 } else { 0 };
        (in_a_row >= 12).then_some(())
    })
    .await
    .unwrap();
    stand.unharmed().await;
}
