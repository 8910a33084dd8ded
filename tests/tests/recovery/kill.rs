//! `kill -9` of the policy server at any moment: nothing that it answered for is lost, and the mesh recovers by itself.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::client::{Answer, Call, Client};
use tests::load::ledger::Ledger;
use tests::load::mesh::{ANALYST, LoadMesh, READER, TABLE, WRITER};
use tests::load::mix::{self, Budget};
use tests::sidecar::POLICY_AUTHORITY;
use tests::wait;

use crate::moments::Moments;
use crate::stored::{check_stored, check_tree};
use crate::witness::Witness;

const KILLS: usize = 24;
/// Every fourth time the server is killed once more while it starts.
const KILL_STARTING_EVERY: usize = 4;

const MAX_AGE: Duration = Duration::from_secs(20);
const RENEW: Duration = Duration::from_secs(2);

/// Answers in a row, each on a fresh connection, that show that every worker answers so.
const ALL_WORKERS: usize = 24;

const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_policy_server_loses_nothing_and_the_mesh_recovers_by_itself() {
    let config = json!({
        "token": {"maxTtlSeconds": 3600},
        "state": {"maxAgeSeconds": MAX_AGE.as_secs(), "renewSeconds": RENEW.as_secs()},
    });
    let mut mesh = LoadMesh::start("recovery-kill", config).await.unwrap();
    let (keys, published) = (keys(&mesh), published(&mesh).await);

    let calls = Budget::endless(0);
    let agents = [(ANALYST, READER), (READER, ANALYST)];
    let lines = mix::ordinary_lines(&mesh, &agents, Duration::from_millis(25))
        .await
        .unwrap();
    let traffic = tokio::spawn({
        let calls = calls.clone();
        async move { mix::drive(&lines, &calls).await }
    });
    let witness = Witness::start(&mesh);
    let longest_outage = kill_again_and_again(&mut mesh, &witness, &published).await;

    let answered = witness.stop().await;
    calls.stop();
    let outcome = traffic.await.unwrap();
    let outcome = outcome.unwrap_or_else(|error| panic!("after outages of at most {longest_outage:?}: {error:#}"));
    println!(
        "{KILLS} kills under {} calls: {} records acknowledged to the witness, {} tokens, {} lists of states; longest outage {longest_outage:?}",
        outcome.calls(),
        answered.hashes.len(),
        answered.tokens.len(),
        answered.lists,
    );
    assert_eq!(keys, self::keys(&mesh), "the keys are the same");

    mesh.at_rest().await.unwrap();
    check_stored(&mesh, &answered).await;
    check_tree(&mesh, &BTreeMap::new()).await;
    let ledger = Ledger::read(&mesh.database()).await.unwrap();
    ledger.print(mesh.database_bytes());
    assert_eq!(
        ledger.restarts, 0,
        "no chain was refused: nothing acknowledged was missing"
    );
    ledger.check_closed().unwrap();
    ledger.check_traces(&outcome, outcome.no_room > 0).unwrap();
    let spiffe = |agent: &str| Ok(mesh.credential(agent)?.workload.spiffe());
    ledger.check_denials(&outcome, spiffe).unwrap();

    let (first, last) = (answered.tokens.first().unwrap(), answered.tokens.last().unwrap());
    let denied = denials_without_policy(&mesh, &ledger);
    stale_state_denies_and_heals(&mut mesh, &first.1, &last.1, denied).await;
    mesh.forget().unwrap();
}

/// Kills the server at random moments and starts it again; answers how long it was away at most.
async fn kill_again_and_again(mesh: &mut LoadMesh, witness: &Witness, published: &Value) -> Duration {
    let mut moments = Moments::new();
    let mut longest = Duration::ZERO;
    for round in 0..KILLS {
        tokio::time::sleep(moments.next()).await;
        let start = Instant::now();
        mesh.policy_server.kill_server();
        let answered = witness.answered();
        if round % KILL_STARTING_EVERY == 0 {
            // A start that is given up is a process that is killed.
            let _ = tokio::time::timeout(moments.next() / 3, mesh.policy_server.start_server()).await;
            mesh.policy_server.kill_server();
        }
        mesh.policy_server.start_server().await.unwrap();
        longest = longest.max(start.elapsed());
        check_stored(mesh, &answered).await;
        assert_eq!(
            *published,
            self::published(mesh).await,
            "the published keys are the same"
        );
        for (_, token) in answered.tokens.first().into_iter().chain(answered.tokens.last()) {
            let answer = read_table(&client(mesh), mesh, token).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    longest
}

/// Sidecars go on while their state list is fresh, then deny, and take calls again when the server is back.
async fn stale_state_denies_and_heals(mesh: &mut LoadMesh, first: &str, last: &str, denied_before: u64) {
    mesh.policy_server.kill_server();
    let killed = Instant::now();
    let (mut permitted, mut denied, mut in_a_row, mut first_denial) = (0_u64, 0_u64, 0, None);
    let client = client(mesh);
    wait::until("every worker to deny", MAX_AGE + PATIENCE, async || {
        let answer = read_table(&client, mesh, last).await.unwrap();
        match (answer.status, answer.denial()) {
            (200, _) => (permitted, in_a_row) = (permitted + 1, 0),
            (503, Some("policy_unavailable")) => {
                (denied, in_a_row) = (denied + 1, in_a_row + 1);
                assert!(answer.header("retry-after").is_some());
                first_denial.get_or_insert_with(|| killed.elapsed());
            }
            _ => panic!("{answer:?}"),
        }
        (in_a_row >= ALL_WORKERS).then_some(())
    })
    .await
    .unwrap();
    let first_denial = first_denial.unwrap();
    println!("  without a policy server {permitted} calls went on, and the first was denied after {first_denial:?}");
    assert!(first_denial > MAX_AGE / 2, "sidecars go on while their list is fresh");
    assert!(permitted > 0);

    mesh.policy_server.start_server().await.unwrap();
    let mut in_a_row = 0;
    wait::until("every worker to permit", PATIENCE, async || {
        let answer = read_table(&client, mesh, first).await.unwrap();
        match (answer.status, answer.denial()) {
            (200, _) => in_a_row += 1,
            (503, Some("policy_unavailable")) => (denied, in_a_row) = (denied + 1, 0),
            _ => panic!("{answer:?}"),
        }
        (in_a_row >= ALL_WORKERS).then_some(())
    })
    .await
    .unwrap();

    mesh.at_rest().await.unwrap();
    let ledger = Ledger::read(&mesh.database()).await.unwrap();
    assert_eq!(ledger.restarts, 0, "no chain was refused");
    let stored = denials_without_policy(mesh, &ledger) - denied_before;
    assert_eq!(stored, denied, "every denial was counted");
    // The sidecars that were not called meanwhile recover as well.
    mesh.settled().await.unwrap();
}

/// The denials of the peer that calls the warehouse alone.
fn denials_without_policy(mesh: &LoadMesh, ledger: &Ledger) -> u64 {
    let peer = mesh.credential(WRITER).unwrap().workload.spiffe();
    ledger.inbound_denials(&peer, "policy_unavailable")
}

/// A client of the warehouse whose peer makes no other calls.
fn client(mesh: &LoadMesh) -> Client {
    mesh.client(&mesh.warehouse, WRITER).unwrap()
}

async fn read_table(client: &Client, mesh: &LoadMesh, token: &str) -> anyhow::Result<Answer> {
    let call = Call::new("GET", &mesh.warehouse.authority, &format!("/v1/tables/{TABLE}"));
    client.send(call.bearer(token)).await
}

fn keys(mesh: &LoadMesh) -> Value {
    let mut command = Command::new(tests::built::ostiary().unwrap());
    command
        .args(["keys", "show", "--output", "json", "--config"])
        .arg(mesh.policy_server.config());
    let mut shown: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    // Who has polled lately is another question.
    shown.as_object_mut().unwrap().remove("sources");
    shown
}

async fn published(mesh: &LoadMesh) -> Value {
    let call = Call::new("GET", POLICY_AUTHORITY, "/.well-known/jwks.json");
    let answer = mesh.policy_server.direct().send(call).await.unwrap();
    assert_eq!(answer.status, 200);
    answer.json()
}
