//! `ostiary shrink`.

use std::fmt::Write as _;
use std::path::PathBuf;

use authz::identity::AgentId;
use authz::manifest::{AgentManifest, Manifests};
use authz::replay::{Facts, Policy, Removed, Usage};
use serde_json::json;

use super::check::count;
use super::output::Printer;
use super::past::{self, Past, PastError};
use super::{Error, Outcome};

/// Proposes the smallest file of an agent that explains a log: without the tools, prompts, resources, scopes, agents and
/// services that none of its permitted calls used.
///
/// What denies or limits stays as it is. Before it is proposed, every decision of the agent in the log is made again by it: what
/// was permitted still is. A log that is short proposes a file that is too small: what the agent does once a quarter
/// is in no log of a day.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Shrink {
    /// The agent
    agent: AgentId,
    /// Files and folders of the mesh, the agent's among them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// What `audit export` wrote
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// The trust domain of the mesh
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
}

const EXAMPLES: &str = "Examples:
  ostiary shrink analyst-7 policy/ --log log.jsonl > policy/analyst-7.yaml.smaller
  ostiary --output json shrink analyst-7 policy/ --log log.jsonl | jq -r '.removed[] | \"\\(.field): \\(.entry)\"'

Exit codes: 0 there is nothing to take away, 1 here is a smaller file, or the files have mistakes, 2 there is no such
agent, or nothing could be read";

/// What is proposed.
struct Proposal {
    manifest: AgentManifest,
    removed: Vec<Removed>,
    calls: u64,
    past: Past,
}

impl Shrink {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let loaded = past::load(&self.paths, &self.trust_domain)?;
        let mesh = match past::mesh(&loaded) {
            Ok(mesh) => mesh,
            Err(diagnostics) => return past::refuse(diagnostics, printer),
        };
        let mut usage = Usage::new(&self.agent, mesh);
        past::read(&self.log, |line| usage.add(line.record)).map_err(PastError::from)?;
        let proposal = self.propose(&loaded.manifests, &usage)?;
        let yaml = serde_saphyr::to_string(&proposal.manifest).map_err(PastError::from)?;
        // What is empty is left out, as people write it.
        let yaml: Vec<&str> = yaml.lines().filter(|line| !line.ends_with(": []")).collect();
        let yaml = yaml.join("\n");
        let value = json!({
            "agent": proposal.manifest,
            "removed": proposal.removed,
            "calls": proposal.calls,
            "replayed": proposal.past.value(),
        });
        printer.answer(proposal.describe(&yaml).trim_end(), &value)?;
        Ok(if proposal.removed.is_empty() {
            Outcome::Clean
        } else {
            Outcome::Finding
        })
    }

    /// The smaller file, and what it makes of the log.
    fn propose(&self, manifests: &Manifests, usage: &Usage<'_>) -> Result<Proposal, PastError> {
        let mut smaller = manifests.clone();
        let named = |manifest: &&mut AgentManifest| manifest.metadata.name == self.agent.as_str();
        let manifest = smaller.agents.iter_mut().find(named);
        let manifest = manifest.ok_or_else(|| PastError::AgentUnknown(self.agent.to_string()))?;
        let (spec, removed) = usage.shrink(&manifest.spec);
        manifest.spec = spec;
        let manifest = manifest.clone();
        let mesh = smaller.check(&self.trust_domain).map_err(|problems| {
            let first = problems.into_iter().next();
            PastError::Shrunk(first.map(|problem| problem.message).unwrap_or_default())
        })?;
        let mut policy = Policy::new(&mesh);
        let mut past = Past::default();
        past::read(&self.log, |line| {
            if line.record.agent_id.as_deref() == Some(self.agent.as_str()) {
                past.add(line.number, line.record, policy.replay(line.record, Facts::Recorded));
            }
        })?;
        Ok(Proposal {
            manifest,
            removed,
            calls: usage.calls(),
            past,
        })
    }
}

impl Proposal {
    /// The file, with what is to be known of it in comments: it can be written as it is.
    // Writing to a string cannot fail.
    fn describe(&self, yaml: &str) -> String {
        let mut text = String::new();
        let decisions = count(usize::try_from(self.calls).unwrap_or(usize::MAX), "permitted decision");
        let _ = writeln!(text, "# Proposed by `ostiary shrink` from {decisions}.");
        if self.removed.is_empty() {
            text.push_str("# Every entry was used.\n");
        }
        for Removed { field, entry } in &self.removed {
            let _ = writeln!(text, "# Not used: {field}: {entry}");
        }
        if self.past.denied() > 0 {
            let _ = writeln!(
                text,
                "# {} decisions that were permitted would be denied: the files given are not those that permitted them.",
                self.past.denied()
            );
        }
        text.push_str(yaml);
        text
    }
}
