//! Agent and service files: what people write, and what it means.
//!
//! The types here are the shape of the files. [`Manifests::check`] holds them to every rule that needs more than one
//! field or file, names each fault with its place and what to write instead, and gives a [`Mesh`] only if there is
//! none: policy is compiled and tokens are granted from a `Mesh` alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::definition::OnDrift;
use crate::policy::{ExpiryMode, Mode, PauseMode, RecordMode, Tasks};

mod agent;
pub mod bounds;
mod check;
mod compile;
mod grant;
mod problem;
mod service;

pub use check::{AgentPolicy, Mesh};
pub use compile::BundleHeader;
pub use grant::{Grant, GrantError, GrantLimits, GrantRefusal, TokenRequest};
pub use problem::{DocumentRef, Problem};

/// The `apiVersion` of agent and service files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApiVersion {
    /// `ostiary.dev/v1alpha1`.
    #[serde(rename = "ostiary.dev/v1alpha1")]
    V1Alpha1,
}

/// The `kind` of an agent's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AgentKind {
    /// `Agent`.
    Agent,
}

/// The `kind` of a service's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    /// `Service`.
    Service,
}

/// What an agent or a service is called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// The name; agents' names are unique in the mesh, services' in their namespace.
    pub name: String,
    /// The Kubernetes namespace.
    pub namespace: String,
}

/// An agent's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentManifest {
    /// The version of this shape.
    pub api_version: ApiVersion,
    /// Always `Agent`.
    pub kind: AgentKind,
    /// Its name.
    pub metadata: Metadata,
    /// Its policy.
    pub spec: AgentSpec,
}

/// What an agent may be granted, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgentSpec {
    /// The service account of its workload; no two agents share one.
    pub service_account: String,
    /// Tools that it may be granted: `tool`, `service/tool` or `namespace/service/tool`.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Tools that it may never call, whatever a token says.
    #[serde(default)]
    pub forbidden_tools: Vec<String>,
    /// Prompts that it may get: `prompt`, `service/prompt` or `namespace/service/prompt`.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// Resources that it may read, each by the URI or template that its service lists, alone or after `service/`.
    #[serde(default)]
    pub resources: Vec<String>,
    /// Scopes that it may be granted.
    #[serde(default)]
    pub scope: Vec<String>,
    /// Agents that it may call.
    #[serde(default)]
    pub may_call: Vec<String>,
    /// SPIFFE IDs of those who may ask for its tokens.
    #[serde(default)]
    pub issuers: Vec<String>,
    /// The LLM tokens that it may use in a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens_per_day: Option<u64>,
    /// The services that it reaches: `name` or `namespace/name`.
    #[serde(default)]
    pub reaches: Vec<String>,
    /// Whether it may renew its own tokens.
    #[serde(default)]
    pub may_refresh: MayRefresh,
}

/// Whether an agent may renew its own tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MayRefresh {
    /// Only its issuers may.
    #[default]
    Never,
    /// It may, for the same operation and never wider.
    #[serde(rename = "self")]
    Itself,
}

/// A service's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceManifest {
    /// The version of this shape.
    pub api_version: ApiVersion,
    /// Always `Service`.
    pub kind: ServiceKind,
    /// Its name.
    pub metadata: Metadata,
    /// How requests to it map to rights.
    pub spec: ServiceSpec,
}

/// How requests to a service map to rights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// The service account of the workload that receives its calls.
    pub service_account: String,
    /// How callers name it.
    pub hosts: Vec<String>,
    /// The ports that its workload listens on.
    pub ports: Vec<u16>,
    /// How its requests are read.
    pub protocol: ProtocolName,
    /// The routes of an HTTP service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RouteSpec>,
    /// Callers that hold no capability.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<ExemptSpec>,
    /// The tools that an MCP service offers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, ToolSpec>,
    /// What becomes of a tool whose definition is not the pinned one.
    #[serde(default, skip_serializing_if = "OnDrift::is_default")]
    pub on_drift: OnDrift,
    /// The prompts that an MCP service offers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub prompts: BTreeMap<String, NamedSpec>,
    /// The resources that an MCP service offers, by URI or template.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, NamedSpec>,
    /// The endpoint of an MCP service, [`DEFAULT_MCP_PATH`] if absent, or of an A2A service's JSON-RPC,
    /// [`DEFAULT_A2A_PATH`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the REST paths of an A2A service begin with; [`DEFAULT_A2A_PATH`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_path: Option<String>,
    /// The agent that an A2A service lets be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Who holds tasks of an MCP service, or tasks and contexts of an A2A service, to their openers.
    #[serde(default, skip_serializing_if = "Tasks::is_default")]
    pub tasks: Tasks,
    /// The header that the capability rides in; `authorization` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_header: Option<String>,
    /// Whether the application is given the token.
    #[serde(default)]
    pub forward_token: bool,
    /// Whether the application is given the verified claims.
    #[serde(default)]
    pub forward_claims: bool,
    /// The longest body that is held, in bytes; [`DEFAULT_BODY_LIMIT_BYTES`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_limit_bytes: Option<u64>,
    /// When the records of its calls are stored; what [`RecordMode::of`] its protocol says if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordMode>,
    /// What becomes of its calls when their tokens expire; [`ExpiryMode::OF_FILES`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_expiry: Option<ExpiryMode>,
    /// What becomes of calls of a paused agent.
    #[serde(default, skip_serializing_if = "PauseMode::is_default")]
    pub on_pause: PauseMode,
    /// What becomes of calls that a rule denies.
    #[serde(default, skip_serializing_if = "Mode::is_default")]
    pub mode: Mode,
}

/// The endpoint of an MCP service that names none.
pub const DEFAULT_MCP_PATH: &str = "/mcp";

/// The endpoint of an A2A service that names none, for either binding.
pub const DEFAULT_A2A_PATH: &str = "/";

/// The header that a capability rides in where a service names none.
pub const DEFAULT_TOKEN_HEADER: &str = "authorization";

/// The longest body that is held where a service names no limit.
pub const DEFAULT_BODY_LIMIT_BYTES: u64 = 1 << 20;

/// A protocol as a file may name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolName {
    /// Routes of method and path.
    Http,
    /// The Model Context Protocol.
    Mcp,
    /// Agent to agent.
    A2a,
    /// LLM APIs; not served by this version.
    Llm,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// The HTTP method.
    pub method: String,
    /// The path, with captures as whole segments.
    pub path: String,
    /// The query parameters that name something, each with its capture, `{name}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// The scope that it needs, with captures of path and query.
    pub scope: String,
    /// The capture that must equal the caller's agent id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<String>,
}

/// A caller that holds no capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExemptSpec {
    /// The caller's SPIFFE ID.
    pub peer: String,
    /// The HTTP method.
    pub method: String,
    /// The exact path.
    pub path: String,
}

/// A prompt or resource that an MCP service offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSpec {
    /// The scope that it needs beside the name, with captures of its arguments or of the resource's template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

/// A tool that an MCP service offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolSpec {
    /// The scope that a call needs beside the name, with captures of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The definition that it is pinned to, as [`DefinitionDigest`](crate::definition::DefinitionDigest) writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
}

/// All agent and service files, in the order in which they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifests {
    /// The agents' files.
    pub agents: Vec<AgentManifest>,
    /// The services' files.
    pub services: Vec<ServiceManifest>,
}

#[cfg(test)]
mod tests;
