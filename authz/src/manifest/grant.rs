//! What a token may say: a request held to the policy of its agent.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{AgentPolicy, Mesh};
use crate::{
    claims::{Claims, ClaimsHeader, MAX_ENTRIES, ServiceRef, ToolGrant},
    identity::{AgentId, Issuer, Jti, NameError, OperationId, ServiceId, SpiffeId, TransactionId},
    policy::ServiceClaims,
    scope::{Scope, ScopeError, ScopeSet},
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

/// What the lists of one token may take, in bytes: leaves room for the rest in [`crate::jws::MAX_TOKEN_BYTES`].
const MAX_LIST_BYTES: usize = 4 << 10;

impl Grant {
    /// The field to shorten, if the lists are too long for a token.
    fn largest_list(&self) -> Option<&'static str> {
        let bytes = |texts: &mut dyn Iterator<Item = usize>| texts.map(|length| length + 3).sum::<usize>();
        let tools = |tools: &[ToolGrant]| bytes(&mut tools.iter().map(|tool| tool.to_string().len()));
        let lists = [
            (
                "aud",
                bytes(&mut self.aud.iter().map(|identity| identity.as_str().len())),
            ),
            ("scope", bytes(&mut self.scope.iter().map(|scope| scope.as_str().len()))),
            ("tools", tools(&self.tools)),
            ("forbidden_tools", tools(&self.forbidden_tools)),
        ];
        let total: usize = lists.iter().map(|(_, bytes)| bytes).sum();
        let (field, _) = lists.into_iter().max_by_key(|(_, bytes)| *bytes)?;
        (total > MAX_LIST_BYTES).then_some(field)
    }

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
        let agent_id = parsed("agent_id", AgentId::parse(&request.agent_id))?;
        let agent = self
            .agent(&agent_id)
            .ok_or_else(|| refuse("agent_id", GrantRefusal::AgentUnknown))?;
        let forbidden_tools = forbidden_tools(agent, &request.forbidden_tools)?;
        let grant = Grant {
            sub: agent.claims.identity.clone(),
            operation_id: parsed("operation_id", OperationId::parse(&request.operation_id))?,
            scope: scope(agent, &request.scope)?,
            tools: self.tools(agent, &request.tools, &forbidden_tools)?,
            forbidden_tools,
            ttl_seconds: ttl(request.ttl_seconds, limits)?,
            max_tokens: budget(agent, request.max_tokens)?,
            txn: request
                .txn
                .as_deref()
                .map(|txn| parsed("txn", TransactionId::parse(txn)))
                .transpose()?,
            aud: self.audience(agent, request.aud.as_deref())?,
            agent_id,
        };
        // INVARIANT: what is granted fits a token that filters accept.
        match grant.largest_list() {
            Some(field) => Err(refuse(field, GrantRefusal::TooMany)),
            None => Ok(grant),
        }
    }

    fn reached<'m>(&'m self, agent: &'m AgentPolicy) -> impl Iterator<Item = &'m ServiceClaims> {
        agent.claims.reaches.iter().filter_map(|id| self.service(id))
    }

    fn tools(
        &self,
        agent: &AgentPolicy,
        asked: &[String],
        forbidden: &[ToolGrant],
    ) -> Result<Vec<ToolGrant>, GrantError> {
        let grants = entries("tools", asked, tool_grant)?;
        let checked = grants.into_iter().enumerate().map(|(index, grant)| {
            self.tool(agent, grant, forbidden)
                .map_err(|refusal| refuse(&format!("tools/{index}"), refusal))
        });
        checked.collect()
    }

    /// Holds one tool to the policy; a service that it names comes out named with its namespace.
    fn tool(&self, agent: &AgentPolicy, asked: ToolGrant, forbidden: &[ToolGrant]) -> Result<ToolGrant, GrantRefusal> {
        let tool = asked.tool();
        let offering = self
            .reached(agent)
            .filter(|service| service.tools.contains_key(tool) && asked.covers(&service.id, tool));
        let offering: Vec<&ServiceId> = offering.map(|service| &service.id).collect();
        // Also where nothing offers it: forbidden is the truer answer.
        if forbidden.iter().any(|entry| {
            entry.service().is_none() && entry.tool() == tool || offering.iter().any(|id| entry.covers(id, tool))
        }) {
            return Err(GrantRefusal::ToolForbidden);
        }
        match offering.as_slice() {
            [id] if agent.claims.tools.iter().any(|entry| entry.covers(id, tool)) => {
                let service = asked.service().map(|_| ServiceRef::Id((*id).clone()));
                Ok(ToolGrant::new(service, tool.clone()))
            }
            [] | [_] => Err(GrantRefusal::ToolNotInPolicy),
            several
                if several
                    .iter()
                    .any(|id| agent.claims.tools.iter().any(|entry| entry.covers(id, tool))) =>
            {
                Err(GrantRefusal::ToolAmbiguous)
            }
            _ => Err(GrantRefusal::ToolNotInPolicy),
        }
    }

    fn audience(&self, agent: &AgentPolicy, asked: Option<&[String]>) -> Result<Vec<SpiffeId>, GrantError> {
        let reached: BTreeSet<&SpiffeId> = self.reached(agent).map(|service| &service.identity).collect();
        let audience = match asked {
            None => reached.into_iter().cloned().collect(),
            Some(asked) => {
                let audience = entries("aud", asked, |text| parse_name(text, SpiffeId::parse))?;
                if let Some(index) = audience.iter().position(|identity| !reached.contains(identity)) {
                    return Err(refuse(&format!("aud/{index}"), GrantRefusal::AudienceNotReached));
                }
                audience
            }
        };
        if audience.is_empty() {
            Err(refuse("aud", GrantRefusal::AudienceEmpty))
        } else {
            Ok(audience)
        }
    }
}

fn refuse(field: &str, refusal: GrantRefusal) -> GrantError {
    GrantError {
        field: field.to_owned(),
        refusal,
    }
}

fn parsed<T>(field: &str, result: Result<T, NameError>) -> Result<T, GrantError> {
    result.map_err(|error| refuse(field, GrantRefusal::Invalid(error.rule())))
}

fn parse_name<T>(text: &str, parse: impl Fn(&str) -> Result<T, NameError>) -> Result<T, GrantRefusal> {
    if text.contains(['*', '?']) {
        return Err(GrantRefusal::Wildcard);
    }
    parse(text).map_err(|error| GrantRefusal::Invalid(error.rule()))
}

fn tool_grant(text: &str) -> Result<ToolGrant, GrantRefusal> {
    parse_name(text, ToolGrant::parse)
}

/// Parses the entries of a list, naming the place of the first that is refused.
fn entries<T>(
    field: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, GrantRefusal>,
) -> Result<Vec<T>, GrantError> {
    if texts.len() > MAX_ENTRIES {
        return Err(refuse(field, GrantRefusal::TooMany));
    }
    let mut entries = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let entry = parse(text).map_err(|refusal| refuse(&format!("{field}/{index}"), refusal))?;
        entries.push(entry);
    }
    Ok(entries)
}

fn forbidden_tools(agent: &AgentPolicy, asked: &[String]) -> Result<Vec<ToolGrant>, GrantError> {
    let mut forbidden: BTreeSet<ToolGrant> = agent.claims.forbidden_tools.iter().cloned().collect();
    forbidden.extend(entries("forbidden_tools", asked, tool_grant)?);
    if forbidden.len() > MAX_ENTRIES {
        return Err(refuse("forbidden_tools", GrantRefusal::TooMany));
    }
    Ok(forbidden.into_iter().collect())
}

fn scope(agent: &AgentPolicy, asked: &[String]) -> Result<ScopeSet, GrantError> {
    let scopes = entries("scope", asked, |text| {
        Scope::parse(text).map_err(|error| match error {
            ScopeError::Wildcard => GrantRefusal::Wildcard,
            _ => GrantRefusal::Invalid("action:resource in lower case, segments joined by dots"),
        })
    })?;
    let calls = |scope: &Scope| {
        let called = scope.called_agent();
        called.is_some_and(|called| agent.claims.may_call.iter().any(|agent| agent.as_str() == called))
    };
    match scopes
        .iter()
        .position(|scope| !agent.claims.scope.contains(scope) && !calls(scope))
    {
        Some(index) => Err(refuse(&format!("scope/{index}"), GrantRefusal::ScopeNotInPolicy)),
        None => Ok(ScopeSet::new(scopes)),
    }
}

fn ttl(asked: Option<u64>, limits: &GrantLimits) -> Result<u64, GrantError> {
    let seconds = asked.unwrap_or(limits.default_ttl_seconds);
    if (1..=limits.max_ttl_seconds).contains(&seconds) {
        Ok(seconds)
    } else {
        Err(refuse(
            "ttl_seconds",
            GrantRefusal::TtlOutOfRange {
                max: limits.max_ttl_seconds,
            },
        ))
    }
}

fn budget(agent: &AgentPolicy, asked: Option<u64>) -> Result<Option<u64>, GrantError> {
    match (asked, agent.max_tokens_per_day) {
        (Some(0), _) => Err(refuse("max_tokens", GrantRefusal::Invalid("a number over 0"))),
        (Some(asked), Some(daily)) if asked > daily => Err(refuse("max_tokens", GrantRefusal::BudgetExceeded)),
        (asked, _) => Ok(asked),
    }
}
