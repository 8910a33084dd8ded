//! How much one file may list. An API server holds a rule on each entry only where there is a bound to them, so that the
//! same bounds hold for a resource and for a file.

use super::{AgentSpec, ServiceSpec, problem::Report};
use crate::scope::MAX_SCOPES;

/// Tools of an agent or a service; so many prompts too, and so many resources.
pub const MAX_TOOLS: usize = 256;

/// Agents that an agent may call.
pub const MAX_CALLEES: usize = 512;

/// Who may ask for an agent's tokens.
pub const MAX_ISSUERS: usize = 64;

/// Services that an agent reaches.
pub const MAX_REACHED: usize = 256;

/// Names of a service.
pub const MAX_HOSTS: usize = 64;

/// Ports of a service.
pub const MAX_PORTS: usize = 64;

/// Routes of a service.
pub const MAX_ROUTES: usize = 512;

/// Callers of a service that hold no capability.
pub const MAX_EXEMPT: usize = 64;

/// The path of a route, in bytes.
pub const MAX_ROUTE_PATH_BYTES: usize = 400;

/// Query parameters of a route that name something.
pub const MAX_ROUTE_QUERY: usize = 8;

/// A resource of an agent, in bytes, with the service before it.
pub const MAX_RESOURCE_ENTRY_BYTES: usize = 512;

pub(super) fn agent(spec: &AgentSpec, report: &mut Report<'_>) {
    for (field, listed, most) in [
        ("tools", spec.tools.len(), MAX_TOOLS),
        ("forbiddenTools", spec.forbidden_tools.len(), MAX_TOOLS),
        ("prompts", spec.prompts.len(), MAX_TOOLS),
        ("resources", spec.resources.len(), MAX_TOOLS),
        ("scope", spec.scope.len(), MAX_SCOPES),
        ("mayCall", spec.may_call.len(), MAX_CALLEES),
        ("issuers", spec.issuers.len(), MAX_ISSUERS),
        ("reaches", spec.reaches.len(), MAX_REACHED),
    ] {
        hold(
            field,
            listed,
            most,
            "split the agent's work among several agents",
            report,
        );
    }
    for (index, resource) in spec.resources.iter().enumerate() {
        if resource.len() > MAX_RESOURCE_ENTRY_BYTES {
            report.add(
                format!("/spec/resources/{index}"),
                format!("a resource may have at most {MAX_RESOURCE_ENTRY_BYTES} bytes"),
                "leave out the service, or let the application use shorter URIs",
            );
        }
    }
}

pub(super) fn service(spec: &ServiceSpec, report: &mut Report<'_>) {
    for (field, listed, most) in [
        ("hosts", spec.hosts.len(), MAX_HOSTS),
        ("ports", spec.ports.len(), MAX_PORTS),
        ("routes", spec.routes.len(), MAX_ROUTES),
        ("exempt", spec.exempt.len(), MAX_EXEMPT),
        ("tools", spec.tools.len(), MAX_TOOLS),
        ("prompts", spec.prompts.len(), MAX_TOOLS),
        ("resources", spec.resources.len(), MAX_TOOLS),
    ] {
        hold(
            field,
            listed,
            most,
            "split the service, each part with its own port",
            report,
        );
    }
    for (index, route) in spec.routes.iter().enumerate() {
        if route.path.len() > MAX_ROUTE_PATH_BYTES {
            report.add(
                format!("/spec/routes/{index}/path"),
                format!("a route's path may have at most {MAX_ROUTE_PATH_BYTES} bytes"),
                "take segments as captures, `{name}`",
            );
        }
        if route.query.len() > MAX_ROUTE_QUERY {
            report.add(
                format!("/spec/routes/{index}/query"),
                format!("a route may name at most {MAX_ROUTE_QUERY} query parameters"),
                "list those that its scope is made of",
            );
        }
    }
}

fn hold(field: &str, listed: usize, most: usize, advice: &str, report: &mut Report<'_>) {
    if listed > most {
        let message = format!("`{field}` lists {listed}, and may list {most}");
        report.add(format!("/spec/{field}"), message, advice);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::manifest::{DocumentRef, Problem};

    /// The fields that are told of where each list has `more` entries than it may.
    fn told(more: usize) -> Vec<String> {
        let list = |most: usize| (0..most + more).map(|index| format!("x{index}")).collect::<Vec<_>>();
        let named = |most: usize| list(most).into_iter().map(|name| (name, serde_json::json!({})));
        let agent = serde_json::json!({
            "serviceAccount": "a", "tools": list(MAX_TOOLS), "forbiddenTools": list(MAX_TOOLS), "scope": list(MAX_SCOPES),
            "prompts": list(MAX_TOOLS), "resources": list(MAX_TOOLS),
            "mayCall": list(MAX_CALLEES), "issuers": list(MAX_ISSUERS), "reaches": list(MAX_REACHED),
        });
        let path = "/".repeat(MAX_ROUTE_PATH_BYTES + more);
        let route = serde_json::json!({"method": "GET", "path": path, "scope": "read:x"});
        let exempt = serde_json::json!({"peer": "spiffe://a/b", "method": "GET", "path": "/"});
        let service = serde_json::json!({
            "serviceAccount": "a", "protocol": "http", "hosts": list(MAX_HOSTS), "ports": vec![80; MAX_PORTS + more],
            "routes": vec![route; MAX_ROUTES + more], "exempt": vec![exempt; MAX_EXEMPT + more],
            "tools": named(MAX_TOOLS).collect::<serde_json::Map<_, _>>(),
            "prompts": named(MAX_TOOLS).collect::<serde_json::Map<_, _>>(),
            "resources": named(MAX_TOOLS).collect::<serde_json::Map<_, _>>(),
        });
        let mut problems: Vec<Problem> = Vec::new();
        let mut report = Report::new(DocumentRef::Agent(0), &mut problems);
        super::agent(&serde_json::from_value(agent).unwrap(), &mut report);
        super::service(&serde_json::from_value(service).unwrap(), &mut report);
        problems.into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn a_list_is_as_long_as_it_may_be_and_no_longer() {
        assert_eq!(told(0), [""; 0]);
        let told = told(1);
        let lists = [
            "tools",
            "forbiddenTools",
            "prompts",
            "resources",
            "scope",
            "mayCall",
            "issuers",
            "reaches",
        ];
        let service = ["hosts", "ports", "routes", "exempt", "tools", "prompts", "resources"];
        let lists = lists.into_iter().chain(service);
        let lists: Vec<_> = lists.map(|field| format!("/spec/{field}")).collect();
        assert_eq!(told[..lists.len()], lists);
        assert_eq!(told[lists.len()], "/spec/routes/0/path");
        assert_eq!(told.len(), lists.len() + MAX_ROUTES + 1);
    }

    #[test]
    fn a_resource_and_a_query_are_as_long_as_they_may_be_and_no_longer() {
        let told = |more: usize| {
            let resource = "x".repeat(MAX_RESOURCE_ENTRY_BYTES + more);
            let agent = serde_json::json!({"serviceAccount": "a", "resources": ["x", resource]});
            let query = (0..MAX_ROUTE_QUERY + more).map(|index| (format!("x{index}"), serde_json::json!("{x}")));
            let query: serde_json::Map<_, _> = query.collect();
            let route = serde_json::json!({"method": "GET", "path": "/", "query": query, "scope": "read:x"});
            let service = serde_json::json!({
                "serviceAccount": "a", "protocol": "http", "hosts": ["a"], "ports": [80], "routes": [route],
            });
            let mut problems: Vec<Problem> = Vec::new();
            let mut report = Report::new(DocumentRef::Agent(0), &mut problems);
            super::agent(&serde_json::from_value(agent).unwrap(), &mut report);
            super::service(&serde_json::from_value(service).unwrap(), &mut report);
            problems.into_iter().map(|problem| problem.field).collect::<Vec<_>>()
        };
        assert_eq!(told(0), [""; 0]);
        assert_eq!(told(1), ["/spec/resources/1", "/spec/routes/0/query"]);
    }
}
