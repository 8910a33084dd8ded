//! The demo's whole table in injected pods, whose configuration and certificates come from istiod and whose filter came by
//! WasmPlugin.
#![expect(clippy::unwrap_used, reason = "tests")]

use tests::cluster::Cluster;
use tests::cluster::stage::Demo;
use tests::demo;

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_demo_is_as_expected_in_a_cluster() {
    let cluster = Cluster::connect().unwrap();
    let stage = Demo::new(&cluster).await.unwrap();
    println!("{}", demo::head());
    let mut rows = 0;
    let mismatches = demo::tell(&stage, &mut |row| {
        println!("{row}");
        rows += 1;
    })
    .await
    .unwrap();
    assert_eq!(mismatches, 0, "see the table above");
    assert!(rows >= 46, "the story has {rows} lines");
}
