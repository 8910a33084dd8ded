//! Moves what was committed from the write-ahead log into the database, on a connection of its own: a commit that does so
//! itself keeps every call waiting that comes meanwhile.
//!
//! SQLite begins the log anew once all of it has been moved. While commits go on, what is moved beside them is never all of
//! it; the little that is left is moved with the writer held.

use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use tokio::sync::mpsc;

use crate::crash;
use crate::store::StoreError;

/// How long commits gather: each move costs the disk two fsyncs, and pages that change often are moved once.
const GATHER: Duration = Duration::from_secs(1);

/// The pages that may be left when the writer is held to move them.
const FEW_PAGES: i64 = 64;

/// The task that moves; it ends with the store.
#[derive(Debug)]
pub(super) struct Mover {
    wake: mpsc::Sender<()>,
    connection: SqlitePool,
}

impl Mover {
    pub(super) async fn start(options: SqliteConnectOptions, writer: SqlitePool) -> Result<Self, StoreError> {
        let connection = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .map_err(StoreError::Failed)?;
        let (wake, mut woken) = mpsc::channel(1);
        let own = connection.clone();
        tokio::spawn(async move {
            while woken.recv().await.is_some() {
                tokio::time::sleep(GATHER).await;
                // What fails is tried again after the next commit, and a commit that finds the log too long moves it.
                if let Err(error) = move_all(&own, &writer).await {
                    tracing::debug!(%error, "the write-ahead log was not moved");
                }
            }
        });
        Ok(Self { wake, connection })
    }

    /// Something was committed.
    pub(super) fn wake(&self) {
        // One that is full has been told.
        let _ = self.wake.try_send(());
    }

    pub(super) async fn close(&self) {
        self.connection.close().await;
    }
}

async fn move_all(own: &SqlitePool, writer: &SqlitePool) -> Result<(), sqlx::Error> {
    let left = move_pages(own).await?;
    if left > FEW_PAGES {
        move_pages(own).await?;
    }
    crash::moment("moved");
    move_pages(writer).await?;
    Ok(())
}

/// Moves what is there without waiting for anybody, and says how many pages are left.
async fn move_pages(pool: &SqlitePool) -> Result<i64, sqlx::Error> {
    let (_busy, pages, moved): (i64, i64, i64) =
        sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(pool).await?;
    Ok(pages.saturating_sub(moved))
}
