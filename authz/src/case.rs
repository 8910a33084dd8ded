//! Offline cases: one request with all that a decision rests on, and the verdict that a filter would give.
//!
//! The form serves `ostiary decide`, the vectors, and whoever wants to know what a policy would do. A case takes the
//! very steps of a filter (see [`crate::decision`]), so its code is the filter's code. A case that cannot be read is an
//! error and never a verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::denial::{Code, Denial, Needed};
use crate::identity::{AgentId, Jti, SpiffeId};
use crate::json;
use crate::jws::ExternalVerifier;
use crate::manifest::Mesh;
use crate::policy::{Bundle, BundleKeys, IssuerClaims};
use crate::request::{Listener, Right, Side};
use crate::state::AgentState;

mod rules;
mod steps;
#[cfg(test)]
mod tests;
mod written;

pub(crate) use rules::bundle_of_files;
use steps::Steps;

/// The name of a case, echoed in its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CaseId {
    /// A name.
    Text(String),
    /// A number.
    Number(i64),
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => number.fmt(f),
        }
    }
}

/// Why a case gives no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaseError {
    /// Not strict JSON.
    #[error("{0}")]
    Json(#[from] json::JsonError),
    /// Not of the form of a case.
    #[error("{0}")]
    Shape(String),
    /// A field has a bad value.
    #[error("`{field}`: {problem}")]
    Field {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// The request of a case.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseRequest {
    /// The method.
    pub method: String,
    /// The target as sent, with its query.
    pub path: String,
    /// Header fields in order; `host` stands for the authority.
    pub headers: Vec<(String, String)>,
    /// The body in base64; absent or empty where there is none.
    #[serde(default)]
    pub body_base64: Option<String>,
}

/// What a case is decided by.
#[derive(Clone, Debug)]
pub enum Rules {
    /// Signed policy, as a filter gets it.
    Signed {
        /// The bundle.
        bundle: String,
        /// The state list.
        state: String,
        /// The keys that must have signed both.
        trust: BundleKeys,
    },
    /// Agent and service files, checked.
    Files {
        /// What the files say.
        mesh: Arc<Mesh>,
        /// The issuers of tokens.
        issuers: Vec<IssuerClaims>,
        /// Agents that are not active.
        states: BTreeMap<AgentId, AgentState>,
        /// Times before which agents' tokens are dead.
        not_before: BTreeMap<AgentId, u64>,
        /// Revoked tokens.
        revoked: Vec<Jti>,
    },
}

/// One request with all that its verdict rests on.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub id: CaseId,
    /// Unix time in seconds.
    pub now: u64,
    /// The side that the filter stands on.
    pub side: Side,
    /// The workload that the filter stands before.
    pub workload: SpiffeId,
    /// The identity in the caller's certificate. Outbound there is none, and the workload itself is taken.
    pub peer: Option<String>,
    /// The port that an inbound request came in on. If absent: the port in `host`, else the only one that is exposed.
    pub local_port: Option<u16>,
    /// The request.
    pub request: CaseRequest,
    /// What it is decided by.
    pub rules: Rules,
}

/// The outcome of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The name of the case.
    pub id: CaseId,
    /// `permit` or `deny`.
    pub verdict: &'static str,
    /// `ok`, or the code of the denial; of a permit in shadow, of what would have denied it.
    pub code: &'static str,
    /// The status of the denial; 200 for a permit, which leaves it to the application.
    pub status: u16,
    /// What the request would have needed.
    pub needed: Needed,
    /// The agent, once its token has been verified.
    pub agent_id: Option<AgentId>,
    /// The scope that the request asks for.
    pub scope: Option<String>,
    /// The tool that the request calls.
    pub tool: Option<String>,
    /// The sentence of the denial. For people: it may be worded anew, so it is no part of what is compared.
    #[serde(skip)]
    pub detail: Option<String>,
}

/// Decides a case as a filter would.
///
/// # Errors
///
/// [`CaseError`] where the case itself is at fault, so that no verdict would mean anything.
pub fn run(case: &Case, external: &dyn ExternalVerifier) -> Result<Verdict, CaseError> {
    let body = body(&case.request)?;
    let policy = match rules::current(case)? {
        Ok(policy) => policy,
        Err(denial) => return Ok(Trail::default().verdict(&case.id, Err(denial))),
    };
    let local_port = match case.side {
        Side::Inbound => local_port(case, &policy.0)?,
        Side::Outbound => 0,
    };
    let pairs = header_pairs(&case.request);
    let mut trail = Trail::default();
    let listener = Listener {
        side: case.side,
        local_port,
    };
    let result = Steps {
        case,
        bundle: &policy.0,
        state: &policy.1,
        external,
    }
    .take(&pairs, &body, listener, &mut trail);
    Ok(trail.verdict(&case.id, result))
}

fn bad(field: &'static str, problem: impl fmt::Display) -> CaseError {
    CaseError::Field {
        field,
        problem: problem.to_string(),
    }
}

fn body(request: &CaseRequest) -> Result<Vec<u8>, CaseError> {
    let encoded = request.body_base64.as_deref().unwrap_or_default();
    STANDARD
        .decode(encoded)
        .map_err(|error| bad("request.body_base64", error))
}

/// What is known by the time of the verdict.
#[derive(Default)]
struct Trail {
    agent_id: Option<AgentId>,
    right: Option<Right>,
}

impl Trail {
    fn verdict(self, id: &CaseId, result: Result<Option<Denial>, Denial>) -> Verdict {
        let (scope, tool) = match self.right {
            Some(Right::Scope(scope) | Right::Call { scope, .. }) => (Some(scope.to_string()), None),
            Some(Right::Tool { name, scope }) => (scope.map(|scope| scope.to_string()), Some(name.to_string())),
            Some(Right::Prompt { scope, .. }) => (scope.map(|scope| scope.to_string()), None),
            Some(Right::Resources(needs)) => {
                let scope = needs.into_iter().find_map(|need| need.scope);
                (scope.map(|scope| scope.to_string()), None)
            }
            Some(Right::Session | Right::Exempt | Right::ControlPlane) | None => (None, None),
        };
        let (verdict, denial) = match result {
            Ok(shadowed) => ("permit", shadowed),
            Err(denial) => ("deny", Some(denial)),
        };
        let code = denial.as_ref().map(Denial::code);
        let status = code.filter(|_| verdict == "deny").map_or(200, Code::status);
        let needed = denial.as_ref().and_then(Denial::needed).cloned().unwrap_or_default();
        let detail = denial.map(|denial| denial.detail().to_owned());
        Verdict {
            id: id.clone(),
            verdict,
            code: code.map_or("ok", Code::as_str),
            status,
            needed,
            agent_id: self.agent_id,
            scope,
            tool,
            detail,
        }
    }
}

/// The port that the request came in on.
fn local_port(case: &Case, bundle: &Bundle) -> Result<u16, CaseError> {
    if let Some(port) = case.local_port {
        return Ok(port);
    }
    let host = case
        .request
        .headers
        .iter()
        .find(|(name, _)| is_authority(name))
        .map(|(_, host)| host.as_str());
    if let Some(port) = host
        .and_then(|host| host.rsplit_once(':'))
        .and_then(|(_, port)| port.parse().ok())
    {
        return Ok(port);
    }
    let mut ports = bundle
        .services()
        .iter()
        .filter(|service| service.identity() == bundle.workload())
        .flat_map(|service| service.ports().iter().copied());
    match (ports.next(), ports.next()) {
        // Nothing is exposed: no port can find a service.
        (None, _) => Ok(0),
        (Some(port), None) => Ok(port),
        (Some(_), Some(_)) => Err(bad(
            "local_port",
            "several ports are exposed: say which, here or in `host`",
        )),
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

/// The pairs that a proxy would give: names in lower case, `host` as the authority, values without blanks around them.
fn header_pairs(request: &CaseRequest) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = vec![
        (b":method".to_vec(), request.method.clone().into_bytes()),
        (b":path".to_vec(), request.path.clone().into_bytes()),
        (b":scheme".to_vec(), b"https".to_vec()),
    ];
    pairs.extend(request.headers.iter().map(|(name, value)| {
        let name = if is_authority(name) {
            ":authority".to_owned()
        } else {
            name.to_ascii_lowercase()
        };
        (name.into_bytes(), value.trim_matches([' ', '\t']).as_bytes().to_vec())
    }));
    pairs
}
