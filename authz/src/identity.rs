//! Names that decide: workloads, agents, services, tools, operations and tokens.
//!
//! Each is a newtype whose only constructors check the grammar, so that a name that came in over the wire cannot
//! carry a separator, a wildcard or a control character into a comparison, a record or a header. Comparison is by
//! bytes: nothing is folded, trimmed or normalised.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Why a name was refused; never repeats more of the input than its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind}: {rule}")]
pub struct NameError {
    kind: &'static str,
    rule: &'static str,
}

impl NameError {
    /// The kind of name that was expected, as a reader would call it ("SPIFFE ID").
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The rule that the input broke.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

/// Defines a checked name over shared text: cheap to clone, ordered and compared by its bytes.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Checks `text` against the grammar of this kind of name.\n\n# Errors\n\n[`NameError`]: ", $rule, ".")]
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if $check(text) {
                    Ok(Self(Arc::from(text)))
                } else {
                    Err(NameError { kind: $kind, rule: $rule })
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name! {
    /// The SPIFFE ID of a workload, `spiffe://trust-domain/path`, as its certificate carries it.
    ///
    /// The grammar is that of the SPIFFE standard: at most 2048 bytes, no query, fragment, port, user, percent sign or
    /// empty, `.` or `..` segment; and at least one path segment, because a bare trust domain names no workload.
    SpiffeId, "SPIFFE ID", "spiffe://trust-domain/segment…, at most 2048 bytes", is_spiffe_id
}

name! {
    /// The name of an agent, unique in the mesh.
    ///
    /// A DNS label, so that it is also one scope segment (`call:agent.writer-2`) and one path segment (`own`).
    AgentId, "agent id", "1 to 63 of a-z, 0-9 and `-`, starting and ending with a letter or digit", is_label
}

name! {
    /// A service, `namespace/name`.
    ServiceId, "service id", "namespace/name, each a DNS label", is_service_id
}

name! {
    /// The exact name of an MCP tool.
    ///
    /// The characters are those that the MCP specification permits, so that no homoglyph or escape is ever compared.
    ToolName, "tool name", "1 to 128 of A-Z, a-z, 0-9, `_`, `.` and `-`", is_tool_name
}

name! {
    /// The declared operation that a capability was issued for.
    OperationId, "operation id", "1 to 128 of A-Z, a-z, 0-9 and `._:/+=~@-`", is_reference
}

name! {
    /// The nonce of a token: unique, and the handle by which it is revoked.
    Jti, "token id", "1 to 128 of A-Z, a-z, 0-9 and `._:/+=~@-`", is_reference
}

name! {
    /// The user request that a piece of work belongs to; all records of one user request share it.
    TransactionId, "transaction id", "1 to 128 of A-Z, a-z, 0-9 and `._:/+=~@-`", is_reference
}

name! {
    /// The issuer of a token, policy bundle or state list (`iss`): usually a SPIFFE ID or an https URL.
    Issuer, "issuer", "1 to 512 visible ASCII characters", is_issuer
}

name! {
    /// The id of a signing key (`kid`).
    KeyId, "key id", "1 to 128 visible ASCII characters", is_key_id
}

impl SpiffeId {
    /// The identity that Istio gives a Kubernetes service account.
    ///
    /// # Errors
    ///
    /// [`NameError`] if any part is not what a SPIFFE ID may hold.
    pub fn for_service_account(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, NameError> {
        Self::parse(&format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"))
    }

    /// The trust domain, without the scheme.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        let rest = self.0.strip_prefix(SPIFFE_SCHEME).unwrap_or_default();
        rest.split_once('/').map_or(rest, |(domain, _)| domain)
    }
}

impl ServiceId {
    /// Puts `namespace` and `name` together.
    ///
    /// # Errors
    ///
    /// [`NameError`] if either is not a DNS label.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        Self::parse(&format!("{namespace}/{name}"))
    }

    /// The part before the slash.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The part after the slash.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

const SPIFFE_SCHEME: &str = "spiffe://";

/// The bound that the SPIFFE ID standard sets (section 2.3).
const MAX_SPIFFE_ID_BYTES: usize = 2048;

fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix(SPIFFE_SCHEME).and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    text.len() <= MAX_SPIFFE_ID_BYTES && is_trust_domain(domain) && path.split('/').all(is_spiffe_segment)
}

/// Whether `text` is a SPIFFE trust domain name (section 2.1 of the SPIFFE ID standard).
#[must_use]
pub fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

fn is_spiffe_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// Whether `text` is a DNS label (RFC 1123): what Kubernetes takes for the names that are used here.
#[must_use]
pub fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn is_service_id(text: &str) -> bool {
    text.split_once('/')
        .is_some_and(|(namespace, name)| is_label(namespace) && is_label(name))
}

fn is_tool_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn is_reference(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:/+=~@-".contains(&byte))
}

fn is_issuer(text: &str) -> bool {
    (1..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_key_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
