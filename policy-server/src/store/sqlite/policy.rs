//! The tables of signed policy that is kept.

use authz::log::policy::Kind;
use authz::policy::{PageDigest, Version};
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

use super::script::Script;
use super::{ROWS_A_STATEMENT, rows, signed};
use crate::store::StoreError;
use crate::store::policy::{Parts, SignedPolicy};

/// Documents that are deleted in one transaction.
const MOST_AT_ONCE: u32 = 4096;

/// Keeps documents; one that is kept already stays as it is.
pub(super) async fn keep(connection: &mut SqliteConnection, documents: &[SignedPolicy]) -> Result<(), StoreError> {
    for document in documents {
        let parts = Parts::of(document.kind, &document.jws).ok_or(StoreError::Corrupt("jws"))?;
        let body = PageDigest::of(parts.body.as_bytes()).to_string();
        // Whose body is known had these pages then.
        if text(connection, &body, false, &parts.body).await? {
            pages(connection, document).await?;
        }
        sqlx::query(
            "INSERT OR IGNORE INTO kept_policy (kind, epoch, counter, signed_at, header, head, body, signature, named)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(document.kind.as_str())
        .bind(signed(document.version.epoch))
        .bind(signed(document.version.counter))
        .bind(signed(document.signed_at))
        .bind(parts.header)
        .bind(parts.head)
        .bind(body)
        .bind(parts.signature)
        .bind(document.may_be_named)
        .execute(&mut *connection)
        .await
        .map_err(StoreError::Failed)?;
    }
    Ok(())
}

/// Keeps a text; says whether it is new.
async fn text(connection: &mut SqliteConnection, digest: &str, page: bool, text: &str) -> Result<bool, StoreError> {
    let written = sqlx::query("INSERT OR IGNORE INTO kept_texts (digest, page, text) VALUES (?, ?, ?)")
        .bind(digest)
        .bind(page)
        .bind(text)
        .execute(connection)
        .await
        .map_err(StoreError::Failed)?;
    Ok(written.rows_affected() > 0)
}

async fn pages(connection: &mut SqliteConnection, document: &SignedPolicy) -> Result<(), StoreError> {
    let pages: Vec<_> = document.pages.digests().zip(document.pages.texts()).collect();
    for chunk in pages.chunks(ROWS_A_STATEMENT) {
        let mut query = QueryBuilder::<Sqlite>::new("INSERT OR IGNORE INTO kept_texts (digest, page, text) ");
        query.push_values(chunk, |mut row, (digest, text)| {
            row.push_bind(digest.to_string()).push_bind(true).push_bind(*text);
        });
        let query = query.build().persistent(false);
        query.execute(&mut *connection).await.map_err(StoreError::Failed)?;
    }
    Ok(())
}

/// A document in its compact form.
pub(super) async fn document(
    connection: &mut SqliteConnection,
    kind: Kind,
    version: Version,
) -> Result<Option<String>, StoreError> {
    let query = sqlx::query(
        "SELECT header, head, text, signature FROM kept_policy JOIN kept_texts ON digest = body
         WHERE kind = ? AND epoch = ? AND counter = ?",
    );
    let query = query
        .bind(kind.as_str())
        .bind(signed(version.epoch))
        .bind(signed(version.counter));
    let found = rows(connection, query).await?;
    let parts = found.first().map(|row| Parts {
        header: row.get(0),
        head: row.get(1),
        body: row.get(2),
        signature: row.get(3),
    });
    Ok(parts.map(|parts| parts.join()))
}

/// A page's text.
pub(super) async fn page(connection: &mut SqliteConnection, digest: &PageDigest) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar("SELECT text FROM kept_texts WHERE digest = ? AND page")
        .bind(digest.to_string())
        .fetch_optional(connection)
        .await
        .map_err(StoreError::Failed)
}

/// Notes that records name these.
pub(super) fn name<'a>(script: &mut Script, named: impl IntoIterator<Item = &'a (Kind, Version)>) {
    for (kind, version) in named {
        let query = script.statement("UPDATE kept_policy SET named = 1 WHERE kind = ", 1);
        query.push_bind(kind.as_str());
        query.push(" AND epoch = ").push_bind(signed(version.epoch));
        query.push(" AND counter = ").push_bind(signed(version.counter));
        query.push(" AND named = 0");
    }
}

/// Deletes documents that were signed before a second and that nothing names, and what only they held. Pages stay: they
/// change with the agents' files alone.
pub(super) async fn forget(connection: &mut SqliteConnection, before: u64) -> Result<u64, StoreError> {
    let deleted = sqlx::query(
        "DELETE FROM kept_policy WHERE (kind, epoch, counter) IN
         (SELECT kind, epoch, counter FROM kept_policy WHERE named = 0 AND signed_at < ? LIMIT ?)",
    )
    .bind(signed(before))
    .bind(MOST_AT_ONCE)
    .execute(&mut *connection)
    .await
    .map_err(StoreError::Failed)?;
    if deleted.rows_affected() > 0 {
        sqlx::query("DELETE FROM kept_texts WHERE NOT page AND digest NOT IN (SELECT body FROM kept_policy)")
            .execute(connection)
            .await
            .map_err(StoreError::Failed)?;
    }
    Ok(deleted.rows_affected())
}
