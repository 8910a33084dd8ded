//! `ostiary agent show`.

use authz::identity::AgentId;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ShownAgent, ShownChange};
use crate::cli::keys::Running;
use crate::cli::output::{Printer, printable};
use crate::cli::server;
use crate::cli::{Error, Outcome};

/// Shows an agent's state and its last changes: from what to what, by whom, and why.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct Show {
    /// The agent, by the name in its file
    #[arg(value_name = "AGENT", value_parser = AgentId::parse)]
    agent: AgentId,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary agent show analyst-7 --config ostiary.yaml
  ostiary --output json agent show analyst-7 --config ostiary.yaml | jq .changes

Exit codes: 0 here it is, 1 the server refused, 2 it could not be asked";

/// What the server answers.
#[derive(Debug, Deserialize, Serialize)]
struct Whole {
    #[serde(flatten)]
    agent: ShownAgent,
    changes: Vec<ShownChange>,
}

impl Show {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        let path = format!("/v1/agents/{}", self.agent);
        let asked = server.ask(Method::GET, &path, None::<&Value>);
        let whole: Whole = match server::runtime()?.block_on(asked)?.read()? {
            Ok(whole) => whole,
            Err(refusal) => return refusal.print(printer),
        };
        let mut text = String::new();
        let silent = ShownAgent {
            last_change: None,
            ..whole.agent
        };
        silent.describe(printer, &mut text);
        for change in &whole.changes {
            change.describe(&mut text);
        }
        let whole = Whole { agent: silent, ..whole };
        printer.answer(printable(text.trim_end()), &whole)?;
        Ok(Outcome::Clean)
    }
}
