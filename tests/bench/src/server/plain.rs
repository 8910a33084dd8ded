//! The same rows in the same batches, inserted by SQLite alone: no chains looked up, no tree, no calls found again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use authz::audit;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, QueryBuilder, Sqlite};

/// Rows of one statement, as many as the policy server's.
const ROWS_A_STATEMENT: usize = 128;

/// A database with one table, durable as the policy server's is.
pub(crate) struct Plain(SqliteConnection);

/// A record as a row.
pub(crate) struct Row {
    source: String,
    seq: i64,
    hash: [u8; 32],
    workload: String,
    canonical: Vec<u8>,
}

/// The rows of a body that a sidecar posts.
///
/// # Errors
///
/// When a line of it is no record.
pub(crate) fn rows(body: &[u8]) -> Result<Vec<Row>> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let rows = lines.map(|line| {
        let verified = audit::verify_line(line)?;
        Ok(Row {
            source: verified.link.source.to_string(),
            seq: i64::try_from(verified.link.seq)?,
            hash: *verified.hash.as_bytes(),
            workload: verified.record.workload.as_deref().context("no workload")?.to_owned(),
            canonical: verified.canonical.to_vec(),
        })
    });
    rows.collect()
}

impl Plain {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub(crate) async fn create(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full);
        let mut connection = options.connect().await?;
        let table = "CREATE TABLE records (position INTEGER PRIMARY KEY, source TEXT NOT NULL, seq INTEGER NOT NULL,
            hash BLOB NOT NULL, workload TEXT NOT NULL, received_at INTEGER NOT NULL, record BLOB NOT NULL,
            UNIQUE (source, seq)) STRICT";
        sqlx::query(table).execute(&mut connection).await?;
        Ok(Self(connection))
    }

    /// Inserts rows and makes them durable; answers how long that took.
    ///
    /// # Errors
    ///
    /// When the database fails.
    pub(crate) async fn insert(&mut self, rows: &[Row]) -> Result<Duration> {
        let start = Instant::now();
        let mut transaction = self.0.begin().await?;
        for chunk in rows.chunks(ROWS_A_STATEMENT) {
            let mut query =
                QueryBuilder::<Sqlite>::new("INSERT INTO records (source, seq, hash, workload, received_at, record) ");
            query.push_values(chunk, |mut values, row| {
                values
                    .push_bind(&row.source)
                    .push_bind(row.seq)
                    .push_bind(row.hash.as_slice())
                    .push_bind(&row.workload)
                    .push_bind(1_i64)
                    .push_bind(row.canonical.as_slice());
            });
            query.build().execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(start.elapsed())
    }
}
