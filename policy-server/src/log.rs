//! The Merkle log as the server keeps it: signs checkpoints of the tree that the store grows, mirrors them, makes receipts.
//!
//! The tree is durable before anything of it is signed. Before the first signature after a start, the tree is compared with
//! the last checkpoint in the database and with the mirror's: a log must never sign two histories, not even because
//! somebody restored an older database.

pub mod keys;
pub mod mirror;
pub mod readings;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use authz::digest::Digest;
use authz::log::checkpoint::Checkpoint;
use authz::log::note::KeyError as NoteKeyError;
use authz::log::tree::Span;
use authz::log::{policy, proof, receipt};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::Config;
use crate::crash;
use crate::keys::{KeyError, KeyKind};
use crate::metrics::Metrics;
use crate::store::{Store, StoreError, StoredCheckpoint, StoredRecord, TreeHead};

use keys::LogKey;
use mirror::Mirror;
use readings::Readings;

/// How often a tree that has grown is signed. Who cannot wait as long has it signed by asking for a receipt.
const EVERY: Duration = Duration::from_secs(5);

/// How old the signature of a tree that does not grow may become: silence is dated too.
const RENEW_SECONDS: u64 = 3600;

/// The most records that a receipt has.
pub const MAX_RECEIPT_RECORDS: u32 = 256;

/// Why the log cannot be opened or signed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The server's name or its key makes no key of a log.
    #[error("the log's key cannot be used: {0}")]
    NoteKey(#[from] NoteKeyError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A checkpoint was signed that the tree does not continue.
    #[error(
        "the log's tree of {size} records does not continue the checkpoint of {signed} records in {place}: the database was rolled back or changed. Put the newer one back; to begin a new history instead, take the old checkpoints and the log's key away together"
    )]
    RolledBack {
        /// The tree.
        size: u64,
        /// What had been signed.
        signed: u64,
        /// Where that was found.
        place: String,
    },
    /// The mirror holds what none of the log's keys signed.
    #[error("`{}` is not signed by this log's key: name another folder as `audit.mirror`, or put the key back", .0.display())]
    ForeignMirror(PathBuf),
}

/// The log.
#[derive(Debug)]
pub struct Log {
    origin: String,
    keys: Vec<LogKey>,
    mirror: Option<Mirror>,
    /// The mirror lacks the last checkpoint.
    mirror_is_behind: AtomicBool,
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    clock: Clock,
    signing: tokio::sync::Mutex<()>,
    /// Who reads the log.
    pub readings: Readings,
}

impl Log {
    /// Reads or makes the log's key, compares the tree with what was signed of it before, and signs it.
    ///
    /// # Errors
    ///
    /// If key or database cannot be used, or the tree does not continue what was signed.
    pub async fn open(
        config: &Config,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> Result<Self, LogError> {
        let origin = keys::origin(&config.identity);
        let log = Self {
            keys: keys::open(&config.keys, &config.data, &origin)?,
            mirror: config.mirror.clone().map(Mirror::new),
            mirror_is_behind: AtomicBool::new(true),
            origin,
            store,
            metrics,
            clock,
            signing: tokio::sync::Mutex::default(),
            readings: Readings::default(),
        };
        log.compare_with_signed().await?;
        match log.sign().await {
            // A full disk must not keep the server from starting: it is not ready then, and recovers by itself.
            Err(LogError::Store(error)) => {
                log.metrics.log_failures.inc();
                tracing::error!(%error, "the log could not be signed");
            }
            signed => drop(signed?),
        }
        Ok(log)
    }

    /// The log's keys.
    pub fn keys(&self) -> &[LogKey] {
        &self.keys
    }

    /// The last checkpoint.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn checkpoint(&self) -> Result<StoredCheckpoint, LogError> {
        match self.store.latest_checkpoint().await? {
            Some(checkpoint) => Ok(checkpoint),
            // One is signed at every start.
            None => self.sign().await,
        }
    }

    /// Signs the tree, unless that was done since it last grew and not long ago.
    ///
    /// # Errors
    ///
    /// If the database fails or is behind what was signed. A mirror that fails is tried again, and logged.
    pub async fn sign(&self) -> Result<StoredCheckpoint, LogError> {
        // One at a time, so that checkpoints are signed, stored and mirrored in the order of their sizes.
        let _one = self.signing.lock().await;
        let head = self.store.tree().await?;
        let seconds = self.clock.seconds();
        let last = self.store.latest_checkpoint().await?;
        let checkpoint = match last {
            Some(last) if last.head == head && seconds < last.seconds.saturating_add(RENEW_SECONDS) => last,
            Some(last) if last.head.size > head.size => {
                return Err(rolled_back(head.size, last.head.size, "the database"));
            }
            _ => {
                let checkpoint = self.signed(head, seconds);
                crash::moment("signed");
                self.store.keep_checkpoint(&checkpoint).await?;
                crash::moment("kept");
                self.mirror_is_behind.store(true, Ordering::Relaxed);
                checkpoint
            }
        };
        self.metrics
            .log_signed
            .set(i64::try_from(checkpoint.head.size).unwrap_or(i64::MAX));
        self.mirror(&checkpoint).await;
        Ok(checkpoint)
    }

    fn signed(&self, head: TreeHead, seconds: u64) -> StoredCheckpoint {
        let checkpoint = Checkpoint {
            origin: self.origin.clone(),
            size: head.size,
            root: head.root,
        };
        let text = checkpoint.text();
        let lines: Vec<_> = self.keys.iter().flat_map(|key| key.lines(&text, seconds)).collect();
        StoredCheckpoint {
            head,
            seconds,
            note: checkpoint.note(&lines),
        }
    }

    async fn mirror(&self, checkpoint: &StoredCheckpoint) {
        let Some(mirror) = &self.mirror else { return };
        if !self.mirror_is_behind.load(Ordering::Relaxed) {
            return;
        }
        match mirror.write(checkpoint).await {
            Ok(()) => self.mirror_is_behind.store(false, Ordering::Relaxed),
            Err(error) => {
                self.metrics.log_failures.inc();
                tracing::error!(%error, folder = %mirror.folder().display(), "a checkpoint could not be mirrored");
            }
        }
    }

    /// Compares the tree with what was signed of it, here and in the mirror.
    async fn compare_with_signed(&self) -> Result<(), LogError> {
        if let Some(last) = self.store.latest_checkpoint().await? {
            self.compare(last.head, "the database".to_owned()).await?;
        }
        let Some(mirror) = &self.mirror else { return Ok(()) };
        let keys: Vec<_> = self.keys.iter().map(|key| key.public().clone()).collect();
        match mirror.read(&keys).await {
            Ok(Some(head)) => self.compare(head, mirror.newest().display().to_string()).await,
            Ok(None) => Ok(()),
            Err(mirror::MirrorError::Foreign) => Err(LogError::ForeignMirror(mirror.newest())),
            Err(error) => {
                self.metrics.log_failures.inc();
                tracing::error!(%error, "the mirror of checkpoints cannot be read, so a roll-back would not show by it");
                Ok(())
            }
        }
    }

    async fn compare(&self, signed: TreeHead, place: String) -> Result<(), LogError> {
        let size = self.store.tree().await?.size;
        let continues = signed.size <= size && self.hashes(&[Span::whole(signed.size)]).await? == [signed.root];
        if continues {
            Ok(())
        } else {
            Err(rolled_back(size, signed.size, &place))
        }
    }

    async fn hashes(&self, spans: &[Span]) -> Result<Vec<Digest>, LogError> {
        Ok(self.store.tree_hashes(spans).await?)
    }

    /// A receipt for the records of a call (see [`receipt`]); they must be in the tree.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn receipt(&self, call: &str, records: &[StoredRecord]) -> Result<Vec<u8>, LogError> {
        let last = records.last().map_or(0, |record| record.position);
        let mut checkpoint = self.checkpoint().await?;
        if checkpoint.head.size < last {
            checkpoint = self.sign().await?;
        }
        let mut text = receipt::header_line(call);
        for record in records {
            let index = record.position.saturating_sub(1);
            let path = proof::inclusion_path(index, checkpoint.head.size).ok_or(StoreError::Corrupt("position"))?;
            let path = self.hashes(&path).await?;
            text.push(b'\n');
            text.extend(authz::audit::line_of(&record.canonical));
            text.push(b'\n');
            text.extend(receipt::proof_line(index, &path, &checkpoint.note));
        }
        text.push(b'\n');
        Ok(text)
    }

    /// The note by which the log's keys vouch for those that sign policy, the newest first.
    ///
    /// # Errors
    ///
    /// If the database fails.
    pub async fn policy_keys(&self) -> Result<String, LogError> {
        let mut keys = self.store.keys().await?;
        keys.retain(|key| key.kind == KeyKind::Bundle);
        keys.sort_by_key(|key| std::cmp::Reverse(key.since));
        let text = policy::keys_text(&self.origin, keys.iter().map(|key| &key.public));
        let seconds = self.clock.seconds();
        let lines = self.keys.iter().flat_map(|key| key.lines(&text, seconds));
        Ok(format!("{text}\n{}", lines.collect::<String>()))
    }

    /// Signs what grows, until the server stops.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while tokio::time::timeout(EVERY, stop.wait_for(|stop| *stop)).await.is_err() {
            self.write_down().await;
        }
    }

    /// Signs what has grown since, once no record can come any more.
    pub async fn close(&self) {
        self.write_down().await;
    }

    async fn write_down(&self) {
        if let Err(error) = self.sign().await {
            self.metrics.log_failures.inc();
            tracing::error!(%error, "the log could not be signed");
        }
        if let Err(error) = self.readings.write(&*self.store, self.clock.seconds()).await {
            self.metrics.store_failures.inc();
            tracing::error!(%error, "counts of readings of the log are lost");
        }
    }
}

fn rolled_back(size: u64, signed: u64, place: &str) -> LogError {
    LogError::RolledBack {
        size,
        signed,
        place: place.to_owned(),
    }
}
