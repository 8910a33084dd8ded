//! Where the pods of a workload have to send to.

use super::super::{Cluster, Labels, NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL, Workload};

/// istiod's port for xDS and certificates over TLS.
const ISTIOD_PORT: u16 = 15012;

/// Some pods, as the selectors of a rule see them.
pub(super) struct Peer<'p> {
    pub(super) namespace: &'p str,
    pub(super) labels: Labels<'p>,
}

/// Pods, a port of theirs, and what to call them.
pub(super) struct Destination<'p> {
    pub(super) name: String,
    pub(super) peer: Peer<'p>,
    pub(super) port: u16,
    pub(super) protocol: &'static str,
    /// Whether it may stand behind an address instead, as a node's own cache of names does.
    pub(super) may_be_address: bool,
}

impl<'p> Peer<'p> {
    /// The pods of a workload: as they are labelled where they are applied, else by their service account.
    pub(super) fn pods_of(cluster: &'p Cluster<'_>, workload: &'p Workload) -> Self {
        let applied = cluster.pods.iter().find(|pod| pod.workload == *workload);
        let labels = match applied {
            Some(pod) => pod.labels.clone(),
            None => Labels::from([(SERVICE_ACCOUNT_LABEL, workload.service_account.as_str())]),
        };
        Self {
            namespace: &workload.namespace,
            labels,
        }
    }

    /// The labels of its namespace, with the one that Kubernetes adds.
    pub(super) fn namespace_labels<'n>(&'n self, cluster: &'n Cluster<'_>) -> Labels<'n> {
        let mut labels = cluster.namespaces.get(self.namespace).cloned().unwrap_or_default();
        labels.insert(NAMESPACE_LABEL, self.namespace);
        labels
    }
}

/// What a workload's file declares, and what its sidecar needs.
pub(super) fn of<'p>(cluster: &'p Cluster<'_>, workload: &Workload) -> Vec<Destination<'p>> {
    let mut needed = Vec::new();
    for protocol in ["UDP", "TCP"] {
        needed.push(Destination {
            name: "kube-dns for names".to_owned(),
            peer: Peer {
                namespace: "kube-system",
                labels: Labels::from([("k8s-app", "kube-dns")]),
            },
            port: 53,
            protocol,
            may_be_address: true,
        });
    }
    needed.push(Destination {
        name: "istiod for certificates and configuration".to_owned(),
        peer: Peer {
            namespace: "istio-system",
            labels: Labels::from([("app", "istiod")]),
        },
        port: ISTIOD_PORT,
        protocol: "TCP",
        may_be_address: false,
    });
    needed.push(workload_port(
        cluster,
        &cluster.policy_server,
        cluster.reach.policy_server.port,
    ));
    let agents = cluster.reach.agents.iter().filter(|agent| agent.workload == *workload);
    for service in agents.flat_map(|agent| &agent.services) {
        let reached = cluster
            .reach
            .services
            .iter()
            .filter(|reached| reached.claims.id == service.id);
        needed.extend(reached.flat_map(|reached| {
            let ports = reached.claims.ports.iter();
            ports.map(|port| workload_port(cluster, &reached.workload, *port))
        }));
    }
    needed
}

fn workload_port<'p>(cluster: &'p Cluster<'_>, workload: &'p Workload, port: u16) -> Destination<'p> {
    Destination {
        name: format!("`{workload}`"),
        peer: Peer::pods_of(cluster, workload),
        port,
        protocol: "TCP",
        may_be_address: false,
    }
}
