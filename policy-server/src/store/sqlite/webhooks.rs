//! How far webhooks have been told.

use sqlx::SqliteConnection;

use super::{signed, unsigned};
use crate::store::StoreError;

/// The last change that one was told; one that is new starts with what happens from now on.
pub(super) async fn told(connection: &mut SqliteConnection, url: &str) -> Result<u64, StoreError> {
    sqlx::query(
        "INSERT INTO webhooks (url, number) VALUES (?, (SELECT coalesce(max(number), 0) FROM agent_changes))
         ON CONFLICT (url) DO NOTHING",
    )
    .bind(url)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::Failed)?;
    let number: i64 = sqlx::query_scalar("SELECT number FROM webhooks WHERE url = ?")
        .bind(url)
        .fetch_one(connection)
        .await
        .map_err(StoreError::Failed)?;
    unsigned(number, "number")
}

/// Notes that one was told.
pub(super) async fn save(connection: &mut SqliteConnection, url: &str, number: u64) -> Result<(), StoreError> {
    sqlx::query("UPDATE webhooks SET number = max(number, ?) WHERE url = ?")
        .bind(signed(number))
        .bind(url)
        .execute(connection)
        .await
        .map_err(StoreError::Failed)?;
    Ok(())
}
