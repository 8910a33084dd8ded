//! What can be wrong with a part of a bundle, or with the file that it was compiled from.

use super::{MAX_PAGE_BYTES, MAX_PAGES, PathTemplateError, PolicyError};
use crate::{resource::ResourceError, scope::ScopeError};

/// The longest body limit of a service: a filter holds one such body for each stream that waits for a verdict.
pub const MAX_BODY_LIMIT_BYTES: u64 = 16 << 20;

/// The rule that a part breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// A path template.
    #[error(transparent)]
    Path(#[from] PathTemplateError),
    /// A scope template.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A resource.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// An HTTP method.
    #[error("not an HTTP method in upper case that a route may have")]
    Method,
    /// A host.
    #[error("not a host name in lower case without port")]
    Host,
    /// No host at all, so that no caller could name the service.
    #[error("a service needs at least one host")]
    NoHost,
    /// Another service, or this one, has the host already.
    #[error("the host is claimed twice")]
    HostTwice,
    /// Port 0.
    #[error("a port is from 1 to 65535")]
    Port,
    /// No port at all.
    #[error("a service needs at least one port")]
    NoPort,
    /// Another service of the same workload, or this one, has the port already.
    #[error("the port is claimed twice by one workload")]
    PortTwice,
    /// A field that the protocol of the service has no use for.
    #[error("the service's protocol has no such field")]
    NotOfProtocol,
    /// An MCP or A2A service without endpoint.
    #[error("an MCP or A2A service needs the path of its endpoint")]
    NoEndpoint,
    /// An A2A service that does not say whose it is.
    #[error("an A2A service needs the name of its agent")]
    NoAgent,
    /// Tasks are left to an application that is not told who calls.
    #[error("an application that holds tasks to their openers must be told who calls")]
    CallerUntold,
    /// A capture where none is allowed.
    #[error("captures are not allowed here")]
    CaptureHere,
    /// A scope names a capture that its path does not have.
    #[error("`{0}` is no capture of the path or URI")]
    CaptureUnknown(Box<str>),
    /// A template captures what its scope does not name, so that any value would do.
    #[error("the scope must name the capture `{0}`, or any value would do")]
    CaptureUnused(Box<str>),
    /// A query parameter with a bad name, or whose value is no capture of its own.
    #[error(
        "a query parameter is 1 to 64 of A-Z, a-z, 0-9, `_` and `-`, and stands for a capture that nothing else has, `{{name}}`"
    )]
    Query,
    /// A scope takes an argument where there is none, or a path segment where there is no path.
    #[error("routes and resources capture segments, tools and prompts capture `arguments./pointer`")]
    CaptureKind,
    /// Two routes of one method that one request could both match.
    #[error("another route of this method matches the same paths")]
    RouteOverlap,
    /// Two resources that one URI could both match.
    #[error("another resource matches the same URIs")]
    ResourceOverlap,
    /// A header that a token may not ride in.
    #[error("a token cannot ride in this header")]
    TokenHeader,
    /// A limit outside 1 to [`MAX_BODY_LIMIT_BYTES`].
    #[error("a body limit is from 1 to {MAX_BODY_LIMIT_BYTES} bytes")]
    BodyLimit,
    /// An id or identity that must be unique is there twice.
    #[error("named twice")]
    Twice,
    /// A name that nothing in the document has.
    #[error("names nothing in this document")]
    Dangling,
    /// A number outside its bounds.
    #[error("out of bounds")]
    OutOfBounds,
    /// More entries than can be indexed.
    #[error("too many entries")]
    TooMany,
    /// The pages of agents are not a power of two, or too many.
    #[error("the number of pages is a power of two, at most {MAX_PAGES}")]
    PageCount,
    /// The agents of one page take too much room, however many pages there are.
    #[error("a page of agents may have at most {MAX_PAGE_BYTES} bytes")]
    PageTooLong,
    /// An agent on another page than its own.
    #[error("an agent belongs on another page")]
    Misplaced,
}

/// A part that breaks a rule, by its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The place: names of fields and places in lists, joined by slashes, as in `routes/0/path`.
    pub field: String,
    /// The rule.
    pub error: ContentError,
}

/// Collects faults; a document with any is refused whole.
#[derive(Debug, Default)]
pub(crate) struct Faults(pub(crate) Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, field: impl Into<String>, error: impl Into<ContentError>) {
        self.0.push(Fault {
            field: field.into(),
            error: error.into(),
        });
    }

    /// A document with one fault is refused whole: half a policy is another policy.
    pub(super) fn none(self) -> Result<(), PolicyError> {
        match self.0.into_iter().next() {
            Some(Fault { field, error }) => Err(PolicyError::Content { field, error }),
            None => Ok(()),
        }
    }

    /// Passes a value on, or notes why there is none.
    pub(crate) fn take<T, E: Into<ContentError>>(
        &mut self,
        field: impl FnOnce() -> String,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.add(field(), error)).ok()
    }
}
