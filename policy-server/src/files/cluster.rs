//! Kubernetes manifests held against agent and service files: what would let calls past the filter though each of the
//! two is right on its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use authz::manifest::Mesh;

use super::walk::{self, ReadError};
use super::yaml::{self, Entry, Node, Place, Value};
use super::{Diagnostic, Diagnostics, LoadError};
use crate::render::SERVICE_ACCOUNT_LABEL;

const MESH_LABEL: &str = "ostiary.dev/mesh";
const FILTER_LABEL: &str = "ostiary.dev/filter";

/// The EnvoyFilter patch that may stand between the filter and the router.
const GUARD: &str = "ostiary.guard";

/// Reads the Kubernetes manifests of a mesh, as they would be applied, and tells what goes past its filters.
///
/// # Errors
///
/// If a path cannot be read at all.
pub fn inspect<P: AsRef<Path>>(paths: &[P], mesh: &Mesh) -> Result<Diagnostics, LoadError> {
    let paths: Vec<_> = paths.iter().map(|path| path.as_ref().to_owned()).collect();
    let found = walk::walk(&paths)?;
    let mut inspector = Inspector::new(mesh);
    for refused in found.refused {
        inspector.file = refused.path;
        inspector.report(Place::START, refused.message, refused.advice);
    }
    for path in found.files {
        inspector.read(path)?;
    }
    Ok(Diagnostics {
        list: inspector.found,
        complete: true,
    })
}

struct Inspector {
    /// What workloads listen on, by identity; an agent's on nothing.
    workloads: BTreeMap<String, BTreeSet<u16>>,
    trust_domain: String,
    /// The plugin of each value of the filter's label.
    plugins: BTreeMap<String, String>,
    file: PathBuf,
    found: Vec<Diagnostic>,
}

impl Inspector {
    fn new(mesh: &Mesh) -> Self {
        let agents = mesh.agents().iter().map(|agent| (&agent.claims.identity, &[][..]));
        let services = mesh
            .services()
            .iter()
            .map(|service| (&service.identity, service.ports.as_slice()));
        let mut workloads: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
        let mut trust_domain = String::new();
        for (identity, ports) in agents.chain(services) {
            trust_domain = identity.trust_domain().to_owned();
            workloads.entry(identity.to_string()).or_default().extend(ports);
        }
        Self {
            workloads,
            trust_domain,
            plugins: BTreeMap::new(),
            file: PathBuf::new(),
            found: Vec::new(),
        }
    }

    fn report(&mut self, place: Place, message: impl Into<String>, advice: impl Into<String>) {
        self.found.push(Diagnostic {
            file: self.file.clone(),
            line: place.line,
            column: place.column,
            message: message.into(),
            advice: advice.into(),
        });
    }

    fn read(&mut self, path: PathBuf) -> Result<(), LoadError> {
        self.file = path;
        let source = match walk::read(&self.file) {
            Ok(source) => source,
            Err(ReadError::Io(error)) => return Err(LoadError::unreadable(&self.file, error)),
            Err(ReadError::TooLong | ReadError::NotUtf8 { .. }) => {
                self.report(
                    Place::START,
                    "this is too long a file, or not UTF-8 text",
                    "give its manifests in several files of text",
                );
                return Ok(());
            }
        };
        let stream = yaml::read(&source);
        for fault in stream.faults {
            self.report(fault.place, fault.message, format!("write instead {}", fault.advice));
        }
        for document in &stream.documents {
            self.object(document);
        }
        Ok(())
    }

    fn object(&mut self, object: &Node) {
        match text(object, &["kind"]) {
            Some("Namespace") => self.namespace(object),
            Some("Service") => self.service(object),
            Some("WasmPlugin") => self.plugin(object, &["spec"]),
            Some("TrafficExtension") => self.plugin(object, &["spec", "wasm"]),
            Some("EnvoyFilter") => self.envoy_filter(object),
            Some("Pod") => self.pod(object, object),
            Some("CronJob") => {
                if let Some(pod) = at(object, &["spec", "jobTemplate", "spec", "template"]) {
                    self.pod(object, pod);
                }
            }
            _ => {
                if let Some(pod) = at(object, &["spec", "template"]) {
                    self.pod(object, pod);
                }
            }
        }
    }

    fn identity(&self, object: &Node, service_account: &str) -> String {
        let namespace = text(object, &["metadata", "namespace"]).unwrap_or("default");
        format!("spiffe://{}/ns/{namespace}/sa/{service_account}", self.trust_domain)
    }

    fn namespace(&mut self, object: &Node) {
        let Some(labels) = at(object, &["metadata", "labels"]) else {
            return;
        };
        if text(labels, &[MESH_LABEL]).is_none() {
            return;
        }
        self.no_ambient(labels);
        if text(labels, &["istio-injection"]) != Some("enabled") && text(labels, &["istio.io/rev"]).is_none() {
            self.report(
                labels.place,
                "a namespace of the mesh whose pods get no sidecar",
                "label it `istio-injection: enabled`",
            );
        }
    }

    fn no_ambient(&mut self, labels: &Node) {
        for label in ["istio.io/dataplane-mode", "istio.io/use-waypoint"] {
            if let Some(entry) = labels.entry(label) {
                self.report(
                    entry.key_place,
                    format!("`{label}`: in ambient mode there is no sidecar, and so no filter"),
                    "remove the label",
                );
            }
        }
    }

    fn service(&mut self, object: &Node) {
        let Some(account) = text(object, &["spec", "selector", SERVICE_ACCOUNT_LABEL]) else {
            return;
        };
        let identity = self.identity(object, account);
        let Some(listened) = self.workloads.get(&identity).cloned() else {
            return;
        };
        for port in items(object, &["spec", "ports"]) {
            if !is_http(port) {
                self.report(
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
            if let Some(number) = number.filter(|number| !listened.contains(number)) {
                self.report(
                    target.place(),
                    format!("no service file of `{identity}` lists port {number}"),
                    "correct it, or list the port in the service's `ports`",
                );
            }
        }
    }

    fn plugin(&mut self, object: &Node, path: &[&str]) {
        let Some(version) =
            at(object, &["spec", "selector", "matchLabels"]).and_then(|labels| labels.entry(FILTER_LABEL))
        else {
            return;
        };
        let place = version.place();
        let version = version.value.text().unwrap_or_default().to_owned();
        let kind = text(object, &["kind"]).unwrap_or_default();
        let name = format!("{kind} {}", text(object, &["metadata", "name"]).unwrap_or_default());
        if let Some(other) = self.plugins.insert(version.clone(), name) {
            self.report(
                place,
                format!("`{other}` is for pods labelled `{version}` too: the two would share one VM and its state"),
                "keep one of them",
            );
        }
        let strategy = at(object, path).and_then(|spec| spec.entry("failStrategy"));
        if let Some(strategy) = strategy.filter(|entry| entry.value.text() == Some("FAIL_OPEN")) {
            self.report(
                strategy.place(),
                "a filter that fails would let every request pass",
                "write `failStrategy: FAIL_RELOAD`",
            );
        }
        if let Some(entry) = at(object, &["spec"]).and_then(|spec| spec.entry("match")) {
            self.report(
                entry.key_place,
                "`match` leaves the filter out of some listeners",
                "remove it: the filter tells the directions apart itself",
            );
        }
    }

    fn envoy_filter(&mut self, object: &Node) {
        for patch in items(object, &["spec", "configPatches"]) {
            let anchor = ["match", "listener", "filterChain", "filter", "subFilter", "name"];
            let is_before_router = text(patch, &["applyTo"]) == Some("HTTP_FILTER")
                && text(patch, &anchor) == Some("envoy.filters.http.router")
                && text(patch, &["patch", "operation"]) == Some("INSERT_BEFORE");
            if is_before_router && text(patch, &["patch", "value", "name"]) != Some(GUARD) {
                self.report(
                    patch.place,
                    "an HTTP filter between ours and the router could change what was decided on",
                    "insert it first (`INSERT_FIRST`), or select pods outside the mesh",
                );
            }
        }
    }

    fn pod(&mut self, object: &Node, pod: &Node) {
        let account = text(pod, &["spec", "serviceAccountName"]).unwrap_or("default");
        let identity = self.identity(object, account);
        let is_described = self.workloads.contains_key(&identity);
        let empty = Node {
            place: at(pod, &["metadata"]).unwrap_or(pod).place,
            value: Value::Mapping(Vec::new()),
        };
        let labels = at(pod, &["metadata", "labels"]).unwrap_or(&empty);
        let in_mesh = text(labels, &[MESH_LABEL]) == Some("enabled");
        if !in_mesh && !is_described {
            return;
        }
        self.no_ambient(labels);
        if !is_described {
            self.report(
                labels.place,
                format!("no agent or service file describes `{identity}`, so it reaches nothing and nobody reaches it"),
                "add its file, or correct its namespace and service account",
            );
        }
        for (label, is_right, wanted) in [
            (MESH_LABEL, in_mesh, "enabled"),
            (
                FILTER_LABEL,
                matches!(text(labels, &[FILTER_LABEL]), Some("stable" | "canary")),
                "stable",
            ),
            (
                SERVICE_ACCOUNT_LABEL,
                text(labels, &[SERVICE_ACCOUNT_LABEL]) == Some(account),
                account,
            ),
        ] {
            if !is_right {
                let place = labels.entry(label).map_or(labels.place, Entry::place);
                self.report(
                    place,
                    format!("the pods of `{identity}` lack the label `{label}: {wanted}`, without which nothing selects them rightly"),
                    format!("add `{label}: {wanted}` to the labels of the pods"),
                );
            }
        }
        for place in ["labels", "annotations"] {
            let inject = at(pod, &["metadata", place]).and_then(|node| node.entry("sidecar.istio.io/inject"));
            if let Some(entry) = inject.filter(|entry| entry.value.text() != Some("true")) {
                self.report(
                    entry.place(),
                    "the pods get no sidecar, and so no filter",
                    "remove `sidecar.istio.io/inject`",
                );
            }
        }
    }
}

/// Whether Istio is told that a port of a Service carries HTTP; its own precedence and names.
fn is_http(port: &Node) -> bool {
    let name = text(port, &["appProtocol"]).or_else(|| text(port, &["name"]));
    let name = name.map(str::to_ascii_lowercase).unwrap_or_default();
    matches!(
        name.as_str(),
        "kubernetes.io/h2c" | "kubernetes.io/ws" | "grpc-web" | "http" | "http2" | "grpc"
    ) || ["http-", "http2-", "grpc-"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn at<'n>(node: &'n Node, path: &[&str]) -> Option<&'n Node> {
    path.iter()
        .try_fold(node, |node, key| node.entry(key).map(|entry| &entry.value))
}

fn text<'n>(node: &'n Node, path: &[&str]) -> Option<&'n str> {
    at(node, path)?.text()
}

fn items<'n>(node: &'n Node, path: &[&str]) -> &'n [Node] {
    match at(node, path).map(|node| &node.value) {
        Some(Value::Sequence(items)) => items,
        _ => &[],
    }
}
