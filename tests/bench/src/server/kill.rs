//! The kill switch, through two real sidecars under load, while as many polls are held as a mesh of some hundred pods has.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tests::load::killed;
use tests::load::mesh::{ANALYST, LoadMesh};
use tests::pki::Workload;

use super::polls::Polls;
use super::{FEW, KILL_BOUND_MS, Rows, before, millis};

/// Kills in all.
const TRIALS: usize = 100;

/// What one call may wait beside what the machine does: it is begun before it is known that its time is over.
const GRACE: Duration = Duration::from_millis(1);

/// Kills an agent again and again.
///
/// # Errors
///
/// When a part fails, or a call passes that may not.
pub(super) async fn run(rows: &mut Rows<'_>) -> Result<()> {
    let config = json!({
        "token": {"maxTtlSeconds": 3600},
        "limits": {"connections": 1 << 14, "pollsPerPeer": 1 << 14},
    });
    let mesh = LoadMesh::start("bench-kill", config).await?;
    let mut polls = Polls::new();
    let server = &mesh.policy_server;
    let poller = server.direct().within(Duration::from_secs(60));
    let count = rows.plan.count(FEW);
    polls.hold_as(&poller, &Workload::new("agents", ANALYST), count).await?;
    let (mut acknowledged, mut denied, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    let mut late = 0;
    for _ in 0..rows.plan.count(TRIALS) {
        let killed = killed::trial(&mesh).await?;
        ensure!(
            killed.raised == 0,
            "a call passed where the agent had been denied: {killed:?}"
        );
        let bound = killed.acknowledged + Duration::from_secs_f64(KILL_BOUND_MS / 1e3) + GRACE;
        late += usize::from(killed.last_passed > bound);
        acknowledged.push(killed.acknowledged);
        denied.extend(killed.denied);
        ended.extend(killed.ended);
    }
    ensure!(
        late == 0,
        "in {late} trials a call passed that was begun after the bound"
    );
    ensure!(polls.are_held(), "not all polls were held to the end");
    for (id, times) in [
        ("kill-acknowledged", acknowledged),
        ("kill-denied", denied),
        ("kill-ended", ended),
    ] {
        rows.add(id, &[millis(before::quantile(&times, 0.99)?)])?;
    }
    rows.report
        .note("kill: no call of the agent passed that was begun after the acknowledgement and the bound");
    drop(polls);
    mesh.forget()
}
