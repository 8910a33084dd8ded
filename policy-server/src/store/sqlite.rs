//! The store in one SQLite file, write-ahead logged, every commit fsynced (`synchronous=FULL`).
//!
//! One connection writes, so that a write never waits for another's lock; reads go beside it.

use authz::digest::Digest;
use authz::identity::{AgentId, Jti};
use authz::log::policy::Kind;
use authz::log::tree::Span;
use authz::policy::{PageDigest, Version};
use authz::state::transition::TransitionError;
use authz::successor::Operation;
use authz::token::SKEW_SECONDS;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqlitePool;
use sqlx::{Row, Sqlite, SqliteConnection, Transaction};
use tokio::sync::Mutex;

use super::agents::{AgentChange, AskedChange, ChangeOutcome, Revocation, Revoked};
use super::findings::{Judged, StoredFinding};
use super::policy::SignedPolicy;
use super::risk::{ReceivedRecord, Scored};
use super::trace::Traced;
use super::work::{EndWork, KnownToken, Work, WorkEnded};
use super::{
    Answer, Appended, Batch, IssuedToken, KeyChange, LiveClaims, LiveTokens, Reading, Refusal, Refused, States, Store,
    StoreError, StoredCheckpoint, StoredKey, StoredRecord, Stream, TreeHead,
};

use append::Ends;
use issue::Issuing;
use mover::Mover;

mod agents;
mod append;
mod findings;
mod issue;
mod keys;
mod log;
mod mover;
mod open;
mod policy;
mod risk;
mod script;
mod trace;
mod tree;
mod webhooks;
mod work;

/// SQLite takes so many rows of a multi-row insert at once that one statement holds a fair share of a batch.
const ROWS_A_STATEMENT: usize = 128;

/// A [`Store`] in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    mover: Mover,
    issuing: Issuing,
    ends: Mutex<Option<Ends>>,
}

impl SqliteStore {
    async fn begin(&self) -> Result<Transaction<'_, Sqlite>, StoreError> {
        begin(&self.writer).await
    }
}

async fn begin(writer: &SqlitePool) -> Result<Transaction<'_, Sqlite>, StoreError> {
    writer.begin_with("BEGIN IMMEDIATE").await.map_err(StoreError::Failed)
}

/// Whether a database has a table.
async fn has_table(connection: &mut SqliteConnection, name: &str) -> Result<bool, StoreError> {
    let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?")
        .bind(name)
        .fetch_optional(connection)
        .await
        .map_err(StoreError::Failed)?;
    Ok(found.is_some())
}

/// The connection that writes, while there may be a transaction in it that the driver does not know of: it is closed, which
/// undoes that, unless the transaction has ended.
struct Writing(Option<PoolConnection<Sqlite>>);

impl Writing {
    async fn start(writer: &SqlitePool) -> Result<Self, StoreError> {
        Ok(Self(Some(writer.acquire().await.map_err(StoreError::Failed)?)))
    }

    fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.0.as_deref_mut().ok_or(StoreError::Failed(sqlx::Error::PoolClosed))
    }

    /// The transaction has ended.
    fn end(mut self) {
        self.0.take();
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        drop(self.0.take().map(PoolConnection::detach));
    }
}

/// A commit that fails may have reached the disk all the same.
async fn commit(transaction: Transaction<'_, Sqlite>) -> Result<(), StoreError> {
    transaction.commit().await.map_err(StoreError::Unknown)
}

impl Store for SqliteStore {
    fn reserve_versions<'a>(&'a self, stream: Stream, count: u32) -> Answer<'a, Version> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            let epoch = epoch(&mut transaction).await?;
            let last: i64 = sqlx::query_scalar(
                "INSERT INTO versions (stream, counter) VALUES (?1, ?2)
                 ON CONFLICT (stream) DO UPDATE SET counter = counter + ?2 RETURNING counter",
            )
            .bind(match stream {
                Stream::Bundle => "bundle",
                Stream::State => "state",
            })
            .bind(i64::from(count))
            .fetch_one(&mut *transaction)
            .await
            .map_err(StoreError::Failed)?;
            commit(transaction).await?;
            let first = unsigned(last, "counter")?
                .saturating_sub(u64::from(count))
                .saturating_add(1);
            Ok(Version { epoch, counter: first })
        })
    }

    fn new_epoch(&self, at_least: u64) -> Answer<'_, u64> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            let epoch: i64 = sqlx::query_scalar("UPDATE meta SET epoch = max(epoch + 1, ?) RETURNING epoch")
                .bind(signed(at_least))
                .fetch_one(&mut *transaction)
                .await
                .map_err(StoreError::Failed)?;
            commit(transaction).await?;
            unsigned(epoch, "epoch")
        })
    }

    fn issued<'a>(&'a self, token: &'a IssuedToken, says: &'a LiveClaims) -> Answer<'a, Result<(), Work>> {
        Box::pin(self.issuing.record(token, says))
    }

    fn token<'a>(&'a self, jti: &'a Jti) -> Answer<'a, Option<KnownToken>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            work::token(&mut connection, jti.as_str()).await
        })
    }

    fn live_claims<'a>(&'a self, of: &'a Operation, now: u64, limit: u32) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            work::live_claims(&mut connection, of, now, limit).await
        })
    }

    fn recent_txns<'a>(&'a self, agent: &'a AgentId, since: u64, limit: u32) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            work::recent_txns(&mut connection, agent, since, limit).await
        })
    }

    fn end_work<'a>(&'a self, asked: &'a EndWork) -> Answer<'a, WorkEnded> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            let ended = work::end(&mut transaction, asked).await?;
            if let WorkEnded::Ended { .. } = ended {
                commit(transaction).await?;
            }
            Ok(ended)
        })
    }

    fn refused<'a>(&'a self, refusals: &'a [Refusal]) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            for refusal in refusals {
                sqlx::query(
                    "INSERT INTO refused (principal, code, hour, count) VALUES (?, ?, ?, ?)
                     ON CONFLICT (principal, code, hour) DO UPDATE SET count = count + excluded.count",
                )
                .bind(&refusal.principal)
                .bind(refusal.code)
                .bind(signed(refusal.hour))
                .bind(signed(refusal.count))
                .execute(&mut *transaction)
                .await
                .map_err(StoreError::Failed)?;
            }
            commit(transaction).await
        })
    }

    fn change_agent<'a>(&'a self, asked: &'a AskedChange) -> Answer<'a, Result<ChangeOutcome, TransitionError>> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            let outcome = agents::change(&mut transaction, asked).await?;
            if let Ok(ChangeOutcome::Changed(_)) = outcome {
                commit(transaction).await?;
            }
            Ok(outcome)
        })
    }

    fn agent_changes<'a>(&'a self, agent: &'a AgentId, limit: u32) -> Answer<'a, Vec<AgentChange>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            agents::changes(&mut connection, agent, limit).await
        })
    }

    fn last_agent_changes(&self) -> Answer<'_, Vec<AgentChange>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            agents::last_changes(&mut connection).await
        })
    }

    fn agent_changes_after(&self, number: u64, limit: u32) -> Answer<'_, Vec<AgentChange>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            agents::changes_after(&mut connection, number, limit).await
        })
    }

    fn webhook_told<'a>(&'a self, url: &'a str) -> Answer<'a, u64> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            let told = webhooks::told(&mut transaction, url).await?;
            commit(transaction).await?;
            Ok(told)
        })
    }

    fn save_webhook_told<'a>(&'a self, url: &'a str, number: u64) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            webhooks::save(&mut transaction, url, number).await?;
            commit(transaction).await
        })
    }

    fn revoke<'a>(&'a self, asked: &'a Revocation) -> Answer<'a, Revoked> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            let revoked = agents::revoke(&mut transaction, asked).await?;
            commit(transaction).await?;
            Ok(revoked)
        })
    }

    fn states(&self, now: u64, longest_ttl_seconds: u64) -> Answer<'_, States> {
        Box::pin(async move {
            let mut transaction = self.readers.begin().await.map_err(StoreError::Failed)?;
            let mut states = States::default();
            for row in rows(
                &mut transaction,
                sqlx::query("SELECT agent_id, state FROM agent_states"),
            )
            .await?
            {
                states
                    .agents
                    .insert(agent_id(row.get(0))?, agents::parse_state(row.get(1))?);
            }
            // Sidecars take a token for the skew past its expiry, so what kills it must be told as long.
            // A live token was issued at most the longest lifetime ago; an earlier time kills nothing any more.
            let oldest_live = now.saturating_sub(longest_ttl_seconds).saturating_sub(SKEW_SECONDS);
            let query = sqlx::query("SELECT agent_id, not_before FROM not_before WHERE not_before > ?");
            for row in rows(&mut transaction, query.bind(signed(oldest_live))).await? {
                states
                    .not_before
                    .insert(agent_id(row.get(0))?, unsigned(row.get(1), "not_before")?);
            }
            let query = sqlx::query("SELECT jti, expires_at FROM revoked WHERE expires_at > ?");
            for row in rows(&mut transaction, query.bind(signed(now.saturating_sub(SKEW_SECONDS)))).await? {
                let jti = Jti::try_from(row.get::<String, _>(0)).map_err(|_| StoreError::Corrupt("jti"))?;
                states.revoked.insert(jti, unsigned(row.get(1), "expires_at")?);
            }
            Ok(states)
        })
    }

    fn append<'a>(&'a self, batches: &'a [Batch], now_ms: u64) -> Answer<'a, Vec<Result<Appended, Refused>>> {
        Box::pin(async move {
            let mut ends = self.ends.lock().await;
            let mut writing = Writing::start(&self.writer).await?;
            let answers = append::append(writing.connection()?, &mut ends, batches, now_ms).await?;
            writing.end();
            self.mover.wake();
            Ok(answers)
        })
    }

    fn record_count(&self) -> Answer<'_, u64> {
        Box::pin(async move {
            // Positions are dense and rows are never deleted, so the last one is the count.
            let last: Option<i64> = sqlx::query_scalar("SELECT max(position) FROM records")
                .fetch_one(&self.readers)
                .await
                .map_err(StoreError::Failed)?;
            unsigned(last.unwrap_or(0), "position")
        })
    }

    fn records<'a>(&'a self, source: &'a str, from_seq: u64, limit: u32) -> Answer<'a, Vec<StoredRecord>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            let query = sqlx::query(
                "SELECT position, seq, hash, record FROM records WHERE source = ? AND seq >= ? ORDER BY seq LIMIT ?",
            );
            let query = query.bind(source).bind(signed(from_seq)).bind(limit);
            log::stored(rows(&mut connection, query).await?)
        })
    }

    fn records_from(&self, position: u64, limit: u32) -> Answer<'_, Vec<StoredRecord>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            log::records_from(&mut connection, position, limit).await
        })
    }

    fn records_of_call<'a>(&'a self, call: &'a str, limit: u32) -> Answer<'a, Vec<StoredRecord>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            log::records_of_call(&mut connection, call, limit).await
        })
    }

    fn tree(&self) -> Answer<'_, TreeHead> {
        Box::pin(async move {
            // One snapshot: the size and the tiles must be those of one moment.
            let mut transaction = self.readers.begin().await.map_err(StoreError::Failed)?;
            tree::head(&mut transaction).await
        })
    }

    fn tree_hashes<'a>(&'a self, spans: &'a [Span]) -> Answer<'a, Vec<Digest>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            tree::hashes(&mut connection, spans).await
        })
    }

    fn tile(&self, level: u32, tile: u64, width: u64) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            let mut hashes = tree::tile(&mut connection, level, tile).await?;
            let length = usize::try_from(width.saturating_mul(32)).unwrap_or(usize::MAX);
            Ok((hashes.len() >= length).then(|| {
                hashes.truncate(length);
                hashes
            }))
        })
    }

    fn keep_checkpoint<'a>(&'a self, checkpoint: &'a StoredCheckpoint) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            log::keep_checkpoint(&mut transaction, checkpoint).await?;
            commit(transaction).await
        })
    }

    fn latest_checkpoint(&self) -> Answer<'_, Option<StoredCheckpoint>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            log::latest_checkpoint(&mut connection).await
        })
    }

    fn checkpoints(&self, size: u64, limit: u32) -> Answer<'_, Vec<StoredCheckpoint>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            log::checkpoints(&mut connection, size, limit).await
        })
    }

    fn log_read<'a>(&'a self, readings: &'a [Reading]) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            log::add_readings(&mut transaction, readings).await?;
            commit(transaction).await
        })
    }

    fn received(&self, after: u64, limit: u32) -> Answer<'_, Vec<ReceivedRecord>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            risk::received(&mut connection, after, limit).await
        })
    }

    fn keep_policy<'a>(&'a self, documents: &'a [SignedPolicy]) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            policy::keep(&mut transaction, documents).await?;
            commit(transaction).await
        })
    }

    fn kept_policy(&self, kind: Kind, version: Version) -> Answer<'_, Option<String>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            policy::document(&mut connection, kind, version).await
        })
    }

    fn kept_page(&self, digest: PageDigest) -> Answer<'_, Option<String>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            policy::page(&mut connection, &digest).await
        })
    }

    fn forget_policy(&self, signed_before: u64) -> Answer<'_, u64> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            let forgotten = policy::forget(&mut transaction, signed_before).await?;
            commit(transaction).await?;
            Ok(forgotten)
        })
    }

    fn scored(&self) -> Answer<'_, Scored> {
        Box::pin(async move {
            let mut transaction = self.readers.begin().await.map_err(StoreError::Failed)?;
            risk::scored(&mut transaction).await
        })
    }

    fn save_scored<'a>(&'a self, scored: &'a Scored) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            risk::save(&mut transaction, scored).await?;
            commit(transaction).await
        })
    }

    fn traced(&self) -> Answer<'_, u64> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            trace::traced(&mut connection).await
        })
    }

    fn save_traced<'a>(&'a self, traced: &'a Traced) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut writing = Writing::start(&self.writer).await?;
            trace::save(writing.connection()?, traced).await?;
            writing.end();
            Ok(())
        })
    }

    fn records_of_txn<'a>(&'a self, txn: &'a str, limit: u32) -> Answer<'a, Vec<StoredRecord>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            trace::records(&mut connection, txn, limit).await
        })
    }

    fn judged(&self) -> Answer<'_, u64> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            findings::judged(&mut connection).await
        })
    }

    fn save_judged<'a>(&'a self, judged: &'a Judged) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            findings::save(&mut transaction, judged).await?;
            commit(transaction).await
        })
    }

    fn findings(&self, limit: u32) -> Answer<'_, Vec<StoredFinding>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            findings::all(&mut connection, limit).await
        })
    }

    fn keys(&self) -> Answer<'_, Vec<StoredKey>> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            keys::all(&mut connection).await
        })
    }

    fn change_keys<'a>(&'a self, changes: &'a [KeyChange]) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            keys::change(&mut transaction, changes).await?;
            commit(transaction).await
        })
    }

    fn live_tokens(&self, now: u64, issued_by: u64) -> Answer<'_, LiveTokens> {
        Box::pin(async move {
            let mut connection = self.readers.acquire().await.map_err(StoreError::Failed)?;
            keys::live_tokens(&mut connection, now, issued_by).await
        })
    }

    fn probe(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let mut transaction = self.begin().await?;
            sqlx::query("UPDATE meta SET probed = probed + 1")
                .execute(&mut *transaction)
                .await
                .map_err(StoreError::Failed)?;
            commit(transaction).await
        })
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.readers.close().await;
            self.mover.close().await;
            self.writer.close().await;
            Ok(())
        })
    }
}

type SqliteQuery<'q> = sqlx::query::Query<'q, Sqlite, sqlx::sqlite::SqliteArguments>;

async fn rows(
    connection: &mut SqliteConnection,
    query: SqliteQuery<'_>,
) -> Result<Vec<sqlx::sqlite::SqliteRow>, StoreError> {
    query.fetch_all(connection).await.map_err(StoreError::Failed)
}

async fn epoch(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let epoch: i64 = sqlx::query_scalar("SELECT epoch FROM meta")
        .fetch_one(connection)
        .await
        .map_err(StoreError::Failed)?;
    unsigned(epoch, "epoch")
}

fn agent_id(text: String) -> Result<AgentId, StoreError> {
    AgentId::try_from(text).map_err(|_| StoreError::Corrupt("agent_id"))
}

fn hash(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt("hash"))
}

/// SQLite has no unsigned integers; nothing counted here comes near the difference.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64, what: &'static str) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt(what))
}
