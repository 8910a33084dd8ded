//! The Merkle tree's tables: how it grows, and what is read of it.
//!
//! The tree is written in the transaction that writes the records. Its edge is remembered from there to the next, and forgotten
//! whenever one fails: no copy in memory may be ahead of the disk.

use authz::digest::Digest;
use authz::log::tile::{self, Run, WIDTH};
use authz::log::tree::{Span, leaf_hash, root_above};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool};

use super::script::Script;
use super::{commit, rows, signed, unsigned};
use crate::store::{StoreError, TreeHead};

/// How many records of a database that is older than its tree are taken into it at once.
const CATCH_UP: i64 = 1024;

/// Takes records into the tree that a server without one stored.
pub(super) async fn catch_up(writer: &SqlitePool) -> Result<(), StoreError> {
    loop {
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(StoreError::Failed)?;
        let edge = edge(&mut transaction).await?;
        if edge.size >= edge.records {
            return Ok(());
        }
        let query = sqlx::query("SELECT position, record FROM records WHERE position > ? ORDER BY position LIMIT ?");
        let rows = rows(&mut transaction, query.bind(signed(edge.size)).bind(CATCH_UP)).await?;
        for (position, row) in (edge.size.saturating_add(1)..).zip(&rows) {
            if unsigned(row.get(0), "position")? != position {
                return Err(StoreError::Corrupt("tree"));
            }
        }
        let leaves: Vec<_> = rows.iter().map(|row| leaf_hash(row.get(1))).collect();
        let mut script = Script::new();
        grow(&mut transaction, &mut script, &edge, &leaves).await?;
        script.run(&mut transaction).await?;
        commit(transaction).await?;
    }
}

/// Where the tree ends.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    /// How many leaves there are.
    pub(super) size: u64,
    /// How many records there are.
    records: u64,
    /// The last tile of leaves, if it is not full.
    hashes: Vec<u8>,
}

impl Edge {
    /// Reads a row of what [`EDGE`] selects.
    pub(super) fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            size: unsigned(row.get("size"), "size")?,
            records: unsigned(row.get("records"), "position")?,
            hashes: row.get::<Option<_>, _>("hashes").unwrap_or_default(),
        })
    }

    /// Insists that the tree is of all records: none may be acknowledged that it lacks.
    pub(super) fn of_all_records(self) -> Result<Self, StoreError> {
        if self.size == self.records {
            Ok(self)
        } else {
            Err(StoreError::Corrupt("tree"))
        }
    }
}

/// What is selected from `tree` to read an [`Edge`].
pub(super) const EDGE: &str = "size, coalesce((SELECT max(position) FROM records), 0) AS records,
    (SELECT hashes FROM tiles WHERE level = 0 AND tile = size / 256 AND size % 256 > 0) AS hashes";

/// Where the tree ends.
async fn edge(connection: &mut SqliteConnection) -> Result<Edge, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
    let query = query.push(EDGE).push(" FROM tree").build();
    Edge::read(&query.fetch_one(connection).await.map_err(StoreError::Failed)?)
}

/// Appends the leaves of records that the same transaction writes behind the edge, and says where the tree ends then.
pub(super) async fn grow(
    connection: &mut SqliteConnection,
    script: &mut Script,
    edge: &Edge,
    leaves: &[Digest],
) -> Result<Edge, StoreError> {
    if leaves.is_empty() {
        return Ok(edge.clone());
    }
    let before = edge.size;
    let after = before.saturating_add(leaves.len() as u64);
    script.statement("UPDATE tree SET size = ", 1).push_bind(signed(after));
    let mut end = None;
    let (mut level, mut hashes, mut last) = (0, leaves.to_vec(), edge.hashes.clone());
    while !hashes.is_empty() {
        let at = tile::level_size(level, before);
        let (tiles, full) = append(at, last, &hashes)?;
        end.get_or_insert_with(|| Edge {
            size: after,
            records: edge.records.saturating_add(leaves.len() as u64),
            hashes: match tiles.last() {
                Some((_, bytes)) if !after.is_multiple_of(WIDTH) => bytes.clone(),
                _ => Vec::new(),
            },
        });
        for (index, bytes) in tiles {
            push_tile(script, level, index, bytes);
        }
        hashes = full;
        level += 1;
        let at = tile::level_size(level, before);
        last = if hashes.is_empty() || at.is_multiple_of(WIDTH) {
            Vec::new()
        } else {
            tile(connection, level, at / WIDTH).await?
        };
    }
    end.ok_or(StoreError::Corrupt("tree"))
}

/// Tiles with their places, as they are to be.
type Tiles = Vec<(u64, Vec<u8>)>;

/// Appends hashes to a level that has `before` of them, the `last` of them in a tile that is not full. Gives the tiles that
/// change, and the roots of those that became full.
fn append(before: u64, last: Vec<u8>, mut hashes: &[Digest]) -> Result<(Tiles, Vec<Digest>), StoreError> {
    let (mut tiles, mut full) = (Vec::new(), Vec::new());
    let (mut at, mut bytes) = (before, last);
    while !hashes.is_empty() {
        let (index, width) = (at / WIDTH, at % WIDTH);
        if bytes.len() as u64 != width * 32 {
            return Err(StoreError::Corrupt("tile"));
        }
        let room = usize::try_from(WIDTH - width).unwrap_or(usize::MAX);
        let (now, later) = hashes.split_at(room.min(hashes.len()));
        bytes.extend(now.iter().flat_map(|hash| hash.0));
        at = at.saturating_add(now.len() as u64);
        if at.is_multiple_of(WIDTH) {
            full.push(tile::root(&bytes));
        }
        tiles.push((index, std::mem::take(&mut bytes)));
        hashes = later;
    }
    Ok((tiles, full))
}

fn push_tile(script: &mut Script, level: u32, index: u64, bytes: Vec<u8>) {
    let query = script.statement("INSERT INTO tiles (level, tile, hashes) ", 1);
    query.push_values([bytes], |mut row, bytes| {
        row.push_bind(i64::from(level))
            .push_bind(signed(index))
            .push_bind(bytes);
    });
    query.push(" ON CONFLICT (level, tile) DO UPDATE SET hashes = excluded.hashes");
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
