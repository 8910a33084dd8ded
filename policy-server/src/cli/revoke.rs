//! `ostiary revoke`.

use authz::identity::Jti;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::keys::{Running, moment};
use super::output::{Printer, printable};
use super::{Error, Outcome, server};

/// Revokes one capability token, so that every sidecar refuses it from now on. All of an agent's: `ostiary agent suspend`.
///
/// A token that this server did not issue is listed for as long as any token may live.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(super) struct Revoke {
    /// The token's `jti`, as records and `ostiary issue` name it
    #[arg(long, value_name = "JTI", allow_hyphen_values = true)]
    jti: String,
    /// Why: it is recorded
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary revoke --jti mjmUuQNRRQQfQa0-GxHoKw --reason 'pasted into a ticket' --config ostiary.yaml

For an operator. Exit codes: 0 it is revoked, 1 the server refused, 2 it could not be asked";

/// What the server answers.
#[derive(Debug, Deserialize, Serialize)]
struct Answer {
    jti: Jti,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
    expires_at: u64,
}

impl Revoke {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        let body = json!({ "jti": self.jti, "reason": self.reason });
        let asked = server.ask(Method::POST, "/v1/revocations", Some(&body));
        let answer: Answer = match server::runtime()?.block_on(asked)?.read()? {
            Ok(answer) => answer,
            Err(refusal) => return refusal.print(printer),
        };
        let of = match &answer.agent_id {
            Some(agent) => format!("a token of {agent}, which"),
            None => "a token that this server did not issue; it".to_owned(),
        };
        let text = format!(
            "{} {of} would have expired at {} at the latest",
            printer.good("revoked:"),
            moment(answer.expires_at)
        );
        printer.answer(printable(&text), &answer)?;
        Ok(Outcome::Clean)
    }
}
