//! What must survive a crash: versions, issued tokens, agent states, and the records with the Merkle tree over them.

pub mod agents;
pub mod findings;
pub mod policy;
pub mod risk;
pub mod sqlite;
pub mod trace;
pub mod work;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use authz::digest::Digest;
use authz::identity::{AgentId, Jti, KeyId, SpiffeId};
use authz::jwks::Jwk;
use authz::log::policy::Kind;
use authz::log::tree::Span;
use authz::policy::{PageDigest, Version};
use authz::state::AgentState;
use authz::state::transition::TransitionError;
use authz::successor::Operation;

use agents::{AgentChange, AskedChange, ChangeOutcome, Revocation, Revoked};
use findings::{Judged, StoredFinding};
use policy::SignedPolicy;
use risk::{ReceivedRecord, Scored};
use trace::Traced;
use work::{EndWork, KnownToken, Work, WorkEnded};

use crate::keys::{KeyKind, KeyState};

/// A future answer of a store.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// What a store does, and what its callers may rely on.
///
/// **Durable.** What a method answered `Ok` to is still there after a `kill -9` or a power cut: it was fsynced first.
///
/// **Failed** ([`StoreError::Failed`]): nothing of the call was stored, now or later.
///
/// **Failed but perhaps persisted** ([`StoreError::Unknown`]): the commit itself failed, so the call's effects may or
/// may not be there after a restart. Each method is therefore safe to repeat: `append` acknowledges what it already
/// has, `reserve_versions` only skips numbers, a token whose issuing is unknown is not answered to anybody, and an agent
/// that is in the state that is asked for stays as it is.
///
/// **Atomic.** A method's effects appear together or not at all; `append` is atomic for each batch.
///
/// **Monotonic.** [`reserve_versions`](Store::reserve_versions) never returns a version twice nor a lower one, across
/// restarts.
pub trait Store: std::fmt::Debug + Send + Sync + 'static {
    /// Reserves the next `count` versions of a signed stream and returns the first of them.
    fn reserve_versions<'a>(&'a self, stream: Stream, count: u32) -> Answer<'a, Version>;

    /// Starts a new epoch, at least `at_least`: every version handed out later is higher than all before, even those that a
    /// lost newer database handed out with a lower epoch. Returns the epoch.
    fn new_epoch(&self, at_least: u64) -> Answer<'_, u64>;

    /// Records that a token will be answered to somebody; or says what was ended that it would be for, and it must not be.
    /// What it says is kept for as long as it lives.
    fn issued<'a>(&'a self, token: &'a IssuedToken, says: &'a LiveClaims) -> Answer<'a, Result<(), Work>>;

    /// What the tokens of an operation say that expire after `now` and were not revoked, those that expire last first, at
    /// most `limit`.
    fn live_claims<'a>(&'a self, of: &'a Operation, now: u64, limit: u32) -> Answer<'a, Vec<String>>;

    /// What is known of a token; None if this server did not issue it.
    fn token<'a>(&'a self, jti: &'a Jti) -> Answer<'a, Option<KnownToken>>;

    /// The user requests for which an agent held tokens that expired after a second or live, the last first, at most `limit`.
    fn recent_txns<'a>(&'a self, agent: &'a AgentId, since: u64, limit: u32) -> Answer<'a, Vec<String>>;

    /// Adds counts of refused requests for tokens.
    fn refused<'a>(&'a self, refusals: &'a [Refusal]) -> Answer<'a, ()>;

    /// Moves an agent from one state to another as the table of `authz` says for the state that is stored, and records
    /// who asked and why; nothing is stored if the table refuses. Two that ask at once are served one after the other.
    fn change_agent<'a>(&'a self, asked: &'a AskedChange) -> Answer<'a, Result<ChangeOutcome, TransitionError>>;

    /// The last changes of an agent's state, newest first.
    fn agent_changes<'a>(&'a self, agent: &'a AgentId, limit: u32) -> Answer<'a, Vec<AgentChange>>;

    /// The last change of every agent that ever had one, by agent.
    fn last_agent_changes(&self) -> Answer<'_, Vec<AgentChange>>;

    /// The changes of all agents' states after one, in their order, at most `limit`.
    fn agent_changes_after(&self, number: u64, limit: u32) -> Answer<'_, Vec<AgentChange>>;

    /// The last change that a webhook was told; one that is new is told what happens from now on.
    fn webhook_told<'a>(&'a self, url: &'a str) -> Answer<'a, u64>;

    /// Notes the last change that a webhook was told, which never falls.
    fn save_webhook_told<'a>(&'a self, url: &'a str, number: u64) -> Answer<'a, ()>;

    /// Revokes one token, until it expires, and records who asked and why.
    fn revoke<'a>(&'a self, asked: &'a Revocation) -> Answer<'a, Revoked>;

    /// Revokes every live token of an operation or a user request, issues no other, and records who asked and why.
    fn end_work<'a>(&'a self, asked: &'a EndWork) -> Answer<'a, WorkEnded>;

    /// What the state list says: nothing about tokens that have expired or times that no live token precedes.
    fn states(&self, now: u64, longest_ttl_seconds: u64) -> Answer<'_, States>;

    /// Appends batches to their sources' chains, each wholly or not at all, all in one durable step; the answers stand
    /// in the order of the batches.
    ///
    /// A source is opened by a batch that begins with seq 0 and belongs to that batch's workload from then on. A record
    /// that is already stored with the same hash is acknowledged again; with another hash it is a fork.
    ///
    /// Every record that is new becomes a leaf of the Merkle tree in the same step, in the order of acceptance: none that
    /// was acknowledged is ever missing from the tree or in it twice.
    fn append<'a>(&'a self, batches: &'a [Batch], now_ms: u64) -> Answer<'a, Vec<Result<Appended, Refused>>>;

    /// Counts the stored records.
    fn record_count(&self) -> Answer<'_, u64>;

    /// The stored records of a source, from a sequence number on, in order.
    fn records<'a>(&'a self, source: &'a str, from_seq: u64, limit: u32) -> Answer<'a, Vec<StoredRecord>>;

    /// The stored records from a position on (the first has position 1), in order.
    fn records_from(&self, position: u64, limit: u32) -> Answer<'_, Vec<StoredRecord>>;

    /// The stored records of a call, in the order of acceptance, at most `limit`.
    fn records_of_call<'a>(&'a self, call: &'a str, limit: u32) -> Answer<'a, Vec<StoredRecord>>;

    /// The Merkle tree as it is.
    fn tree(&self) -> Answer<'_, TreeHead>;

    /// The hashes above spans of leaves, all of which the tree must have: one a span, in order.
    fn tree_hashes<'a>(&'a self, spans: &'a [Span]) -> Answer<'a, Vec<Digest>>;

    /// The first `width` hashes of a tile; None if it does not have as many.
    fn tile(&self, level: u32, tile: u64, width: u64) -> Answer<'_, Option<Vec<u8>>>;

    /// Keeps a checkpoint that was signed. Of those of one size the last is kept; one of another root fails.
    fn keep_checkpoint<'a>(&'a self, checkpoint: &'a StoredCheckpoint) -> Answer<'a, ()>;

    /// The kept checkpoint of the largest tree.
    fn latest_checkpoint(&self) -> Answer<'_, Option<StoredCheckpoint>>;

    /// The kept checkpoints of trees of at least a size, in order of size, at most `limit`.
    fn checkpoints(&self, size: u64, limit: u32) -> Answer<'_, Vec<StoredCheckpoint>>;

    /// Adds counts of readings of the log.
    fn log_read<'a>(&'a self, readings: &'a [Reading]) -> Answer<'a, ()>;

    /// The stored records after a position, in the order of acceptance.
    fn received(&self, after: u64, limit: u32) -> Answer<'_, Vec<ReceivedRecord>>;

    /// Keeps signed policy; what is kept already stays as it is.
    fn keep_policy<'a>(&'a self, documents: &'a [SignedPolicy]) -> Answer<'a, ()>;

    /// A bundle or a state list that was kept, in its compact form.
    fn kept_policy(&self, kind: Kind, version: Version) -> Answer<'_, Option<String>>;

    /// A page of a bundle that was kept.
    fn kept_page(&self, digest: PageDigest) -> Answer<'_, Option<String>>;

    /// Deletes some of the policy that was signed before a second and that no record is noted to name
    /// ([`save_traced`](Self::save_traced)); says how many documents.
    fn forget_policy(&self, signed_before: u64) -> Answer<'_, u64>;

    /// All that is known of how agents behave, and as of which record.
    fn scored(&self) -> Answer<'_, Scored>;

    /// Stores what is known of some agents as of a record, whose position never falls; what is not named stays.
    fn save_scored<'a>(&'a self, scored: &'a Scored) -> Answer<'a, ()>;

    /// How far the index of user requests has come: the place of the last record that was looked at.
    fn traced(&self) -> Answer<'_, u64>;

    /// Adds to the index of user requests as of a record, whose position never falls, and notes what policy is named.
    fn save_traced<'a>(&'a self, traced: &'a Traced) -> Answer<'a, ()>;

    /// The records of a user request that the index names, in the order of acceptance, at most `limit`.
    fn records_of_txn<'a>(&'a self, txn: &'a str, limit: u32) -> Answer<'a, Vec<StoredRecord>>;

    /// How far calls have been judged: every one whose first record is at this place or before.
    fn judged(&self) -> Answer<'_, u64>;

    /// Stores findings and how far calls have been judged, which never falls; a finding that is known is not counted again.
    fn save_judged<'a>(&'a self, judged: &'a Judged) -> Answer<'a, ()>;

    /// The findings, the last ones first, at most `limit`.
    fn findings(&self, limit: u32) -> Answer<'_, Vec<StoredFinding>>;

    /// Every key that there was, those whose time is over too.
    fn keys(&self) -> Answer<'_, Vec<StoredKey>>;

    /// Stores changes of keys in their order, all or none.
    ///
    /// At most one key of a kind signs and at most one is next, whatever the changes say: others fail.
    fn change_keys<'a>(&'a self, changes: &'a [KeyChange]) -> Answer<'a, ()>;

    /// The tokens that expire after `now` and were issued by the second `issued_by`.
    fn live_tokens(&self, now: u64, issued_by: u64) -> Answer<'_, LiveTokens>;

    /// Writes something and makes it durable, to see whether that still works.
    fn probe(&self) -> Answer<'_, ()>;

    /// Releases files and connections. Losing this call (a crash) loses nothing.
    fn close(&self) -> Answer<'_, ()>;
}

/// What versions are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Bundles: one count for all workloads, so that a workload's versions rise too.
    Bundle,
    /// State lists.
    State,
}

/// A signing key as the store knows it: all but its private half, which is a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// What it signs.
    pub kind: KeyKind,
    /// What it is for now.
    pub state: KeyState,
    /// The public half.
    pub public: Jwk,
    /// When the state began, in seconds.
    pub since: u64,
    /// When nothing that it signed can be alive any more, in seconds; for one that is retiring.
    pub until: Option<u64>,
    /// Bundles from this version on name it among the token keys, or are signed by it.
    pub from: Version,
}

impl StoredKey {
    /// Its id.
    pub fn kid(&self) -> &KeyId {
        self.public.kid()
    }
}

/// A key as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The key.
    pub key: StoredKey,
    /// Its `from` becomes the first version of bundles that has not been reserved yet.
    pub from_now: bool,
}

/// Tokens that have not expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveTokens {
    /// How many.
    pub count: u64,
    /// When the last of them expires, in seconds.
    pub last_expires_at: Option<u64>,
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing of the call was stored.
    #[error("the store failed: {0}")]
    Failed(sqlx::Error),
    /// The call may or may not have been stored.
    #[error("the store failed while committing: {0}")]
    Unknown(sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the store's schema could not be brought up to date: {0}")]
    Schema(#[from] sqlx::migrate::MigrateError),
    /// A stored value is not what was ever written there.
    #[error("the store holds an impossible `{0}`")]
    Corrupt(&'static str),
}

/// The Merkle tree at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeHead {
    /// How many records are in it.
    pub size: u64,
    /// The root above them.
    pub root: Digest,
}

/// A checkpoint that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// The tree that was signed.
    pub head: TreeHead,
    /// When, in seconds.
    pub seconds: u64,
    /// The signed note.
    pub note: String,
}

/// How often a principal read the log in one way in one hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Who read.
    pub principal: String,
    /// What was read.
    pub what: &'static str,
    /// Hours since 1970.
    pub hour: u64,
    /// How often.
    pub count: u64,
}

/// A token that will be answered to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedToken {
    /// The token's id.
    pub jti: String,
    /// The agent that it is for.
    pub agent_id: String,
    /// The declared operation.
    pub operation_id: String,
    /// The user request.
    pub txn: String,
    /// Who asked.
    pub issued_by: String,
    /// Unix seconds.
    pub issued_at: u64,
    /// Unix seconds.
    pub expires_at: u64,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveClaims {
    /// The workload that may use it.
    pub sub: String,
    /// All its claims, as JSON.
    pub claims: String,
}

/// How often a principal was refused a token for one reason in one hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who asked.
    pub principal: String,
    /// The problem's code.
    pub code: &'static str,
    /// Hours since 1970.
    pub hour: u64,
    /// How often.
    pub count: u64,
}

/// What the state list says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct States {
    /// Agents that are not active.
    pub agents: BTreeMap<AgentId, AgentState>,
    /// Agents whose tokens issued earlier are dead.
    pub not_before: BTreeMap<AgentId, u64>,
    /// Revoked tokens and when they expire.
    pub revoked: BTreeMap<Jti, u64>,
}

/// A verified batch: one source, consecutive sequence numbers, each record's hash checked and chained to the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The source.
    pub source: String,
    /// The workload that every record names, and the peer that sent it.
    pub workload: SpiffeId,
    /// The sequence number of the first record.
    pub first_seq: u64,
    /// `prev_hash` of the first record.
    pub prev_hash: Option<[u8; 32]>,
    /// The records; never empty.
    pub records: Vec<BatchRecord>,
}

impl Batch {
    /// The sequence number of the last record.
    pub fn last_seq(&self) -> u64 {
        self.first_seq
            .saturating_add(self.records.len() as u64)
            .saturating_sub(1)
    }
}

/// One record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchRecord {
    /// The record's hash.
    pub hash: [u8; 32],
    /// The canonical bytes that were hashed.
    pub canonical: Vec<u8>,
    /// The call that it tells of.
    pub call: Option<String>,
}

/// A batch that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The source's last stored sequence number.
    pub accepted_through: u64,
    /// How many records of the batch were new.
    pub new_records: u64,
    /// How many records there are in all with those of the batch: none of them stands at a later place. Those that were new
    /// stand at the last places up to it.
    pub position: u64,
}

/// Why a batch is not stored. A fault of the sender, final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Another record stands at that place, or the batch does not continue from it.
    #[error("another record stands at this place of the source's chain")]
    Fork,
    /// Records before the batch are missing.
    #[error("records of the source before this batch are missing")]
    Gap,
    /// Another workload opened the source.
    #[error("the source belongs to another workload")]
    ForeignSource,
}

/// A record as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Place in the order of acceptance.
    pub position: u64,
    /// Place in the source's chain.
    pub seq: u64,
    /// The record's hash.
    pub hash: [u8; 32],
    /// The canonical bytes.
    pub canonical: Vec<u8>,
}
