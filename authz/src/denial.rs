//! Why a request was refused, and how that is told to the caller.
//!
//! A [`Denial`] is an outcome, not an error: every way in which a request can fail ends in exactly one [`Code`], and
//! that word is the same in the response, in the metric and in the audit record. A denial says what the request itself
//! would have needed; never what the policy holds, and never anything about another agent.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::token::TokenError;

/// What the registry of codes is called in a problem's `type`.
const TYPE_PREFIX: &str = "https://ostiary.dev/denials#";

/// The response header that names the code, so that operators and tests tell our denials from the application's.
pub const DENIAL_HEADER: &str = "ostiary-denial";

macro_rules! codes {
    ($($variant:ident $word:literal $status:literal $title:literal)*) => {
        /// The stable reason of a denial.
        ///
        /// INVARIANT: words are never renamed or reused; operators alert on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = concat!("`", $word, "`: ", $title, " (", stringify!($status), ").")] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The stable word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The HTTP status that carries it.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// A short title for people.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }

        impl FromStr for Code {
            type Err = UnknownCodeError;

            fn from_str(word: &str) -> Result<Self, UnknownCodeError> {
                match word {
                    $($word => Ok(Self::$variant),)*
                    other => Err(UnknownCodeError(other.to_owned())),
                }
            }
        }
    };
}

codes! {
    RequestMalformed "request_malformed" 400 "The request is malformed"
    HeaderDuplicate "header_duplicate" 400 "A header that must occur once occurs more often"
    PathNotCanonical "path_not_canonical" 400 "The path is not in canonical form"
    MethodOverrideRefused "method_override_refused" 400 "Method override headers are refused"
    UpgradeRefused "upgrade_refused" 400 "Upgrades and tunnels are refused"
    TokenInQuery "token_in_query" 400 "A token in the query string is refused"
    McpMalformed "mcp_malformed" 400 "The body is not a valid MCP message"
    McpBatch "mcp_batch" 400 "JSON-RPC batches are refused"
    McpHeaderMismatch "mcp_header_mismatch" 400 "An MCP header is missing, unknown or differs from the body"

    TokenMissing "token_missing" 401 "A capability token is required"
    TokenMalformed "token_malformed" 401 "The capability token is malformed"
    TokenAlgorithmRefused "token_algorithm_refused" 401 "The token's algorithm is refused"
    TokenTypeRefused "token_type_refused" 401 "The token is not of the type of capabilities"
    TokenIssuerUnknown "token_issuer_unknown" 401 "The token's issuer is unknown"
    TokenKeyUnknown "token_key_unknown" 401 "The token's key is unknown"
    TokenSignatureInvalid "token_signature_invalid" 401 "The token's signature is invalid"
    TokenClaimsInvalid "token_claims_invalid" 401 "The token's claims are invalid"
    TokenExpired "token_expired" 401 "The token has expired"
    TokenNotYetValid "token_not_yet_valid" 401 "The token is not valid yet"
    TokenLifetimeExceeded "token_lifetime_exceeded" 401 "The token's lifetime exceeds the maximum"
    TokenRevoked "token_revoked" 401 "The token has been revoked"
    TokenSuperseded "token_superseded" 401 "The token was issued before the agent's tokens were reset"

    PeerMissing "peer_missing" 403 "The caller has no mTLS identity"
    PeerMismatch "peer_mismatch" 403 "The token belongs to another workload"
    AudienceMismatch "audience_mismatch" 403 "The token is not meant for this service"
    AgentUnknown "agent_unknown" 403 "The agent is unknown here"
    AgentIdentityMismatch "agent_identity_mismatch" 403 "The agent has another workload identity"
    AgentPaused "agent_paused" 403 "The agent is paused for review"
    AgentSuspended "agent_suspended" 403 "The agent is suspended"
    AgentKilled "agent_killed" 403 "The agent has been killed"
    ServiceUnknown "service_unknown" 403 "The service is unknown"
    ServiceNotReached "service_not_reached" 403 "The agent may not reach this service"
    RouteUnknown "route_unknown" 403 "The request matches no route of the service"
    ScopeNotGranted "scope_not_granted" 403 "The token does not grant the needed scope"
    ScopeNotInPolicy "scope_not_in_policy" 403 "The agent's policy does not grant the needed scope"
    OwnSegmentMismatch "own_segment_mismatch" 403 "The path belongs to another agent"
    ToolForbidden "tool_forbidden" 403 "The tool is forbidden"
    ToolNotGranted "tool_not_granted" 403 "The token does not grant the tool"
    ToolNotInPolicy "tool_not_in_policy" 403 "The agent's policy does not grant the tool"
    ToolNotOffered "tool_not_offered" 403 "The service does not offer the tool"
    McpMethodRefused "mcp_method_refused" 403 "The MCP method is refused"
    EndpointRefused "endpoint_refused" 403 "The endpoint is not open to applications"
    DirectionUnknown "direction_unknown" 403 "The listener is neither inbound nor outbound"

    MethodNotAllowed "method_not_allowed" 405 "The method is not allowed"
    BodyTooLarge "body_too_large" 413 "The body is too large"
    MediaTypeRefused "media_type_refused" 415 "The media type is refused"
    BodyEncoded "body_encoded" 415 "Encoded bodies are refused"
    HostUnknown "host_unknown" 421 "The host is not served here"
    InternalError "internal_error" 500 "Internal error"
    PolicyUnavailable "policy_unavailable" 503 "No current policy is available"
    WorkloadMismatch "workload_mismatch" 503 "The policy belongs to another workload"
    RecordsUnavailable "records_unavailable" 503 "The audit record cannot be stored"
}

/// A word that is no denial code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown denial code `{0}`")]
pub struct UnknownCodeError(String);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Code {
    /// The `error.code` of a JSON-RPC denial: outside every range that JSON-RPC and MCP reserve, but for the codes
    /// that MCP itself defines.
    pub const fn rpc_code(self) -> i32 {
        match self {
            Self::McpMalformed | Self::McpBatch => RPC_INVALID_REQUEST,
            Self::McpHeaderMismatch => RPC_HEADER_MISMATCH,
            other => -31_000 - other.status() as i32,
        }
    }

    /// After how many seconds it is worth trying again, for a 503.
    pub const fn retry_after_seconds(self) -> Option<u32> {
        match self {
            Self::PolicyUnavailable | Self::RecordsUnavailable => Some(1),
            Self::WorkloadMismatch => Some(30),
            _ => None,
        }
    }

    /// The `error` attribute of RFC 6750, section 3.1. None where no token was presented, or where another token
    /// of the same agent would not help: a client must not be sent asking for one.
    const fn bearer_error(self) -> Option<&'static str> {
        match self {
            Self::ScopeNotGranted | Self::ScopeNotInPolicy | Self::ToolNotGranted | Self::ToolNotInPolicy => {
                Some("insufficient_scope")
            }
            Self::TokenMissing => None,
            other if other.status() == 401 => Some("invalid_token"),
            _ => None,
        }
    }
}

/// JSON-RPC: the body is not JSON.
pub const RPC_PARSE_ERROR: i32 = -32_700;
/// JSON-RPC: the JSON is no request.
pub const RPC_INVALID_REQUEST: i32 = -32_600;
/// MCP 2026-07-28: a header and the body disagree.
pub const RPC_HEADER_MISMATCH: i32 = -32_020;

/// What the refused request would have needed. Derived from the request alone, never from the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Needed {
    /// The scope that the route or tool asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The tool that was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The identity that the token's `aud` would have to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
}

impl Needed {
    /// Whether nothing is named.
    pub fn is_empty(&self) -> bool {
        self.scope.is_none() && self.tool.is_none() && self.audience.is_none()
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

    /// Renders the denial in the caller's form. The JSON-RPC id is the denial's own, else `rpc_id` (raw JSON), else null.
    pub fn render(&self, form: Form, rpc_id: Option<&str>, trace_id: Option<&str>) -> Response {
        let (content_type, body) = match form {
            Form::Problem => ("application/problem+json", self.problem(trace_id)),
            Form::JsonRpc => ("application/json", self.rpc_error(rpc_id, trace_id)),
        };
        let mut headers = vec![
            ("content-type", content_type.to_owned()),
            ("cache-control", "no-store".to_owned()),
            (DENIAL_HEADER, self.code.as_str().to_owned()),
        ];
        if let Some(challenge) = self.challenge() {
            headers.push(("www-authenticate", challenge));
        }
        if let Some(seconds) = self.code.retry_after_seconds() {
            headers.push(("retry-after", seconds.to_string()));
        }
        if let Some(allow) = self.extra.as_deref().and_then(|extra| extra.allow) {
            headers.push(("allow", allow.to_owned()));
        }
        Response {
            status: self.code.status(),
            headers,
            body,
        }
    }

    /// The challenge of RFC 6750, section 3.
    fn challenge(&self) -> Option<String> {
        if !matches!(self.code.status(), 401 | 403) {
            return None;
        }
        let mut challenge = "Bearer realm=\"ostiary\"".to_owned();
        if let Some(error) = self.code.bearer_error() {
            challenge.push_str(", error=\"");
            challenge.push_str(error);
            challenge.push('"');
            if let Some(scope) = self.needed().and_then(|needed| needed.scope.as_deref()) {
                challenge.push_str(", scope=\"");
                // The grammar of scopes admits neither quotes nor backslashes; filter all the same, as this is a header.
                challenge.extend(
                    scope
                        .chars()
                        .filter(|c| c.is_ascii_graphic() && *c != '"' && *c != '\\'),
                );
                challenge.push('"');
            }
        }
        Some(challenge)
    }

    fn problem(&self, trace_id: Option<&str>) -> Vec<u8> {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            code: Code,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            needed: Option<&'a Needed>,
            #[serde(skip_serializing_if = "Option::is_none")]
            trace_id: Option<&'a str>,
        }
        encode(&Problem {
            r#type: format!("{TYPE_PREFIX}{}", self.code),
            title: self.code.title(),
            status: self.code.status(),
            code: self.code,
            detail: &self.detail,
            needed: self.needed(),
            trace_id,
        })
    }

    fn rpc_error(&self, rpc_id: Option<&str>, trace_id: Option<&str>) -> Vec<u8> {
        #[derive(Serialize)]
        struct RpcError<'a> {
            code: i32,
            message: &'a str,
            data: Data<'a>,
        }
        #[derive(Serialize)]
        struct Data<'a> {
            code: Code,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            needed: Option<&'a Needed>,
            #[serde(skip_serializing_if = "Option::is_none")]
            trace_id: Option<&'a str>,
        }
        let error = encode(&RpcError {
            code: self
                .extra
                .as_deref()
                .and_then(|extra| extra.rpc_code)
                .unwrap_or(self.code.rpc_code()),
            message: self.code.title(),
            data: Data {
                code: self.code,
                detail: &self.detail,
                needed: self.needed(),
                trace_id,
            },
        });
        let id = self.rpc_id().or(rpc_id).unwrap_or("null");
        let mut body = Vec::with_capacity(error.len() + id.len() + 40);
        body.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
        body.extend_from_slice(id.as_bytes());
        body.extend_from_slice(b",\"error\":");
        body.extend_from_slice(&error);
        body.push(b'}');
        body
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

/// Serializes what cannot fail: structs of strings and numbers.
fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// The form in which a caller understands a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// RFC 9457 `application/problem+json`.
    Problem,
    /// A JSON-RPC error, for MCP callers.
    JsonRpc,
}

/// What is sent to the caller in place of the application's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;

    fn header<'r>(response: &'r Response, name: &str) -> Option<&'r str> {
        response
            .headers
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, value)| value.as_str())
    }

    fn json(response: &Response) -> serde_json::Value {
        serde_json::from_slice(&response.body).unwrap()
    }

    #[test]
    fn every_code_has_its_own_word_and_a_status_of_denials() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse::<Code>().unwrap(), *code);
            assert!(
                [400, 401, 403, 405, 413, 415, 421, 500, 503].contains(&code.status()),
                "{code}"
            );
            assert_eq!(code.retry_after_seconds().is_some(), code.status() == 503, "{code}");
            let reserved = -32_768..=-32_000;
            let own_of_protocol = code.as_str().starts_with("mcp_") && code.status() == 400;
            assert_eq!(reserved.contains(&code.rpc_code()), own_of_protocol, "{code}");
        }
        let words: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(words.len(), Code::ALL.len());
        assert!("ok".parse::<Code>().is_err());
    }

    #[test]
    fn a_problem_names_what_was_needed() {
        let needed = Needed {
            scope: Some("read:data.sales".to_owned()),
            ..Needed::default()
        };
        let denial = Denial::new(Code::ScopeNotGranted, "the token does not hold the scope").with_needed(needed);
        let response = denial.render(Form::Problem, None, Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(response.status, 403);
        assert_eq!(header(&response, "content-type"), Some("application/problem+json"));
        assert_eq!(header(&response, "cache-control"), Some("no-store"));
        assert_eq!(header(&response, DENIAL_HEADER), Some("scope_not_granted"));
        assert_eq!(
            header(&response, "www-authenticate"),
            Some("Bearer realm=\"ostiary\", error=\"insufficient_scope\", scope=\"read:data.sales\"")
        );
        assert_eq!(
            json(&response),
            serde_json::json!({
                "type": "https://ostiary.dev/denials#scope_not_granted",
                "title": "The token does not grant the needed scope",
                "status": 403,
                "code": "scope_not_granted",
                "detail": "the token does not hold the scope",
                "needed": {"scope": "read:data.sales"},
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            })
        );
    }

    #[test]
    fn a_challenge_says_invalid_token_only_of_a_token_that_was_shown() {
        let challenge = |code| {
            let response = Denial::new(code, "").render(Form::Problem, None, None);
            header(&response, "www-authenticate").map(str::to_owned)
        };
        assert_eq!(challenge(Code::TokenMissing).unwrap(), "Bearer realm=\"ostiary\"");
        assert_eq!(
            challenge(Code::TokenExpired).unwrap(),
            "Bearer realm=\"ostiary\", error=\"invalid_token\""
        );
        assert_eq!(
            challenge(Code::ToolNotGranted).unwrap(),
            "Bearer realm=\"ostiary\", error=\"insufficient_scope\""
        );
        assert_eq!(challenge(Code::AgentKilled).unwrap(), "Bearer realm=\"ostiary\"");
        assert_eq!(challenge(Code::ToolForbidden).unwrap(), "Bearer realm=\"ostiary\"");
        assert_eq!(challenge(Code::PathNotCanonical), None);
    }

    #[test]
    fn an_mcp_caller_gets_an_error_for_its_own_request() {
        let needed = Needed {
            tool: Some("bash".to_owned()),
            ..Needed::default()
        };
        let denial = Denial::new(Code::ToolForbidden, "the tool is forbidden to this agent").with_needed(needed);
        let response = denial
            .clone()
            .with_rpc_id(Some("\"a\\\"1\""))
            .render(Form::JsonRpc, Some("7"), None);
        assert_eq!(
            (response.status, header(&response, "content-type")),
            (403, Some("application/json"))
        );
        let body = json(&response);
        assert_eq!(body["id"], "a\"1");
        assert_eq!(
            (&body["jsonrpc"], &body["error"]["code"]),
            (&"2.0".into(), &(-31403).into())
        );
        assert_eq!(body["error"]["data"]["code"], "tool_forbidden");
        assert_eq!(body["error"]["data"]["needed"], serde_json::json!({"tool": "bash"}));
        assert_eq!(json(&denial.render(Form::JsonRpc, Some("7"), None))["id"], 7);
        assert!(json(&denial.render(Form::JsonRpc, None, None))["id"].is_null());
    }

    #[test]
    fn codes_that_mcp_defines_are_used() {
        let rpc_code = |denial: Denial| json(&denial.render(Form::JsonRpc, None, None))["error"]["code"].clone();
        assert_eq!(rpc_code(Denial::new(Code::McpBatch, "")), -32600);
        assert_eq!(rpc_code(Denial::new(Code::McpHeaderMismatch, "")), -32020);
        assert_eq!(rpc_code(Denial::new(Code::McpMalformed, "")), -32600);
        assert_eq!(
            rpc_code(Denial::new(Code::McpMalformed, "").with_rpc_code(RPC_PARSE_ERROR)),
            -32700
        );
        assert_eq!(rpc_code(Denial::new(Code::PolicyUnavailable, "")), -31503);
    }

    #[test]
    fn retry_and_allow_are_told() {
        let unavailable = Denial::new(Code::PolicyUnavailable, "").render(Form::Problem, None, None);
        assert_eq!(header(&unavailable, "retry-after"), Some("1"));
        let method = Denial::new(Code::MethodNotAllowed, "")
            .with_allow("POST")
            .render(Form::JsonRpc, None, None);
        assert_eq!(
            (header(&method, "allow"), header(&method, "retry-after")),
            (Some("POST"), None)
        );
    }

    #[test]
    fn a_scope_cannot_leave_its_quotes() {
        let needed = Needed {
            scope: Some("a\"\r\nx: y\\".to_owned()),
            ..Needed::default()
        };
        let denial = Denial::new(Code::ScopeNotGranted, "").with_needed(needed);
        let response = denial.render(Form::Problem, None, None);
        assert!(
            header(&response, "www-authenticate")
                .unwrap()
                .ends_with("scope=\"ax:y\"")
        );
    }
}
