//! Pods and their namespaces: whether a filter stands beside the application, and all traffic passes it.

use super::super::yaml::{Entry, Node};
use super::object::{at, items, meets, text};
use super::plugins::selects;
use super::{Cluster, FILTER_LABEL, Findings, MESH_LABEL, Object, Pod, SERVICE_ACCOUNT_LABEL};

/// The sidecar's user, whose traffic is not redirected to it.
const SIDECAR_USER: &str = "1337";

pub(super) fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for object in cluster.of_kind("Namespace") {
        namespace(object, findings);
    }
    for pod in cluster.of_mesh() {
        described(cluster, pod, findings);
        labels(cluster, pod, findings);
        selected(cluster, pod, findings);
        no_ambient(pod.object, at(pod.template, &["metadata", "labels"]), findings);
        sidecar(pod, findings);
        own_network(pod, findings);
    }
}

fn namespace(object: &Object, findings: &mut Findings) {
    let Some(labels) = at(&object.node, &["metadata", "labels"]) else {
        return;
    };
    if text(labels, &[MESH_LABEL]).is_none() {
        return;
    }
    no_ambient(object, Some(labels), findings);
    if text(labels, &["istio-injection"]) != Some("enabled") && text(labels, &["istio.io/rev"]).is_none() {
        findings.report(
            &object.file,
            labels.place,
            "a namespace of the mesh whose pods get no sidecar",
            "label it `istio-injection: enabled`",
        );
    }
}

pub(super) fn no_ambient(object: &Object, labels: Option<&Node>, findings: &mut Findings) {
    for label in ["istio.io/dataplane-mode", "istio.io/use-waypoint"] {
        if let Some(entry) = labels.and_then(|labels| labels.entry(label)) {
            findings.report(
                &object.file,
                entry.key_place,
                format!("`{label}`: in ambient mode there is no sidecar, and so no filter"),
                "remove the label",
            );
        }
    }
}

fn described(cluster: &Cluster<'_>, pod: &Pod<'_>, findings: &mut Findings) {
    if !cluster.is_described(pod) {
        let workload = &pod.workload;
        findings.report(
            &pod.object.file,
            pod.labels_place(),
            format!("no agent or service file describes `{workload}`, so it reaches nothing and nobody reaches it"),
            "add its file, or correct its namespace and service account",
        );
    }
}

fn labels(_: &Cluster<'_>, pod: &Pod<'_>, findings: &mut Findings) {
    let account = pod.workload.service_account.as_str();
    let filter = pod.labels.get(FILTER_LABEL);
    for (label, is_right, wanted) in [
        (MESH_LABEL, pod.is_labelled(), "enabled"),
        (FILTER_LABEL, matches!(filter, Some(&("stable" | "canary"))), "stable"),
        (
            SERVICE_ACCOUNT_LABEL,
            pod.labels.get(SERVICE_ACCOUNT_LABEL) == Some(&account),
            account,
        ),
    ] {
        if !is_right {
            let entry = at(pod.template, &["metadata", "labels"]).and_then(|labels| labels.entry(label));
            findings.report(
                &pod.object.file,
                entry.map_or_else(|| pod.labels_place(), Entry::place),
                format!(
                    "the pods of `{}` lack the label `{label}: {wanted}`, without which nothing selects them rightly",
                    pod.workload
                ),
                format!("add `{label}: {wanted}` to the labels of the pods"),
            );
        }
    }
}

/// Whether the labels of a pod are met by what should select it.
fn selected(cluster: &Cluster<'_>, pod: &Pod<'_>, findings: &mut Findings) {
    let own = at(&pod.object.node, &["spec", "selector"]);
    if let Some(own) = own.filter(|own| !meets(own, &pod.labels)) {
        findings.report(
            &pod.object.file,
            own.place,
            format!("`{}` does not select its own pods", pod.object.name()),
            "give the pods the labels of the selector",
        );
    }
    let plugins = cluster.of_kind("WasmPlugin").chain(cluster.of_kind("TrafficExtension"));
    let entry = at(pod.template, &["metadata", "labels"]).and_then(|labels| labels.entry(FILTER_LABEL));
    if let (true, Some(entry)) = (pod.is_labelled(), entry)
        && !plugins.into_iter().any(|plugin| selects(plugin, pod))
    {
        findings.report(
            &pod.object.file,
            entry.place(),
            format!(
                "no WasmPlugin or TrafficExtension selects the pods of `{}`",
                pod.workload
            ),
            "apply the filter for this label too (istio/base, istio/components/canary), or correct the label",
        );
    }
}

/// Whether the sidecar is there, and nothing is let around it.
fn sidecar(pod: &Pod<'_>, findings: &mut Findings) {
    for place in ["labels", "annotations"] {
        let inject = at(pod.template, &["metadata", place]).and_then(|node| node.entry("sidecar.istio.io/inject"));
        if let Some(entry) = inject.filter(|entry| entry.value.text() != Some("true")) {
            findings.report(
                &pod.object.file,
                entry.place(),
                "the pods get no sidecar, and so no filter",
                "remove `sidecar.istio.io/inject`",
            );
        }
    }
    let Some(annotations) = at(pod.template, &["metadata", "annotations"]) else {
        return;
    };
    for (annotation, harmless) in [
        ("traffic.sidecar.istio.io/excludeInboundPorts", ""),
        ("traffic.sidecar.istio.io/excludeOutboundPorts", ""),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", ""),
        ("traffic.sidecar.istio.io/excludeInterfaces", ""),
        ("traffic.sidecar.istio.io/includeInboundPorts", "*"),
        ("traffic.sidecar.istio.io/includeOutboundPorts", ""),
        ("traffic.sidecar.istio.io/includeOutboundIPRanges", "*"),
        ("traffic.sidecar.istio.io/kubevirtInterfaces", ""),
    ] {
        let entry = annotations.entry(annotation);
        if let Some(entry) = entry.filter(|entry| entry.value.text() != Some(harmless)) {
            findings.report(
                &pod.object.file,
                entry.key_place,
                format!("`{annotation}` lets traffic around the sidecar, and so around the filter"),
                "remove the annotation",
            );
        }
    }
}

/// Whether all that the application sends is redirected to its sidecar.
fn own_network(pod: &Pod<'_>, findings: &mut Findings) {
    let Some(spec) = at(pod.template, &["spec"]) else {
        return;
    };
    if let Some(entry) = spec
        .entry("hostNetwork")
        .filter(|entry| entry.value.text() == Some("true"))
    {
        findings.report(
            &pod.object.file,
            entry.key_place,
            "the pods use their node's network, where no sidecar and no NetworkPolicy is",
            "remove `hostNetwork`",
        );
    }
    let containers = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| items(spec, &[list]));
    for node in std::iter::once(spec).chain(containers) {
        let user = at(node, &["securityContext"]).and_then(|context| {
            ["runAsUser", "runAsGroup"]
                .into_iter()
                .filter_map(|field| context.entry(field))
                .find(|entry| entry.value.text() == Some(SIDECAR_USER))
        });
        if let Some(entry) = user {
            findings.report(
                &pod.object.file,
                entry.place(),
                format!("user and group {SIDECAR_USER} are the sidecar's, whose traffic is not redirected to it"),
                "run the application as another, such as 65532",
            );
        }
    }
}
