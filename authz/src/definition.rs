//! Definitions of tools: all that a service tells of one in `tools/list`, as a digest that the service's file can pin.
//!
//! A model acts on what a tool's definition says: a description that changes after somebody has read it may tell the model
//! to do what nobody agreed to (a "rug pull"), and a schema may ask for arguments that are nobody's business. A pinned
//! definition is one that a person has seen.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::denial::{Code, Denial, Needed};
use crate::digest::Digest;
use crate::identity::{ServiceId, ToolName};
use crate::json::{Value, canonical};
use crate::policy::{Bundle, Service};
use crate::request::Right;

/// How the digest of a definition is written: as a container image's.
const PREFIX: &str = "sha256:";

/// SHA-256 of the entry of a tool in `tools/list`, whole, in the canonical form of RFC 8785. Written `sha256:` and 64 digits
/// in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DefinitionDigest(Digest);

/// Not of that form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the digest of a definition is `sha256:` and 64 digits of lower-case hexadecimal")]
pub struct DefinitionDigestError;

impl DefinitionDigest {
    /// The digest of an entry.
    #[must_use]
    pub fn of(entry: Value<'_>) -> Self {
        let mut text = Vec::with_capacity(entry.raw().len());
        canonical::append(entry, &mut text);
        Self(Digest::of(&text))
    }
}

impl fmt::Display for DefinitionDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.as_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DefinitionDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for DefinitionDigest {
    type Err = DefinitionDigestError;

    fn from_str(text: &str) -> Result<Self, DefinitionDigestError> {
        let digits = text.strip_prefix(PREFIX).ok_or(DefinitionDigestError)?;
        let mut bytes = [0; 32];
        let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(DefinitionDigestError);
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(Digest(bytes)))
    }
}

fn nibble(digit: u8) -> Result<u8, DefinitionDigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(DefinitionDigestError),
    }
}

impl TryFrom<String> for DefinitionDigest {
    type Error = DefinitionDigestError;

    fn try_from(text: String) -> Result<Self, DefinitionDigestError> {
        text.parse()
    }
}

impl From<DefinitionDigest> for String {
    fn from(digest: DefinitionDigest) -> Self {
        digest.to_string()
    }
}

/// What becomes of a tool that a service defines otherwise than its file pins it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDrift {
    /// It is told of and may be called, and the record of the list names it.
    #[default]
    Report,
    /// It is left out of lists too, and calls of it are denied.
    Deny,
}

impl OnDrift {
    /// Whether this is what a file that says nothing means.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// The tools that services were last seen to define otherwise than it is pinned, where that stops their calls.
///
/// As much as one filter has seen: no request names a definition, and a list tells of it to whoever asked.
#[derive(Clone, Debug, Default)]
pub struct Drifts(BTreeMap<(ServiceId, ToolName), DefinitionDigest>);

impl Drifts {
    /// Notes how a list defines tools: those that are pinned, and whether they are as pinned. What another policy pins is
    /// forgotten, so no more is remembered than the policy has tools.
    pub fn note<'t>(
        &mut self,
        bundle: &Bundle,
        service: &Service,
        seen: impl IntoIterator<Item = (&'t ToolName, bool)>,
    ) {
        self.0.retain(|(service, tool), pinned| {
            let service = bundle.service_with_id(service).and_then(|index| bundle.service(index));
            service.is_some_and(|service| service.denied_if_not(tool.as_str()) == Some(*pinned))
        });
        for (tool, drifts) in seen {
            let key = (service.id().clone(), tool.clone());
            match service.denied_if_not(tool.as_str()) {
                Some(pinned) if drifts => self.0.insert(key, pinned),
                Some(_) | None => self.0.remove(&key),
            };
        }
    }

    /// Whether a right may be used as far as definitions go.
    ///
    /// # Errors
    ///
    /// `tool_drifted`.
    pub fn check(&self, service: &Service, right: &Right) -> Result<(), Denial> {
        let Right::Tool { name, .. } = right else {
            return Ok(());
        };
        let pinned = service.denied_if_not(name.as_str());
        if self.0.is_empty() || pinned.is_none() {
            return Ok(());
        }
        let key = (service.id().clone(), name.clone());
        if self.0.get(&key).copied() == pinned {
            let needed = Needed {
                tool: Some(name.to_string()),
                ..Needed::default()
            };
            let detail = "the service defines the tool otherwise than its file pins it";
            return Err(Denial::new(Code::ToolDrifted, detail).with_needed(needed));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
