//! `ostiary agent approve|pause|resume|suspend|kill`.

use authz::identity::AgentId;
use authz::state::transition::Change;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::keys::Running;
use crate::cli::output::{Printer, printable};
use crate::cli::server::{self, Refusal, Server};
use crate::cli::{Error, Outcome};

/// Changes an agent's state; who asked and why is recorded with it. Once this exits 0 every sidecar is being told.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct ChangeState {
    /// The agent, by the name in its file
    #[arg(value_name = "AGENT", value_parser = AgentId::parse)]
    pub(super) agent: AgentId,
    /// Why: it is recorded, and shown to whoever looks at the agent later
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: String,
    #[command(flatten)]
    pub(super) running: Running,
}

pub(super) const APPROVE_EXAMPLES: &str = "Examples:
  ostiary agent approve analyst-7 --reason 'the burst was a report rerun' --config ostiary.yaml

For a reviewer or an operator. Exit codes: 0 it is active, 1 the server refused, 2 it could not be asked";

pub(super) const PAUSE_EXAMPLES: &str = "Examples:
  ostiary agent pause analyst-7 --reason 'asks for tables it never read' --config ostiary.yaml

For a reviewer or an operator. Exit codes: 0 it is paused, 1 the server refused, 2 it could not be asked";

pub(super) const RESUME_EXAMPLES: &str = "Examples:
  ostiary agent resume analyst-7 --reason 'prompt fixed, INC-42' --config ostiary.yaml

For an operator. Exit codes: 0 it is active, 1 the server refused, 2 it could not be asked";

pub(super) const SUSPEND_EXAMPLES: &str = "Examples:
  ostiary agent suspend analyst-7 --reason 'injected instructions, INC-42' --config ostiary.yaml

For an operator, or for a reviewer once it is paused.
Exit codes: 0 it is suspended, 1 the server refused, 2 it could not be asked";

pub(super) const KILL_EXAMPLES: &str = "Examples:
  ostiary agent kill analyst-7 --reason 'exfiltrates, INC-42' --config ostiary.yaml
  ostiary agent kill analyst-7 --reason INC-42 --server https://127.0.0.1:8443 --cert me.pem --key me.key \\
    --ca ca.pem --server-identity spiffe://cluster.local/ns/ostiary/sa/policy-server
  ostiary agent kill analyst-7 --cascade --dry-run --reason INC-42 --config ostiary.yaml

For an operator. Exit codes: 0 it is killed, 1 the server refused, or not all are found that it called, 2 it could not be asked";

/// What the server answers.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Answer {
    agent_id: String,
    state: String,
    changed: bool,
    state_version: String,
}

impl ChangeState {
    pub(super) fn run(&self, change: Change, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        let asked = ask(&server, self.agent.as_str(), change, &self.reason);
        let answer = match server::runtime()?.block_on(asked)? {
            Ok(answer) => answer,
            Err(refusal) => return refusal.print(printer),
        };
        printer.answer(printable(&answer.describe(change, printer)), &answer)?;
        Ok(Outcome::Clean)
    }
}

/// Asks for a change of one agent.
pub(super) async fn ask(
    server: &Server,
    agent: &str,
    change: Change,
    reason: &str,
) -> Result<Result<Answer, Refusal>, Error> {
    let path = format!("/v1/agents/{agent}/{change}");
    let body = json!({ "reason": reason });
    Ok(server.ask(Method::POST, &path, Some(&body)).await?.read()?)
}

impl Answer {
    /// What was done, in a line.
    pub(super) fn describe(&self, change: Change, printer: &Printer) -> String {
        let already = if self.changed { "" } else { " already" };
        format!(
            "{} {} is {}{already}; sidecars are told by state list {}",
            printer.good(format_args!("{}:", change.done())),
            self.agent_id,
            self.state,
            self.state_version
        )
    }
}
