//! What the filter adds to an Envoy's memory, by the size of the policy, and what a change of it moves.
//!
//! The policy server, its sidecar and the service's sidecar are real, so whatever way of telling a change the two have
//! is the one that is measured. Figures of memory are the resident memory of the service's Envoy above that of one with
//! the no-op module, over the number of VMs: three workers and the main thread. [`mesh`] starts them; [`process`] reads
//! the memory.

mod mesh;
mod process;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::built;

use crate::plan::Plan;
use crate::report::Report;
use crate::rounds::Summary;
use crate::row::{Bound, Row, Spec};
use crate::table;

use mesh::{Mesh, VMS};

const MODULE: &str = "module";
const STEADY: &str = "vm-steady";
const RELOAD: &str = "vm-reload";
const CHANGE: &str = "change-bytes";

/// Times that a sidecar is started for one figure.
const STARTS: usize = 3;

/// Agents in the policy.
const SIZES: [usize; 5] = [1, 10, 100, 1000, 10_000];

/// The rows of this section.
pub(crate) const ROWS: &[Spec] = &[
    Spec {
        bound: Some(Bound::AtMost(1.0)),
        ..row(MODULE, "filter-size", "size of the .wasm", "MiB")
    },
    Spec {
        peer: Some("first-verdict-noop"),
        ..row(
            MODULE,
            "first-verdict",
            "from Envoy's start to the first permit, policy polled",
            "ms",
        )
    },
    row(
        MODULE,
        "first-verdict-noop",
        "from Envoy's start to the first answer, no-op module",
        "ms",
    ),
    row(
        STEADY,
        "vm-steady-1",
        "resident memory of a VM above a no-op module's, after a reload; 1 agent",
        "MiB",
    ),
    row(STEADY, "vm-steady-10", "10 agents", "MiB"),
    row(STEADY, "vm-steady-100", "100 agents", "MiB"),
    row(STEADY, "vm-steady-1000", "1,000 agents", "MiB"),
    Spec {
        bound: Some(Bound::AtMost(6.0)),
        ..row(STEADY, "vm-steady-10000", "10,000 agents", "MiB")
    },
    row(
        RELOAD,
        "vm-reload-1",
        "the most while it takes a new bundle over; 1 agent",
        "MiB",
    ),
    row(RELOAD, "vm-reload-10", "10 agents", "MiB"),
    row(RELOAD, "vm-reload-100", "100 agents", "MiB"),
    row(RELOAD, "vm-reload-1000", "1,000 agents", "MiB"),
    Spec {
        bound: Some(Bound::AtMost(16.0)),
        ..row(RELOAD, "vm-reload-10000", "10,000 agents", "MiB")
    },
    row(CHANGE, "change-bytes-1", "bytes sent a VM, 1 agent", "KiB"),
    row(CHANGE, "change-bytes-10", "bytes sent a VM, 10 agents", "KiB"),
    row(CHANGE, "change-bytes-100", "bytes sent a VM, 100 agents", "KiB"),
    row(CHANGE, "change-bytes-1000", "bytes sent a VM, 1,000 agents", "KiB"),
    row(CHANGE, "change-bytes-10000", "bytes sent a VM, 10,000 agents", "KiB"),
];

const fn row(group: &'static str, id: &'static str, work: &'static str, unit: &'static str) -> Spec {
    Spec {
        id,
        group,
        work,
        unit,
        peer: None,
        bound: None,
    }
}

/// What was measured, by row.
#[derive(Debug, Default)]
struct Samples(Vec<(String, f64)>);

impl Samples {
    fn push(&mut self, id: impl Into<String>, value: f64) {
        self.0.push((id.into(), value));
    }

    fn of(&self, id: &str) -> Vec<f64> {
        let mine = self.0.iter().filter(|(name, _)| name == id);
        mine.map(|(_, value)| *value).collect()
    }
}

/// Measures what the plan wants of it.
///
/// # Errors
///
/// When a part does not start, or the filter does not get its policy or lets a bad token pass.
pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    let wanted = || ROWS.iter().filter(|row| plan.wants("memory", row));
    let mut samples = Samples::default();
    samples.push("filter-size", std::fs::metadata(built::filter()?)?.len() as f64 / MIB);
    if wanted().any(|row| row.id.starts_with("first-verdict")) {
        eprintln!("memory: first verdict");
        first_verdict(plan, &mut samples).await?;
    }
    let mut noop = None;
    for agents in SIZES {
        let ids = [STEADY, RELOAD, CHANGE].map(|row| format!("{row}-{agents}"));
        if !wanted().any(|row| ids.iter().any(|id| id == row.id)) {
            continue;
        }
        eprintln!("memory: {agents} agents");
        policy_size(plan, agents, &mut noop, &mut samples)
            .await
            .with_context(|| format!("{agents} agents"))?;
    }
    for spec in wanted() {
        let figure = Summary::of(&samples.of(spec.id));
        let figure = figure.with_context(|| format!("nothing was measured for `{}`", spec.id))?;
        report.add(Row::new(spec, figure));
    }
    table::show(report, plan)
}

const MIB: f64 = (1 << 20) as f64;

fn starts(plan: &Plan) -> usize {
    if plan.quick { 1 } else { STARTS }
}

/// For how many looks memory must be at rest.
fn rest_looks(plan: &Plan) -> usize {
    if plan.quick { 3 } else { 15 }
}

/// The time to the first answer, of the filter and of the no-op module in turns.
async fn first_verdict(plan: &Plan, samples: &mut Samples) -> Result<()> {
    let mesh = Mesh::start(10).await?;
    for _ in 0..plan.rounds().min(5) {
        for (id, filter) in [("first-verdict-noop", false), ("first-verdict", true)] {
            let start = Instant::now();
            let envoy = if filter { mesh.filter()? } else { mesh.noop()? };
            mesh.first_answer(&envoy).await?;
            samples.push(id, start.elapsed().as_secs_f64() * 1e3);
            if filter {
                mesh.check_denies().await?;
            }
        }
    }
    mesh.forget()
}

/// Memory and bytes with a policy of so many agents. `noop` is what an Envoy with the no-op module takes, once known.
async fn policy_size(plan: &Plan, agents: usize, noop: &mut Option<f64>, samples: &mut Samples) -> Result<()> {
    let size = plan.agents(agents);
    let mesh = Mesh::start(size).await?;
    let base = match *noop {
        Some(base) => base,
        None => *noop.insert(resident_noop(plan, &mesh).await?),
    };
    let above = |bytes: u64| (bytes as f64 - base) / MIB / f64::from(VMS);
    for start in 0..starts(plan) {
        let envoy = mesh.filter()?;
        envoy.ready().await?;
        mesh.adopted(&envoy, 0).await?;
        mesh.check_denies().await?;
        process::settled(envoy.process().id(), rest_looks(plan)).await?;
        let before = mesh.told(&envoy).await?;
        process::reset_peak(envoy.process().id())?;
        mesh.population.change_agent(size / 2, start + 1)?;
        mesh.adopted(&envoy, before.answers).await?;
        let after = mesh.told(&envoy).await?;
        let settled = process::settled(envoy.process().id(), rest_looks(plan)).await?;
        let peak = process::memory(envoy.process().id())?.peak;
        samples.push(format!("{STEADY}-{agents}"), above(settled));
        samples.push(format!("{RELOAD}-{agents}"), above(peak));
        let bytes = after.bytes.saturating_sub(before.bytes) as f64;
        samples.push(format!("{CHANGE}-{agents}"), bytes / 1024.0 / f64::from(VMS));
    }
    mesh.forget()
}

/// The median of what Envoys with the no-op module take.
async fn resident_noop(plan: &Plan, mesh: &Mesh) -> Result<f64> {
    let mut taken = Vec::new();
    for _ in 0..starts(plan) {
        let envoy = mesh.noop()?;
        mesh.first_answer(&envoy).await?;
        taken.push(process::settled(envoy.process().id(), rest_looks(plan)).await? as f64);
    }
    Ok(Summary::of(&taken).context("no Envoy was started")?.median)
}

/// How long anything here may take.
const LIMIT: Duration = Duration::from_secs(120);
