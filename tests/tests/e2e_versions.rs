//! Versions of the filter come and go under calls that never stop.
#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::json;
use tests::client::Call;
use tests::cluster::scene::{ALLOWED, Scene, told};
use tests::cluster::stage::authority;
use tests::cluster::versions::{self, Versions};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_of_the_filter_goes_to_one_workload_first_then_to_all_and_back() {
    let mut module = versions::this_version().unwrap();
    // A custom section that says nothing: 0, the length, and a name with its own length.
    module.extend(b"\x00\x06\x05later");
    versions::there_and_back(&Scene::new().unwrap(), &module).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_not_there_denies_where_it_is_named_and_nowhere_else() {
    let scene = Scene::new().unwrap();
    let load = scene.load().await.unwrap();
    let versions = Versions::canary(&scene, format!("sha256:{}", "0".repeat(64))).unwrap();
    let token = scene.token().await.unwrap();
    let report = || {
        Call::new("PUT", &authority("reports"), "/v1/reports/2026q1")
            .json(&json!({}))
            .bearer(&token)
    };
    // By Istio's own denial, and so without a code of ours.
    let denied = scene.cluster.until("Istio to deny", async || {
        (scene.outcome(report()).await.ok()? == "403").then_some(())
    });
    denied.await.unwrap();
    drop(versions);
    let passes = scene.cluster.until("the report to be taken", async || {
        (scene.outcome(report()).await.ok()? == "200").then_some(())
    });
    passes.await.unwrap();
    let tally = load.end().unwrap();
    println!("{}", told(&tally));
    scene.none_passed(&tally).unwrap();
    for name in ALLOWED {
        assert_eq!(tally.count(name, "2"), tally.made(name), "{:?}", tally.outcomes);
    }
}
