//! `/v1/log/…` and `/v1/receipts/…`: the Merkle log, for auditors.
//!
//! Below `/v1/log/` are the resources of C2SP `tlog-tiles`, so that other verifiers read the log too. Every reading is
//! counted ([`crate::log::readings`]).

use std::sync::Arc;

use authz::log::policy::Kind;
use authz::log::tile::{self, Content, WIDTH};
use authz::policy::{PageDigest, Version};
use axum::extract::{FromRequestParts, Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{StatusCode, header};

use super::authenticate;
use super::keys::OwnUser;
use crate::app::App;
use crate::config::Role;
use crate::error::Problem;
use crate::log::{LogError, MAX_RECEIPT_RECORDS};
use crate::store::StoreError;

/// The most checkpoints of one answer.
const MAX_CHECKPOINTS: u32 = 256;

/// What changes: the newest of something.
const MUTABLE: &str = "no-store";

/// What never changes, but is not for everybody.
const IMMUTABLE: &str = "private, max-age=31536000, immutable";

/// Who may read the log: an auditor, or the server's own user, who has the database anyway.
#[derive(Debug)]
pub struct Reader(String);

impl Reader {
    /// Whose reading is counted.
    pub(super) fn principal(&self) -> &str {
        &self.0
    }
}

impl FromRequestParts<Arc<App>> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        if parts.extensions.get::<OwnUser>().is_some() {
            return Ok(Self("the server's own user".to_owned()));
        }
        let principal = authenticate(app, &parts.headers)?;
        if app.config.has_role(&principal, Role::Auditor) {
            Ok(Self(principal.to_string()))
        } else {
            Err(Problem::forbidden("role_missing", "this caller is no auditor"))
        }
    }
}

/// The last checkpoint.
pub async fn checkpoint(State(app): State<Arc<App>>, reader: Reader) -> Response {
    app.log.readings.count(&reader.0, "checkpoint", "newest");
    match app.log.checkpoint().await {
        Ok(checkpoint) => body(MUTABLE, "text/plain; charset=utf-8", checkpoint.note),
        Err(error) => failed(&app, &error).into_response(),
    }
}

/// The log's keys, a line each. Who checks the log needs them from elsewhere too.
pub async fn keys(State(app): State<Arc<App>>, reader: Reader) -> Response {
    app.log.readings.count(&reader.0, "keys", "all");
    let keys: String = app.log.keys().iter().map(|key| format!("{}\n", key.public())).collect();
    body(MUTABLE, "text/plain; charset=utf-8", keys)
}

/// Checkpoints in order of size, a line each as an export has them.
pub async fn checkpoints(State(app): State<Arc<App>>, RawQuery(query): RawQuery, reader: Reader) -> Response {
    let query = query.unwrap_or_default();
    app.log.readings.count(&reader.0, "checkpoint", &query);
    match read_checkpoints(&app, &query).await {
        Ok(lines) => body(MUTABLE, "application/x-ndjson", lines),
        Err(problem) => problem.into_response(),
    }
}

async fn read_checkpoints(app: &App, query: &str) -> Result<Vec<u8>, Problem> {
    let size = query.strip_prefix("size=").and_then(|size| size.parse().ok());
    let size = size.ok_or_else(|| Problem::malformed("`size=N` and nothing else is asked here").field("size"))?;
    let found = app.store().checkpoints(size, MAX_CHECKPOINTS).await;
    let mut lines = Vec::new();
    for checkpoint in found.map_err(|error| failed(app, &error.into()))? {
        lines.extend(authz::log::export::checkpoint_line(&checkpoint.note));
        lines.push(b'\n');
    }
    Ok(lines)
}

/// A tile of hashes or a bundle of entries.
pub async fn tile(State(app): State<Arc<App>>, Path(path): Path<String>, reader: Reader) -> Response {
    app.log.readings.count(&reader.0, "tile", &path);
    match read_tile(&app, &path).await {
        Ok(bytes) => body(IMMUTABLE, "application/octet-stream", bytes),
        Err(problem) => problem.into_response(),
    }
}

async fn read_tile(app: &App, path: &str) -> Result<Vec<u8>, Problem> {
    let absent = || Problem::new(StatusCode::NOT_FOUND, "tile_unknown", "the log has no such tile");
    let path: tile::Path = path.parse().map_err(|_| absent())?;
    match path.content {
        Content::Hashes(level) => {
            let tile = app.store().tile(level, path.index, path.width).await;
            tile.map_err(|error| failed(app, &error.into()))?.ok_or_else(absent)
        }
        Content::Entries => {
            let position = path.index.saturating_mul(WIDTH).saturating_add(1);
            let width = u32::try_from(path.width).unwrap_or(u32::MAX);
            let records = app.store().records_from(position, width).await;
            let records = records.map_err(|error| failed(app, &error.into()))?;
            if records.len() as u64 != path.width {
                return Err(absent());
            }
            let mut bundle = Vec::new();
            for record in &records {
                tile::append_entry(&mut bundle, &record.canonical).map_err(|error| Problem::internal(&error))?;
            }
            Ok(bundle)
        }
    }
}

/// The note that says which keys sign policy.
pub async fn policy_keys(State(app): State<Arc<App>>, reader: Reader) -> Response {
    app.log.readings.count(&reader.0, "policy", "keys");
    match app.log.policy_keys().await {
        Ok(note) => body(MUTABLE, "text/plain; charset=utf-8", note),
        Err(error) => failed(&app, &error).into_response(),
    }
}

/// A bundle or a state list as it was signed, or a page of a bundle.
pub async fn policy(
    State(app): State<Arc<App>>,
    Path((kind, name)): Path<(String, String)>,
    reader: Reader,
) -> Response {
    app.log.readings.count(&reader.0, "policy", &name);
    match read_policy(&app, &kind, &name).await {
        Ok((kind, text)) => body(IMMUTABLE, kind, text),
        Err(problem) => problem.into_response(),
    }
}

async fn read_policy(app: &App, kind: &str, name: &str) -> Result<(&'static str, String), Problem> {
    let absent = || Problem::new(StatusCode::NOT_FOUND, "policy_unknown", "no such policy was kept");
    let (media, found) = match Kind::parse(kind) {
        Some(kind) => {
            let version = Version::parse(name).map_err(|_| absent())?;
            ("application/jwt", app.store().kept_policy(kind, version).await)
        }
        None if kind == "page" => {
            let digest = PageDigest::parse(name).map_err(|_| absent())?;
            ("application/json", app.store().kept_page(digest).await)
        }
        None => return Err(absent()),
    };
    let found = found.map_err(|error| failed(app, &error.into()))?;
    Ok((media, found.ok_or_else(absent)?))
}

/// The records of a call with the proofs that they are in the log.
pub async fn receipt(State(app): State<Arc<App>>, Path(call): Path<String>, reader: Reader) -> Response {
    app.log.readings.count(&reader.0, "receipt", &call);
    match read_receipt(&app, &call).await {
        Ok(receipt) => body(MUTABLE, "application/x-ndjson", receipt),
        Err(problem) => problem.into_response(),
    }
}

async fn read_receipt(app: &App, call: &str) -> Result<Vec<u8>, Problem> {
    let records = app.store().records_of_call(call, MAX_RECEIPT_RECORDS + 1).await;
    let records = records.map_err(|error| failed(app, &error.into()))?;
    if records.is_empty() {
        let detail = "no record of this call was accepted; sidecars send theirs within seconds";
        return Err(Problem::new(StatusCode::NOT_FOUND, "call_unknown", detail));
    }
    // A part of them would look like all of them.
    if records.len() > MAX_RECEIPT_RECORDS as usize {
        let detail = format!("more than {MAX_RECEIPT_RECORDS} records name this call; export the log instead");
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "receipt_too_long",
            detail,
        ));
    }
    app.log
        .receipt(call, &records)
        .await
        .map_err(|error| failed(app, &error))
}

pub(super) fn failed(app: &App, error: &LogError) -> Problem {
    if matches!(error, LogError::Store(StoreError::Failed(_) | StoreError::Unknown(_))) {
        app.metrics.store_failures.inc();
        tracing::error!(%error, "the log could not be read");
        Problem::unavailable("store_unavailable", "the log cannot be read now")
    } else {
        Problem::internal(error)
    }
}

fn body(cache: &'static str, kind: &'static str, body: impl IntoResponse) -> Response {
    let headers = [(header::CACHE_CONTROL, cache), (header::CONTENT_TYPE, kind)];
    (headers, body).into_response()
}
