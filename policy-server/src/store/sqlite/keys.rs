//! The keys' table.

use authz::json::{self, Limits};
use authz::policy::Version;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

use super::{epoch, has_table, rows, signed, unsigned};
use crate::keys::{KeyKind, KeyState};
use crate::store::{KeyChange, LiveTokens, StoreError, StoredKey};

/// All keys, by kind and age.
pub(super) async fn all(connection: &mut SqliteConnection) -> Result<Vec<StoredKey>, StoreError> {
    let query = sqlx::query(
        "SELECT kind, state, public, since, until, from_epoch, from_counter FROM keys ORDER BY kind, since, kid",
    );
    rows(connection, query).await?.iter().map(stored).collect()
}

/// All keys, of a database that may be older than their table.
pub(super) async fn peek(connection: &mut SqliteConnection) -> Result<Vec<StoredKey>, StoreError> {
    if has_table(connection, "keys").await? {
        all(connection).await
    } else {
        Ok(Vec::new())
    }
}

fn stored(row: &SqliteRow) -> Result<StoredKey, StoreError> {
    let until: Option<i64> = row.get(4);
    Ok(StoredKey {
        kind: KeyKind::parse(row.get(0)).ok_or(StoreError::Corrupt("kind"))?,
        state: KeyState::parse(row.get(1)).ok_or(StoreError::Corrupt("state"))?,
        public: json::strict(row.get::<&str, _>(2).as_bytes(), &Limits::POLICY)
            .map_err(|_| StoreError::Corrupt("public"))?,
        since: unsigned(row.get(3), "since")?,
        until: until.map(|until| unsigned(until, "until")).transpose()?,
        from: Version {
            epoch: unsigned(row.get(5), "from_epoch")?,
            counter: unsigned(row.get(6), "from_counter")?,
        },
    })
}

/// Writes changes in their order.
pub(super) async fn change(connection: &mut SqliteConnection, changes: &[KeyChange]) -> Result<(), StoreError> {
    let unreserved = unreserved(connection).await?;
    for KeyChange { key, from_now } in changes {
        let from = if *from_now { unreserved } else { key.from };
        let public = serde_json::to_string(&key.public).map_err(|_| StoreError::Corrupt("public"))?;
        sqlx::query(
            "INSERT INTO keys (kid, kind, state, public, since, until, from_epoch, from_counter)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)
             ON CONFLICT (kid) DO UPDATE SET state = excluded.state, since = excluded.since, until = excluded.until,
             from_epoch = excluded.from_epoch, from_counter = excluded.from_counter",
        )
        .bind(key.kid().as_str())
        .bind(key.kind.as_str())
        .bind(key.state.as_str())
        .bind(public)
        .bind(signed(key.since))
        .bind(key.until.map(signed))
        .bind(signed(from.epoch))
        .bind(signed(from.counter))
        .execute(&mut *connection)
        .await
        .map_err(StoreError::Failed)?;
    }
    Ok(())
}

/// The first version of bundles that nobody has reserved.
async fn unreserved(connection: &mut SqliteConnection) -> Result<Version, StoreError> {
    let epoch = epoch(connection).await?;
    let counter: Option<i64> = sqlx::query_scalar("SELECT counter FROM versions WHERE stream = 'bundle'")
        .fetch_optional(connection)
        .await
        .map_err(StoreError::Failed)?;
    let counter = unsigned(counter.unwrap_or(0), "counter")?.saturating_add(1);
    Ok(Version { epoch, counter })
}

/// The tokens that expire after `now` and were issued by `issued_by`.
pub(super) async fn live_tokens(
    connection: &mut SqliteConnection,
    now: u64,
    issued_by: u64,
) -> Result<LiveTokens, StoreError> {
    let row = sqlx::query("SELECT count(*), max(expires_at) FROM issued WHERE expires_at > ? AND issued_at <= ?")
        .bind(signed(now))
        .bind(signed(issued_by))
        .fetch_one(connection)
        .await
        .map_err(StoreError::Failed)?;
    let last: Option<i64> = row.get(1);
    Ok(LiveTokens {
        count: unsigned(row.get(0), "count")?,
        last_expires_at: last.map(|last| unsigned(last, "expires_at")).transpose()?,
    })
}
