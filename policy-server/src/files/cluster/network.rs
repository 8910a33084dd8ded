//! NetworkPolicies: whether the pods of the mesh exchange what the files declare, and nothing else.

use super::object::{Object, at, items, labels_at, meets, text};
use super::{Cluster, Findings, Node, Pod, SERVICE_ACCOUNT_LABEL, Workload};

use destinations::{Destination, Peer};

mod destinations;
mod rules;

/// A direction, by the names that NetworkPolicies give it.
#[derive(Clone, Copy)]
struct Direction {
    kind: &'static str,
    rules: &'static str,
    peers: &'static str,
}

const INGRESS: Direction = Direction {
    kind: "Ingress",
    rules: "ingress",
    peers: "from",
};

const EGRESS: Direction = Direction {
    kind: "Egress",
    rules: "egress",
    peers: "to",
};

pub(super) fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for pod in cluster.described() {
        let policies = policies(cluster, pod);
        for direction in [INGRESS, EGRESS] {
            if policies.iter().any(|policy| isolates(policy, direction)) {
                continue;
            }
            findings.report(
                &pod.object.file,
                pod.labels_place(),
                format!(
                    "no NetworkPolicy closes the {} of the pods of `{}`",
                    direction.rules, pod.workload
                ),
                format!(
                    "apply one with `{}` in its `policyTypes` (k8s/namespace, `ostiary render`)",
                    direction.kind
                ),
            );
        }
        for policy in &policies {
            for direction in [INGRESS, EGRESS] {
                for rule in items(&policy.node, &["spec", direction.rules]) {
                    rules::not_too_wide(cluster, pod, policy, rule, direction, findings);
                }
            }
        }
        sends(cluster, pod, &policies, findings);
        receives(cluster, pod, &policies, findings);
    }
}

fn policies<'c>(cluster: &Cluster<'c>, pod: &Pod<'_>) -> Vec<&'c Object> {
    let objects = cluster.of_kind("NetworkPolicy");
    objects.filter(|policy| selects(policy, pod)).collect()
}

fn selects(policy: &Object, pod: &Pod<'_>) -> bool {
    policy.namespace() == pod.workload.namespace
        && at(&policy.node, &["spec", "podSelector"]).is_none_or(|selector| meets(selector, &pod.labels))
}

/// Whether what a policy does not name is closed. Without `policyTypes` it is for ingress, and for egress if it has such rules.
fn isolates(policy: &Object, direction: Direction) -> bool {
    let types = items(&policy.node, &["spec", "policyTypes"]);
    if types.is_empty() {
        return direction.kind == INGRESS.kind || !items(&policy.node, &["spec", EGRESS.rules]).is_empty();
    }
    types.iter().any(|kind| kind.text() == Some(direction.kind))
}

/// All rules of a pod's policies in a direction, with the namespace that their selectors are read in.
fn rules_of<'c>(policies: &[&'c Object], direction: Direction) -> impl Iterator<Item = (&'c str, &'c Node)> {
    policies.iter().flat_map(move |policy| {
        let rules = items(&policy.node, &["spec", direction.rules]);
        rules.iter().map(|rule| (policy.namespace(), rule))
    })
}

/// The policy to mend: of those that are for the workload alone, the one with the most rules.
fn to_mend<'c>(policies: &[&'c Object], direction: Direction) -> Option<(&'c Object, &'c Node)> {
    let rules = |policy: &Object| items(&policy.node, &["spec", direction.rules]).len();
    let own = policies.iter().filter(|policy| is_for_one(policy));
    let policy = own.max_by_key(|policy| rules(policy))?;
    let place = at(&policy.node, &["spec", direction.rules]);
    Some((policy, place.unwrap_or(&policy.node)))
}

fn is_for_one(policy: &Object) -> bool {
    let Some(selector) = at(&policy.node, &["spec", "podSelector"]) else {
        return false;
    };
    let labels = labels_at(selector, &["matchLabels"]);
    let mut expressions = items(selector, &["matchExpressions"]).iter();
    labels.contains_key(SERVICE_ACCOUNT_LABEL)
        || expressions.any(|expression| text(expression, &["key"]) == Some(SERVICE_ACCOUNT_LABEL))
}

/// Whether a pod may send to all that its file, and its sidecar, need.
fn sends(cluster: &Cluster<'_>, pod: &Pod<'_>, policies: &[&Object], findings: &mut Findings) {
    let needed = destinations::of(cluster, &pod.workload);
    let Some((policy, place)) = to_mend(policies, EGRESS) else {
        findings.report(
            &pod.object.file,
            pod.labels_place(),
            format!("no NetworkPolicy opens anything for the pods of `{}`", pod.workload),
            "apply what `ostiary render` writes for it",
        );
        return;
    };
    for destination in needed {
        let is_open =
            rules_of(policies, EGRESS).any(|(namespace, rule)| rules::opens(cluster, namespace, rule, &destination));
        if !is_open {
            let Destination {
                name, port, protocol, ..
            } = &destination;
            findings.report(
                &policy.file,
                place.place,
                format!(
                    "the pods of `{}` may not send to {name}, port {port}/{protocol}",
                    pod.workload
                ),
                "render again (`ostiary render`), or change what the agent's file reaches",
            );
        }
    }
}

/// Whether a pod receives from all whom files let call it.
fn receives(cluster: &Cluster<'_>, pod: &Pod<'_>, policies: &[&Object], findings: &mut Findings) {
    for service in cluster
        .reach
        .services
        .iter()
        .filter(|service| service.workload == pod.workload)
    {
        let Some((policy, place)) = to_mend(policies, INGRESS) else {
            continue;
        };
        for caller in service.callers() {
            let from = Peer::pods_of(cluster, &caller);
            for port in &service.claims.ports {
                let is_open = rules_of(policies, INGRESS).any(|(namespace, rule)| {
                    rules::names(cluster, namespace, rule, INGRESS, &from) && rules::has_port(rule, *port, "TCP", pod)
                });
                if !is_open {
                    findings.report(
                        &policy.file,
                        place.place,
                        format!("the pods of `{}` may not receive from `{caller}`, which is declared to call them, on port {port}", pod.workload),
                        "render again (`ostiary render`)",
                    );
                }
            }
        }
    }
}

/// Whether the files declare that one workload sends to another.
fn is_declared(cluster: &Cluster<'_>, from: &Workload, to: &Workload) -> bool {
    let server = cluster.reach.policy_server.workload();
    let services = &cluster.reach.services;
    (*to == server && cluster.reach.policy_callers.contains_key(from))
        || services
            .iter()
            .any(|service| service.workload == *to && service.callers().contains(from))
}
