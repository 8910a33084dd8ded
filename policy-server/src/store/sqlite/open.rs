//! Opening the file: its schema, and the connections that read and write it.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqlStr, SqliteConnection};
use tokio::sync::Mutex;

use super::issue::Issuing;
use super::mover::Mover;
use super::{SqliteStore, keys, log, tree};
use crate::store::{StoreError, StoredKey};

/// The schema's steps, in order; one that was released is never changed.
const MIGRATIONS: [(i64, &str, &str); 10] = [
    (1, "start", include_str!("../../../migrations/0001_start.sql")),
    (2, "keys", include_str!("../../../migrations/0002_keys.sql")),
    (3, "log", include_str!("../../../migrations/0003_log.sql")),
    (4, "agents", include_str!("../../../migrations/0004_agents.sql")),
    (6, "witnesses", include_str!("../../../migrations/0006_witnesses.sql")),
    (7, "work", include_str!("../../../migrations/0007_work.sql")),
    (
        8,
        "live_claims",
        include_str!("../../../migrations/0008_live_claims.sql"),
    ),
    (
        9,
        "kept_policy",
        include_str!("../../../migrations/0009_kept_policy.sql"),
    ),
    (10, "drift", include_str!("../../../migrations/0010_drift.sql")),
    (11, "tiles", include_str!("../../../migrations/0011_tiles.sql")),
];

/// The pages of 4 KiB in the write-ahead log at which a commit moves them into the database itself. [`mover`] does so long
/// before.
const LOG_PAGES: &str = "32768";

/// What the connection that writes keeps of the database, in KiB (negative, as SQLite has it).
const WRITER_CACHE: &str = "-16384";

impl SqliteStore {
    /// Opens the database file, making it and bringing its schema up to date as needed.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened or its schema is newer than this program.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        make_private(path).map_err(|error| StoreError::Failed(error.into()))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // A pod with a read-only root has no place for temporary files, which large statements want.
            .pragma("temp_store", "memory")
            .busy_timeout(Duration::from_secs(5));
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            // A file does not hang up, and asking whether it has takes as long as a statement.
            .test_before_acquire(false)
            // Where SQLite has ended a transaction by itself (a full or failing disk), the driver goes on counting it and
            // begins no other on that connection: it is given up.
            .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect_with(
                options
                    .clone()
                    .pragma("wal_autocheckpoint", LOG_PAGES)
                    .pragma("cache_size", WRITER_CACHE),
            )
            .await
            .map_err(StoreError::Failed)?;
        migrator().run(&writer).await?;
        tree::catch_up(&writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .test_before_acquire(false)
            .connect_with(options.clone().read_only(true).create_if_missing(false))
            .await
            .map_err(StoreError::Failed)?;
        let mover = Mover::start(options, writer.clone()).await?;
        let issuing = Issuing::start(writer.clone());
        Ok(Self {
            writer,
            readers,
            mover,
            issuing,
            ends: Mutex::default(),
        })
    }

    /// What a database that a server may be using says of its keys; nothing, if there is no database or it is older
    /// than keys in it. Changes nothing.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub async fn peek_keys(path: &Path) -> Result<Vec<StoredKey>, StoreError> {
        let Some(mut connection) = peek(path).await? else {
            return Ok(Vec::new());
        };
        let found = keys::peek(&mut connection).await;
        connection.close().await.map_err(StoreError::Failed)?;
        found
    }

    /// The name of the log whose checkpoints such a database has; None if there is none. Changes nothing.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub async fn peek_origin(path: &Path) -> Result<Option<String>, StoreError> {
        let Some(mut connection) = peek(path).await? else {
            return Ok(None);
        };
        let found = log::peek_origin(&mut connection).await;
        connection.close().await.map_err(StoreError::Failed)?;
        found
    }
}

/// Opens a database that is there for reading.
async fn peek(path: &Path) -> Result<Option<SqliteConnection>, StoreError> {
    if !path.exists() {
        return Ok(None);
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    options.connect().await.map(Some).map_err(StoreError::Failed)
}

/// Makes the file, if it is not there, for its owner alone; SQLite gives its write-ahead log the same permissions.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o600).open(path).map(drop)
}

fn migrator() -> Migrator {
    let steps = MIGRATIONS.into_iter().map(|(version, name, sql)| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            SqlStr::from_static(sql),
            false,
        )
    });
    Migrator::with_migrations(steps.collect())
}
