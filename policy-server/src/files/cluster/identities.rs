//! AuthorizationPolicies: whether those are let in by identity whom the files declare, and nobody else.

use std::collections::BTreeSet;

use super::object::{Object, at, items, meets, text};
use super::{Cluster, Findings, Node, Pod};

pub(super) fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for pod in cluster.described() {
        let policies: Vec<_> = cluster
            .of_kind("AuthorizationPolicy")
            .filter(|policy| allows(policy) && selects(policy, pod))
            .collect();
        let Some(nearest) = policies.iter().max_by_key(|policy| rank(policy)) else {
            findings.report(
                &pod.object.file,
                pod.labels_place(),
                format!(
                    "no AuthorizationPolicy selects the pods of `{}`: everybody in the mesh is let in",
                    pod.workload
                ),
                "apply istio/namespace in its namespace, and what `ostiary render` writes",
            );
            continue;
        };
        let declared = declared(cluster, pod);
        for policy in &policies {
            nobody_else(policy, pod, &declared, findings);
        }
        let named: BTreeSet<_> = policies
            .iter()
            .flat_map(|policy| items(&policy.node, &["spec", "rules"]))
            .flat_map(principals)
            .filter_map(Node::text)
            .collect();
        for missing in declared.iter().filter(|principal| !named.contains(principal.as_str())) {
            findings.report(
                &nearest.file,
                at(&nearest.node, &["spec", "rules"]).unwrap_or(&nearest.node).place,
                format!(
                    "`{missing}` is declared to call `{}`, and is not let in by identity",
                    pod.workload
                ),
                "render again (`ostiary render`)",
            );
        }
    }
}

fn allows(policy: &Object) -> bool {
    text(&policy.node, &["spec", "action"]).is_none_or(|action| action == "ALLOW")
}

fn selects(policy: &Object, pod: &Pod<'_>) -> bool {
    policy.namespace() == pod.workload.namespace
        && at(&policy.node, &["spec", "selector"]).is_none_or(|selector| meets(selector, &pod.labels))
}

/// A policy with rules is the one to mend.
fn rank(policy: &Object) -> usize {
    items(&policy.node, &["spec", "rules"]).len()
}

/// Whom the files let call a workload, as Istio names principals: without the scheme.
fn declared(cluster: &Cluster<'_>, pod: &Pod<'_>) -> BTreeSet<String> {
    let services = cluster.reach.services.iter();
    services
        .filter(|service| service.workload == pod.workload)
        .flat_map(|service| {
            let exempt = service.claims.exempt.iter().map(|exempt| &exempt.peer);
            service.agents.values().copied().chain(exempt)
        })
        .filter_map(|identity| identity.as_str().strip_prefix("spiffe://"))
        .map(str::to_owned)
        .collect()
}

fn principals(rule: &Node) -> impl Iterator<Item = &Node> {
    items(rule, &["from"])
        .iter()
        .flat_map(|from| items(from, &["source", "principals"]))
}

fn nobody_else(policy: &Object, pod: &Pod<'_>, declared: &BTreeSet<String>, findings: &mut Findings) {
    for rule in items(&policy.node, &["spec", "rules"]) {
        let from = items(rule, &["from"]);
        let is_open = |from: &Node| items(from, &["source", "principals"]).is_empty();
        if from.is_empty() || from.iter().any(is_open) {
            findings.report(
                &policy.file,
                rule.place,
                "this lets callers in without asking who they are",
                "name each caller in `from[].source.principals` (`ostiary render`)",
            );
        }
        for principal in principals(rule) {
            let name = principal.text().unwrap_or_default();
            if !declared.contains(name) {
                findings.report(
                    &policy.file,
                    principal.place,
                    format!("no file declares that `{name}` calls `{}`", pod.workload),
                    "render again (`ostiary render`), or let the agent's file reach it",
                );
            }
        }
    }
}
