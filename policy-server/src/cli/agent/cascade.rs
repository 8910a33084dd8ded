//! `ostiary agent suspend|kill --cascade`: an agent, and whom it called.

use authz::state::transition::Change;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::change::{self, ChangeState};
use crate::cli::output::{self, Printer, printable};
use crate::cli::server::{self, Refusal, Server};
use crate::cli::{Error, Outcome};

/// The longest reason that the server takes, in bytes.
const MAX_REASON_BYTES: usize = crate::agents::MAX_REASON_BYTES;

/// Stops an agent; who asked and why is recorded with it. Once this exits 0 every sidecar is being told.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Stop {
    #[command(flatten)]
    asked: ChangeState,
    /// Stop those too whom it called, and they in turn, for the user requests that it works on
    #[arg(long)]
    cascade: bool,
    /// Only list them
    #[arg(long, requires = "cascade")]
    dry_run: bool,
}

/// What the server answers.
#[derive(Debug, Deserialize, Serialize)]
struct Called {
    called: Vec<Callee>,
    complete: bool,
}

#[derive(Debug, Deserialize, Serialize)]
struct Callee {
    agent_id: String,
    by: String,
    txn: String,
}

impl Stop {
    pub(super) fn run(&self, change: Change, printer: &mut Printer) -> Result<Outcome, Error> {
        if !self.cascade {
            return self.asked.run(change, printer);
        }
        let server = self.asked.running.find()?;
        server::runtime()?.block_on(self.cascade(&server, change, printer))
    }

    /// The agent itself first: who is stopped calls nobody any more while the others are looked for.
    async fn cascade(&self, server: &Server, change: Change, printer: &mut Printer) -> Result<Outcome, Error> {
        let mut done = Vec::new();
        let mut outcome = Outcome::Clean;
        if !self.dry_run {
            match change::ask(server, self.asked.agent.as_str(), change, &self.asked.reason).await? {
                Ok(answer) => done.push(answer),
                Err(refusal) => return refusal.print(printer),
            }
        }
        let found = match self.called(server).await? {
            Ok(found) => found,
            Err(refusal) => {
                if !done.is_empty() {
                    output::note(format_args!("{} was stopped, and nobody with it:", self.asked.agent));
                }
                return refusal.print(printer);
            }
        };
        for Callee { agent_id, by, txn } in &found.called {
            output::note(format_args!("{agent_id}, called by {by} for {txn}"));
        }
        if !found.complete {
            output::note("there are more user requests than were looked at: look for others");
            outcome = Outcome::Finding;
        }
        for callee in found.called.iter().filter(|_| !self.dry_run) {
            match change::ask(server, &callee.agent_id, change, &self.reason_for(callee)).await? {
                Ok(answer) => done.push(answer),
                Err(refusal) => {
                    output::note(format_args!("{}: {}", callee.agent_id, refusal.words(printer)));
                    outcome = Outcome::Finding;
                }
            }
        }
        let lines: Vec<String> = done.iter().map(|answer| answer.describe(change, printer)).collect();
        let text = if self.dry_run {
            "nobody was stopped".to_owned()
        } else {
            lines.join("\n")
        };
        let answer = json!({ "changed": done, "called": found.called, "complete": found.complete });
        printer.answer(printable(&text), &answer)?;
        Ok(outcome)
    }

    async fn called(&self, server: &Server) -> Result<Result<Called, Refusal>, Error> {
        let path = format!("/v1/agents/{}/called", self.asked.agent);
        Ok(server.ask(Method::GET, &path, None::<&()>).await?.read()?)
    }

    /// Why somebody is stopped with the agent, as it is recorded: in whole characters, as many as there is room for.
    fn reason_for(&self, callee: &Callee) -> String {
        let with = format!(
            "with {}, called by {} for {}: ",
            self.asked.agent, callee.by, callee.txn
        );
        let mut reason = with + &self.asked.reason;
        while reason.len() > MAX_REASON_BYTES {
            reason.pop();
        }
        reason
    }
}
