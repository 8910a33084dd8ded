//! Tokens by what they are for, and work that was ended.

use authz::identity::AgentId;
use authz::successor::Operation;
use authz::token::SKEW_SECONDS;
use sqlx::{AssertSqlSafe, Row, SqliteConnection};

use super::{rows, signed, unsigned};
use crate::store::work::{EndWork, KnownToken, MOST_LISTED, Work, WorkEnded};
use crate::store::{IssuedToken, StoreError};

/// What the live tokens of an operation say.
pub(super) async fn live_claims(
    connection: &mut SqliteConnection,
    of: &Operation,
    now: u64,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar(
        "SELECT claims FROM live_claims WHERE sub = ? AND operation_id = ? AND expires_at > ?
         AND NOT EXISTS (SELECT 1 FROM revoked WHERE revoked.jti = live_claims.jti)
         ORDER BY expires_at DESC LIMIT ?",
    )
    .bind(of.sub.as_str())
    .bind(of.operation_id.as_str())
    .bind(signed(now))
    .bind(limit)
    .fetch_all(connection)
    .await
    .map_err(StoreError::Failed)
}

/// The user requests that an agent had tokens for.
pub(super) async fn recent_txns(
    connection: &mut SqliteConnection,
    agent: &AgentId,
    since: u64,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    sqlx::query_scalar(
        "SELECT txn FROM issued WHERE agent_id = ? AND expires_at > ?
         GROUP BY txn ORDER BY max(expires_at) DESC LIMIT ?",
    )
    .bind(agent.as_str())
    .bind(signed(since))
    .bind(limit)
    .fetch_all(connection)
    .await
    .map_err(StoreError::Failed)
}

/// Revokes every live token of some work, and notes who ended it and why, with each token too.
pub(super) async fn end(connection: &mut SqliteConnection, asked: &EndWork) -> Result<WorkEnded, StoreError> {
    let column = match asked.work {
        Work::Operation(_) => "operation_id",
        Work::Txn(_) => "txn",
    };
    let live = format!(
        "FROM issued WHERE {column} = ?1 AND expires_at > ?2 AND NOT EXISTS (SELECT 1 FROM revoked WHERE revoked.jti = issued.jti)"
    );
    // Sidecars take a token for the skew past its expiry.
    let alive_after = signed(asked.at.saturating_sub(SKEW_SECONDS));
    let count =
        format!("SELECT count(*), max(expires_at), (SELECT count(*) FROM revoked WHERE expires_at > ?2) {live}");
    let row = sqlx::query(AssertSqlSafe(count))
        .bind(asked.work.name())
        .bind(alive_after)
        .fetch_one(&mut *connection)
        .await
        .map_err(StoreError::Failed)?;
    let (tokens, listed) = (unsigned(row.get(0), "count")?, unsigned(row.get(2), "count")?);
    if tokens.saturating_add(listed) > MOST_LISTED {
        return Ok(WorkEnded::TooMany { tokens });
    }
    let last: Option<i64> = row.get(1);
    // Before they are revoked, after which they are no longer found.
    let noted = format!(
        "INSERT INTO revocations (jti, agent_id, revoked_by, reason, revoked_at, expires_at)
         SELECT jti, agent_id, ?3, ?4, ?5, expires_at {live}"
    );
    sqlx::query(AssertSqlSafe(noted))
        .bind(asked.work.name())
        .bind(alive_after)
        .bind(&asked.by)
        .bind(&asked.reason)
        .bind(signed(asked.at))
        .execute(&mut *connection)
        .await
        .map_err(StoreError::Failed)?;
    sqlx::query(AssertSqlSafe(format!(
        "INSERT INTO revoked (jti, expires_at) SELECT jti, expires_at {live}"
    )))
    .bind(asked.work.name())
    .bind(alive_after)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::Failed)?;
    sqlx::query(
        "INSERT INTO ended_work (kind, name, ended_by, reason, ended_at, refused_until, tokens) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(asked.work.kind())
    .bind(asked.work.name())
    .bind(&asked.by)
    .bind(&asked.reason)
    .bind(signed(asked.at))
    .bind(asked.refused_until.map(signed))
    .bind(signed(tokens))
    .execute(connection)
    .await
    .map_err(StoreError::Failed)?;
    Ok(WorkEnded::Ended {
        tokens,
        last_expires_at: last.map(|last| unsigned(last, "expires_at")).transpose()?,
    })
}

/// What is known of a token.
pub(super) async fn token(connection: &mut SqliteConnection, jti: &str) -> Result<Option<KnownToken>, StoreError> {
    let query = sqlx::query(
        "SELECT jti, agent_id, operation_id, txn, issued_by, issued_at, expires_at,
                EXISTS (SELECT 1 FROM revoked WHERE revoked.jti = issued.jti)
         FROM issued WHERE jti = ?",
    );
    let found = rows(connection, query.bind(jti)).await?;
    let Some(row) = found.first() else {
        return Ok(None);
    };
    let issued = IssuedToken {
        jti: row.get(0),
        agent_id: row.get(1),
        operation_id: row.get(2),
        txn: row.get(3),
        issued_by: row.get(4),
        issued_at: unsigned(row.get(5), "issued_at")?,
        expires_at: unsigned(row.get(6), "expires_at")?,
    };
    Ok(Some(KnownToken {
        issued,
        revoked: row.get::<i64, _>(7) != 0,
    }))
}
