//! From the policy folder to a checked mesh, and from there to what one workload is told.

use std::path::Path;

use authz::identity::SpiffeId;
use authz::manifest::{BundleHeader, Mesh};
use authz::policy::{BundleClaims, IssuerClaims};

use crate::feed::Settings;
use crate::files;

/// Reads and checks the agent and service files of a folder.
///
/// # Errors
///
/// Every problem, as `file:line:column: what is wrong; what to write instead`.
pub fn load(folder: &Path, trust_domain: &str) -> Result<Mesh, Vec<String>> {
    let loaded = files::load(&[folder], trust_domain).map_err(|error| vec![describe(&error)])?;
    loaded
        .mesh
        .map_err(|diagnostics| diagnostics.list().iter().map(ToString::to_string).collect())
}

fn describe(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// What a workload's bundle would say, with version and times left zero; nothing if the mesh does not name it.
pub fn compile(
    workload: &SpiffeId,
    mesh: &Mesh,
    settings: &Settings,
    issuers: Vec<IssuerClaims>,
) -> Option<BundleClaims> {
    mesh.names(workload).then(|| {
        mesh.compile(
            workload,
            BundleHeader {
                iss: settings.issuer.clone(),
                epoch: 0,
                version: 0,
                issued_at: 0,
                expires_at: 0,
                max_state_age_seconds: settings.max_state_age_seconds,
                max_token_ttl_seconds: settings.max_token_ttl_seconds,
                issuers,
                policy_server: settings.policy_server.clone(),
            },
        )
    })
}
