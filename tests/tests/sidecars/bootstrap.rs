//! Sidecars that start before the policy server.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::client::{Answer, Call};
use tests::demo::token_request;
use tests::feed::state_claims;
use tests::mesh::{Mesh, Options};
use tests::stand::{self, Stand};
use tests::wait;

/// The worker threads of a sidecar; its main thread has a VM too, which polls and sees no request.
const WORKERS: usize = 2;
const VMS_A_SIDECAR: usize = WORKERS + 1;

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_start_a_minute_before_the_policy_server_recover_without_a_herd() {
    let options = Options {
        without_policy_server: true,
        ..Options::default()
    };
    let mut mesh = Mesh::start("bootstrap", &options).await.unwrap();
    let started = Instant::now();
    let alone = Duration::from_secs(60);
    let mut before = polls(&mesh).await;
    let mut most_a_second = 0;
    while started.elapsed() < alone {
        let second = Instant::now();
        for call in [table(&mesh, "x"), table(&mesh, "x").bearer("a.b.c")] {
            let own = mesh
                .agent("analyst-7")
                .unwrap()
                .client()
                .send(call.clone())
                .await
                .unwrap();
            let direct = mesh.direct("warehouse", "analyst-7").unwrap().send(call).await.unwrap();
            for answer in [own, direct] {
                assert_eq!((answer.status, answer.denial()), (503, Some("policy_unavailable")));
                assert!(answer.header("retry-after").is_some());
            }
        }
        let sampled = wait::until("a second to pass", Duration::from_secs(5), async || {
            (second.elapsed() >= Duration::from_secs(1)).then_some(())
        });
        sampled.await.unwrap();
        let now = polls(&mesh).await;
        // The first seconds hold the first tries; after them the backoff must have spread them.
        if started.elapsed() > Duration::from_secs(10) {
            most_a_second = most_a_second.max(now - before);
        }
        before = now;
    }
    assert!(
        mesh.service("warehouse").unwrap().backend.seen().is_empty(),
        "no call reached the application"
    );
    // 5 sidecars of 3 VMs each; a backoff of up to 5 s spreads them.
    assert!(most_a_second <= 15, "{most_a_second} polls in one second");

    mesh.policy_server.start_server().await.unwrap();
    let server_up = Instant::now();
    mesh.settled().await.unwrap();
    println!(
        "every sidecar recovered {:?} after the policy server came up",
        server_up.elapsed()
    );
    let token = mesh.token(&token_request()).await.unwrap();
    assert_eq!(read(&mesh, &token).await.unwrap().status, 200);
}

fn table(mesh: &Mesh, table: &str) -> Call {
    Call::new(
        "GET",
        &mesh.service("warehouse").unwrap().authority(),
        &format!("/v1/tables/{table}"),
    )
}

async fn read(mesh: &Mesh, token: &str) -> anyhow::Result<Answer> {
    mesh.agent("analyst-7")?
        .client()
        .send(table(mesh, "sales_q1_2026").bearer(token))
        .await
}

/// How many requests the policy server's sidecar has seen.
async fn polls(mesh: &Mesh) -> u64 {
    mesh.policy_server
        .sidecar()
        .unwrap()
        .stat("http.inbound.downstream_rq_total")
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_start_a_minute_before_the_policy_server_recover_by_themselves() {
    const SIDECARS: usize = 3;
    const VMS: usize = SIDECARS * VMS_A_SIDECAR;
    let begun = Instant::now();
    let first = Stand::spawn("early-0", stand::http_service(), |_| {}).unwrap();
    let mut stands = vec![first];
    for number in 1..SIDECARS {
        let address = stands.first().unwrap().policy_address;
        let stand = Stand::spawn(&format!("early-{number}"), stand::http_service(), |sidecar| {
            sidecar.policy.as_mut().unwrap().address = address;
        });
        stands.push(stand.unwrap());
    }
    for stand in &stands {
        stand.envoy.ready().await.unwrap();
    }
    let ready = Instant::now();
    wait::until(
        "a minute without a policy server",
        Duration::from_secs(120),
        async || {
            for stand in &stands {
                stand
                    .denied(&stand.inbound, stand.good_call(), 503, "policy_unavailable")
                    .await
                    .unwrap();
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            (ready.elapsed() >= Duration::from_secs(60)).then_some(())
        },
    )
    .await
    .unwrap();

    for stand in &stands {
        let polls = stand.times_logged("no policy from the policy server");
        assert!(tries(VMS_A_SIDECAR, begun.elapsed()).contains(&polls), "{polls} polls");
        // Only workers have denials to tell of, from the first one on.
        let posts = stand.times_logged("records were not stored");
        assert!(tries(WORKERS, begun.elapsed()).contains(&posts), "{posts} posts");
    }

    let feed = stands.first().unwrap().feed().await.unwrap();
    let started = Instant::now();
    feed.set_bundle(&stands.first().unwrap().bundle(1, &json!({})));
    feed.set_state(&state_claims(1, &json!({})));
    for stand in &stands {
        stand
            .eventually_allowed(&stand.inbound, || stand.good_call())
            .await
            .unwrap();
        stand
            .eventually_allowed(&stand.outbound, || stand.own_call())
            .await
            .unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(45), "{:?}", started.elapsed());
    // Calls need the workers' VMs; the main thread's may still be waiting for its next try.
    wait::until("every VM to have asked", Duration::from_secs(10), async || {
        let polls = feed.polls();
        let empty_handed = polls.iter().filter(|poll| poll.bundle.is_none());
        (empty_handed.count() >= VMS).then_some(())
    })
    .await
    .unwrap();
    let polls = feed.polls();
    let empty_handed: Vec<Instant> = polls
        .iter()
        .filter(|poll| poll.bundle.is_none())
        .map(|poll| poll.at)
        .collect();
    let herd = empty_handed
        .iter()
        .max()
        .unwrap()
        .duration_since(*empty_handed.iter().min().unwrap());
    assert!(
        herd > Duration::from_millis(500),
        "all of {VMS} VMs asked within {herd:?}"
    );
    // One question without a bundle a VM, then one long-poll a VM for each change of the list.
    assert!(
        (VMS..=VMS + 3).contains(&empty_handed.len()),
        "{} first questions",
        empty_handed.len()
    );
    let renewals = usize::try_from(started.elapsed().as_secs() / 15).unwrap() + 1;
    assert!(polls.len() <= VMS * (3 + renewals), "{} polls", polls.len());
}

/// How many tries that all fail so many VMs make in `time`.
///
/// After each a VM waits 0.1 s doubling to 5 s, less up to half of it for jitter, and never less than 0.1 s. So there
/// are at most as many as fit between the shortest waits; at least, as many as fit between the longest ones into half
/// of the time: a busy machine is late.
fn tries(vms: usize, time: Duration) -> std::ops::RangeInclusive<usize> {
    let most = fitting([100, 100, 200, 400, 800, 1600], 2500, time);
    let least = fitting([100, 200, 400, 800, 1600, 3200], 5000, time / 2);
    vms * least..=vms * most
}

/// How many tries fit into `time` that lie so many milliseconds apart, `last` from then on; the first needs none.
fn fitting(first: [u64; 6], last: u64, time: Duration) -> usize {
    let waits = first.into_iter().chain(std::iter::repeat(last));
    let times = waits.scan(Duration::ZERO, |at, wait| {
        *at += Duration::from_millis(wait);
        Some(*at)
    });
    1 + times.take_while(|at| *at <= time).count()
}
