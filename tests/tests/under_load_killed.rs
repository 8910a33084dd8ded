//! An agent that is killed while it calls as fast as it can: once a sidecar's worker has denied it, nothing of it passes there
//! any more. How soon that is, the bench measures over more trials.
#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::json;
use tests::load::killed;
use tests::load::mesh::LoadMesh;

const TRIALS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_killed_agent_passes_where_it_has_been_denied() {
    let config = json!({"token": {"maxTtlSeconds": 3600}});
    let mesh = LoadMesh::start("load-killed", config).await.unwrap();
    for _ in 0..TRIALS {
        let killed = killed::trial(&mesh).await.unwrap();
        println!("{killed:?}");
        assert_eq!(killed.raised, 0);
        assert!(!killed.denied.is_empty() && !killed.ended.is_empty());
    }
}
