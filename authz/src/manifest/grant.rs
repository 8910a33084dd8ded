//! What a token may say: a request held to the policy of its agent.

use serde::{Deserialize, Serialize};

use super::Mesh;
use crate::{
    claims::{Claims, ClaimsHeader, ToolGrant},
    identity::{AgentId, Issuer, Jti, OperationId, SpiffeId, TransactionId},
    scope::ScopeSet,
};

/// The body of a request for a token, as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The agent.
    pub agent_id: String,
    /// The declared operation.
    pub operation_id: String,
    /// The scopes asked for.
    #[serde(default)]
    pub scope: Vec<String>,
    /// The tools asked for.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Tools to forbid beside those that the policy forbids.
    #[serde(default)]
    pub forbidden_tools: Vec<String>,
    /// The lifetime asked for, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<u64>,
    /// The LLM token budget asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// The user request that the work belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub txn: Option<String>,
    /// The services that the token may be shown to; all that the agent reaches if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<Vec<String>>,
}

/// The bounds of an issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantLimits {
    /// The longest lifetime, in seconds.
    pub max_ttl_seconds: u64,
    /// The lifetime of a token for which none was asked, in seconds.
    pub default_ttl_seconds: u64,
}

/// What may be signed: a request that the policy of its agent covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The agent.
    pub agent_id: AgentId,
    /// The identity of its workload.
    pub sub: SpiffeId,
    /// The services that the token may be shown to.
    pub aud: Vec<SpiffeId>,
    /// The declared operation.
    pub operation_id: OperationId,
    /// The user request, if one was named.
    pub txn: Option<TransactionId>,
    /// The scopes.
    pub scope: ScopeSet,
    /// The tools.
    pub tools: Vec<ToolGrant>,
    /// The tools that the request or the policy forbids.
    pub forbidden_tools: Vec<ToolGrant>,
    /// The lifetime, in seconds.
    pub ttl_seconds: u64,
    /// The LLM token budget.
    pub max_tokens: Option<u64>,
}

impl Grant {
    /// The claims to sign.
    #[must_use]
    pub fn into_claims(self, iss: Issuer, issued_by: SpiffeId, jti: Jti, now: u64) -> Claims {
        let Self {
            agent_id,
            sub,
            aud,
            operation_id,
            txn,
            scope,
            tools,
            forbidden_tools,
            ttl_seconds,
            max_tokens,
        } = self;
        let expires_at = now.saturating_add(ttl_seconds);
        let header = ClaimsHeader {
            iss,
            sub,
            issued_by,
            issued_at: now,
            expires_at,
            jti,
            agent_id,
            operation_id,
        };
        let mut claims = Claims::new(header);
        (claims.aud, claims.txn, claims.max_tokens) = (aud, txn, max_tokens);
        (claims.scope, claims.tools, claims.forbidden_tools) = (scope, tools, forbidden_tools);
        claims
    }
}

/// Why a token is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {refusal}")]
pub struct GrantError {
    /// The field of the request, with the place in a list, such as `scope/1`.
    pub field: String,
    /// The reason.
    pub refusal: GrantRefusal,
}

/// The reason that a token is not granted; says nothing of what the policy holds beside what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GrantRefusal {
    /// The value breaks the grammar of its field.
    #[error("not a valid value: {0}")]
    Invalid(&'static str),
    /// A `*` or `?`.
    #[error("wildcards are never granted: name each resource and tool")]
    Wildcard,
    /// No such agent.
    #[error("no such agent")]
    AgentUnknown,
    /// Beyond the agent's policy.
    #[error("the agent's policy does not hold this scope")]
    ScopeNotInPolicy,
    /// Beyond the agent's policy.
    #[error("the agent's policy does not hold this tool")]
    ToolNotInPolicy,
    /// Forbidden by the policy or by the request itself.
    #[error("the tool is forbidden")]
    ToolForbidden,
    /// Two services that the agent reaches offer it.
    #[error("more than one reachable service offers this tool: write `service/tool`")]
    ToolAmbiguous,
    /// Not an identity of a service that the agent reaches.
    #[error("the agent reaches no service with this identity")]
    AudienceNotReached,
    /// Nothing to show the token to.
    #[error("the token would be good for no service")]
    AudienceEmpty,
    /// Zero, or over the maximum.
    #[error("must be from 1 to {max} seconds")]
    TtlOutOfRange {
        /// The maximum.
        max: u64,
    },
    /// More than the agent may use in a day.
    #[error("more than the agent may use in a day")]
    BudgetExceeded,
    /// More entries than a token may list.
    #[error("too many entries")]
    TooMany,
}

impl GrantRefusal {
    /// The stable word for responses and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "value_invalid",
            Self::Wildcard => "wildcard_refused",
            Self::AgentUnknown => "agent_unknown",
            Self::ScopeNotInPolicy => "scope_not_in_policy",
            Self::ToolNotInPolicy => "tool_not_in_policy",
            Self::ToolForbidden => "tool_forbidden",
            Self::ToolAmbiguous => "tool_ambiguous",
            Self::AudienceNotReached => "audience_not_reached",
            Self::AudienceEmpty => "audience_empty",
            Self::TtlOutOfRange { .. } => "ttl_out_of_range",
            Self::BudgetExceeded => "budget_exceeded",
            Self::TooMany => "too_many_entries",
        }
    }
}

impl Mesh {
    /// Holds a request to the policy of its agent. Who may ask for it is for the caller to check.
    ///
    /// # Errors
    ///
    /// [`GrantError`] for the first field that is refused.
    pub fn grant(&self, request: &TokenRequest, limits: &GrantLimits) -> Result<Grant, GrantError> {
        let _ = (request, limits);
        Err(GrantError {
            field: "agent_id".to_owned(),
            refusal: GrantRefusal::AgentUnknown,
        })
    }
}
