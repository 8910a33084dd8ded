//! `ostiary audit`: reads the log of records from a server, and proves offline what a file of it holds.

mod export;
mod filter;
mod findings;
mod lines;
mod policy;
mod prove;
mod remote;
mod replay;
mod search;
mod show;
mod summary;
mod tail;
mod verify;

use std::io;
use std::path::{Path, PathBuf};

use authz::log::note::{self, NoteKey};

pub(super) use filter::Filter;
pub(super) use remote::{Remote, verified};

use super::output::Printer;
use super::server::{Refusal, ServerError};
use super::{Error, Outcome};

/// The log.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Audit {
    /// Show the last records, and those that come
    Tail(Box<tail::Tail>),
    /// Show the records of an agent, a call, a user request, or with a code
    Search(Box<search::Search>),
    /// Show all records of one call
    Show(Box<show::Show>),
    /// Write the whole log to one file that proves itself
    Export(Box<export::Export>),
    /// Check an export or a receipt offline
    Verify(verify::Verify),
    /// List the calls that the caller's and the service's sidecar do not agree about
    Findings(Box<findings::Findings>),
    /// Decide past calls again from their records
    Replay(Box<replay::Replay>),
    /// Get the proof that a call is in the log, or that the log only added to what it was
    Prove(Box<prove::Prove>),
}

/// Why a command about the log could not be run.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuditError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write `{}`", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("`{key}` is no key of a log")]
    Key { key: String, source: note::KeyError },
    #[error("`{}` is no checkpoint that the given key signed: {source}", path.display())]
    Checkpoint { path: PathBuf, source: note::NoteError },
    #[error("--checkpoint is compared with exports; `{}` is a receipt, which has one of its own", .0.display())]
    CheckpointOfReceipt(PathBuf),
    #[error("the server's log is not what it should be: {0}")]
    Log(&'static str),
    #[error("the server keeps no policy: it is older; name the files that were in force (--policy)")]
    NoPolicy,
    /// The server said no.
    #[error("the server refused")]
    Refused(Box<Refusal>),
}

impl From<Refusal> for AuditError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl Audit {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let outcome = match self {
            Self::Tail(tail) => tail.run(printer),
            Self::Search(search) => search.run(printer),
            Self::Show(show) => show.run(printer),
            Self::Export(export) => export.run(printer),
            Self::Verify(verify) => verify.run(printer),
            Self::Findings(findings) => findings.run(printer),
            Self::Replay(replay) => replay.run(printer),
            Self::Prove(prove) => prove.run(printer),
        };
        match outcome {
            Err(Error::Audit(AuditError::Refused(refusal))) => refusal.print(printer),
            outcome => outcome,
        }
    }
}

/// Reads keys as they are given: themselves, or the name of a file with one a line.
fn keys(given: &[String]) -> Result<Vec<NoteKey>, AuditError> {
    let mut keys = Vec::new();
    for key in given {
        let parse = |text: &str| {
            text.parse().map_err(|source| AuditError::Key {
                key: text.to_owned(),
                source,
            })
        };
        let path = Path::new(key);
        if path.is_file() {
            for line in read_text(path)?.lines().filter(|line| !line.trim().is_empty()) {
                keys.push(parse(line.trim())?);
            }
        } else {
            keys.push(parse(key)?);
        }
    }
    Ok(keys)
}

fn read_text(path: &Path) -> Result<String, AuditError> {
    std::fs::read_to_string(path).map_err(|source| AuditError::Read {
        path: path.to_owned(),
        source,
    })
}
