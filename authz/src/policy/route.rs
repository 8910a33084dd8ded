//! Path templates and routes.

use crate::{
    order,
    policy::service::Method,
    scope::{self, ScopeTemplate},
};

/// The longest path template, and so the longest path that can match one, segments apart.
const MAX_TEMPLATE_BYTES: usize = 1024;

/// Why a path template was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathTemplateError {
    /// Does not start with a slash, is too long, or has an empty, `.` or `..` segment.
    #[error("a path starts with `/` and has no empty, `.` or `..` segment")]
    NotCanonical,
    /// A character that a canonical path holds only encoded, or that separates something else.
    #[error("a path segment consists of A-Z, a-z, 0-9 and `-._~!$&'()+,=:@`; captures are whole segments, `{{name}}`")]
    Character,
    /// A capture with a bad name.
    #[error("a capture is a whole segment `{{name}}`, its name of a-z, 0-9 and `_`")]
    Capture,
    /// Two captures share a name.
    #[error("two captures share a name")]
    Repeated,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Literal(Box<str>),
    Capture(Box<str>),
}

/// A canonical path with captures in place of whole segments, such as `/v1/tables/{table}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate(Box<[Segment]>);

/// The segments that a path has where a template has captures, in order, with their names.
pub type Captures<'t, 'p> = Vec<(&'t str, &'p str)>;

impl PathTemplate {
    /// Parses a template.
    ///
    /// # Errors
    ///
    /// [`PathTemplateError`].
    pub fn parse(text: &str) -> Result<Self, PathTemplateError> {
        let rest = text.strip_prefix('/').filter(|_| text.len() <= MAX_TEMPLATE_BYTES);
        let rest = rest.ok_or(PathTemplateError::NotCanonical)?;
        let template = if rest.is_empty() {
            Self(Box::default())
        } else {
            Self(rest.split('/').map(parse_segment).collect::<Result<_, _>>()?)
        };
        let mut names: Vec<&str> = template.capture_names().collect();
        order::sort(&mut names);
        if names.iter().zip(names.iter().skip(1)).any(|(name, next)| name == next) {
            return Err(PathTemplateError::Repeated);
        }
        Ok(template)
    }

    /// The names of the captures, in order.
    pub fn capture_names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|segment| match segment {
            Segment::Capture(name) => Some(&**name),
            Segment::Literal(_) => None,
        })
    }

    /// How many captures there are.
    #[must_use]
    pub fn capture_count(&self) -> usize {
        self.capture_names().count()
    }

    /// Matches a canonical path without its query; gives the captured segments as they stand in the path.
    ///
    /// Captured segments are not checked to be scope segments; rendering the scope does that.
    #[must_use]
    pub fn captures<'t, 'p>(&'t self, path: &'p str) -> Option<Captures<'t, 'p>> {
        let rest = path.strip_prefix('/')?;
        if self.0.is_empty() {
            return rest.is_empty().then(Vec::new);
        }
        let mut captures = Vec::new();
        let mut given = rest.split('/');
        for segment in &self.0 {
            match (segment, given.next()?) {
                (Segment::Literal(literal), given) if **literal == *given => {}
                (Segment::Literal(_), _) | (Segment::Capture(_), "") => return None,
                (Segment::Capture(name), given) => captures.push((&**name, given)),
            }
        }
        given.next().is_none().then_some(captures)
    }

    /// What follows a template without captures that is only the beginning of a path, without the slash between the two.
    #[must_use]
    pub fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        let mut rest = path.strip_prefix('/')?;
        for segment in &self.0 {
            let (given, after) = rest.split_once('/')?;
            match segment {
                Segment::Literal(literal) if **literal == *given => rest = after,
                Segment::Literal(_) | Segment::Capture(_) => return None,
            }
        }
        Some(rest)
    }

    /// Whether some path matches both templates.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self.0.iter().zip(&other.0).all(|pair| match pair {
                (Segment::Literal(one), Segment::Literal(two)) => one == two,
                _ => true,
            })
    }
}

fn parse_segment(text: &str) -> Result<Segment, PathTemplateError> {
    if let Some(inner) = text.strip_prefix('{') {
        let name = inner.strip_suffix('}').filter(|name| scope::is_capture_name(name));
        return name
            .map(|name| Segment::Capture(name.into()))
            .ok_or(PathTemplateError::Capture);
    }
    match text {
        "" | "." | ".." => Err(PathTemplateError::NotCanonical),
        _ if text.bytes().all(is_path_byte) => Ok(Segment::Literal(text.into())),
        _ => Err(PathTemplateError::Character),
    }
}

/// RFC 3986 `pchar` without percent-encoding, and without `;` and `*`, which servers read in their own ways.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()+,=:@".contains(&byte)
}

/// A query parameter that names something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryCapture {
    /// The parameter, as it must be spelt.
    pub parameter: Box<str>,
    /// The name of its value.
    pub capture: Box<str>,
}

impl QueryCapture {
    /// Checks a parameter (1 to 64 of A-Z, a-z, 0-9, `_` and `-`) and its capture, `{name}`.
    #[must_use]
    pub fn parse(parameter: &str, value: &str) -> Option<Self> {
        let fits = (1..=64).contains(&parameter.len())
            && parameter
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let capture = value.strip_prefix('{')?.strip_suffix('}')?;
        (fits && scope::is_capture_name(capture)).then(|| Self {
            parameter: parameter.into(),
            capture: capture.into(),
        })
    }
}

/// A route: what a method on a path needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The HTTP method.
    pub method: Method,
    /// The path.
    pub path: PathTemplate,
    /// The query parameters that name something.
    pub query: Box<[QueryCapture]>,
    /// The scope needed; its captures are captures of `path` or `query`.
    pub scope: ScopeTemplate,
    /// The capture that must equal the caller's agent id.
    pub own: Option<Box<str>>,
}

impl Route {
    /// The names of all captures.
    pub fn capture_names(&self) -> impl Iterator<Item = &str> {
        self.path
            .capture_names()
            .chain(self.query.iter().map(|query| &*query.capture))
    }
}
