//! The head of a request, read in one pass and refused if it could be read in two ways.

use super::target;
use crate::denial::{Code, Denial};
use crate::policy::Service;
use crate::protocol::{http, mcp};

/// Longer than any DNS name with a port.
const MAX_AUTHORITY_BYTES: usize = 512;

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
    a2a_version: Option<&'a [u8]>,
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
        let (path, query) = target::split(target)?;
        if query.is_some_and(target::overrides_method) {
            return Err(Denial::new(Code::MethodOverrideRefused, "send the method itself"));
        }
        if query.is_some_and(target::holds_token) {
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

    /// The query, without its question mark. Only the parameters that a route names are decided on.
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

    /// The path that `Destination` names on this very authority (RFC 4918, section 10.3), if the header is there.
    ///
    /// # Errors
    ///
    /// `header_duplicate` if it occurs more than once, `request_malformed` if it names another authority or a query, or
    /// `path_not_canonical`.
    pub(crate) fn destination(&self) -> Result<Option<&'a str>, Denial> {
        let is_destination = |(name, _): &&(&[u8], &[u8])| *name == http::DESTINATION.as_bytes();
        let mut values = self.headers.iter().filter(is_destination);
        let Some((name, value)) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(duplicate(name));
        }
        let target = match value.strip_prefix(b"http://").or(value.strip_prefix(b"https://")) {
            Some(rest) => rest
                .strip_prefix(self.authority.as_bytes())
                .ok_or_else(|| Denial::new(Code::RequestMalformed, "`Destination` names another authority"))?,
            None => value,
        };
        match target::split(target)? {
            (path, None) => Ok(Some(path)),
            (_, Some(_)) => Err(Denial::new(Code::RequestMalformed, "`Destination` has a query")),
        }
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
        let once = values.next().is_none();
        match bearer_token(value) {
            Ok(token) if once => Ok(Some(token)),
            // Proxies join a repeated header with a comma, which no token holds.
            Err(denial) if once && !value.contains(&b',') => Err(denial),
            Ok(_) | Err(_) => Err(Denial::new(Code::HeaderDuplicate, format!("`{name}` must occur once"))),
        }
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

    /// Whether a header is there, an underscore in its name counting as a hyphen.
    pub(crate) fn names(&self, wanted: &str) -> bool {
        self.headers.iter().any(|(name, _)| is_spelling_of(name, wanted))
    }

    /// `A2A-Version`; an underscore counts as a hyphen, so that what is spelt with one is another version to some.
    ///
    /// # Errors
    ///
    /// `header_duplicate`.
    pub(crate) fn a2a_version(&self) -> Result<Option<&'a [u8]>, Denial> {
        let name = "a2a-version";
        let mut headers = self.headers.iter();
        if headers.any(|(other, _)| *other != name.as_bytes() && is_spelling_of(other, name)) {
            return Err(duplicate(name.as_bytes()));
        }
        Ok(self.known.a2a_version)
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
    // Without an early end, which would cost more than it saves: nearly all tokens are well formed.
    let characters = token.iter().fold(true, |all, &byte| all & is_token68(byte));
    let well_formed = !token.is_empty() && characters;
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
        let lower_case = name.iter().fold(true, |all, byte| all & !byte.is_ascii_uppercase());
        if !is_token(name) || !lower_case {
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
            b"a2a-version" => &mut self.a2a_version,
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
    // Web frameworks (Symfony, Zend, IIS with URL Rewrite) serve the path that such a header names, not the one decided on.
    if ["x-original-url", "x-rewrite-url"]
        .iter()
        .any(|refused| is_spelling_of(name, refused))
    {
        return Err(Denial::new(Code::PathNotCanonical, "a header names another path"));
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

/// `token68` of RFC 9110, section 11.2, padding anywhere.
fn is_token68(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=')
}

/// `token` of RFC 9110, section 5.6.2.
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| is_token_byte(byte))
}

fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'-' | b'A'..=b'Z' | b'0'..=b'9'
        | b'!' | b'#'..=b'\'' | b'*' | b'+' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests;
