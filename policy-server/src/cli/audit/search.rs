//! `ostiary audit search`.

use authz::log::tile::WIDTH;

use super::filter::Filter;
use super::remote::{Remote, verified};
use super::summary;
use crate::cli::keys::Running;
use crate::cli::output::{Printer, Progress};
use crate::cli::{Error, Outcome, server};

/// Shows the records for which all that is asked holds, the oldest first. Reads the log from its beginning.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct Search {
    #[command(flatten)]
    filter: Filter,
    /// Show no more than so many
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary audit search --config ostiary.yaml --agent analyst-7 --code tool_forbidden
  ostiary --output json audit search --config ostiary.yaml --txn t-1 | jq .facts

Exit codes: 0 the log was searched, 1 the server refused, 2 it could not be asked";

impl Search {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let found = self.running.find()?;
        let remote = Remote::of(&found)?;
        server::runtime()?.block_on(self.print(&remote, printer))?;
        Ok(Outcome::Clean)
    }

    async fn print(&self, remote: &Remote, printer: &mut Printer) -> Result<(), Error> {
        let size = remote.checkpoint().await?.size;
        let mut progress = Progress::new("searching", size);
        let mut shown = 0;
        for bundle in 0..size.div_ceil(WIDTH) {
            let lines = remote.records(bundle, size).await?;
            for (index, line) in (bundle * WIDTH..).zip(&lines) {
                if shown < self.limit && self.filter.takes(&verified(line)?.record) {
                    summary::print(Some(index), line, printer)?;
                    shown += 1;
                }
            }
            if shown >= self.limit {
                break;
            }
            progress.show((bundle + 1) * WIDTH);
        }
        Ok(())
    }
}
