//! The filter's own objects, and other plugins in the same sidecars.

use std::collections::BTreeMap;

use super::object::{Object, at, meets, text};
use super::{Cluster, FILTER_LABEL, Findings, Pod, ROOT_NAMESPACE};

pub(super) fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    let mut ours = BTreeMap::new();
    for kind in ["WasmPlugin", "TrafficExtension"] {
        for object in cluster.of_kind(kind) {
            if version(object).is_some() {
                alone(object, &mut ours, findings);
                strict(object, findings);
            } else {
                foreign(cluster, object, findings);
            }
        }
    }
}

/// Whether a plugin runs in the sidecars of a pod.
pub(super) fn selects(plugin: &Object, pod: &Pod<'_>) -> bool {
    let is_here = [ROOT_NAMESPACE, &pod.workload.namespace].contains(&plugin.namespace());
    is_here && at(&plugin.node, &["spec", "selector"]).is_none_or(|selector| meets(selector, &pod.labels))
}

/// The filter's label in a plugin's selector, by which it is known for ours.
fn version(object: &Object) -> Option<&super::yaml::Entry> {
    at(&object.node, &["spec", "selector", "matchLabels"])?.entry(FILTER_LABEL)
}

fn alone(object: &Object, ours: &mut BTreeMap<String, String>, findings: &mut Findings) {
    let Some(version) = version(object) else {
        return;
    };
    let label = version.value.text().unwrap_or_default().to_owned();
    let name = format!("{} {}", object.kind(), object.name());
    if let Some(other) = ours.insert(label.clone(), name) {
        findings.report(
            &object.file,
            version.place(),
            format!("`{other}` is for pods labelled `{label}` too: the two would share one VM and its state"),
            "keep one of them",
        );
    }
}

fn strict(object: &Object, findings: &mut Findings) {
    let Some(spec) = at(&object.node, &["spec"]) else {
        return;
    };
    let wasm = at(spec, &["wasm"]).unwrap_or(spec);
    if let Some(entry) = wasm
        .entry("failStrategy")
        .filter(|entry| entry.value.text() == Some("FAIL_OPEN"))
    {
        findings.report(
            &object.file,
            entry.place(),
            "a filter that fails would let every request pass",
            "write `failStrategy: FAIL_RELOAD`",
        );
    }
    if let Some(entry) = spec.entry("match") {
        findings.report(
            &object.file,
            entry.key_place,
            "`match` leaves the filter out of some listeners",
            "remove it: the filter tells the directions apart itself",
        );
    }
    if let Some(entry) = spec.entry("phase") {
        findings.report(
            &object.file,
            entry.key_place,
            "`phase` moves the filter forward, and what comes after it could change what was decided on",
            "remove it: without a phase Istio puts it last, before the router",
        );
    }
}

/// A plugin of somebody else in a sidecar of the mesh; only in these phases it surely runs before ours.
fn foreign(cluster: &Cluster<'_>, object: &Object, findings: &mut Findings) {
    let is_before = matches!(text(&object.node, &["spec", "phase"]), Some("AUTHN" | "AUTHZ"));
    if !is_before && cluster.of_mesh().any(|pod| selects(object, pod)) {
        findings.report(
            &object.file,
            object.node.place,
            format!(
                "{} `{}` could come between our filter and the router",
                object.kind(),
                object.name()
            ),
            "give it `phase: AUTHN`, or a selector that meets no pod of the mesh",
        );
    }
}
