//! The task that scores what is stored.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use authz::audit::{self, Kind, Record};
use authz::identity::{AgentId, SpiffeId};
use authz::manifest::{AgentPolicy, Mesh};
use authz::request::Side;
use authz::risk::Declared;
use authz::risk::reading::{self, Subject};
use authz::state::AgentState;
use authz::state::transition::{Change, Role};
use tokio::sync::watch;

use super::progress::Progress;
use crate::agents::{self, AgentError, Asked, RISK_ENGINE};
use crate::app::App;
use crate::store::StoreError;
use crate::store::agents::AgentChange;
use crate::store::risk::{ReceivedRecord, Scored};

/// Records scored in one step.
const RECORDS: u32 = 256;

/// How long the task waits when nobody wakes it.
const IDLE: Duration = Duration::from_secs(1);

/// How often what is known is stored while records come: each time costs the disk what a batch of records costs it, and calls
/// that wait must wait for it. While none come, it is stored as soon as the task has nothing else to do.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Why a step could not be made; it is made again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// Scores what is stored until the server stops.
pub(crate) async fn run(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut scorer = Scorer::default();
    while !*stop.borrow() {
        match scorer.step(&app).await {
            Ok(true) => {
                tokio::task::yield_now().await;
                continue;
            }
            Ok(false) => {}
            Err(error) => {
                scorer.give_up(&app, &error);
                tokio::time::sleep(IDLE).await;
            }
        }
        tokio::select! {
            () = app.risk.wake.notified() => {}
            () = tokio::time::sleep(IDLE) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
    if let Err(error) = scorer.save(&app).await {
        scorer.give_up(&app, &error);
    }
}

/// The task's own place, and of whom more is known than is stored.
#[derive(Default)]
struct Scorer {
    position: Option<u64>,
    /// The last change of each agent's state.
    changes: Option<BTreeMap<AgentId, AgentChange>>,
    unsaved: BTreeSet<AgentId>,
    saved: Option<(u64, Instant)>,
}

impl Scorer {
    /// What is stored counts, and not what had been come to.
    fn give_up(&mut self, app: &App, error: &StepError) {
        app.metrics.store_failures.inc();
        tracing::error!(%error, "records could not be scored");
        app.risk.progress.send_replace(Progress::Unknown);
        *self = Self::default();
    }

    /// Scores the next records; says whether there may be more.
    async fn step(&mut self, app: &App) -> Result<bool, StepError> {
        let at = match self.position {
            Some(at) => at,
            None => self.resume(app).await?,
        };
        // Without a policy nobody knows whose identity is whose: what is stored waits.
        let Some(mesh) = app.feed.policy() else {
            app.risk.progress.send_replace(Progress::Idle);
            return Ok(false);
        };
        let mut touched = BTreeSet::new();
        // The flag first: what changes while this reads is read again.
        if app.risk.agents_changed.swap(false, Ordering::Acquire) {
            self.changes = None;
        }
        let changes = match self.changes.take() {
            Some(changes) => changes,
            None => {
                let changes = changes(app).await?;
                touched.extend(app.risk.forgive(&changes));
                changes
            }
        };
        let forgave = !touched.is_empty();
        let changes = self.changes.insert(changes);
        let records = app.recent.after(app.store(), at, RECORDS).await?;
        let mut batch = Batch {
            app,
            mesh: &mesh,
            changes,
            declared: HashMap::new(),
            touched: &mut touched,
        };
        for record in &records {
            batch.score(record);
        }
        act(app, changes, &touched).await?;
        let reached = records.last().map_or(at, |record| record.position);
        self.unsaved.append(&mut touched);
        self.position = Some(reached);
        if forgave {
            // After a crash, what was forgiven would be scored again behind the forgiveness.
            self.save(app).await?;
        }
        app.risk.progress.send_replace(Progress::Through(reached));
        let save_every = if records.is_empty() { IDLE } else { SAVE_EVERY };
        if self.saved.is_none_or(|(_, at)| at.elapsed() >= save_every) {
            self.save(app).await?;
        }
        Ok(records.len() == RECORDS as usize)
    }

    /// Goes on from what is stored.
    async fn resume(&mut self, app: &App) -> Result<u64, StepError> {
        let Scored { position, profiles } = app.store().scored().await?;
        app.risk.restore(profiles);
        self.changes = None;
        self.position = Some(position);
        self.saved = Some((position, Instant::now()));
        Ok(position)
    }

    /// Stores what is known, if anything has changed.
    async fn save(&mut self, app: &App) -> Result<(), StepError> {
        let Some(position) = self.position else {
            return Ok(());
        };
        if self.saved.is_some_and(|(saved, _)| saved == position) && self.unsaved.is_empty() {
            return Ok(());
        }
        let profiles = self.unsaved.iter();
        let scored = Scored {
            position,
            profiles: profiles.map(|agent| (agent.clone(), app.risk.profile(agent))).collect(),
        };
        app.store().save_scored(&scored).await?;
        self.unsaved.clear();
        self.saved = Some((position, Instant::now()));
        Ok(())
    }
}

/// The last change of each agent's state.
async fn changes(app: &App) -> Result<BTreeMap<AgentId, AgentChange>, StoreError> {
    let changes = app.store().last_agent_changes().await?;
    Ok(changes
        .into_iter()
        .map(|change| (change.agent.clone(), change))
        .collect())
}

/// What one step scores with.
struct Batch<'a> {
    app: &'a App,
    mesh: &'a Mesh,
    changes: &'a BTreeMap<AgentId, AgentChange>,
    declared: HashMap<AgentId, Declared>,
    touched: &'a mut BTreeSet<AgentId>,
}

impl<'a> Batch<'a> {
    fn score(&mut self, received: &ReceivedRecord) {
        // It was verified before it was stored.
        let Ok((_, record)) = audit::read(&received.canonical) else {
            return;
        };
        let Some((subject, seen)) = reading::read(&record, received.received_at_ms) else {
            return;
        };
        let Some(agent) = self.believed(&record, subject) else {
            return;
        };
        let (id, mesh) = (&agent.claims.id, self.mesh);
        let declared = self
            .declared
            .entry(id.clone())
            .or_insert_with(|| Declared::of(&agent.claims, mesh.services().iter()));
        let frozen = state(self.changes, id) != AgentState::Active;
        self.app.risk.observe(id, declared, &seen, frozen, self.changes.get(id));
        if !self.touched.contains(id) {
            self.touched.insert(id.clone());
        }
    }

    /// The agent that a record tells of, if whoever wrote it can know.
    fn believed(&self, record: &Record<'_>, subject: Subject<'_>) -> Option<&'a AgentPolicy> {
        let workload: SpiffeId = record.workload.as_deref()?.parse().ok()?;
        let agent = match subject {
            Subject::Agent(id) => self.mesh.agent(&id.parse().ok()?)?,
            Subject::Workload(peer) => {
                let mut agents = self.mesh.agents().iter();
                agents.find(|agent| agent.claims.identity.as_str() == peer)?
            }
        };
        let knows = match record.side? {
            Side::Outbound => agent.claims.identity == workload,
            // What reaches a service without a right to may come from any agent.
            Side::Inbound => self.mesh.services().iter().any(|service| {
                service.identity == workload
                    && (record.kind == Kind::Aggregate || agent.claims.reaches.contains(&service.id))
            }),
        };
        knows.then_some(agent)
    }
}

fn state(changes: &BTreeMap<AgentId, AgentChange>, agent: &AgentId) -> AgentState {
    changes.get(agent).map_or(AgentState::Active, |change| change.to)
}

/// Pauses and suspends those whose score asks for it.
async fn act(
    app: &App,
    changes: &BTreeMap<AgentId, AgentChange>,
    touched: &BTreeSet<AgentId>,
) -> Result<(), AgentError> {
    let now_ms = app.clock.millis();
    for agent in touched {
        let Some((asked, reason)) = app.risk.verdict(agent, now_ms) else {
            continue;
        };
        let change = match (asked, state(changes, agent)) {
            (change, AgentState::Active) => change,
            (Change::Suspend, AgentState::Paused) => Change::Suspend,
            _ => continue,
        };
        if !app.risk.act {
            if app.risk.due(agent, now_ms) {
                tracing::warn!(%agent, %change, reason, "the risk engine would change an agent's state");
            }
            continue;
        }
        let asked = Asked {
            agent,
            change,
            roles: &[Role::RiskEngine],
            by: RISK_ENGINE,
            reason: &reason,
        };
        match agents::change(app, asked).await {
            // A person was quicker: the table has no such change any more.
            Ok(_) | Err(AgentError::Transition(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
