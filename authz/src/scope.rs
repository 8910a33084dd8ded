//! Scopes: `action:resource`, compared exactly.
//!
//! `action` is `[a-z][a-z0-9_-]*`; `resource` is one or more segments of `[a-z0-9_-]+` joined by dots. There are no
//! wildcards, prefixes or hierarchies: `read:data.sales` does not grant `read:data.sales.q1`, and a `*` or `?` is
//! refused wherever it appears.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, de};

use crate::identity::AgentId;
use crate::order;

/// What the right to call an agent begins with. Agents' files grant it by `mayCall`, never by `scope`.
const CALL_AGENT: &str = "call:agent.";

/// The longest scope that is accepted, in bytes; bounds what a token can make a filter compare and record.
pub const MAX_SCOPE_BYTES: usize = 256;

/// The most scopes that one token or policy may hold.
pub const MAX_SCOPES: usize = 512;

/// Why a scope, a template or a set was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// A `*` or `?`: every grant names one thing.
    #[error("wildcards are not allowed in a scope: name each resource")]
    Wildcard,
    /// Not `action:segment.segment…`.
    #[error("not a scope of the form `action:resource.resource` in lower case")]
    Malformed,
    /// Longer than [`MAX_SCOPE_BYTES`].
    #[error("a scope may have at most {MAX_SCOPE_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_SCOPES`].
    #[error("at most {MAX_SCOPES} scopes may be listed")]
    TooMany,
    /// A capture that is not a whole segment, is not closed or has a bad name.
    #[error("a capture must be a whole segment: `{{name}}` or `{{arguments./pointer}}`")]
    BadCapture,
    /// A captured value is missing, or is not exactly one segment.
    #[error("the value of a capture is not one scope segment")]
    NotASegment,
}

/// One right: an action on a resource.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(Arc<str>);

impl Scope {
    /// Checks `text` against the grammar.
    ///
    /// # Errors
    ///
    /// [`ScopeError::Wildcard`], [`ScopeError::TooLong`] or [`ScopeError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        check_text(text)?;
        let (action, resource) = text.split_once(':').ok_or(ScopeError::Malformed)?;
        if is_action(action) && resource.split('.').all(is_segment) {
            Ok(Self(Arc::from(text)))
        } else {
            Err(ScopeError::Malformed)
        }
    }

    /// The right to call an agent, `call:agent.NAME`.
    #[must_use]
    pub fn to_call(agent: &AgentId) -> Self {
        // INVARIANT: an agent's name is one segment of at most 63 bytes.
        Self(Arc::from(format!("{CALL_AGENT}{agent}")))
    }

    /// The name of the agent that this is the right to call, if it is one.
    #[must_use]
    pub fn called_agent(&self) -> Option<&str> {
        self.0.strip_prefix(CALL_AGENT)
    }

    /// The scope as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Scope {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;

    fn try_from(text: String) -> Result<Self, ScopeError> {
        Self::parse(&text)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.0.as_ref().to_owned()
    }
}

/// Scopes of a token or a policy: sorted, without repeats.
///
/// Reads the array of the token format as well as the space-separated string of OAuth (RFC 6749, section 3.3);
/// writes the array.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ScopeSet(Vec<Scope>);

impl ScopeSet {
    /// Sorts `scopes` into a set.
    #[must_use]
    pub fn new(mut scopes: Vec<Scope>) -> Self {
        order::sort(&mut scopes);
        scopes.dedup();
        Self(scopes)
    }

    /// Whether exactly this scope is in the set.
    #[must_use]
    pub fn contains(&self, scope: &Scope) -> bool {
        self.0.binary_search(scope).is_ok()
    }

    /// The scopes in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Scope> {
        self.0.iter()
    }

    /// How many scopes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self::new(scopes.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a ScopeSet {
    type Item = &'a Scope;
    type IntoIter = std::slice::Iter<'a, Scope>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'de> Deserialize<'de> for ScopeSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            List(Vec<String>),
        }
        let texts = match Form::deserialize(deserializer)? {
            Form::Text(text) if text.is_empty() => Vec::new(),
            Form::Text(text) => text.split(' ').map(str::to_owned).collect(),
            Form::List(list) => list,
        };
        if texts.len() > MAX_SCOPES {
            return Err(de::Error::custom(ScopeError::TooMany));
        }
        texts
            .iter()
            .map(|text| Scope::parse(text))
            .collect::<Result<Vec<_>, _>>()
            .map(Self::new)
            .map_err(de::Error::custom)
    }
}

/// Where the value of a capture comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Capture {
    /// A segment of the request path, by the name that the route gives it.
    Path(Box<str>),
    /// A string in the `arguments` of a tool call, by JSON pointer (RFC 6901), such as `/table`.
    Argument(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Capture(Capture),
}

/// A scope with captures in place of whole segments: what a route or a tool needs, given a request.
///
/// `read:data.{table}` takes a path segment, `read:data.{arguments./table}` a string out of a tool's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeTemplate {
    action: Box<str>,
    segments: Box<[Segment]>,
}

impl ScopeTemplate {
    /// Parses a template.
    ///
    /// # Errors
    ///
    /// As [`Scope::parse`], and [`ScopeError::BadCapture`].
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        check_text(text)?;
        let (action, resource) = text.split_once(':').ok_or(ScopeError::Malformed)?;
        if !is_action(action) {
            return Err(ScopeError::Malformed);
        }
        let segments = split_outside_braces(resource)
            .map(parse_segment)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            action: action.into(),
            segments,
        })
    }

    /// The captures in the order in which they appear.
    pub fn captures(&self) -> impl Iterator<Item = &Capture> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Capture(capture) => Some(capture),
            Segment::Literal(_) => None,
        })
    }

    /// Puts values in place of the captures.
    ///
    /// Each value must be exactly one segment, so that a captured `a.b`, `A` or `%2e` cannot turn one resource into
    /// another.
    ///
    /// # Errors
    ///
    /// [`ScopeError::NotASegment`] if a value is missing or is not one segment, [`ScopeError::TooLong`].
    pub fn render<'v>(&self, mut value: impl FnMut(&Capture) -> Option<&'v str>) -> Result<Scope, ScopeError> {
        let mut text = String::from(&*self.action);
        for (index, segment) in self.segments.iter().enumerate() {
            text.push(if index == 0 { ':' } else { '.' });
            text.push_str(match segment {
                Segment::Literal(literal) => literal,
                Segment::Capture(capture) => value(capture)
                    .filter(|value| is_segment(value))
                    .ok_or(ScopeError::NotASegment)?,
            });
        }
        if text.len() > MAX_SCOPE_BYTES {
            return Err(ScopeError::TooLong);
        }
        Ok(Scope(Arc::from(text)))
    }

    /// Whether some request could need exactly `scope` by this template, given which values its captures may have.
    #[must_use]
    pub fn could_produce(&self, scope: &Scope, may_be: impl Fn(&Capture, &str) -> bool) -> bool {
        let Some((action, resource)) = scope.as_str().split_once(':') else {
            return false;
        };
        let mut given = resource.split('.');
        action == &*self.action
            && self.segments.iter().all(|segment| match (segment, given.next()) {
                (Segment::Literal(literal), Some(given)) => **literal == *given,
                (Segment::Capture(capture), Some(given)) => may_be(capture, given),
                (_, None) => false,
            })
            && given.next().is_none()
    }
}

impl fmt::Display for ScopeTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.action)?;
        for (index, segment) in self.segments.iter().enumerate() {
            f.write_str(if index == 0 { ":" } else { "." })?;
            match segment {
                Segment::Literal(literal) => f.write_str(literal)?,
                Segment::Capture(Capture::Path(name)) => write!(f, "{{{name}}}")?,
                Segment::Capture(Capture::Argument(pointer)) => write!(f, "{{arguments.{pointer}}}")?,
            }
        }
        Ok(())
    }
}

/// Whether `text` is one scope segment: `[a-z0-9_-]+`.
#[must_use]
pub fn is_segment(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_segment_byte)
}

/// Whether `text` may name a path capture: `[a-z][a-z0-9_]*`, at most 64 bytes.
#[must_use]
pub fn is_capture_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

fn is_segment_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')
}

fn is_action(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase()) && text.bytes().all(is_segment_byte)
}

/// What scopes and templates share: bounds, and a word of its own for wildcards.
fn check_text(text: &str) -> Result<(), ScopeError> {
    if text.len() > MAX_SCOPE_BYTES {
        Err(ScopeError::TooLong)
    } else if text.contains(['*', '?']) {
        Err(ScopeError::Wildcard)
    } else {
        Ok(())
    }
}

fn split_outside_braces(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.split(move |character| {
        match character {
            '{' => inside = true,
            '}' => inside = false,
            _ => {}
        }
        character == '.' && !inside
    })
}

fn parse_segment(text: &str) -> Result<Segment, ScopeError> {
    let Some(inner) = text.strip_prefix('{') else {
        return match text {
            text if is_segment(text) => Ok(Segment::Literal(text.into())),
            text if text.contains(['{', '}']) => Err(ScopeError::BadCapture),
            _ => Err(ScopeError::Malformed),
        };
    };
    let inner = inner.strip_suffix('}').ok_or(ScopeError::BadCapture)?;
    let capture = match inner.strip_prefix("arguments.") {
        Some(pointer) if is_pointer(pointer) => Capture::Argument(pointer.into()),
        None if is_capture_name(inner) => Capture::Path(inner.into()),
        _ => return Err(ScopeError::BadCapture),
    };
    Ok(Segment::Capture(capture))
}

/// A JSON pointer of plain keys; `~` escapes are refused because no argument worth a rule needs them.
fn is_pointer(text: &str) -> bool {
    text.strip_prefix('/').is_some_and(|rest| {
        rest.split('/').all(|key| {
            !key.is_empty()
                && key
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        })
    })
}

#[cfg(test)]
mod tests;
