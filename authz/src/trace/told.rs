//! The tree as it is answered: every field is part of the API.

use serde::{Deserialize, Serialize};

use super::{Entry, owned};
use crate::audit::{Kind, RecordedFacts};
use crate::request::Side;

/// One user request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The user request.
    pub txn: String,
    /// How many records tell of it.
    pub records: usize,
    /// Whether these are all that the log has.
    pub complete: bool,
    /// When the first of them was made, in milliseconds.
    pub started_ms: u64,
    /// When the last was.
    pub ended_ms: u64,
    /// The W3C trace ids that calls carried.
    pub trace_ids: Vec<String>,
    /// Who acted, in the order in which they began.
    pub agents: Vec<Actor>,
}

/// What one agent did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// The agent; None for callers that show no capability.
    pub agent_id: Option<String>,
    /// The capabilities that it used.
    pub capabilities: Vec<Capability>,
    /// The calls that were made while serving no other.
    pub calls: Vec<Call>,
}

/// A capability that was used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Capability {
    /// Its token's id.
    pub jti: String,
    /// The declared operation.
    pub operation_id: String,
    /// Who asked for it.
    pub issued_by: String,
    /// When, in seconds.
    pub iat: u64,
    /// When it ended, in seconds.
    pub exp: u64,
}

/// A call, as both sidecars saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Its id; None if it did not come through its caller's sidecar.
    pub call: Option<String>,
    /// The agent.
    pub agent_id: Option<String>,
    /// The token.
    pub jti: Option<String>,
    /// The workload that made it.
    pub caller: Option<String>,
    /// The service.
    pub service: Option<String>,
    /// How it was read.
    pub protocol: Option<String>,
    /// What was asked for.
    pub asked: Asked,
    /// The W3C trace id.
    pub trace_id: Option<String>,
    /// Which sidecars recorded it.
    pub seen_by: SeenBy,
    /// When it began, in milliseconds.
    pub started_ms: u64,
    /// What each sidecar recorded; a call that is tried again has several of the service's.
    pub attempts: Vec<Attempt>,
    /// The calls that were made while serving it.
    pub calls: Vec<Call>,
}

/// What a call asked for, as far as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// HTTP method.
    pub method: Option<String>,
    /// Canonical path.
    pub path: Option<String>,
    /// JSON-RPC method.
    pub rpc_method: Option<String>,
    /// The tool.
    pub tool: Option<String>,
    /// The prompt.
    pub prompt: Option<String>,
    /// The resources.
    pub resources: Vec<String>,
    /// The scope that it needed.
    pub scope: Option<String>,
}

/// Which sidecars recorded a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeenBy {
    /// The caller's and the service's.
    Both,
    /// The caller's alone: it was denied there, or is on its way, or did not arrive.
    Caller,
    /// The service's alone.
    Service,
}

/// A decision of one sidecar and how the call ended there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// `outbound` or `inbound`.
    pub side: String,
    /// The workload whose sidecar it is.
    pub workload: Option<String>,
    /// The leaf of the decision's record, from 0.
    pub index: Option<u64>,
    /// When it was decided, in milliseconds by that sidecar's clock.
    pub time_ms: u64,
    /// `permit` or `deny`.
    pub verdict: Option<String>,
    /// The denial's code.
    pub code: Option<String>,
    /// How it ended; None if it was denied, or has not ended.
    pub ended: Option<Ended>,
}

/// How a permitted call ended at one sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The leaf of the completion's record, from 0.
    pub index: u64,
    /// When, in milliseconds.
    pub time_ms: u64,
    /// `complete`, `broken` and so on, as the record has it.
    pub end: Option<String>,
    /// The HTTP status.
    pub status: Option<u64>,
    /// Why the answer was withheld, if it was.
    pub code: Option<String>,
    /// How long it took.
    pub duration_us: Option<u64>,
    /// SHA-256 of the request.
    pub request_digest: Option<String>,
    /// Its length.
    pub request_bytes: Option<u64>,
    /// SHA-256 of the response.
    pub response_digest: Option<String>,
    /// Its length.
    pub response_bytes: Option<u64>,
}

impl Asked {
    pub(super) fn of(facts: &RecordedFacts<'_>) -> Self {
        Self {
            method: owned(facts.method.as_deref()),
            path: owned(facts.path.as_deref()),
            rpc_method: owned(facts.rpc_method.as_deref()),
            tool: owned(facts.tool.as_deref()),
            prompt: owned(facts.prompt.as_deref()),
            resources: facts.resources.iter().map(|(uri, _)| uri.to_string()).collect(),
            scope: owned(facts.scope.as_deref()),
        }
    }
}

impl Attempt {
    pub(super) fn of(entry: &Entry) -> Self {
        let record = &entry.record;
        Self {
            side: record.side.map_or("", Side::as_str).to_owned(),
            workload: owned(record.workload.as_deref()),
            index: Some(entry.index),
            time_ms: record.time_ms,
            verdict: record.verdict.map(|verdict| verdict.as_str().to_owned()),
            code: record
                .code
                .filter(|_| record.kind == Kind::Decision)
                .map(|code| code.as_str().to_owned()),
            ended: None,
        }
    }
}

impl Ended {
    pub(super) fn of(entry: &Entry) -> Self {
        let record = &entry.record;
        Self {
            index: entry.index,
            time_ms: record.time_ms,
            end: owned(record.end.as_deref()),
            status: record.status,
            code: record.code.map(|code| code.as_str().to_owned()),
            duration_us: record.duration_us,
            request_digest: record.request_digest.map(|digest| digest.to_string()),
            request_bytes: record.request_bytes,
            response_digest: record.response_digest.map(|digest| digest.to_string()),
            response_bytes: record.response_bytes,
        }
    }
}
