//! MCP over streamable HTTP, in both eras: with the headers of 2026-07-28 and without.
//!
//! The right comes from the body alone: every method that names something is authorised by that name, in [`named`].
//! What a list tells is for [`list`]. Headers that repeat what the body says are never trusted, but must agree with
//! it: an intermediary may route or log by them. Members that are not known are refused, because a reader that folds
//! case (Go's `encoding/json` takes `Name` for `name`) would act on a member that this one ignored.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::body;
use super::jsonrpc::{Envelope, Refusals};
use crate::denial::{Code, Denial};
use crate::json::Value;
use crate::policy::Service;
use crate::request::{RequestHead, Right};

pub mod list;
mod named;
pub(super) mod tasks;

use crate::session::SESSION_HEADER;
use named::Name;
pub(crate) use named::resource_need;

const REFUSALS: Refusals = Refusals {
    malformed: Code::McpMalformed,
    batch: Code::McpBatch,
    method: Code::McpMethodRefused,
};

/// Before 2026-07-28: the event after which a stream is to go on.
const EVENT_HEADER: &str = "last-event-id";

/// The member of `params` or of a `result` that says more of the message.
const META: &str = "_meta";

/// Where a body of 2026-07-28 repeats the protocol version.
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// What the protocol version asks of the headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Era {
    /// `Mcp-Method` and `Mcp-Name` are unknown; they must agree with the body if they are there.
    Legacy,
    /// `Mcp-Method` and `Mcp-Name` are required.
    Headers,
}

/// The protocol versions whose rules are known. An unknown one is refused: it may name rights in ways not read here.
const VERSIONS: [(&str, Era); 4] = [
    ("2025-03-26", Era::Legacy),
    ("2025-06-18", Era::Legacy),
    ("2025-11-25", Era::Legacy),
    ("2026-07-28", Era::Headers),
];

/// What a method asks for.
enum Method {
    /// Names something in its `params`.
    Named(named::Read),
    /// The same, of tasks, which few services let be named.
    OfTasks(named::Read),
    /// A request that names nothing.
    Session,
    /// A notification.
    Notification,
    /// Unknown.
    Refused,
}

impl Method {
    fn of(name: &str) -> Self {
        match name {
            "tools/call" => Self::Named(named::tool_call),
            "prompts/get" => Self::Named(named::prompt),
            "resources/read" => Self::Named(named::resource),
            // Before 2026-07-28.
            "resources/subscribe" | "resources/unsubscribe" => Self::Named(named::subscription),
            "completion/complete" => Self::Named(named::completion),
            // Since 2026-07-28.
            named::LISTEN => Self::Named(named::listening),
            // `update` since 2026-07-28, `result` and `list` before.
            "tasks/get" | "tasks/result" | "tasks/cancel" => Self::OfTasks(named::task),
            "tasks/update" => Self::OfTasks(named::task_update),
            "tasks/list" => Self::OfTasks(named::task_list),
            "initialize"
            | "ping"
            | "server/discover"
            | "tools/list"
            | "prompts/list"
            | "resources/list"
            | "resources/templates/list"
            | "logging/setLevel" => Self::Session,
            "notifications/initialized"
            | "notifications/cancelled"
            | "notifications/progress"
            | "notifications/roots/list_changed" => Self::Notification,
            // It may name things.
            _ => Self::Refused,
        }
    }
}

/// The headers that repeat what the body says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Headers<'a> {
    /// `MCP-Protocol-Version`.
    pub(crate) protocol_version: Option<&'a [u8]>,
    /// `Mcp-Method`.
    pub(crate) method: Option<&'a [u8]>,
    /// `Mcp-Name`.
    pub(crate) name: Option<&'a [u8]>,
}

/// [`Headers`] kept until the body is there.
#[derive(Clone, Debug)]
pub(crate) struct OwnedHeaders {
    version: Option<(&'static str, Era)>,
    method: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
}

/// What a message asks for.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) right: Right,
    /// None for what is no request.
    pub(crate) id: Option<String>,
    /// None for an answer.
    pub(crate) method: Option<String>,
    /// The id of the one task that its method names.
    pub(crate) task: Option<String>,
}

/// Checks what the headers of a message must be, once the path is known to be the service's endpoint.
///
/// # Errors
///
/// `method_not_allowed`, `body_encoded`, `media_type_refused`, `body_too_large`, `mcp_header_mismatch`, or
/// `mcp_malformed` where no body will come.
pub(crate) fn check_head(
    head: &RequestHead<'_>,
    limit_bytes: usize,
    end_of_stream: bool,
) -> Result<OwnedHeaders, Denial> {
    if head.method() != "POST" {
        return Err(not_allowed());
    }
    refuse_resumption(head)?;
    body::check(head, &[body::JSON], "the body must be `application/json`", limit_bytes)?;
    let headers = head.mcp_headers();
    let version = headers.protocol_version.map(known_version).transpose()?;
    if end_of_stream {
        return Err(malformed("there is no body"));
    }
    Ok(OwnedHeaders {
        version,
        method: headers.method.map(<[u8]>::to_vec),
        name: headers.name.map(<[u8]>::to_vec),
    })
}

/// Whether it is a request of a session without a message, as there are before 2026-07-28: `DELETE` ends the session, and `GET`
/// opens the stream of what the server says by itself. Whose the session is, is told by its id.
///
/// # Errors
///
/// `method_not_allowed` if the version has no sessions; `mcp_malformed` with a body, or for the end of no session;
/// `mcp_header_mismatch`.
pub(crate) fn is_of_session(head: &RequestHead<'_>, end_of_stream: bool) -> Result<bool, Denial> {
    let is_end = match head.method() {
        "DELETE" => true,
        // Any other is refused as it is by a server that has no such stream: its clients go on without.
        "GET" if head.header(SESSION_HEADER).is_some() && !head.names(EVENT_HEADER) => false,
        _ => return Ok(false),
    };
    let headers = head.mcp_headers();
    if let Some((_, Era::Headers)) = headers.protocol_version.map(known_version).transpose()? {
        return Err(not_allowed());
    }
    if headers.method.is_some() || headers.name.is_some() {
        return Err(mismatch("a request without a message has no method and names nothing"));
    }
    refuse_resumption(head)?;
    if is_end && head.header(SESSION_HEADER).is_none() {
        return Err(malformed("`DELETE` ends the session of an `Mcp-Session-Id`"));
    }
    if !end_of_stream {
        return Err(malformed("a request of a session that is no message has no body"));
    }
    Ok(true)
}

/// `Last-Event-ID` names a place in a stream, by an id that the server gave to nobody knows whom: what a server that keeps the
/// events of all sessions together replays from there may be another's.
fn refuse_resumption(head: &RequestHead<'_>) -> Result<(), Denial> {
    match head.names(EVENT_HEADER) {
        true => Err(mismatch("no stream is resumed by `Last-Event-ID`")),
        false => Ok(()),
    }
}

fn not_allowed() -> Denial {
    Denial::new(Code::MethodNotAllowed, "MCP messages are sent by POST").with_allow("POST")
}

fn known_version(value: &[u8]) -> Result<(&'static str, Era), Denial> {
    VERSIONS
        .into_iter()
        .find(|(version, _)| version.as_bytes() == value)
        .ok_or_else(|| mismatch("`MCP-Protocol-Version` is not known"))
}

/// Reads a whole body.
///
/// # Errors
///
/// `mcp_malformed`, `mcp_batch`, `mcp_header_mismatch`, `mcp_method_refused`, `tool_not_offered`, or
/// `scope_not_granted` where the arguments make no scope; each with the id of the request if there is one.
pub(crate) fn read(body: &[u8], service: &Service, headers: &OwnedHeaders) -> Result<Message, Denial> {
    let document = REFUSALS.parse(body)?;
    let envelope = Envelope::read(document.root(), REFUSALS)?;
    // Its id is the server's: told to the client, it would be taken for one of the client's own.
    if envelope.is_answer(REFUSALS)? {
        return answer(&envelope, service, headers);
    }
    let id = envelope.id;
    understand(&envelope, service, headers).map_err(|denial| denial.with_rpc_id(id))
}

fn understand(envelope: &Envelope<'_>, service: &Service, headers: &OwnedHeaders) -> Result<Message, Denial> {
    let method = envelope.method(REFUSALS)?;
    check_version(envelope, headers)?;
    check_method_header(envelope, method, headers)?;
    if tasks::related(envelope.params)?.is_some() {
        tasks::check(service)?;
    }
    let mut task = None;
    let mut named = |read: named::Read| {
        require_id(envelope, true)?;
        let asked = read(envelope.params)?;
        check_name_header(asked.name(), headers)?;
        task = asked.task();
        asked.right(service)
    };
    let right = match Method::of(method) {
        Method::Refused => {
            let why = "this method is not served by this version";
            return Err(Denial::new(Code::McpMethodRefused, why));
        }
        Method::Named(read) => named(read)?,
        Method::OfTasks(read) => {
            tasks::check(service)?;
            named(read)?
        }
        Method::Session => {
            require_id(envelope, true)?;
            check_name_header(Name::Nothing, headers)?;
            Right::Session
        }
        Method::Notification => {
            require_id(envelope, false)?;
            check_name_header(Name::Nothing, headers)?;
            Right::Session
        }
    };
    Ok(Message {
        right,
        id: envelope.id.map(str::to_owned),
        method: Some(method.to_owned()),
        task,
    })
}

/// What a client says to a question of the server's (`sampling/createMessage`, `elicitation/create`, `roots/list`, `ping`). It
/// names nothing; since 2026-07-28 a retry brings it, in `inputResponses`.
fn answer(envelope: &Envelope<'_>, service: &Service, headers: &OwnedHeaders) -> Result<Message, Denial> {
    if requires_headers(headers) {
        let why = "answers are sent by a retry of what they are for";
        return Err(Denial::new(Code::McpMethodRefused, why));
    }
    if tasks::related(envelope.outcome())?.is_some() {
        tasks::check(service)?;
    }
    match (&headers.method, &headers.name) {
        (None, None) => Ok(Message {
            right: Right::Session,
            id: None,
            method: None,
            task: None,
        }),
        _ => Err(mismatch("an answer has neither `Mcp-Method` nor `Mcp-Name`")),
    }
}

fn member_of_params<'a>(envelope: &Envelope<'a>, name: &str) -> Option<Value<'a>> {
    envelope.params.and_then(|params| params.get(name))
}

fn require_id(envelope: &Envelope<'_>, request: bool) -> Result<(), Denial> {
    match (envelope.id.is_some(), request) {
        (true, true) | (false, false) => Ok(()),
        (false, true) => Err(malformed("a request needs an `id`")),
        (true, false) => Err(malformed("a notification has no `id`")),
    }
}

/// The version in the body must be the one in the header; where the header asks for the new rules, a request must have it.
fn check_version(envelope: &Envelope<'_>, headers: &OwnedHeaders) -> Result<(), Denial> {
    let meta = envelope
        .params
        .and_then(|params| params.get(META))
        .and_then(|meta| meta.get(META_VERSION));
    match (headers.version, meta) {
        (None, None) | (Some((_, Era::Legacy)), None) => Ok(()),
        (Some((_, Era::Headers)), None) if envelope.id.is_none() => Ok(()),
        (Some((_, Era::Headers)), None) => Err(mismatch("the body's `_meta` lacks the protocol version")),
        (None, Some(_)) => Err(mismatch("`MCP-Protocol-Version` is missing")),
        (Some((version, _)), Some(meta)) if meta.as_str().as_deref() == Some(version) => Ok(()),
        (Some(_), Some(_)) => Err(mismatch("`MCP-Protocol-Version` differs from the body")),
    }
}

fn check_method_header(envelope: &Envelope<'_>, method: &str, headers: &OwnedHeaders) -> Result<(), Denial> {
    match &headers.method {
        Some(header) if header == method.as_bytes() => Ok(()),
        Some(_) => Err(mismatch("`Mcp-Method` differs from the body")),
        None if envelope.id.is_some() && requires_headers(headers) => Err(mismatch("`Mcp-Method` is missing")),
        None => Ok(()),
    }
}

/// `Mcp-Name` must be what the body names, and must not be there where the body names nothing.
fn check_name_header(name: Name<'_>, headers: &OwnedHeaders) -> Result<(), Denial> {
    match (&headers.name, name) {
        (None, Name::Repeated(_) | Name::Task(_)) if requires_headers(headers) => {
            Err(mismatch("`Mcp-Name` is missing"))
        }
        (None, _) => Ok(()),
        // By the method alone it is known to be the id of a task, before the body is there.
        (Some(_), Name::Task(_)) if headers.method.is_none() => {
            Err(mismatch("`Mcp-Name` names a task only beside `Mcp-Method`"))
        }
        (Some(header), Name::Repeated(name) | Name::Task(name) | Name::Known(name))
            if decode_name(header).as_deref() == Some(name.as_bytes()) =>
        {
            Ok(())
        }
        (Some(_), _) => Err(mismatch("`Mcp-Name` differs from the body")),
    }
}

fn requires_headers(headers: &OwnedHeaders) -> bool {
    matches!(headers.version, Some((_, Era::Headers)))
}

/// `=?base64?…?=` stands for what it encodes; anything else for itself.
fn decode_name(header: &[u8]) -> Option<Cow<'_, [u8]>> {
    match header
        .strip_prefix(b"=?base64?")
        .and_then(|rest| rest.strip_suffix(b"?="))
    {
        Some(encoded) => STANDARD.decode(encoded).ok().map(Cow::Owned),
        None => Some(Cow::Borrowed(header)),
    }
}

fn malformed(detail: impl Into<Cow<'static, str>>) -> Denial {
    Denial::new(Code::McpMalformed, detail)
}

fn mismatch(detail: &'static str) -> Denial {
    Denial::new(Code::McpHeaderMismatch, detail)
}

#[cfg(test)]
mod tests;
