//! The index of user requests: how far it has come, and what it finds.

use sqlx::SqliteConnection;

use super::script::Script;
use super::{ROWS_A_STATEMENT, log, policy, rows, signed, unsigned};
use crate::store::trace::Traced;
use crate::store::{StoreError, StoredRecord};

/// Positions of one span, as the migration has it.
const SPAN: u64 = 4096;

/// The place of the last record that was looked at.
pub(super) async fn traced(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let position: i64 = sqlx::query_scalar("SELECT position FROM trace_progress")
        .fetch_one(connection)
        .await
        .map_err(StoreError::Failed)?;
    unsigned(position, "position")
}

/// Adds to the index as of a position, in a transaction of its own: with one question, as calls may wait to be stored meanwhile.
pub(super) async fn save(connection: &mut SqliteConnection, traced: &Traced) -> Result<(), StoreError> {
    // In the order of the table, so that rows of one user request are written to one page.
    let records = traced.records.iter();
    let mut records: Vec<_> = records
        .map(|(txn, position)| (position / SPAN, txn, position))
        .collect();
    records.sort_unstable();
    let mut script = Script::transaction();
    for chunk in records.chunks(ROWS_A_STATEMENT) {
        let query = script.statement("INSERT OR IGNORE INTO traces (span, txn, position) ", chunk.len());
        query.push_values(chunk, |mut row, (span, txn, position)| {
            row.push_bind(signed(*span))
                .push_bind(*txn)
                .push_bind(signed(**position));
        });
    }
    policy::name(&mut script, &traced.policy);
    let query = script.statement("UPDATE trace_progress SET position = max(position, ", 1);
    query.push_bind(signed(traced.position)).push(")");
    script.commit(connection).await
}

/// The records of a user request that the index names.
pub(super) async fn records(
    connection: &mut SqliteConnection,
    txn: &str,
    limit: u32,
) -> Result<Vec<StoredRecord>, StoreError> {
    let query = sqlx::query(
        "WITH RECURSIVE spans (span) AS (
           SELECT 0 UNION ALL SELECT span + 1 FROM spans WHERE span < (SELECT max(span) FROM traces)
         )
         SELECT records.position, seq, hash, record FROM spans CROSS JOIN traces CROSS JOIN records
         WHERE traces.span = spans.span AND traces.txn = ? AND records.position = traces.position
         ORDER BY records.position LIMIT ?",
    );
    log::stored(rows(connection, query.bind(txn).bind(limit)).await?)
}
