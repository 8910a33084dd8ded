//! A policy of many agents comes in pages: little is sent for a change of one, and nothing that was not signed is used.

use serde_json::{Value, json};
use tests::feed::{Behaviour, Feed, state_claims};
use tests::stand::{self, Stand};

/// Agents beside the stand's own two.
const OTHERS: usize = 400;

/// The stand's two workers and the main thread.
const VMS: usize = 3;

/// Claims of a bundle of many agents, in which `analyst-7` holds `scope`.
fn claims(stand: &Stand, version: u64, scope: &str) -> Value {
    let mut agents = stand.bundle(version, &json!({})).get("agents").cloned().unwrap();
    let agents = agents.as_array_mut().unwrap();
    for agent in agents
        .iter_mut()
        .filter(|agent| agent.get("id") == Some(&json!("analyst-7")))
    {
        agent.as_object_mut().unwrap().insert("scope".into(), json!([scope]));
    }
    agents.extend((0..OTHERS).map(|other| {
        json!({
            "id": format!("other-{other}"), "identity": format!("spiffe://cluster.local/ns/agents/sa/other-{other}"),
            "tools": ["pandas"], "scope": [format!("read:data.table_{other}")], "reaches": ["data/warehouse"],
        })
    }));
    stand.bundle(version, &json!({"agents": agents}))
}

async fn settled(stand: &Stand) -> Feed {
    let feed = stand.feed().await.unwrap();
    feed.renews(false);
    feed.set_paged_bundle(&claims(stand, 1, "read:data.sales")).unwrap();
    feed.set_state(&state_claims(1, &json!({})));
    allowed(stand).await;
    feed.adopted("1.1", VMS).await.unwrap();
    feed
}

async fn allowed(stand: &Stand) {
    stand
        .eventually_allowed(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
}

async fn denied(stand: &Stand, status: u16, code: &str) {
    let denied = stand.eventually_denied(&stand.inbound, || stand.good_call(), status, code);
    denied.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_agent_sends_little_and_decides_anew() {
    let stand = Stand::start("pages", stand::http_service(), |_| {}).await.unwrap();
    let feed = settled(&stand).await;
    let whole = feed.bytes_sent() / VMS;

    feed.set_paged_bundle(&claims(&stand, 2, "read:data.costs")).unwrap();
    denied(&stand, 403, "scope_not_in_policy").await;
    feed.adopted("1.2", VMS).await.unwrap();
    let changed = feed.bytes_sent() / VMS - whole;
    assert!(changed * 5 < whole, "{changed} bytes for one agent, {whole} for all");
    stand
        .eventually_allowed(&stand.outbound, || stand.own_call())
        .await
        .unwrap();

    feed.set_paged_bundle(&claims(&stand, 3, "read:data.sales")).unwrap();
    allowed(&stand).await;

    // An agent that was there is gone; the rest of its page is not.
    let mut without = claims(&stand, 4, "read:data.sales");
    without["agents"]
        .as_array_mut()
        .unwrap()
        .retain(|agent| agent["id"] != "analyst-7");
    feed.set_paged_bundle(&without).unwrap();
    denied(&stand, 403, "agent_unknown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_pages_change_nothing_and_keep_no_kill_from_arriving() {
    let stand = Stand::start("pages-altered", stand::http_service(), |_| {})
        .await
        .unwrap();
    let feed = settled(&stand).await;
    feed.behave(Behaviour::AlteredPages);
    feed.set_paged_bundle(&claims(&stand, 2, "read:data.costs")).unwrap();
    stand
        .logged_on_every_thread("the pages are not those that were asked for")
        .await
        .unwrap();
    stand
        .every_worker_allows(&stand.inbound, || stand.good_call())
        .await
        .unwrap();

    feed.set_state(&state_claims(2, &json!({"agents": {"analyst-7": "killed"}})));
    denied(&stand, 403, "agent_killed").await;
    feed.set_state(&state_claims(3, &json!({})));
    allowed(&stand).await;

    feed.behave(Behaviour::Proper);
    denied(&stand, 403, "scope_not_in_policy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_pages_a_policy_is_none() {
    let stand = Stand::start("pages-missing", stand::http_service(), |_| {})
        .await
        .unwrap();
    let feed = stand.feed().await.unwrap();
    feed.behave(Behaviour::AlteredPages);
    feed.set_paged_bundle(&claims(&stand, 1, "read:data.sales")).unwrap();
    feed.set_state(&state_claims(1, &json!({})));
    feed.adopted("1.1", VMS).await.unwrap();
    stand
        .every_worker_denies(&stand.inbound, || stand.good_call(), 503, "policy_unavailable")
        .await
        .unwrap();
    feed.behave(Behaviour::Proper);
    allowed(&stand).await;
}
