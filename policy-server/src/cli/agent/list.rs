//! `ostiary agent list`.

use authz::identity::AgentId;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ShownAgent;
use crate::cli::keys::Running;
use crate::cli::output::{Printer, printable};
use crate::cli::server::{self, Refusal, Server, ServerError};
use crate::cli::{Error, Outcome};

/// As many pages as the largest mesh has agents for; a server that offers more is not ours.
const MOST_PAGES: usize = 400;

/// Lists agents and their states, and why those that are not active are not.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct List {
    /// Only agents in this state
    #[arg(long, value_name = "STATE")]
    state: Option<State>,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary agent list --config ostiary.yaml
  ostiary agent list --state paused --config ostiary.yaml
  ostiary --output json agent list --config ostiary.yaml | jq -r '.agents[].agent_id'

Exit codes: 0 here they are, 1 the server refused, 2 it could not be asked";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum State {
    Active,
    Paused,
    Suspended,
    Killed,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Killed => "killed",
        }
    }
}

/// What the server answers.
#[derive(Debug, Deserialize, Serialize)]
struct Page {
    agents: Vec<ShownAgent>,
    next: Option<AgentId>,
}

impl List {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        let state = self.state.map(State::as_str);
        let agents = match server::runtime()?.block_on(all(&server, state))? {
            Ok(agents) => agents,
            Err(refusal) => return refusal.print(printer),
        };
        let mut text = String::new();
        for agent in &agents {
            agent.describe(printer, &mut text);
        }
        if agents.is_empty() {
            text.push_str("none");
        }
        printer.answer(printable(text.trim_end()), &json!({ "agents": agents }))?;
        Ok(Outcome::Clean)
    }
}

/// Every page.
pub(in crate::cli) async fn all(
    server: &Server,
    state: Option<&str>,
) -> Result<Result<Vec<ShownAgent>, Refusal>, ServerError> {
    let mut agents = Vec::new();
    let mut after: Option<AgentId> = None;
    for _ in 0..MOST_PAGES {
        let state = state.map(|state| format!("state={state}"));
        let from = after.map(|after| format!("after={after}"));
        let query: Vec<String> = state.into_iter().chain(from).collect();
        let path = format!("/v1/agents?{}", query.join("&"));
        let page: Page = match server.ask(Method::GET, &path, None::<&Value>).await?.read()? {
            Ok(page) => page,
            Err(refusal) => return Ok(Err(refusal)),
        };
        agents.extend(page.agents);
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    Ok(Ok(agents))
}
