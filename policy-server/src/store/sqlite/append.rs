//! How batches of records are accepted: their places in the chains are looked up, then they are written with their leaves.
//!
//! Calls wait for this, and each question to the database wakes its thread: what can be asked or written at once is, and what
//! the last commit left is remembered. Nobody else appends; should another process, its positions are taken, and the commit
//! fails.

use std::collections::HashMap;

use authz::log::tree::leaf_hash;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::script::Script;
use super::tree::{self, Edge};
use super::{ROWS_A_STATEMENT, hash, rows, signed, unsigned};
use crate::store::{Appended, Batch, BatchRecord, Refused, StoreError};

/// Positions of one span of the table of calls, as its migration has it.
const SPAN: u64 = 4096;

/// The sources that are remembered: more than a mesh has VMs.
const MOST_HEADS: usize = 1 << 14;

/// What the last commit left: where the tree ends, and where the chains of sources that wrote lately do.
#[derive(Debug)]
pub(super) struct Ends {
    edge: Edge,
    heads: HashMap<String, Head>,
}

/// The last record of a source.
#[derive(Debug)]
struct Head {
    workload: String,
    last_seq: u64,
    last_hash: [u8; 32],
}

/// Appends batches to their chains, and the leaves of what is new to the tree, in a transaction of its own. `ends` is what is
/// remembered; after a failure nothing is, and the connection may be in a transaction still.
pub(super) async fn append(
    connection: &mut SqliteConnection,
    ends: &mut Option<Ends>,
    batches: &[Batch],
    now_ms: u64,
) -> Result<Vec<Result<Appended, Refused>>, StoreError> {
    let Ends { edge, mut heads } = known(connection, ends.take(), batches).await?;
    let mut script = Script::transaction();
    let mut leaves = Vec::new();
    let mut answers = Vec::with_capacity(batches.len());
    for batch in batches {
        let known = match place(connection, &mut script, heads.get(&batch.source), batch).await? {
            Ok(known) => known,
            Err(refused) => {
                answers.push(Err(refused));
                continue;
            }
        };
        let new = batch.records.get(known..).unwrap_or_default();
        let size = edge.size.saturating_add(leaves.len() as u64);
        if let Some(last) = new.last() {
            write(connection, &mut script, batch, known, size, now_ms).await?;
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
    let edge = tree::grow(connection, &mut script, &edge, &leaves).await?;
    script.commit(connection).await?;
    if heads.len() <= MOST_HEADS {
        *ends = Some(Ends { edge, heads });
    }
    Ok(answers)
}

/// What is remembered, if that is all that these batches take; else what the database has.
async fn known(connection: &mut SqliteConnection, ends: Option<Ends>, batches: &[Batch]) -> Result<Ends, StoreError> {
    let mut heads = HashMap::new();
    if let Some(ends) = ends {
        if batches.iter().all(|batch| ends.heads.contains_key(&batch.source)) {
            return Ok(ends);
        }
        heads = ends.heads;
    }
    let (edge, read) = read(connection, batches).await?;
    heads.extend(read);
    let edge = edge.of_all_records()?;
    Ok(Ends { edge, heads })
}

/// Where the tree ends, and the heads of the sources of batches, as far as they are known.
async fn read(
    connection: &mut SqliteConnection,
    batches: &[Batch],
) -> Result<(Edge, HashMap<String, Head>), StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
    query
        .push(tree::EDGE)
        .push(", source, workload, last_seq, last_hash FROM tree LEFT JOIN sources ON source IN (");
    let mut sources = query.separated(", ");
    for batch in batches {
        sources.push_bind(&batch.source);
    }
    query.push(")");
    let found = rows(connection, query.build().persistent(false)).await?;
    let edge = Edge::read(found.first().ok_or(StoreError::Corrupt("tree"))?)?;
    let mut heads = HashMap::new();
    for row in &found {
        if let Some(source) = row.get("source") {
            let head = Head {
                workload: row.get("workload"),
                last_seq: unsigned(row.get("last_seq"), "last_seq")?,
                last_hash: hash(row.get("last_hash"))?,
            };
            heads.insert(source, head);
        }
    }
    Ok((edge, heads))
}

/// Decides where a batch goes: how many of its records are already stored, or why it is refused.
async fn place(
    connection: &mut SqliteConnection,
    script: &mut Script,
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
    // Those before it in this group are among what is stored.
    script.run(connection).await?;
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
    script: &mut Script,
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
    for chunk in numbered.chunks(ROWS_A_STATEMENT) {
        push_records(script, batch, chunk, now_ms);
        if script.is_full() {
            script.run(connection).await?;
        }
    }
    if let Some((_, seq, last)) = numbered.last() {
        push_head(script, batch, *seq, last, now_ms);
    }
    Ok(())
}

fn push_records(script: &mut Script, batch: &Batch, records: &[(u64, u64, &BatchRecord)], now_ms: u64) {
    let query = script.statement(
        "INSERT INTO records (position, source, seq, hash, workload, received_at, record) ",
        records.len(),
    );
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
    let query = script.statement("INSERT INTO calls (span, call, position) ", calls.len());
    query.push_values(calls, |mut row, (position, call)| {
        row.push_bind(signed(position / SPAN))
            .push_bind(call)
            .push_bind(signed(position));
    });
}

fn push_head(script: &mut Script, batch: &Batch, last_seq: u64, last: &BatchRecord, now_ms: u64) {
    let query = script.statement(
        "INSERT INTO sources (source, workload, last_seq, last_hash, opened_at) ",
        1,
    );
    query.push_values([last], |mut row, last| {
        row.push_bind(&batch.source)
            .push_bind(batch.workload.as_str())
            .push_bind(signed(last_seq))
            .push_bind(last.hash.as_slice())
            .push_bind(signed(now_ms));
    });
    query.push(" ON CONFLICT (source) DO UPDATE SET last_seq = excluded.last_seq, last_hash = excluded.last_hash");
}
