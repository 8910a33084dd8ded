//! The filter itself breaks: configured wrongly, or crashed in the middle of its work.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tests::client::{Call, Client};
use tests::feed::{Behaviour, Feed, state_claims};
use tests::sidecar::FailurePolicy;
use tests::stand::{self, Stand};
use tests::trapdoor::{self, Trap};
use tests::wait;

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_used_denies_on_every_worker() {
    type Spoil = fn(&mut Value);
    let spoils: [(&str, Spoil); 4] = [
        ("no-object", |configuration| *configuration = json!("trust everybody")),
        ("unknown-field", |configuration| {
            field(configuration, "fail_open", json!(true))
        }),
        ("no-keys", |configuration| {
            field(configuration, "bundle_keys", json!({"keys": []}))
        }),
        ("out-of-range", |configuration| {
            field(configuration, "poll_timeout_seconds", json!(0))
        }),
    ];
    for (name, spoil) in spoils {
        let stand = Stand::start(name, stand::http_service(), |sidecar| {
            spoil(&mut sidecar.plugin.as_mut().unwrap().configuration);
        });
        let stand = stand.await.unwrap();
        let feed = stand.feed().await.unwrap();
        feed.set_bundle(&stand.bundle(1, &json!({})));
        feed.set_state(&state_claims(1, &json!({})));
        let rejected = "wasmcustom.ostiary_config_rejected";
        wait::until("the metric", Duration::from_secs(30), async || {
            (stand.envoy.stat(rejected).await.ok()? == 1).then_some(())
        })
        .await
        .unwrap();
        for client in [stand.inbound.clone(), stand.inbound.clone().http2()] {
            let denied = stand.every_worker_denies(&client, || stand.good_call(), 503, "policy_unavailable");
            assert!(denied.await.is_ok(), "{name}");
        }
        let denied = stand.every_worker_denies(&stand.outbound, || stand.own_call(), 503, "policy_unavailable");
        assert!(denied.await.is_ok(), "{name}");
        assert!(feed.polls().is_empty(), "whom it would ask, it does not know");
        assert!(stand.backend.seen().is_empty());
    }
    // Beside them: the same with its proper configuration.
    let stand = Stand::start("proper", stand::http_service(), |_| {}).await.unwrap();
    let _feed = stand.settled_feed().await.unwrap();
    stand
        .every_worker_allows(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
}

fn field(configuration: &mut Value, name: &str, value: Value) {
    configuration.as_object_mut().unwrap().insert(name.to_owned(), value);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_one_workers_vm_does_not_survive_lets_nothing_pass() {
    // The VMs are configured in this order: the canary, the main thread's, the workers'.
    const SECOND_WORKER: u32 = 3;
    for guarded in [true, false] {
        let module = std::fs::read(tests::built::filter().unwrap()).unwrap();
        let file = NamedTempFile::new().unwrap();
        let trap = Trap::ConfigurationOf(SECOND_WORKER);
        std::fs::write(file.path(), trapdoor::sew(&module, trap).unwrap()).unwrap();
        let stand = Stand::start("one-worker", stand::http_service(), |sidecar| {
            sidecar.plugin.as_mut().unwrap().wasm = file.path().to_owned();
            sidecar.guarded = guarded;
            // Of one listener, so that each VM is configured once.
            sidecar.outbound = None;
        });
        let stand = stand.await.unwrap();
        let feed = stand.feed().await.unwrap();
        feed.set_bundle(&stand.bundle(1, &json!({})));
        feed.set_state(&state_claims(1, &json!({})));
        let log = std::fs::read_to_string(stand.envoy.process().log()).unwrap();
        assert!(log.contains("proxy_on_configure failed"), "no VM crashed");

        // The other worker is well.
        wait::until("the other worker", Duration::from_secs(60), async || {
            stand.allowed(&stand.inbound, stand.good_call()).await.ok()
        })
        .await
        .unwrap();
        let mut unseen = 0;
        for _ in 0..24 {
            let call = stand::read("sales").header("x-intruder", "1");
            let answer = stand.inbound.send(call).await.unwrap();
            unseen += usize::from(answer.code().is_none());
        }
        assert!(unseen > 0, "no call came to the worker whose filter is gone");
        let passed = stand.backend.seen_with("x-intruder", "1").len();
        if guarded {
            assert_eq!(passed, 0);
        } else {
            // What Envoy does by itself: the reason for the guard, and why the filter reads its configuration later.
            assert_eq!(passed, unseen, "Envoy no longer fails open here: the guard may go");
        }
    }
}

/// A stand whose filter crashes when the trap is sprung.
async fn trapped(name: &str, service: Value, trap: Trap, policy: FailurePolicy) -> (Stand, Feed, NamedTempFile) {
    let module = std::fs::read(tests::built::filter().unwrap()).unwrap();
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), trapdoor::sew(&module, trap).unwrap()).unwrap();
    let stand = Stand::start(name, service, |sidecar| {
        let plugin = sidecar.plugin.as_mut().unwrap();
        plugin.wasm = file.path().to_owned();
        plugin.failure_policy = policy;
    });
    let stand = stand.await.unwrap();
    let feed = stand.settled_feed().await.unwrap();
    (stand, feed, file)
}

/// A call with so many headers that it springs a trap.
fn with_headers(call: Call) -> Call {
    (0..40).fold(call, |call, number| call.header(&format!("x-filler-{number}"), "1"))
}

const MANY_HEADERS: u32 = 40;

/// A call without a token, on both protocols: whatever its answer is, the application sees nothing of it.
async fn nothing_slips_in(stand: &Stand, clients: &[Client]) {
    for client in clients {
        let call = stand::read("sales").header("x-intruder", "1");
        // A worker whose VM has crashed resets or answers 503; one that has not says `token_missing`.
        if let Ok(answer) = client.send(call).await {
            assert!(matches!(answer.status, 401 | 503), "{}", answer.status);
        }
        assert!(stand.backend.seen_with("x-intruder", "1").is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_lets_nothing_pass_and_a_fresh_vm_recovers() {
    let trap = Trap::RequestHeaders(MANY_HEADERS);
    let (stand, _feed, _file) = trapped("crash", stand::http_service(), trap, FailurePolicy::Reload).await;
    let clients = [stand.inbound.clone(), stand.inbound.clone().http2()];
    for round in 0..3 {
        for client in &clients {
            let (answer, seen) = stand
                .refused(client, with_headers(stand.good_call()), 503, None)
                .await
                .unwrap();
            assert!(seen.is_empty(), "round {round}: {seen:?}, answered {}", answer.status);
            nothing_slips_in(&stand, &clients).await;
        }
        // A worker that crashed is empty: it denies until its fresh VM has polled, and then decides as before.
        wait::until("both workers to recover", Duration::from_secs(60), async || {
            nothing_slips_in(&stand, &clients).await;
            let allowed = stand.allowed(&stand.inbound, stand.good_call()).await;
            allowed.is_ok().then_some(())
        })
        .await
        .unwrap();
        stand
            .eventually_allowed(&stand.inbound, || stand.good_call())
            .await
            .unwrap();
        stand
            .every_worker_denies(&stand.inbound, || stand::read("sales"), 401, "token_missing")
            .await
            .unwrap();
    }
    assert!(stand.envoy.process().check_alive().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_under_the_closed_policy_denies_for_ever() {
    let trap = Trap::RequestHeaders(MANY_HEADERS);
    let (stand, feed, _file) = trapped("crash-closed", stand::http_service(), trap, FailurePolicy::Closed).await;
    let clients = [stand.inbound.clone(), stand.inbound.clone().http2()];
    // Until every worker has crashed.
    wait::until("every worker to crash", Duration::from_secs(60), async || {
        for client in &clients {
            let crash = stand.refused(client, with_headers(stand.good_call()), 503, None).await;
            assert!(crash.unwrap().1.is_empty());
        }
        let mut crashed = 0;
        for _ in 0..16 {
            let answer = stand.inbound.send(stand::read("sales")).await.ok()?;
            crashed += usize::from(answer.status == 503);
        }
        (crashed == 16).then_some(())
    })
    .await
    .unwrap();
    // New policy does not wake them.
    feed.set_bundle(&stand.bundle(2, &json!({})));
    for _ in 0..16 {
        for client in &clients {
            let (_, seen) = stand.refused(client, stand.good_call(), 503, None).await.unwrap();
            assert!(seen.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_body_lets_no_byte_pass() {
    const SIZE: u32 = 4242;
    let (stand, _feed, _file) = trapped(
        "crash-body",
        stand::mcp_service(),
        Trap::RequestBody(SIZE),
        FailurePolicy::Reload,
    )
    .await;
    let sized = |bytes: usize| {
        let call = |pad: &str| tests::mcp::call_tool(stand::HOST, "pandas", &json!({"pad": pad}));
        let empty = call("").chunks.concat().len();
        call(&"x".repeat(bytes - empty)).bearer(&stand::token("analyst-7"))
    };
    for (protocol, client) in [("1", stand.inbound.clone()), ("2", stand.inbound.clone().http2())] {
        stand
            .eventually_allowed(&client, || sized(SIZE as usize - 1))
            .await
            .unwrap();
        let (_, seen) = stand.refused(&client, sized(SIZE as usize), 503, None).await.unwrap();
        assert!(seen.is_empty(), "{seen:?}");
        // Its first half came before, and was held.
        let split = sized(SIZE as usize * 2);
        let body = split.chunks.concat();
        let (first, second) = body.split_at(SIZE as usize);
        let split = split.clone().chunks(vec![first.to_vec(), second.to_vec()]);
        // Envoy may read both pieces at once, and then the whole is a good call.
        if let Ok(answer) = client.send(split.header("x-split", protocol)).await {
            let seen = stand.backend.seen_with("x-split", protocol);
            assert!(
                seen.iter().all(|seen| seen.complete && answer.status == 200),
                "{seen:?} {}",
                answer.status
            );
        }
        stand
            .eventually_allowed(&client, || sized(SIZE as usize - 1))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_on_the_policy_servers_answer_lets_nothing_pass() {
    const SIZE: u32 = 777;
    let (stand, feed, _file) = trapped(
        "crash-answer",
        stand::http_service(),
        Trap::Answer(SIZE),
        FailurePolicy::Reload,
    )
    .await;
    feed.behave(Behaviour::Rubbish(200, vec![b' '; SIZE as usize]));
    let clients = [stand.inbound.clone(), stand.inbound.clone().http2()];
    wait::until("every worker to crash", Duration::from_secs(60), async || {
        nothing_slips_in(&stand, &clients).await;
        let mut down = 0;
        for _ in 0..12 {
            let answer = stand.inbound.send(stand.good_call()).await.ok()?;
            down += usize::from(answer.status == 503);
        }
        (down == 12).then_some(())
    })
    .await
    .unwrap();
    feed.behave(Behaviour::Proper);
    stand
        .eventually_allowed(&stand.inbound, || stand.good_call())
        .await
        .unwrap();
    nothing_slips_in(&stand, &clients).await;
}
