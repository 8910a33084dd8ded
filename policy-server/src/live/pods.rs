//! Which pods are to be asked.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

const MESH_LABEL: &str = "ostiary.dev/mesh";
const FILTER_LABEL: &str = "ostiary.dev/filter";

/// Istio's name for a sidecar's container.
pub const SIDECAR: &str = "istio-proxy";

/// A pod that belongs to the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which version of the filter it is labelled for.
    pub version: Option<String>,
    /// What is known of it without asking.
    pub standing: Standing,
}

/// What is known of a pod before its sidecar is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its sidecar is to be asked.
    Ask,
    /// Its sidecar is to be asked, but the pod is being ended: no answer is no finding.
    Ending,
    /// It takes no part, for this reason.
    Excused(&'static str),
    /// It has no sidecar.
    NoSidecar,
    /// Its containers do not run (yet): the phase.
    NotRunning(String),
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct RawNamespace {
    metadata: RawMetadata,
}

#[derive(Deserialize)]
struct RawPod {
    metadata: RawMetadata,
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMetadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(default)]
    service_account_name: String,
    containers: Vec<RawContainer>,
    #[serde(default)]
    init_containers: Vec<RawContainer>,
}

#[derive(Deserialize)]
struct RawContainer {
    name: String,
}

#[derive(Default, Deserialize)]
struct RawStatus {
    #[serde(default)]
    phase: String,
}

/// Picks from all pods those that are labelled for the mesh or live in a namespace that is, and the policy server's;
/// both lists as `kubectl get --output=json` writes them.
///
/// # Errors
///
/// If they are not such lists.
pub fn select(namespaces: &[u8], pods: &[u8], policy_server: (&str, &str)) -> Result<Vec<Pod>, serde_json::Error> {
    let namespaces: List<RawNamespace> = serde_json::from_slice(namespaces)?;
    let in_mesh: BTreeSet<_> = namespaces
        .items
        .into_iter()
        .filter(|namespace| namespace.metadata.is_labelled())
        .map(|namespace| namespace.metadata.name)
        .collect();
    let pods: List<RawPod> = serde_json::from_slice(pods)?;
    let mut selected: Vec<_> = pods
        .items
        .into_iter()
        .filter_map(|pod| {
            let is_policy_server = pod.is(policy_server);
            let is_ours = pod.metadata.is_labelled() || in_mesh.contains(&pod.metadata.namespace);
            (is_ours || is_policy_server).then(|| pod.into_pod(is_policy_server))
        })
        .collect();
    selected.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(selected)
}

impl RawMetadata {
    fn is_labelled(&self) -> bool {
        self.labels.get(MESH_LABEL).is_some_and(|value| value == "enabled")
    }
}

impl RawPod {
    fn is(&self, (namespace, service_account): (&str, &str)) -> bool {
        self.metadata.namespace == namespace && self.spec.service_account_name == service_account
    }

    fn into_pod(mut self, is_policy_server: bool) -> Pod {
        Pod {
            standing: self.standing(is_policy_server),
            version: self.metadata.labels.remove(FILTER_LABEL),
            namespace: self.metadata.namespace,
            name: self.metadata.name,
        }
    }

    fn standing(&self, is_policy_server: bool) -> Standing {
        let mut containers = self.spec.containers.iter().chain(&self.spec.init_containers);
        match self.status.phase.as_str() {
            "Succeeded" | "Failed" => Standing::Excused("it has ended"),
            _ if is_policy_server => Standing::Excused("the policy server: its filter would wait for itself"),
            _ if !containers.any(|container| container.name == SIDECAR) => Standing::NoSidecar,
            _ if self.metadata.deletion_timestamp.is_some() => Standing::Ending,
            "Running" => Standing::Ask,
            phase => Standing::NotRunning(phase.to_owned()),
        }
    }
}
