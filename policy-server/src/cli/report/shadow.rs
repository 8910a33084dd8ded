//! `ostiary report shadow`.

use std::path::PathBuf;

use authz::log::tile::WIDTH;
use authz::manifest::Mesh;

use super::group::Groups;
use crate::cli::audit::{AuditError, Filter, Remote, verified};
use crate::cli::keys::{Running, SERVERS};
use crate::cli::output::{Printer, Progress};
use crate::cli::past::{self, PastError};
use crate::cli::{Error, Outcome, server};

/// Lists the calls that went on although a rule denies them, because their service is in shadow: by service, agent, code and
/// what was asked for, each kind with how often, when, one example, and what there is to do about it.
///
/// Where a grant is what is lacking it proposes the smallest: the entries that the agent's file would need for these calls and
/// no others. What token and files grant already is left out, the latter if they are given (`--policy`). Whether an agent ought
/// to have it is for a person to decide; nothing is proposed for what is forbidden, for calls without a token, or for
/// the data of other agents.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Shadow {
    /// What `audit export` wrote; or name a server, whose log is read
    #[arg(required_unless_present_any = SERVERS, conflicts_with_all = SERVERS)]
    file: Option<PathBuf>,
    /// Agent and service files: what they grant by now is not proposed; may be repeated
    #[arg(long, value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// The trust domain of the mesh
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary report shadow --config ostiary.yaml --service data/warehouse --policy policy/
  ostiary report shadow log.jsonl --since 1790000000
  ostiary --output json report shadow --config ostiary.yaml | jq '.grants[]'

Exit codes: 0 no call went on in shadow, 1 here is what did, or the files have mistakes, or the server refused, 2 the log
could not be read";

impl Shadow {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        if self.policy.is_empty() {
            return self.report(None, printer);
        }
        let loaded = past::load(&self.policy, &self.trust_domain)?;
        match past::mesh(&loaded) {
            Ok(mesh) => self.report(Some(mesh), printer),
            Err(diagnostics) => past::refuse(diagnostics, printer),
        }
    }

    fn report(&self, mesh: Option<&Mesh>, printer: &mut Printer) -> Result<Outcome, Error> {
        let mut groups = Groups::default();
        if let Some(file) = &self.file {
            let read = past::read(file, |line| {
                if self.filter.takes(line.record) {
                    groups.add(line.number, line.record, mesh);
                }
            });
            read.map_err(PastError::from)?;
        } else {
            let found = self.running.find()?;
            let remote = Remote::of(&found)?;
            match server::runtime()?.block_on(self.ask(&remote, mesh, &mut groups)) {
                Err(AuditError::Refused(refusal)) => return refusal.print(printer),
                read => read?,
            }
        }
        printer.answer(groups.describe(printer), &groups.value())?;
        Ok(if groups.is_empty() {
            Outcome::Clean
        } else {
            Outcome::Finding
        })
    }

    async fn ask(&self, remote: &Remote, mesh: Option<&Mesh>, groups: &mut Groups) -> Result<(), AuditError> {
        let size = remote.checkpoint().await?.size;
        let mut progress = Progress::new("reading", size);
        for bundle in 0..size.div_ceil(WIDTH) {
            let lines = remote.records(bundle, size).await?;
            for (index, line) in (bundle * WIDTH..).zip(&lines) {
                let record = &verified(line)?.record;
                if self.filter.takes(record) {
                    groups.add(index, record, mesh);
                }
            }
            progress.show((bundle + 1) * WIDTH);
        }
        Ok(())
    }
}
