//! MCP over streamable HTTP, in both eras: with the headers of 2026-07-28 and without.
//!
//! The right comes from the body alone. Headers that repeat what the body says are never trusted, but must agree with
//! it: an intermediary may route or log by them. Members that are not known are refused, because a reader that folds
//! case (Go's `encoding/json` takes `Name` for `name`) would act on a member that this one ignored.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::denial::{Code, Denial, Needed, RPC_PARSE_ERROR};
use crate::identity::ToolName;
use crate::json::{self, Kind, Limits, Value};
use crate::policy::Service;
use crate::request::{RequestHead, Right};
use crate::scope::{Capture, Scope, ScopeTemplate};

/// The longest JSON-RPC id that is accepted, in bytes: it is echoed and recorded.
const MAX_ID_BYTES: usize = 256;

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
    /// Calls the tool that `params.name` names.
    CallTool,
    /// A request that names nothing.
    Session,
    /// A notification.
    Notification,
    /// Known, but names what this version has no rule for; or unknown.
    Refused,
}

impl Method {
    fn of(name: &str) -> Self {
        match name {
            "tools/call" => Self::CallTool,
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
            // prompts/get, resources/read, resources/subscribe, completion/complete, subscriptions/*, tasks/* name
            // things; what is unknown may.
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
    pub(crate) id: Option<String>,
    pub(crate) method: String,
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
        return Err(Denial::new(Code::MethodNotAllowed, "MCP messages are sent by POST").with_allow("POST"));
    }
    if head
        .content_encoding()
        .is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity"))
    {
        return Err(Denial::new(
            Code::BodyEncoded,
            "send the body without `content-encoding`",
        ));
    }
    if !head.content_type().is_some_and(is_json) {
        return Err(Denial::new(
            Code::MediaTypeRefused,
            "the body must be `application/json`",
        ));
    }
    if head.content_length().is_some_and(|length| length > limit_bytes as u64) {
        return Err(too_large(limit_bytes));
    }
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

pub(crate) fn too_large(limit_bytes: usize) -> Denial {
    Denial::new(
        Code::BodyTooLarge,
        format!("the body may have at most {limit_bytes} bytes"),
    )
}

fn known_version(value: &[u8]) -> Result<(&'static str, Era), Denial> {
    VERSIONS
        .into_iter()
        .find(|(version, _)| version.as_bytes() == value)
        .ok_or_else(|| mismatch("`MCP-Protocol-Version` is not known"))
}

/// `application/json`, with no parameter but `charset=utf-8`.
fn is_json(content_type: &[u8]) -> bool {
    let mut parts = content_type.split(|b| *b == b';');
    let is_type = parts
        .next()
        .is_some_and(|part| part.trim_ascii().eq_ignore_ascii_case(b"application/json"));
    let charset = |part: &[u8]| {
        let part = part.trim_ascii();
        part.eq_ignore_ascii_case(b"charset=utf-8") || part.eq_ignore_ascii_case(b"charset=\"utf-8\"")
    };
    is_type && parts.next().is_none_or(charset) && parts.next().is_none()
}

/// Reads a whole body.
///
/// # Errors
///
/// `mcp_malformed`, `mcp_batch`, `mcp_header_mismatch`, `mcp_method_refused`, `tool_not_offered`, or
/// `scope_not_granted` where the arguments make no scope; each with the id of the request if there is one.
pub(crate) fn read(body: &[u8], service: &Service, headers: &OwnedHeaders) -> Result<Message, Denial> {
    let document = json::parse(body, &Limits::REQUEST)
        .map_err(|error| malformed(error.to_string()).with_rpc_code(RPC_PARSE_ERROR))?;
    let envelope = Envelope::read(document.root())?;
    let id = envelope.id;
    understand(&envelope, service, headers).map_err(|denial| denial.with_rpc_id(id))
}

/// A JSON-RPC 2.0 message.
struct Envelope<'a> {
    /// Raw JSON; None for a notification.
    id: Option<&'a str>,
    method: Option<Cow<'a, str>>,
    params: Option<Value<'a>>,
    version: Option<Cow<'a, str>>,
    is_response: bool,
}

impl<'a> Envelope<'a> {
    fn read(root: Value<'a>) -> Result<Self, Denial> {
        let Some(entries) = root.entries() else {
            return Err(match root.kind() {
                Kind::Array => Denial::new(Code::McpBatch, "send one message a request"),
                Kind::Null | Kind::Bool | Kind::Number | Kind::String | Kind::Object => {
                    malformed("the message is no object")
                }
            });
        };
        let mut envelope = Self {
            id: None,
            method: None,
            params: None,
            version: None,
            is_response: false,
        };
        for (key, value) in entries {
            match &*key {
                "jsonrpc" => envelope.version = value.as_str(),
                "id" => envelope.id = Some(request_id(value)?),
                "method" => envelope.method = Some(value.as_str().ok_or_else(|| malformed("`method` is no string"))?),
                "params" if value.kind() == Kind::Object => envelope.params = Some(value),
                "params" => return Err(malformed("`params` is no object")),
                "result" | "error" => envelope.is_response = true,
                _ => {
                    return Err(malformed(
                        "an unknown member beside `jsonrpc`, `id`, `method` and `params`",
                    ));
                }
            }
        }
        Ok(envelope)
    }
}

/// A string, or an integer of 64 bits; MCP forbids null.
fn request_id(value: Value<'_>) -> Result<&str, Denial> {
    let valid = match value.kind() {
        Kind::String => true,
        Kind::Number => value.as_i64().is_some() || value.as_u64().is_some(),
        Kind::Null | Kind::Bool | Kind::Array | Kind::Object => false,
    };
    if valid && value.raw().len() <= MAX_ID_BYTES {
        Ok(value.raw())
    } else {
        Err(malformed("`id` is neither a short string nor an integer"))
    }
}

fn understand(envelope: &Envelope<'_>, service: &Service, headers: &OwnedHeaders) -> Result<Message, Denial> {
    if envelope.version.as_deref() != Some("2.0") {
        return Err(malformed("`jsonrpc` is not \"2.0\""));
    }
    let Some(method) = envelope.method.as_deref() else {
        return Err(if envelope.is_response {
            Denial::new(
                Code::McpMethodRefused,
                "answers to the server's requests are not served by this version",
            )
        } else {
            malformed("`method` is missing")
        });
    };
    if envelope.is_response {
        return Err(malformed("a message is a request or an answer, not both"));
    }
    check_version(envelope, headers)?;
    check_method_header(envelope, method, headers)?;
    let right = match Method::of(method) {
        Method::Refused => {
            return Err(Denial::new(
                Code::McpMethodRefused,
                "this method is not served by this version",
            ));
        }
        Method::CallTool => {
            require_id(envelope, true)?;
            let call = ToolCall::read(envelope.params)?;
            check_name_header(Some(&call.name), headers)?;
            call.right(service)?
        }
        Method::Session => {
            require_id(envelope, true)?;
            check_name_header(None, headers)?;
            Right::Session
        }
        Method::Notification => {
            require_id(envelope, false)?;
            check_name_header(None, headers)?;
            Right::Session
        }
    };
    Ok(Message {
        right,
        id: envelope.id.map(str::to_owned),
        method: method.to_owned(),
    })
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
        .and_then(|params| params.get("_meta"))
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

/// `Mcp-Name` must be the tool's name, and must not be there where the body names nothing.
fn check_name_header(name: Option<&ToolName>, headers: &OwnedHeaders) -> Result<(), Denial> {
    match (&headers.name, name) {
        (None, None) => Ok(()),
        (None, Some(_)) if requires_headers(headers) => Err(mismatch("`Mcp-Name` is missing")),
        (None, Some(_)) => Ok(()),
        (Some(header), Some(name)) if decode_name(header).as_deref() == Some(name.as_str().as_bytes()) => Ok(()),
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

/// The `params` of `tools/call`.
struct ToolCall<'a> {
    name: ToolName,
    arguments: Option<Value<'a>>,
}

impl<'a> ToolCall<'a> {
    fn read(params: Option<Value<'a>>) -> Result<Self, Denial> {
        let entries = params
            .and_then(|params| params.entries())
            .ok_or_else(|| malformed("`params` is missing"))?;
        let (mut name, mut arguments) = (None, None);
        for (key, value) in entries {
            match &*key {
                "name" => name = Some(tool_name(value)?),
                "arguments" if value.kind() == Kind::Object => arguments = Some(value),
                "arguments" => return Err(malformed("`params.arguments` is no object")),
                // A retry with answers to the server's questions is a call like any other.
                "_meta" | "task" | "inputResponses" | "requestState" => {}
                _ => return Err(malformed("an unknown member of `params`")),
            }
        }
        let name = name.ok_or_else(|| malformed("`params.name` is missing"))?;
        Ok(Self { name, arguments })
    }

    fn right(self, service: &Service) -> Result<Right, Denial> {
        let Some(offered) = service.tool(self.name.as_str()) else {
            return Err(
                Denial::new(Code::ToolNotOffered, "the service offers no tool of this name").with_needed(Needed {
                    tool: Some(self.name.to_string()),
                    ..Needed::default()
                }),
            );
        };
        let scope = offered
            .scope
            .as_ref()
            .map(|template| self.scope(template))
            .transpose()?;
        Ok(Right::Tool { name: self.name, scope })
    }

    fn scope(&self, template: &ScopeTemplate) -> Result<Scope, Denial> {
        let values: Vec<Option<Cow<'_, str>>> = template
            .captures()
            .map(|capture| argument(self.arguments, capture))
            .collect();
        let mut values = values.iter();
        template
            .render(|_| values.next().and_then(|value| value.as_deref()))
            .map_err(|_| {
                Denial::new(
                    Code::ScopeNotGranted,
                    "an argument that the needed scope is made of is missing or is not one segment",
                )
                .with_needed(Needed {
                    tool: Some(self.name.to_string()),
                    ..Needed::default()
                })
            })
    }
}

fn tool_name(value: Value<'_>) -> Result<ToolName, Denial> {
    value
        .as_str()
        .and_then(|name| ToolName::parse(&name).ok())
        .ok_or_else(|| malformed("`params.name` is no tool name: 1 to 128 of A-Z, a-z, 0-9, `_`, `.` and `-`"))
}

/// The string that a capture points at (RFC 6901).
fn argument<'a>(arguments: Option<Value<'a>>, capture: &Capture) -> Option<Cow<'a, str>> {
    match capture {
        Capture::Path(_) => None,
        Capture::Argument(pointer) => {
            let mut value = arguments?;
            for token in pointer.strip_prefix('/')?.split('/') {
                let token = token.replace("~1", "/").replace("~0", "~");
                value = match value.kind() {
                    Kind::Object => only_member(value, &token)?,
                    Kind::Array => value.as_array()?.nth(array_index(&token)?)?,
                    Kind::Null | Kind::Bool | Kind::Number | Kind::String => return None,
                };
            }
            value.as_str()
        }
    }
}

/// The member of this name, unless another differs from it only by case: a reader that folds case would take either.
fn only_member<'a>(object: Value<'a>, name: &str) -> Option<Value<'a>> {
    let mut found = None;
    for (key, value) in object.entries()? {
        if *key == *name {
            found = Some(value);
        } else if fold(&key).eq(fold(name)) {
            return None;
        }
    }
    found
}

/// Simple case folding: `ſ` and the Kelvin sign are letters of ASCII to some readers.
fn fold(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

fn array_index(token: &str) -> Option<usize> {
    let canonical = token == "0" || (!token.starts_with('0') && token.bytes().all(|b| b.is_ascii_digit()));
    if canonical { token.parse().ok() } else { None }
}

fn malformed(detail: impl Into<Cow<'static, str>>) -> Denial {
    Denial::new(Code::McpMalformed, detail)
}

fn mismatch(detail: &'static str) -> Denial {
    Denial::new(Code::McpHeaderMismatch, detail)
}

#[cfg(test)]
mod tests;
