//! The reasons, as words that are never changed.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

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
    MethodOverrideRefused "method_override_refused" 400 "Method overrides are refused"
    UpgradeRefused "upgrade_refused" 400 "Upgrades and tunnels are refused"
    TokenInQuery "token_in_query" 400 "A token in the query string is refused"
    McpMalformed "mcp_malformed" 400 "The body is not a valid MCP message"
    McpBatch "mcp_batch" 400 "JSON-RPC batches are refused"
    McpHeaderMismatch "mcp_header_mismatch" 400 "An MCP header is missing, unknown or differs from the body"
    A2aMalformed "a2a_malformed" 400 "The body is not a valid A2A message"
    A2aBatch "a2a_batch" 400 "JSON-RPC batches are refused"
    A2aVersionRefused "a2a_version_refused" 400 "The A2A version is unknown, or named twice"

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
    ToolDrifted "tool_drifted" 403 "The tool's definition is not the pinned one"
    PromptNotInPolicy "prompt_not_in_policy" 403 "The agent's policy does not grant the prompt"
    PromptNotOffered "prompt_not_offered" 403 "The service does not offer the prompt"
    ResourceNotInPolicy "resource_not_in_policy" 403 "The agent's policy does not grant the resource"
    ResourceNotOffered "resource_not_offered" 403 "The service does not offer the resource"
    McpMethodRefused "mcp_method_refused" 403 "The MCP method is refused"
    A2aMethodRefused "a2a_method_refused" 403 "The A2A method is refused"
    McpTaskMismatch "mcp_task_mismatch" 403 "The task is not this caller's"
    TaskRefused "task_refused" 403 "Tasks and contexts may not be named"
    EndpointRefused "endpoint_refused" 403 "The endpoint is not open to applications"
    DirectionUnknown "direction_unknown" 403 "The listener is neither inbound nor outbound"

    SessionMismatch "session_mismatch" 404 "The session is not this caller's"
    TaskMismatch "task_mismatch" 404 "The task or context is not this caller's"
    MethodNotAllowed "method_not_allowed" 405 "The method is not allowed"
    BodyTooLarge "body_too_large" 413 "The body is too large"
    MediaTypeRefused "media_type_refused" 415 "The media type is refused"
    BodyEncoded "body_encoded" 415 "Encoded bodies are refused"
    HostUnknown "host_unknown" 421 "The host is not served here"
    InternalError "internal_error" 500 "Internal error"
    ResponseWithheld "response_withheld" 502 "The service's answer cannot be filtered"
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
    /// The `error.code` of a JSON-RPC denial: outside every range that JSON-RPC, MCP and A2A reserve, but for the codes
    /// that they themselves define.
    pub const fn rpc_code(self) -> i32 {
        match self {
            Self::McpMalformed | Self::McpBatch | Self::A2aMalformed | Self::A2aBatch => RPC_INVALID_REQUEST,
            Self::McpTaskMismatch => RPC_INVALID_PARAMS,
            Self::McpHeaderMismatch => RPC_HEADER_MISMATCH,
            Self::A2aVersionRefused => RPC_A2A_VERSION,
            Self::TaskMismatch => RPC_A2A_TASK,
            other => -31_000 - other.status() as i32,
        }
    }

    /// After how many seconds it is worth trying again, for a 503.
    pub const fn retry_after_seconds(self) -> Option<u32> {
        match self {
            Self::PolicyUnavailable | Self::RecordsUnavailable => Some(1),
            // A person has to look first.
            Self::WorkloadMismatch | Self::AgentPaused => Some(30),
            _ => None,
        }
    }

    /// The `error` attribute of RFC 6750, section 3.1. None where no token was presented, or where another token
    /// of the same agent would not help: a client must not be sent asking for one.
    pub(super) const fn bearer_error(self) -> Option<&'static str> {
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
/// JSON-RPC: the parameters are not right. So MCP tells of a task that is not there.
const RPC_INVALID_PARAMS: i32 = -32_602;
/// MCP 2026-07-28: a header and the body disagree.
pub const RPC_HEADER_MISMATCH: i32 = -32_020;
/// A2A 1.0 and 0.3, `TaskNotFoundError`.
const RPC_A2A_TASK: i32 = -32_001;
/// A2A 1.0, `VersionNotSupportedError`.
pub const RPC_A2A_VERSION: i32 = -32_009;
