//! Agents killed under load: how soon every sidecar denies, ends what is on its way, and lets nothing through any more.
//!
//! The mesh is that of the tests on real sidecars ([`tests::load`]): callers on connections of their own, each a witness of one
//! worker, call through the agent's own sidecar and straight at the service's. All of it shares the machine's cores, the
//! callers and the thousand polls too.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tests::load::killed::{self, Killed};
use tests::load::mesh::{LoadMesh, READER};

use crate::plan::Plan;
use crate::report::Report;
use crate::rounds::Summary;
use crate::row::{Bound, Row, Spec};
use crate::server::before::quantile;
use crate::server::polls::Polls;
use crate::server::stand;
use crate::table;

/// Kills of an agent.
const TRIALS: usize = 100;

/// Polls that are held while an agent is killed.
const HELD: usize = 1000;

/// VMs of a sidecar: two workers and the main thread. Each holds a poll.
const VMS: usize = 3;

/// How soon a kill must be felt.
const LIMIT_MS: f64 = 250.0;
const LIMIT: Duration = Duration::from_millis(250);

const ALONE: &str = "kills";
const BESIDE: &str = "kills-1000-polls";

/// The rows of this section.
pub(crate) const ROWS: &[Spec] = &[
    timed(
        ALONE,
        "kill-denied",
        "from a kill's command to a denial in every worker of two sidecars, p99",
    ),
    timed(
        ALONE,
        "kill-ended",
        "the same, to the end of all calls on their way, p99",
    ),
    passed(ALONE, "kill-passed"),
    timed(
        BESIDE,
        "kill-denied-1000",
        "to a denial in every worker, 1,000 polls held beside, p99",
    ),
    timed(
        BESIDE,
        "kill-ended-1000",
        "the same, to the end of all calls on their way, p99",
    ),
    timed(
        BESIDE,
        "kill-told-1000",
        "the same, to the last of the 1,000 polls told, p99",
    ),
    passed(BESIDE, "kill-passed-1000"),
];

const fn timed(group: &'static str, id: &'static str, work: &'static str) -> Spec {
    Spec {
        id,
        group,
        work,
        unit: "ms",
        peer: None,
        bound: Some(Bound::AtMost(LIMIT_MS)),
    }
}

const fn passed(group: &'static str, id: &'static str) -> Spec {
    Spec {
        id,
        group,
        work: "calls answered with success later than 250 ms after the acknowledgement",
        unit: "calls",
        peer: None,
        bound: Some(Bound::AtMost(0.0)),
    }
}

/// Measures what the plan wants of it.
///
/// # Errors
///
/// When the mesh does not start, or a call meets neither success nor the kill.
pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    stand::allow_open_files(1 << 14)?;
    for (group, held) in [(ALONE, 0), (BESIDE, plan.count(HELD))] {
        let mut rows = ROWS.iter().filter(|row| row.group == group);
        if rows.any(|row| plan.wants("kills", row)) {
            eprintln!("kills: beside {held} polls");
            let trials = trials(plan, held).await.context(group)?;
            trials.report(plan, report, group)?;
            table::show(report, plan)?;
        }
    }
    Ok(())
}

/// What came of all kills.
#[derive(Debug, Default)]
struct Trials {
    acknowledged: Vec<Duration>,
    /// To the last of each.
    denied: Vec<Duration>,
    ended: Vec<Duration>,
    told: Vec<Duration>,
    /// Calls that passed, and those of them that passed too late.
    passed: usize,
    late: usize,
    /// Calls that passed where the agent had been denied before.
    raised: usize,
}

async fn trials(plan: &Plan, held: usize) -> Result<Trials> {
    let config = json!({
        "token": {"maxTtlSeconds": 3600},
        // No renewal comes between a kill and the polls that are told of it.
        "state": {"renewSeconds": 1800, "maxAgeSeconds": 3600},
        "limits": {"connections": 1 << 14, "pollsPerPeer": 1 << 11},
    });
    let mesh = LoadMesh::start("bench-kills", config).await?;
    let mut polls = Polls::new();
    let whose = mesh.credential(READER)?.workload.clone();
    let others = VMS * mesh.envoys().len();
    polls
        .hold_beside(&mesh.policy_server, others, |_| whose.clone(), held)
        .await?;
    let mut trials = Trials::default();
    let count = if plan.quick { 1 } else { TRIALS };
    for _ in 0..count {
        let killed = killed::trial(&mesh).await?;
        if held > 0 {
            let told = polls.told(&killed.state_version).await?;
            trials.told.push(told.saturating_duration_since(killed.commanded));
        }
        trials.add(&killed);
    }
    drop(polls);
    mesh.forget()?;
    Ok(trials)
}

impl Trials {
    fn add(&mut self, killed: &Killed) {
        let last = |times: &[Duration]| times.iter().copied().max().unwrap_or_default();
        self.acknowledged.push(killed.acknowledged);
        self.denied.push(last(&killed.denied));
        self.ended.push(last(&killed.ended));
        let late = killed.acknowledged + LIMIT;
        self.late += killed.passed.iter().filter(|at| **at > late).count();
        self.passed += killed.passed.len();
        self.raised += killed.raised;
    }

    fn report(&self, plan: &Plan, report: &mut Report, group: &str) -> Result<()> {
        let times = [
            ("kill-denied", &self.denied),
            ("kill-ended", &self.ended),
            ("kill-told", &self.told),
        ];
        let mut said = Vec::new();
        for spec in ROWS.iter().filter(|row| row.group == group && plan.wants("kills", row)) {
            let found = times.iter().find(|(id, _)| spec.id.starts_with(id));
            let Some((_, times)) = found else {
                add(report, spec, self.late as f64)?;
                continue;
            };
            let of = |part| quantile(times, part).map(|time| time.as_secs_f64() * 1e3);
            add(report, spec, of(0.99)?)?;
            said.push(format!("{} {:.1} and {:.1}", spec.id, of(0.5)?, of(1.0)?));
        }
        let acknowledged = quantile(&self.acknowledged, 0.5)?.as_secs_f64() * 1e3;
        report.note(format!(
            "{group}: {} kills, acknowledged after {acknowledged:.1} ms in the median; p50 and most, in ms: {}; {} calls passed \
             after the command, {} of them where the agent had been denied before",
            self.acknowledged.len(),
            said.join(", "),
            self.passed,
            self.raised,
        ));
        Ok(())
    }
}

fn add(report: &mut Report, spec: &Spec, figure: f64) -> Result<()> {
    let figure = Summary::of(&[figure]).with_context(|| format!("nothing was measured for `{}`", spec.id))?;
    report.add(Row::new(spec, figure));
    Ok(())
}
