//! The Merkle tree's tables: how it grows, and what is read of it.
//!
//! The tree is written in the transaction that writes the records, and read back from the tables each time: there is no
//! copy in memory that a failed commit could leave ahead of the disk.

use authz::digest::Digest;
use authz::log::tile::{self, Run, WIDTH};
use authz::log::tree::{Span, leaf_hash, root_above};
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::{commit, rows, signed, unsigned};
use crate::store::{StoreError, TreeHead};

/// How many records of a database that is older than its tree are taken into it at once.
const CATCH_UP: i64 = 1024;

/// Takes records into the tree that a server without one stored.
pub(super) async fn catch_up(writer: &SqlitePool) -> Result<(), StoreError> {
    loop {
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(StoreError::Failed)?;
        let size = size(&mut transaction).await?;
        let query = sqlx::query("SELECT record FROM records WHERE position > ? ORDER BY position LIMIT ?");
        let rows = rows(&mut transaction, query.bind(signed(size)).bind(CATCH_UP)).await?;
        let leaves: Vec<_> = rows.iter().map(|row| leaf_hash(row.get(0))).collect();
        if leaves.is_empty() {
            return Ok(());
        }
        grow(&mut transaction, &leaves).await?;
        commit(transaction).await?;
    }
}

/// Appends the leaves of records that the same transaction has written.
///
/// # Errors
///
/// [`StoreError::Corrupt`] if the tree is then not of all records: a record must not be acknowledged that it lacks.
pub(super) async fn grow(connection: &mut SqliteConnection, leaves: &[Digest]) -> Result<(), StoreError> {
    if leaves.is_empty() {
        return Ok(());
    }
    let before = size(connection).await?;
    let after = before.saturating_add(leaves.len() as u64);
    let last: i64 = sqlx::query_scalar("SELECT max(position) FROM records WHERE position <= ?")
        .bind(signed(after))
        .fetch_one(&mut *connection)
        .await
        .map_err(StoreError::Failed)?;
    if unsigned(last, "position")? != after {
        return Err(StoreError::Corrupt("tree"));
    }
    let mut level = 0;
    let mut hashes = leaves.to_vec();
    while !hashes.is_empty() {
        hashes = append(connection, level, tile::level_size(level, before), &hashes).await?;
        level += 1;
    }
    sqlx::query("UPDATE tree SET size = ?")
        .bind(signed(after))
        .execute(connection)
        .await
        .map_err(StoreError::Failed)?;
    Ok(())
}

/// Appends hashes to a level that has `before` of them, and returns the roots of the tiles that became full.
async fn append(
    connection: &mut SqliteConnection,
    level: u32,
    before: u64,
    mut hashes: &[Digest],
) -> Result<Vec<Digest>, StoreError> {
    let mut full = Vec::new();
    let mut at = before;
    while !hashes.is_empty() {
        let (index, width) = (at / WIDTH, at % WIDTH);
        let mut bytes = if width == 0 {
            Vec::new()
        } else {
            tile(connection, level, index).await?
        };
        if bytes.len() as u64 != width * 32 {
            return Err(StoreError::Corrupt("tile"));
        }
        let room = usize::try_from(WIDTH - width).unwrap_or(usize::MAX);
        let (now, later) = hashes.split_at(room.min(hashes.len()));
        bytes.extend(now.iter().flat_map(|hash| hash.0));
        write(connection, level, index, &bytes).await?;
        at = at.saturating_add(now.len() as u64);
        if at.is_multiple_of(WIDTH) {
            full.push(tile::root(&bytes));
        }
        hashes = later;
    }
    Ok(full)
}

async fn write(connection: &mut SqliteConnection, level: u32, index: u64, bytes: &[u8]) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO tiles (level, tile, hashes) VALUES (?, ?, ?)
         ON CONFLICT (level, tile) DO UPDATE SET hashes = excluded.hashes",
    )
    .bind(i64::from(level))
    .bind(signed(index))
    .bind(bytes)
    .execute(connection)
    .await
    .map_err(StoreError::Failed)?;
    Ok(())
}

/// A tile's bytes; none if it is not there.
pub(super) async fn tile(connection: &mut SqliteConnection, level: u32, index: u64) -> Result<Vec<u8>, StoreError> {
    let hashes: Option<Vec<u8>> = sqlx::query_scalar("SELECT hashes FROM tiles WHERE level = ? AND tile = ?")
        .bind(i64::from(level))
        .bind(signed(index))
        .fetch_optional(connection)
        .await
        .map_err(StoreError::Failed)?;
    Ok(hashes.unwrap_or_default())
}

async fn size(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let size: i64 = sqlx::query_scalar("SELECT size FROM tree")
        .fetch_one(connection)
        .await
        .map_err(StoreError::Failed)?;
    unsigned(size, "size")
}

/// Size and root.
pub(super) async fn head(connection: &mut SqliteConnection) -> Result<TreeHead, StoreError> {
    let size = size(connection).await?;
    let root = root(connection, Span::whole(size)).await?;
    Ok(TreeHead { size, root })
}

/// The hash above each span.
pub(super) async fn hashes(connection: &mut SqliteConnection, spans: &[Span]) -> Result<Vec<Digest>, StoreError> {
    let mut hashes = Vec::with_capacity(spans.len());
    for span in spans {
        hashes.push(root(connection, *span).await?);
    }
    Ok(hashes)
}

async fn root(connection: &mut SqliteConnection, span: Span) -> Result<Digest, StoreError> {
    let mut subtrees = Vec::new();
    for node in span.nodes() {
        let run = Run::under(node);
        let bytes = tile(connection, run.level, run.tile).await?;
        subtrees.push(run.hash(&bytes).ok_or(StoreError::Corrupt("tile"))?);
    }
    Ok(root_above(&subtrees))
}
