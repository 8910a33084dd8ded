//! For Istio: who is let in by identity, and which hosts a sidecar knows at all.

use std::collections::BTreeSet;

use authz::identity::SpiffeId;
use authz::policy::ServiceClaims;
use serde_json::{Value, json};

use super::reach::{AgentReach, Reach, ServiceReach, Workload};
use super::{Manifests, SERVICE_ACCOUNT_LABEL, network_policy};

/// All manifests, by file.
pub(super) fn manifests(reach: &Reach<'_>) -> Manifests {
    let mut manifests = Manifests::new();
    for agent in &reach.agents {
        let file = format!("{}/agent-{}.yaml", agent.workload.namespace, agent.policy.claims.id);
        manifests.insert(file, vec![network_policy::agent(agent, reach), sidecar(agent, reach)]);
    }
    for service in &reach.services {
        let file = format!(
            "{}/service-{}.yaml",
            service.workload.namespace,
            service.claims.id.name()
        );
        let documents = vec![network_policy::service(service, reach), allow_agents(service)];
        manifests.insert(file, documents);
    }
    let file = format!("{}/policy-server.yaml", reach.policy_server.id.namespace());
    manifests.insert(file, vec![network_policy::policy_server(reach), allow_callers(reach)]);
    manifests
}

/// The only hosts that an agent's sidecar knows; anything else has no route.
fn sidecar(agent: &AgentReach<'_>, reach: &Reach<'_>) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {
            "name": format!("agent-{}", agent.policy.claims.id),
            "namespace": agent.workload.namespace,
        },
        "spec": {
            "workloadSelector": {"labels": {SERVICE_ACCOUNT_LABEL: agent.workload.service_account}},
            "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
            "egress": [{"hosts": sidecar_hosts(agent, reach)}],
        },
    })
}

/// The hosts of an agent's sidecar: the services that it reaches, istiod and the policy server.
pub(crate) fn sidecar_hosts(agent: &AgentReach<'_>, reach: &Reach<'_>) -> BTreeSet<String> {
    let domain = reach.cluster_domain;
    let server = &reach.policy_server.id;
    let mut hosts = BTreeSet::from([
        format!("istio-system/istiod.istio-system.svc.{domain}"),
        format!(
            "{}/{}.{}.svc.{domain}",
            server.namespace(),
            server.name(),
            server.namespace()
        ),
    ]);
    for service in &agent.services {
        hosts.extend(service_hosts(service, domain));
    }
    hosts
}

/// A service's hosts as a Sidecar names them, with the namespace before the slash.
///
/// Istio knows a Kubernetes Service by its full name alone; the short names that callers may use stand for it.
fn service_hosts(service: &ServiceClaims, domain: &str) -> BTreeSet<String> {
    let namespace = service.id.namespace();
    let full = |host: &String| {
        let labels: Vec<&str> = host.split('.').collect();
        match labels.as_slice() {
            [name] => format!("{name}.{namespace}.svc.{domain}"),
            [name, within] if *within == namespace => format!("{name}.{namespace}.svc.{domain}"),
            [name, within, "svc"] if *within == namespace => format!("{name}.{namespace}.svc.{domain}"),
            _ => host.clone(),
        }
    };
    let hosts = service.hosts.iter().map(full);
    hosts.map(|host| format!("{namespace}/{host}")).collect()
}

/// Lets the agents that reach a service in, on its ports, and who is exempt to the endpoints that the file names.
fn allow_agents(service: &ServiceReach<'_>) -> Value {
    let claims = service.claims;
    let ports: BTreeSet<_> = claims.ports.iter().collect();
    let ports: Vec<_> = ports.into_iter().map(u16::to_string).collect();
    let mut rules = Vec::new();
    if !service.agents.is_empty() {
        rules.push(json!({
            "from": from(service.agents.values().copied()),
            "to": [{"operation": {"ports": ports}}],
        }));
    }
    let exempt: BTreeSet<_> = claims
        .exempt
        .iter()
        .map(|exempt| (&exempt.peer, &exempt.path, &exempt.method))
        .collect();
    rules.extend(exempt.into_iter().map(|(peer, path, method)| {
        json!({
            "from": from([peer]),
            "to": [{"operation": {"ports": ports, "methods": [method], "paths": [path]}}],
        })
    }));
    allow(&format!("service-{}", claims.id.name()), &service.workload, &rules)
}

/// Lets those call the policy server who have something to ask; what they may ask is its own to decide.
fn allow_callers(reach: &Reach<'_>) -> Value {
    let server = reach.policy_server;
    let mut rules = Vec::new();
    if !reach.policy_callers.is_empty() {
        rules.push(json!({
            "from": from(reach.policy_callers.values().copied()),
            "to": [{"operation": {"ports": [server.port.to_string()]}}],
        }));
    }
    allow("policy-server-callers", &server.workload(), &rules)
}

/// Without rules nobody is let in: such a policy never matches, and what no ALLOW policy matches is denied.
fn allow(name: &str, workload: &Workload, rules: &[Value]) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": workload.namespace},
        "spec": {
            "selector": {"matchLabels": {SERVICE_ACCOUNT_LABEL: workload.service_account}},
            "action": "ALLOW",
            "rules": rules,
        },
    })
}

/// Istio names principals without the scheme.
fn from<'i>(identities: impl IntoIterator<Item = &'i SpiffeId>) -> Value {
    let principals: BTreeSet<_> = identities
        .into_iter()
        .filter_map(|identity| identity.as_str().strip_prefix("spiffe://"))
        .collect();
    json!([{"source": {"principals": principals}}])
}
