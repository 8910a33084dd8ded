//! The policy server alone, on its Unix socket: how much it takes in and hands out, and how soon all hear of a change.
//!
//! It stays on one core and what asks it on the other, where there are two; the callers are those that its own sidecar
//! would name. [`stand`] starts it; [`tokens`], [`records`] and [`polls`] are the callers.

mod audit;
pub(crate) mod before;
mod plain;
pub(crate) mod polls;
mod records;
pub(crate) mod stand;
mod tokens;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::load::ledger;

use crate::cpu::{self, Cores};
use crate::plan::Plan;
use crate::report::Report;
use crate::rounds::Summary;
use crate::row::{Bound, ENDURANCE, Latency, Row, Spec};
use crate::table;

use authz::policy::RecordMode;
use before::Calls;
use plain::Plain;
use polls::{Polls, VMS_A_WORKLOAD};
use records::Sources;
use stand::Stand;

/// Held polls, a few and many.
const FEW: usize = 1000;
const MANY: usize = 5000;

/// Times that memory is looked at, each in a server of its own.
const SERVERS: usize = 3;

/// Of the state list, where it is to change while it is watched, and where it is not.
const OFTEN_SECONDS: u64 = 2;
const SELDOM_SECONDS: u64 = 1800;

/// Times that an export is verified.
const VERIFIED: usize = 3;

const THROUGHPUT: &str = "server-throughput";
const POLLS: &str = "server-polls";
const RECORDING: &str = "recording";

/// The rows of this section.
pub(crate) const ROWS: &[Spec] = &[
    row(
        THROUGHPUT,
        "server-tokens",
        "tokens issued, each signed and durable",
        "tokens/s",
    ),
    row(
        THROUGHPUT,
        "server-token-cpu",
        "the same, the server's time on the processor",
        "us",
    ),
    row(
        THROUGHPUT,
        "sqlite-records",
        "records inserted by SQLite alone, durable, the same rows in the same groups",
        "records/s",
    ),
    Spec {
        bound: Some(Bound::AtLeast(10_000.0)),
        ..row(
            THROUGHPUT,
            "server-records",
            "records accepted, durable and in the tree, in batches of 512",
            "records/s",
        )
    },
    Spec {
        peer: Some("sqlite-records"),
        ..row(
            THROUGHPUT,
            "server-records-plain",
            "the same beside SQLite alone",
            "records/s",
        )
    },
    row(
        THROUGHPUT,
        "server-record-cpu",
        "the same, the server's time on the processor",
        "us",
    ),
    row(
        THROUGHPUT,
        "record-size",
        "what a record takes of the database, with tree and indexes",
        "KiB",
    ),
    Spec {
        bound: Some(Bound::AtLeast(200_000.0)),
        ..row(
            THROUGHPUT,
            "log-verify",
            "records of an export verified offline",
            "records/s",
        )
    },
    row(
        POLLS,
        "server-poll-1000",
        "memory of a held poll, 1,000 connections",
        "KiB",
    ),
    row(
        POLLS,
        "server-poll-5000",
        "memory of a held poll, 5,000 connections",
        "KiB",
    ),
    row(
        POLLS,
        "server-change",
        "from a policy file's change to the last of 1,000 polls answered",
        "ms",
    ),
    row(
        POLLS,
        "server-change-spread",
        "of that, from the first poll answered to the last",
        "ms",
    ),
    row(
        POLLS,
        "server-renewal-spread",
        "a new state list, from the first poll answered to the last",
        "ms",
    ),
    row(
        RECORDING,
        "disk-fsync",
        "16 KiB appended and synced on the database's disk, p99",
        "ms",
    ),
    row(
        RECORDING,
        "call-batched",
        "a call at 1,000 a second whose record follows, p99",
        "ms",
    ),
    Spec {
        bound: Some(Bound::AtMost(2.0)),
        ..row(
            RECORDING,
            "record-before",
            "the same that waits for its record, p99 above the disk's",
            "ms",
        )
    },
    Spec {
        bound: Some(Bound::AtMost(16.0)),
        ..row(
            ENDURANCE,
            "server-memory-10m",
            "memory that the server gains from one million records to ten",
            "MiB",
        )
    },
];

/// Records of an endurance run.
const MANY_RECORDS: u64 = 10_000_000;

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

/// Where samples become rows.
struct Rows<'a> {
    plan: &'a Plan,
    report: &'a mut Report,
}

impl Rows<'_> {
    fn wants(&self, ids: &[&str]) -> bool {
        let mut rows = ROWS.iter().filter(|row| ids.contains(&row.id));
        rows.any(|row| self.plan.wants("server", row))
    }

    fn add(&mut self, id: &str, samples: &[f64]) -> Result<()> {
        self.add_timed(id, samples, None)
    }

    fn add_timed(&mut self, id: &str, samples: &[f64], latency: Option<Latency>) -> Result<()> {
        let spec = spec(id)?;
        if self.plan.wants("server", spec) {
            self.report.add(Row {
                latency,
                ..Row::new(spec, summary(id, samples)?)
            });
        }
        Ok(())
    }
}

impl Rows<'_> {
    /// A row with its ratio to its peer, round by round.
    fn add_compared(&mut self, id: &str, samples: &[f64], ratios: &[f64]) -> Result<()> {
        let spec = spec(id)?;
        if self.plan.wants("server", spec) {
            let mut row = Row::new(spec, summary(id, samples)?);
            row.compared(Summary::of(ratios));
            self.report.add(row);
        }
        Ok(())
    }
}

fn spec(id: &str) -> Result<&'static Spec> {
    ROWS.iter()
        .find(|row| row.id == id)
        .with_context(|| format!("no row `{id}`"))
}

fn summary(id: &str, samples: &[f64]) -> Result<Summary> {
    Summary::of(samples).with_context(|| format!("nothing was measured for `{id}`"))
}

/// Measures what the plan wants of it.
///
/// # Errors
///
/// When the server does not start, takes what it must refuse, or loses what it accepted.
pub(crate) async fn run(plan: &Plan, report: &mut Report) -> Result<()> {
    stand::allow_open_files(1 << 14)?;
    let mut rows = Rows { plan, report };
    if rows.wants(&[
        "server-tokens",
        "server-token-cpu",
        "sqlite-records",
        "server-records",
        "server-records-plain",
        "server-record-cpu",
        "record-size",
        "log-verify",
    ]) {
        eprintln!("server: tokens and records");
        throughput(&mut rows).await.context(THROUGHPUT)?;
        table::show(rows.report, plan)?;
    }
    if rows.wants(&["server-poll-1000", "server-poll-5000"]) {
        eprintln!("server: memory of polls");
        memory(&mut rows).await.context(POLLS)?;
        table::show(rows.report, plan)?;
    }
    if rows.wants(&["server-change", "server-change-spread"]) {
        eprintln!("server: a change of policy");
        change(&mut rows).await.context(POLLS)?;
        table::show(rows.report, plan)?;
    }
    if rows.wants(&["server-renewal-spread"]) {
        eprintln!("server: a renewal of the state list");
        renewal(&mut rows).await.context(POLLS)?;
        table::show(rows.report, plan)?;
    }
    if rows.wants(&["disk-fsync", "call-batched", "record-before"]) {
        eprintln!("server: calls that wait for their records");
        recording(&mut rows).await.context(RECORDING)?;
        table::show(rows.report, plan)?;
    }
    if rows.wants(&["server-memory-10m"]) {
        eprintln!("server: memory over ten million records");
        endurance(&mut rows).await.context(ENDURANCE)?;
        table::show(rows.report, plan)?;
    }
    Ok(())
}

/// Starts a server and puts it on its core, and this thread on the other until the answer is dropped.
async fn start(name: &str, agents: usize, renew_seconds: u64) -> Result<(Stand, Option<cpu::Kept>)> {
    let stand = Stand::start(name, agents, renew_seconds).await?;
    let cores = Cores::find()?;
    if let Some(cores) = cores {
        cores.keep_measured(stand.process()?.id())?;
    }
    Ok((stand, cores.map(Cores::keep_generator).transpose()?))
}

async fn throughput(rows: &mut Rows<'_>) -> Result<()> {
    let (mut stand, kept) = start("bench-server", 100, SELDOM_SECONDS).await?;
    tokens::check(&stand).await?;
    records::check(&stand).await?;
    let length = Duration::from_millis(if rows.plan.quick { 200 } else { 2000 });
    let batches = if rows.plan.quick { 1 } else { 4 };
    let (mut issued, mut issue_cpu) = (Vec::new(), Vec::new());
    let (mut stored, mut store_cpu) = (Vec::new(), Vec::new());
    let mut sources = Sources::new(&stand)?;
    let mut plain = Plain::create(&stand.folder().join("plain.db")).await?;
    let (mut inserted, mut ratios) = (Vec::new(), Vec::new());
    // One round of each to warm up.
    tokens::ask(&stand, length / 4).await?;
    let sealed = sources.seal(1)?;
    insert(&mut plain, &sealed).await?;
    sources.post(sealed).await?;
    for _ in 0..rows.plan.rounds() {
        let before = cpu::used(stand.process()?.id())?;
        let (count, took) = tokens::ask(&stand, length).await?;
        let between = cpu::used(stand.process()?.id())?;
        issued.push(count as f64 / took.as_secs_f64());
        issue_cpu.push(micros(between.saturating_sub(before)) / count as f64);
        let sealed = sources.seal(batches)?;
        let alone = insert(&mut plain, &sealed).await?;
        let (count, took) = sources.post(sealed).await?;
        let after = cpu::used(stand.process()?.id())?;
        inserted.push(count as f64 / alone.as_secs_f64());
        stored.push(count as f64 / took.as_secs_f64());
        ratios.push(alone.as_secs_f64() / took.as_secs_f64());
        store_cpu.push(micros(after.saturating_sub(between)) / count as f64);
    }
    // Nothing is measured beside it from here on: an auditor's command has all cores.
    drop(kept);
    let exported = audit::export_all(&stand, sources.acknowledged()).await?;
    exported.check()?;
    let mut verified = Vec::new();
    for _ in 0..VERIFIED {
        verified.push(exported.records as f64 / exported.verify()?.as_secs_f64());
    }
    stand.server.kill_server();
    let durable = ledger::count(&stand.database()).await?;
    let bytes = ledger::bytes(&stand.database()).await?;
    ensure!(
        durable >= sources.acknowledged(),
        "after a kill {durable} records are stored, and {} were acknowledged",
        sources.acknowledged()
    );
    rows.add("server-tokens", &issued)?;
    rows.add("server-token-cpu", &issue_cpu)?;
    rows.add("sqlite-records", &inserted)?;
    rows.add("server-records", &stored)?;
    rows.add_compared("server-records-plain", &stored, &ratios)?;
    rows.add("server-record-cpu", &store_cpu)?;
    rows.add("record-size", &[bytes as f64 / 1024.0 / durable as f64])?;
    rows.add("log-verify", &verified)?;
    rows.report
        .note("server: all records that were acknowledged were there after the server was killed");
    stand.forget()
}

/// Inserts what sources post at once as one group, as the server does; answers how long it took in all.
async fn insert(plain: &mut Plain, sealed: &[Vec<Vec<u8>>]) -> Result<Duration> {
    let mut took = Duration::ZERO;
    for group in 0..sealed.first().map_or(0, Vec::len) {
        let bodies = sealed.iter().filter_map(|bodies| bodies.get(group));
        let rows: Result<Vec<_>> = bodies.map(|body| plain::rows(body)).collect();
        took += plain.insert(&rows?.into_iter().flatten().collect::<Vec<_>>()).await?;
    }
    Ok(took)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The polls of the two rows, and the agents that they take.
fn sizes(plan: &Plan) -> (usize, usize, usize) {
    let (few, many) = (plan.count(FEW), plan.count(MANY));
    (few, many, many.div_ceil(VMS_A_WORKLOAD))
}

async fn memory(rows: &mut Rows<'_>) -> Result<()> {
    let (few, many, agents) = sizes(rows.plan);
    let servers = if rows.plan.quick { 1 } else { SERVERS };
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..servers {
        let (stand, _kept) = start("bench-server", agents, SELDOM_SECONDS).await?;
        polls::check(&stand).await?;
        polls::warm(&stand).await?;
        let none = stand.resident_kib()? as f64;
        let mut polls = Polls::new();
        for (count, samples) in [few, many].into_iter().zip(&mut samples) {
            polls.hold(&stand, count).await?;
            samples.push((stand.resident_kib()? as f64 - none) / count as f64);
        }
        drop(polls);
        stand.forget()?;
    }
    let [few, many] = samples;
    rows.add("server-poll-1000", &few)?;
    rows.add("server-poll-5000", &many)
}

async fn change(rows: &mut Rows<'_>) -> Result<()> {
    let (few, _, agents) = sizes(rows.plan);
    let (stand, _kept) = start("bench-server", agents, SELDOM_SECONDS).await?;
    polls::check(&stand).await?;
    let mut polls = Polls::new();
    polls.hold(&stand, few).await?;
    let (mut whole, mut spread) = (Vec::new(), Vec::new());
    for round in 0..rows.plan.rounds() {
        let change = || stand.population.change_service(round + 1);
        let (first, last) = polls.tell(change).await?;
        whole.push(millis(last));
        spread.push(millis(last - first));
    }
    drop(polls);
    rows.add("server-change", &whole)?;
    rows.add("server-change-spread", &spread)?;
    stand.forget()
}

async fn renewal(rows: &mut Rows<'_>) -> Result<()> {
    let (few, _, agents) = sizes(rows.plan);
    let (stand, _kept) = start("bench-server", agents, OFTEN_SECONDS).await?;
    let mut polls = Polls::new();
    polls.hold(&stand, few).await?;
    let mut spread = Vec::new();
    for _ in 0..rows.plan.rounds() {
        spread.push(millis(polls.renewal().await?));
    }
    drop(polls);
    rows.add("server-renewal-spread", &spread)?;
    stand.forget()
}

/// The server's memory while records come without end.
async fn endurance(rows: &mut Rows<'_>) -> Result<()> {
    let (stand, _kept) = start("bench-endurance", 100, SELDOM_SECONDS).await?;
    let mut sources = Sources::new(&stand)?;
    let most = if rows.plan.quick { 10_000 } else { MANY_RECORDS };
    let mut resident = Vec::new();
    while sources.acknowledged() < most {
        let sealed = sources.seal(4)?;
        sources.post(sealed).await?;
        if sources.acknowledged() >= most / 10 {
            resident.push(stand.resident_kib()? as f64 / 1024.0);
        }
    }
    let before = resident.first().copied().unwrap_or_default();
    let after = resident.iter().copied().fold(before, f64::max);
    rows.add("server-memory-10m", &[after - before])?;
    rows.report.note(format!(
        "endurance: {} records; the server had {before:.0} MiB after a tenth of them, and never more than {after:.0} from there on",
        sources.acknowledged()
    ));
    stand.forget()
}

/// Both kinds of calls and the disk take turns, so that what the machine does meanwhile happens to all.
async fn recording(rows: &mut Rows<'_>) -> Result<()> {
    let mut batched = Calls::start("bench-batched", RecordMode::Batched).await?;
    let mut waiting = Calls::start("bench-before", RecordMode::Before).await?;
    let count = rows.plan.count(before::CALLS_A_ROUND);
    batched.make(count).await?;
    waiting.make(count).await?;
    let (mut disk, mut above) = (Vec::new(), Vec::new());
    let (mut plain, mut held) = (Vec::new(), Vec::new());
    for _ in 0..rows.plan.rounds() {
        let synced = before::quantile(&waiting.sync(rows.plan.count(before::SYNCS_A_ROUND))?, 0.99)?;
        plain.extend(batched.make(count).await?);
        let times = waiting.make(count).await?;
        above.push(millis(before::quantile(&times, 0.99)?) - millis(synced));
        disk.push(millis(synced));
        held.extend(times);
    }
    waiting.check().await?;
    rows.add("disk-fsync", &disk)?;
    let follows = before::latency(&plain)?;
    rows.add_timed("call-batched", &[follows.p99_us / 1e3], Some(follows))?;
    rows.add_timed("record-before", &above, Some(before::latency(&held)?))?;
    batched.forget()?;
    waiting.forget()
}
