//! `ostiary review`.

use serde_json::json;

use super::agent::list;
use super::keys::Running;
use super::output::{Printer, printable};
use super::{Error, Outcome, server};

/// Lists the agents that are paused: since when, by whom, why, and what moves their score.
///
/// Each waits for `ostiary agent approve` or `ostiary agent suspend`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(super) struct Review {
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary review --config ostiary.yaml
  ostiary --output json review --config ostiary.yaml | jq '.agents[].last_change.reason'

For a reviewer, an operator or an auditor.
Exit codes: 0 nobody waits, 1 somebody does, or the server refused, 2 it could not be asked";

impl Review {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        let agents = match server::runtime()?.block_on(list::all(&server, Some("paused")))? {
            Ok(agents) => agents,
            Err(refusal) => return refusal.print(printer),
        };
        let mut text = String::new();
        for agent in &agents {
            agent.describe(printer, &mut text);
            for reason in &agent.score_reasons {
                text.push_str("    ");
                text.push_str(reason);
                text.push('\n');
            }
        }
        if agents.is_empty() {
            text.push_str("nobody waits");
        }
        printer.answer(printable(text.trim_end()), &json!({ "agents": agents }))?;
        Ok(if agents.is_empty() {
            Outcome::Clean
        } else {
            Outcome::Finding
        })
    }
}
