//! What sidecars are told: signed bundles, one a workload, and the signed state list, one for the mesh.
//!
//! A version is reserved durably before anything is signed with it, so that no version is ever signed twice with
//! different content, whatever crashes. Reserving is done in blocks: a crash skips numbers. What is signed is kept
//! ([`keeper`]) for those who read the log later.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use authz::identity::{AgentId, Issuer, SpiffeId};
use authz::jwks::Jwks;
use authz::log::policy::Kind;
use authz::manifest::Mesh;
use authz::policy::{
    BUNDLE_TYPE, ContentError, ExpiryMode, FORMAT, IssuerClaims, PageDigest, PolicyServerClaims, Protocol, RecordMode,
    ServiceClaims, Tasks, Version,
};
use authz::state::{AgentState, STATE_TYPE, StateClaims};
use tokio::sync::{Mutex, watch};

use crate::clock::Clock;
use crate::config::Config;
use crate::keys::KeyError;
use crate::keys::ring::{InForce as KeysInForce, Keyring};
use crate::metrics::Metrics;
use crate::policy;
use crate::signer::SignerError;
use crate::store::policy::SignedPolicy;
use crate::store::{KeyChange, Store, StoreError, Stream};

mod bundle;
mod keeper;

pub use bundle::Format;
use bundle::{SignedBundle, Unsigned};
use keeper::Keeper;

/// How many versions are reserved at once.
const BLOCK: u32 = 256;

/// Why sidecars cannot be told anything new.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// No valid policy has been read yet.
    #[error("no valid policy has been read yet")]
    NoPolicy,
    /// The policy names no such workload.
    #[error("no agent or service has this identity")]
    WorkloadUnknown,
    /// Versions could not be reserved, or states not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not known which keys sign.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Signing failed.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// A bundle does not serialise.
    #[error("the bundle does not serialise: {0}")]
    Encode(#[from] serde_json::Error),
    /// A bundle cannot be put on pages.
    #[error("the agents of the bundle cannot be put on pages: {0}")]
    Pages(ContentError),
}

/// What does not change while the server runs.
#[derive(Debug)]
pub struct Settings {
    /// The `iss` of what is signed.
    pub issuer: Issuer,
    /// How sidecars name this server.
    pub policy_server: PolicyServerClaims,
    /// The token issuers beside this server.
    pub external_issuers: Vec<IssuerClaims>,
    /// The age from which sidecars refuse a state list.
    pub max_state_age_seconds: u64,
    /// The longest lifetime of a token.
    pub max_token_ttl_seconds: u64,
    /// The lifetime of a bundle.
    pub bundle_lifetime_seconds: u64,
}

impl Settings {
    /// What the configuration says.
    pub fn new(config: &Config) -> Self {
        let external = config.external_issuers.iter();
        let external = external.map(|issuer| IssuerClaims {
            iss: issuer.iss.clone(),
            jwks: issuer.jwks.clone(),
        });
        Self {
            issuer: config.issuer.clone(),
            policy_server: PolicyServerClaims {
                identity: config.identity.clone(),
                hosts: config.hosts.clone(),
            },
            external_issuers: external.collect(),
            max_state_age_seconds: config.state_max_age_seconds,
            max_token_ttl_seconds: config.token_max_ttl_seconds,
            bundle_lifetime_seconds: config.bundle_lifetime_seconds,
        }
    }

    /// The token issuers, this server with these keys first.
    fn issuers(&self, own: &Jwks) -> Vec<IssuerClaims> {
        let own = IssuerClaims {
            iss: self.issuer.clone(),
            jwks: own.clone(),
        };
        std::iter::once(own)
            .chain(self.external_issuers.iter().cloned())
            .collect()
    }
}

/// A signed document.
#[derive(Debug, Clone)]
pub struct Signed {
    /// Its version.
    pub version: Version,
    /// When it was signed, in seconds.
    pub issued_at: u64,
    /// The compact JWS.
    pub jws: Arc<str>,
}

/// The policy in force.
#[derive(Debug, Clone)]
struct InForce {
    mesh: Arc<Mesh>,
    generation: u64,
}

/// The state list in force.
#[derive(Debug, Clone)]
struct Listed {
    signed: Signed,
    agents: Arc<BTreeMap<AgentId, AgentState>>,
    not_before: Arc<BTreeMap<AgentId, u64>>,
}

/// What a poll is answered.
#[derive(Debug, Clone, Default)]
pub struct News {
    /// The bundle, if the caller has another version.
    pub bundle: Option<Arc<str>>,
    /// The state list, if the caller has another version.
    pub state: Option<Arc<str>>,
}

/// Signs and hands out policy and state.
pub struct Feed {
    settings: Settings,
    keys: Arc<Keyring>,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    clock: Clock,
    policy: RwLock<Option<InForce>>,
    bundles: Mutex<Bundles>,
    state: RwLock<Option<Listed>>,
    state_versions: Mutex<Versions>,
    keeper: Arc<Keeper>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Bundles {
    signed: HashMap<(SpiffeId, Format), SignedBundle>,
    versions: Versions,
}

impl Feed {
    /// A feed that has neither policy nor state yet.
    pub fn new(
        settings: Settings,
        keys: Arc<Keyring>,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Self {
        Self {
            settings,
            keys,
            keeper: Arc::new(Keeper::new(Arc::clone(&store))),
            store,
            metrics,
            clock,
            policy: RwLock::default(),
            bundles: Mutex::new(Bundles {
                signed: HashMap::new(),
                versions: Versions::new(Stream::Bundle),
            }),
            state: RwLock::default(),
            state_versions: Mutex::new(Versions::new(Stream::State)),
            changes: watch::Sender::new(0),
        }
    }

    /// Puts a policy in force and wakes the polls.
    pub fn set_policy(&self, mesh: Mesh) {
        {
            let mut policy = self.policy.write().unwrap_or_else(PoisonError::into_inner);
            let generation = policy.as_ref().map_or(1, |in_force| in_force.generation + 1);
            *policy = Some(InForce {
                mesh: Arc::new(mesh),
                generation,
            });
        }
        self.wake();
    }

    /// The policy in force.
    pub fn policy(&self) -> Option<Arc<Mesh>> {
        self.in_force().map(|in_force| in_force.mesh)
    }

    /// The state list in force.
    pub fn state(&self) -> Option<Signed> {
        self.listed().map(|listed| listed.signed)
    }

    /// The state of an agent, as the list in force says.
    pub fn agent_state(&self, agent: &AgentId) -> AgentState {
        self.listed()
            .and_then(|listed| listed.agents.get(agent).copied())
            .unwrap_or_default()
    }

    /// The second before which an agent's tokens are dead, as the list in force says.
    pub fn not_before(&self, agent: &AgentId) -> Option<u64> {
        self.listed().and_then(|listed| listed.not_before.get(agent).copied())
    }

    fn listed(&self) -> Option<Listed> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells of every change of bundles or state.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// What a workload is told that has these versions; empty if that is what is in force.
    ///
    /// # Errors
    ///
    /// If there is no policy yet, it names no such workload, or signing failed.
    pub async fn news(
        &self,
        workload: &SpiffeId,
        format: Format,
        bundle: Option<Version>,
        state: Option<Version>,
    ) -> Result<News, FeedError> {
        let current = self.bundle(workload, format).await?.signed;
        let listed = self.state().filter(|listed| Some(listed.version) != state);
        Ok(News {
            bundle: (Some(current.version) != bundle).then_some(current.jws),
            state: listed.map(|listed| listed.jws),
        })
    }

    /// Those of the pages asked for that the workload's current bundle has, a line each, as many as fit in an answer; None
    /// if it has none of them.
    ///
    /// # Errors
    ///
    /// As [`news`](Self::news).
    pub async fn pages(&self, workload: &SpiffeId, asked: &[PageDigest]) -> Result<Option<String>, FeedError> {
        // A bundle in a format that none of the workload's filters asked for would cost a version.
        let served: Vec<Format> = {
            let bundles = self.bundles.lock().await;
            let signed = |format: &Format| bundles.signed.contains_key(&(workload.clone(), *format));
            Format::PAGED.into_iter().filter(signed).collect()
        };
        let formats = if served.is_empty() {
            Format::PAGED.to_vec()
        } else {
            served
        };
        for format in formats {
            let bundle = self.bundle(workload, format).await?;
            if let Some(answer) = bundle.pages.answer(asked) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// The current bundle of a workload, kept for those who read the log later.
    async fn bundle(&self, workload: &SpiffeId, format: Format) -> Result<SignedBundle, FeedError> {
        let bundle = self.current(workload, format).await?;
        self.keeper.reach(bundle.ticket).await?;
        Ok(bundle)
    }

    /// The current bundle of a workload, signed anew if its content changed or half its lifetime is over.
    async fn current(&self, workload: &SpiffeId, format: Format) -> Result<SignedBundle, FeedError> {
        let mut bundles = self.bundles.lock().await;
        let in_force = self.in_force().ok_or(FeedError::NoPolicy)?;
        // A bundle by other keys than those that are stored would have a version that says it was signed by these.
        self.keys.settle().await?;
        let keys = self.keys.in_force();
        let generation = (in_force.generation, keys.generation);
        let now = self.clock.seconds();
        let key = (workload.clone(), format);
        if let Some(bundle) = bundles.signed.get(&key)
            && bundle.generation == generation
            && now < bundle.renew_at
        {
            return Ok(bundle.clone());
        }
        let Some(mut claims) = policy::compile(
            workload,
            &in_force.mesh,
            &self.settings,
            self.settings.issuers(&keys.published),
        ) else {
            bundles.signed.remove(&key);
            return Err(FeedError::WorkloadUnknown);
        };
        let seals = |service: &ServiceClaims| {
            let seals = service.protocol == Protocol::Mcp || service.tasks == Tasks::Bound;
            service.identity == *workload && seals
        };
        if claims.services.iter().any(seals) {
            claims.session_keys = keys.session_keys(workload);
        }
        let (agents, services) = (claims.agents.len(), claims.services.len());
        let own = |service: &&ServiceClaims| service.identity == *workload;
        let (mut holds, mut cuts) = (false, false);
        for service in claims.services.iter().filter(own) {
            holds |= service.record == RecordMode::Before;
            cuts |= service.on_expiry == ExpiryMode::Cut;
        }
        let Unsigned {
            mut claims,
            pages,
            content,
        } = Unsigned::new(claims, format)?;
        if let Some(bundle) = bundles.signed.get_mut(&key)
            && bundle.content == content
            && bundle.signed_by == keys.bundle.kid()
            && now < bundle.renew_at
        {
            bundle.generation = generation;
            return Ok(bundle.clone());
        }
        let version = bundles.versions.next(&*self.store).await?;
        let lifetime = self.settings.bundle_lifetime_seconds;
        claims.stamp(version, now, now.saturating_add(lifetime));
        let jws: Arc<str> = keys.bundle.sign(BUNDLE_TYPE, &claims)?.into();
        tracing::info!(%workload, %version, agents, services, "bundle");
        if holds && matches!(format, Format::Whole | Format::Paged) {
            tracing::warn!(%workload, "its filter is of an older version and cannot hold calls until they are recorded");
        }
        if cuts && format != Format::Bound {
            tracing::warn!(%workload, "its filter is of an older version and cannot end calls with their tokens");
        }
        let pages = Arc::new(pages);
        let kept = match claims.without_secrets() {
            Some(claims) => keys.bundle.sign(BUNDLE_TYPE, &claims)?.into(),
            None => Arc::clone(&jws),
        };
        let ticket = self.keeper.queue(SignedPolicy {
            kind: Kind::Bundle,
            version,
            signed_at: now,
            jws: kept,
            pages: Arc::clone(&pages),
            may_be_named: false,
        });
        let bundle = SignedBundle {
            signed: Signed {
                version,
                issued_at: now,
                jws,
            },
            renew_at: now.saturating_add(lifetime / 2),
            generation,
            signed_by: keys.bundle.kid().to_owned(),
            content,
            pages,
            ticket,
        };
        bundles.signed.insert(key, bundle.clone());
        Ok(bundle)
    }

    /// Signs the state list anew, from what the store says, and wakes the polls.
    ///
    /// # Errors
    ///
    /// If the store or signing fails; the list in force stays and grows old.
    pub async fn renew_state(&self) -> Result<Version, FeedError> {
        // Held to the end, so that the list published last is the one read last.
        let mut versions = self.state_versions.lock().await;
        let version = versions.next(&*self.store).await?;
        let now = self.clock.seconds();
        let states = self.store.states(now, self.settings.max_token_ttl_seconds).await?;
        let claims = StateClaims {
            format: FORMAT,
            iss: self.settings.issuer.clone(),
            epoch: version.epoch,
            version: version.counter,
            issued_at: now,
            agents: states.agents,
            not_before: states.not_before,
            revoked: states.revoked,
        };
        let jws: Arc<str> = self.keys.in_force().bundle.sign(STATE_TYPE, &claims)?.into();
        self.keep_state(version, now, Arc::clone(&jws)).await;
        let listed = Listed {
            signed: Signed {
                version,
                issued_at: now,
                jws,
            },
            agents: Arc::new(claims.agents),
            not_before: Arc::new(claims.not_before),
        };
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Some(listed);
        self.metrics.state_issued_at.set(now);
        self.wake();
        drop(versions);
        Ok(version)
    }

    /// Keeps a state list, if that can be done at once: what kills an agent matters more than what is read later.
    async fn keep_state(&self, version: Version, signed_at: u64, jws: Arc<str>) {
        let ticket = self.keeper.queue(SignedPolicy {
            kind: Kind::State,
            version,
            signed_at,
            jws,
            pages: Arc::default(),
            may_be_named: false,
        });
        let (keeper, metrics) = (Arc::clone(&self.keeper), Arc::clone(&self.metrics));
        // On its own, so that it goes on when nobody waits any more.
        let kept = tokio::spawn(async move {
            if let Err(error) = keeper.reach(ticket).await {
                metrics.store_failures.inc();
                tracing::error!(%error, %version, "a state list could not be kept; it is tried again with the next");
            }
        });
        let _ = tokio::time::timeout(keeper::WAIT, kept).await;
    }

    /// Changes keys, durably, and tells every sidecar.
    ///
    /// # Errors
    ///
    /// If the database fails; what it holds then is in force as soon as it can be read.
    pub async fn change_keys(&self, changes: &[KeyChange]) -> Result<Arc<KeysInForce>, KeyError> {
        let changed = {
            // INVARIANT: no bundle is signed meanwhile, and the next one has a version that is reserved after the change:
            // so the version alone says whether a bundle names the key, or is signed by it.
            let mut bundles = self.bundles.lock().await;
            bundles.versions.left = 0;
            self.keys.change(changes).await
        };
        if let Err(error) = self.renew_state().await {
            // Tried again within a second; until then sidecars go by a list of the key that still is published.
            tracing::error!(%error, "the state list could not be renewed after a change of keys");
            self.wake();
        }
        changed
    }

    /// Puts in force what a change of keys left behind, if that could not be read when it was made.
    ///
    /// # Errors
    ///
    /// If it still cannot be read; no bundle is signed until it can.
    pub async fn settle_keys(&self) -> Result<(), KeyError> {
        let settled = {
            let _unsigned = self.bundles.lock().await;
            self.keys.settle().await?
        };
        if settled {
            self.wake();
        }
        Ok(())
    }

    /// Keeps the state list young until the server stops. A failure is retried every second.
    pub async fn keep_state_young(&self, every: Duration, mut stop: watch::Receiver<bool>) {
        loop {
            let pause = match self.renew_state().await {
                Ok(_) => every,
                Err(error) => {
                    self.metrics.store_failures.inc();
                    tracing::error!(%error, "the state list could not be renewed");
                    Duration::from_secs(1).min(every)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    fn in_force(&self) -> Option<InForce> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn wake(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Hands out versions of a block that the store has reserved.
#[derive(Debug)]
struct Versions {
    stream: Stream,
    next: Version,
    left: u32,
}

impl Versions {
    fn new(stream: Stream) -> Self {
        Self {
            stream,
            next: Version { epoch: 0, counter: 0 },
            left: 0,
        }
    }

    async fn next(&mut self, store: &dyn Store) -> Result<Version, StoreError> {
        if self.left == 0 {
            self.next = store.reserve_versions(self.stream, BLOCK).await?;
            self.left = BLOCK;
        }
        let version = self.next;
        self.left -= 1;
        self.next.counter = version.counter.saturating_add(1);
        Ok(version)
    }
}
