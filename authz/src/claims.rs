//! What a capability token says, and how strictly it is read.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    identity::{AgentId, Issuer, Jti, NameError, OperationId, ServiceId, SpiffeId, ToolName, TransactionId},
    scope::ScopeSet,
};

mod read;

pub use read::ClaimsError;

/// The `typ` of a capability token.
pub const TOKEN_TYPE: &str = "cap+jwt";

/// The most audiences, or tools, that one token may list; bounds the work of a comparison.
pub const MAX_ENTRIES: usize = 512;

/// The claims of a capability token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// Who signed it; chooses the keys.
    pub iss: Issuer,
    /// The workload that may use it; compared with the mTLS peer.
    pub sub: SpiffeId,
    /// The services that it may be shown to.
    pub aud: Vec<SpiffeId>,
    /// The authenticated principal that asked for it.
    pub issued_by: SpiffeId,
    /// When it was issued, in seconds.
    pub iat: u64,
    /// Not valid before, in seconds.
    pub nbf: u64,
    /// Not valid from here on, in seconds.
    pub exp: u64,
    /// Unique, and revocable.
    pub jti: Jti,
    /// The user request that the work belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<TransactionId>,
    /// The agent.
    pub agent_id: AgentId,
    /// The declared operation.
    pub operation_id: OperationId,
    /// The scopes granted.
    pub scope: ScopeSet,
    /// The tools granted.
    pub tools: Vec<ToolGrant>,
    /// The tools forbidden; wins over `tools`, always.
    pub forbidden_tools: Vec<ToolGrant>,
    /// The LLM token budget of this capability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
}

/// A tool in a token or a policy: its exact name, alone or with the service that must offer it.
///
/// Written `tool`, `service/tool` or `namespace/service/tool`; the policy server issues the last form where it matters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ToolGrant {
    service: Option<ServiceRef>,
    tool: ToolName,
}

/// A service as agents' files name it: by its name alone, or with its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ServiceRef {
    /// Any service of this name.
    Name(Box<str>),
    /// Exactly this service.
    Id(ServiceId),
}

impl ServiceRef {
    /// Parses `name` or `namespace/name`.
    ///
    /// # Errors
    ///
    /// [`NameError`] where a part is not a DNS label.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.contains('/') {
            return ServiceId::parse(text).map(Self::Id);
        }
        // A namespace is put before the name only to check it by the one grammar.
        ServiceId::new("n", text).map(|_| Self::Name(text.into()))
    }

    /// Whether this names `service`.
    #[must_use]
    pub fn names(&self, service: &ServiceId) -> bool {
        match self {
            Self::Name(name) => **name == *service.name(),
            Self::Id(id) => id == service,
        }
    }
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Id(id) => id.fmt(f),
        }
    }
}

impl TryFrom<String> for ServiceRef {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<ServiceRef> for String {
    fn from(service: ServiceRef) -> Self {
        service.to_string()
    }
}

impl ToolGrant {
    /// A tool of any service (`None`) or of the service named.
    #[must_use]
    pub fn new(service: Option<ServiceRef>, tool: ToolName) -> Self {
        Self { service, tool }
    }

    /// Parses `tool`, `service/tool` or `namespace/service/tool`.
    ///
    /// # Errors
    ///
    /// [`NameError`] where a part breaks its grammar.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (service, tool) = match text.rsplit_once('/') {
            Some((service, tool)) => (Some(ServiceRef::parse(service)?), tool),
            None => (None, text),
        };
        Ok(Self {
            service,
            tool: ToolName::parse(tool)?,
        })
    }

    /// The service that must offer the tool, if one is named.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceRef> {
        self.service.as_ref()
    }

    /// The name of the tool.
    #[must_use]
    pub fn tool(&self) -> &ToolName {
        &self.tool
    }

    /// Whether this entry covers `tool` as offered by `service`.
    #[must_use]
    pub fn covers(&self, service: &ServiceId, tool: &ToolName) -> bool {
        self.tool == *tool && self.service.as_ref().is_none_or(|named| named.names(service))
    }
}

impl fmt::Display for ToolGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{service}/{}", self.tool),
            None => self.tool.fmt(f),
        }
    }
}

impl TryFrom<String> for ToolGrant {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<ToolGrant> for String {
    fn from(grant: ToolGrant) -> Self {
        grant.to_string()
    }
}

/// What [`Claims::new`] needs; every other claim starts empty.
#[derive(Debug, Clone)]
pub struct ClaimsHeader {
    /// `iss`.
    pub iss: Issuer,
    /// `sub`.
    pub sub: SpiffeId,
    /// `issued_by`.
    pub issued_by: SpiffeId,
    /// `iat` and `nbf`, in seconds.
    pub issued_at: u64,
    /// `exp`, in seconds.
    pub expires_at: u64,
    /// `jti`.
    pub jti: Jti,
    /// `agent_id`.
    pub agent_id: AgentId,
    /// `operation_id`.
    pub operation_id: OperationId,
}

impl Claims {
    /// Claims that grant nothing yet, to be filled in by an issuer.
    #[must_use]
    pub fn new(header: ClaimsHeader) -> Self {
        let ClaimsHeader {
            iss,
            sub,
            issued_by,
            issued_at,
            expires_at,
            jti,
            agent_id,
            operation_id,
        } = header;
        Self {
            iss,
            sub,
            aud: Vec::new(),
            issued_by,
            iat: issued_at,
            nbf: issued_at,
            exp: expires_at,
            jti,
            txn: None,
            agent_id,
            operation_id,
            scope: ScopeSet::default(),
            tools: Vec::new(),
            forbidden_tools: Vec::new(),
            max_tokens: None,
        }
    }

    /// Whether the token may be shown to `service`.
    #[must_use]
    pub fn is_for(&self, service: &SpiffeId) -> bool {
        self.aud.contains(service)
    }

    /// Whether the token forbids `tool` as offered by `service`.
    #[must_use]
    pub fn forbids(&self, service: &ServiceId, tool: &ToolName) -> bool {
        self.forbidden_tools.iter().any(|entry| entry.covers(service, tool))
    }

    /// Whether the token lists `tool` as offered by `service`; says nothing of what it forbids.
    #[must_use]
    pub fn lists_tool(&self, service: &ServiceId, tool: &ToolName) -> bool {
        self.tools.iter().any(|entry| entry.covers(service, tool))
    }
}

#[cfg(test)]
pub(crate) mod tests;
