//! The rules of one service's file.

use std::collections::BTreeMap;

use super::{
    DEFAULT_A2A_PATH, DEFAULT_BODY_LIMIT_BYTES, DEFAULT_MCP_PATH, DEFAULT_TOKEN_HEADER, ExemptSpec, Metadata,
    NamedSpec, ProtocolName, ServiceManifest, ToolSpec, bounds,
    problem::{Report, pointer_token},
};
use crate::{
    definition::DefinitionDigest,
    identity::{AgentId, NameError, ServiceId, SpiffeId, ToolName},
    policy::{
        self, ContentError, ExemptClaims, ExpiryMode, Fault, Protocol, RecordMode, RouteClaims, Service, ServiceClaims,
        ToolClaims, fault::Faults,
    },
    scope::ScopeError,
};

/// A service: what a bundle says of it, and the same compiled.
#[derive(Debug, Clone)]
pub(super) struct CheckedService {
    pub(super) claims: ServiceClaims,
    pub(super) compiled: Service,
}

/// Checks a service's file on its own.
pub(super) fn check(manifest: &ServiceManifest, trust_domain: &str, report: &mut Report<'_>) -> Option<CheckedService> {
    let spec = &manifest.spec;
    let id = service_id(&manifest.metadata, report);
    let identity = identity(trust_domain, &manifest.metadata, &spec.service_account, report);
    let protocol = protocol(spec.protocol, report);
    let tools = named("tools", &spec.tools, tool, "write the exact name of one tool", report);
    let prompt = |_: &str, spec: &NamedSpec, _: &mut Report<'_>| unpinned(spec);
    let prompts = named(
        "prompts",
        &spec.prompts,
        prompt,
        "write the exact name of one prompt",
        report,
    );
    // What is wrong with one is told when it is compiled.
    let resources = spec.resources.iter().map(|(uri, spec)| (uri.clone(), unpinned(spec)));
    let agent = spec.agent.as_deref().map(|name| agent(name, report));
    let (id, identity, protocol) = (id?, identity?, protocol?);
    let (default_path, default_rest) = match protocol {
        Protocol::Http => (None, None),
        Protocol::Mcp => (Some(DEFAULT_MCP_PATH), None),
        Protocol::A2a => (Some(DEFAULT_A2A_PATH), Some(DEFAULT_A2A_PATH)),
    };
    let or = |written: &Option<String>, default: Option<&str>| written.clone().or(default.map(str::to_owned));
    let claims = ServiceClaims {
        id,
        hosts: spec.hosts.clone(),
        ports: spec.ports.clone(),
        protocol,
        path: or(&spec.path, default_path),
        rest_path: or(&spec.rest_path, default_rest),
        agent: match agent {
            Some(agent) => Some(agent?),
            None => None,
        },
        tasks: spec.tasks,
        routes: routes(manifest),
        exempt: exempt(&spec.exempt, &identity, report),
        identity,
        tools,
        on_drift: spec.on_drift,
        prompts,
        resources: resources.collect(),
        token_header: spec
            .token_header
            .clone()
            .unwrap_or_else(|| DEFAULT_TOKEN_HEADER.to_owned()),
        forward_token: spec.forward_token,
        forward_claims: spec.forward_claims,
        body_limit_bytes: spec.body_limit_bytes.unwrap_or(DEFAULT_BODY_LIMIT_BYTES),
        record: spec.record.unwrap_or(RecordMode::of(protocol)),
        on_expiry: spec.on_expiry.unwrap_or(ExpiryMode::OF_FILES),
        on_pause: spec.on_pause,
        mode: spec.mode,
    };
    bounds::service(spec, report);
    check_useful(&claims, report);
    check_ports(&claims, report);
    let mut faults = Faults::default();
    let compiled = policy::check::service(&claims, &mut faults);
    for Fault { field, error } in faults.0 {
        report.add(pointer(&field), error.to_string(), advice(&error));
    }
    Some(CheckedService {
        claims,
        compiled: compiled?,
    })
}

/// The identity of a workload; shared with agents.
pub(super) fn identity(
    trust_domain: &str,
    metadata: &Metadata,
    service_account: &str,
    report: &mut Report<'_>,
) -> Option<SpiffeId> {
    let is_account = service_account.len() <= 253 && service_account.split('.').all(crate::identity::is_label);
    if !is_account {
        let message = format!("`{service_account}` is not the name of a Kubernetes service account");
        report.add(
            "/spec/serviceAccount",
            message,
            "write the name that the workload's pods run under",
        );
        return None;
    }
    let identity = SpiffeId::for_service_account(trust_domain, &metadata.namespace, service_account);
    report.take(
        "/metadata/namespace",
        &metadata.namespace,
        identity,
        "write the workload's Kubernetes namespace",
    )
}

fn service_id(metadata: &Metadata, report: &mut Report<'_>) -> Option<ServiceId> {
    let both: Result<ServiceId, NameError> = ServiceId::new(&metadata.namespace, &metadata.name);
    let text = format!("{}/{}", metadata.namespace, metadata.name);
    report.take(
        "/metadata/name",
        &text,
        both,
        "name and namespace take a-z, 0-9 and `-`, at most 63 each",
    )
}

fn protocol(name: ProtocolName, report: &mut Report<'_>) -> Option<Protocol> {
    let word = match name {
        ProtocolName::Http => return Some(Protocol::Http),
        ProtocolName::Mcp => return Some(Protocol::Mcp),
        ProtocolName::A2a => return Some(Protocol::A2a),
        ProtocolName::Llm => "llm",
    };
    report.add(
        "/spec/protocol",
        format!("`{word}` is not served by this version"),
        "write `http`, `mcp` or `a2a`",
    );
    None
}

/// The agent behind an A2A service; whether there is one is told once all files are read.
fn agent(name: &str, report: &mut Report<'_>) -> Option<AgentId> {
    report.take("/spec/agent", name, AgentId::parse(name), "write the name of one agent")
}

/// Tools or prompts, by their names.
fn named<S>(
    list: &str,
    specs: &BTreeMap<String, S>,
    claims: impl Fn(&str, &S, &mut Report<'_>) -> ToolClaims,
    advice: &str,
    report: &mut Report<'_>,
) -> BTreeMap<ToolName, ToolClaims> {
    let mut named = BTreeMap::new();
    for (name, spec) in specs {
        let field = format!("/spec/{list}/{}", pointer_token(name));
        let claims = claims(&field, spec, report);
        if let Some(name) = report.take(field, name, ToolName::parse(name), advice) {
            named.insert(name, claims);
        }
    }
    named
}

fn tool(field: &str, spec: &ToolSpec, report: &mut Report<'_>) -> ToolClaims {
    let definition = spec.definition.as_deref().and_then(|text| {
        let parsed = text.parse::<DefinitionDigest>();
        let advice = "write what `ostiary pin` prints for it";
        parsed
            .map_err(|error| report.add(format!("{field}/definition"), error.to_string(), advice))
            .ok()
    });
    ToolClaims {
        scope: spec.scope.clone(),
        definition,
    }
}

fn unpinned(spec: &NamedSpec) -> ToolClaims {
    ToolClaims {
        scope: spec.scope.clone(),
        definition: None,
    }
}

fn routes(manifest: &ServiceManifest) -> Vec<RouteClaims> {
    let routes = manifest.spec.routes.iter();
    routes
        .map(|route| RouteClaims {
            method: route.method.clone(),
            path: route.path.clone(),
            query: route.query.clone(),
            scope: route.scope.clone(),
            own: route.own.clone(),
        })
        .collect()
}

fn exempt(specs: &[ExemptSpec], own: &SpiffeId, report: &mut Report<'_>) -> Vec<ExemptClaims> {
    let peer = |index: usize, text: &str, report: &mut Report<'_>| {
        let field = format!("/spec/exempt/{index}/peer");
        report.take(
            field,
            text,
            SpiffeId::parse(text),
            "write the one caller's SPIFFE ID in full",
        )
    };
    specs
        .iter()
        .enumerate()
        .map(|(index, spec)| ExemptClaims {
            // A faulty peer is reported; any identity keeps the places of the others for the checks that follow.
            peer: peer(index, &spec.peer, report).unwrap_or_else(|| own.clone()),
            method: spec.method.clone(),
            path: spec.path.clone(),
        })
        .collect()
}

/// A service that no request could ever pass is a mistake in its file.
fn check_useful(claims: &ServiceClaims, report: &mut Report<'_>) {
    match claims.protocol {
        Protocol::Http if claims.routes.is_empty() && claims.exempt.is_empty() => {
            report.add(
                "/spec/routes",
                "without routes every request is denied",
                "list at least one route",
            );
        }
        Protocol::Mcp if claims.tools.is_empty() && claims.prompts.is_empty() && claims.resources.is_empty() => {
            report.add(
                "/spec/tools",
                "a tool that is not listed is denied",
                "list each tool that it offers: `NAME: {}`",
            );
        }
        Protocol::Http | Protocol::Mcp | Protocol::A2a => {}
    }
}

/// A port where the sidecar hands no request to the filter would be an open door.
fn check_ports(claims: &ServiceClaims, report: &mut Report<'_>) {
    for (index, port) in claims.ports.iter().enumerate() {
        let message = if SIDECAR_PORTS.contains(port) {
            format!("port {port} is the sidecar's own, where no request meets the filter")
        } else if TCP_PORTS.contains(port) {
            format!("Istio takes port {port} for TCP, where no request meets the filter")
        } else {
            continue;
        };
        let advice = "let the application listen on another port, such as 8080";
        report.add(format!("/spec/ports/{index}"), message, advice);
    }
}

/// What Istio's agent and Envoy listen on themselves; some of them are never redirected.
const SIDECAR_PORTS: [u16; 9] = [15000, 15001, 15004, 15006, 15008, 15020, 15021, 15053, 15090];

/// Ports whose protocol Istio does not guess: unless their Service says otherwise they carry SMTP, DNS, MySQL, MongoDB.
const TCP_PORTS: [u16; 4] = [25, 53, 3306, 27017];

/// The place in a file of a field of the claims.
fn pointer(field: &str) -> String {
    match field {
        "token_header" => "/spec/tokenHeader".to_owned(),
        "rest_path" => "/spec/restPath".to_owned(),
        "on_drift" => "/spec/onDrift".to_owned(),
        "body_limit_bytes" => "/spec/bodyLimitBytes".to_owned(),
        field => format!("/spec/{field}"),
    }
}

fn advice(error: &ContentError) -> &'static str {
    match error {
        ContentError::Path(_) => "write the path as the application sees it, such as `/v1/tables/{table}`",
        ContentError::Resource(_) => "write the URI as the application names it, such as `table://sales/{table}`",
        ContentError::Scope(ScopeError::Wildcard) => "take a segment of the path or an argument as `{name}`",
        ContentError::Scope(_) => "write `action:resource`, such as `read:data.{table}`",
        ContentError::Method => "write one method, such as `GET`; each method is its own route",
        ContentError::Host => "write the host alone, in lower case; ports go in `ports`",
        ContentError::NoHost => "list the names that callers use, such as `NAME.NAMESPACE.svc.cluster.local`",
        ContentError::HostTwice | ContentError::PortTwice | ContentError::Twice => "keep one of the two",
        ContentError::Port | ContentError::NoPort => "list the ports that the container listens on",
        ContentError::NotOfProtocol => "remove it, or change `protocol`",
        ContentError::NoEndpoint => "write the path that clients post to, such as `/mcp`",
        ContentError::NoAgent => "write the name of the agent that it lets be called, as callers have it in `mayCall`",
        ContentError::CallerUntold => "write `forwardClaims: true`, or leave `tasks` out",
        ContentError::CaptureHere => "write one exact path",
        ContentError::CaptureUnknown(_) => "name a capture that stands in `path` or `query`, or in the URI",
        ContentError::Query => "write the parameter and a capture of its own, such as `table: \"{table}\"`",
        ContentError::CaptureUnused(_) => "put it in `scope`, such as `read:data.{table}`",
        ContentError::CaptureKind => "write `{name}` in routes and resources, `{arguments./name}` in tools and prompts",
        ContentError::ResourceOverlap => "leave one of the two, or set a literal segment apart",
        ContentError::RouteOverlap => "leave one of the two routes, or set a literal segment apart",
        ContentError::TokenHeader => "leave it out for `authorization`, or name a header of its own in lower case",
        ContentError::BodyLimit => "write a number of bytes from 1 to 16777216",
        ContentError::Dangling => "name something that exists",
        ContentError::OutOfBounds
        | ContentError::TooMany
        | ContentError::PageCount
        | ContentError::PageTooLong
        | ContentError::Misplaced => "write less",
    }
}
