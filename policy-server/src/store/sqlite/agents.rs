//! Agents' states and their changes, and revoked tokens.

use authz::identity::AgentId;
use authz::state::AgentState;
use authz::state::transition::{self, Outcome, TransitionError};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::{agent_id, rows, signed, unsigned};
use crate::store::StoreError;
use crate::store::agents::{AgentChange, AskedChange, ChangeOutcome, Revocation, Revoked};

const COLUMNS: &str =
    "number, agent_id, change, from_state, to_state, role, changed_by, reason, changed_at, not_before";

/// Looks the change up in the table for the state that is stored, and stores what comes of it.
pub(super) async fn change(
    connection: &mut SqliteConnection,
    asked: &AskedChange,
) -> Result<Result<ChangeOutcome, TransitionError>, StoreError> {
    let from = state(connection, &asked.agent).await?;
    let (row, role) = match transition::look_up(from, asked.change, &asked.roles) {
        Ok(Outcome::Moves(row, role)) => (row, role),
        Ok(Outcome::Already) => return Ok(Ok(ChangeOutcome::Already(from))),
        Err(error) => return Ok(Err(error)),
    };
    write_state(connection, asked, row.to).await?;
    let not_before = row.resets_tokens.then(|| transition::not_before(asked.at));
    if let Some(not_before) = not_before {
        reset_tokens(connection, &asked.agent, not_before).await?;
    }
    let number: i64 = sqlx::query_scalar(
        "INSERT INTO agent_changes
         (agent_id, change, from_state, to_state, role, changed_by, reason, changed_at, not_before)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING number",
    )
    .bind(asked.agent.as_str())
    .bind(asked.change.as_str())
    .bind(from.as_str())
    .bind(row.to.as_str())
    .bind(role.as_str())
    .bind(&asked.by)
    .bind(&asked.reason)
    .bind(signed(asked.at))
    .bind(not_before.map(signed))
    .fetch_one(connection)
    .await
    .map_err(StoreError::Failed)?;
    Ok(Ok(ChangeOutcome::Changed(AgentChange {
        number: unsigned(number, "number")?,
        agent: asked.agent.clone(),
        change: asked.change,
        from,
        to: row.to,
        role: role.as_str().to_owned(),
        by: asked.by.clone(),
        reason: asked.reason.clone(),
        at: asked.at,
        not_before,
    })))
}

/// The stored state of an agent; active if there is none.
async fn state(connection: &mut SqliteConnection, agent: &AgentId) -> Result<AgentState, StoreError> {
    let stored: Option<String> = sqlx::query_scalar("SELECT state FROM agent_states WHERE agent_id = ?")
        .bind(agent.as_str())
        .fetch_optional(connection)
        .await
        .map_err(StoreError::Failed)?;
    stored.map_or(Ok(AgentState::Active), |name| parse_state(&name))
}

async fn write_state(connection: &mut SqliteConnection, asked: &AskedChange, to: AgentState) -> Result<(), StoreError> {
    let agent = asked.agent.as_str();
    let statement = match to {
        AgentState::Active => sqlx::query("DELETE FROM agent_states WHERE agent_id = ?").bind(agent),
        _ => sqlx::query(
            "INSERT INTO agent_states (agent_id, state, changed_by, changed_at) VALUES (?, ?, ?, ?)
             ON CONFLICT (agent_id) DO UPDATE SET
             state = excluded.state, changed_by = excluded.changed_by, changed_at = excluded.changed_at",
        )
        .bind(agent)
        .bind(to.as_str())
        .bind(&asked.by)
        .bind(signed(asked.at)),
    };
    statement.execute(connection).await.map_err(StoreError::Failed)?;
    Ok(())
}

/// The time never moves back, whatever the clock does: what was dead stays dead.
async fn reset_tokens(connection: &mut SqliteConnection, agent: &AgentId, not_before: u64) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO not_before (agent_id, not_before) VALUES (?, ?)
         ON CONFLICT (agent_id) DO UPDATE SET not_before = max(not_before, excluded.not_before)",
    )
    .bind(agent.as_str())
    .bind(signed(not_before))
    .execute(connection)
    .await
    .map_err(StoreError::Failed)?;
    Ok(())
}

/// The last changes of an agent, newest first.
pub(super) async fn changes(
    connection: &mut SqliteConnection,
    agent: &AgentId,
    limit: u32,
) -> Result<Vec<AgentChange>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM agent_changes WHERE agent_id = ? ORDER BY number DESC LIMIT ?");
    let query = sqlx::query(sqlx::AssertSqlSafe(query)).bind(agent.as_str()).bind(limit);
    rows(connection, query).await?.iter().map(stored).collect()
}

/// The changes of all agents after one, in their order.
pub(super) async fn changes_after(
    connection: &mut SqliteConnection,
    number: u64,
    limit: u32,
) -> Result<Vec<AgentChange>, StoreError> {
    let query = format!("SELECT {COLUMNS} FROM agent_changes WHERE number > ? ORDER BY number LIMIT ?");
    let query = sqlx::query(sqlx::AssertSqlSafe(query)).bind(signed(number)).bind(limit);
    rows(connection, query).await?.iter().map(stored).collect()
}

/// The last change of every agent that ever had one, by agent.
pub(super) async fn last_changes(connection: &mut SqliteConnection) -> Result<Vec<AgentChange>, StoreError> {
    let query = format!(
        "SELECT {COLUMNS} FROM agent_changes
         WHERE number IN (SELECT max(number) FROM agent_changes GROUP BY agent_id) ORDER BY agent_id"
    );
    rows(connection, sqlx::query(sqlx::AssertSqlSafe(query)))
        .await?
        .iter()
        .map(stored)
        .collect()
}

/// Revokes a token until it expires, and notes who did and why.
pub(super) async fn revoke(connection: &mut SqliteConnection, asked: &Revocation) -> Result<Revoked, StoreError> {
    let issued = sqlx::query("SELECT agent_id, expires_at FROM issued WHERE jti = ?")
        .bind(asked.jti.as_str())
        .fetch_optional(&mut *connection)
        .await
        .map_err(StoreError::Failed)?;
    let revoked = match issued {
        Some(row) => Revoked {
            agent_id: Some(row.get(0)),
            expires_at: unsigned(row.get(1), "expires_at")?,
        },
        None => Revoked {
            agent_id: None,
            expires_at: asked.latest_expiry,
        },
    };
    sqlx::query(
        "INSERT INTO revoked (jti, expires_at) VALUES (?, ?)
         ON CONFLICT (jti) DO UPDATE SET expires_at = max(expires_at, excluded.expires_at)",
    )
    .bind(asked.jti.as_str())
    .bind(signed(revoked.expires_at))
    .execute(&mut *connection)
    .await
    .map_err(StoreError::Failed)?;
    sqlx::query(
        "INSERT INTO revocations (jti, agent_id, revoked_by, reason, revoked_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
    )
    .bind(asked.jti.as_str())
    .bind(&revoked.agent_id)
    .bind(&asked.by)
    .bind(&asked.reason)
    .bind(signed(asked.at))
    .bind(signed(revoked.expires_at))
    .execute(connection)
    .await
    .map_err(StoreError::Failed)?;
    Ok(revoked)
}

fn stored(row: &SqliteRow) -> Result<AgentChange, StoreError> {
    let not_before: Option<i64> = row.get(9);
    Ok(AgentChange {
        number: unsigned(row.get(0), "number")?,
        agent: agent_id(row.get(1))?,
        change: row
            .get::<&str, _>(2)
            .parse()
            .map_err(|_| StoreError::Corrupt("change"))?,
        from: parse_state(row.get(3))?,
        to: parse_state(row.get(4))?,
        role: row.get(5),
        by: row.get(6),
        reason: row.get(7),
        at: unsigned(row.get(8), "changed_at")?,
        not_before: not_before.map(|at| unsigned(at, "not_before")).transpose()?,
    })
}

pub(super) fn parse_state(name: &str) -> Result<AgentState, StoreError> {
    AgentState::parse(name).ok_or(StoreError::Corrupt("state"))
}
