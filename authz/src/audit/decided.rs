//! What a decision rested on, as its record holds it: the verified claims and the facts of the request.

use std::borrow::Cow;

use super::canonical::Object;
use super::record::sorted;
use crate::claims::Claims;
use crate::request::{Facts, Right};

/// The claims of a record in their one encoding, which is made once for a token that is recorded many times.
///
/// Those are recorded that decisions depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedClaims<'a>(Cow<'a, [u8]>);

impl RecordedClaims<'static> {
    /// Encodes claims.
    #[must_use]
    pub fn of(claims: &Claims) -> Self {
        Self::of_length(claims, 0)
    }

    /// Encodes claims whose encoding is `bytes` long, as far as is known.
    pub(super) fn of_length(claims: &Claims, bytes: usize) -> Self {
        let mut encoding = Vec::with_capacity(bytes);
        encode_claims(claims, Object::open(&mut encoding));
        Self(Cow::Owned(encoding))
    }
}

impl RecordedClaims<'_> {
    /// The same claims for one more record.
    #[must_use]
    pub fn borrowed(&self) -> RecordedClaims<'_> {
        RecordedClaims(Cow::Borrowed(&self.0))
    }

    /// The claims as one JSON object.
    #[must_use]
    pub fn encoding(&self) -> &[u8] {
        &self.0
    }
}

fn encode_claims(claims: &Claims, mut object: Object<'_>) {
    object.text("agent_id", Some(claims.agent_id.as_str()));
    object.texts("aud", claims.aud.iter().map(|audience| audience.as_str()));
    object.integer("exp", Some(claims.exp));
    let forbidden: Vec<String> = claims.forbidden_tools.iter().map(ToString::to_string).collect();
    object.texts("forbidden_tools", forbidden.iter().map(String::as_str));
    object.integer("iat", Some(claims.iat));
    object.text("iss", Some(claims.iss.as_str()));
    object.text("issued_by", Some(claims.issued_by.as_str()));
    object.text("jti", Some(claims.jti.as_str()));
    object.integer("max_tokens", claims.max_tokens);
    object.integer("nbf", Some(claims.nbf));
    object.text("operation_id", Some(claims.operation_id.as_str()));
    object.texts("scope", claims.scope.iter().map(|scope| scope.as_str()));
    object.text("sub", Some(claims.sub.as_str()));
    let tools: Vec<String> = claims.tools.iter().map(ToString::to_string).collect();
    object.texts("tools", tools.iter().map(String::as_str));
    object.text("txn", claims.txn.as_ref().map(|txn| txn.as_str()));
    object.close();
}

/// The facts of a record; those of a denial may be few.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedFacts<'a> {
    /// Captured segments by name.
    pub captures: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// HTTP method.
    pub method: Option<Cow<'a, str>>,
    /// The segment that had to equal the agent's id.
    pub own: Option<Cow<'a, str>>,
    /// The canonical path.
    pub path: Option<Cow<'a, str>>,
    /// The prompt that was asked for.
    pub prompt: Option<Cow<'a, str>>,
    /// The resources that were asked for, by URI, or what was copied or moved to, by its path, each with the scope that it needed or an empty text.
    pub resources: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The kind of right: `scope`, `tool`, `prompt`, `resources`, `call`, `session`, `exempt` or `control_plane`.
    pub right: Option<Cow<'a, str>>,
    /// JSON-RPC method.
    pub rpc_method: Option<Cow<'a, str>>,
    /// The scope that was needed.
    pub scope: Option<Cow<'a, str>>,
    /// The tool that was called.
    pub tool: Option<Cow<'a, str>>,
}

impl<'a> From<&'a Facts> for RecordedFacts<'a> {
    fn from(facts: &'a Facts) -> Self {
        let borrow = |text: &'a String| Cow::Borrowed(text.as_str());
        let resources = match &facts.right {
            Right::Resources(needs) => needs.as_slice(),
            _ => facts.destination.as_slice(),
        };
        let (right, scope, name) = match &facts.right {
            Right::Scope(scope) => ("scope", Some(scope), None),
            Right::Tool { name, scope } => ("tool", scope.as_ref(), Some(name)),
            Right::Prompt { name, scope } => ("prompt", scope.as_ref(), Some(name)),
            Right::Resources(_) => ("resources", None, None),
            Right::Call { scope, .. } => ("call", Some(scope), None),
            Right::Session => ("session", None, None),
            Right::Exempt => ("exempt", None, None),
            Right::ControlPlane => ("control_plane", None, None),
        };
        Self {
            captures: facts
                .captures
                .iter()
                .map(|(name, value)| (borrow(name), borrow(value)))
                .collect(),
            method: Some(borrow(&facts.method)),
            own: facts.own.as_ref().map(borrow),
            path: Some(borrow(&facts.path)),
            prompt: name
                .filter(|_| right == "prompt")
                .map(|name| Cow::Borrowed(name.as_str())),
            resources: resources
                .iter()
                .map(|need| {
                    let scope = need.scope.as_ref().map_or("", |scope| scope.as_str());
                    (borrow(&need.uri), Cow::Borrowed(scope))
                })
                .collect(),
            right: Some(Cow::Borrowed(right)),
            rpc_method: facts.rpc_method.as_ref().map(borrow),
            scope: scope.map(|scope| Cow::Borrowed(scope.as_str())),
            tool: name
                .filter(|_| right == "tool")
                .map(|name| Cow::Borrowed(name.as_str())),
        }
    }
}

impl RecordedFacts<'_> {
    pub(super) fn encode(&self, mut object: Object<'_>) {
        if !self.captures.is_empty() {
            let mut captures = object.object("captures");
            for (name, value) in sorted(&self.captures, |name| name.as_ref()) {
                captures.entry(name, value);
            }
            captures.close();
        }
        object.text("method", self.method.as_deref());
        object.text("own", self.own.as_deref());
        object.text("path", self.path.as_deref());
        object.text("prompt", self.prompt.as_deref());
        if !self.resources.is_empty() {
            let mut resources = object.object("resources");
            for (uri, scope) in sorted(&self.resources, |uri| uri.as_ref()) {
                resources.entry(uri, scope);
            }
            resources.close();
        }
        object.text("right", self.right.as_deref());
        object.text("rpc_method", self.rpc_method.as_deref());
        object.text("scope", self.scope.as_deref());
        object.text("tool", self.tool.as_deref());
        object.close();
    }
}
