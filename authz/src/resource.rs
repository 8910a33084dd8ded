//! MCP resources as files name them: a URI, or a template of URIs.
//!
//! Both are compared by their bytes, as the request's body gives them once JSON's escapes are undone. Nothing is
//! normalised: the application is sent the very URI that was decided on, and one in another spelling is another resource.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    claims::ServiceRef,
    identity::{NameError, ServiceId},
    order, scope,
};

/// The longest URI or template that a file may list, and so the longest that a template can match, captures apart.
pub const MAX_RESOURCE_BYTES: usize = 512;

/// Why the name of a resource was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// Does not start with a scheme, is too long, or holds a character that URIs do not have.
    #[error("a resource is a URI such as `file:///report.md`, at most {MAX_RESOURCE_BYTES} bytes of ASCII")]
    Uri,
    /// A `*`: what is listed names one resource, or a template whose captures are in its scope.
    #[error("wildcards are not allowed: take a part of the URI as `{{name}}`")]
    Wildcard,
    /// A brace that is not that of a capture.
    #[error("a capture is all that stands between two slashes, `{{name}}`, its name of a-z, 0-9 and `_`")]
    Capture,
    /// Two captures share a name.
    #[error("two captures share a name")]
    Repeated,
    /// The service before the URI.
    #[error("{0}")]
    Service(#[from] NameError),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Capture(Box<str>),
}

/// A URI with captures in place of whole segments, such as `table://sales/{table}`; without captures, one URI.
///
/// The templates of MCP are those of RFC 6570; of them, only such simple ones are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceTemplate {
    text: Box<str>,
    segments: Box<[Segment]>,
}

impl ResourceTemplate {
    /// Parses a URI or a template.
    ///
    /// # Errors
    ///
    /// [`ResourceError`].
    pub fn parse(text: &str) -> Result<Self, ResourceError> {
        if text.contains('*') {
            return Err(ResourceError::Wildcard);
        }
        if text.len() > MAX_RESOURCE_BYTES || !has_scheme(text) || !text.bytes().all(is_uri_byte) {
            return Err(ResourceError::Uri);
        }
        let segments: Box<[Segment]> = text.split('/').map(segment).collect::<Result<_, _>>()?;
        let template = Self {
            text: text.into(),
            segments,
        };
        let mut names: Vec<&str> = template.capture_names().collect();
        order::sort(&mut names);
        if names.iter().zip(names.iter().skip(1)).any(|(name, next)| name == next) {
            return Err(ResourceError::Repeated);
        }
        Ok(template)
    }

    /// The template as written: the `uriTemplate` by which MCP names it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of the captures, in order.
    pub fn capture_names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Capture(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    /// Matches a URI; gives what it has where the template has captures, which need not be scope segments.
    #[must_use]
    pub fn captures<'t, 'u>(&'t self, uri: &'u str) -> Option<Vec<(&'t str, &'u str)>> {
        let mut captures = Vec::new();
        let mut given = uri.split('/');
        for segment in &self.segments {
            match (segment, given.next()?) {
                (Segment::Literal(literal), given) if **literal == *given => {}
                (Segment::Literal(_), _) | (Segment::Capture(_), "") => return None,
                (Segment::Capture(name), given) => captures.push((&**name, given)),
            }
        }
        given.next().is_none().then_some(captures)
    }

    /// Whether some URI matches both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.segments.len() == other.segments.len()
            && self.segments.iter().zip(&other.segments).all(|pair| match pair {
                (Segment::Literal(one), Segment::Literal(two)) => one == two,
                _ => true,
            })
    }
}

impl fmt::Display for ResourceTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn segment(text: &str) -> Result<Segment, ResourceError> {
    if let Some(inner) = text.strip_prefix('{') {
        let name = inner.strip_suffix('}').filter(|name| scope::is_capture_name(name));
        return name
            .map(|name| Segment::Capture(name.into()))
            .ok_or(ResourceError::Capture);
    }
    if text.contains(['{', '}']) {
        Err(ResourceError::Capture)
    } else {
        Ok(Segment::Literal(text.into()))
    }
}

/// RFC 3986, section 3.1: a letter, then letters, digits, `+`, `-` and `.`, then a colon.
fn has_scheme(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, rest)| {
        !rest.is_empty()
            && scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
    })
}

/// The characters of RFC 3986, and the braces of captures.
fn is_uri_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'|')
}

/// A resource in a policy: its URI or template, alone or with the service that must offer it.
///
/// Written `URI`, `service/URI` or `namespace/service/URI`; no scheme holds a slash, so what stands before is the service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ResourceGrant {
    service: Option<ServiceRef>,
    resource: Box<str>,
}

impl ResourceGrant {
    /// A resource of any service (`None`) or of the service named.
    #[must_use]
    pub fn new(service: Option<ServiceRef>, resource: &ResourceTemplate) -> Self {
        Self {
            service,
            resource: resource.text.clone(),
        }
    }

    /// Parses `URI`, `service/URI` or `namespace/service/URI`.
    ///
    /// # Errors
    ///
    /// [`ResourceError`].
    pub fn parse(text: &str) -> Result<Self, ResourceError> {
        let scheme = text.split_once(':').ok_or(ResourceError::Uri)?.0;
        let (service, resource) = match scheme.rsplit_once('/') {
            Some((service, _)) => (
                Some(ServiceRef::parse(service)?),
                text.get(service.len() + 1..).unwrap_or_default(),
            ),
            None => (None, text),
        };
        Ok(Self::new(service, &ResourceTemplate::parse(resource)?))
    }

    /// The service that must offer the resource, if one is named.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceRef> {
        self.service.as_ref()
    }

    /// The URI or template, as the service's file lists it.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.resource
    }

    /// Whether this entry covers what `service` lists as `resource`.
    #[must_use]
    pub fn covers(&self, service: &ServiceId, resource: &str) -> bool {
        *self.resource == *resource && self.service.as_ref().is_none_or(|named| named.names(service))
    }
}

impl fmt::Display for ResourceGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{service}/{}", self.resource),
            None => f.write_str(&self.resource),
        }
    }
}

impl TryFrom<String> for ResourceGrant {
    type Error = ResourceError;

    fn try_from(text: String) -> Result<Self, ResourceError> {
        Self::parse(&text)
    }
}

impl From<ResourceGrant> for String {
    fn from(grant: ResourceGrant) -> Self {
        grant.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_resource_is_a_uri_whose_captures_are_whole_segments() {
        for fine in [
            "file:///report.md",
            "urn:isbn:0451450523",
            "table://sales/{table}",
            "https://a.example/x?y=1#z",
            "a:{b}/{c}",
        ] {
            let parsed = ResourceTemplate::parse(fine);
            if fine.starts_with("a:{") {
                assert_eq!(parsed, Err(ResourceError::Capture), "{fine}");
            } else {
                let parsed = parsed.unwrap();
                assert_eq!((parsed.as_str(), parsed.to_string().as_str()), (fine, fine));
            }
        }
        for (bad, error) in [
            ("", ResourceError::Uri),
            ("report.md", ResourceError::Uri),
            ("1a:x", ResourceError::Uri),
            ("a b:x", ResourceError::Uri),
            ("a:", ResourceError::Uri),
            ("a:x y", ResourceError::Uri),
            ("a:caf\u{e9}", ResourceError::Uri),
            ("a:<x>", ResourceError::Uri),
            ("a:/*", ResourceError::Wildcard),
            ("a:/x{b}", ResourceError::Capture),
            ("a:/{b}x", ResourceError::Capture),
            ("a:/{B}", ResourceError::Capture),
            ("a:/{+b}", ResourceError::Capture),
            ("a:/{b}/{b}", ResourceError::Repeated),
        ] {
            assert_eq!(ResourceTemplate::parse(bad), Err(error), "{bad}");
        }
        let long = |bytes: usize| ResourceTemplate::parse(&format!("a:{}", "x".repeat(bytes - 2))).is_ok();
        assert!(long(MAX_RESOURCE_BYTES) && !long(MAX_RESOURCE_BYTES + 1));
    }

    #[test]
    fn a_template_matches_segment_by_segment() {
        let template = ResourceTemplate::parse("table://sales/{table}/rows").unwrap();
        assert_eq!(template.captures("table://sales/q1/rows"), Some(vec![("table", "q1")]));
        for uri in [
            "table://sales//rows",
            "table://sales/q1",
            "table://sales/q1/rows/",
            "table://sales/q1/x/rows",
            "table://Sales/q1/rows",
            "xtable://sales/q1/rows",
            "",
        ] {
            assert_eq!(template.captures(uri), None, "{uri}");
        }
        let of = |text| ResourceTemplate::parse(text).unwrap();
        assert!(of("a:/{x}/c").overlaps(&of("a:/b/{y}")));
        assert!(of("a:/b").overlaps(&of("a:/b")));
        assert!(!of("a:/{x}/c").overlaps(&of("a:/b/d")));
        assert!(!of("a:/{x}").overlaps(&of("a:/b/c")));
    }

    #[test]
    fn a_grant_may_name_the_service() {
        let mcp = ServiceId::parse("tools/mcp").unwrap();
        let covers = |grant: &str, uri: &str| ResourceGrant::parse(grant).unwrap().covers(&mcp, uri);
        for grant in ["memo://a/b", "mcp/memo://a/b", "tools/mcp/memo://a/b"] {
            assert!(covers(grant, "memo://a/b"), "{grant}");
            assert!(!covers(grant, "memo://a/B"), "{grant}");
            assert_eq!(ResourceGrant::parse(grant).unwrap().to_string(), grant);
        }
        assert!(!covers("lab/memo://a/b", "memo://a/b"));
        assert!(!covers("lab/mcp/memo://a/b", "memo://a/b"));
        for bad in [
            "memo",
            "mcp/memo",
            "a/b/c/memo://x",
            "A/memo://x",
            "/memo://x",
            "mcp/memo://*",
        ] {
            assert!(ResourceGrant::parse(bad).is_err(), "{bad}");
        }
    }
}
