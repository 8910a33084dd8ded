//! `GET /v1/findings`: calls that only one of their two sides saw, or both saw differently, for auditors.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use serde::{Deserialize, Serialize};

use super::log::{Reader, failed};
use crate::app::App;
use crate::error::Problem;
use crate::store::findings::StoredFinding;

/// The most findings of one answer: the last ones.
const MAX_FINDINGS: u32 = 1000;

/// What is answered.
#[derive(Serialize, Deserialize)]
pub(crate) struct Told {
    /// How long both sides of a call have to tell of it.
    pub(crate) window_seconds: u64,
    /// How many records the log has.
    pub(crate) records: u64,
    /// Of how many of them, from the first on, every call has been judged.
    pub(crate) judged: u64,
    pub(crate) findings: Vec<Finding>,
    /// Whether there are more than are told.
    pub(crate) more: bool,
    /// Sources that should tell something now and then.
    #[serde(default)]
    pub(crate) sources: Vec<Source>,
}

/// A source whose sidecar lives.
#[derive(Serialize, Deserialize)]
pub(crate) struct Source {
    pub(crate) workload: String,
    pub(crate) source: String,
    /// How long it may have nothing to tell before it says so.
    pub(crate) heartbeat_seconds: u64,
    /// When it last told something, or the server first heard of it.
    pub(crate) told_ms: u64,
    /// It should have told something since.
    pub(crate) silent: bool,
}

/// A finding, as auditors see it.
#[derive(Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) kind: String,
    pub(crate) caller: String,
    pub(crate) callee: String,
    pub(crate) since_ms: u64,
    pub(crate) last_ms: u64,
    pub(crate) count: u64,
    pub(crate) why: String,
    pub(crate) service: Option<String>,
    pub(crate) call: Option<String>,
    pub(crate) index: u64,
    pub(crate) agent_id: Option<String>,
    pub(crate) txn: Option<String>,
}

/// The findings.
pub async fn list(State(app): State<Arc<App>>, reader: Reader) -> Response {
    app.log.readings.count(reader.principal(), "findings", "all");
    match read(&app).await {
        Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn read(app: &App) -> Result<Told, Problem> {
    let store = app.store();
    let judged = store.judged().await.map_err(|error| failed(app, &error.into()))?;
    let records = store.record_count().await.map_err(|error| failed(app, &error.into()))?;
    let found = store.findings(MAX_FINDINGS + 1).await;
    let found = found.map_err(|error| failed(app, &error.into()))?;
    Ok(Told {
        window_seconds: app.config.reconcile_window.as_secs(),
        records,
        judged,
        more: found.len() > MAX_FINDINGS as usize,
        findings: found
            .into_iter()
            .take(MAX_FINDINGS as usize)
            .map(Finding::from)
            .collect(),
        sources: sources(app),
    })
}

/// Those that are silent first, as many as are told of findings.
fn sources(app: &App) -> Vec<Source> {
    let now_ms = app.clock.millis();
    let telling = app.sources.telling().into_iter().map(|telling| Source {
        silent: telling.is_silent(),
        workload: telling.workload.to_string(),
        source: telling.writes.source.to_string(),
        heartbeat_seconds: telling.writes.heartbeat.as_secs(),
        told_ms: now_ms.saturating_sub(u64::try_from(telling.quiet.as_millis()).unwrap_or(u64::MAX)),
    });
    let mut sources: Vec<Source> = telling.collect();
    sources.sort_by_key(|source| (!source.silent, source.told_ms));
    sources.truncate(MAX_FINDINGS as usize);
    sources
}

impl From<StoredFinding> for Finding {
    fn from(stored: StoredFinding) -> Self {
        let StoredFinding { last, first_ms, count } = stored;
        Self {
            kind: last.mismatch.as_str().to_owned(),
            caller: last.caller,
            callee: last.callee,
            since_ms: first_ms,
            last_ms: last.time_ms,
            count,
            why: last.why,
            service: last.service,
            call: last.call,
            index: last.position.saturating_sub(1),
            agent_id: last.agent_id,
            txn: last.txn,
        }
    }
}
