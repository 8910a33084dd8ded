//! A policy server that is late, slow, absent or out of its mind: nobody gets in by it, and nobody stays out for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tests::feed::{Behaviour, Feed, state_claims};
use tests::sidecar::Sidecar;
use tests::stand::{self, Stand};
use tests::wait;
use tokio::io::AsyncWriteExt as _;

/// What each VM must have met before it counts as seen.
const MEETINGS: usize = 3;

fn impatient(sidecar: &mut Sidecar) {
    let plugin = sidecar.plugin.take();
    sidecar.plugin = plugin.map(|plugin| plugin.configure("poll_timeout_seconds", json!(1)));
}

/// Answers that no server of ours gives.
fn misbehaviours(stand: &Stand) -> Vec<(&'static str, Behaviour)> {
    let key = tests::signing::TestKey::named("bundle-1");
    let bundle = key.sign("policy-bundle+jwt", &stand.bundle(50, &json!({})));
    let state = key.sign("agent-state+jwt", &state_claims(50, &json!({})));
    let proper = json!({"bundle": bundle, "state": state}).to_string();
    let truncated = proper.as_bytes().split_at(proper.len() / 2).0.to_vec();
    let twice = format!("{{\"bundle\":\"x\",{}", proper.strip_prefix('{').unwrap());
    // The same noise in every run.
    let mut seed = 1_u32;
    let noise = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes().first().copied().unwrap()
    });
    let html = b"<!doctype html><title>Sign in</title><p>Welcome to the wireless network".to_vec();
    let rubbish = |status, body: &[u8]| Behaviour::Rubbish(status, body.to_vec());
    vec![
        ("HTML", rubbish(200, &html)),
        ("half a document", rubbish(200, &truncated)),
        ("a name twice", rubbish(200, twice.as_bytes())),
        ("a proper document as an error", rubbish(500, proper.as_bytes())),
        ("a proper document as a redirect", rubbish(302, proper.as_bytes())),
        ("1 MiB of noise", Behaviour::Rubbish(200, noise.take(1 << 20).collect())),
        ("nothing", rubbish(200, b"")),
        ("null", rubbish(200, b"null")),
        ("no news, at once", rubbish(204, b"")),
        ("not found", rubbish(404, b"{}")),
        ("a byte now and then", Behaviour::Trickle(Duration::from_millis(20))),
        ("a stream that breaks", Behaviour::Break),
        ("an answer that is too late", Behaviour::Slow(Duration::from_secs(3600))),
    ]
}

/// Behaves until every VM holds a list of this version or a later one; then none is in any backoff.
async fn renewed(feed: &Feed, version: u64) {
    feed.set_state(&state_claims(version, &json!({})));
    feed.behave(Behaviour::Proper);
    feed.holding_state(version, 3).await.unwrap();
}

async fn polled_again(feed: &Feed, what: &str) {
    let polls = feed.polls().len();
    let polled = wait::until(what, Duration::from_secs(60), async || {
        (feed.polls().len() >= polls + MEETINGS).then_some(())
    });
    polled.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_no_policy() {
    let stand = Stand::start("rubbish", stand::http_service(), impatient).await.unwrap();
    let denied = async |what: &str| {
        for (client, call) in [
            (stand.inbound.clone(), stand.good_call()),
            (stand.inbound.clone().http2(), stand.good_call()),
            (stand.outbound.clone(), stand.own_call()),
        ] {
            let denied = stand.denied(&client, call, 503, "policy_unavailable").await;
            assert!(denied.is_ok(), "{what}: {denied:?}");
        }
    };

    for greeting in [
        &b""[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
    ] {
        let rude = Rude::listen(stand.policy_address, greeting).await;
        wait::until("connections", Duration::from_secs(60), async || {
            (rude.met.load(Ordering::Relaxed) >= MEETINGS).then_some(())
        })
        .await
        .unwrap();
        denied("a server that hangs up").await;
    }

    let feed = wait::until("the address", Duration::from_secs(10), async || stand.feed().await.ok());
    let feed = feed.await.unwrap();
    for (number, (what, behaviour)) in (1..).zip(misbehaviours(&stand)) {
        // There is a list of states all the time, and no bundle.
        renewed(&feed, number * 100).await;
        feed.behave(behaviour);
        feed.set_state(&state_claims(number * 100 + 50, &json!({})));
        polled_again(&feed, what).await;
        denied(what).await;
    }

    feed.behave(Behaviour::Proper);
    feed.set_bundle(&stand.bundle(1, &json!({})));
    stand
        .eventually_allowed(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
    stand
        .eventually_allowed(&stand.outbound, || stand.own_call())
        .await
        .unwrap();
}

/// Accepts, says one thing and hangs up.
struct Rude {
    met: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Rude {
    async fn listen(address: SocketAddr, greeting: &'static [u8]) -> Self {
        let bound = wait::until("the address", Duration::from_secs(10), async || {
            tokio::net::TcpListener::bind(address).await.ok()
        });
        let listener = bound.await.unwrap();
        let met = Arc::new(AtomicUsize::new(0));
        let count = met.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // It may have gone before it was greeted.
                let _ = stream.write_all(greeting).await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { met, task }
    }
}

impl Drop for Rude {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_leaves_the_policy_in_force_until_its_states_are_too_old() {
    const AGE: u64 = 25;
    let stand = Stand::start("rubbish-later", stand::http_service(), impatient)
        .await
        .unwrap();
    let feed = stand.feed().await.unwrap();
    let payroll = || stand::read("payroll").bearer(&stand::token("analyst-7"));
    feed.set_bundle(&stand.bundle(1, &json!({"max_state_age_seconds": AGE})));
    feed.set_state(&state_claims(1, &json!({})));
    stand
        .eventually_allowed(&stand.inbound, || stand.good_call())
        .await
        .unwrap();

    for (number, (what, behaviour)) in (1..).zip(misbehaviours(&stand)) {
        renewed(&feed, number * 100).await;
        feed.behave(behaviour);
        // Something new is there to be told, and is not told.
        let killed = json!({"agents": {"analyst-7": "killed"}});
        feed.set_state(&state_claims(number * 100 + 50, &killed));
        polled_again(&feed, what).await;
        let denied = stand
            .denied(&stand.inbound, payroll(), 403, "scope_not_in_policy")
            .await;
        assert!(denied.is_ok(), "{what}: {denied:?}");
        let allowed = stand.allowed(&stand.inbound, stand.good_call()).await;
        assert!(allowed.is_ok(), "{what}: {allowed:?}");
    }

    feed.behave(Behaviour::Rubbish(500, Vec::new()));
    stand
        .eventually_denied(&stand.inbound, || stand.good_call(), 503, "policy_unavailable")
        .await
        .unwrap();
    feed.set_state(&state_claims(10_000, &json!({})));
    feed.behave(Behaviour::Proper);
    stand
        .eventually_allowed(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
}
