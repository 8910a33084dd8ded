//! Files of policy as the policy server reads them: its own reader of YAML, which is no part of any crate.

#![allow(dead_code, reason = "the policy server needs more of it")]

use authz::manifest::{AgentManifest, Manifests, Mesh};

#[path = "../../../policy-server/src/files/de.rs"]
mod de;
#[path = "../../../policy-server/src/files/yaml.rs"]
mod yaml;

/// Reads agent files and checks them, as far as they can be without services.
pub fn agents(source: &str) -> Option<(Vec<AgentManifest>, Mesh)> {
    let stream = yaml::read(source);
    if !stream.faults.is_empty() {
        return None;
    }
    let agents: Result<Vec<AgentManifest>, _> = stream.documents.iter().map(de::from_node).collect();
    let manifests = Manifests {
        agents: agents.ok()?,
        services: Vec::new(),
    };
    let mesh = manifests.check("cluster.local").ok()?;
    Some((manifests.agents, mesh))
}
