//! The request as it came, and the facts that are decided on.
//!
//! [`RequestHead::parse`] refuses what two readers could read in two ways: duplicate headers, paths that have another
//! spelling, tunnels, method overrides. [`extract`] finds the service and turns the request into [`Facts`]; where the
//! right is named in the body it answers [`Extraction::NeedsBody`], and [`Pending::finish`] reads the whole body.
//! Nothing here looks at tokens, peers or policy: that is [`crate::decision`].

use std::borrow::Cow;

use crate::denial::{Code, Denial};
use crate::identity::{ServiceId, ToolName};
use crate::policy::{Bundle, Protocol, Service, ServiceIndex};
use crate::protocol::{http, mcp};
use crate::scope::Scope;

/// The longest path and query that are read; Envoy's own bound on all headers is 60 KiB.
pub const MAX_TARGET_BYTES: usize = 8 << 10;

/// Longer than any DNS name with a port.
const MAX_AUTHORITY_BYTES: usize = 512;

/// Which side of the connection the filter stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// In the sidecar of the service that is called. The boundary that counts.
    Inbound,
    /// In the sidecar of the agent that calls.
    Outbound,
}

impl Side {
    /// The word in records and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// Where the request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The side.
    pub side: Side,
    /// The port that the request came in on; used on the inbound side only.
    pub local_port: u16,
}

/// Header fields that decide, found in one pass.
#[derive(Clone, Copy, Debug, Default)]
struct Known<'a> {
    authorization: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    content_length: Option<&'a [u8]>,
    content_encoding: Option<&'a [u8]>,
    transfer_encoding: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    mcp_method: Option<&'a [u8]>,
    mcp_name: Option<&'a [u8]>,
    mcp_protocol_version: Option<&'a [u8]>,
}

/// A request's head that can be read in one way only.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    authority: &'a str,
    known: Known<'a>,
    headers: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> RequestHead<'a> {
    /// Reads header pairs as the proxy gives them: names in lower case, pseudo headers among them.
    ///
    /// # Errors
    ///
    /// `request_malformed`, `header_duplicate`, `path_not_canonical`, `method_override_refused`, `upgrade_refused` or
    /// `token_in_query`.
    pub fn parse<N: AsRef<[u8]>, V: AsRef<[u8]>>(pairs: &'a [(N, V)]) -> Result<Self, Denial> {
        let mut pseudo = Pseudo::default();
        let mut known = Known::default();
        let mut headers = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            let (name, value) = (name.as_ref(), value.as_ref());
            if name.first() == Some(&b':') {
                pseudo.take(name, value)?;
            } else {
                known.take(name, value, &headers)?;
                headers.push((name, value));
            }
        }
        let method = text(pseudo.method, ":method")?;
        if !is_token(method.as_bytes()) {
            return Err(Denial::new(Code::RequestMalformed, "the method is not a token"));
        }
        if method.eq_ignore_ascii_case("CONNECT") {
            return Err(Denial::new(Code::UpgradeRefused, "CONNECT is refused"));
        }
        let authority = text(pseudo.authority, ":authority")?;
        if authority.is_empty()
            || authority.len() > MAX_AUTHORITY_BYTES
            || !authority.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Denial::new(Code::RequestMalformed, "the authority is not a host"));
        }
        known.check_framing()?;
        if known.host.is_some_and(|host| host != authority.as_bytes()) {
            return Err(Denial::new(Code::HeaderDuplicate, "`host` differs from `:authority`"));
        }
        let target = pseudo
            .path
            .ok_or_else(|| Denial::new(Code::RequestMalformed, "`:path` is missing"))?;
        let (path, query) = canonical_target(target)?;
        if query.is_some_and(holds_token) {
            return Err(Denial::new(
                Code::TokenInQuery,
                "a token belongs in a header, never in the query string",
            ));
        }
        Ok(Self {
            method,
            path,
            query,
            authority,
            known,
            headers,
        })
    }

    /// The method, exactly as sent.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// The canonical path, without the query; byte for byte what goes on.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// The query, without its question mark. Nothing is decided on it.
    pub fn query(&self) -> Option<&'a str> {
        self.query
    }

    /// The authority, with its port if one was sent.
    pub fn authority(&self) -> &'a str {
        self.authority
    }

    /// The first value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers
            .iter()
            .find(|(candidate, _)| *candidate == name.as_bytes())
            .map(|(_, value)| *value)
    }

    /// The bearer token in the service's token header, or None if that header is absent.
    ///
    /// # Errors
    ///
    /// `header_duplicate` if the header occurs more than once or holds a list, `token_missing` if it holds
    /// credentials of another scheme, `token_malformed` if what follows the scheme is not one token.
    pub fn bearer(&self, service: &Service) -> Result<Option<&'a str>, Denial> {
        let name = service.token_header();
        let mut values = self
            .headers
            .iter()
            .filter(|(candidate, _)| *candidate == name.as_bytes());
        let Some((_, value)) = values.next() else {
            return Ok(None);
        };
        // Proxies join a repeated header with a comma, which no token holds.
        if values.next().is_some() || value.contains(&b',') {
            return Err(Denial::new(Code::HeaderDuplicate, format!("`{name}` must occur once")));
        }
        bearer_token(value).map(Some)
    }

    pub(crate) fn content_type(&self) -> Option<&'a [u8]> {
        self.known.content_type
    }

    pub(crate) fn content_encoding(&self) -> Option<&'a [u8]> {
        self.known.content_encoding
    }

    /// The declared length of the body; its syntax has been checked.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.known
            .content_length
            .and_then(|value| std::str::from_utf8(value).ok())
            .and_then(|value| value.parse().ok())
    }

    pub(crate) fn mcp_headers(&self) -> mcp::Headers<'a> {
        mcp::Headers {
            protocol_version: self.known.mcp_protocol_version,
            method: self.known.mcp_method,
            name: self.known.mcp_name,
        }
    }
}

/// RFC 6750, section 2.1, with exactly one space: `Bearer TOKEN`.
fn bearer_token(value: &[u8]) -> Result<&str, Denial> {
    let (scheme, rest) = value.split_at_checked(6).unwrap_or((value, b""));
    if !scheme.eq_ignore_ascii_case(b"bearer") || !matches!(rest.first(), None | Some(b' ')) {
        return Err(Denial::new(
            Code::TokenMissing,
            "the credentials are not of the scheme `Bearer`",
        ));
    }
    let token = rest.get(1..).unwrap_or_default();
    let well_formed = !token.is_empty()
        && token
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'='));
    match std::str::from_utf8(token) {
        Ok(token) if well_formed => Ok(token),
        _ => Err(Denial::new(
            Code::TokenMalformed,
            "`Bearer` is followed by one space and one token",
        )),
    }
}

/// The pseudo headers of HTTP/2, which Envoy uses for HTTP/1.1 too.
#[derive(Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
}

impl<'a> Pseudo<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Denial> {
        let slot = match name {
            b":method" => &mut self.method,
            b":path" => &mut self.path,
            b":authority" => &mut self.authority,
            b":scheme" => &mut self.scheme,
            b":protocol" => return Err(Denial::new(Code::UpgradeRefused, "extended CONNECT is refused")),
            _ => return Err(Denial::new(Code::RequestMalformed, "an unknown pseudo header")),
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(Denial::new(
                Code::HeaderDuplicate,
                "a pseudo header occurs more than once",
            )),
        }
    }
}

impl<'a> Known<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8], earlier: &[(&[u8], &[u8])]) -> Result<(), Denial> {
        if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
            return Err(Denial::new(
                Code::RequestMalformed,
                "a header name is not a token in lower case",
            ));
        }
        let slot = match name {
            b"authorization" => &mut self.authorization,
            b"content-type" => &mut self.content_type,
            b"content-length" => &mut self.content_length,
            b"content-encoding" => &mut self.content_encoding,
            b"transfer-encoding" => &mut self.transfer_encoding,
            b"host" => &mut self.host,
            b"mcp-method" => &mut self.mcp_method,
            b"mcp-name" => &mut self.mcp_name,
            b"mcp-protocol-version" => &mut self.mcp_protocol_version,
            b"upgrade" | b"http2-settings" => {
                return Err(Denial::new(Code::UpgradeRefused, "upgrades are refused"));
            }
            b"connection" if names_upgrade(value) => {
                return Err(Denial::new(Code::UpgradeRefused, "upgrades are refused"));
            }
            _ => return check_other(name, earlier),
        };
        match slot.replace(value) {
            None => Ok(()),
            Some(_) => Err(duplicate(name)),
        }
    }

    /// Two lengths of one body are two bodies to two readers (request smuggling).
    fn check_framing(&self) -> Result<(), Denial> {
        let Some(length) = self.content_length else {
            return Ok(());
        };
        if self.transfer_encoding.is_some() {
            return Err(Denial::new(
                Code::RequestMalformed,
                "`content-length` beside `transfer-encoding`",
            ));
        }
        if length.is_empty() || length.len() > 19 || !length.iter().all(u8::is_ascii_digit) {
            return Err(Denial::new(Code::RequestMalformed, "`content-length` is not a number"));
        }
        Ok(())
    }
}

/// Names that no service may see from a caller, or that must occur once.
///
/// An underscore counts as a hyphen: CGI and WSGI applications cannot tell `ostiary_claims` from `ostiary-claims`.
fn check_other(name: &[u8], earlier: &[(&[u8], &[u8])]) -> Result<(), Denial> {
    if !matches!(name.first(), Some(b'x' | b'o' | b'm')) {
        return Ok(());
    }
    if ["x-http-method-override", "x-http-method", "x-method-override"]
        .iter()
        .any(|refused| is_spelling_of(name, refused))
    {
        return Err(Denial::new(Code::MethodOverrideRefused, "send the method itself"));
    }
    let internal = name.get(..8).is_some_and(|prefix| is_spelling_of(prefix, "ostiary-"));
    let mcp = name.get(..4).is_some_and(|prefix| is_spelling_of(prefix, "mcp-"));
    if !internal && !mcp {
        return Ok(());
    }
    if name.contains(&b'_') {
        return Err(Denial::new(
            Code::RequestMalformed,
            "an underscore in the name of a header that decides",
        ));
    }
    if earlier.iter().any(|(other, _)| *other == name) {
        return Err(duplicate(name));
    }
    Ok(())
}

fn is_spelling_of(name: &[u8], spelling: &str) -> bool {
    name.len() == spelling.len()
        && name
            .iter()
            .zip(spelling.bytes())
            .all(|(&a, b)| a == b || (a == b'_' && b == b'-'))
}

fn duplicate(name: &[u8]) -> Denial {
    Denial::new(
        Code::HeaderDuplicate,
        format!("`{}` must occur once", String::from_utf8_lossy(name)),
    )
}

fn names_upgrade(connection: &[u8]) -> bool {
    connection.split(|b| *b == b',').any(|option| {
        let option = option.trim_ascii();
        option.eq_ignore_ascii_case(b"upgrade") || option.eq_ignore_ascii_case(b"http2-settings")
    })
}

fn text<'a>(value: Option<&'a [u8]>, name: &'static str) -> Result<&'a str, Denial> {
    let value = value.ok_or_else(|| Denial::new(Code::RequestMalformed, format!("`{name}` is missing")))?;
    std::str::from_utf8(value).map_err(|_| Denial::new(Code::RequestMalformed, format!("`{name}` is not UTF-8")))
}

/// `token` of RFC 9110, section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty()
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

/// Splits a request target into path and query if the path is already canonical.
///
/// The bytes that go on are the bytes that were decided on, so nothing is normalised here; what a proxy or an
/// application could read as another path is refused.
fn canonical_target(target: &[u8]) -> Result<(&str, Option<&str>), Denial> {
    if target.len() > MAX_TARGET_BYTES {
        return Err(not_canonical("longer than 8 KiB"));
    }
    if !target.iter().all(|b| b.is_ascii_graphic() && *b != b'#') {
        return Err(not_canonical(
            "it holds a control, blank or non-ASCII byte, or a fragment",
        ));
    }
    let target = std::str::from_utf8(target).map_err(|_| not_canonical("it is not UTF-8"))?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    check_path(path)?;
    Ok((path, query))
}

fn check_path(path: &str) -> Result<(), Denial> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err(not_canonical("it does not start with `/`"));
    };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            // A trailing slash is a path of its own; it matches no route that is not written so.
            "" if segments.peek().is_some() => return Err(not_canonical("an empty segment")),
            "." | ".." => return Err(not_canonical("a dot segment")),
            _ => check_segment(segment.as_bytes())?,
        }
    }
    Ok(())
}

fn check_segment(segment: &[u8]) -> Result<(), Denial> {
    let mut bytes = segment.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'%' => match (bytes.next().copied().and_then(hex), bytes.next().copied().and_then(hex)) {
                (Some(high), Some(low)) => check_escaped(high << 4 | low)?,
                _ => {
                    return Err(not_canonical(
                        "a bad percent escape (two hexadecimal digits in upper case)",
                    ));
                }
            },
            b'\\' | b';' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                return Err(not_canonical("a byte that paths may not hold"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Upper case only: RFC 3986, section 6.2.2.1, calls that the canonical form.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// What an escape may stand for: nothing that needs no escape, and nothing that means another path once unescaped.
/// `%25` would be a second layer of escapes for a reader that unescapes twice.
fn check_escaped(byte: u8) -> Result<(), Denial> {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            Err(not_canonical("an escape of a character that needs none"))
        }
        b'/' | b'\\' | b';' | b'%' | b'#' | b'?' | 0..=0x1f | 0x7f => {
            Err(not_canonical("an escaped separator or control byte"))
        }
        _ => Ok(()),
    }
}

fn not_canonical(why: &'static str) -> Denial {
    Denial::new(Code::PathNotCanonical, why)
}

/// Whether the query has a parameter named `access_token` (RFC 6750, section 2.3), however it is spelt.
fn holds_token(query: &str) -> bool {
    query.split(['&', ';']).any(|parameter| {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        unescape(name).eq_ignore_ascii_case(b"access_token")
    })
}

fn unescape(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = match (byte, tail) {
            (b'%', [high, low, after @ ..]) => hex(high.to_ascii_uppercase())
                .zip(hex(low.to_ascii_uppercase()))
                .map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((byte, tail));
        out.push(byte);
        rest = after;
    }
    Cow::Owned(out)
}

/// The right that a request needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Right {
    /// A scope, from an HTTP route.
    Scope(Scope),
    /// A tool, and the scope that its arguments ask for, if the service says so.
    Tool {
        /// The tool as the body names it.
        name: ToolName,
        /// The scope that the service's template makes of the arguments.
        scope: Option<Scope>,
    },
    /// Part of every MCP session, naming nothing: any valid, bound token whose agent reaches the service.
    Session,
    /// No route, but one that an exempt peer may call without a capability.
    Exempt,
    /// An endpoint of the policy server that applications may call without a capability.
    ControlPlane,
}

/// What a request is, as far as a decision needs it. The audit record carries it, so that the decision can be made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The service; None for the policy server, which is no service of the bundle.
    pub service: Option<ServiceId>,
    /// The protocol that the request was read by.
    pub protocol: Protocol,
    /// The HTTP method.
    pub method: String,
    /// The canonical path, without the query.
    pub path: String,
    /// Path segments by the route's names for them.
    pub captures: Vec<(String, String)>,
    /// The captured segment that must equal the caller's agent id.
    pub own: Option<String>,
    /// The right that is needed.
    pub right: Right,
    /// The JSON-RPC id, as raw JSON.
    pub rpc_id: Option<String>,
    /// The JSON-RPC method.
    pub rpc_method: Option<String>,
}

/// What the headers alone could tell.
#[derive(Debug)]
pub enum Extraction {
    /// Everything.
    Ready(Facts),
    /// The right is named in the body, which must be held to its end.
    NeedsBody(Pending),
}

/// A request whose right is named in its body.
#[derive(Debug)]
pub struct Pending {
    service: ServiceId,
    body_limit_bytes: usize,
    path: String,
    headers: mcp::OwnedHeaders,
}

/// Finds the service that a request is for, and what the request needs as far as its headers tell.
///
/// Inbound, the workload's own identity and the port choose the service, and the host must be one of its names;
/// outbound, the host chooses. `end_of_stream` says that there is no body.
///
/// # Errors
///
/// `service_unknown`, `host_unknown`, `endpoint_refused`, `route_unknown`, or what the protocol's reading refuses.
pub fn extract(
    head: &RequestHead<'_>,
    listener: Listener,
    bundle: &Bundle,
    end_of_stream: bool,
) -> Result<Extraction, Denial> {
    let index = match listener.side {
        Side::Inbound => exposed(head, listener.local_port, bundle)?,
        Side::Outbound if bundle.policy_server().answers_to(head.authority()) => {
            return control_plane(head).map(Extraction::Ready);
        }
        Side::Outbound => bundle.service_named(head.authority()).ok_or_else(|| {
            Denial::new(
                Code::ServiceUnknown,
                "no service that this workload may reach has this host",
            )
        })?,
    };
    let service = bundle
        .service(index)
        .ok_or_else(|| Denial::new(Code::InternalError, "the service has no entry"))?;
    if http::is_exempt_for_some(head.method(), head.path(), service) && !has_right(head, service) {
        return Ok(Extraction::Ready(Facts::new(
            head,
            Some(service.id()),
            service.protocol(),
            Right::Exempt,
        )));
    }
    match service.protocol() {
        Protocol::Http => {
            let found = http::route(head, service)?;
            Ok(Extraction::Ready(Facts {
                captures: found.captures,
                own: found.own,
                ..Facts::new(head, Some(service.id()), Protocol::Http, found.right)
            }))
        }
        Protocol::Mcp => mcp_pending(head, service, end_of_stream).map(Extraction::NeedsBody),
    }
}

/// The service that this workload exposes on `port`. A host that is not its own was meant for someone else.
fn exposed(head: &RequestHead<'_>, port: u16, bundle: &Bundle) -> Result<ServiceIndex, Denial> {
    let index = bundle
        .service_exposed_on(port)
        .ok_or_else(|| Denial::new(Code::ServiceUnknown, "no service is exposed on this port"))?;
    match bundle.service(index) {
        Some(service) if service.answers_to(head.authority()) => Ok(index),
        Some(_) | None => Err(Denial::new(
            Code::HostUnknown,
            "the host is not one of this service's names",
        )),
    }
}

/// Whether a request that some peers may make without a capability is one that others may make with it.
fn has_right(head: &RequestHead<'_>, service: &Service) -> bool {
    match service.protocol() {
        Protocol::Http => http::route(head, service).is_ok(),
        Protocol::Mcp => false,
    }
}

/// The two endpoints of the policy server that applications may call. Their callers are authenticated by the policy
/// server itself, so no capability is needed.
fn control_plane(head: &RequestHead<'_>) -> Result<Facts, Denial> {
    match (head.method(), head.path()) {
        ("POST", "/v1/tokens") | ("GET", "/.well-known/jwks.json") => {
            Ok(Facts::new(head, None, Protocol::Http, Right::ControlPlane))
        }
        _ => Err(Denial::new(
            Code::EndpointRefused,
            "applications may call only `POST /v1/tokens` and `GET /.well-known/jwks.json`",
        )),
    }
}

fn mcp_pending(head: &RequestHead<'_>, service: &Service, end_of_stream: bool) -> Result<Pending, Denial> {
    let is_endpoint = service
        .endpoint()
        .is_some_and(|endpoint| endpoint.captures(head.path()).is_some());
    if !is_endpoint {
        return Err(Denial::new(
            Code::RouteUnknown,
            "the path is not the service's MCP endpoint",
        ));
    }
    let headers = mcp::check_head(head, service.body_limit_bytes(), end_of_stream)?;
    Ok(Pending {
        service: service.id().clone(),
        body_limit_bytes: service.body_limit_bytes(),
        path: head.path().to_owned(),
        headers,
    })
}

impl Facts {
    fn new(head: &RequestHead<'_>, service: Option<&ServiceId>, protocol: Protocol, right: Right) -> Self {
        Self {
            service: service.cloned(),
            protocol,
            method: head.method().to_owned(),
            path: head.path().to_owned(),
            captures: Vec::new(),
            own: None,
            right,
            rpc_id: None,
            rpc_method: None,
        }
    }
}

impl Pending {
    /// The service that the request is for.
    pub fn service(&self) -> &ServiceId {
        &self.service
    }

    /// The most bytes that may be held before the request is refused with `body_too_large`.
    pub fn body_limit_bytes(&self) -> usize {
        self.body_limit_bytes
    }

    /// The denial of a body that is longer than that.
    pub fn too_large(&self) -> Denial {
        mcp::too_large(self.body_limit_bytes)
    }

    /// Reads the whole body. The service is looked up again: the bundle may be newer than the one that the headers met.
    ///
    /// # Errors
    ///
    /// `body_too_large`, `service_unknown`, or what the protocol's reading refuses.
    pub fn finish(self, bundle: &Bundle, body: &[u8]) -> Result<Facts, Denial> {
        if body.len() > self.body_limit_bytes {
            return Err(self.too_large());
        }
        let service = bundle
            .service_with_id(&self.service)
            .and_then(|index| bundle.service(index))
            .filter(|service| service.protocol() == Protocol::Mcp)
            .ok_or_else(|| Denial::new(Code::ServiceUnknown, "the service is no longer known"))?;
        let message = mcp::read(body, service, &self.headers)?;
        Ok(Facts {
            service: Some(self.service),
            protocol: Protocol::Mcp,
            method: "POST".to_owned(),
            path: self.path,
            captures: Vec::new(),
            own: None,
            right: message.right,
            rpc_id: message.id,
            rpc_method: Some(message.method),
        })
    }
}
