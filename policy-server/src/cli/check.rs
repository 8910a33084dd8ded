//! `ostiary check`.

mod live;
mod table;

use std::fmt::Write;
use std::path::PathBuf;

use authz::manifest::Mesh;
use authz::policy::Mode;
use authz::replay::{self, Facts, Policy};
use serde::Serialize;
use serde_json::Value;

use super::Outcome;
use super::output::{Printer, printable};
use super::past::{self, Past, PastError};
use super::render::cluster_domain;
use crate::files::{self, Diagnostic, Diagnostics, LoadError};
use crate::render::{PolicyServer, Settings};

/// Reads every agent and service file and tells each mistake with its file, line and column, and what to write
/// instead. Folders are read whole (*.yaml, *.yml). Give all files of a mesh together: names in one file are looked
/// for in the others.
///
/// With --against-log it decides the calls of a log by these files, from what their records hold, and tells which were
/// permitted and would be denied, and which were denied and would be permitted. Requests are read again by method and
/// path; bodies, queries and arguments are not recorded, and agents count as active.
///
/// With --live it reads instead what every sidecar of a mesh has, and tells which listeners of which pods run which
/// version of the filter, and which do not.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Check {
    /// Files and folders of one mesh
    #[arg(required_unless_present = "live", conflicts_with = "live", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Kubernetes manifests to hold against the files, as they are applied (`kubectl kustomize`); may be repeated
    #[arg(long, value_name = "PATH", conflicts_with = "live")]
    manifests: Vec<PathBuf>,
    /// A log (of `audit export`) whose calls are decided by these files, to see which an edit would deny or permit
    #[arg(long, value_name = "FILE", conflicts_with = "live")]
    against_log: Option<PathBuf>,
    /// The trust domain of the mesh
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    /// The policy server's Service; its pods run under the service account of that name
    #[arg(
        long,
        value_name = "NAMESPACE/NAME:PORT",
        default_value = "ostiary/policy-server:8080"
    )]
    policy_server: PolicyServer,
    /// The domain of the cluster's DNS
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = cluster_domain)]
    cluster_domain: String,
    #[command(flatten)]
    live: live::Live,
}

const EXAMPLES: &str = "Examples:
  ostiary check policy/
  ostiary check agents/ services/warehouse.yaml
  kubectl kustomize overlay/ | ostiary check policy/ --manifests /dev/stdin
  ostiary --output json check policy/ | jq -r '.diagnostics[].message'
  ostiary check policy/ --against-log log.jsonl
  ostiary check --live --context production
  ostiary --output json check --live | jq -r '.findings[].pod'

Exit codes: 0 no mistake, 1 at least one, or a call of the log would be decided otherwise, 2 nothing
could be checked";

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("there is no agent or service file (*.yaml, *.yml) in what was given")]
    NoFiles,
    #[error(transparent)]
    Live(#[from] live::LiveError),
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    files: usize,
    agents: usize,
    services: usize,
    /// Services whose calls go on whatever rule denies them.
    in_shadow: Vec<&'a str>,
    /// Whether the rules that several files obey together were checked too.
    complete: bool,
    diagnostics: &'a [Diagnostic],
    /// What became of the calls of a log.
    #[serde(skip_serializing_if = "Option::is_none")]
    against_log: Option<Value>,
}

impl Check {
    fn settings(&self) -> Settings {
        Settings {
            cluster_domain: self.cluster_domain.clone(),
            policy_server: self.policy_server.clone(),
        }
    }

    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        if self.live.live {
            return self.live.run(&self.policy_server.workload(), printer);
        }
        let loaded = files::load(&self.paths, &self.trust_domain).map_err(CheckError::from)?;
        if loaded.files == 0 {
            return Err(CheckError::NoFiles.into());
        }
        let diagnostics = match &loaded.mesh {
            Err(diagnostics) => Some(diagnostics.clone()),
            Ok(mesh) => {
                let found = files::inspect(&self.manifests, mesh, &self.settings()).map_err(CheckError::from)?;
                (!found.list().is_empty()).then_some(found)
            }
        };
        let diagnostics = diagnostics.as_ref();
        let past = match (&loaded.mesh, diagnostics) {
            (Ok(mesh), None) => self.past(mesh)?,
            _ => None,
        };
        let report = Report {
            ok: diagnostics.is_none(),
            files: loaded.files,
            agents: loaded.manifests.agents.len(),
            services: loaded.manifests.services.len(),
            in_shadow: loaded.mesh.as_ref().map(in_shadow).unwrap_or_default(),
            complete: diagnostics.is_none_or(Diagnostics::complete),
            diagnostics: diagnostics.map(Diagnostics::list).unwrap_or_default(),
            against_log: past.as_ref().map(Past::value),
        };
        let mut text = render(&report, printer);
        if let Some(past) = &past {
            text = format!("{text}\n{}", past.describe(printer));
        }
        printer.answer(text, &report)?;
        let changed = past.as_ref().is_some_and(|past| past.changed() > 0);
        Ok(if report.ok && !changed {
            Outcome::Clean
        } else {
            Outcome::Finding
        })
    }

    /// What these files make of the calls of a log, if one was given.
    fn past(&self, mesh: &Mesh) -> Result<Option<Past>, super::Error> {
        let Some(log) = &self.against_log else {
            return Ok(None);
        };
        let mut policy = Policy::new(mesh);
        let mut past = Past::default();
        let read = past::read(log, |line| {
            if replay::is_decisive(line.record) {
                past.add(line.number, line.record, policy.replay(line.record, Facts::Read));
            }
        });
        read.map_err(PastError::from)?;
        Ok(Some(past))
    }
}

fn in_shadow(mesh: &Mesh) -> Vec<&str> {
    let services = mesh.services().iter();
    let in_shadow = services.filter(|service| service.mode == Mode::Shadow);
    in_shadow.map(|service| service.id.as_str()).collect()
}

fn render(report: &Report<'_>, printer: &Printer) -> String {
    let mut text = places(report.diagnostics, printer);
    let files = count(report.files, "file");
    let _ = if report.ok {
        let (agents, services) = (count(report.agents, "agent"), count(report.services, "service"));
        write!(text, "{} {files}, {agents}, {services}", printer.good("ok:"))
    } else {
        write!(
            text,
            "{} in {files}",
            printer.bad(count(report.diagnostics.len(), "mistake"))
        )
    };
    for service in &report.in_shadow {
        let word = printer.bad("in shadow:");
        let _ = write!(
            text,
            "\n{word} {} does not enforce; what its rules deny goes on and is recorded (`ostiary report shadow`)",
            printable(service)
        );
    }
    if !report.complete {
        text.push_str("\nnames and rights across files are checked once these are mended");
    }
    text
}

/// A line for each mistake: where it is, what is wrong, and what to do about it.
pub(super) fn places(diagnostics: &[Diagnostic], printer: &Printer) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics {
        let Diagnostic {
            file,
            line,
            column,
            message,
            advice,
        } = diagnostic;
        let place = format!("{}:{line}:{column}:", printable(&file.display().to_string()));
        let (message, advice) = (printable(message), printable(advice));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {message}; {advice}", printer.strong(place));
    }
    text
}

pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
