//! What Istio's other objects tell the sidecars of the mesh: the hosts that they know, and that nothing is plain text.

use std::collections::BTreeSet;

use super::object::{Object, at, has_all, items, labels_at, text};
use super::{Cluster, Findings, Node, Pod, ROOT_NAMESPACE};
use crate::render::{AgentReach, sidecar_hosts};

pub(super) fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for object in cluster.of_kind("Sidecar") {
        if cluster.is_of_mesh(object.namespace()) || object.namespace() == ROOT_NAMESPACE {
            closed(object, findings);
        }
    }
    for pod in cluster.described() {
        let agents = cluster.reach.agents.iter();
        for agent in agents.filter(|agent| agent.workload == pod.workload) {
            hosts(cluster, pod, agent, findings);
        }
    }
    for object in cluster.of_kind("PeerAuthentication") {
        if cluster.is_of_mesh(object.namespace()) || object.namespace() == ROOT_NAMESPACE {
            strict(object, findings);
        }
    }
    for object in cluster.of_kind("Gateway") {
        let class = at(&object.node, &["spec"]).and_then(|spec| spec.entry("gatewayClassName"));
        if let Some(class) = class.filter(|class| class.value.text() == Some("istio-waypoint"))
            && cluster.is_of_mesh(object.namespace())
        {
            findings.report(
                &object.file,
                class.place(),
                "a waypoint takes requests in the place of sidecars, where our filter would be absent",
                "remove it: the mesh works with sidecars",
            );
        }
    }
}

/// Whether a sidecar sends to nothing but the hosts that it is told.
fn closed(object: &Object, findings: &mut Findings) {
    let Some(spec) = at(&object.node, &["spec"]) else {
        return;
    };
    if text(spec, &["outboundTrafficPolicy", "mode"]) != Some("REGISTRY_ONLY") {
        let place = at(spec, &["outboundTrafficPolicy", "mode"]).unwrap_or(spec).place;
        findings.report(
            &object.file,
            place,
            "the sidecar would send to hosts that it does not know, which no filter is asked about",
            "write `outboundTrafficPolicy: { mode: REGISTRY_ONLY }`",
        );
    }
    for listener in ["ingress", "egress"].iter().flat_map(|list| items(spec, &[list])) {
        if let Some(entry) = listener
            .entry("captureMode")
            .filter(|entry| entry.value.text() == Some("NONE"))
        {
            findings.report(
                &object.file,
                entry.place(),
                "`captureMode: NONE` lets traffic around the sidecar, and so around the filter",
                "remove it",
            );
        }
    }
    for host in egress_hosts(object) {
        if host
            .text()
            .is_some_and(|host| host.contains('*') || host.starts_with("~/"))
        {
            findings.report(
                &object.file,
                host.place,
                "a sidecar of the mesh knows the hosts that files declare, and no others",
                "name each host (`ostiary render`)",
            );
        }
    }
}

fn egress_hosts(object: &Object) -> impl Iterator<Item = &Node> {
    items(&object.node, &["spec", "egress"])
        .iter()
        .flat_map(|listener| items(listener, &["hosts"]))
}

/// Whether an agent's sidecar knows the services that it reaches, and no others.
fn hosts(cluster: &Cluster<'_>, pod: &Pod<'_>, agent: &AgentReach<'_>, findings: &mut Findings) {
    let of_pod = cluster.of_kind("Sidecar").find(|object| {
        let wanted = labels_at(&object.node, &["spec", "workloadSelector", "labels"]);
        object.namespace() == pod.workload.namespace && !wanted.is_empty() && has_all(&pod.labels, &wanted)
    });
    let Some(sidecar) = of_pod else {
        findings.report(
            &pod.object.file,
            pod.labels_place(),
            format!("no Sidecar selects the pods of `{}`, so theirs knows the services that it reaches not at all, or all there are", pod.workload),
            "apply what `ostiary render` writes for it",
        );
        return;
    };
    let declared = sidecar_hosts(agent, cluster.reach);
    let known: BTreeSet<_> = egress_hosts(sidecar).filter_map(Node::text).collect();
    let advice = "render again (`ostiary render`), or change the agent's `reaches`";
    for missing in declared.iter().filter(|host| !known.contains(host.as_str())) {
        findings.report(
            &sidecar.file,
            at(&sidecar.node, &["spec", "egress"]).unwrap_or(&sidecar.node).place,
            format!(
                "the sidecar of `{}` does not know `{missing}`, which its file reaches",
                pod.workload
            ),
            advice,
        );
    }
    for host in egress_hosts(sidecar) {
        if host
            .text()
            .is_some_and(|host| !host.contains('*') && !declared.contains(host))
        {
            findings.report(
                &sidecar.file,
                host.place,
                format!("the file of `{}` does not reach this host", pod.workload),
                advice,
            );
        }
    }
}

/// Whether a connection without a certificate is refused: the filter binds tokens to it.
fn strict(object: &Object, findings: &mut Findings) {
    let own = at(&object.node, &["spec", "mtls", "mode"]);
    let ports = at(&object.node, &["spec", "portLevelMtls"]).map(|ports| &ports.value);
    let ports = match ports {
        Some(super::yaml::Value::Mapping(ports)) => ports.as_slice(),
        _ => &[],
    };
    let modes = ports.iter().filter_map(|port| at(&port.value, &["mode"]));
    for mode in own.into_iter().chain(modes) {
        if !matches!(mode.text(), Some("STRICT" | "UNSET")) {
            findings.report(
                &object.file,
                mode.place,
                "plain text would be taken, in which no caller has an identity",
                "write `STRICT`",
            );
        }
    }
}
