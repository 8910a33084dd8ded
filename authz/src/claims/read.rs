//! From the payload of a token to its claims, in one pass.

use std::str::FromStr;

use super::{Claims, ClaimsHeader, MAX_ENTRIES, ToolGrant};
use crate::{
    identity::{AgentId, Issuer, Jti, OperationId, SpiffeId, TransactionId},
    json::{Kind, Value},
    scope::{MAX_SCOPES, Scope, ScopeSet},
};

/// The claim that is missing, of the wrong type or outside its grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the claim `{0}` is missing or not valid")]
pub struct ClaimsError(&'static str);

/// What has been read so far.
#[derive(Default)]
struct Read {
    iss: Option<Issuer>,
    sub: Option<SpiffeId>,
    aud: Vec<SpiffeId>,
    issued_by: Option<SpiffeId>,
    iat: Option<u64>,
    nbf: Option<u64>,
    exp: Option<u64>,
    jti: Option<Jti>,
    txn: Option<TransactionId>,
    agent_id: Option<AgentId>,
    operation_id: Option<OperationId>,
    scope: ScopeSet,
    tools: Vec<ToolGrant>,
    forbidden_tools: Vec<ToolGrant>,
    max_tokens: Option<u64>,
}

impl Claims {
    /// Reads claims out of a payload.
    ///
    /// Wrong types are refused, `null` and floats where integers belong among them, and so are `act` and `depth`: delegation
    /// is not served yet, and a token that was narrowed must not be read as if it had not been. Other unknown claims are
    /// ignored, as RFC 7519 section 4 demands.
    ///
    /// # Errors
    ///
    /// [`ClaimsError`] with the first claim that is refused or, if none is, the first that is missing.
    pub fn read(payload: Value<'_>) -> Result<Self, ClaimsError> {
        let mut read = Read::default();
        for (name, value) in payload.entries().ok_or(ClaimsError("iss"))? {
            read.take(&name, value)?;
        }
        read.whole()
    }
}

impl Read {
    fn take(&mut self, name: &str, value: Value<'_>) -> Result<(), ClaimsError> {
        match name {
            "iss" => self.iss = Some(text(value, "iss")?),
            "sub" => self.sub = Some(text(value, "sub")?),
            "aud" => self.aud = audiences(value).ok_or(ClaimsError("aud"))?,
            "issued_by" => self.issued_by = Some(text(value, "issued_by")?),
            "iat" => self.iat = Some(integer(value, "iat")?),
            "nbf" => self.nbf = Some(integer(value, "nbf")?),
            "exp" => self.exp = Some(integer(value, "exp")?),
            "jti" => self.jti = Some(text(value, "jti")?),
            "txn" => self.txn = Some(text(value, "txn")?),
            "agent_id" => self.agent_id = Some(text(value, "agent_id")?),
            "operation_id" => self.operation_id = Some(text(value, "operation_id")?),
            "scope" => self.scope = scopes(value).ok_or(ClaimsError("scope"))?,
            "tools" => self.tools = grants(value).ok_or(ClaimsError("tools"))?,
            "forbidden_tools" => self.forbidden_tools = grants(value).ok_or(ClaimsError("forbidden_tools"))?,
            "max_tokens" => self.max_tokens = Some(integer(value, "max_tokens")?),
            "act" => return Err(ClaimsError("act")),
            "depth" => return Err(ClaimsError("depth")),
            _ => {}
        }
        Ok(())
    }

    fn whole(self) -> Result<Claims, ClaimsError> {
        if self.aud.is_empty() {
            return Err(ClaimsError("aud"));
        }
        let header = ClaimsHeader {
            iss: self.iss.ok_or(ClaimsError("iss"))?,
            sub: self.sub.ok_or(ClaimsError("sub"))?,
            issued_by: self.issued_by.ok_or(ClaimsError("issued_by"))?,
            issued_at: self.iat.ok_or(ClaimsError("iat"))?,
            expires_at: self.exp.ok_or(ClaimsError("exp"))?,
            jti: self.jti.ok_or(ClaimsError("jti"))?,
            agent_id: self.agent_id.ok_or(ClaimsError("agent_id"))?,
            operation_id: self.operation_id.ok_or(ClaimsError("operation_id"))?,
        };
        Ok(Claims {
            aud: self.aud,
            nbf: self.nbf.ok_or(ClaimsError("nbf"))?,
            txn: self.txn,
            scope: self.scope,
            tools: self.tools,
            forbidden_tools: self.forbidden_tools,
            max_tokens: self.max_tokens,
            ..Claims::new(header)
        })
    }
}

fn text<T: FromStr>(value: Value<'_>, claim: &'static str) -> Result<T, ClaimsError> {
    parsed(value).ok_or(ClaimsError(claim))
}

fn parsed<T: FromStr>(value: Value<'_>) -> Option<T> {
    value.as_str()?.parse().ok()
}

fn integer(value: Value<'_>, claim: &'static str) -> Result<u64, ClaimsError> {
    value.as_u64().ok_or(ClaimsError(claim))
}

/// A string or an array of strings (RFC 7519, section 4.1.3), SPIFFE IDs only, at least one.
fn audiences(value: Value<'_>) -> Option<Vec<SpiffeId>> {
    let audiences = match value.kind() {
        Kind::String => vec![parsed(value)?],
        _ => value.as_array()?.map(parsed).collect::<Option<_>>()?,
    };
    (1..=MAX_ENTRIES).contains(&audiences.len()).then_some(audiences)
}

/// An array of scopes, or OAuth's string of them with single spaces between.
fn scopes(value: Value<'_>) -> Option<ScopeSet> {
    let scopes: Vec<Scope> = match value.as_str() {
        Some(text) if text.is_empty() => Vec::new(),
        Some(text) => text.split(' ').map(|scope| scope.parse().ok()).collect::<Option<_>>()?,
        None => value.as_array()?.map(parsed).collect::<Option<_>>()?,
    };
    (scopes.len() <= MAX_SCOPES).then(|| ScopeSet::new(scopes))
}

fn grants(value: Value<'_>) -> Option<Vec<ToolGrant>> {
    let grants: Vec<ToolGrant> = value
        .as_array()?
        .map(|grant| ToolGrant::parse(&grant.as_str()?).ok())
        .collect::<Option<_>>()?;
    (grants.len() <= MAX_ENTRIES).then_some(grants)
}
