//! Crashes of the policy server and of sidecars under calls that wait for their records, at random and at the moments that
//! matter: whoever was served is in the log, whatever was acknowledged is there once, and every checkpoint is of this log.

use std::collections::BTreeMap;
use std::time::Duration;

use authz::digest::Digest;
use authz::policy::RecordMode;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;
use tests::load::ledger::Ledger;
use tests::load::mesh::LoadMesh;
use tests::wait;

use crate::moments::Moments;
use crate::stored::{check_stored, check_tree};
use crate::waiting::Callers;
use crate::witness::Witness;

/// Crashes, unless `KILLS` says another number.
const KILLS: usize = 12;

/// Where the policy server crashes: before a batch is written and durable, before anybody knows that it is, before the
/// answer; before a checkpoint is stored and before it is mirrored; while the write-ahead log is moved.
const SERVER_MOMENTS: [&str; 6] = ["received", "committed", "scored", "signed", "kept", "moved"];

const PATIENCE: Duration = Duration::from_secs(180);

/// What crashes.
#[derive(Debug)]
enum Crash {
    Server,
    ServerAt(&'static str),
    Sidecar(usize),
}

/// Every moment and every sidecar has its turn, and the policy server as often at random.
fn crash(round: usize) -> Crash {
    match round % 4 {
        0 => Crash::Server,
        1 => Crash::Sidecar(round / 4 % 3),
        odd => Crash::ServerAt(SERVER_MOMENTS[(round / 4 * 2 + odd) % SERVER_MOMENTS.len()]),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_crash_loses_what_a_call_waited_for() {
    let kills = std::env::var("KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    let config = json!({"token": {"maxTtlSeconds": 3600}, "audit": {"mirror": "mirror"}});
    let mesh = LoadMesh::start_recording("recovery-crash", config, RecordMode::Before);
    let mut mesh = mesh.await.unwrap();
    let (witness, callers) = (Witness::start(&mesh), Callers::start(&mesh).await);

    let mut moments = Moments::new();
    let mut mirrored = BTreeMap::new();
    let mut crashes: BTreeMap<String, u32> = BTreeMap::new();
    for round in 0..kills {
        served_again(&callers).await;
        tokio::time::sleep(moments.next()).await;
        let crash = crash(round);
        *crashes.entry(format!("{crash:?}")).or_default() += 1;
        match crash {
            Crash::Server => mesh.policy_server.kill_server(),
            Crash::ServerAt(moment) => {
                mesh.policy_server.kill_server();
                let times = match moment {
                    // At its start or once a second, and more often only every few seconds.
                    "signed" | "kept" | "moved" => 1,
                    _ => 20,
                };
                mesh.policy_server.start_to_crash(moment, times).await.unwrap();
            }
            Crash::Sidecar(number) => mesh.crash_envoy(number).await.unwrap(),
        }
        let answered = witness.answered();
        if !matches!(crash, Crash::Sidecar(_)) {
            mirrored.extend(checkpoint(&mesh));
            mesh.policy_server.start_server().await.unwrap();
        }
        check_stored(&mesh, &answered).await;
        mirrored.extend(checkpoint(&mesh));
    }
    served_again(&callers).await;
    let (called, answered) = (callers.stop().await, witness.stop().await);
    mesh.at_rest().await.unwrap();

    println!(
        "{kills} crashes ({crashes:?}): {} calls served, {} denied, {} broken off; {} records acknowledged to the witness, {} \
         checkpoints kept elsewhere",
        called.served.len(),
        called.denied,
        called.broken,
        answered.hashes.len(),
        mirrored.len(),
    );
    check_stored(&mesh, &answered).await;
    check_tree(&mesh, &mirrored).await;
    let ledger = Ledger::read(&mesh.database()).await.unwrap();
    ledger.print(mesh.database_bytes());
    assert_eq!(
        ledger.restarts, 0,
        "no chain was refused: nothing acknowledged was missing"
    );
    called.check(&ledger);
    mesh.forget().unwrap();
}

/// Calls are served again, of themselves.
async fn served_again(callers: &Callers) {
    let before = callers.served();
    wait::until("calls to be served again", PATIENCE, async || {
        (callers.served() > before + 20).then_some(())
    })
    .await
    .unwrap();
}

/// The tree that the newest checkpoint in the mirror is of.
fn checkpoint(mesh: &LoadMesh) -> Option<(usize, Digest)> {
    let note = std::fs::read_to_string(mesh.run.file("mirror").join("checkpoint")).ok()?;
    let mut lines = note.lines().skip(1);
    let size = lines.next().unwrap().parse().unwrap();
    let root = BASE64_STANDARD.decode(lines.next().unwrap()).unwrap();
    Some((size, Digest(root.try_into().unwrap())))
}
