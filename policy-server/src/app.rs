//! What the routes share, and the tasks that run beside them.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use authz::identity::SpiffeId;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::config::{Config, PolicySource};
use crate::feed::{Feed, Settings};
use crate::findings;
use crate::ingest::Ingest;
use crate::keys::KeyError;
use crate::keys::ring::Keyring;
use crate::keys::rotation;
use crate::keys::sources::Sources;
use crate::kubernetes;
use crate::log::{Log, LogError};
use crate::metrics::Metrics;
use crate::recent::Recent;
use crate::reload;
use crate::risk::{self, Risk};
use crate::secret::SecretError;
use crate::shares::{PerMinute, Shares};
use crate::store::sqlite::SqliteStore;
use crate::store::{Refusal, Store, StoreError};
use crate::traces::{self, Traces};
use crate::webhooks;

/// The database's file in the data folder.
pub const DATABASE: &str = "ostiary.db";

/// How often counts of refusals are written down.
const REFUSALS_EVERY: Duration = Duration::from_secs(5);

/// How long the outcome of a probe of the store is good for.
const PROBE_GOOD_FOR: Duration = Duration::from_secs(1);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Data(#[from] SecretError),
    /// Another server uses the data folder: two would sign different content with one version.
    #[error("another server uses the data folder `{}`", .0.display())]
    InUse(PathBuf),
    /// The data folder cannot be locked.
    #[error("cannot lock the data folder `{}`: {source}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What is known of the policy's source.
#[derive(Debug, Clone, Default)]
pub struct PolicyStatus {
    /// The policy in force is what the source says now.
    pub current: bool,
    /// What is wrong with it, if something is.
    pub problems: Vec<String>,
}

/// What the routes share.
#[derive(Debug)]
pub struct App {
    /// The configuration.
    pub config: Config,
    /// The keys.
    pub keys: Arc<Keyring>,
    /// Held while keys are changed.
    pub key_changes: tokio::sync::Mutex<()>,
    /// Which sidecars live, and what they know.
    pub sources: Sources,
    /// Policy and state.
    pub feed: Arc<Feed>,
    /// Where records go.
    pub ingest: Ingest,
    /// What auditors read.
    pub log: Arc<Log>,
    /// The records that were stored last.
    pub recent: Arc<Recent>,
    /// Where the records of user requests are.
    pub traces: Traces,
    /// How agents behave.
    pub risk: Risk,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The time.
    pub clock: Clock,
    /// Becomes true when the server stops.
    pub stop: watch::Receiver<bool>,
    /// Held polls.
    pub poll_shares: Shares,
    /// Batches on their way.
    pub record_shares: Shares,
    /// Questions about tokens on their way.
    pub successor_shares: Shares,
    /// Token requests on their way.
    pub token_shares: Shares,
    /// New sources.
    pub new_sources: PerMinute,
    store: Arc<dyn Store>,
    probe: tokio::sync::Mutex<Option<(Instant, bool)>>,
    policy_status: RwLock<PolicyStatus>,
    refusals: Mutex<HashMap<(SpiffeId, &'static str), u64>>,
}

/// The tasks beside the routes.
#[derive(Debug)]
pub struct Tasks {
    stop: watch::Sender<bool>,
    beside: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
    log: Arc<Log>,
    store: Arc<dyn Store>,
    /// Held, and with it the data folder's lock.
    _lock: File,
}

impl App {
    /// Opens keys and database, reads the policy and starts the tasks.
    ///
    /// A policy that cannot be read does not keep the server from starting: it is not ready until one can.
    ///
    /// # Errors
    ///
    /// If the data folder, keys or database cannot be used.
    pub async fn start(config: Config, clock: Clock) -> Result<(Arc<Self>, Tasks), StartError> {
        crate::secret::make_private_folder(&config.data)?;
        let lock = lock(&config.data)?;
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&config.data.join(DATABASE)).await?);
        let keys = Keyring::open(config.keys.clone(), Arc::clone(&store), clock.seconds()).await?;
        let keys = Arc::new(keys);
        tracing::info!(
            token_key = keys.in_force().token.kid(),
            bundle_key = keys.in_force().bundle.kid(),
            folder = %config.keys.path.display(),
            "keys"
        );
        let metrics = Arc::new(Metrics::new());
        let log = Log::open(&config, Arc::clone(&store), Arc::clone(&metrics), clock.clone()).await?;
        let log = Arc::new(log);
        let feed = Feed::new(
            Settings::new(&config),
            Arc::clone(&keys),
            Arc::clone(&store),
            Arc::clone(&metrics),
            clock.clone(),
        );
        let feed = Arc::new(feed);
        let risk = Risk::new(config.risk, config.risk_of_agents.clone(), config.risk_acts);
        let recent = Arc::new(Recent::default());
        let (ingest, writer) = Ingest::start(
            Arc::clone(&store),
            Arc::clone(&metrics),
            clock.clone(),
            config.limits.record_queue,
            Arc::clone(&recent),
            risk.waker(),
        );
        let (stop, stopped) = watch::channel(false);
        let app = Arc::new(Self {
            sources: Sources::new(
                clock.clone(),
                Duration::from_secs(config.state_max_age_seconds),
                // Those that are gone are noted for a while beside those that took their place.
                config.limits.polls_per_peer.saturating_mul(2),
            ),
            key_changes: tokio::sync::Mutex::default(),
            poll_shares: Shares::new(config.limits.polls_per_peer),
            record_shares: Shares::new(config.limits.record_batches_per_peer),
            // A VM asks one at a time, as it polls.
            successor_shares: Shares::new(config.limits.polls_per_peer),
            token_shares: Shares::new(config.limits.token_requests_per_peer),
            new_sources: PerMinute::new(config.limits.new_sources_per_minute),
            config,
            keys,
            feed,
            ingest,
            recent,
            log: Arc::clone(&log),
            traces: Traces::default(),
            risk,
            metrics,
            clock,
            stop: stopped.clone(),
            store: Arc::clone(&store),
            probe: tokio::sync::Mutex::default(),
            policy_status: RwLock::default(),
            refusals: Mutex::default(),
        });
        let mut beside = vec![
            start_policy(&app, stopped.clone()).await,
            tokio::spawn(keep_state_young(Arc::clone(&app), stopped.clone())),
            tokio::spawn(rotation::end_overlaps(Arc::clone(&app), stopped.clone())),
            tokio::spawn(Arc::clone(&log).run(stopped.clone())),
            tokio::spawn(risk::run(Arc::clone(&app), stopped.clone())),
            tokio::spawn(findings::run(Arc::clone(&app), stopped.clone())),
            tokio::spawn(traces::run(Arc::clone(&app), stopped.clone())),
            tokio::spawn(write_refusals(Arc::clone(&app), stopped.clone())),
        ];
        let hooks = app.config.webhooks.iter().cloned();
        beside.extend(hooks.map(|webhook| tokio::spawn(webhooks::run(Arc::clone(&app), webhook, stopped.clone()))));
        Ok((
            app,
            Tasks {
                stop,
                beside,
                writer,
                log,
                store,
                _lock: lock,
            },
        ))
    }

    /// The database.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Whether a write reached the disk within the last second; tries one if none is known.
    pub async fn store_is_writable(&self) -> bool {
        let mut probe = self.probe.lock().await;
        if let Some((at, outcome)) = *probe
            && at.elapsed() < PROBE_GOOD_FOR
        {
            return outcome;
        }
        let outcome = self.store.probe().await;
        if let Err(error) = &outcome {
            self.metrics.store_failures.inc();
            tracing::error!(%error, "the store is not writable");
        }
        *probe = Some((Instant::now(), outcome.is_ok()));
        outcome.is_ok()
    }

    /// What is known of the policy's source.
    pub fn policy_status(&self) -> PolicyStatus {
        self.policy_status
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes what is known of the policy's source.
    pub fn set_policy_status(&self, status: PolicyStatus) {
        self.metrics.policy_current.set(i64::from(status.current));
        *self.policy_status.write().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Counts a refused request for a token: by caller and code only, so that nobody can make the count grow.
    pub fn count_refusal(&self, principal: &SpiffeId, code: &'static str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        *refusals.entry((principal.clone(), code)).or_default() += 1;
    }

    /// Writes down the counted refusals.
    pub async fn write_refusals(&self) {
        let counted = std::mem::take(&mut *self.refusals.lock().unwrap_or_else(PoisonError::into_inner));
        if counted.is_empty() {
            return;
        }
        let hour = self.clock.seconds() / 3600;
        let refusals: Vec<_> = counted
            .into_iter()
            .map(|((principal, code), count)| Refusal {
                principal: principal.to_string(),
                code,
                hour,
                count,
            })
            .collect();
        for refusal in &refusals {
            tracing::warn!(
                principal = refusal.principal,
                code = refusal.code,
                count = refusal.count,
                "tokens refused"
            );
        }
        if let Err(error) = self.store.refused(&refusals).await {
            self.metrics.store_failures.inc();
            tracing::error!(%error, "counts of refusals are lost");
        }
    }
}

impl Tasks {
    /// Asks everything to stop: held polls are answered, tasks end.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until what has been accepted is durable and signed, and closes the database. The [`App`] must have been dropped, or
    /// batches may still come.
    pub async fn finish(self) {
        self.stop();
        for task in self.beside {
            let _ = task.await;
        }
        let _ = self.writer.await;
        self.log.close().await;
        let _ = self.store.close().await;
    }
}

/// Reads the policy, and goes on reading it.
///
/// A folder has been read when this returns; an API server may answer later, and until it has the server is not ready.
async fn start_policy(app: &Arc<App>, stopped: watch::Receiver<bool>) -> JoinHandle<()> {
    match &app.config.policy {
        PolicySource::Folder(folder) => {
            let mut watcher = reload::Watcher::new(folder);
            watcher.look(app).await;
            tokio::spawn(watcher.run(Arc::clone(app), stopped))
        }
        PolicySource::Kubernetes(source) => tokio::spawn(kubernetes::run(Arc::clone(app), source.clone(), stopped)),
    }
}

/// Takes a data folder for this process.
///
/// # Errors
///
/// [`StartError::InUse`] if another has it, [`StartError::Lock`].
pub fn lock(data: &Path) -> Result<File, StartError> {
    let path = data.join("lock");
    let failed = |source| StartError::Lock {
        path: path.clone(),
        source,
    };
    let file = File::create(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(data.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

async fn keep_state_young(app: Arc<App>, stop: watch::Receiver<bool>) {
    app.feed.keep_state_young(app.config.state_renew, stop).await;
}

async fn write_refusals(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    loop {
        let stopped = tokio::time::timeout(REFUSALS_EVERY, stop.wait_for(|stop| *stop))
            .await
            .is_ok();
        app.write_refusals().await;
        if stopped {
            return;
        }
    }
}
