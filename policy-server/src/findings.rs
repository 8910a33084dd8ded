//! Reconciliation: a task that reads the log in its order and finds calls that only one of their two sides saw, or that
//! both saw differently. What is wrong with a call is decided by [`authz::witness`].
//!
//! A side that is silent proves nothing while its sidecar may be gone: a call is judged only if sidecars of both workloads
//! live, by the polls that this server knows ([`crate::keys::sources`]), and none of them is silent: polls and sends neither
//! records nor heartbeats, which is told by itself. After a start it waits until every sidecar that
//! lives can have polled. How far calls have been judged is stored; what was open is read again after a crash.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use authz::audit::{self, Record, SourceId};
use authz::identity::SpiffeId;
use authz::manifest::Mesh;
use authz::request::Side;
use authz::witness::{self, Candidate, Judgement, Matcher, Mismatch, Phase, Sighting};
use memchr::memmem;
use tokio::sync::watch;

use crate::app::App;
use crate::keys::sources::Telling;
use crate::store::StoreError;
use crate::store::findings::{Finding, Judged};
use crate::store::risk::ReceivedRecord;

/// Records read in one step.
const RECORDS: u32 = 1024;

/// How long records gather before the next step.
const GATHER: Duration = Duration::from_millis(500);

/// How long it waits when the database fails.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Calls of which one side has told and not the other.
const MOST_OPEN: usize = 1 << 15;

/// Calls that wait until it is known which sidecars live.
const MOST_WAITING: usize = 4096;

/// The records of a call that are looked at; the one that made it suspicious is always among them.
const RECORDS_OF_A_CALL: u32 = 64;

/// How often progress is stored while nothing is found, in milliseconds: what lies between is read again after a crash.
const SAVE_EVERY_MS: u64 = 5_000;

/// Between two lines in the log of one finding.
const BETWEEN_LINES_MS: u64 = 60_000;

/// What stands in a record that names tools whose definitions drifted.
const DRIFTED: &[u8] = b"\"drifted\":[";

/// Judges what is stored until the server stops.
pub(crate) async fn run(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let started_ms = app.clock.millis();
    let mut reader = None;
    loop {
        let began = Instant::now();
        let pause = match step(&app, &mut reader, started_ms).await {
            // There is more. It is half the time that is taken, and the other half is for those who accept records.
            Ok(true) => began.elapsed(),
            Ok(false) => GATHER,
            Err(error) => {
                app.metrics.store_failures.inc();
                tracing::error!(%error, "calls could not be judged");
                // What is stored counts.
                reader = None;
                AFTER_FAILURE
            }
        };
        if tokio::time::timeout(pause, stop.wait_for(|stop| *stop)).await.is_ok() {
            return;
        }
    }
}

/// How far the task has come.
struct Reader {
    matcher: Matcher,
    /// The last record that was read.
    read: u64,
    /// Calls that cannot be judged yet, by position.
    waiting: BTreeMap<u64, Vec<Candidate>>,
    saved: u64,
    saved_at_ms: u64,
    lines: Lines,
    /// Sources that have been told to be silent.
    silent: BTreeSet<SourceId>,
}

/// When findings were last told in the server's log.
#[derive(Default)]
struct Lines(HashMap<(String, String, Mismatch), u64>);

/// What came of judging a call.
enum Outcome {
    /// Nothing is wrong, or it is not ours to judge.
    Fine,
    Found(Box<Finding>),
    /// It is not known yet which sidecars live.
    Wait,
    /// One of its sidecars is not known to live.
    Unjudged,
}

impl Reader {
    async fn open(app: &App) -> Result<Self, StoreError> {
        let position = app.store().judged().await?;
        Ok(Self {
            matcher: Matcher::new(MOST_OPEN),
            read: position,
            waiting: BTreeMap::new(),
            saved: position,
            saved_at_ms: app.clock.millis(),
            lines: Lines::default(),
            silent: BTreeSet::new(),
        })
    }

    /// Every call whose first record stands here or before has been judged.
    fn judged(&self) -> u64 {
        let open = [self.matcher.oldest(), self.waiting.keys().next().copied()];
        let open = open.into_iter().flatten().min();
        open.map_or(self.read, |oldest| oldest.saturating_sub(1))
    }
}

/// Reads the next records and judges what is due; says whether there are more.
async fn step(app: &App, reader: &mut Option<Reader>, started_ms: u64) -> Result<bool, StoreError> {
    let reader = match reader {
        Some(reader) => reader,
        None => reader.insert(Reader::open(app).await?),
    };
    let now_ms = app.clock.millis();
    tell_silent(app, &mut reader.silent);
    let received = app.recent.after(app.store(), reader.read, RECORDS).await?;
    let mut at_ms = now_ms;
    let mut findings = Vec::new();
    for record in &received {
        reader.read = record.position;
        at_ms = record.received_at_ms;
        findings.extend(drift(record));
        if let Some(sighting) = Sighting::read(&record.canonical) {
            // Sidecars that could not reach this server while it was down send what they held when it is back.
            let since_ms = record.received_at_ms.max(started_ms);
            reader.matcher.see(record.position, since_ms, sighting);
        }
    }
    let more = received.len() == RECORDS as usize;
    // While the log is being read, its time is that of what was read last: the other side may stand just behind.
    let at_ms = if more { at_ms } else { now_ms };
    let window_ms = u64::try_from(app.config.reconcile_window.as_millis()).unwrap_or(u64::MAX);
    let mut due: Vec<Candidate> = std::mem::take(&mut reader.waiting).into_values().flatten().collect();
    while let Some(candidate) = at_ms.checked_sub(window_ms).and_then(|at| reader.matcher.due(at)) {
        due.push(candidate);
    }
    let mut unjudged = reader.matcher.take_dropped();
    for (place, candidate) in due.into_iter().enumerate() {
        match judge(app, &candidate).await? {
            Outcome::Fine => {}
            Outcome::Found(finding) => findings.push(*finding),
            Outcome::Wait if place < MOST_WAITING => {
                reader.waiting.entry(candidate.position).or_default().push(candidate);
            }
            Outcome::Wait | Outcome::Unjudged => unjudged += 1,
        }
    }
    app.metrics.calls_unjudged.inc_by(unjudged);
    save(app, reader, findings, now_ms).await?;
    Ok(more)
}

/// Tells of sources that fell silent while their sidecars live, once each.
fn tell_silent(app: &App, told: &mut BTreeSet<SourceId>) {
    let silent: Vec<_> = app.sources.telling().into_iter().filter(Telling::is_silent).collect();
    for telling in silent.iter().filter(|telling| !told.contains(&telling.writes.source)) {
        tracing::warn!(
            workload = %telling.workload,
            source = %telling.writes.source,
            quiet_seconds = telling.quiet.as_secs(),
            "a sidecar lives and sends no records"
        );
    }
    *told = silent.iter().map(|telling| telling.writes.source).collect();
}

/// Stores what was found and how far judging has come, and tells of it.
async fn save(app: &App, reader: &mut Reader, findings: Vec<Finding>, now_ms: u64) -> Result<(), StoreError> {
    let judged = Judged {
        position: reader.judged(),
        findings,
    };
    let is_due = now_ms.saturating_sub(reader.saved_at_ms) >= SAVE_EVERY_MS && judged.position > reader.saved;
    if judged.findings.is_empty() && !is_due {
        return Ok(());
    }
    app.store().save_judged(&judged).await?;
    (reader.saved, reader.saved_at_ms) = (judged.position, now_ms);
    for finding in &judged.findings {
        app.metrics.finding(finding.mismatch.as_str());
        if reader.lines.is_due(finding, now_ms) {
            tracing::warn!(
                caller = finding.caller,
                callee = finding.callee,
                kind = finding.mismatch.as_str(),
                call = finding.call,
                position = finding.position,
                why = finding.why,
                "{}",
                headline(finding.mismatch)
            );
        }
    }
    Ok(())
}

/// What a finding is called.
pub(crate) fn headline(mismatch: Mismatch) -> &'static str {
    match mismatch {
        Mismatch::ServiceOnly | Mismatch::CallerOnly | Mismatch::Differs => "an unobserved path",
        Mismatch::Drifted => "a changed definition",
    }
}

/// Tools that a service has defined otherwise than its file pins them, as its own side saw in a list.
fn drift(received: &ReceivedRecord) -> Option<Finding> {
    // Nearly no record has it.
    memmem::find(&received.canonical, DRIFTED)?;
    let (_, record) = audit::read(&received.canonical).ok()?;
    if record.side != Some(Side::Inbound) || record.drifted.is_empty() {
        return None;
    }
    let judgement = Judgement {
        mismatch: Mismatch::Drifted,
        why: "it defines tools otherwise than its file pins them",
    };
    let tools: Vec<String> = record.drifted.iter().map(|tool| format!("`{tool}`")).collect();
    let candidate = Candidate {
        position: received.position,
        call: record.call.as_deref().map(str::to_owned),
        caller: record.peer.as_deref()?.to_owned(),
        phase: Phase::Ended,
    };
    let callee = record.workload.as_deref()?.parse().ok()?;
    Some(Finding {
        why: format!("{}: {}", judgement.why, tools.join(", ")),
        ..finding(&candidate, &callee, judgement, &record)
    })
}

impl Lines {
    fn is_due(&mut self, finding: &Finding, now_ms: u64) -> bool {
        // As many as there are pairs of workloads; should they come and go, some are told once more.
        if self.0.len() >= MOST_WAITING {
            self.0.clear();
        }
        let key = (finding.caller.clone(), finding.callee.clone(), finding.mismatch);
        let last = self.0.get(&key);
        let due = last.is_none_or(|last| now_ms.saturating_sub(*last) >= BETWEEN_LINES_MS);
        if due {
            self.0.insert(key, now_ms);
        }
        due
    }
}

/// Judges a call by all that is stored of it.
async fn judge(app: &App, candidate: &Candidate) -> Result<Outcome, StoreError> {
    // Without a policy nobody knows who has a sidecar.
    let Some(mesh) = app.feed.policy() else {
        return Ok(Outcome::Wait);
    };
    let Ok(caller) = SpiffeId::parse(&candidate.caller) else {
        return Ok(Outcome::Fine);
    };
    // An exempt caller need not have a sidecar with the filter.
    if !mesh.names(&caller) {
        return Ok(Outcome::Fine);
    }
    // Before the log is read: calls of a caller that lives without a sidecar may be very many.
    if let Some(outcome) = unjudged(app, &caller) {
        return Ok(outcome);
    }
    let records = records(app, candidate).await?;
    let Some(judgement) = witness::judge(&records, candidate.phase) else {
        return Ok(Outcome::Fine);
    };
    let Some((callee, told)) = told(&records, judgement, &mesh) else {
        return Ok(Outcome::Unjudged);
    };
    if let Some(outcome) = unjudged(app, &callee) {
        return Ok(outcome);
    }
    Ok(Outcome::Found(Box::new(finding(candidate, &callee, judgement, told))))
}

/// What becomes of a call of which this workload is a side, if that says why it cannot be judged.
fn unjudged(app: &App, workload: &SpiffeId) -> Option<Outcome> {
    if !app.sources.lives_for(workload) {
        let is_known = app.sources.all_known_in().is_zero();
        return Some(if is_known { Outcome::Unjudged } else { Outcome::Wait });
    }
    // Whose records do not come at all is told as such.
    app.sources.is_silent(workload).then_some(Outcome::Unjudged)
}

/// The records of a call, by the caller that the candidate names.
async fn records(app: &App, candidate: &Candidate) -> Result<Vec<Record<'static>>, StoreError> {
    let own = app.store().records_from(candidate.position, 1).await?;
    let mut stored = match &candidate.call {
        Some(call) => app.store().records_of_call(call, RECORDS_OF_A_CALL).await?,
        None => Vec::new(),
    };
    if !stored.iter().any(|record| record.position == candidate.position) {
        stored.extend(own);
    }
    // They were verified before they were stored.
    let records = stored.iter().filter_map(|record| audit::read(&record.canonical).ok());
    let of_caller = records.map(|(_, record)| record).filter(|record| {
        let caller = match record.side {
            Some(Side::Outbound) => &record.workload,
            Some(Side::Inbound) | None => &record.peer,
        };
        caller.as_deref() == Some(&*candidate.caller)
    });
    Ok(of_caller.collect())
}

/// The workload that a call was for, and the record that tells of it best: of the side that saw it.
fn told<'r>(
    records: &'r [Record<'static>],
    judgement: Judgement,
    mesh: &Mesh,
) -> Option<(SpiffeId, &'r Record<'static>)> {
    let side = match judgement.mismatch {
        Mismatch::CallerOnly => Side::Outbound,
        Mismatch::ServiceOnly | Mismatch::Differs | Mismatch::Drifted => Side::Inbound,
    };
    let told = records.iter().rfind(|record| record.side == Some(side))?;
    let callee = match side {
        Side::Inbound => told.workload.as_deref()?.parse().ok()?,
        Side::Outbound => {
            let id = told.service.as_deref()?;
            let service = mesh.services().iter().find(|service| service.id.as_str() == id);
            service?.identity.clone()
        }
    };
    Some((callee, told))
}

fn finding(candidate: &Candidate, callee: &SpiffeId, judgement: Judgement, told: &Record<'_>) -> Finding {
    let owned = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
    Finding {
        caller: candidate.caller.clone(),
        callee: callee.to_string(),
        mismatch: judgement.mismatch,
        why: judgement.why.to_owned(),
        service: owned(&told.service),
        call: candidate.call.clone(),
        position: candidate.position,
        time_ms: told.time_ms,
        agent_id: owned(&told.agent_id),
        txn: owned(&told.txn),
    }
}
