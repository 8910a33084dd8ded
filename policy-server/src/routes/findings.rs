//! `GET /v1/findings`: calls that only one of their two sides saw, or both saw differently, for auditors.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use serde::Serialize;

use super::log::{Reader, failed};
use crate::app::App;
use crate::error::Problem;
use crate::store::findings::StoredFinding;

/// The most findings of one answer: the last ones.
const MAX_FINDINGS: u32 = 1000;

#[derive(Serialize)]
struct Answer {
    /// How long both sides of a call have to tell of it.
    window_seconds: u64,
    /// How many records the log has.
    records: u64,
    /// Of how many of them, from the first on, every call has been judged.
    judged: u64,
    findings: Vec<Shown>,
    /// Whether there are more than are told.
    more: bool,
}

#[derive(Serialize)]
struct Shown {
    kind: &'static str,
    caller: String,
    callee: String,
    since_ms: u64,
    last_ms: u64,
    count: u64,
    why: String,
    service: Option<String>,
    call: Option<String>,
    index: u64,
    agent_id: Option<String>,
    txn: Option<String>,
}

/// The findings.
pub async fn list(State(app): State<Arc<App>>, reader: Reader) -> Response {
    app.log.readings.count(reader.principal(), "findings", "all");
    match read(&app).await {
        Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn read(app: &App) -> Result<Answer, Problem> {
    let store = app.store();
    let judged = store.judged().await.map_err(|error| failed(app, &error.into()))?;
    let records = store.record_count().await.map_err(|error| failed(app, &error.into()))?;
    let found = store.findings(MAX_FINDINGS + 1).await;
    let found = found.map_err(|error| failed(app, &error.into()))?;
    Ok(Answer {
        window_seconds: app.config.reconcile_window.as_secs(),
        records,
        judged,
        more: found.len() > MAX_FINDINGS as usize,
        findings: found.into_iter().take(MAX_FINDINGS as usize).map(Shown::from).collect(),
    })
}

impl From<StoredFinding> for Shown {
    fn from(stored: StoredFinding) -> Self {
        let StoredFinding { last, first_ms, count } = stored;
        Self {
            kind: last.mismatch.as_str(),
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
