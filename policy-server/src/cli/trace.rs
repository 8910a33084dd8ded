//! `ostiary trace`.

mod tree;

use authz::trace::Trace;
use reqwest::Method;
use serde_json::Value;

use super::keys::Running;
use super::output::{Printer, printable};
use super::{Error, Outcome, server};

/// The largest tree: as many calls as the server puts in one.
const MAX_TRACE_BYTES: usize = 32 << 20;

/// Shows all that happened for one user request as a tree: its agents, what each called, and what was called while that
/// was served, with denials, digests and W3C trace ids, as both sidecars of each call recorded it.
///
/// Believes the server; what a call's records prove is shown by `audit prove`. Calls are put under each other by the
/// workload that was serving one when it made the other: nobody but the agent itself knows why it calls.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(super) struct ShowTrace {
    /// The user request: the field `txn` of a record, or of the answer to who asked for a token
    txn: String,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary trace t-1 --config ostiary.yaml
  ostiary --output json trace t-1 --config ostiary.yaml | jq '.agents[].calls[] | select(.seen_by != \"both\")'

For an auditor, and counted like every reading of the log.
Exit codes: 0 here it is, 1 there is none or the server refused, 2 it could not be asked";

impl ShowTrace {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        let path = format!("/v1/traces/{}", segment(&self.txn));
        let answer = server::runtime()?.block_on(async {
            let session = server.session()?;
            session.ask(Method::GET, &path, None::<&()>, MAX_TRACE_BYTES).await
        })?;
        let told: Value = match answer.read()? {
            Ok(told) => told,
            Err(refusal) => return refusal.print(printer),
        };
        let trace: Trace = serde_json::from_value(on_one_line(&told)).map_err(|_| answer.foreign())?;
        printer.answer(tree::draw(&trace, printer).trim_end(), &told)?;
        Ok(Outcome::Clean)
    }
}

/// The same with nothing in its texts that moves the cursor, recolours the terminal or looks like another line: they came
/// from callers.
fn on_one_line(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(printable(text).replace(['\n', '\t'], "\u{fffd}")),
        Value::Array(values) => values.iter().map(on_one_line).collect(),
        Value::Object(members) => {
            let members = members.iter();
            Value::Object(
                members
                    .map(|(name, value)| (name.clone(), on_one_line(value)))
                    .collect(),
            )
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// A text as one segment of a path.
fn segment(text: &str) -> String {
    let mut segment = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{on_one_line, segment};

    #[test]
    fn what_callers_wrote_moves_no_cursor() {
        let told = json!({"path": ["/a\u{1b}[2J\n└─ b", 1, null]});
        assert_eq!(
            on_one_line(&told),
            json!({"path": ["/a\u{fffd}[2J\u{fffd}└─ b", 1, null]})
        );
    }

    #[test]
    fn a_user_request_is_one_segment() {
        assert_eq!(segment("t-1"), "t-1");
        assert_eq!(segment("a/../b?c.d"), "a%2F%2E%2E%2Fb%3Fc%2Ed");
    }
}
