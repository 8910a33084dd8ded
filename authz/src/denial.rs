//! Why a request was refused, and how that is told to the caller.
//!
//! A [`Denial`] is an outcome, not an error: every way in which a request can fail ends in exactly one [`Code`], and
//! that word is the same in the response, in the metric and in the audit record. A denial says what the request itself
//! would have needed; never what the policy holds, and never anything about another agent.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::token::TokenError;

mod code;
mod render;
#[cfg(test)]
mod tests;

pub use code::{Code, RPC_A2A_VERSION, RPC_HEADER_MISMATCH, RPC_INVALID_REQUEST, RPC_PARSE_ERROR, UnknownCodeError};
pub use render::{DENIAL_HEADER, Form, Response};

/// What the refused request would have needed. Derived from the request alone, never from the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Needed {
    /// The scope that the route or tool asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The tool that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The prompt that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The resource that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The identity that the token's `aud` would have to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

impl Needed {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.scope.is_none()
            && self.tool.is_none()
            && self.prompt.is_none()
            && self.resource.is_none()
            && self.audience.is_none()
    }
}

/// The rarer parts of a denial, kept out of line so that a `Result` of one stays small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Extra {
    needed: Needed,
    rpc_id: Option<String>,
    rpc_code: Option<i32>,
    allow: Option<&'static str>,
}

/// A refusal with its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    code: Code,
    detail: Cow<'static, str>,
    extra: Option<Box<Extra>>,
}

impl Denial {
    /// A denial with a sentence for the caller.
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            detail: detail.into(),
            extra: None,
        }
    }

    /// The reason.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The sentence for the caller.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What the request would have needed.
    pub fn needed(&self) -> Option<&Needed> {
        self.extra
            .as_deref()
            .map(|extra| &extra.needed)
            .filter(|needed| !needed.is_empty())
    }

    /// The id of the JSON-RPC request that was refused, as raw JSON, once the body has been read.
    pub fn rpc_id(&self) -> Option<&str> {
        self.extra.as_deref().and_then(|extra| extra.rpc_id.as_deref())
    }

    /// Adds what the request would have needed.
    #[must_use]
    pub fn with_needed(mut self, needed: Needed) -> Self {
        self.extra_mut().needed = needed;
        self
    }

    /// Adds the JSON-RPC id to be echoed: raw JSON, a string, an integer or null.
    #[must_use]
    pub fn with_rpc_id(mut self, rpc_id: Option<&str>) -> Self {
        if let Some(rpc_id) = rpc_id {
            self.extra_mut().rpc_id = Some(rpc_id.to_owned());
        }
        self
    }

    /// Replaces the JSON-RPC code that follows from the denial code.
    #[must_use]
    pub fn with_rpc_code(mut self, rpc_code: i32) -> Self {
        self.extra_mut().rpc_code = Some(rpc_code);
        self
    }

    /// Adds the `allow` header of a 405.
    #[must_use]
    pub fn with_allow(mut self, methods: &'static str) -> Self {
        self.extra_mut().allow = Some(methods);
        self
    }

    fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

impl From<&TokenError> for Denial {
    fn from(error: &TokenError) -> Self {
        let code = match error {
            TokenError::Malformed => Code::TokenMalformed,
            TokenError::AlgorithmRefused => Code::TokenAlgorithmRefused,
            TokenError::TypeRefused => Code::TokenTypeRefused,
            TokenError::IssuerUnknown => Code::TokenIssuerUnknown,
            TokenError::KeyUnknown => Code::TokenKeyUnknown,
            TokenError::SignatureInvalid => Code::TokenSignatureInvalid,
            TokenError::ClaimsInvalid => Code::TokenClaimsInvalid,
            TokenError::Expired => Code::TokenExpired,
            TokenError::NotYetValid => Code::TokenNotYetValid,
            TokenError::LifetimeExceeded => Code::TokenLifetimeExceeded,
        };
        Self::new(code, error.to_string())
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}
