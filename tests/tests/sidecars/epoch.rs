//! A database restored from an older copy: sidecars that have seen more do not believe it, until an operator says so.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use tests::wait;

use crate::rotation::Mesh;

const LIMIT: Duration = Duration::from_secs(120);

/// The files of the database, and where they are kept meanwhile.
fn files(mesh: &Mesh) -> Vec<(PathBuf, PathBuf)> {
    let data = mesh.run.file("policy-server");
    ["ostiary.db", "ostiary.db-wal", "ostiary.db-shm"]
        .map(|name| (data.join(name), mesh.run.file(&format!("copy-of-{name}"))))
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_is_refused_until_a_new_epoch() {
    let mut mesh = Mesh::start().await;
    mesh.server.stop_server().await.unwrap();
    for (file, copy) in files(&mesh) {
        if file.exists() {
            std::fs::copy(file, copy).unwrap();
        }
    }
    // Each start reserves versions anew, so that the copy's own lie a whole block behind.
    for _ in 0..2 {
        mesh.server.start_server().await.unwrap();
        mesh.settled().await;
        mesh.server.stop_server().await.unwrap();
    }
    for (file, copy) in files(&mesh) {
        let _ = std::fs::remove_file(&file);
        if copy.exists() {
            std::fs::copy(copy, file).unwrap();
        }
    }

    // The mirror of its checkpoints knows that records are gone; it is lost too.
    assert!(mesh.server.start_server().await.is_err());
    std::fs::remove_dir_all(mesh.server.mirror()).unwrap();
    mesh.server.start_server().await.unwrap();
    wait::until(
        "the older list to be refused until the newer is too old",
        LIMIT,
        async || {
            let answer = mesh.caller.call().await;
            answer
                .is_err_and(|error| error.contains("policy_unavailable"))
                .then_some(())
        },
    )
    .await
    .unwrap();
    let running = new_epoch(&mesh);
    assert_eq!(running.status.code(), Some(2), "the server runs: {running:?}");
    assert!(mesh.caller.call().await.is_err(), "nothing has changed");

    mesh.server.stop_server().await.unwrap();
    let raised = new_epoch(&mesh);
    assert!(raised.status.success(), "{raised:?}");
    mesh.server.start_server().await.unwrap();
    mesh.settled().await;
}

fn new_epoch(mesh: &Mesh) -> Output {
    let mut command = Command::new(tests::built::ostiary().unwrap());
    command
        .args(["state", "new-epoch", "--config"])
        .arg(mesh.server.config());
    command.output().unwrap()
}
