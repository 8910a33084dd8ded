//! This version beside the one before (`tests/previous`), which `tests/cluster/previous` builds: a mesh is upgraded piece by
//! piece, in either order.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::process::Command;

use tests::built;
use tests::cluster::scene::Scene;
use tests::cluster::versions;

/// A file of the version before.
fn previous(name: &str) -> PathBuf {
    let commit = include_str!("../previous").trim();
    built::target().join("previous").join(commit).join(name)
}

/// Runs the story of the version before, on its own policy and with its own parts but for one.
fn its_story_with(variable: &str, part: PathBuf) {
    let parts = [
        ("OSTIARY_FILTER", previous("filter.wasm")),
        ("OSTIARY", previous("ostiary")),
        ("OSTIARY_PYTHON", built::python().unwrap()),
        ("CARGO_TARGET_DIR", built::target().canonicalize().unwrap()),
        (variable, part),
    ];
    let told = Command::new(previous("mesh")).arg("demo").envs(parts).output().unwrap();
    let table = String::from_utf8_lossy(&told.stdout);
    println!("{}", table.lines().last().unwrap_or_default());
    assert!(
        told.status.success(),
        "{table}{}",
        String::from_utf8_lossy(&told.stderr)
    );
}

#[test]
fn the_policy_server_is_upgraded_before_the_filter() {
    its_story_with("OSTIARY", built::ostiary().unwrap());
}

#[test]
fn the_filter_is_upgraded_before_the_policy_server() {
    its_story_with("OSTIARY_FILTER", built::filter().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_the_filter_of_before_takes_this_policy_servers_policy() {
    let module = std::fs::read(previous("filter.wasm")).unwrap();
    versions::there_and_back(&Scene::new().unwrap(), &module).await.unwrap();
}
