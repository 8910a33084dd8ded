//! Kubernetes manifests held against agent and service files: what would let calls past the filter, or keep declared
//! ones from it, though each of the two is right on its own.
//!
//! The manifests are taken as the whole of what is applied: what they lack counts as missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use authz::manifest::Mesh;

use super::walk::{self, ReadError};
use super::yaml::{self, Node, Place};
use super::{Diagnostic, Diagnostics, LoadError};
use crate::render::{Reach, SERVICE_ACCOUNT_LABEL, Settings, Workload};

use object::{Labels, Object, at, labels_at, text};

mod identities;
mod network;
mod object;
mod patches;
mod plugins;
mod pods;
mod services;
mod sidecars;

const MESH_LABEL: &str = "ostiary.dev/mesh";
const FILTER_LABEL: &str = "ostiary.dev/filter";

/// Whose objects Istio applies in every namespace.
const ROOT_NAMESPACE: &str = "istio-system";

/// The label that Kubernetes itself puts on every namespace.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Reads the Kubernetes manifests of a mesh, as they would be applied, and tells what goes past its filters.
///
/// # Errors
///
/// If a path cannot be read at all.
pub fn inspect<P: AsRef<Path>>(paths: &[P], mesh: &Mesh, settings: &Settings) -> Result<Diagnostics, LoadError> {
    let paths: Vec<_> = paths.iter().map(|path| path.as_ref().to_owned()).collect();
    let mut findings = Findings::default();
    let objects = objects(&paths, &mut findings)?;
    let reach = Reach::of(mesh, settings);
    // Without manifests there is nothing that could lack anything.
    if !objects.is_empty() {
        let cluster = Cluster::new(&objects, &reach);
        for check in [
            pods::check,
            services::check,
            plugins::check,
            patches::check,
            network::check,
            identities::check,
            sidecars::check,
        ] {
            check(&cluster, &mut findings);
        }
    }
    Ok(Diagnostics {
        list: findings.in_order(),
        complete: true,
    })
}

fn objects(paths: &[PathBuf], findings: &mut Findings) -> Result<Vec<Object>, LoadError> {
    let found = walk::walk(paths)?;
    for refused in found.refused {
        findings.report(&refused.path, Place::START, refused.message, refused.advice);
    }
    let mut objects = Vec::new();
    for file in found.files {
        let source = match walk::read(&file) {
            Ok(source) => source,
            Err(ReadError::Io(error)) => return Err(LoadError::unreadable(&file, error)),
            Err(ReadError::TooLong | ReadError::NotUtf8 { .. }) => {
                findings.report(
                    &file,
                    Place::START,
                    "this is too long a file, or not UTF-8 text",
                    "give its manifests in several files of text",
                );
                continue;
            }
        };
        let stream = yaml::read(&source);
        for fault in stream.faults {
            findings.report(
                &file,
                fault.place,
                fault.message,
                format!("write instead {}", fault.advice),
            );
        }
        objects.extend(stream.documents.into_iter().map(|node| Object {
            file: file.clone(),
            node,
        }));
    }
    Ok(objects)
}

/// What was found so far.
#[derive(Default)]
struct Findings {
    found: Vec<Diagnostic>,
    /// A rule that is wrong for several pods is told once.
    seen: BTreeSet<(PathBuf, Place, String)>,
}

impl Findings {
    fn report(&mut self, file: &Path, place: Place, message: impl Into<String>, advice: impl Into<String>) {
        let message = message.into();
        if self.seen.insert((file.to_owned(), place, message.clone())) {
            self.found.push(Diagnostic {
                file: file.to_owned(),
                line: place.line,
                column: place.column,
                message,
                advice: advice.into(),
            });
        }
    }

    fn in_order(mut self) -> Vec<Diagnostic> {
        self.found
            .sort_by(|one, two| (&one.file, one.line, one.column).cmp(&(&two.file, two.line, two.column)));
        self.found
    }
}

/// What is applied, and what the files say of it.
struct Cluster<'c> {
    objects: &'c [Object],
    reach: &'c Reach<'c>,
    /// Ports that workloads listen on by their files; an agent's are none.
    declared: BTreeMap<Workload, BTreeSet<u16>>,
    pods: Vec<Pod<'c>>,
    policy_server: Workload,
    /// The labels of the namespaces that are applied.
    namespaces: BTreeMap<&'c str, Labels<'c>>,
}

/// The pods that an object starts.
struct Pod<'c> {
    object: &'c Object,
    /// The pod itself, or the template of it.
    template: &'c Node,
    workload: Workload,
    labels: Labels<'c>,
}

impl<'c> Cluster<'c> {
    fn new(objects: &'c [Object], reach: &'c Reach<'c>) -> Self {
        let mut declared: BTreeMap<Workload, BTreeSet<u16>> = BTreeMap::new();
        for agent in &reach.agents {
            declared.entry(agent.workload.clone()).or_default();
        }
        for service in &reach.services {
            let ports = declared.entry(service.workload.clone()).or_default();
            ports.extend(&service.claims.ports);
        }
        Self {
            objects,
            reach,
            declared,
            policy_server: reach.policy_server.workload(),
            pods: objects.iter().filter_map(Pod::of).collect(),
            namespaces: objects
                .iter()
                .filter(|object| object.kind() == "Namespace")
                .map(|object| (object.name(), labels_at(&object.node, &["metadata", "labels"])))
                .collect(),
        }
    }

    fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &'c Object> {
        self.objects.iter().filter(move |object| object.kind() == kind)
    }

    /// The pods that the files describe.
    fn described(&self) -> impl Iterator<Item = &Pod<'c>> {
        self.pods.iter().filter(|pod| self.is_described(pod))
    }

    fn is_described(&self, pod: &Pod<'_>) -> bool {
        self.declared.contains_key(&pod.workload)
    }

    /// The pods that the files describe, or that say themselves that they are of the mesh.
    fn of_mesh(&self) -> impl Iterator<Item = &Pod<'c>> {
        self.pods
            .iter()
            .filter(|pod| pod.is_labelled() || self.is_described(pod))
    }

    /// Whether a namespace has workloads of the mesh.
    fn is_of_mesh(&self, namespace: &str) -> bool {
        self.declared.keys().any(|workload| workload.namespace == namespace)
            || self
                .namespaces
                .get(namespace)
                .is_some_and(|labels| labels.contains_key(MESH_LABEL))
    }
}

impl<'c> Pod<'c> {
    fn of(object: &'c Object) -> Option<Self> {
        let template = match object.kind() {
            "Pod" => &object.node,
            "CronJob" => at(&object.node, &["spec", "jobTemplate", "spec", "template"])?,
            _ => at(&object.node, &["spec", "template"])?,
        };
        at(template, &["spec", "containers"]).or_else(|| at(template, &["spec"]))?;
        let account = text(template, &["spec", "serviceAccountName"]).unwrap_or("default");
        Some(Self {
            object,
            template,
            workload: Workload {
                namespace: object.namespace().to_owned(),
                service_account: account.to_owned(),
            },
            labels: labels_at(template, &["metadata", "labels"]),
        })
    }

    fn is_labelled(&self) -> bool {
        self.labels.get(MESH_LABEL) == Some(&"enabled")
    }

    /// Where its labels stand, or should.
    fn labels_place(&self) -> Place {
        at(self.template, &["metadata", "labels"])
            .or_else(|| at(self.template, &["metadata"]))
            .unwrap_or(self.template)
            .place
    }
}
