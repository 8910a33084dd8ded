//! NetworkPolicies: which pods exchange packets at all.
//!
//! Rules only add, so each policy isolates its pods in both directions and lists what is left. A kubelet's probes come
//! from the pod's own node, whose traffic no NetworkPolicy stops: they need no rule, and a rule for them would let
//! every pod in.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::SERVICE_ACCOUNT_LABEL;
use super::reach::{AgentReach, PolicyServer, Reach, ServiceReach, Workload};

/// istiod's port for xDS and certificates over TLS.
const ISTIOD_PORT: u16 = 15012;

/// What an agent's pods may send; nothing is sent to them.
pub(super) fn agent(agent: &AgentReach<'_>, reach: &Reach<'_>) -> Value {
    let mut egress = infrastructure(reach.policy_server);
    egress.extend(agent.services.iter().filter_map(|service| {
        let to = Workload::of(&service.identity)?;
        Some(json!({"to": [peer(&to)], "ports": tcp(&service.ports)}))
    }));
    let name = format!("agent-{}", agent.policy.claims.id);
    policy(&name, &agent.workload, &[], &egress)
}

/// Who may send to a service's pods, and what little they send themselves.
pub(super) fn service(service: &ServiceReach<'_>, reach: &Reach<'_>) -> Value {
    let ingress = from(&service.callers(), &service.claims.ports);
    let name = format!("service-{}", service.claims.id.name());
    policy(&name, &service.workload, &ingress, &infrastructure(reach.policy_server))
}

/// Who may send to the policy server's pods. What they may send is theirs to say.
pub(super) fn policy_server(reach: &Reach<'_>) -> Value {
    let server = reach.policy_server;
    let workload = server.workload();
    let callers = reach.policy_callers.keys().cloned().collect();
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "policy-server-callers", "namespace": workload.namespace},
        "spec": {
            "podSelector": {"matchLabels": {SERVICE_ACCOUNT_LABEL: workload.service_account}},
            "policyTypes": ["Ingress"],
            "ingress": from(&callers, &[server.port]),
        },
    })
}

fn policy(name: &str, workload: &Workload, ingress: &[Value], egress: &[Value]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": workload.namespace},
        "spec": {
            "podSelector": {"matchLabels": {SERVICE_ACCOUNT_LABEL: workload.service_account}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    })
}

/// What every sidecar needs: names, its certificate and configuration, and its policy.
fn infrastructure(policy_server: &PolicyServer) -> Vec<Value> {
    let dns = json!({
        "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    });
    let istiod = json!({
        "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: "istio-system"}},
        "podSelector": {"matchLabels": {"app": "istiod"}},
    });
    vec![
        json!({"to": [dns], "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}),
        json!({"to": [istiod], "ports": tcp(&[ISTIOD_PORT])}),
        json!({"to": [peer(&policy_server.workload())], "ports": tcp(&[policy_server.port])}),
    ]
}

/// The label that Kubernetes itself puts on every namespace.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// No rule at all for no caller: an empty `from` would mean everybody.
fn from(callers: &BTreeSet<Workload>, ports: &[u16]) -> Vec<Value> {
    if callers.is_empty() {
        return Vec::new();
    }
    let peers: Vec<_> = callers.iter().map(peer).collect();
    vec![json!({"from": peers, "ports": tcp(ports)})]
}

/// Both selectors in one element: in two they would mean either.
fn peer(workload: &Workload) -> Value {
    json!({
        "namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: workload.namespace}},
        "podSelector": {"matchLabels": {SERVICE_ACCOUNT_LABEL: workload.service_account}},
    })
}

fn tcp(ports: &[u16]) -> Value {
    let ports: BTreeSet<_> = ports.iter().collect();
    ports
        .into_iter()
        .map(|port| json!({"port": port, "protocol": "TCP"}))
        .collect()
}
