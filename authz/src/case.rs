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

use crate::decision::{self, Question};
use crate::denial::{Code, Denial, Needed};
use crate::identity::{AgentId, Issuer, Jti, SpiffeId};
use crate::json::{self, Limits};
use crate::jwks::Jwks;
use crate::jws::ExternalVerifier;
use crate::manifest::{BundleHeader, Mesh};
use crate::policy::{Bundle, BundleKeys, FORMAT, IssuerClaims, PolicyError, PolicyServerClaims, RawBundle};
use crate::request::{Extraction, Facts, Listener, RequestHead, Right, Side, extract};
use crate::state::{AgentState, RawStateList, StateClaims, StateList};
use crate::token::{TokenError, UnverifiedToken, VerifiedToken};

/// What a case assumes where it names files instead of signed policy: the defaults of the policy server.
const BUNDLE_LIFETIME_SECONDS: u64 = 3600;
const MAX_STATE_AGE_SECONDS: u64 = 60;
const MAX_TOKEN_TTL_SECONDS: u64 = 300;
const POLICY_SERVER_HOST: &str = "policy-server.ostiary.svc.cluster.local";

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
    /// `ok`, or the code of the denial.
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

/// A case as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    id: CaseId,
    now: u64,
    side: RawSide,
    workload: SpiffeId,
    #[serde(default)]
    peer: Option<String>,
    #[serde(default)]
    local_port: Option<u16>,
    request: CaseRequest,
    bundle: Option<String>,
    state: Option<String>,
    trust: Option<Jwks>,
    policy: Option<String>,
    issuers: Option<Vec<IssuerClaims>>,
    states: Option<BTreeMap<AgentId, AgentState>>,
    not_before: Option<BTreeMap<AgentId, u64>>,
    revoked: Option<Vec<Jti>>,
    /// For people and for test harnesses; nothing is decided on it.
    #[serde(default, rename = "expect")]
    _expect: serde::de::IgnoredAny,
    /// For people.
    #[serde(default, rename = "note")]
    _note: serde::de::IgnoredAny,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawSide {
    Inbound,
    Outbound,
}

impl Case {
    /// Reads a case. `load` gives what the files in the folder named by `policy` say, for the trust domain given.
    ///
    /// # Errors
    ///
    /// [`CaseError`], naming the field.
    pub fn read<E: fmt::Display>(
        line: &[u8],
        load: impl FnOnce(&str, &str) -> Result<Arc<Mesh>, E>,
    ) -> Result<Self, CaseError> {
        json::parse(line, &Limits::POLICY)?;
        let raw: RawCase = serde_json::from_slice(line).map_err(|error| CaseError::Shape(error.to_string()))?;
        let rules = match (raw.bundle, raw.state, raw.trust, raw.policy) {
            (Some(bundle), Some(state), Some(trust), None) => {
                let absent =
                    raw.issuers.is_none() && raw.states.is_none() && raw.not_before.is_none() && raw.revoked.is_none();
                if !absent {
                    return Err(bad(
                        "bundle",
                        "signed policy stands without `issuers`, `states`, `not_before`, `revoked`",
                    ));
                }
                Rules::Signed {
                    bundle,
                    state,
                    trust: BundleKeys::new(trust).map_err(|error| bad("trust", error))?,
                }
            }
            (None, None, None, Some(policy)) => Rules::Files {
                mesh: load(&policy, raw.workload.trust_domain()).map_err(|error| bad("policy", error))?,
                issuers: raw.issuers.ok_or_else(|| bad("issuers", "missing beside `policy`"))?,
                states: raw.states.unwrap_or_default(),
                not_before: raw.not_before.unwrap_or_default(),
                revoked: raw.revoked.unwrap_or_default(),
            },
            _ => {
                return Err(bad(
                    "policy",
                    "give either `bundle`, `state` and `trust`, or `policy` and `issuers`",
                ));
            }
        };
        Ok(Self {
            id: raw.id,
            now: raw.now,
            side: match raw.side {
                RawSide::Inbound => Side::Inbound,
                RawSide::Outbound => Side::Outbound,
            },
            workload: raw.workload,
            peer: raw.peer,
            local_port: raw.local_port,
            request: raw.request,
            rules,
        })
    }
}

/// Decides a case as a filter would.
///
/// # Errors
///
/// [`CaseError`] where the case itself is at fault, so that no verdict would mean anything.
pub fn run(case: &Case, external: &dyn ExternalVerifier) -> Result<Verdict, CaseError> {
    let body = body(&case.request)?;
    let policy = match current_policy(case)? {
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
    fn verdict(self, id: &CaseId, result: Result<(), Denial>) -> Verdict {
        let (scope, tool) = match self.right {
            Some(Right::Scope(scope)) => (Some(scope.to_string()), None),
            Some(Right::Tool { name, scope }) => (scope.map(|scope| scope.to_string()), Some(name.to_string())),
            Some(Right::Session | Right::Exempt | Right::ControlPlane) | None => (None, None),
        };
        let detail = result.as_ref().err().map(|denial| denial.detail().to_owned());
        let (verdict, code, status, needed) = match result {
            Ok(()) => ("permit", "ok", 200, Needed::default()),
            Err(denial) => {
                let needed = denial.needed().cloned().unwrap_or_default();
                ("deny", denial.code().as_str(), denial.code().status(), needed)
            }
        };
        Verdict {
            id: id.clone(),
            verdict,
            code,
            status,
            needed,
            agent_id: self.agent_id,
            scope,
            tool,
            detail,
        }
    }
}

/// The steps of a filter.
struct Steps<'a> {
    case: &'a Case,
    bundle: &'a Bundle,
    state: &'a StateList,
    external: &'a dyn ExternalVerifier,
}

impl Steps<'_> {
    fn take(
        &self,
        pairs: &[(Vec<u8>, Vec<u8>)],
        body: &[u8],
        listener: Listener,
        trail: &mut Trail,
    ) -> Result<(), Denial> {
        let peer = self.peer();
        let question = |token| Question {
            now: self.case.now,
            side: self.case.side,
            workload: &self.case.workload,
            peer: peer.as_ref(),
            token,
            bundle: self.bundle,
            state: self.state,
            seconds_since_poll: 0,
        };
        decision::available(&question(None))?;
        let head = RequestHead::parse(pairs)?;
        match extract(&head, listener, self.bundle, body.is_empty())? {
            Extraction::Ready(facts) => {
                trail.right = Some(facts.right.clone());
                let token = self.token(&head, &question(None), &facts, trail)?;
                decision::decide(&question(token.as_ref()), &facts).map(|_| ())
            }
            Extraction::NeedsBody(pending) => {
                let service = pending.service().clone();
                let token = self.verify(&head, &service, trail)?;
                let question = question(token.as_ref());
                decision::admit(&question, &service)?;
                let facts = pending.finish(self.bundle, body)?;
                trail.right = Some(facts.right.clone());
                decision::decide(&question, &facts).map(|_| ())
            }
        }
    }

    /// A certificate whose identity is no SPIFFE ID gives no peer.
    fn peer(&self) -> Option<SpiffeId> {
        match (&self.case.peer, self.case.side) {
            (Some(peer), _) => SpiffeId::parse(peer).ok(),
            (None, Side::Outbound) => Some(self.bundle.workload().clone()),
            (None, Side::Inbound) => None,
        }
    }

    fn token(
        &self,
        head: &RequestHead<'_>,
        question: &Question<'_>,
        facts: &Facts,
        trail: &mut Trail,
    ) -> Result<Option<VerifiedToken>, Denial> {
        match &facts.service {
            Some(service) if !decision::exempt(question, facts) => self.verify(head, service, trail),
            Some(_) | None => Ok(None),
        }
    }

    fn verify(
        &self,
        head: &RequestHead<'_>,
        service: &crate::identity::ServiceId,
        trail: &mut Trail,
    ) -> Result<Option<VerifiedToken>, Denial> {
        let service = self
            .bundle
            .service_with_id(service)
            .and_then(|index| self.bundle.service(index));
        let service = service.ok_or_else(|| Denial::new(Code::InternalError, "the service has no entry"))?;
        let Some(compact) = head.bearer(service)? else {
            return Ok(None);
        };
        let token = self.verify_compact(compact).map_err(|error| Denial::from(&error))?;
        trail.agent_id = Some(token.claims().agent_id.clone());
        Ok(Some(token))
    }

    fn verify_compact(&self, compact: &str) -> Result<VerifiedToken, TokenError> {
        UnverifiedToken::parse(compact)?.verify(
            self.bundle.issuers(),
            self.bundle.token_limits(),
            self.case.now,
            self.external,
        )
    }
}

/// Bundle and state, or the denial of a filter that has none.
fn current_policy(case: &Case) -> Result<Result<(Bundle, StateList), Denial>, CaseError> {
    match &case.rules {
        Rules::Signed { bundle, state, trust } => Ok(signed_policy(case, bundle, state, trust)),
        Rules::Files {
            mesh,
            issuers,
            states,
            not_before,
            revoked,
        } => {
            let (bundle, iss) = compile(case, mesh, issuers)?;
            let state = StateClaims {
                format: FORMAT,
                iss,
                epoch: 0,
                version: 1,
                issued_at: case.now,
                agents: states.clone(),
                not_before: not_before.clone(),
                revoked: revoked.iter().map(|jti| (jti.clone(), u64::MAX)).collect(),
            };
            let state = StateList::from_own_claims(state, case.now).map_err(|error| bad("states", error))?;
            Ok(Ok((bundle, state)))
        }
    }
}

/// A filter keeps what it has when a bundle or list is refused; a case has nothing else.
fn signed_policy(case: &Case, bundle: &str, state: &str, trust: &BundleKeys) -> Result<(Bundle, StateList), Denial> {
    let unavailable = |error: PolicyError| match error {
        PolicyError::Audience => Denial::new(Code::WorkloadMismatch, "the policy was made for another workload"),
        error => Denial::new(Code::PolicyUnavailable, error.to_string()),
    };
    let bundle = RawBundle::new(bundle)
        .verify(trust, &case.workload, None, case.now)
        .map_err(unavailable)?;
    let state = RawStateList::new(state)
        .verify(trust, None, case.now)
        .map_err(unavailable)?;
    Ok((bundle, state))
}

fn compile(case: &Case, mesh: &Mesh, issuers: &[IssuerClaims]) -> Result<(Bundle, Issuer), CaseError> {
    let identity = SpiffeId::for_service_account(case.workload.trust_domain(), "ostiary", "policy-server")
        .map_err(|error| bad("workload", error))?;
    let iss = Issuer::parse(identity.as_str()).map_err(|error| bad("workload", error))?;
    let header = BundleHeader {
        iss: iss.clone(),
        epoch: 0,
        version: 1,
        issued_at: case.now,
        expires_at: case.now.saturating_add(BUNDLE_LIFETIME_SECONDS),
        max_state_age_seconds: MAX_STATE_AGE_SECONDS,
        max_token_ttl_seconds: MAX_TOKEN_TTL_SECONDS,
        issuers: issuers.to_vec(),
        policy_server: PolicyServerClaims {
            identity,
            hosts: vec![POLICY_SERVER_HOST.to_owned()],
        },
    };
    let claims = mesh.compile(&case.workload, header);
    let bundle = Bundle::from_own_claims(claims, case.now).map_err(|error| bad("policy", error))?;
    Ok((bundle, iss))
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

#[cfg(test)]
mod tests;
