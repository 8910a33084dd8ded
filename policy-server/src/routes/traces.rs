//! `GET /v1/traces/{txn}`: all that happened for one user request, for auditors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use authz::audit;
use authz::identity::TransactionId;
use authz::request::Side;
use authz::trace::{self, Entry, Trace};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

use super::log::{Reader, failed};
use crate::app::App;
use crate::error::Problem;
use crate::store::StoredRecord;

/// The most records of one answer; of a larger user request the first of them.
const MAX_RECORDS: u32 = 4096;

/// The most records of one of its calls.
const MAX_RECORDS_OF_A_CALL: u32 = 64;

/// The most calls whose other side is looked for.
const MAX_ONE_SIDED: usize = 512;

/// How long an answer waits for the index.
const INDEX_WITHIN: Duration = Duration::from_secs(5);

/// The tree of one user request.
pub async fn show(State(app): State<Arc<App>>, Path(txn): Path<String>, reader: Reader) -> Response {
    app.log.readings.count(reader.principal(), "trace", &txn);
    match read(&app, &txn).await {
        Ok(trace) => ([(header::CACHE_CONTROL, "no-store")], Json(trace)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn read(app: &App, txn: &str) -> Result<Trace, Problem> {
    if TransactionId::parse(txn).is_err() {
        return Err(Problem::malformed("this is no id of a user request").field("txn"));
    }
    reach_the_log(app).await?;
    let named = app.store().records_of_txn(txn, MAX_RECORDS + 1).await;
    let named = named.map_err(|error| failed(app, &error.into()))?;
    if named.is_empty() {
        let detail = "no record of this user request was accepted; sidecars send theirs within seconds";
        return Err(Problem::new(StatusCode::NOT_FOUND, "txn_unknown", detail));
    }
    let mut gathered = Gathered {
        entries: Vec::new(),
        complete: named.len() <= MAX_RECORDS as usize,
    };
    for record in named.iter().take(MAX_RECORDS as usize) {
        gathered.add(record, txn)?;
    }
    let calls = gathered.one_sided();
    gathered.complete &= calls.len() <= MAX_ONE_SIDED;
    for call in calls.into_iter().take(MAX_ONE_SIDED) {
        let records = app.store().records_of_call(&call, MAX_RECORDS_OF_A_CALL + 1).await;
        let records = records.map_err(|error| failed(app, &error.into()))?;
        gathered.complete &= records.len() <= MAX_RECORDS_OF_A_CALL as usize;
        for record in &records {
            gathered.add(record, txn)?;
        }
    }
    Ok(trace::build(txn, gathered.entries, gathered.complete))
}

/// Waits until every record that is stored now can be found by its user request.
pub(super) async fn reach_the_log(app: &App) -> Result<(), Problem> {
    let size = app.store().record_count().await;
    let size = size.map_err(|error| failed(app, &error.into()))?;
    if !app.traces.reach(size, INDEX_WITHIN).await {
        let detail = "records that were accepted last cannot be found by their user request yet";
        return Err(Problem::unavailable("trace_unavailable", detail));
    }
    Ok(())
}

/// What has been found, bounded.
struct Gathered {
    entries: Vec<Entry>,
    complete: bool,
}

impl Gathered {
    /// The calls of which one side alone names the user request: the other may have read no token.
    fn one_sided(&self) -> BTreeSet<String> {
        let mut sides: BTreeMap<&str, BTreeSet<Option<&str>>> = BTreeMap::new();
        for Entry { record, .. } in &self.entries {
            if let Some(call) = &record.call {
                sides.entry(call).or_default().insert(record.side.map(Side::as_str));
            }
        }
        let one_sided = sides.into_iter().filter(|(_, sides)| sides.len() < 2);
        one_sided.map(|(call, _)| call.to_owned()).collect()
    }

    /// Adds a record of this user request, or of none. What was found twice, by the request and by its call, is told once.
    fn add(&mut self, stored: &StoredRecord, txn: &str) -> Result<(), Problem> {
        // Each is found at most twice.
        if self.entries.len() >= 2 * MAX_RECORDS as usize {
            self.complete = false;
            return Ok(());
        }
        let (link, record) = audit::read(&stored.canonical).map_err(|error| Problem::internal(&error))?;
        if record.txn.as_deref().is_none_or(|own| own == txn) {
            self.entries.push(Entry {
                index: stored.position.saturating_sub(1),
                link,
                record,
            });
        }
        Ok(())
    }
}
