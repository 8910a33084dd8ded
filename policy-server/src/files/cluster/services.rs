//! Services: whether Istio reads what they carry as HTTP, on ports that a file lists.

use super::object::{at, items, labels_at, text};
use super::pods::no_ambient;
use super::{Cluster, Findings, Node, Object, SERVICE_ACCOUNT_LABEL, Workload};

pub(super) fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    for object in cluster.of_kind("Service") {
        if cluster.is_of_mesh(object.namespace()) {
            no_ambient(object, at(&object.node, &["metadata", "labels"]), findings);
        }
        let selector = labels_at(&object.node, &["spec", "selector"]);
        let Some(account) = selector.get(SERVICE_ACCOUNT_LABEL) else {
            continue;
        };
        let workload = Workload {
            namespace: object.namespace().to_owned(),
            service_account: (*account).to_owned(),
        };
        if cluster.declared.contains_key(&workload) {
            ports(cluster, object, &workload, findings);
        } else if cluster.is_of_mesh(object.namespace()) && *account != policy_server(cluster) {
            findings.report(
                &object.file,
                at(&object.node, &["spec", "selector"]).unwrap_or(&object.node).place,
                format!("no pod of a described workload is selected: there is no `{workload}`"),
                "name the service account of a service file",
            );
        }
    }
}

fn policy_server<'c>(cluster: &Cluster<'c>) -> &'c str {
    cluster.reach.policy_server.id.name()
}

fn ports(cluster: &Cluster<'_>, object: &Object, workload: &Workload, findings: &mut Findings) {
    for port in items(&object.node, &["spec", "ports"]) {
        if !is_http(port) {
            findings.report(
                &object.file,
                port.place,
                "Istio has to guess what this port carries, and asks no filter about what it takes for TCP",
                "add `appProtocol: http`",
            );
        }
        // A port by its name is looked up in the pod, which need not be here.
        let Some(target) = port.entry("targetPort").or_else(|| port.entry("port")) else {
            continue;
        };
        let number = target.value.text().and_then(|text| text.parse::<u16>().ok());
        let listened = cluster.declared.get(workload);
        if let Some(number) = number.filter(|number| !listened.is_some_and(|ports| ports.contains(number))) {
            findings.report(
                &object.file,
                target.place(),
                format!("no service file of `{workload}` lists port {number}"),
                "correct it, or list the port in the service's `ports`",
            );
        }
    }
}

/// Whether Istio is told that a port of a Service carries HTTP; its own precedence and names.
fn is_http(port: &Node) -> bool {
    let name = text(port, &["appProtocol"]).or_else(|| text(port, &["name"]));
    let name = name.map(str::to_ascii_lowercase).unwrap_or_default();
    let is_tcp = text(port, &["protocol"]).is_none_or(|protocol| protocol == "TCP");
    is_tcp
        && (matches!(
            name.as_str(),
            "kubernetes.io/h2c" | "kubernetes.io/ws" | "grpc-web" | "http" | "http2" | "grpc"
        ) || ["http-", "http2-", "grpc-"]
            .iter()
            .any(|prefix| name.starts_with(prefix)))
}
