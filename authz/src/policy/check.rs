//! The rules of one service, for a signed bundle and for a file alike.

use std::collections::BTreeMap;

use super::{
    CalledAgent, ContentError, Exempt, HeaderName, MAX_BODY_LIMIT_BYTES, Method, PathTemplate, Protocol, QueryCapture,
    ResourceRule, Route, RouteClaims, Service, ServiceClaims, Tasks, ToolClaims, ToolRule, fault::Faults,
};
use crate::{
    identity::ToolName,
    resource::ResourceTemplate,
    scope::{Capture, Scope, ScopeTemplate},
};

/// Compiles a service and notes every fault; `None` if a fault leaves nothing to compile.
///
/// A service that comes with faults must not be used.
pub(crate) fn service(claims: &ServiceClaims, faults: &mut Faults) -> Option<Service> {
    check_hosts(&claims.hosts, faults);
    check_ports(&claims.ports, faults);
    check_protocol(claims, faults);
    let routes = routes(&claims.routes, faults);
    let body_limit_bytes = usize::try_from(claims.body_limit_bytes)
        .ok()
        .filter(|_| (1..=MAX_BODY_LIMIT_BYTES).contains(&claims.body_limit_bytes))
        .ok_or(ContentError::BodyLimit);
    let token_header = HeaderName::parse(&claims.token_header).ok_or(ContentError::TokenHeader);
    let path = claims.path.as_deref().map(literal_path).transpose();
    let rest_base = claims.rest_path.as_deref().map(literal_path).transpose();
    let called = claims.agent.as_ref().map(|agent| CalledAgent {
        agent: agent.clone(),
        scope: Scope::to_call(agent),
    });
    Some(Service {
        id: claims.id.clone(),
        identity: claims.identity.clone(),
        hosts: claims.hosts.iter().map(|host| host.as_str().into()).collect(),
        ports: claims.ports.clone().into(),
        protocol: claims.protocol,
        exempt: exempt(claims, faults),
        tools: tools("tools", &claims.tools, faults),
        on_drift: claims.on_drift,
        prompts: tools("prompts", &claims.prompts, faults),
        resources: resources(&claims.resources, faults),
        routes,
        path: faults.take(|| "path".to_owned(), path)?,
        rest_base: faults.take(|| "rest_path".to_owned(), rest_base)?,
        called,
        tasks: claims.tasks,
        token_header: faults.take(|| "token_header".to_owned(), token_header)?,
        forward_token: claims.forward_token,
        forward_claims: claims.forward_claims,
        body_limit_bytes: faults.take(|| "body_limit_bytes".to_owned(), body_limit_bytes)?,
        record: claims.record,
        on_expiry: claims.on_expiry,
        on_pause: claims.on_pause,
        mode: claims.mode,
    })
}

/// Whether `text` is a DNS name in lower case, without port or trailing dot.
pub(crate) fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

fn check_hosts(hosts: &[String], faults: &mut Faults) {
    if hosts.is_empty() {
        faults.add("hosts", ContentError::NoHost);
    }
    for (index, host) in hosts.iter().enumerate() {
        if !is_host(host) {
            faults.add(format!("hosts/{index}"), ContentError::Host);
        }
        if hosts.iter().take(index).any(|earlier| earlier == host) {
            faults.add(format!("hosts/{index}"), ContentError::HostTwice);
        }
    }
}

fn check_ports(ports: &[u16], faults: &mut Faults) {
    if ports.is_empty() {
        faults.add("ports", ContentError::NoPort);
    }
    for (index, port) in ports.iter().enumerate() {
        if *port == 0 {
            faults.add(format!("ports/{index}"), ContentError::Port);
        }
        if ports.iter().take(index).any(|earlier| earlier == port) {
            faults.add(format!("ports/{index}"), ContentError::PortTwice);
        }
    }
}

fn check_protocol(claims: &ServiceClaims, faults: &mut Faults) {
    let (http, mcp, a2a) = match claims.protocol {
        Protocol::Http => (true, false, false),
        Protocol::Mcp => (false, true, false),
        Protocol::A2a => (false, false, true),
    };
    for (field, belongs, is_absent) in [
        ("routes", http, claims.routes.is_empty()),
        ("tools", mcp, claims.tools.is_empty()),
        ("on_drift", mcp, claims.on_drift.is_default()),
        ("prompts", mcp, claims.prompts.is_empty()),
        ("resources", mcp, claims.resources.is_empty()),
        ("path", mcp || a2a, claims.path.is_none()),
        ("agent", a2a, claims.agent.is_none()),
        ("rest_path", a2a, claims.rest_path.is_none()),
        ("tasks", mcp || a2a, claims.tasks.is_default()),
    ] {
        if !belongs && !is_absent {
            faults.add(field, ContentError::NotOfProtocol);
        }
    }
    if (mcp || a2a) && claims.path.is_none() {
        faults.add("path", ContentError::NoEndpoint);
    }
    if a2a && claims.agent.is_none() {
        faults.add("agent", ContentError::NoAgent);
    }
    // What it is told of a token or certificate by other means is not ours to know.
    if claims.tasks == Tasks::Application && !claims.forward_claims {
        faults.add("tasks", ContentError::CallerUntold);
    }
}

fn routes(claims: &[RouteClaims], faults: &mut Faults) -> Box<[Route]> {
    let mut routes: Vec<Route> = Vec::with_capacity(claims.len());
    for (index, claims) in claims.iter().enumerate() {
        let Some(route) = route(claims, index, faults) else {
            continue;
        };
        if routes
            .iter()
            .any(|earlier| earlier.method == route.method && earlier.path.overlaps(&route.path))
        {
            faults.add(format!("routes/{index}/path"), ContentError::RouteOverlap);
        }
        routes.push(route);
    }
    routes.into()
}

fn route(claims: &RouteClaims, index: usize, faults: &mut Faults) -> Option<Route> {
    let method = Method::parse(&claims.method).ok_or(ContentError::Method);
    let method = faults.take(|| format!("routes/{index}/method"), method);
    let path = faults.take(|| format!("routes/{index}/path"), PathTemplate::parse(&claims.path));
    let scope = faults.take(|| format!("routes/{index}/scope"), ScopeTemplate::parse(&claims.scope));
    let (method, path, scope) = (method?, path?, scope?);
    let query = query(claims, &path, index, faults);
    let own = claims.own.as_deref().map(Into::into);
    let route = Route {
        method,
        path,
        query,
        scope,
        own,
    };
    check_route(&route, index, faults);
    Some(route)
}

fn query(claims: &RouteClaims, path: &PathTemplate, index: usize, faults: &mut Faults) -> Box<[QueryCapture]> {
    let mut query: Vec<QueryCapture> = Vec::with_capacity(claims.query.len());
    for (parameter, value) in &claims.query {
        let capture = QueryCapture::parse(parameter, value).filter(|new| {
            let mut taken = path
                .capture_names()
                .chain(query.iter().map(|earlier| &*earlier.capture));
            // Some readers fold the case of parameters: two that differ by it alone would be one to them.
            let mut earlier = query.iter();
            taken.all(|name| *name != *new.capture)
                && earlier.all(|earlier| !earlier.parameter.eq_ignore_ascii_case(&new.parameter))
        });
        let place = || format!("routes/{index}/query/{parameter}");
        query.extend(faults.take(place, capture.ok_or(ContentError::Query)));
    }
    query.into()
}

/// Every capture that is named is there, and every one of the query is named: else any value would do.
fn check_route(route: &Route, index: usize, faults: &mut Faults) {
    for capture in route.scope.captures() {
        match capture {
            Capture::Path(name) if route.capture_names().any(|given| given == &**name) => {}
            Capture::Path(name) => {
                faults.add(
                    format!("routes/{index}/scope"),
                    ContentError::CaptureUnknown(name.clone()),
                );
            }
            Capture::Argument(_) => faults.add(format!("routes/{index}/scope"), ContentError::CaptureKind),
        }
    }
    let own = route.own.as_deref();
    if let Some(own) = own.filter(|own| route.capture_names().all(|given| given != *own)) {
        faults.add(format!("routes/{index}/own"), ContentError::CaptureUnknown(own.into()));
    }
    for QueryCapture { parameter, capture } in &route.query {
        let named = |known: &Capture| matches!(known, Capture::Path(name) if name == capture);
        if own != Some(&**capture) && !route.scope.captures().any(named) {
            let field = format!("routes/{index}/query/{parameter}");
            faults.add(field, ContentError::CaptureUnused(capture.clone()));
        }
    }
}

fn exempt(claims: &ServiceClaims, faults: &mut Faults) -> Box<[Exempt]> {
    let mut exempt = Vec::with_capacity(claims.exempt.len());
    for (index, claims) in claims.exempt.iter().enumerate() {
        let method = Method::parse(&claims.method).ok_or(ContentError::Method);
        let method = faults.take(|| format!("exempt/{index}/method"), method);
        let path = faults.take(|| format!("exempt/{index}/path"), literal_path(&claims.path));
        if let (Some(method), Some(path)) = (method, path) {
            exempt.push(Exempt {
                peer: claims.peer.clone(),
                method,
                path,
            });
        }
    }
    exempt.into()
}

/// Tools or prompts: both take what their scope is made of out of `arguments`.
fn tools(field: &str, claims: &BTreeMap<ToolName, ToolClaims>, faults: &mut Faults) -> Box<[ToolRule]> {
    let mut tools = Vec::with_capacity(claims.len());
    // A map of names is in their order, so the rules come out sorted.
    for (name, claims) in claims {
        let scope = claims.scope.as_deref().map(ScopeTemplate::parse).transpose();
        let Some(scope) = faults.take(|| format!("{field}/{name}/scope"), scope) else {
            continue;
        };
        if scope
            .iter()
            .flat_map(ScopeTemplate::captures)
            .any(|capture| matches!(capture, Capture::Path(_)))
        {
            faults.add(format!("{field}/{name}/scope"), ContentError::CaptureKind);
        }
        tools.push(ToolRule {
            name: name.clone(),
            scope,
            definition: claims.definition,
        });
    }
    tools.into()
}

fn resources(claims: &BTreeMap<String, ToolClaims>, faults: &mut Faults) -> Box<[ResourceRule]> {
    let mut resources: Vec<ResourceRule> = Vec::with_capacity(claims.len());
    for (text, claims) in claims {
        // As in a JSON pointer: a URI has slashes, and they are no levels of a document.
        let place = || format!("resources/{}", text.replace('~', "~0").replace('/', "~1"));
        let template = faults.take(place, ResourceTemplate::parse(text));
        let scope = claims.scope.as_deref().map(ScopeTemplate::parse).transpose();
        let scope = faults.take(|| format!("{}/scope", place()), scope);
        let (Some(template), Some(scope)) = (template, scope) else {
            continue;
        };
        check_captures(&template, scope.as_ref(), &format!("{}/scope", place()), faults);
        if resources.iter().any(|earlier| earlier.template.overlaps(&template)) {
            faults.add(place(), ContentError::ResourceOverlap);
        }
        resources.push(ResourceRule { template, scope });
    }
    resources.into()
}

/// What a template captures must be what its scope is made of: a part that no scope names would be a wildcard.
fn check_captures(template: &ResourceTemplate, scope: Option<&ScopeTemplate>, field: &str, faults: &mut Faults) {
    let used = || scope.into_iter().flat_map(ScopeTemplate::captures);
    for capture in used() {
        match capture {
            Capture::Path(name) if template.capture_names().any(|given| given == &**name) => {}
            Capture::Path(name) => faults.add(field, ContentError::CaptureUnknown(name.clone())),
            Capture::Argument(_) => faults.add(field, ContentError::CaptureKind),
        }
    }
    for name in template.capture_names() {
        if !used().any(|capture| matches!(capture, Capture::Path(given) if **given == *name)) {
            faults.add(field, ContentError::CaptureUnused(name.into()));
        }
    }
}

/// A path that is matched exactly.
fn literal_path(text: &str) -> Result<PathTemplate, ContentError> {
    let path = PathTemplate::parse(text)?;
    if path.capture_count() == 0 {
        Ok(path)
    } else {
        Err(ContentError::CaptureHere)
    }
}
