//! Nothing passes without a policy and a list of agents' states that are signed, this workload's, newest and fresh.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::client::Client;
use tests::feed::{Behaviour, Feed, state_claims};
use tests::signing::TestKey;
use tests::stand::{self, Stand};
use tests::wait;

const UNAVAILABLE: (u16, &str) = (503, "policy_unavailable");

async fn denies_everything(stand: &Stand) {
    let (status, code) = UNAVAILABLE;
    for client in [stand.inbound.clone(), stand.inbound.clone().http2()] {
        stand
            .every_worker_denies(&client, || stand.good_call(), status, code)
            .await
            .unwrap();
    }
    for client in [stand.outbound.clone(), stand.outbound.clone().http2()] {
        let answer = stand.denied(&client, stand.own_call(), status, code).await.unwrap();
        assert!(answer.header("retry-after").is_some());
    }
}

async fn allows_what_is_good(stand: &Stand) {
    for client in [stand.inbound.clone(), stand.inbound.clone().http2()] {
        stand.eventually_allowed(&client, || stand.good_call()).await.unwrap();
    }
    for client in [stand.outbound.clone(), stand.outbound.clone().http2()] {
        stand.eventually_allowed(&client, || stand.own_call()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_policy_or_states_nothing_passes_and_with_both_it_does() {
    let stand = Stand::start("no-policy", stand::http_service(), |_| {}).await.unwrap();
    denies_everything(&stand).await;

    // A server that has nothing to say yet.
    let feed = stand.feed().await.unwrap();
    wait::until("polls", Duration::from_secs(30), async || {
        (feed.polls().len() >= 3).then_some(())
    })
    .await
    .unwrap();
    denies_everything(&stand).await;

    // A policy without states: which agents are killed is not known.
    feed.set_bundle(&stand.bundle(1, &json!({})));
    feed.adopted("1.1", 3).await.unwrap();
    denies_everything(&stand).await;

    feed.set_state(&state_claims(1, &json!({})));
    allows_what_is_good(&stand).await;
    assert!(
        stand
            .denied(&stand.inbound, stand::read("sales"), 401, "token_missing")
            .await
            .is_ok(),
        "what is not good stays denied"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_policy_denies_until_a_new_one_comes() {
    let stand = Stand::start("expired", stand::http_service(), |_| {}).await.unwrap();
    let feed = stand.feed().await.unwrap();
    feed.set_state(&state_claims(1, &json!({})));

    // One that has expired before it arrives is never in force.
    let now = wait::unix_now();
    feed.set_bundle(&stand.bundle(1, &json!({"issued_at": now - 100, "expires_at": now - 1})));
    stand
        .logged_on_every_thread("the bundle is refused: expired")
        .await
        .unwrap();
    denies_everything(&stand).await;

    // One that expires while it is in force is in force until that very second.
    let expires = wait::unix_now() + 25;
    feed.set_bundle(&stand.bundle(2, &json!({"expires_at": expires})));
    stand
        .eventually_allowed(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
    loop {
        let begun = wait::unix_now();
        let allowed = stand.allowed(&stand.inbound, stand.good_call()).await;
        match allowed {
            Ok(_) => assert!(begun < expires, "allowed after the policy had expired"),
            Err(_) => {
                assert!(wait::unix_now() >= expires, "denied before: {allowed:?}");
                break;
            }
        }
    }
    denies_everything(&stand).await;

    feed.set_bundle(&stand.bundle(3, &json!({})));
    allows_what_is_good(&stand).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_states_that_is_too_old_denies_until_a_fresh_one_comes() {
    const AGE: u64 = 6;
    let stand = Stand::start("stale", stand::http_service(), |sidecar| {
        let plugin = sidecar.plugin.take();
        sidecar.plugin = plugin.map(|plugin| plugin.configure("poll_timeout_seconds", json!(2)));
    })
    .await
    .unwrap();
    let feed = stand.feed().await.unwrap();
    feed.set_bundle(&stand.bundle(1, &json!({"max_state_age_seconds": AGE})));
    feed.renews(false);
    let fresh = renewed(&feed, 1);
    allows_what_is_good(&stand).await;
    drop(fresh);

    // The server is there and says nothing.
    feed.behave(Behaviour::Slow(Duration::from_secs(3600)));
    let silent = Instant::now();
    let last = wait::unix_now();
    stand
        .eventually_denied(&stand.inbound, || stand.good_call(), UNAVAILABLE.0, UNAVAILABLE.1)
        .await
        .unwrap();
    // What was issued before the silence cannot be fresh now.
    assert!(wait::unix_now() > last);
    assert!(
        silent.elapsed() < Duration::from_secs(45),
        "denied only after {:?}",
        silent.elapsed()
    );
    denies_everything(&stand).await;

    // It repeats what it said: a list that was true once is no news of today.
    feed.behave(Behaviour::Proper);
    let polls = feed.polls().len();
    wait::until("polls", Duration::from_secs(30), async || {
        (feed.polls().len() >= polls + 3).then_some(())
    })
    .await
    .unwrap();
    denies_everything(&stand).await;
    let stale = json!({"issued_at": wait::unix_now() - AGE - 1});
    feed.set_state(&state_claims(1000, &stale));
    feed.holding_state(1000, 3).await.unwrap();
    denies_everything(&stand).await;

    let fresh = renewed(&feed, 1001);
    allows_what_is_good(&stand).await;
    drop(fresh);
}

/// Keeps the list of states younger than any age that a test sets, from this version on, until it is dropped.
fn renewed(feed: &Feed, from: u64) -> Renewing {
    feed.set_state(&state_claims(from, &json!({})));
    let (feed, mut version) = (feed.handle(), from);
    Renewing(tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            version += 1;
            feed.set_state(&state_claims(version, &json!({})));
        }
    }))
}

struct Renewing(tokio::task::JoinHandle<()>);

impl Drop for Renewing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Each would grant a table that the policy in force does not.
fn forged_bundles(stand: &Stand) -> Vec<(&'static str, &'static str, String)> {
    const TYPE: &str = "policy-bundle+jwt";
    let key = TestKey::named("bundle-1");
    let mut agents = stand.bundle(1, &json!({})).get("agents").cloned().unwrap();
    for agent in agents.as_array_mut().unwrap() {
        agent
            .as_object_mut()
            .unwrap()
            .insert("scope".into(), json!(["read:data.sales", "read:data.payroll"]));
    }
    let wide = |version: u64, with: Value| {
        let mut claims = stand.bundle(version, &json!({"agents": agents, "epoch": 2}));
        claims
            .as_object_mut()
            .unwrap()
            .extend(with.as_object().unwrap().clone());
        claims
    };
    let newer = || wide(9, json!({}));
    let header = |alg: &str, typ: &str, kid: &str| json!({"alg": alg, "typ": typ, "kid": kid}).to_string();
    let good = key.sign(TYPE, &newer());
    let unsigned = tests::forgery::unsigned(&good).unwrap();
    let other_key = TestKey::named("somebody");
    vec![
        (
            "a byte of the signature changed",
            "signature",
            tests::forgery::signature_changed(&good).unwrap(),
        ),
        (
            "another key under the same name",
            "signature",
            other_key.sign_with_header(&header("EdDSA", TYPE, "bundle-1"), &newer().to_string()),
        ),
        ("a key that is not trusted", "signature", other_key.sign(TYPE, &newer())),
        ("no signature", "signature", unsigned),
        (
            "signed by a token issuer's key",
            "signature",
            stand::issuer().sign(TYPE, &newer()),
        ),
        (
            "typed as a list of states",
            "signature",
            key.sign("agent-state+jwt", &newer()),
        ),
        (
            "for another workload",
            "meant for another workload",
            key.sign(
                TYPE,
                &wide(9, json!({"aud": "spiffe://cluster.local/ns/data/sa/reports"})),
            ),
        ),
        (
            "a lower version",
            "version 2.4 is older than 2.5",
            key.sign(TYPE, &wide(4, json!({}))),
        ),
        (
            "a lower epoch, a higher version",
            "version 1.99 is older than 2.5",
            key.sign(TYPE, &wide(99, json!({"epoch": 1}))),
        ),
        (
            "issued in the future",
            "issued in the future",
            key.sign(TYPE, &wide(9, json!({"issued_at": wait::unix_now() + 3600}))),
        ),
        (
            "expired",
            "expired",
            key.sign(
                TYPE,
                &wide(
                    9,
                    json!({"issued_at": wait::unix_now() - 100, "expires_at": wait::unix_now() - 1}),
                ),
            ),
        ),
        (
            "of a later format",
            "format 6 is not understood",
            key.sign(TYPE, &wide(9, json!({"format": 6}))),
        ),
        ("with a key twice", "payload", {
            let twice = newer().to_string().replacen('{', "{\"version\":1,", 1);
            key.sign_with_header(&header("EdDSA", TYPE, "bundle-1"), &twice)
        }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_refused_leaves_the_old_one_in_force() {
    let stand = Stand::start("forged", stand::http_service(), |_| {}).await.unwrap();
    let feed = stand.feed().await.unwrap();
    let payroll = || stand::read("payroll").bearer(&stand::token("analyst-7"));

    // Before there is any policy, a forged one is none.
    feed.set_state(&state_claims(1, &json!({})));
    feed.set_bundle_jws(
        "1.9",
        &TestKey::named("somebody").sign("policy-bundle+jwt", &stand.bundle(9, &json!({}))),
    );
    stand
        .logged_on_every_thread("the bundle is refused: signature")
        .await
        .unwrap();
    denies_everything(&stand).await;

    feed.set_bundle(&stand.bundle(5, &json!({"epoch": 2})));
    allows_what_is_good(&stand).await;
    // Tokens are good for the other table, the policy is not.
    stand
        .every_worker_denies(&stand.inbound, payroll, 403, "scope_not_in_policy")
        .await
        .unwrap();
    for (number, (name, reason, jws)) in (1..).zip(forged_bundles(&stand)) {
        // Something proper first, so that no VM is in any backoff.
        feed.set_bundle_jws("2.5", "");
        feed.set_state(&state_claims(number * 100, &json!({})));
        feed.holding_state(number * 100, 3).await.unwrap();
        let reason = format!("the bundle is refused: {reason}");
        let (polls, refusals) = (feed.polls().len(), stand.times_logged(&reason));
        feed.set_bundle_jws(&format!("3.{number}"), &jws);
        // Every VM is offered it, refuses it and asks again.
        wait::until(name, Duration::from_secs(60), async || {
            let refused = stand.times_logged(&reason) >= refusals + 3 && stand.threads_that_logged(&reason) >= 3;
            (refused && feed.polls().len() >= polls + 3).then_some(())
        })
        .await
        .unwrap();
        stand.allowed(&stand.inbound, stand.good_call()).await.unwrap();
        let refused = stand
            .denied(&stand.inbound, payroll(), 403, "scope_not_in_policy")
            .await;
        assert!(refused.is_ok(), "{name}: {refused:?}");
    }

    // A proper one that differs from the forged ones by its signature alone is taken.
    let (_, _, forged) = forged_bundles(&stand).into_iter().next().unwrap();
    let payload = forged.split('.').nth(1).unwrap();
    let claims: Value = {
        use base64::Engine as _;
        let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(payload).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    feed.set_bundle(&claims);
    stand.eventually_allowed(&stand.inbound, payroll).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn states_and_bundles_are_refused_each_on_its_own() {
    const TYPE: &str = "agent-state+jwt";
    let stand = Stand::start("states", stand::http_service(), |_| {}).await.unwrap();
    let feed = stand.feed().await.unwrap();
    let key = TestKey::named("bundle-1");
    feed.renews(false);
    feed.set_bundle(&stand.bundle(5, &json!({"max_state_age_seconds": 600})));
    feed.set_state(&state_claims(5, &json!({"agents": {"analyst-7": "killed"}})));
    let killed = (403, "agent_killed");
    let stays_killed = async |client: &Client| {
        stand
            .eventually_denied(client, || stand.good_call(), killed.0, killed.1)
            .await
            .unwrap();
    };
    stays_killed(&stand.inbound).await;
    // The other agent differs in its state alone.
    stand
        .eventually_allowed(&stand.outbound, || stand.own_call())
        .await
        .unwrap();

    // What would raise the dead.
    let alive = |version: u64, with: Value| state_claims(version, &with);
    let good = key.sign(TYPE, &alive(900, json!({})));
    for (number, (name, reason, jws)) in (1..).zip([
        (
            "a byte changed",
            "signature",
            tests::forgery::signature_changed(&good).unwrap(),
        ),
        (
            "another key",
            "signature",
            TestKey::named("somebody").sign(TYPE, &alive(900, json!({}))),
        ),
        (
            "an older list",
            "version 1.4 is older than 1.5",
            key.sign(TYPE, &alive(4, json!({}))),
        ),
        (
            "a list of tomorrow",
            "issued in the future",
            key.sign(TYPE, &alive(900, json!({"issued_at": wait::unix_now() + 86_400}))),
        ),
    ]) {
        // Something proper first, so that no VM is in any backoff.
        feed.set_state_jws("1.5", "");
        feed.set_bundle(&stand.bundle(5 + number, &json!({"max_state_age_seconds": 600})));
        feed.adopted(&format!("1.{}", 5 + number), 3).await.unwrap();
        let reason = format!("the state list is refused: {reason}");
        let refusals = stand.times_logged(&reason);
        feed.set_state_jws("9.9", &jws);
        wait::until(name, Duration::from_secs(60), async || {
            (stand.times_logged(&reason) >= refusals + 3 && stand.threads_that_logged(&reason) >= 3).then_some(())
        })
        .await
        .unwrap();
        stand
            .every_worker_denies(&stand.inbound, || stand.good_call(), killed.0, killed.1)
            .await
            .unwrap();
    }

    // Beside a bundle that is refused, a kill arrives; beside a list that is refused, a new bundle.
    feed.set_state(&state_claims(1000, &json!({})));
    stand
        .eventually_allowed(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
    feed.set_bundle_jws("1.60", "not.a.bundle");
    feed.set_state(&state_claims(2000, &json!({"agents": {"analyst-7": "killed"}})));
    stays_killed(&stand.inbound).await;
    stand
        .eventually_allowed(&stand.outbound, || stand.own_call())
        .await
        .unwrap();
    feed.set_state_jws("9.9", "not.a.list");
    feed.set_bundle(&stand.bundle(70, &json!({"agents": []})));
    stand
        .eventually_denied(&stand.outbound, || stand.own_call(), 403, "agent_unknown")
        .await
        .unwrap();
}
