//! Services as a filter looks them up.

use serde::{Deserialize, Serialize};

use super::{PathTemplate, Route, bundle::host_of};
use crate::{
    definition::{DefinitionDigest, OnDrift},
    identity::{AgentId, ServiceId, SpiffeId, ToolName},
    resource::ResourceTemplate,
    scope::{Capture, Scope, ScopeTemplate},
};

/// How the requests of a service are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Routes of method and path.
    Http,
    /// The Model Context Protocol over streamable HTTP.
    Mcp,
    /// Agent to agent, over JSON-RPC and REST.
    A2a,
}

impl Protocol {
    /// The word in manifests, bundles and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Mcp => "mcp",
            Self::A2a => "a2a",
        }
    }
}

/// When the records of a service's calls are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordMode {
    /// Each call waits at the service's sidecar until its record is durable.
    Before,
    /// Records follow in batches, and a call waits for none.
    #[default]
    Batched,
}

impl RecordMode {
    /// What holds where a service's file does not say: a tool, or another agent, may do what nobody can undo, so a call of
    /// either waits.
    #[must_use]
    pub fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Mcp | Protocol::A2a => Self::Before,
            Protocol::Http => Self::Batched,
        }
    }

    /// Whether it is what bundles leave out.
    pub(super) fn is_batched(&self) -> bool {
        *self == Self::Batched
    }
}

/// What becomes of a call that is still on its way when its token expires, if its agent has no other that permits it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpiryMode {
    /// It is ended.
    Cut,
    /// It goes on to its own end.
    #[default]
    Finish,
}

impl ExpiryMode {
    /// What holds where a service's file does not say: else one call could keep for ever a right that nobody renews.
    pub const OF_FILES: Self = Self::Cut;

    /// Whether it is what bundles leave out.
    pub(super) fn is_finish(&self) -> bool {
        *self == Self::Finish
    }
}

/// What becomes of a call of an agent that is paused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PauseMode {
    /// It is denied.
    #[default]
    Deny,
    /// It is held for a while, and goes on if a person approves the agent.
    Hold,
}

impl PauseMode {
    /// Whether this is what a file that says nothing means.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of a call that a rule denies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It does not go on.
    #[default]
    Enforce,
    /// It goes on, and its record says what would have denied it; within the limits of [`crate::decision`].
    Shadow,
}

impl Mode {
    /// Whether this is what a file that says nothing means.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The place of a service in its bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceIndex(pub(super) u16);

/// An HTTP method: upper-case letters and `-`, at most 20.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Method(Box<str>);

impl Method {
    /// Checks a method's name. `CONNECT` is no method of a route, because it makes tunnels; nor is `TRACE`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=20).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
            && !matches!(text, "CONNECT" | "TRACE");
        fits.then(|| Self(text.into()))
    }

    /// The method as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of the header that a capability rides in, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderName(Box<str>);

impl HeaderName {
    /// Checks that a token may ride in a header of this name.
    ///
    /// Headers that Envoy, HTTP or this filter give a meaning of their own are refused.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let token = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && text.starts_with(|first: char| first.is_ascii_lowercase());
        let reserved =
            RESERVED_HEADERS.contains(&text) || RESERVED_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
        (token && !reserved).then(|| Self(text.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const RESERVED_HEADERS: [&str; 20] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "last-event-id",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];
const RESERVED_PREFIXES: [&str; 6] = ["ostiary-", "mcp-", "x-envoy-", "x-forwarded-", "x-b3-", "x-http-method"];

/// A caller that needs no capability for one request; still mTLS, still recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exempt {
    /// The caller.
    pub peer: SpiffeId,
    /// The HTTP method.
    pub method: Method,
    /// The path, without captures.
    pub path: PathTemplate,
}

/// A tool or a prompt that a service offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolRule {
    /// Its name.
    pub name: ToolName,
    /// The scope that a call needs beside the name.
    pub scope: Option<ScopeTemplate>,
    /// The definition that a tool is pinned to; of a prompt nothing is made of it.
    pub definition: Option<DefinitionDigest>,
}

/// A resource that a service offers, or a template of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRule {
    /// The URI or template.
    pub template: ResourceTemplate,
    /// The scope that reading it needs; every capture of the template is in it.
    pub scope: Option<ScopeTemplate>,
}

/// Who holds tasks of an MCP service, or tasks and contexts of an A2A service, to their openers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tasks {
    /// Nobody is known to: whoever names one is refused.
    #[default]
    Refused,
    /// The service's sidecar, by ids that are sealed to whoever opened what they name.
    Bound,
    /// The application, which is told who calls. Whoever may call the agent may name any.
    Application,
}

impl Tasks {
    /// Whether this is what a file that says nothing means.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The agent that an A2A service lets be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalledAgent {
    /// Its name, which callers have in `mayCall`.
    pub agent: AgentId,
    /// The scope that a token must hold, `call:agent.NAME`.
    pub scope: Scope,
}

/// A service, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub(super) id: ServiceId,
    pub(super) identity: SpiffeId,
    pub(super) hosts: Box<[Box<str>]>,
    pub(super) ports: Box<[u16]>,
    pub(super) protocol: Protocol,
    pub(super) path: Option<PathTemplate>,
    pub(super) rest_base: Option<PathTemplate>,
    pub(super) called: Option<CalledAgent>,
    pub(super) tasks: Tasks,
    pub(super) routes: Box<[Route]>,
    pub(super) exempt: Box<[Exempt]>,
    /// Sorted by name.
    pub(super) tools: Box<[ToolRule]>,
    pub(super) on_drift: OnDrift,
    /// Sorted by name.
    pub(super) prompts: Box<[ToolRule]>,
    pub(super) resources: Box<[ResourceRule]>,
    pub(super) token_header: HeaderName,
    pub(super) forward_token: bool,
    pub(super) forward_claims: bool,
    pub(super) body_limit_bytes: usize,
    pub(super) record: RecordMode,
    pub(super) on_expiry: ExpiryMode,
    pub(super) on_pause: PauseMode,
    pub(super) mode: Mode,
}

impl Service {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &ServiceId {
        &self.id
    }

    /// The identity of the workload that receives its calls.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// How callers name it, in lower case.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| &**host)
    }

    /// The ports that it listens on.
    #[must_use]
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Whether `authority` (`host` or `host:port`, in any case) names this service; see [`super::Bundle::service_named`].
    #[must_use]
    pub fn answers_to(&self, authority: &str) -> bool {
        host_of(authority).is_some_and(|host| self.hosts.iter().any(|name| name.eq_ignore_ascii_case(host)))
    }

    /// The protocol that its requests are read as.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The endpoint of an MCP service, or of an A2A service's JSON-RPC.
    #[must_use]
    pub fn endpoint(&self) -> Option<&PathTemplate> {
        self.path.as_ref()
    }

    /// What the REST paths of an A2A service begin with.
    #[must_use]
    pub fn rest_base(&self) -> Option<&PathTemplate> {
        self.rest_base.as_ref()
    }

    /// The agent behind an A2A service.
    #[must_use]
    pub fn called(&self) -> Option<&CalledAgent> {
        self.called.as_ref()
    }

    /// Who holds tasks of an MCP or A2A service to their openers.
    #[must_use]
    pub fn tasks(&self) -> Tasks {
        self.tasks
    }

    /// The routes of an HTTP service. No two of one method overlap, so their order means nothing.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Callers that need no capability.
    #[must_use]
    pub fn exempt(&self) -> &[Exempt] {
        &self.exempt
    }

    /// The rule of a tool, if the service offers it.
    #[must_use]
    pub fn tool(&self, name: &str) -> Option<&ToolRule> {
        rule_named(&self.tools, name)
    }

    /// The definition without which a tool is neither told of nor called.
    #[must_use]
    pub fn denied_if_not(&self, tool: &str) -> Option<DefinitionDigest> {
        match self.on_drift {
            OnDrift::Report => None,
            OnDrift::Deny => self.tool(tool)?.definition,
        }
    }

    /// The rule of a prompt, if the service offers it.
    #[must_use]
    pub fn prompt(&self, name: &str) -> Option<&ToolRule> {
        rule_named(&self.prompts, name)
    }

    /// The rule of a resource, by its URI. No two overlap, so there is at most one.
    #[must_use]
    pub fn resource(&self, uri: &str) -> Option<&ResourceRule> {
        self.resources.iter().find(|rule| rule.template.captures(uri).is_some())
    }

    /// The rule of a template, by its text.
    #[must_use]
    pub fn resource_template(&self, text: &str) -> Option<&ResourceRule> {
        self.resources.iter().find(|rule| rule.template.as_str() == text)
    }

    /// Whether some request of `agent` to this service could need exactly `scope`.
    ///
    /// A route whose `own` capture appears in its scope serves each agent only its own segment.
    #[must_use]
    pub fn could_need(&self, scope: &Scope, agent: &AgentId) -> bool {
        let by_route = self.routes.iter().any(|route| {
            route
                .scope
                .could_produce(scope, |capture, value| match (capture, &route.own) {
                    (Capture::Path(name), Some(own)) if name == own => value == agent.as_str(),
                    _ => true,
                })
        });
        by_route
            || self
                .named_scopes()
                .any(|template| template.could_produce(scope, |_, _| true))
    }

    /// The scopes that tools, prompts and resources ask for.
    fn named_scopes(&self) -> impl Iterator<Item = &ScopeTemplate> {
        let named = self.tools.iter().chain(&self.prompts).map(|rule| &rule.scope);
        let resources = self.resources.iter().map(|rule| &rule.scope);
        named.chain(resources).filter_map(Option::as_ref)
    }

    /// The header that the capability rides in.
    #[must_use]
    pub fn token_header(&self) -> &str {
        self.token_header.as_str()
    }

    /// Whether the application is given the token.
    #[must_use]
    pub fn forward_token(&self) -> bool {
        self.forward_token
    }

    /// Whether the application is given the verified claims.
    #[must_use]
    pub fn forward_claims(&self) -> bool {
        self.forward_claims
    }

    /// Whether its calls wait for their records.
    #[must_use]
    pub fn records_before(&self) -> bool {
        self.record == RecordMode::Before
    }

    /// Whether its calls end with their tokens. In shadow none do: a call that begins without a good one goes on too.
    #[must_use]
    pub fn cuts_on_expiry(&self) -> bool {
        self.on_expiry == ExpiryMode::Cut && !self.is_in_shadow()
    }

    /// Whether calls of a paused agent are held for a while.
    #[must_use]
    pub fn holds_on_pause(&self) -> bool {
        self.on_pause == PauseMode::Hold
    }

    /// Whether it is asked of its calls what would deny them, and they go on.
    #[must_use]
    pub fn is_in_shadow(&self) -> bool {
        self.mode == Mode::Shadow
    }

    /// The longest body that is held, in bytes.
    #[must_use]
    pub fn body_limit_bytes(&self) -> usize {
        self.body_limit_bytes
    }
}

fn rule_named<'r>(rules: &'r [ToolRule], name: &str) -> Option<&'r ToolRule> {
    let index = rules.binary_search_by(|rule| rule.name.as_str().cmp(name)).ok()?;
    rules.get(index)
}

#[cfg(test)]
mod tests;
