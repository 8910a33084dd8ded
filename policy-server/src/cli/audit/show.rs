//! `ostiary audit show`.

use super::remote::Remote;
use super::{AuditError, summary};
use crate::cli::keys::Running;
use crate::cli::output::Printer;
use crate::cli::{Error, Outcome, server};

/// Shows all records of one call: both sides, decisions and completions. Believes the server; `audit prove` does not.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct Show {
    /// The call's id: the header `ostiary-call`, or the field `call` of a record
    #[arg(allow_hyphen_values = true)]
    call: String,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary audit show 3q2-7wAAAAAAAAAAAAAAAA --config ostiary.yaml
  ostiary --output json audit show 3q2-7wAAAAAAAAAAAAAAAA --config ostiary.yaml | jq .

Exit codes: 0 they are shown, 1 there are none or the server refused, 2 it could not be asked";

impl Show {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let found = self.running.find()?;
        let remote = Remote::of(&found)?;
        let receipt = server::runtime()?.block_on(remote.receipt(&self.call))?;
        let lines = receipt.split(|byte| *byte == b'\n');
        let mut records = lines.filter(|line| line.starts_with(b"{\"hash\":")).peekable();
        if records.peek().is_none() {
            return Err(AuditError::Log("its receipt has no record").into());
        }
        for line in records {
            summary::print(None, line, printer)?;
        }
        Ok(Outcome::Clean)
    }
}
