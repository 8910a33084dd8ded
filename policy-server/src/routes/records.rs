//! `POST /v1/records`: a batch of one source's records.

use std::sync::Arc;
use std::time::Duration;

use authz::audit::{self, AgentStanding, Kind, RecordError, SourceId, Stored, StoredCall, Verified, WAITING_HEADER};
use authz::identity::{AgentId, SpiffeId};
use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};

use super::{MAX_RECORDS_BYTES, authenticate, read_body, require_callout, require_media_type};
use crate::app::App;
use crate::crash;
use crate::error::Problem;
use crate::ingest::IngestError;
use crate::risk::Counted;
use crate::store::{Batch, BatchRecord, Refused};

/// The most records of a batch.
pub const MAX_RECORDS: usize = 512;

/// How long a call may wait for its score once its record is stored; its sidecar gives up after five seconds in all.
const SCORING: Duration = Duration::from_secs(2);

/// A record whose call waits for it.
#[derive(Debug)]
struct Waiter {
    seq: u64,
    hash: String,
    /// The agent that the record names; None if there is none.
    agent: Option<String>,
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

async fn answer(app: &App, request: Request) -> Result<Stored, Problem> {
    let peer = authenticate(app, request.headers())?;
    require_callout(request.headers())?;
    require_media_type(request.headers(), "application/x-ndjson")?;
    let waiting = waiting(request.headers())?;
    let _share = app
        .record_shares
        .take(&peer)
        .ok_or_else(|| Problem::too_many_requests("this workload has as many batches waiting as it may"))?;
    // Before the body is read: what waits is bounded in memory.
    let place = app.ingest.reserve().map_err(unavailable)?;
    let body = read_body(request, MAX_RECORDS_BYTES).await?;
    let (batch, waiters) = parse(&body, &peer, &waiting)?;
    if batch.first_seq == 0 && !app.new_sources.count(&peer, app.clock.seconds()) {
        return Err(Problem::too_many_requests("this workload opens sources too fast").retry_after(60));
    }
    let source = batch.source.clone();
    // Even if it cannot be stored now, that is not the sidecar's silence.
    if let Some(source) = SourceId::parse(&source) {
        app.sources.tells(&peer, source);
    }
    let appended = place
        .store(batch)
        .await
        .map_err(unavailable)?
        .map_err(|refused| refusal(refused, &peer, &source))?;
    let stored = Stored {
        source,
        accepted_through: appended.accepted_through,
        calls: tell(app, &peer, waiters, appended.position).await,
        heartbeat_seconds: app.config.heartbeat_seconds,
    };
    crash::moment("scored");
    Ok(stored)
}

/// The records whose calls wait, as their sidecar says.
fn waiting(headers: &HeaderMap) -> Result<Vec<u64>, Problem> {
    let mut values = headers.get_all(WAITING_HEADER).iter();
    let read = match (values.next(), values.next()) {
        (None, _) => return Ok(Vec::new()),
        (Some(value), None) => value.to_str().ok(),
        (Some(_), Some(_)) => None,
    };
    read.and_then(|value| audit::read_waiting(value, MAX_RECORDS))
        .ok_or_else(|| Problem::malformed("must list records of the batch by their `seq`").field(WAITING_HEADER))
}

/// What calls are told whose records are durable: how their agents stand, with a score that counts them. Of a call about which
/// that is not known nothing is said, and its sidecar denies it.
async fn tell(app: &App, peer: &SpiffeId, waiters: Vec<Waiter>, position: u64) -> Vec<StoredCall> {
    if waiters.is_empty() {
        return Vec::new();
    }
    let counted = app.risk.counted(position, SCORING).await;
    if counted == Counted::NotYet {
        tracing::warn!(%peer, calls = waiters.len(), "calls that wait could not be scored in time");
    }
    let told = waiters.into_iter().filter_map(|waiter| {
        let agent = match &waiter.agent {
            Some(id) => Some(standing(app, peer, id, counted)?),
            None => None,
        };
        Some(StoredCall {
            seq: waiter.seq,
            hash: waiter.hash,
            agent,
        })
    });
    told.collect()
}

/// How an agent stands, for a service that it may reach and for nobody else.
fn standing(app: &App, peer: &SpiffeId, agent: &str, counted: Counted) -> Option<AgentStanding> {
    let agent: AgentId = agent.parse().ok()?;
    // Before the first list nothing is known of anybody.
    app.feed.state()?;
    let risk = match (counted, app.feed.policy()) {
        (Counted::Yes, Some(mesh)) => {
            let reaches = &mesh.agent(&agent)?.claims.reaches;
            let mut exposed = mesh.services().iter().filter(|service| service.identity == *peer);
            exposed.find(|service| reaches.contains(&service.id))?;
            Some(app.risk.score(&agent, app.clock.millis()).0)
        }
        (Counted::Unscored, _) => None,
        (Counted::Yes, None) | (Counted::NotYet, _) => return None,
    };
    Some(AgentStanding {
        state: app.feed.agent_state(&agent).as_str().to_owned(),
        not_before: app.feed.not_before(&agent),
        risk,
        id: agent.to_string(),
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

/// Checks every line, that the lines are one piece of one chain, and that all speak for the peer alone. Gives the batch, and
/// those of its records whose calls wait.
fn parse(body: &[u8], peer: &SpiffeId, waiting: &[u64]) -> Result<(Batch, Vec<Waiter>), Problem> {
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
    let waits = |record: &&Verified<'_>| waiting.contains(&record.link.seq);
    let waiters = verified.iter().filter(waits).map(|record| Waiter {
        seq: record.link.seq,
        hash: record.hash.to_base64url(),
        agent: record.record.agent_id.as_deref().map(str::to_owned),
    });
    let waiters = waiters.collect();
    let batch = Batch {
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
    };
    Ok((batch, waiters))
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
