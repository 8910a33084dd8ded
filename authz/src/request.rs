//! The request as it came, and the facts that are decided on.
//!
//! [`RequestHead::parse`] refuses what two readers could read in two ways: duplicate headers, paths that have another
//! spelling, tunnels, method overrides. [`extract`] finds the service and turns the request into [`Facts`]; where the
//! right is named in the body it answers [`Extraction::NeedsBody`], and [`Pending::finish`] reads the whole body.
//! Nothing here looks at tokens, peers or policy: that is [`crate::decision`].

use crate::denial::{Code, Denial, Form};
use crate::identity::{AgentId, ServiceId, ToolName};
use crate::policy::{Bundle, Protocol, Service, ServiceIndex};
use crate::protocol::{a2a, body, http, mcp};
use crate::scope::Scope;

mod head;
mod target;

pub use head::RequestHead;
pub use target::MAX_TARGET_BYTES;
pub(crate) use target::could_name;

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
    /// A prompt, and the scope that its arguments ask for, if the service says so.
    Prompt {
        /// The prompt as the body names it.
        name: ToolName,
        /// The scope that the service's template makes of the arguments.
        scope: Option<Scope>,
    },
    /// Resources, all of which must be granted: one, or as many as one subscription names.
    Resources(Vec<ResourceNeed>),
    /// To call an agent, whatever is asked of it.
    Call {
        /// The agent behind the service.
        agent: AgentId,
        /// The scope that a token must hold.
        scope: Scope,
    },
    /// Part of every MCP session, naming nothing: any valid, bound token whose agent reaches the service.
    Session,
    /// No route, but one that an exempt peer may call without a capability.
    Exempt,
    /// An endpoint of the policy server that applications may call without a capability.
    ControlPlane,
}

/// A resource that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceNeed {
    /// Its URI as the body gives it, the template whose values are to be completed, or the path of a destination.
    pub uri: String,
    /// The scope that the service's template makes of the URI.
    pub scope: Option<Scope>,
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
    /// What a `COPY` or `MOVE` writes besides: its path, and the scope that it needs.
    pub destination: Option<ResourceNeed>,
    /// The JSON-RPC id, as raw JSON.
    pub rpc_id: Option<String>,
    /// The JSON-RPC method.
    pub rpc_method: Option<String>,
    /// The id of the task that an MCP message asks about, as its caller knows it.
    pub task: Option<String>,
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
    expected: Expected,
}

/// What its body is to be.
#[derive(Debug)]
enum Expected {
    Mcp(mcp::OwnedHeaders),
    A2a(a2a::Expected),
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
                destination: found.destination,
                ..Facts::new(head, Some(service.id()), Protocol::Http, found.right)
            }))
        }
        Protocol::Mcp => {
            let bound = listener.side == Side::Outbound || !bundle.session_keys().is_empty();
            mcp_extraction(head, service, bound, end_of_stream)
        }
        Protocol::A2a => match a2a::check_head(head, service, end_of_stream)? {
            a2a::Reading::Ready(right) => Ok(Extraction::Ready(Facts::new(
                head,
                Some(service.id()),
                Protocol::A2a,
                right,
            ))),
            a2a::Reading::Body(expected) => {
                let pending = Pending::new(head, service, Expected::A2a(expected));
                Ok(Extraction::NeedsBody(pending))
            }
        },
    }
}

/// The form in which the caller of a service understands a denial, by the path that it calls.
#[must_use]
pub fn denial_form(head: &RequestHead<'_>, service: &Service) -> Form {
    match service.protocol() {
        Protocol::Http => Form::Problem,
        Protocol::Mcp => Form::JsonRpc,
        Protocol::A2a if a2a::is_endpoint(head.path(), service) => Form::JsonRpc,
        Protocol::A2a => Form::Problem,
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
        Protocol::A2a => matches!(a2a::check_head(head, service, true), Ok(a2a::Reading::Ready(_))),
    }
}

/// The endpoints of the policy server that applications may call. Their callers are authenticated by the policy
/// server itself, so no capability is needed.
fn control_plane(head: &RequestHead<'_>) -> Result<Facts, Denial> {
    match (head.method(), head.path()) {
        ("POST", "/v1/tokens" | "/oauth/revoke" | "/oauth/introspect") | ("GET", "/.well-known/jwks.json") => {
            Ok(Facts::new(head, None, Protocol::Http, Right::ControlPlane))
        }
        _ => Err(Denial::new(
            Code::EndpointRefused,
            "applications may call only `POST /v1/tokens`, `POST /oauth/revoke`, `POST /oauth/introspect` and `GET /.well-known/jwks.json`",
        )),
    }
}

/// `bound` says that the ids of sessions are bound to their holders, here or where the request goes: only then may one end a
/// session, or hear what its server says by itself.
fn mcp_extraction(
    head: &RequestHead<'_>,
    service: &Service,
    bound: bool,
    end_of_stream: bool,
) -> Result<Extraction, Denial> {
    let is_endpoint = service
        .endpoint()
        .is_some_and(|endpoint| endpoint.captures(head.path()).is_some());
    if !is_endpoint {
        return Err(Denial::new(
            Code::RouteUnknown,
            "the path is not the service's MCP endpoint",
        ));
    }
    if bound && mcp::is_of_session(head, end_of_stream)? {
        let facts = Facts::new(head, Some(service.id()), Protocol::Mcp, Right::Session);
        return Ok(Extraction::Ready(facts));
    }
    let headers = mcp::check_head(head, service.body_limit_bytes(), end_of_stream)?;
    Ok(Extraction::NeedsBody(Pending::new(
        head,
        service,
        Expected::Mcp(headers),
    )))
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
            destination: None,
            rpc_id: None,
            rpc_method: None,
            task: None,
        }
    }
}

impl Pending {
    /// INVARIANT: only requests by `POST` have a body that is read.
    fn new(head: &RequestHead<'_>, service: &Service, expected: Expected) -> Self {
        Self {
            service: service.id().clone(),
            body_limit_bytes: service.body_limit_bytes(),
            path: head.path().to_owned(),
            expected,
        }
    }

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
        body::too_large(self.body_limit_bytes)
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
            .filter(|service| service.protocol() == self.expected.protocol())
            .ok_or_else(|| Denial::new(Code::ServiceUnknown, "the service is no longer known"))?;
        let (protocol, right, rpc_id, rpc_method, task) = match &self.expected {
            Expected::Mcp(headers) => {
                let message = mcp::read(body, service, headers)?;
                (Protocol::Mcp, message.right, message.id, message.method, message.task)
            }
            Expected::A2a(expected) => {
                let message = a2a::read(body, service, *expected)?;
                (Protocol::A2a, message.right, message.id, message.method, None)
            }
        };
        Ok(Facts {
            service: Some(self.service),
            protocol,
            method: "POST".to_owned(),
            path: self.path,
            captures: Vec::new(),
            own: None,
            right,
            destination: None,
            rpc_id,
            rpc_method,
            task,
        })
    }
}

impl Expected {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Mcp(_) => Protocol::Mcp,
            Self::A2a(_) => Protocol::A2a,
        }
    }
}
