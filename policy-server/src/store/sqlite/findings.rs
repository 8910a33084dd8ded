//! What was found of calls, and how far they have been judged.

use authz::witness::Mismatch;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::{rows, signed, unsigned};
use crate::store::StoreError;
use crate::store::findings::{Finding, Judged, MAX_FINDINGS, StoredFinding};

/// Up to which record all calls have been judged.
pub(super) async fn judged(connection: &mut SqliteConnection) -> Result<u64, StoreError> {
    let position: i64 = sqlx::query_scalar("SELECT position FROM findings_progress")
        .fetch_one(connection)
        .await
        .map_err(StoreError::Failed)?;
    unsigned(position, "position")
}

/// Adds findings as of a position.
pub(super) async fn save(connection: &mut SqliteConnection, judged: &Judged) -> Result<(), StoreError> {
    for finding in &judged.findings {
        add(connection, finding).await?;
    }
    sqlx::query("UPDATE findings_progress SET position = max(position, ?)")
        .bind(signed(judged.position))
        .execute(connection)
        .await
        .map_err(StoreError::Failed)?;
    Ok(())
}

/// Counts a finding. After a crash calls are judged again: what stands at no later place than the last is known.
async fn add(connection: &mut SqliteConnection, finding: &Finding) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO findings (caller, callee, kind, first_ms, last_ms, count, why, service, call, position, agent_id, txn)
         SELECT ?1, ?2, ?3, ?4, ?4, 1, ?5, ?6, ?7, ?8, ?9, ?10
         WHERE (SELECT count(*) FROM findings) < ?11
            OR EXISTS (SELECT 1 FROM findings WHERE caller = ?1 AND callee = ?2 AND kind = ?3)
         ON CONFLICT (caller, callee, kind) DO UPDATE SET
           last_ms = max(last_ms, excluded.last_ms), count = count + 1, why = excluded.why, service = excluded.service,
           call = excluded.call, position = excluded.position, agent_id = excluded.agent_id, txn = excluded.txn
         WHERE excluded.position > position",
    )
    .bind(&finding.caller)
    .bind(&finding.callee)
    .bind(finding.mismatch.as_str())
    .bind(signed(finding.time_ms))
    .bind(&finding.why)
    .bind(&finding.service)
    .bind(&finding.call)
    .bind(signed(finding.position))
    .bind(&finding.agent_id)
    .bind(&finding.txn)
    .bind(MAX_FINDINGS)
    .execute(connection)
    .await
    .map_err(StoreError::Failed)?;
    Ok(())
}

/// The findings, the last ones first.
pub(super) async fn all(connection: &mut SqliteConnection, limit: u32) -> Result<Vec<StoredFinding>, StoreError> {
    let query = sqlx::query(
        "SELECT caller, callee, kind, first_ms, last_ms, count, why, service, call, position, agent_id, txn
         FROM findings ORDER BY last_ms DESC, caller, callee, kind LIMIT ?",
    );
    rows(connection, query.bind(limit)).await?.iter().map(stored).collect()
}

fn stored(row: &SqliteRow) -> Result<StoredFinding, StoreError> {
    Ok(StoredFinding {
        first_ms: unsigned(row.get(3), "first_ms")?,
        count: unsigned(row.get(5), "count")?,
        last: Finding {
            caller: row.get(0),
            callee: row.get(1),
            mismatch: Mismatch::parse(row.get(2)).ok_or(StoreError::Corrupt("kind"))?,
            time_ms: unsigned(row.get(4), "last_ms")?,
            why: row.get(6),
            service: row.get(7),
            call: row.get(8),
            position: unsigned(row.get(9), "position")?,
            agent_id: row.get(10),
            txn: row.get(11),
        },
    })
}
