//! The rules of NetworkPolicies: what each opens, and whether that is too much.

use super::super::object::{Object, at, items, meets, text};
use super::super::{Cluster, Findings, Labels, Node, Pod};
use super::destinations::{Destination, Peer};
use super::{Direction, is_declared};

/// The widest block of addresses that a rule may open: registries and gateways stand in narrower ones.
const WIDEST_BLOCK: u8 = 8;

/// Whether an egress rule opens a destination.
pub(super) fn opens(cluster: &Cluster<'_>, namespace: &str, rule: &Node, destination: &Destination<'_>) -> bool {
    let is_address = destination.may_be_address
        && items(rule, &[super::EGRESS.peers])
            .iter()
            .any(|peer| peer.entry("ipBlock").is_some());
    let is_named = is_address || names(cluster, namespace, rule, super::EGRESS, &destination.peer);
    // A port by its name is looked up in pods that need not be here.
    let ports = items(rule, &["ports"]);
    is_named
        && (ports.is_empty()
            || ports
                .iter()
                .any(|port| is_port(port, destination.port, destination.protocol, None)))
}

/// Whether a rule names a peer; without a list it names all.
pub(super) fn names(
    cluster: &Cluster<'_>,
    namespace: &str,
    rule: &Node,
    direction: Direction,
    peer: &Peer<'_>,
) -> bool {
    let peers = items(rule, &[direction.peers]);
    peers.is_empty()
        || peers
            .iter()
            .any(|selectors| selects(cluster, namespace, selectors, peer))
}

fn selects(cluster: &Cluster<'_>, namespace: &str, selectors: &Node, peer: &Peer<'_>) -> bool {
    if selectors.entry("ipBlock").is_some() {
        return false;
    }
    let is_namespace = match at(selectors, &["namespaceSelector"]) {
        Some(selector) => meets(selector, &peer.namespace_labels(cluster)),
        None => peer.namespace == namespace,
    };
    is_namespace && at(selectors, &["podSelector"]).is_none_or(|selector| meets(selector, &peer.labels))
}

/// Whether an ingress rule opens a port of a pod.
pub(super) fn has_port(rule: &Node, number: u16, protocol: &str, of: &Pod<'_>) -> bool {
    let ports = items(rule, &["ports"]);
    ports.is_empty() || ports.iter().any(|port| is_port(port, number, protocol, Some(of)))
}

fn is_port(port: &Node, number: u16, protocol: &str, of: Option<&Pod<'_>>) -> bool {
    if text(port, &["protocol"]).unwrap_or("TCP") != protocol {
        return false;
    }
    let Some(first) = text(port, &["port"]) else {
        return true;
    };
    match (
        first.parse::<u16>(),
        text(port, &["endPort"]).and_then(|last| last.parse().ok()),
    ) {
        (Ok(first), Some(last)) => (first..=last).contains(&number),
        (Ok(first), None) => first == number,
        (Err(_), _) => of.is_some_and(|pod| named_port(pod, first) == Some(number)),
    }
}

fn named_port(pod: &Pod<'_>, name: &str) -> Option<u16> {
    let containers = items(pod.template, &["spec", "containers"]);
    let mut ports = containers.iter().flat_map(|container| items(container, &["ports"]));
    let port = ports.find(|port| text(port, &["name"]) == Some(name))?;
    text(port, &["containerPort"])?.parse().ok()
}

/// Tells of a rule that opens what no file declares.
pub(super) fn not_too_wide(
    cluster: &Cluster<'_>,
    pod: &Pod<'_>,
    policy: &Object,
    rule: &Node,
    direction: Direction,
    findings: &mut Findings,
) {
    let mut report = |place: &Node, message: String| {
        let advice = "name the pods by namespace and service account, and the port (`ostiary render`)";
        findings.report(&policy.file, place.place, message, advice);
    };
    let peers = items(rule, &[direction.peers]);
    let way = direction.peers;
    if peers.is_empty() {
        report(
            rule,
            format!(
                "without `{way}` this rule opens the pods of `{}` {way} everywhere",
                pod.workload
            ),
        );
        return;
    }
    if items(rule, &["ports"]).is_empty() {
        report(rule, "without `ports` this rule opens every port".to_owned());
    }
    for peer in peers {
        if let Some(block) = text(peer, &["ipBlock", "cidr"]).filter(|block| is_wide(block)) {
            report(
                peer,
                format!("`{block}` is most of all addresses: who gets around the sidecar gets anywhere"),
            );
        } else if names_strangers(cluster, policy.namespace(), peer) {
            report(
                peer,
                format!(
                    "this opens the pods of `{}` {way} pods that no file declares",
                    pod.workload
                ),
            );
        } else if let Some(other) = undeclared(cluster, pod, policy.namespace(), peer, direction) {
            report(
                peer,
                format!("no file declares traffic of `{}` {way} `{other}`", pod.workload),
            );
        }
    }
}

fn is_wide(block: &str) -> bool {
    let length = block.rsplit_once('/').and_then(|(_, length)| length.parse::<u8>().ok());
    length.is_none_or(|length| length < WIDEST_BLOCK)
}

/// Whether selectors meet a pod that no file describes, in a namespace of the mesh or in another.
fn names_strangers(cluster: &Cluster<'_>, namespace: &str, peer: &Node) -> bool {
    let of_mesh = cluster.declared.keys().map(|workload| workload.namespace.as_str());
    let mut namespaces = of_mesh.chain([namespace, "a-strangers-namespace"]);
    namespaces.any(|place| {
        let stranger = Peer {
            namespace: place,
            labels: Labels::new(),
        };
        selects(cluster, namespace, peer, &stranger)
    })
}

/// A workload that selectors meet though nothing declares it.
fn undeclared(
    cluster: &Cluster<'_>,
    pod: &Pod<'_>,
    namespace: &str,
    peer: &Node,
    direction: Direction,
) -> Option<String> {
    let own = &pod.workload;
    let others = cluster.declared.keys().chain([&cluster.policy_server]);
    let mut met = others.filter(|other| selects(cluster, namespace, peer, &Peer::pods_of(cluster, other)));
    let is_egress = direction.kind == super::EGRESS.kind;
    met.find(|other| {
        let (from, to) = if is_egress { (own, *other) } else { (*other, own) };
        !is_declared(cluster, from, to)
    })
    .map(ToString::to_string)
}
