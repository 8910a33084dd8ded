//! Sidecars that start before the policy server.

use std::time::{Duration, Instant};

use tests::client::{Answer, Call};
use tests::demo::token_request;
use tests::mesh::{Mesh, Options};
use tests::wait;

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
