//! `POST /v1/records`: a batch of one source's records.

use std::sync::Arc;

use authz::audit::{self, Kind, RecordError, Verified};
use authz::identity::SpiffeId;
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;

use super::{MAX_RECORDS_BYTES, authenticate, read_body, require_callout, require_media_type};
use crate::app::App;
use crate::error::Problem;
use crate::ingest::IngestError;
use crate::store::{Batch, BatchRecord, Refused};

/// The most records of a batch.
pub const MAX_RECORDS: usize = 512;

#[derive(Debug, Serialize)]
struct Accepted {
    source: String,
    accepted_through: u64,
}

/// Stores a batch; answers when it is durable.
pub async fn append(State(app): State<Arc<App>>, request: Request) -> Response {
    match answer(&app, request).await {
        Ok(accepted) => {
            app.metrics.batch("ok");
            Json(accepted).into_response()
        }
        Err(problem) => {
            app.metrics.batch(problem.code());
            problem.into_response()
        }
    }
}

async fn answer(app: &App, request: Request) -> Result<Accepted, Problem> {
    let peer = authenticate(app, request.headers())?;
    require_callout(request.headers())?;
    require_media_type(request.headers(), "application/x-ndjson")?;
    let _share = app
        .record_shares
        .take(&peer)
        .ok_or_else(|| Problem::too_many_requests("this workload has as many batches waiting as it may"))?;
    // Before the body is read: what waits is bounded in memory.
    let place = app.ingest.reserve().map_err(unavailable)?;
    let body = read_body(request, MAX_RECORDS_BYTES).await?;
    let batch = parse(&body, &peer)?;
    if batch.first_seq == 0 && !app.new_sources.count(&peer, app.clock.seconds()) {
        return Err(Problem::too_many_requests("this workload opens sources too fast").retry_after(60));
    }
    let source = batch.source.clone();
    let appended = place
        .store(batch)
        .await
        .map_err(unavailable)?
        .map_err(|refused| refusal(refused, &peer, &source))?;
    Ok(Accepted {
        source,
        accepted_through: appended.accepted_through,
    })
}

fn unavailable(error: IngestError) -> Problem {
    Problem::unavailable("records_unavailable", error.to_string())
}

fn refusal(refused: Refused, peer: &SpiffeId, source: &str) -> Problem {
    tracing::warn!(%peer, source, %refused, "batch refused");
    match refused {
        Refused::Fork => conflict("chain_fork", refused.to_string()),
        Refused::Gap => conflict("chain_gap", refused.to_string()),
        Refused::ForeignSource => Problem::forbidden("source_refused", refused.to_string()),
    }
}

fn conflict(code: &'static str, detail: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, code, detail)
}

/// Checks every line, that the lines are one piece of one chain, and that all speak for the peer alone.
fn parse(body: &[u8], peer: &SpiffeId) -> Result<Batch, Problem> {
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    let mut verified = Vec::new();
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let place = format!("line {}", index + 1);
        if index == MAX_RECORDS {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                format!("a batch may have at most {MAX_RECORDS} records"),
            ));
        }
        let record = audit::verify_line(line).map_err(|error| malformed(error, &place))?;
        check_speaker(&record, peer, &place)?;
        verified.push(record);
    }
    audit::check_batch(&verified).map_err(|error| match error {
        RecordError::Fork(_) => conflict("chain_fork", error.to_string()),
        RecordError::Gap(_) => conflict("chain_gap", error.to_string()),
        error => malformed(error, "batch"),
    })?;
    let first = verified
        .first()
        .ok_or_else(|| Problem::malformed("the batch is empty"))?;
    Ok(Batch {
        source: first.link.source.to_string(),
        workload: peer.clone(),
        first_seq: first.link.seq,
        prev_hash: first.link.prev_hash.map(|hash| *hash.as_bytes()),
        records: verified
            .iter()
            .map(|record| BatchRecord {
                hash: *record.hash.as_bytes(),
                canonical: record.canonical.to_vec(),
                call: record.record.call.as_deref().map(str::to_owned),
            })
            .collect(),
    })
}

fn malformed(error: RecordError, place: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "record_malformed", error.to_string()).field(place)
}

fn check_speaker(verified: &Verified<'_>, peer: &SpiffeId, place: &str) -> Result<(), Problem> {
    if verified.record.workload.as_deref() != Some(peer.as_str()) {
        let detail = "a workload posts only its own records";
        return Err(Problem::forbidden("workload_mismatch", detail).field(place));
    }
    if (verified.link.seq == 0) != (verified.record.kind == Kind::Source) {
        return Err(malformed(RecordError::Field("kind"), place));
    }
    Ok(())
}
