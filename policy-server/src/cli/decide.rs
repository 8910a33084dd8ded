//! `ostiary decide`: what would the filter say?
//!
//! Both forms end in [`authz::case`], which takes the filter's own steps.

mod cases;
mod explain;
mod single;

use std::io;
use std::path::PathBuf;

use authz::case::CaseError;
use authz::identity::NameError;

use super::Outcome;
use super::output::Printer;
use crate::files::{Diagnostics, LoadError};

/// Decides requests offline, with the same code as the filter in the sidecar.
///
/// With --cases each line of a file is one request with all that its verdict rests on; one verdict a line is
/// printed, as JSON. Where a case has `expect`, what it names is compared with the verdict.
///
/// Without, the flags describe one request, and the answer says in words which rule decided and what would be
/// needed.
#[derive(Debug, clap::Args)]
#[command(override_usage = USAGE, after_help = EXAMPLES)]
pub(super) struct Decide {
    /// A file of cases, one a line; `-` is the standard input
    #[arg(long, value_name = "FILE", conflicts_with = "request")]
    cases: Option<PathBuf>,
    #[command(flatten)]
    single: Option<single::Single>,
}

const USAGE: &str = "ostiary decide --cases <FILE>
       ostiary decide --policy <DIR> --workload <SPIFFE_ID> [OPTIONS]";

const EXAMPLES: &str = "Examples:
  ostiary decide --cases cases.jsonl
  ostiary decide --policy policy/ --issuer-jwks jwks.json --token-file token.txt \\
    --workload spiffe://cluster.local/ns/data/sa/warehouse --peer spiffe://cluster.local/ns/agents/sa/analyst-7 \\
    --method GET --path /v1/tables/sales_q1_2026

Exit codes: 0 permitted (--cases: all decided, as expected), 1 denied (--cases: not as expected),
2 it could not be decided (--cases: some line could not be read; the others were decided)";

/// Why nothing could be decided.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecideError {
    #[error("give --cases FILE, or a request: --policy DIR --workload SPIFFE_ID and what it asks for")]
    NothingToDecide,
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` is no set of keys (JWKS): {reason}", path.display())]
    Keys { path: PathBuf, reason: String },
    #[error("--issuer-jwks needs --issuer ISS: the token names none")]
    NoIssuer,
    #[error("{flag}: {source}")]
    Name { flag: &'static str, source: NameError },
    #[error("--host is needed: no service of the policy runs as the workload")]
    NoHost,
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the policy has mistakes:\n{0}")]
    Policy(Diagnostics),
    #[error(transparent)]
    Case(#[from] CaseError),
}

impl Decide {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        match (&self.cases, &self.single) {
            (Some(cases), _) => cases::run(cases, printer),
            (None, Some(single)) => single.run(printer),
            (None, None) => Err(DecideError::NothingToDecide.into()),
        }
    }
}
