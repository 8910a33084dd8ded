//! The answers to `tools/list`, `prompts/list`, `resources/list` and `resources/templates/list`, without what the caller may
//! not use.
//!
//! A name that is told is a name that is tried: a list that shows what every call of it would be denied misleads an honest
//! agent, and tells a hijacked one what there is. So each entry that the caller may not use is taken out, and the rest goes
//! on byte for byte. What is not understood is not passed: an answer of which a client might read more than is read here is
//! withheld whole. It is read by the parser that requests are read by, and bounded by [`MAX_LIST_BYTES`].
//!
//! Only entries are looked at. What else a service tells of itself (`instructions`, descriptions, `_meta`) is its own.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;

use super::named::only_member;
use crate::definition::DefinitionDigest;
use crate::identity::ToolName;
use crate::json::{self, JsonError, Kind, Limits, Value};

mod sse;
#[cfg(test)]
mod tests;

/// The longest answer that is held, in bytes. Envoy's own limit on what it buffers may be lower.
pub const MAX_LIST_BYTES: usize = 4 << 20;

const LIMITS: Limits = Limits {
    max_bytes: MAX_LIST_BYTES,
    max_depth: 64,
    max_nodes: 1 << 18,
};

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// `tools/list`.
    Tools,
    /// `prompts/list`.
    Prompts,
    /// `resources/list`.
    Resources,
    /// `resources/templates/list`.
    Templates,
}

impl List {
    /// The list that a method asks for.
    #[must_use]
    pub fn of(method: &str) -> Option<Self> {
        match method {
            "tools/list" => Some(Self::Tools),
            "prompts/list" => Some(Self::Prompts),
            "resources/list" => Some(Self::Resources),
            "resources/templates/list" => Some(Self::Templates),
            _ => None,
        }
    }

    /// The member of the result that holds the entries.
    fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The member of an entry that names it.
    fn key(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// One message.
    Json,
    /// Server-sent events, a message each.
    Events,
}

impl Media {
    /// Reads a `content-type`, in whatever case and with whatever parameters: its bytes are UTF-8 either way, or refused.
    #[must_use]
    pub fn of(content_type: &[u8]) -> Option<Self> {
        let essence = content_type.split(|byte| *byte == b';').next()?.trim_ascii();
        if essence.eq_ignore_ascii_case(b"application/json") {
            Some(Self::Json)
        } else if essence.eq_ignore_ascii_case(b"text/event-stream") {
            Some(Self::Events)
        } else {
            None
        }
    }

    /// The type under which the filtered answer goes on, in its plain spelling.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Events => "text/event-stream",
        }
    }
}

/// Why an answer is withheld.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Not strict JSON, or beyond its bounds.
    #[error("a message of the answer is not understood: {0}")]
    Json(#[from] JsonError),
    /// Not the answer to the request.
    #[error("{0}")]
    Answer(&'static str),
    /// More than [`MAX_LIST_BYTES`].
    #[error("the answer has more than {MAX_LIST_BYTES} bytes")]
    TooLong,
}

/// Takes out of an answer what `is_told` does not say yes to, by its name, URI or template and by the whole of it.
///
/// `id` is the id of the request, as raw JSON. What the caller gets is marked as its own: `cacheScope` becomes `private`
/// (2026-07-28, caching), because another caller would be told something else.
///
/// # Errors
///
/// [`ListError`] where anything is not understood; then nothing of the answer may go on.
pub fn filter(
    body: &[u8],
    media: Media,
    list: List,
    id: &str,
    is_told: &dyn Fn(&str, Value<'_>) -> bool,
) -> Result<Vec<u8>, ListError> {
    if body.len() > MAX_LIST_BYTES {
        return Err(ListError::TooLong);
    }
    let answer = Answer { list, id, is_told };
    match media {
        Media::Json => match answer.message(body)? {
            Message::Answer(text) => Ok(text.into_bytes()),
            Message::Notification(_) => Err(ListError::Answer("a notification in place of the answer")),
        },
        Media::Events => sse::filter(body, |data| match answer.message(data)? {
            Message::Answer(text) | Message::Notification(text) => Ok(text),
        }),
    }
}

/// Writes events anew with what `data` makes of their data; None where that is nothing.
pub(crate) fn rewrite_events(events: &[u8], data: &dyn Fn(&[u8]) -> Option<String>) -> Option<Vec<u8>> {
    let found = Cell::new(false);
    let message = |text: &[u8]| {
        found.set(true);
        data(text).ok_or(ListError::Answer("nothing to write"))
    };
    let written = sse::filter(events, message).ok()?;
    found.get().then_some(written)
}

/// The definitions in an answer to `tools/list`: the message as a service sent it, or its result alone.
///
/// # Errors
///
/// [`ListError`] if it is no such answer, or a tool is there twice.
pub fn definitions(answer: &[u8]) -> Result<BTreeMap<ToolName, DefinitionDigest>, ListError> {
    let document = json::parse(answer, &LIMITS)?;
    let root = document.root();
    let result = root.get("result").unwrap_or(root);
    let tools = result.get("tools").and_then(|tools| tools.as_array());
    let tools = tools.ok_or(ListError::Answer("there is no list of `tools`"))?;
    let mut definitions = BTreeMap::new();
    for tool in tools {
        let name = only_member(tool, "name").and_then(|name| name.as_str());
        let name = name.and_then(|name| ToolName::parse(&name).ok());
        let name = name.ok_or(ListError::Answer("an entry of the list has not one name"))?;
        if definitions.insert(name, DefinitionDigest::of(tool)).is_some() {
            return Err(ListError::Answer("a tool is listed twice"));
        }
    }
    Ok(definitions)
}

/// How an answer to a call ends it: told apart from the HTTP status, under which all of these come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A result.
    Result,
    /// A result of a tool that says of itself that it failed (`isError`).
    ToolError,
    /// A JSON-RPC error.
    RpcError,
    /// The service asks for something first; the call comes again with the answers (2026-07-28).
    InputRequired,
}

impl Outcome {
    /// The word in records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::ToolError => "tool_error",
            Self::RpcError => "rpc_error",
            Self::InputRequired => "input_required",
        }
    }

    /// Reads the answer to the request of this id, as raw JSON; None if there is none, or it is not understood.
    #[must_use]
    pub fn of(body: &[u8], media: Media, id: &str) -> Option<Self> {
        match media {
            Media::Json => Self::of_message(body, id),
            Media::Events => {
                let found = Cell::new(None);
                let note = |data: &[u8]| {
                    found.set(found.get().or_else(|| Self::of_message(data, id)));
                    Ok(String::new())
                };
                sse::filter(body, note).ok()?;
                found.get()
            }
        }
    }

    fn of_message(message: &[u8], id: &str) -> Option<Self> {
        let document = json::parse(message, &LIMITS).ok()?;
        let root = document.root();
        let (result, error) = (root.get("result"), root.get("error"));
        let given = root.get("id");
        let is_answer = given.is_some_and(|given| given.raw() == id || given.is_null() && error.is_some());
        let is_true = |value: Value<'_>| value.as_bool() == Some(true);
        match (result, error) {
            _ if !is_answer => None,
            (None, Some(_)) => Some(Self::RpcError),
            (Some(result), None) if result.get("isError").is_some_and(is_true) => Some(Self::ToolError),
            (Some(result), None) => {
                let kind = result.get("resultType").and_then(|kind| kind.as_str());
                match kind.as_deref() {
                    Some("input_required") => Some(Self::InputRequired),
                    _ => Some(Self::Result),
                }
            }
            _ => None,
        }
    }
}

/// What an answer must be, and what of it is told.
struct Answer<'a> {
    list: List,
    id: &'a str,
    is_told: &'a dyn Fn(&str, Value<'_>) -> bool,
}

/// A message that may go on.
enum Message {
    Answer(String),
    Notification(String),
}

/// The members of a message.
#[derive(Default)]
struct Members<'a> {
    version: Option<Cow<'a, str>>,
    id: Option<Value<'a>>,
    method: Option<Value<'a>>,
    result: Option<Value<'a>>,
    error: Option<Value<'a>>,
}

impl<'a> Members<'a> {
    fn read(root: Value<'a>) -> Result<Self, ListError> {
        let mut members = Self::default();
        for (key, value) in root
            .entries()
            .ok_or(ListError::Answer("a message of the answer is no object"))?
        {
            match &*key {
                "jsonrpc" => members.version = value.as_str(),
                "id" => members.id = Some(value),
                "method" => members.method = Some(value),
                "result" => members.result = Some(value),
                "error" => members.error = Some(value),
                "params" => {}
                _ => return Err(ListError::Answer("a message of the answer has an unknown member")),
            }
        }
        if members.version.as_deref() == Some("2.0") {
            Ok(members)
        } else {
            Err(ListError::Answer("a message of the answer is not of JSON-RPC 2.0"))
        }
    }
}

impl Answer<'_> {
    fn message(&self, text: &[u8]) -> Result<Message, ListError> {
        let document = json::parse(text, &LIMITS)?;
        let root = document.root();
        let members = Members::read(root)?;
        match (members.method, members.result, members.error) {
            (None, Some(result), None) => {
                self.check_id(members.id, false)?;
                self.result(result).map(Message::Answer)
            }
            (None, None, Some(error)) if error.kind() == Kind::Object => {
                self.check_id(members.id, true)?;
                Ok(Message::Answer(root.raw().to_owned()))
            }
            (Some(method), None, None) if method.kind() == Kind::String && members.id.is_none() => {
                Ok(Message::Notification(root.raw().to_owned()))
            }
            // A question of the service has no answer while its own is held.
            _ => Err(ListError::Answer("a message is neither the answer nor a notification")),
        }
    }

    /// An answer to another request would be filtered by the wrong rules. An error may come without an id.
    fn check_id(&self, given: Option<Value<'_>>, is_error: bool) -> Result<(), ListError> {
        let asked = json::parse(self.id.as_bytes(), &Limits::REQUEST)?;
        let is_same = match given {
            Some(given) if given.kind() == Kind::String => given.as_str() == asked.root().as_str(),
            Some(given) if given.kind() == Kind::Number => given.raw() == self.id,
            Some(given) => is_error && given.is_null(),
            None => is_error,
        };
        if is_same {
            Ok(())
        } else {
            Err(ListError::Answer("the answer is to another request"))
        }
    }

    fn result(&self, result: Value<'_>) -> Result<String, ListError> {
        let mut out = format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{", self.id);
        let (mut listed, mut is_cacheable) = (false, false);
        for (key, value) in result.entries().ok_or(ListError::Answer("the result is no object"))? {
            let key = &*key;
            let raw = match (key, value.kind()) {
                (member, Kind::Array) if member == self.list.member() => {
                    listed = true;
                    Cow::Owned(self.entries(value)?)
                }
                ("resultType", Kind::String) if value.as_str().as_deref() == Some("complete") => {
                    is_cacheable = true;
                    Cow::Borrowed(value.raw())
                }
                ("ttlMs", Kind::Number) => {
                    is_cacheable = true;
                    Cow::Borrowed(value.raw())
                }
                // Written anew below.
                ("cacheScope", Kind::String) => {
                    is_cacheable = true;
                    continue;
                }
                ("nextCursor", Kind::String | Kind::Null) | ("_meta", Kind::Object) => Cow::Borrowed(value.raw()),
                _ => return Err(ListError::Answer("the result has a member that no list has")),
            };
            member(&mut out, key, &raw);
        }
        if !listed {
            return Err(ListError::Answer("the result is no list of what was asked for"));
        }
        if is_cacheable {
            member(&mut out, "cacheScope", "\"private\"");
        }
        out.push_str("}}");
        Ok(out)
    }

    fn entries(&self, entries: Value<'_>) -> Result<String, ListError> {
        let mut out = String::from("[");
        for entry in entries.as_array().into_iter().flatten() {
            let name = only_member(entry, self.list.key()).and_then(|name| name.as_str());
            let name = name.ok_or(ListError::Answer("an entry of the list has not one name"))?;
            if (self.is_told)(&name, entry) {
                if out.len() > 1 {
                    out.push(',');
                }
                out.push_str(entry.raw());
            }
        }
        out.push(']');
        Ok(out)
    }
}

/// Appends a member to an object that is open. INVARIANT: `key` is one of the words above, which hold nothing to escape.
fn member(out: &mut String, key: &str, raw: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    out.push('"');
    out.push_str(key);
    out.push_str("\":");
    out.push_str(raw);
}
