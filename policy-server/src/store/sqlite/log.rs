//! What is read of the log, and who read it: records in their order and by call, checkpoints, readings.

use authz::digest::Digest;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::{SqliteQuery, has_table, hash, rows, signed, unsigned};
use crate::store::{Reading, StoreError, StoredCheckpoint, StoredRecord, TreeHead};

/// The records of a call.
pub(super) async fn records_of_call(
    connection: &mut SqliteConnection,
    call: &str,
    limit: u32,
) -> Result<Vec<StoredRecord>, StoreError> {
    let query = sqlx::query(
        "WITH RECURSIVE spans (span) AS (
           SELECT 0 UNION ALL SELECT span + 1 FROM spans WHERE span < (SELECT max(span) FROM calls)
         )
         SELECT records.position, seq, hash, record FROM spans CROSS JOIN calls CROSS JOIN records
         WHERE calls.span = spans.span AND calls.call = ? AND records.position = calls.position
         ORDER BY records.position LIMIT ?",
    );
    stored(rows(connection, query.bind(call).bind(limit)).await?)
}

/// The records from a position on.
pub(super) async fn records_from(
    connection: &mut SqliteConnection,
    position: u64,
    limit: u32,
) -> Result<Vec<StoredRecord>, StoreError> {
    let query =
        sqlx::query("SELECT position, seq, hash, record FROM records WHERE position >= ? ORDER BY position LIMIT ?");
    stored(rows(connection, query.bind(signed(position)).bind(limit)).await?)
}

/// Reads rows of position, seq, hash and record.
pub(super) fn stored(rows: Vec<SqliteRow>) -> Result<Vec<StoredRecord>, StoreError> {
    rows.into_iter()
        .map(|row| {
            Ok(StoredRecord {
                position: unsigned(row.get(0), "position")?,
                seq: unsigned(row.get(1), "seq")?,
                hash: hash(row.get(2))?,
                canonical: row.get(3),
            })
        })
        .collect()
}

/// Keeps a checkpoint.
pub(super) async fn keep_checkpoint(
    connection: &mut SqliteConnection,
    checkpoint: &StoredCheckpoint,
) -> Result<(), StoreError> {
    let query = sqlx::query(
        "INSERT INTO checkpoints (size, root, signed, note) VALUES (?, ?, ?, ?)
         ON CONFLICT (size) DO UPDATE SET root = excluded.root, signed = excluded.signed, note = excluded.note",
    )
    .bind(signed(checkpoint.head.size))
    .bind(checkpoint.head.root.as_bytes().as_slice())
    .bind(signed(checkpoint.seconds))
    .bind(&checkpoint.note);
    execute(connection, query).await
}

/// The checkpoint of the largest tree.
pub(super) async fn latest_checkpoint(
    connection: &mut SqliteConnection,
) -> Result<Option<StoredCheckpoint>, StoreError> {
    let query = sqlx::query("SELECT size, root, signed, note FROM checkpoints ORDER BY size DESC LIMIT 1");
    rows(connection, query).await?.iter().map(checkpoint).next().transpose()
}

/// The checkpoints of trees of at least a size.
pub(super) async fn checkpoints(
    connection: &mut SqliteConnection,
    size: u64,
    limit: u32,
) -> Result<Vec<StoredCheckpoint>, StoreError> {
    let query = sqlx::query("SELECT size, root, signed, note FROM checkpoints WHERE size >= ? ORDER BY size LIMIT ?");
    rows(connection, query.bind(signed(size)).bind(limit))
        .await?
        .iter()
        .map(checkpoint)
        .collect()
}

/// The name in the checkpoints of a database that may be older than their table.
pub(super) async fn peek_origin(connection: &mut SqliteConnection) -> Result<Option<String>, StoreError> {
    if !has_table(connection, "checkpoints").await? {
        return Ok(None);
    }
    let latest = latest_checkpoint(connection).await?;
    Ok(latest.and_then(|latest| latest.note.lines().next().map(str::to_owned)))
}

fn checkpoint(row: &SqliteRow) -> Result<StoredCheckpoint, StoreError> {
    Ok(StoredCheckpoint {
        head: TreeHead {
            size: unsigned(row.get(0), "size")?,
            root: Digest(hash(row.get(1))?),
        },
        seconds: unsigned(row.get(2), "signed")?,
        note: row.get(3),
    })
}

/// Adds counts of readings.
pub(super) async fn add_readings(connection: &mut SqliteConnection, readings: &[Reading]) -> Result<(), StoreError> {
    for reading in readings {
        let query = sqlx::query(
            "INSERT INTO log_reads (principal, what, hour, count) VALUES (?, ?, ?, ?)
             ON CONFLICT (principal, what, hour) DO UPDATE SET count = count + excluded.count",
        )
        .bind(&reading.principal)
        .bind(reading.what)
        .bind(signed(reading.hour))
        .bind(signed(reading.count));
        execute(connection, query).await?;
    }
    Ok(())
}

async fn execute(connection: &mut SqliteConnection, query: SqliteQuery<'_>) -> Result<(), StoreError> {
    query.execute(connection).await.map_err(StoreError::Failed)?;
    Ok(())
}
