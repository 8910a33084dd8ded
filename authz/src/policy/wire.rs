//! The claims of a bundle as they are signed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{ExpiryMode, FORMAT, Mode, PauseMode, PolicyError, Protocol, RecordMode, Tasks};
use crate::{
    claims::ToolGrant,
    definition::{DefinitionDigest, OnDrift},
    identity::{AgentId, Issuer, ServiceId, SpiffeId, ToolName},
    json::{self, Limits},
    jwks::Jwks,
    resource::ResourceGrant,
    scope::ScopeSet,
    session::SessionKey,
};

/// The payload of a bundle (`typ: policy-bundle+jwt`).
///
/// In format 1 the agents are there themselves; in the later ones it is the digests of their pages (`Option<PageDigest>`),
/// and the pages come separately. Filters that know no format 3 know no prompts, resources and queries either, and hold
/// no call until its record is stored; those that know no format 4 know no services of agents, and those that know no
/// format 5 bind no sessions, pin no definitions, hold no call until its agent is approved, end none with its token, and let
/// none go on in shadow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleClaims<A = AgentClaims> {
    /// The format: [`FORMAT`], [`PAGED_FORMAT`](super::PAGED_FORMAT), [`NAMED_FORMAT`](super::NAMED_FORMAT),
    /// [`CALLS_FORMAT`](super::CALLS_FORMAT) or [`BOUND_FORMAT`](super::BOUND_FORMAT).
    pub format: u64,
    /// The policy server that signed it.
    pub iss: Issuer,
    /// The workload that it is for.
    pub aud: SpiffeId,
    /// The epoch of its version.
    pub epoch: u64,
    /// The counter of its version.
    pub version: u64,
    /// When it was signed, in seconds.
    pub issued_at: u64,
    /// When it stops to be valid, in seconds.
    pub expires_at: u64,
    /// How old a state list may be, in seconds.
    pub max_state_age_seconds: u64,
    /// The longest lifetime of a token, in seconds.
    pub max_token_ttl_seconds: u64,
    /// The issuers whose tokens are accepted.
    pub issuers: Vec<IssuerClaims>,
    /// The policy server as a service.
    pub policy_server: PolicyServerClaims,
    /// What seals the ids of sessions at the workload; the first does, all open. Secret: in no other workload's bundle.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub session_keys: Vec<SessionKey>,
    /// The services that the workload exposes or may call.
    pub services: Vec<ServiceClaims>,
    /// The agents that may call what the workload exposes, and its own; or the digests of their pages, in order.
    pub agents: Vec<A>,
}

/// An issuer and its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerClaims {
    /// The issuer's name.
    pub iss: Issuer,
    /// Its public keys.
    pub jwks: Jwks,
}

/// How workloads name the policy server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyServerClaims {
    /// Its identity.
    pub identity: SpiffeId,
    /// Its hosts.
    pub hosts: Vec<String>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceClaims {
    /// Its name.
    pub id: ServiceId,
    /// The identity of the workload that receives its calls.
    pub identity: SpiffeId,
    /// How callers name it.
    pub hosts: Vec<String>,
    /// The ports that it listens on.
    pub ports: Vec<u16>,
    /// The protocol that its requests are read as.
    pub protocol: Protocol,
    /// The endpoint of an MCP service, or of an A2A service's JSON-RPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the REST paths of an A2A service begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_path: Option<String>,
    /// The agent behind an A2A service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Who holds tasks of an MCP or A2A service to their openers.
    #[serde(default, skip_serializing_if = "Tasks::is_default")]
    pub tasks: Tasks,
    /// The routes of an HTTP service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteClaims>,
    /// Callers that need no capability.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<ExemptClaims>,
    /// The tools of an MCP service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<ToolName, ToolClaims>,
    /// What becomes of a tool whose definition is not the pinned one.
    #[serde(default, skip_serializing_if = "OnDrift::is_default")]
    pub on_drift: OnDrift,
    /// The prompts of an MCP service, whose names are of the grammar of tools'.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<ToolName, ToolClaims>,
    /// The resources of an MCP service, by URI or template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, ToolClaims>,
    /// The header that the capability rides in.
    pub token_header: String,
    /// Whether the application is given the token.
    pub forward_token: bool,
    /// Whether the application is given the verified claims.
    pub forward_claims: bool,
    /// The longest body that is held, in bytes.
    pub body_limit_bytes: u64,
    /// When the records of its calls are stored.
    #[serde(default, skip_serializing_if = "RecordMode::is_batched")]
    pub record: RecordMode,
    /// What becomes of its calls when their tokens expire.
    #[serde(default, skip_serializing_if = "ExpiryMode::is_finish")]
    pub on_expiry: ExpiryMode,
    /// What becomes of calls of a paused agent.
    #[serde(default, skip_serializing_if = "PauseMode::is_default")]
    pub on_pause: PauseMode,
    /// What becomes of calls that a rule denies.
    #[serde(default, skip_serializing_if = "Mode::is_default")]
    pub mode: Mode,
}

/// A route of an HTTP service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteClaims {
    /// The HTTP method.
    pub method: String,
    /// The path template.
    pub path: String,
    /// The query parameters that name something, each with its capture, `{name}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// The scope template.
    pub scope: String,
    /// The capture that must equal the caller's agent id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<String>,
}

/// A caller that needs no capability for one request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExemptClaims {
    /// The caller.
    pub peer: SpiffeId,
    /// The HTTP method.
    pub method: String,
    /// The exact path.
    pub path: String,
}

/// A tool, prompt or resource of an MCP service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolClaims {
    /// The scope that a call needs beside the name itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The definition that a tool has been seen to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<DefinitionDigest>,
}

/// The policy of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentClaims {
    /// Its name.
    pub id: AgentId,
    /// The identity of its workload.
    pub identity: SpiffeId,
    /// The tools that it may be granted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ToolGrant>,
    /// The tools that it may never call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forbidden_tools: Vec<ToolGrant>,
    /// The prompts that it may get, named as tools are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<ToolGrant>,
    /// The resources that it may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceGrant>,
    /// The scopes that it may be granted.
    #[serde(default, skip_serializing_if = "ScopeSet::is_empty")]
    pub scope: ScopeSet,
    /// The agents that it may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub may_call: Vec<AgentId>,
    /// The services that it reaches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reaches: Vec<ServiceId>,
}

impl BundleClaims {
    /// The same for a filter that cannot bind sessions and tasks, pin definitions, hold calls of paused agents, end calls with
    /// their tokens or let any go on in shadow: it hands ids of sessions on as they come, lets nobody name a task, denies what
    /// is paused, lets calls finish, and enforces.
    #[must_use]
    pub fn without_bindings(mut self) -> Self {
        self.session_keys.clear();
        for service in &mut self.services {
            service.on_drift = OnDrift::default();
            service.on_expiry = ExpiryMode::Finish;
            service.on_pause = PauseMode::Deny;
            service.mode = Mode::Enforce;
            if service.tasks == Tasks::Bound || service.protocol == Protocol::Mcp {
                service.tasks = Tasks::Refused;
            }
            for tool in service.tools.values_mut() {
                tool.definition = None;
            }
        }
        self
    }

    /// The same without services of agents too, for a filter that does not know their protocol: it denies their calls.
    #[must_use]
    pub fn without_calls(self) -> Self {
        let mut older = self.without_bindings();
        let gone = older
            .services
            .extract_if(.., |service| service.protocol == Protocol::A2a);
        let gone: Vec<ServiceId> = gone.map(|service| service.id).collect();
        for agent in &mut older.agents {
            agent.reaches.retain(|id| !gone.contains(id));
        }
        older
    }

    /// The same without services of agents, prompts, resources and routes with a query, for a filter that does not know
    /// them: it refuses what would ask for them. Nor does it know how to hold a call until its record is stored, so its calls
    /// do not wait.
    #[must_use]
    pub fn without_names(self) -> Self {
        let mut older = self.without_calls();
        for service in &mut older.services {
            service.routes.retain(|route| route.query.is_empty());
            service.prompts.clear();
            service.resources.clear();
            service.record = RecordMode::Batched;
        }
        for agent in &mut older.agents {
            agent.prompts.clear();
            agent.resources.clear();
        }
        older
    }
}

/// Reads a payload of [`FORMAT`].
pub(crate) fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, PolicyError> {
    match format(payload)? {
        FORMAT => read_checked(payload),
        format => Err(PolicyError::Format(format)),
    }
}

/// Makes the strict pass over a payload and gives its `format`.
///
/// The format comes first, so that a newer document is refused as such and not for its shape.
pub(super) fn format(payload: &[u8]) -> Result<u64, PolicyError> {
    #[derive(Deserialize)]
    struct Head {
        format: u64,
    }
    let Head { format } = json::strict(payload, &Limits::POLICY)?;
    Ok(format)
}

/// Reads a payload.
///
/// INVARIANT: [`format`] has made the strict pass over these very bytes.
pub(super) fn read_checked<T: DeserializeOwned>(payload: &[u8]) -> Result<T, PolicyError> {
    serde_json::from_slice(payload).map_err(|error| {
        json::JsonError::Shape {
            line: error.line(),
            column: error.column(),
        }
        .into()
    })
}
