//! How far records have been scored, and what came of it.

use authz::json::{self, Limits};
use sqlx::{Row, SqliteConnection};

use super::{agent_id, rows, signed, unsigned};
use crate::store::StoreError;
use crate::store::risk::{ReceivedRecord, Scored};

/// A profile is bounded by what `authz` keeps; what is larger was not written here.
const PROFILE_LIMITS: Limits = Limits {
    max_bytes: 4 << 20,
    max_depth: 8,
    max_nodes: 1 << 16,
};

/// All that has been scored.
pub(super) async fn scored(connection: &mut SqliteConnection) -> Result<Scored, StoreError> {
    let position: i64 = sqlx::query_scalar("SELECT position FROM risk_progress")
        .fetch_one(&mut *connection)
        .await
        .map_err(StoreError::Failed)?;
    let query = sqlx::query("SELECT agent_id, profile FROM risk_profiles");
    let profiles = rows(connection, query).await?.into_iter().map(|row| {
        let profile = json::strict(row.get::<&str, _>(1).as_bytes(), &PROFILE_LIMITS);
        Ok((
            agent_id(row.get(0))?,
            profile.map_err(|_| StoreError::Corrupt("profile"))?,
        ))
    });
    Ok(Scored {
        position: unsigned(position, "position")?,
        profiles: profiles.collect::<Result<_, StoreError>>()?,
    })
}

/// The records after a position, in the order of acceptance.
pub(super) async fn received(
    connection: &mut SqliteConnection,
    after: u64,
    limit: u32,
) -> Result<Vec<ReceivedRecord>, StoreError> {
    let query =
        sqlx::query("SELECT position, received_at, record FROM records WHERE position > ? ORDER BY position LIMIT ?");
    rows(connection, query.bind(signed(after)).bind(limit))
        .await?
        .into_iter()
        .map(|row| {
            Ok(ReceivedRecord {
                position: unsigned(row.get(0), "position")?,
                received_at_ms: unsigned(row.get(1), "received_at")?,
                canonical: row.get(2),
            })
        })
        .collect()
}

/// Stores profiles as of a position.
pub(super) async fn save(connection: &mut SqliteConnection, scored: &Scored) -> Result<(), StoreError> {
    for (agent, profile) in &scored.profiles {
        let profile = serde_json::to_string(profile).map_err(|_| StoreError::Corrupt("profile"))?;
        sqlx::query(
            "INSERT INTO risk_profiles (agent_id, profile) VALUES (?, ?)
             ON CONFLICT (agent_id) DO UPDATE SET profile = excluded.profile",
        )
        .bind(agent.as_str())
        .bind(profile)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::Failed)?;
    }
    sqlx::query("UPDATE risk_progress SET position = max(position, ?)")
        .bind(signed(scored.position))
        .execute(connection)
        .await
        .map_err(StoreError::Failed)?;
    Ok(())
}
