//! `ostiary audit tail`.

use std::time::Duration;

use authz::log::tile::WIDTH;

use super::filter::Filter;
use super::remote::{Remote, verified};
use super::summary;
use crate::cli::keys::Running;
use crate::cli::output::Printer;
use crate::cli::{Error, Outcome, server};

/// The server signs what came every few seconds; asking more often shows nothing more.
const ASK_EVERY: Duration = Duration::from_secs(2);

/// Shows the last records under the newest checkpoint, a few seconds behind the sidecars.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct Tail {
    /// How many to look at
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: u64,
    /// Go on with those that come
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary audit tail --config ostiary.yaml
  ostiary audit tail --config ostiary.yaml --follow --agent analyst-7

Exit codes: 0 they were shown, 1 the server refused, 2 it could not be asked";

impl Tail {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let found = self.running.find()?;
        let remote = Remote::of(&found)?;
        server::runtime()?.block_on(self.print(&remote, printer))?;
        Ok(Outcome::Clean)
    }

    async fn print(&self, remote: &Remote, printer: &mut Printer) -> Result<(), Error> {
        let mut size = remote.checkpoint().await?.size;
        let mut from = size.saturating_sub(self.lines);
        loop {
            self.print_between(remote, from, size, printer).await?;
            if !self.follow {
                return Ok(());
            }
            printer.finish()?;
            tokio::time::sleep(ASK_EVERY).await;
            from = size;
            size = remote.checkpoint().await?.size.max(size);
        }
    }

    async fn print_between(&self, remote: &Remote, from: u64, size: u64, printer: &mut Printer) -> Result<(), Error> {
        for bundle in from / WIDTH..size.div_ceil(WIDTH) {
            let lines = remote.records(bundle, size).await?;
            let lines = (bundle * WIDTH..).zip(&lines).filter(|(index, _)| *index >= from);
            for (index, line) in lines {
                if self.filter.takes(&verified(line)?.record) {
                    summary::print(Some(index), line, printer)?;
                }
            }
        }
        Ok(())
    }
}
