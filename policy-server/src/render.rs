//! From agent and service files to the manifests that hold a mesh to them: what an agent may call, and what its network
//! lets it reach, are read from one source and cannot drift apart.
//!
//! What is reached is worked out once ([`reach`]), whatever enforces it; a [`Target`] writes it down for one mesh. Pods
//! are selected by [`SERVICE_ACCOUNT_LABEL`] alone, which an admission policy holds to the pod's service account: who
//! may label a pod can thus not lend it the reach of another identity.
//!
//! Nothing here depends on time, order of files or machine: the same files give the same bytes.

use std::collections::BTreeMap;

use authz::manifest::Mesh;
use serde_json::Value;

pub(crate) use istio::sidecar_hosts;
pub(crate) use reach::{AgentReach, Reach, Workload};

mod fitness;
mod folder;
mod istio;
mod network_policy;
mod reach;

pub use fitness::problems;
pub use folder::{Change, ChangeKind, FolderError, compare, write};
pub use reach::{PolicyServer, PolicyServerError};

/// The pod label that says under which service account a pod runs.
pub const SERVICE_ACCOUNT_LABEL: &str = "ostiary.dev/service-account";

/// The first line of every rendered file; a file without it is never overwritten or removed.
pub const HEADER: &str = "# Rendered by `ostiary render` from agent and service files: change those and render again.";

/// What enforces the reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// Istio's AuthorizationPolicy and Sidecar, beside Kubernetes' NetworkPolicy.
    Istio,
}

/// What the manifests need to know beside the files.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The domain of the cluster's DNS.
    pub cluster_domain: String,
    /// Where the sidecars find the policy server.
    pub policy_server: PolicyServer,
}

/// Files by their path below the output folder, with `/` between names.
pub type Files = BTreeMap<String, String>;

/// Why a manifest could not be written as YAML.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{file}` as YAML")]
pub struct RenderError {
    file: String,
    source: serde_saphyr::SerializeError,
}

/// Renders a mesh whose files have no [`problems`].
///
/// There is one file an agent and one a service, in a folder a namespace, one for the policy server, and a
/// `kustomization.yaml` that lists them all.
///
/// # Errors
///
/// If a manifest cannot be written as YAML.
pub fn render(mesh: &Mesh, settings: &Settings, target: Target) -> Result<Files, RenderError> {
    let reach = Reach::of(mesh, settings);
    let manifests = match target {
        Target::Istio => istio::manifests(&reach),
    };
    let mut files = Files::new();
    for (file, documents) in &manifests {
        files.insert(file.clone(), text(file, documents)?);
    }
    let kustomization = serde_json::json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": manifests.keys().collect::<Vec<_>>(),
    });
    files.insert(KUSTOMIZATION.to_owned(), text(KUSTOMIZATION, &[kustomization])?);
    Ok(files)
}

/// The file that lists all others.
pub const KUSTOMIZATION: &str = "kustomization.yaml";

/// The documents of each file.
type Manifests = BTreeMap<String, Vec<Value>>;

fn text(file: &str, documents: &[Value]) -> Result<String, RenderError> {
    let mut text = format!("{HEADER}\n");
    for (index, document) in documents.iter().enumerate() {
        if index > 0 {
            text.push_str("---\n");
        }
        let yaml = serde_saphyr::to_string(document).map_err(|source| RenderError {
            file: file.to_owned(),
            source,
        })?;
        text.push_str(yaml.trim_end());
        text.push('\n');
    }
    Ok(text)
}
