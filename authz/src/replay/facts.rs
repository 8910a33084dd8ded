//! The facts of a record: as they were, or as the services of a policy read them now.

use super::Unplayed;
use crate::audit::{Record, RecordedFacts};
use crate::denial::Code;
use crate::identity::ToolName;
use crate::policy::{Bundle, Protocol, Route, Service, ToolRule};
use crate::protocol::http;
use crate::request::{Facts, RequestHead, ResourceNeed, Right};
use crate::scope::Scope;

/// The facts that were decided on; None of a denial that had none.
pub(super) fn recorded(record: &Record<'_>) -> Option<Facts> {
    let facts = record.facts.as_ref()?;
    let captures = facts.captures.iter();
    Some(Facts {
        service: match record.service.as_deref() {
            Some(service) => Some(service.parse().ok()?),
            None => None,
        },
        protocol: protocol(record),
        method: facts.method.as_deref()?.to_owned(),
        path: facts.path.as_deref()?.to_owned(),
        captures: captures
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        own: facts.own.as_deref().map(str::to_owned),
        right: right(facts)?,
        destination: match facts.right.as_deref() {
            Some("scope") => resources(facts)?.into_iter().next(),
            _ => None,
        },
        // Echoed in an answer; nothing is decided on it.
        rpc_id: None,
        rpc_method: facts.rpc_method.as_deref().map(str::to_owned),
        task: None,
    })
}

fn protocol(record: &Record<'_>) -> Protocol {
    let spoken = record.protocol.as_deref();
    let mut others = [Protocol::Mcp, Protocol::A2a].into_iter();
    others
        .find(|protocol| spoken == Some(protocol.as_str()))
        .unwrap_or(Protocol::Http)
}

fn right(facts: &RecordedFacts<'_>) -> Option<Right> {
    let scope = match facts.scope.as_deref() {
        Some(scope) => Some(Scope::parse(scope).ok()?),
        None => None,
    };
    let name = |name: Option<&str>| ToolName::parse(name?).ok();
    Some(match (facts.right.as_deref()?, scope) {
        ("scope", Some(scope)) => Right::Scope(scope),
        ("tool", scope) => Right::Tool {
            name: name(facts.tool.as_deref())?,
            scope,
        },
        ("prompt", scope) => Right::Prompt {
            name: name(facts.prompt.as_deref())?,
            scope,
        },
        ("resources", None) => Right::Resources(resources(facts)?),
        ("call", Some(scope)) => Right::Call {
            agent: scope.called_agent()?.to_owned().try_into().ok()?,
            scope,
        },
        ("session", None) => Right::Session,
        ("exempt", None) => Right::Exempt,
        ("control_plane", None) => Right::ControlPlane,
        _ => return None,
    })
}

fn resources(facts: &RecordedFacts<'_>) -> Option<Vec<ResourceNeed>> {
    let needs = facts.resources.iter().map(|(uri, scope)| {
        Some(ResourceNeed {
            uri: uri.to_string(),
            scope: match &**scope {
                "" => None,
                scope => Some(Scope::parse(scope).ok()?),
            },
        })
    });
    needs.collect()
}

/// What the service's entry in a bundle makes of the request now: facts, or the code by which it is refused.
pub(super) fn read(record: &Record<'_>, bundle: &Bundle) -> Result<Result<Facts, Code>, Unplayed> {
    let Some(id) = record.service.as_deref() else {
        // The policy server, or a service that was not known: its host is not recorded.
        return recorded(record).map(Ok).ok_or(Unplayed::Unread);
    };
    let id = id.parse().map_err(|_| Unplayed::Unread)?;
    let Some(service) = bundle.service_with_id(&id).and_then(|index| bundle.service(index)) else {
        return Ok(Err(Code::ServiceUnknown));
    };
    if service.protocol() != protocol(record) {
        return Err(Unplayed::Unread);
    }
    match service.protocol() {
        Protocol::Http => routed(record, service),
        Protocol::Mcp | Protocol::A2a => named(recorded(record).ok_or(Unplayed::Unread)?, service),
    }
}

/// Finds the route again.
fn routed(record: &Record<'_>, service: &Service) -> Result<Result<Facts, Code>, Unplayed> {
    let facts = record.facts.as_ref().ok_or(Unplayed::Unread)?;
    let (method, path) = (facts.method.as_deref(), facts.path.as_deref());
    let (method, path) = (method.ok_or(Unplayed::Unread)?, path.ok_or(Unplayed::Unread)?);
    let host = service.hosts().next().ok_or(Unplayed::Unread)?;
    let target = match query(facts, method, path, service)? {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    };
    let mut pairs = vec![
        (":method", method),
        (":path", &*target),
        (":scheme", "https"),
        (":authority", host),
    ];
    if let Some((path, _)) = facts.resources.first() {
        pairs.push((http::DESTINATION, path));
    }
    let head = match RequestHead::parse(&pairs) {
        Ok(head) => head,
        Err(denial) => return Ok(Err(denial.code())),
    };
    let mut read = Facts {
        service: Some(service.id().clone()),
        protocol: Protocol::Http,
        method: method.to_owned(),
        path: path.to_owned(),
        captures: Vec::new(),
        own: None,
        right: Right::Exempt,
        destination: None,
        rpc_id: None,
        rpc_method: None,
        task: None,
    };
    match http::route(&head, service) {
        Ok(found) => {
            (read.captures, read.own, read.right) = (found.captures, found.own, found.right);
            read.destination = found.destination;
        }
        Err(_) if http::is_exempt_for_some(method, path, service) => {}
        Err(denial) => return Ok(Err(denial.code())),
    }
    Ok(Ok(read))
}

/// The query that the route needs, made of what was captured: queries are not recorded.
fn query(facts: &RecordedFacts<'_>, method: &str, path: &str, service: &Service) -> Result<String, Unplayed> {
    let is_it = |route: &&Route| route.method.as_str() == method && route.path.captures(path).is_some();
    let Some(route) = service.routes().iter().find(is_it) else {
        return Ok(String::new());
    };
    let mut parameters = Vec::new();
    for wanted in &route.query {
        let mut captures = facts.captures.iter();
        let value = captures.find(|(name, _)| **name == *wanted.capture);
        let (_, value) = value.ok_or(Unplayed::Unread)?;
        parameters.push(format!("{}={value}", wanted.parameter));
    }
    Ok(parameters.join("&"))
}

/// Looks up again what an MCP request named, or which agent an A2A service is. Arguments are not recorded: a scope that is made of them stays as it was.
fn named(mut facts: Facts, service: &Service) -> Result<Result<Facts, Code>, Unplayed> {
    let (rule, scope, absent) = match &mut facts.right {
        Right::Tool { name, scope } => (service.tool(name.as_str()), scope, Code::ToolNotOffered),
        Right::Prompt { name, scope } => (service.prompt(name.as_str()), scope, Code::PromptNotOffered),
        Right::Call { agent, scope } => {
            let called = service.called().ok_or(Unplayed::Unread)?;
            (*agent, *scope) = (called.agent.clone(), called.scope.clone());
            return Ok(Ok(facts));
        }
        // Looked up when it is decided.
        Right::Resources(_) | Right::Session | Right::Scope(_) | Right::Exempt | Right::ControlPlane => {
            return Ok(Ok(facts));
        }
    };
    match rule {
        None => return Ok(Err(absent)),
        Some(ToolRule { scope: None, .. }) => *scope = None,
        Some(ToolRule { scope: Some(_), .. }) if scope.is_some() => {}
        Some(_) => return Err(Unplayed::Unread),
    }
    Ok(Ok(facts))
}
