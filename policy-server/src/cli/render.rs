//! `ostiary render`.

use std::fmt::Write;
use std::path::PathBuf;

use authz::identity::{is_label, is_trust_domain};
use serde::Serialize;

use super::Outcome;
use super::check::{count, places};
use super::output::{Printer, printable};
use crate::files::{self, Diagnostics, LoadError};
use crate::render::{self, Change, ChangeKind, Files, FolderError, KUSTOMIZATION, PolicyServer, Settings, Target};

/// Writes what the agent and service files stand for as Kubernetes manifests: for each agent a NetworkPolicy and the
/// Sidecar that knows its services alone, for each service a NetworkPolicy and the AuthorizationPolicy that lets its
/// agents in, and a kustomization.yaml. The same files give the same bytes. Pods are selected by the label
/// `ostiary.dev/service-account`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Render {
    /// Files and folders of one mesh
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The folder to write to; files in it that were rendered before and are no longer are removed. Without it,
    /// everything is printed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Write nothing, and say which files of the folder are stale
    #[arg(long, requires = "out")]
    check: bool,
    /// The mesh to render for
    #[arg(long, value_enum, default_value_t = Target::Istio)]
    target: Target,
    /// The policy server's Service; its pods run under the service account of that name
    #[arg(
        long,
        value_name = "NAMESPACE/NAME:PORT",
        default_value = "ostiary/policy-server:8080"
    )]
    policy_server: PolicyServer,
    /// The trust domain of the mesh
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = trust_domain)]
    trust_domain: String,
    /// The domain of the cluster's DNS
    #[arg(long, value_name = "NAME", default_value = "cluster.local", value_parser = cluster_domain)]
    cluster_domain: String,
}

const EXAMPLES: &str = "Examples:
  ostiary render policy/ --out manifests/ && kubectl apply -k manifests/
  ostiary render policy/ --out manifests/ --check
  ostiary render policy/ | kubectl diff -f -

Exit codes: 0 rendered or up to date, 1 a mistake in a file or a stale manifest, 2 nothing could be rendered";

fn trust_domain(text: &str) -> Result<String, &'static str> {
    if is_trust_domain(text) {
        Ok(text.to_owned())
    } else {
        Err("not a SPIFFE trust domain")
    }
}

pub(super) fn cluster_domain(text: &str) -> Result<String, &'static str> {
    if text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err("not a DNS domain")
    }
}

/// Why nothing could be rendered.
#[derive(Debug, thiserror::Error)]
pub(super) enum RenderError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("there is no agent or service file (*.yaml, *.yml) in what was given")]
    NoFiles,
    #[error(transparent)]
    Yaml(#[from] render::RenderError),
    #[error(transparent)]
    Folder(#[from] FolderError),
}

#[derive(Serialize)]
struct Written<'a> {
    ok: bool,
    files: usize,
    changes: &'a [Change],
}

#[derive(Serialize)]
struct Refused<'a> {
    ok: bool,
    diagnostics: &'a Diagnostics,
}

impl Render {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        let files = match self.render()? {
            Ok(files) => files,
            Err(diagnostics) => return refuse(&diagnostics, printer),
        };
        let Some(folder) = &self.out else {
            let text = stream(&files);
            printer.answer(text.trim_end(), &serde_json::json!({"ok": true, "files": files}))?;
            return Ok(Outcome::Clean);
        };
        let changes = if self.check {
            render::compare(folder, &files)
        } else {
            render::write(folder, &files)
        };
        let changes = changes.map_err(RenderError::from)?;
        let ok = changes.is_empty() || !self.check;
        let report = Written {
            ok,
            files: files.len(),
            changes: &changes,
        };
        printer.answer(self.summary(&report, printer), &report)?;
        Ok(if ok { Outcome::Clean } else { Outcome::Finding })
    }

    /// The files, or what is wrong with those that they are read from.
    fn render(&self) -> Result<Result<Files, Diagnostics>, RenderError> {
        let loaded = files::load(&self.paths, &self.trust_domain)?;
        if loaded.files == 0 {
            return Err(RenderError::NoFiles);
        }
        let problems = render::problems(&loaded.manifests, &self.trust_domain);
        let unfit = (!problems.is_empty()).then(|| loaded.diagnose(problems));
        let mesh = match (loaded.mesh, unfit) {
            (Err(diagnostics), _) | (Ok(_), Some(diagnostics)) => return Ok(Err(diagnostics)),
            (Ok(mesh), None) => mesh,
        };
        let settings = Settings {
            cluster_domain: self.cluster_domain.clone(),
            policy_server: self.policy_server.clone(),
        };
        Ok(Ok(render::render(&mesh, &settings, self.target)?))
    }

    fn summary(&self, report: &Written<'_>, printer: &Printer) -> String {
        let mut text = String::new();
        for Change { file, kind } in report.changes {
            let what = match (kind, self.check) {
                (ChangeKind::Missing, true) => "is missing",
                (ChangeKind::Differs, true) => "is stale",
                (ChangeKind::LeftOver, true) => "is left over",
                (ChangeKind::Missing, false) => "added",
                (ChangeKind::Differs, false) => "changed",
                (ChangeKind::LeftOver, false) => "removed",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {what}", printable(file));
        }
        let _ = if report.ok {
            write!(text, "{} {}", printer.good("ok:"), count(report.files, "file"))
        } else {
            let stale = printer.bad(format!("{} not up to date", count(report.changes.len(), "file")));
            write!(text, "{stale}; render again without --check and commit")
        };
        text
    }
}

fn refuse(diagnostics: &Diagnostics, printer: &mut Printer) -> Result<Outcome, super::Error> {
    let text = places(diagnostics.list(), printer);
    let mistakes = printer.bad(count(diagnostics.list().len(), "mistake"));
    let text = format!("{text}{mistakes}, nothing is rendered");
    printer.answer(text, &Refused { ok: false, diagnostics })?;
    Ok(Outcome::Finding)
}

/// All manifests as one stream of documents; a Kustomization is none that a cluster takes.
fn stream(files: &Files) -> String {
    let manifests = files.iter().filter(|(file, _)| *file != KUSTOMIZATION);
    let texts: Vec<&str> = manifests.map(|(_, text)| text.as_str()).collect();
    texts.join("---\n")
}
