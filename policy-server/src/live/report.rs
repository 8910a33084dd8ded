//! A mesh, put together from what its sidecars answered.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::chain::{Carries, Chain, Direction, Failure, Module};
use super::dump::Dump;
use super::pods::{Pod, Standing};
use super::verdict::{self, Fault};

/// What came of asking a pod.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It was not asked.
    NotAsked,
    /// What its Envoy has.
    Dump(Dump),
    /// Why there is no answer.
    Nothing(String),
}

/// What is to be told of a mesh.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// All pods of the mesh.
    pub pods: Vec<PodReport>,
    /// Everything that is wrong.
    pub findings: Vec<Finding>,
}

/// A pod and its listeners.
#[derive(Debug, Serialize)]
pub struct PodReport {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Which version of the filter it is labelled for.
    pub label: Option<String>,
    /// Why it takes no part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excuse: Option<String>,
    /// Its filter chains.
    pub chains: Vec<ChainReport>,
}

/// A filter chain.
#[derive(Debug, Serialize)]
pub struct ChainReport {
    /// Which way its traffic goes.
    pub direction: Direction,
    /// The listener.
    pub listener: String,
    /// Its port.
    pub port: Option<u16>,
    /// The chain's name.
    pub chain: String,
    /// `http` or `tcp`.
    pub carries: &'static str,
    /// The module that looks at it.
    pub module: Option<Module>,
    /// What becomes of its requests when the module fails.
    pub failure: Option<Failure>,
    /// Why it may be without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excuse: Option<&'static str>,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// Something that is wrong, with all the places where it is.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The pod, `NAMESPACE/NAME`; none where several disagree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The listeners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<String>,
    /// The word for programs.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub advice: &'static str,
}

impl Report {
    /// Puts together what each pod answered.
    pub fn new(answers: Vec<(Pod, Answer)>) -> Self {
        let mut report = Self {
            ok: false,
            pods: Vec::new(),
            findings: Vec::new(),
        };
        for (pod, answer) in answers {
            report.pod(pod, answer);
        }
        report.findings.extend(disagreements(&report.pods));
        report.ok = report.findings.is_empty();
        report
    }

    fn pod(&mut self, pod: Pod, answer: Answer) {
        let name = format!("{}/{}", pod.namespace, pod.name);
        let mut told = PodReport {
            namespace: pod.namespace,
            pod: pod.name,
            label: pod.version,
            excuse: None,
            chains: Vec::new(),
        };
        match (pod.standing, answer) {
            (Standing::Excused(why), _) => told.excuse = Some(why.to_owned()),
            (Standing::NoSidecar, _) => self.findings.push(no_sidecar(&name)),
            (Standing::NotRunning(phase), _) => self.findings.push(not_running(&name, &phase)),
            (_, Answer::Dump(dump)) => {
                told.chains = dump.chains.iter().map(chain).collect();
                told.chains
                    .sort_by(|a, b| (a.direction, &a.listener).cmp(&(b.direction, &b.listener)));
                self.findings.extend(of_dump(&name, &dump));
                self.findings.extend(of_chains(&name, &told.chains));
            }
            (Standing::Ending, _) => told.excuse = Some("it is being ended".to_owned()),
            (Standing::Ask, Answer::Nothing(why)) => self.findings.push(no_answer(&name, &why)),
            (Standing::Ask, Answer::NotAsked) => self.findings.push(no_answer(&name, "it was not asked")),
        }
        self.pods.push(told);
    }
}

fn finding(pod: &str, code: &'static str, message: String, advice: &'static str) -> Finding {
    Finding {
        pod: Some(pod.to_owned()),
        listeners: Vec::new(),
        code,
        message,
        advice,
    }
}

fn no_sidecar(pod: &str) -> Finding {
    let advice =
        "label its namespace `istio-injection: enabled`, take away what forbids the injection, and start it anew";
    finding(
        pod,
        "no_sidecar",
        "it has no sidecar, and so no filter".to_owned(),
        advice,
    )
}

fn not_running(pod: &str, phase: &str) -> Finding {
    let message = format!("it does not run and could not be asked (phase `{phase}`)");
    finding(pod, "not_running", message, "wait for it, or ask `kubectl describe`")
}

fn no_answer(pod: &str, why: &str) -> Finding {
    let message = format!("its sidecar does not answer: {why}");
    finding(
        pod,
        "no_answer",
        message,
        "look at the log of its container `istio-proxy`",
    )
}

/// What a sidecar was sent and does not use.
fn of_dump(pod: &str, dump: &Dump) -> Vec<Finding> {
    let refused = dump.refused.iter().map(|(name, reason)| {
        let message = format!("its Envoy refused a new `{name}` and goes on with what it had: {reason}");
        finding(pod, "refused", message, "correct the manifest that it comes from")
    });
    let warming = dump.warming.iter().map(|name| {
        let message = format!("listener `{name}` waits for its configuration and takes no connection");
        finding(pod, "warming", message, "look at the sidecar's log, and at istiod")
    });
    refused.chain(warming).collect()
}

fn chain(chain: &Chain) -> ChainReport {
    let verdict = verdict::judge(chain);
    let plugin = verdict::plugin(chain);
    ChainReport {
        direction: chain.direction,
        listener: chain.listener.clone(),
        port: chain.port,
        chain: chain.name.clone(),
        carries: match chain.carries {
            Carries::Http(_) => "http",
            Carries::Tcp { .. } => "tcp",
        },
        module: plugin.map(|plugin| plugin.module.clone()),
        failure: plugin.map(|plugin| plugin.failure),
        excuse: verdict.excuse,
        faults: verdict.faults,
    }
}

/// The same fault on many listeners has one cause: it is told once.
fn of_chains(pod: &str, chains: &[ChainReport]) -> Vec<Finding> {
    let mut places: BTreeMap<&Fault, Vec<String>> = BTreeMap::new();
    for chain in chains {
        for fault in &chain.faults {
            let listeners = places.entry(fault).or_default();
            if !listeners.contains(&chain.listener) {
                listeners.push(chain.listener.clone());
            }
        }
    }
    let told = places.into_iter().map(|(fault, listeners)| Finding {
        listeners,
        ..finding(pod, fault.code(), fault.to_string(), fault.advice())
    });
    told.collect()
}

/// Pods that are labelled for one version run one.
fn disagreements(pods: &[PodReport]) -> Vec<Finding> {
    let mut versions: BTreeMap<&str, BTreeMap<&Module, BTreeSet<String>>> = BTreeMap::new();
    for pod in pods {
        for module in pod.chains.iter().filter_map(|chain| chain.module.as_ref()) {
            let label = pod.label.as_deref().unwrap_or_default();
            let modules = versions.entry(label).or_default();
            modules
                .entry(module)
                .or_default()
                .insert(format!("{}/{}", pod.namespace, pod.pod));
        }
    }
    let several = versions.into_iter().filter(|(_, modules)| modules.len() > 1);
    several.map(|(label, modules)| two_versions(label, &modules)).collect()
}

fn two_versions(label: &str, modules: &BTreeMap<&Module, BTreeSet<String>>) -> Finding {
    let told: Vec<_> = modules
        .iter()
        .map(|(module, pods)| {
            let pods: Vec<_> = pods.iter().map(String::as_str).collect();
            format!("{module} in {}", pods.join(", "))
        })
        .collect();
    Finding {
        pod: None,
        listeners: Vec::new(),
        code: "several_versions",
        message: format!(
            "pods labelled `ostiary.dev/filter: {label}` run several versions: {}",
            told.join("; ")
        ),
        advice: "wait until the sidecars have the new one, or look at the logs of those that keep the old one",
    }
}
