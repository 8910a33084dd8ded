//! `ostiary audit replay`.

use std::path::{Path, PathBuf};

use authz::audit::Record;
use authz::log::export::{self, PolicyLine};
use authz::log::tile::WIDTH;
use authz::replay::{Facts, KeptPolicy, Policy, Replayed, Unplayed};
use serde_json::Value;

use super::AuditError;
use super::policy::Gathered;
use super::remote::{Remote, verified};
use crate::cli::keys::{Running, SERVERS};
use crate::cli::output::{Printer, Progress};
use crate::cli::past::{self, Content, LogError, Past, PastError};
use crate::cli::{Error, Outcome, server};

/// Decides every decision of a log again, from the facts and claims of its record and the signed bundle and state list that
/// it names, and tells each that comes out otherwise.
///
/// An export holds all of these; with `--policy`, agent and service files are taken instead, such as a checkout of the commit
/// that was in force, and what they changed comes out as a finding. Files say nothing of the states of agents and tokens:
/// what was denied by one is counted then and not decided again, and what was permitted is decided as if all agents were
/// active. Neither signatures of tokens nor the reading of requests are replayed: the sidecar that wrote a record did both,
/// and the record holds what came of it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Replay {
    /// What `audit export` wrote (`audit verify` says whether it is the log); or name a server, whose log is read
    #[arg(required_unless_present_any = SERVERS, conflicts_with_all = SERVERS)]
    file: Option<PathBuf>,
    /// Agent and service files to decide by instead; may be repeated
    #[arg(long, value_name = "PATH")]
    policy: Vec<PathBuf>,
    /// The trust domain of the mesh
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary audit export --config ostiary.yaml --out log.jsonl
  ostiary audit replay log.jsonl
  ostiary audit replay log.jsonl --policy policy/
  ostiary --output json audit replay --config ostiary.yaml | jq '.changes[]'

Exit codes: 0 every decision comes out as it was, 1 one does not, or the files have mistakes, 2 nothing could be decided";

/// What is said with every answer.
const NOT_REPLAYED: &str = "signatures of tokens and the reading of requests are not replayed; the policy is that of";

/// What decides again.
enum By<'m> {
    Files(Policy<'m>),
    /// What the log holds; None before its first line was read.
    Log(Option<KeptPolicy>),
}

impl Replay {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        if self.policy.is_empty() {
            return self.replay(By::Log(None), printer);
        }
        let loaded = past::load(&self.policy, &self.trust_domain)?;
        match past::mesh(&loaded) {
            Ok(mesh) => self.replay(By::Files(Policy::new(mesh)), printer),
            Err(diagnostics) => past::refuse(diagnostics, printer),
        }
    }

    fn replay(&self, mut by: By<'_>, printer: &mut Printer) -> Result<Outcome, Error> {
        let mut past = Past::default();
        if let Some(file) = &self.file {
            read_file(file, &mut by, &mut past).map_err(PastError::from)?;
        } else {
            let server = self.running.find()?;
            let remote = Remote::of(&server)?;
            server::runtime()?.block_on(read(&remote, &mut by, &mut past))?;
        }
        let note = match by {
            By::Files(_) => format!("{NOT_REPLAYED} the files given"),
            By::Log(_) => format!("{NOT_REPLAYED} the log"),
        };
        let mut value = past.value();
        if let Some(members) = value.as_object_mut() {
            members.insert("note".to_owned(), Value::from(note.clone()));
        }
        printer.answer(format!("{}\n{note}", past.describe(printer)), &value)?;
        Ok(if past.changed() == 0 {
            Outcome::Clean
        } else {
            Outcome::Finding
        })
    }
}

impl By<'_> {
    fn replay(&mut self, record: &Record<'_>) -> Result<Replayed, Unplayed> {
        match self {
            Self::Files(policy) => policy.replay(record, Facts::Recorded),
            Self::Log(kept) => kept.as_ref().ok_or(Unplayed::NotKept)?.replay(record),
        }
    }
}

/// Reads a file, and what it holds of policy unless it is decided by files.
fn read_file(path: &Path, by: &mut By<'_>, past: &mut Past) -> Result<(), LogError> {
    past::read_all(path, |number, content| {
        let content = match content {
            Content::Record(line) => {
                past.add(number, line.record, by.replay(line.record));
                return Ok(());
            }
            Content::Other(content) => content,
        };
        let By::Log(kept) = by else { return Ok(()) };
        match kept {
            None => {
                let keys = export::policy_keys(content);
                *kept = Some(KeptPolicy::new(
                    keys.ok_or_else(|| LogError::NoPolicy(path.to_owned()))?,
                ));
            }
            Some(kept) if PolicyLine::is(content) => {
                let unsound = |reason| LogError::Policy {
                    path: path.to_owned(),
                    line: number,
                    reason,
                };
                let line =
                    PolicyLine::read(content).ok_or_else(|| unsound("it is not in its one spelling".to_owned()))?;
                kept.take(line).map_err(|error| unsound(error.to_string()))?;
            }
            Some(_) => {}
        }
        Ok(())
    })
}

/// Reads every record under the newest checkpoint of a server's log, each with its place from 1.
async fn read(remote: &Remote, by: &mut By<'_>, past: &mut Past) -> Result<(), AuditError> {
    let newest = remote.checkpoint().await?;
    let mut policy = match by {
        By::Log(_) => Some(
            Gathered::begin(remote, &newest.origin)
                .await?
                .ok_or(AuditError::NoPolicy)?,
        ),
        By::Files(_) => None,
    };
    if let (By::Log(kept), Some(policy)) = (&mut *by, &policy) {
        *kept = Some(KeptPolicy::new(policy.keys().clone()));
    }
    let size = newest.size;
    let mut progress = Progress::new("deciding", size);
    for bundle in 0..size.div_ceil(WIDTH) {
        let records = remote.records(bundle, size).await?;
        if let (By::Log(Some(kept)), Some(policy)) = (&mut *by, &mut policy) {
            for line in policy.before(remote, &records).await? {
                kept.take(line).map_err(|_| AuditError::Log("policy of it is none"))?;
            }
        }
        for (index, line) in (bundle * WIDTH + 1..).zip(&records) {
            let record = &verified(line)?.record;
            past.add(index, record, by.replay(record));
        }
        progress.show((bundle + 1) * WIDTH);
    }
    Ok(())
}
