//! The story of the demo, told in a cluster: callers are pods, and a service's log is what its container printed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use super::Cluster;
use super::identity::Identity;
use crate::backends::Seen;
use crate::built;
use crate::client::Client;
use crate::demo::{Caller, Stage};
use crate::pki::Workload;

/// The port of every service of the demo, and of the policy server.
pub const PORT: u16 = 8080;

/// The demo in a cluster, and the stolen certificates of its agents.
#[derive(Debug)]
pub struct Demo {
    cluster: Cluster,
    identities: BTreeMap<&'static str, Identity>,
    edited: Mutex<BTreeMap<String, String>>,
}

impl Demo {
    /// Gets the certificates.
    ///
    /// # Errors
    ///
    /// When the cluster gives none.
    pub async fn new(cluster: &Cluster) -> Result<Self> {
        let mut identities = BTreeMap::new();
        for agent in ["analyst-7", "writer-2"] {
            identities.insert(agent, Identity::stolen(cluster, &Workload::new("agents", agent)).await?);
        }
        Ok(Self {
            cluster: cluster.clone(),
            identities,
            edited: Mutex::default(),
        })
    }

    fn identity(&self, agent: &str) -> Result<&Identity> {
        self.identities
            .get(agent)
            .with_context(|| format!("no agent `{agent}`"))
    }

    fn address(&self, service: &str) -> Result<SocketAddr> {
        let label = format!("ostiary.dev/service-account={service}");
        Ok(SocketAddr::new(self.cluster.pod_ip(namespace(service), &label)?, PORT))
    }
}

/// Where a workload of the demo lives.
pub fn namespace(workload: &str) -> &'static str {
    match workload {
        "analyst-7" | "writer-2" => "agents",
        "mcp" => "tools",
        "orchestrator" | "scheduler" => "orchestration",
        "outsider" => "outside",
        "policy-server" => "ostiary",
        _ => "data",
    }
}

/// What callers write in `Host`.
pub fn authority(service: &str) -> String {
    format!("{service}.{}.svc.cluster.local:{PORT}", namespace(service))
}

impl Stage for Demo {
    fn authority(&self, service: &str) -> Result<String> {
        Ok(authority(service))
    }

    fn policy_authority(&self) -> String {
        authority("policy-server")
    }

    fn agent(&self, name: &str) -> Result<Caller> {
        Ok(Caller::There(self.cluster.pod(namespace(name), name)))
    }

    fn direct(&self, service: &str, agent: &str) -> Result<Caller> {
        let client = self.identity(agent)?.client(&self.cluster, self.address(service)?)?;
        Ok(client.into())
    }

    fn principal(&self, name: &str) -> Result<Caller> {
        Ok(Caller::There(self.cluster.pod(namespace(name), name)))
    }

    fn strangers(&self, service: &str) -> Result<Vec<(&'static str, Caller)>> {
        let address = self.address(service)?;
        let without = self.identity("analyst-7")?.without(&self.cluster, address)?;
        let plain = Client::plain(address).inside(&self.cluster.node()?);
        Ok(vec![
            ("around the sidecar, without a certificate", without.into()),
            ("around the sidecar, without TLS", plain.into()),
        ])
    }

    /// A WasmPlugin cannot ask Envoy to hold headers back.
    fn headers_may_pass(&self) -> bool {
        true
    }

    async fn seen(&self, service: &str, header: &str, value: &str) -> Result<Vec<Seen>> {
        let seen = self.cluster.pod(namespace(service), service).seen()?;
        Ok(seen
            .into_iter()
            .filter(|seen| seen.header(header) == Some(value))
            .collect())
    }

    fn edit_agent(&self, name: &str, from: &str, to: &str) -> Result<()> {
        let mut edited = self.edited.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match edited.get(name) {
            Some(text) => text.clone(),
            None => std::fs::read_to_string(built::workspace().join(format!("k8s/demo/policy/agent-{name}.yaml")))?,
        };
        let after = before.replace(from, to);
        ensure!(before != after, "the policy of {name} does not say `{from}`");
        self.cluster.apply(&after)?;
        edited.insert(name.to_owned(), after);
        Ok(())
    }

    fn ostiary(&self, arguments: &[&str]) -> Result<String> {
        let said = self.cluster.ostiary(arguments)?;
        ensure!(said.ok, "{arguments:?}: {}{}", said.stdout, said.stderr);
        Ok(said.stdout)
    }
}
