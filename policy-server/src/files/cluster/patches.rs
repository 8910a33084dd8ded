//! EnvoyFilters: whether nothing stands between our filter and the router, and nothing takes either out.

use super::object::{Object, at, has_all, items, labels_at, text};
use super::{Cluster, Findings, Node, ROOT_NAMESPACE};

/// The EnvoyFilter patch that may stand between the filter and the router.
const GUARD: &str = "ostiary.guard";

const ROUTER: &str = "envoy.filters.http.router";

/// Under which Istio sends a WasmPlugin's or TrafficExtension's filter to the sidecar.
const PLUGIN: &str = "extensions.istio.io/";

pub(super) fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for object in cluster
        .of_kind("EnvoyFilter")
        .filter(|object| concerns(cluster, object))
    {
        for patch in items(&object.node, &["spec", "configPatches"]) {
            if let Some((message, advice)) = wrong(patch) {
                findings.report(&object.file, patch.place, message, advice);
            }
        }
    }
}

/// Whether an EnvoyFilter is for a sidecar of the mesh.
fn concerns(cluster: &Cluster<'_>, object: &Object) -> bool {
    let namespace = object.namespace();
    let wanted = labels_at(&object.node, &["spec", "workloadSelector", "labels"]);
    let selects_label = wanted.keys().any(|key| key.starts_with("ostiary.dev/"));
    let is_met = || {
        cluster
            .of_mesh()
            .filter(|pod| [ROOT_NAMESPACE, &pod.workload.namespace].contains(&namespace))
            .any(|pod| has_all(&pod.labels, &wanted))
    };
    selects_label || is_met()
}

fn wrong(patch: &Node) -> Option<(&'static str, &'static str)> {
    if text(patch, &["match", "context"]) == Some("GATEWAY") {
        return None;
    }
    let operation = text(patch, &["patch", "operation"]).unwrap_or_default();
    let filter = ["match", "listener", "filterChain", "filter"];
    match text(patch, &["applyTo"]) {
        Some("HTTP_FILTER") => {
            let filter = at(patch, &filter);
            let anchor = filter.and_then(|filter| text(filter, &["subFilter", "name"]));
            let name = text(patch, &["patch", "value", "name"]);
            wrong_http(operation, anchor, name)
        }
        Some("NETWORK_FILTER") if matches!(operation, "REMOVE" | "REPLACE") => Some((
            "without Istio's own HTTP connection manager no filter of it is asked",
            "remove the patch, or select pods outside the mesh",
        )),
        _ => None,
    }
}

fn wrong_http(operation: &str, anchor: Option<&str>, name: Option<&str>) -> Option<(&'static str, &'static str)> {
    let is_ours = anchor.is_some_and(|anchor| anchor == GUARD || anchor.starts_with(PLUGIN));
    let between = Some((
        "an HTTP filter between ours and the router could change what was decided on",
        "insert it first (`INSERT_FIRST`), or select pods outside the mesh",
    ));
    match operation {
        "INSERT_BEFORE" if anchor == Some(ROUTER) && name != Some(GUARD) => between,
        "INSERT_BEFORE" if anchor == Some(GUARD) => between,
        "INSERT_AFTER" if is_ours => between,
        // Without an anchor either is appended.
        "INSERT_AFTER" if anchor.is_none() => between,
        "ADD" => between,
        "REMOVE" | "REPLACE" | "MERGE" if is_ours || (anchor == Some(ROUTER) && operation != "MERGE") => Some((
            "this takes out or changes our filter, its guard or the router behind them",
            "remove the patch, or select pods outside the mesh",
        )),
        _ => None,
    }
}
