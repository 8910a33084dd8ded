//! `ostiary revoke`.

use authz::identity::Jti;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::keys::{Running, moment};
use super::output::{Printer, printable};
use super::{Error, Outcome, server};

/// Revokes one capability token, or all of one operation or one user request, so that every sidecar refuses them from now on.
/// All of an agent's: `ostiary agent suspend`.
///
/// A token that this server did not issue is listed for as long as any token may live. No token is issued again for a user
/// request that was ended, and none for an operation for as long as any token may live.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES,
    group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true),
    group = clap::ArgGroup::new("what").required(true))]
pub(super) struct Revoke {
    /// The token's `jti`, as records and `ostiary issue` name it
    #[arg(long, value_name = "JTI", allow_hyphen_values = true, group = "what")]
    jti: Option<String>,
    /// The operation whose tokens are revoked, as they name it in `operation_id`
    #[arg(long, value_name = "ID", allow_hyphen_values = true, group = "what")]
    operation: Option<String>,
    /// The user request whose tokens are revoked, as they name it in `txn`
    #[arg(long, value_name = "TXN", allow_hyphen_values = true, group = "what")]
    txn: Option<String>,
    /// Why: it is recorded
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary revoke --jti mjmUuQNRRQQfQa0-GxHoKw --reason 'pasted into a ticket' --config ostiary.yaml
  ostiary revoke --txn 3q2-7wAAAAAAAAAAAAAAAA --reason 'the user asked to stop' --config ostiary.yaml
  ostiary revoke --operation report-2026-q1 --reason 'wrong quarter, INC-42' --config ostiary.yaml

For an operator. Exit codes: 0 they are revoked, 1 the server refused, 2 it could not be asked";

/// What the server answers, of a token or of work.
#[derive(Debug, Deserialize, Serialize)]
struct Answer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<Jti>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    txn: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    agent_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused_until: Option<u64>,
}

impl Revoke {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        let (field, name) = match (&self.jti, &self.operation, &self.txn) {
            (Some(jti), _, _) => ("jti", jti),
            (_, Some(operation), _) => ("operation_id", operation),
            // One of the three is there: the command line says so.
            (_, _, txn) => ("txn", txn.as_ref().unwrap_or(&self.reason)),
        };
        let body = json!({ field: name, "reason": self.reason });
        let asked = server.ask(Method::POST, "/v1/revocations", Some(&body));
        let answer: Answer = match server::runtime()?.block_on(asked)?.read()? {
            Ok(answer) => answer,
            Err(refusal) => return refusal.print(printer),
        };
        let text = format!("{} {}", printer.good("revoked:"), answer.words());
        printer.answer(printable(&text), &answer)?;
        Ok(Outcome::Clean)
    }
}

impl Answer {
    fn words(&self) -> String {
        let at_the_latest = |at: u64| format!("would have expired at {} at the latest", moment(at));
        if let (Some(_), Some(at)) = (&self.jti, self.expires_at) {
            return match &self.agent_id {
                Some(agent) => format!("a token of {agent}, which {}", at_the_latest(at)),
                None => format!("a token that this server did not issue; it {}", at_the_latest(at)),
            };
        }
        let tokens = match (self.tokens, self.expires_at) {
            (Some(1), Some(at)) => format!("one token, which {}", at_the_latest(at)),
            (Some(tokens), Some(at)) => format!("{tokens} tokens, the last of which {}", at_the_latest(at)),
            _ => "no token was alive".to_owned(),
        };
        let work = match (&self.operation_id, &self.txn) {
            (Some(operation), _) => format!("operation {operation}"),
            (_, txn) => format!("user request {}", txn.as_deref().unwrap_or("?")),
        };
        match self.refused_until {
            Some(until) => format!("{tokens}; none is issued for {work} before {}", moment(until)),
            None => format!("{tokens}; none is issued for {work} again"),
        }
    }
}
