//! `ostiary audit replay`.

use std::path::PathBuf;

use authz::audit::Record;
use authz::log::tile::WIDTH;
use authz::replay::{Facts, Policy};
use serde_json::Value;

use super::AuditError;
use super::remote::{Remote, verified};
use crate::cli::keys::Running;
use crate::cli::output::{Printer, Progress};
use crate::cli::past::{self, Past, PastError};
use crate::cli::{Error, Outcome, server};

/// Decides every decision of a log again, from the facts and claims of its record and the agent and service files that were
/// in force, and tells each that comes out otherwise.
///
/// Neither signatures nor the reading of requests are replayed: the sidecar that wrote a record did both, and the record holds
/// what came of it. The log holds no policy: name the files of that moment, such as a checkout of the commit that was in force;
/// by others, what they changed comes out as a finding. States of agents and tokens are not in records: what was denied by
/// one is counted and not decided again, and what was permitted is decided as if all agents were active.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Replay {
    /// What `audit export` wrote (`audit verify` says whether it is the log); or name a server, whose log is read
    #[arg(required_unless_present_any = SERVERS, conflicts_with_all = SERVERS)]
    file: Option<PathBuf>,
    /// The agent and service files that were in force; may be repeated
    #[arg(long, value_name = "PATH", required = true)]
    policy: Vec<PathBuf>,
    /// The trust domain of the mesh
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    trust_domain: String,
    #[command(flatten)]
    running: Running,
}

/// What names a server.
const SERVERS: [&str; 4] = ["config", "data", "server", "unix"];

const EXAMPLES: &str = "Examples:
  ostiary audit export --config ostiary.yaml --out log.jsonl
  ostiary audit replay log.jsonl --policy policy/
  ostiary audit replay --config ostiary.yaml --policy policy/
  ostiary --output json audit replay log.jsonl --policy policy/ | jq '.changes[]'

Exit codes: 0 every decision comes out as it was, 1 one does not, or the files have mistakes, 2 nothing could be decided";

/// What is said with every answer.
const NOT_REPLAYED: &str =
    "signatures and the reading of requests are not replayed; the policy is that of the files given";

impl Replay {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let loaded = past::load(&self.policy, &self.trust_domain)?;
        let mesh = match past::mesh(&loaded) {
            Ok(mesh) => mesh,
            Err(diagnostics) => return past::refuse(diagnostics, printer),
        };
        let mut policy = Policy::new(mesh);
        let mut past = Past::default();
        let mut each = |number: u64, record: &Record<'_>| {
            past.add(number, record, policy.replay(record, Facts::Recorded));
        };
        if let Some(file) = &self.file {
            past::read(file, |line| each(line.number, line.record)).map_err(PastError::from)?;
        } else {
            let server = self.running.find()?;
            let remote = Remote::of(&server)?;
            server::runtime()?.block_on(read(&remote, &mut each))?;
        }
        let mut value = past.value();
        if let Some(members) = value.as_object_mut() {
            members.insert("note".to_owned(), Value::from(NOT_REPLAYED));
        }
        printer.answer(format!("{}\n{NOT_REPLAYED}", past.describe(printer)), &value)?;
        Ok(if past.changed() == 0 {
            Outcome::Clean
        } else {
            Outcome::Finding
        })
    }
}

/// Reads every record under the newest checkpoint of a server's log, each with its place from 1.
async fn read(remote: &Remote, each: &mut dyn FnMut(u64, &Record<'_>)) -> Result<(), AuditError> {
    let size = remote.checkpoint().await?.size;
    let mut progress = Progress::new("deciding", size);
    for bundle in 0..size.div_ceil(WIDTH) {
        for (index, line) in (bundle * WIDTH + 1..).zip(&remote.records(bundle, size).await?) {
            each(index, &verified(line)?.record);
        }
        progress.show((bundle + 1) * WIDTH);
    }
    Ok(())
}
