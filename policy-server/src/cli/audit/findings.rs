//! `ostiary audit findings`.

use std::fmt::Write as _;

use authz::witness::Mismatch;
use reqwest::Method;

use crate::cli::keys::{Running, moment};
use crate::cli::output::{Printer, printable};
use crate::cli::{Error, Outcome, server};
use crate::findings::headline;
use crate::routes::findings::{Finding, Told};

/// A thousand findings of the longest kind.
const MAX_FINDINGS_BYTES: usize = 16 << 20;

/// Lists the calls that their two sides do not agree about: seen by the service's sidecar alone (the caller went around its
/// own), by the caller's alone (the service answered around its own), or by both differently; the services that define tools
/// otherwise than their files pin them; and the sidecars that live and send neither records nor heartbeats.
///
/// A line each for a caller, a service's workload and a kind, however often. Only calls between workloads whose sidecars
/// live are judged, when the window of `audit.reconcileSeconds` has closed.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct Findings {
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary audit findings --config ostiary.yaml
  ostiary --output json audit findings --config ostiary.yaml | jq -r '.findings[] | select(.kind == \"service_only\") | .caller'

Exit codes: 0 there are none, 1 there are, or the server refused, 2 it could not be asked";

impl Findings {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        let answer = server::runtime()?.block_on(async {
            let session = server.session()?;
            session
                .ask(Method::GET, "/v1/findings", None::<&()>, MAX_FINDINGS_BYTES)
                .await
        })?;
        let told: Told = match answer.read()? {
            Ok(told) => told,
            Err(refusal) => return refusal.print(printer),
        };
        printer.answer(told.describe(printer), &told)?;
        let is_silent = told.sources.iter().any(|source| source.silent);
        Ok(if told.findings.is_empty() && !is_silent {
            Outcome::Clean
        } else {
            Outcome::Finding
        })
    }
}

impl Told {
    // Writing to a string cannot fail.
    fn describe(&self, printer: &Printer) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            finding.describe(printer, &mut text);
        }
        for source in self.sources.iter().filter(|source| source.silent) {
            let _ = writeln!(
                text,
                "{} of {} since {}: its sidecar lives, and should tell something every {} s",
                printer.bad("silence"),
                printable(&source.workload),
                moment(source.told_ms / 1000),
                source.heartbeat_seconds,
            );
        }
        if self.more {
            text.push_str("there are more; these are the last\n");
        }
        let _ = match self.findings.len() {
            0 => write!(text, "{}", printer.good("no findings")),
            many => write!(text, "{}", printer.bad(crate::cli::check::count(many, "finding"))),
        };
        let _ = write!(
            text,
            "; judged are the calls of the first {} of {} records, {} s after they came",
            self.judged, self.records, self.window_seconds
        );
        let _ = write!(text, "\n{} sources send heartbeats", self.sources.len());
        text
    }
}

impl Finding {
    fn describe(&self, printer: &Printer, text: &mut String) {
        let of = |value: &Option<String>| value.as_deref().map_or_else(|| "-".to_owned(), printable);
        let times = if self.count == 1 {
            "once".to_owned()
        } else {
            format!("{} times, last at {}", self.count, moment(self.last_ms / 1000))
        };
        let _ = writeln!(
            text,
            "{} from {} to {} since {}, {times}: {} ({})\n  \
             such as record {}, call {}, service {}, agent {}, user request {}",
            printer.bad(Mismatch::parse(&self.kind).map_or("a finding", headline)),
            printable(&self.caller),
            printable(&self.callee),
            moment(self.since_ms / 1000),
            printable(&self.why),
            printable(&self.kind),
            self.index,
            of(&self.call),
            of(&self.service),
            of(&self.agent_id),
            of(&self.txn),
        );
    }
}
