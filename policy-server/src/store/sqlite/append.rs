//! How batches of records are accepted: their places in the chains are looked up, then they are written with their leaves.
//!
//! Calls wait for this, and each question to the database wakes its thread: what can be asked or written at once is.

use std::collections::HashMap;

use authz::identity::SpiffeId;
use authz::log::tree::leaf_hash;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::{ROWS_A_STATEMENT, hash, rows, signed, tree, unsigned};
use crate::store::{Appended, Batch, BatchRecord, Refused, StoreError};

/// Positions of one span of the table of calls, as its migration has it.
const SPAN: u64 = 4096;

/// The last record of a source.
struct Head {
    workload: String,
    last_seq: u64,
    last_hash: [u8; 32],
}

/// Appends batches to their chains, and the leaves of what is new to the tree.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    batches: &[Batch],
    now_ms: u64,
) -> Result<Vec<Result<Appended, Refused>>, StoreError> {
    let edge = tree::edge(connection).await?.of_all_records()?;
    let mut heads = heads(connection, batches).await?;
    let mut leaves = Vec::new();
    let mut answers = Vec::with_capacity(batches.len());
    for batch in batches {
        let known = match place(connection, heads.get(&batch.source), batch).await? {
            Ok(known) => known,
            Err(refused) => {
                answers.push(Err(refused));
                continue;
            }
        };
        let new = batch.records.get(known..).unwrap_or_default();
        let size = edge.size.saturating_add(leaves.len() as u64);
        if let Some(last) = new.last() {
            write(connection, batch, known, size, now_ms).await?;
            leaves.extend(new.iter().map(|record| leaf_hash(&record.canonical)));
            let head = Head {
                workload: batch.workload.to_string(),
                last_seq: batch.last_seq(),
                last_hash: last.hash,
            };
            heads.insert(batch.source.clone(), head);
        }
        answers.push(Ok(Appended {
            accepted_through: batch.last_seq(),
            new_records: new.len() as u64,
            position: size.saturating_add(new.len() as u64),
        }));
    }
    tree::grow(connection, edge, &leaves).await?;
    Ok(answers)
}

/// The heads of the sources of batches, as far as they are known.
async fn heads(connection: &mut SqliteConnection, batches: &[Batch]) -> Result<HashMap<String, Head>, StoreError> {
    let mut query =
        QueryBuilder::<Sqlite>::new("SELECT source, workload, last_seq, last_hash FROM sources WHERE source IN (");
    let mut sources = query.separated(", ");
    for batch in batches {
        sources.push_bind(&batch.source);
    }
    query.push(")");
    let found = rows(connection, query.build().persistent(false)).await?;
    let heads = found.iter().map(|row| {
        let head = Head {
            workload: row.get(1),
            last_seq: unsigned(row.get(2), "last_seq")?,
            last_hash: hash(row.get(3))?,
        };
        Ok((row.get(0), head))
    });
    heads.collect()
}

/// Decides where a batch goes: how many of its records are already stored, or why it is refused. Writes nothing.
async fn place(
    connection: &mut SqliteConnection,
    head: Option<&Head>,
    batch: &Batch,
) -> Result<Result<usize, Refused>, StoreError> {
    let Some(head) = head else {
        return Ok(if batch.first_seq == 0 { Ok(0) } else { Err(Refused::Gap) });
    };
    if head.workload != batch.workload.as_str() {
        return Ok(Err(Refused::ForeignSource));
    }
    let next = head.last_seq.saturating_add(1);
    if batch.first_seq > next {
        return Ok(Err(Refused::Gap));
    }
    if batch.first_seq == next {
        let continues = batch.prev_hash == Some(head.last_hash);
        return Ok(if continues { Ok(0) } else { Err(Refused::Fork) });
    }
    let query = sqlx::query("SELECT hash FROM records WHERE source = ? AND seq >= ? ORDER BY seq LIMIT ?")
        .bind(&batch.source)
        .bind(signed(batch.first_seq))
        .bind(signed(batch.records.len() as u64));
    let stored = rows(connection, query).await?;
    let same = stored
        .iter()
        .zip(&batch.records)
        .all(|(row, record)| row.get::<&[u8], _>(0) == record.hash);
    Ok(if same { Ok(stored.len()) } else { Err(Refused::Fork) })
}

/// Writes the records of a batch beyond the first `known`, behind the `size` that there are, and the head of its source.
async fn write(
    connection: &mut SqliteConnection,
    batch: &Batch,
    known: usize,
    size: u64,
    now_ms: u64,
) -> Result<(), StoreError> {
    let new = batch.records.get(known..).unwrap_or_default();
    let numbered: Vec<_> = (size.saturating_add(1)..)
        .zip(batch.first_seq.saturating_add(known as u64)..)
        .zip(new)
        .map(|((position, seq), record)| (position, seq, record))
        .collect();
    let mut chunks = numbered.chunks(ROWS_A_STATEMENT).peekable();
    while let Some(chunk) = chunks.next() {
        let mut query = QueryBuilder::<Sqlite>::new("");
        push_records(&mut query, batch, chunk, now_ms);
        if let (None, Some((_, seq, last))) = (chunks.peek(), chunk.last()) {
            push_head(&mut query, &batch.source, &batch.workload, *seq, last, now_ms);
        }
        let query = query.build().persistent(false);
        query.execute(&mut *connection).await.map_err(StoreError::Failed)?;
    }
    Ok(())
}

fn push_records(query: &mut QueryBuilder<Sqlite>, batch: &Batch, records: &[(u64, u64, &BatchRecord)], now_ms: u64) {
    query.push("INSERT INTO records (position, source, seq, hash, workload, received_at, record) ");
    query.push_values(records, |mut row, (position, seq, record)| {
        row.push_bind(signed(*position))
            .push_bind(&batch.source)
            .push_bind(signed(*seq))
            .push_bind(record.hash.as_slice())
            .push_bind(batch.workload.as_str())
            .push_bind(signed(now_ms))
            .push_bind(record.canonical.as_slice());
    });
    let calls = records.iter();
    let calls: Vec<_> = calls
        .filter_map(|(position, _, record)| Some((*position, record.call.as_deref()?)))
        .collect();
    if calls.is_empty() {
        return;
    }
    query.push("; INSERT INTO calls (span, call, position) ");
    query.push_values(calls, |mut row, (position, call)| {
        row.push_bind(signed(position / SPAN))
            .push_bind(call)
            .push_bind(signed(position));
    });
}

fn push_head(
    query: &mut QueryBuilder<Sqlite>,
    source: &str,
    workload: &SpiffeId,
    last_seq: u64,
    last: &BatchRecord,
    now_ms: u64,
) {
    query.push("; INSERT INTO sources (source, workload, last_seq, last_hash, opened_at) ");
    query.push_values([last], |mut row, last| {
        row.push_bind(source)
            .push_bind(workload.as_str())
            .push_bind(signed(last_seq))
            .push_bind(last.hash.as_slice())
            .push_bind(signed(now_ms));
    });
    query.push(" ON CONFLICT (source) DO UPDATE SET last_seq = excluded.last_seq, last_hash = excluded.last_hash");
}
