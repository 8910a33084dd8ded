//! `ostiary issue`.

use std::io::{self, IsTerminal};

use reqwest::Method;
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::output::{Printer, note, printable};
use super::server::{self, Server};

/// Asks the policy server for a capability token and prints it.
///
/// The caller is known to the server by its client certificate (--cert, --key), by a key file (--key-file, what a
/// server on a laptop makes), or by the sidecar that the request goes through (none of these).
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["server", "unix"]).required(true))]
pub(super) struct Issue {
    #[command(flatten)]
    capability: Capability,
    #[command(flatten)]
    server: Server,
}

const EXAMPLES: &str = "Examples:
  ostiary issue --server https://127.0.0.1:8443 --cert me.pem --key me.key --ca ca.pem \\
    --server-identity spiffe://cluster.local/ns/ostiary/sa/policy-server \\
    --agent-id analyst-7 --operation-id report-2026-q1 \\
    --scope read:data.sales_q1_2026 --tools pandas,matplotlib --forbidden-tools bash,http --max-tokens 50000
  TOKEN=$(ostiary issue --unix ostiary.sock --key-file issuer.key --agent-id analyst-7 --operation-id try-1)

Exit codes: 0 the token was issued, 1 the server refused, 2 it could not be asked";

#[derive(Debug, clap::Args, Serialize)]
#[command(next_help_heading = "The capability")]
struct Capability {
    /// Who it is for
    #[arg(long, value_name = "AGENT")]
    agent_id: String,
    /// The declared operation that it is for
    #[arg(long, value_name = "ID")]
    operation_id: String,
    /// A right, `action:resource`; give it once for each, or separate them with commas
    #[arg(long, value_name = "SCOPE", value_delimiter = ',')]
    scope: Vec<String>,
    /// The tools that may be called
    #[arg(long, value_name = "TOOL", value_delimiter = ',')]
    tools: Vec<String>,
    /// The tools that may not be called, whatever else says so
    #[arg(long, value_name = "TOOL", value_delimiter = ',')]
    forbidden_tools: Vec<String>,
    /// How long it lives: seconds, or with a unit (90, 90s, 5m) [default: the server's]
    #[arg(long = "ttl", value_name = "TIME", value_parser = seconds)]
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<u64>,
    /// How many LLM tokens may be spent
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u64>,
    /// The user request that the work belongs to [default: the server chooses]
    #[arg(long, value_name = "TXN")]
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<String>,
    /// A service that the token may be shown to, by SPIFFE ID [default: all that the agent reaches]
    #[arg(long, value_name = "SPIFFE_ID", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    aud: Vec<String>,
}

/// What the server answers when it issues.
#[derive(Debug, Deserialize, Serialize)]
struct Issued {
    token: String,
    jti: String,
    txn: String,
    expires_at: u64,
    /// What the agent's score has taken from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    narrowed: Option<serde_json::Value>,
}

impl Issue {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        let runtime = server::runtime()?;
        let answer = runtime.block_on(self.server.ask(Method::POST, "/v1/tokens", Some(&self.capability)))?;
        let issued: Issued = match answer.read()? {
            Ok(issued) => issued,
            Err(problem) => return problem.print(printer),
        };
        printer.answer(printable(&issued.token), &issued)?;
        if io::stderr().is_terminal() {
            note(format_args!(
                "jti {}, txn {}, expires at {}",
                issued.jti, issued.txn, issued.expires_at
            ));
            if let Some(narrowed) = &issued.narrowed {
                note(format_args!("narrowed: {}", printable(&narrowed.to_string())));
            }
        }
        Ok(Outcome::Clean)
    }
}

/// Reads a time: seconds, or a number with a unit.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = text
        .find(|c: char| !c.is_ascii_digit())
        .map_or((text, "s"), |at| text.split_at(at));
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write seconds, or a number with s, m or h".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "write a number first, such as 300 or 5m".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("300"), Ok(300));
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("5m"), Ok(300));
        for text in ["", "m", "-1", "5d", "1.5m", "99999999999999999h"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
