//! `ostiary agent approve|pause|resume|suspend|kill`.

use authz::identity::AgentId;
use authz::state::transition::Change;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cli::keys::Running;
use crate::cli::output::{Printer, printable};
use crate::cli::server;
use crate::cli::{Error, Outcome};

/// Changes an agent's state; who asked and why is recorded with it. Once this exits 0 every sidecar is being told.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct ChangeState {
    /// The agent, by the name in its file
    #[arg(value_name = "AGENT", value_parser = AgentId::parse)]
    agent: AgentId,
    /// Why: it is recorded, and shown to whoever looks at the agent later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    running: Running,
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

For an operator. Exit codes: 0 it is killed, 1 the server refused, 2 it could not be asked";

/// What the server answers.
#[derive(Debug, Deserialize, Serialize)]
struct Answer {
    agent_id: String,
    state: String,
    changed: bool,
    state_version: String,
}

impl ChangeState {
    pub(super) fn run(&self, change: Change, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        let path = format!("/v1/agents/{}/{change}", self.agent);
        let body = json!({ "reason": self.reason });
        let asked = server.ask(Method::POST, &path, Some(&body));
        let answer: Answer = match server::runtime()?.block_on(asked)?.read()? {
            Ok(answer) => answer,
            Err(refusal) => return refusal.print(printer),
        };
        let already = if answer.changed { "" } else { " already" };
        let text = format!(
            "{} {} is {}{already}; sidecars are told by state list {}",
            printer.good(format_args!("{}:", change.done())),
            answer.agent_id,
            answer.state,
            answer.state_version
        );
        printer.answer(printable(&text), &answer)?;
        Ok(Outcome::Clean)
    }
}
