//! Who reaches whom over the network: as agent and service files declare it, as an independent analyser reads it from the
//! NetworkPolicies ([`analyser`]), and as packets find it in a cluster ([`probes`]).
//!
//! What is declared is worked out here from the YAML alone, and by none of the code that renders or checks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

pub mod analyser;
pub mod probes;

/// The policy server's pods, by namespace and service account.
pub const POLICY_SERVER: &str = "ostiary/policy-server";

/// The cluster's DNS.
pub const DNS: &str = "kube-system/coredns";

/// Istio's control plane.
pub const ISTIOD: &str = "istio-system/istiod";

/// What a packet is sent by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// A connection.
    Tcp,
    /// A datagram.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A way through the network, between workloads that are named by namespace and service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Who sends.
    pub from: String,
    /// Who is sent to.
    pub to: String,
    /// The port of the pod.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from,
            to,
            port,
            protocol,
        } = self;
        write!(f, "{from} -> {to} {port}/{protocol}")
    }
}

/// What agent and service files declare.
#[derive(Debug, Default)]
pub struct Declared {
    agents: BTreeMap<String, Agent>,
    services: BTreeMap<String, Service>,
}

#[derive(Debug)]
struct Agent {
    reaches: BTreeSet<String>,
    issuers: BTreeSet<String>,
}

#[derive(Debug)]
struct Service {
    name: String,
    namespace: String,
    ports: BTreeSet<u64>,
    exempt: BTreeSet<String>,
}

impl Declared {
    /// Reads the files of a folder.
    ///
    /// # Errors
    ///
    /// When one is no agent or service file.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut declared = Self::default();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let text = std::fs::read_to_string(&path)?;
            let file: Value = serde_saphyr::from_str(&text).with_context(|| path.display().to_string())?;
            declared.add(&file).with_context(|| path.display().to_string())?;
        }
        Ok(declared)
    }

    fn add(&mut self, file: &Value) -> Option<()> {
        let text = |pointer: &str| file.pointer(pointer)?.as_str().map(str::to_owned);
        let namespace = text("/metadata/namespace")?;
        let workload = format!("{namespace}/{}", text("/spec/serviceAccount")?);
        match text("/kind")?.as_str() {
            "Agent" => {
                let agent = Agent {
                    reaches: texts(file, "/spec/reaches", "").collect(),
                    issuers: texts(file, "/spec/issuers", "")
                        .filter_map(|id| workload_of(&id))
                        .collect(),
                };
                self.agents.insert(workload, agent);
            }
            "Service" => {
                let ports = file.pointer("/spec/ports")?.as_array()?;
                let service = Service {
                    name: text("/metadata/name")?,
                    namespace,
                    ports: ports.iter().filter_map(Value::as_u64).collect(),
                    exempt: texts(file, "/spec/exempt", "/peer")
                        .filter_map(|id| workload_of(&id))
                        .collect(),
                };
                self.services.insert(workload, service);
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether a workload has a sidecar with the filter.
    #[must_use]
    pub fn has_filter(&self, workload: &str) -> bool {
        self.agents.contains_key(workload) || self.services.contains_key(workload)
    }

    /// Whether nothing but what is declared passes to and from a workload.
    #[must_use]
    pub fn is_closed(&self, workload: &str) -> bool {
        self.has_filter(workload) || workload == POLICY_SERVER
    }

    /// Whether a way is open, by what the files say.
    #[must_use]
    pub fn opens(&self, way: &Way) -> bool {
        let Way {
            from,
            to,
            port,
            protocol,
        } = way;
        let tcp = *protocol == Protocol::Tcp;
        // What every sidecar needs.
        if to == DNS && *port == 53 || to == ISTIOD && *port == 15012 && tcp {
            return true;
        }
        if let Some(service) = self.services.get(to) {
            let names = [service.name.clone(), format!("{}/{}", service.namespace, service.name)];
            let agent = self.agents.get(from);
            let is_reached = agent.is_some_and(|agent| names.iter().any(|name| agent.reaches.contains(name)));
            return tcp && service.ports.contains(&u64::from(*port)) && (is_reached || service.exempt.contains(from));
        }
        if to == POLICY_SERVER {
            let is_issuer = self.agents.values().any(|agent| agent.issuers.contains(from));
            return tcp && *port == 8080 && (self.has_filter(from) || is_issuer);
        }
        !self.is_closed(from) && !self.is_closed(to)
    }
}

fn texts<'f>(file: &'f Value, list: &str, field: &'static str) -> impl Iterator<Item = String> + 'f {
    let items = file.pointer(list).and_then(Value::as_array);
    items
        .into_iter()
        .flatten()
        .filter_map(move |item| item.pointer(field)?.as_str().map(str::to_owned))
}

/// `namespace/account` of `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
fn workload_of(identity: &str) -> Option<String> {
    let (namespace, account) = identity.split_once("/ns/")?.1.split_once("/sa/")?;
    Some(format!("{namespace}/{account}"))
}
