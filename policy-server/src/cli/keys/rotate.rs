//! `ostiary keys rotate`.

use std::fmt::Write;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Running, moment};
use crate::cli::issue::seconds;
use crate::cli::output::{Printer, note, printable};
use crate::cli::server::{self, Refusal, Server, ServerError};
use crate::cli::{Error, Outcome};
use crate::keys::KeyKind;

/// How often the server is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// Lets the next key sign, once every live sidecar knows it.
///
/// The server publishes the next key (a key file that has not been used, or a new one) and waits. A token key reaches
/// sidecars by itself; a bundle key must be put into their plugin configuration (`keys show` prints it). Once all report
/// it, it signs, and the old key stays published until nothing that it signed can be alive. Run it again after an
/// interruption: it goes on where it was, and does nothing while an earlier rotation's overlap lasts.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct Rotate {
    /// The key to rotate
    kind: KeyKind,
    /// How long to wait for the sidecars: seconds, or with a unit (90, 90s, 5m)
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "2m")]
    timeout: u64,
    /// Only say whether the next key would sign, and who lacks it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary keys rotate token --config ostiary.yaml
  ostiary keys rotate bundle --config ostiary.yaml --dry-run
  kubectl exec --namespace ostiary deploy/policy-server -- \\
    ostiary keys rotate bundle --config /etc/ostiary/ostiary.yaml --timeout 10m

Exit codes: 0 the key signs (or, asked only, would), 1 sidecars lack it or the server refused, 2 it could not be asked";

/// What the server answers.
#[derive(Debug, Deserialize, Serialize)]
struct Rotation {
    kind: KeyKind,
    stage: Stage,
    signing: String,
    next: Option<String>,
    retiring: Option<(String, u64)>,
    sources: Known,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    Waiting,
    Ready,
    Switched,
    Overlap,
}

/// Which sources know a key.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Known {
    pub(super) live: usize,
    pub(super) have: usize,
    pub(super) lacking: Vec<Lacking>,
    pub(super) wait_seconds: u64,
}

/// Sources of a workload that lack it.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Lacking {
    workload: String,
    reason: String,
    sources: usize,
}

impl Rotate {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        match server::runtime()?.block_on(self.until_switched(&server))? {
            Ok(rotation) => {
                printer.answer(printable(&rotation.words(printer)), &rotation)?;
                Ok(match rotation.stage {
                    Stage::Waiting => Outcome::Finding,
                    Stage::Ready | Stage::Switched | Stage::Overlap => Outcome::Clean,
                })
            }
            Err(refusal) => refusal.print(printer),
        }
    }

    /// Asks until the key signs or the time is up, and says how far it is whenever that changes.
    async fn until_switched(&self, server: &Server) -> Result<Result<Rotation, Refusal>, ServerError> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let body = json!({ "kind": self.kind, "dry_run": self.dry_run });
        let mut said = None;
        loop {
            let answer = server.ask(Method::POST, "/v1/keys/rotate", Some(&body)).await?;
            let rotation: Rotation = match answer.read()? {
                Ok(rotation) => rotation,
                Err(refusal) => return Ok(Err(refusal)),
            };
            if self.dry_run || rotation.stage != Stage::Waiting || Instant::now() >= deadline {
                return Ok(Ok(rotation));
            }
            let progress = rotation.progress();
            if said.as_ref() != Some(&progress) {
                note(&progress);
                said = Some(progress);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

impl Rotation {
    fn progress(&self) -> String {
        let Known {
            live,
            have,
            wait_seconds,
            ..
        } = self.sources;
        let next = self.next.as_deref().unwrap_or_default();
        if have == live && wait_seconds > 0 {
            return format!("{have} of {live} sidecar VMs have {next}; others may still live, so it waits for them");
        }
        format!("{have} of {live} sidecar VMs have {next}")
    }

    fn words(&self, printer: &Printer) -> String {
        let kind = self.kind;
        let mut text = match self.stage {
            Stage::Waiting => format!(
                "{} the {kind} key {} signs on",
                printer.bad("not switched:"),
                self.signing
            ),
            Stage::Ready => format!(
                "{} every live sidecar knows the next {kind} key",
                printer.good("ready:")
            ),
            Stage::Switched => format!("{} the {kind} key {} signs", printer.good("switched:"), self.signing),
            Stage::Overlap => format!(
                "{} the {kind} key {} signs already, and the one before it still retires",
                printer.good("nothing to do:"),
                self.signing
            ),
        };
        // Writing to a string cannot fail.
        if matches!(self.stage, Stage::Waiting | Stage::Ready) {
            let _ = match &self.next {
                Some(next) => write!(text, "\n  next: {next}"),
                None => write!(text, "\n  next: a new key, which no sidecar knows yet"),
            };
        }
        if let Some((kid, until)) = &self.retiring {
            let _ = write!(text, "\n  retiring: {kid}, until {}", moment(*until));
        }
        self.sources.describe(&mut text);
        text
    }
}

impl Known {
    /// Says who lacks the key, a line a workload.
    pub(super) fn describe(&self, text: &mut String) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {} of {} sidecar VMs have it", self.have, self.live);
        if self.wait_seconds > 0 {
            let _ = write!(text, "; in {} s all that live are known", self.wait_seconds);
        }
        describe(&self.lacking, text);
    }
}

/// Says which workloads lack a key and why.
pub(super) fn describe(lacking: &[Lacking], text: &mut String) {
    for Lacking {
        workload,
        reason,
        sources,
    } in lacking
    {
        let why = match reason.as_str() {
            "bundle_not_in_use" => "has not taken over the bundle that needs it",
            "key_not_configured" => "its plugin configuration lacks the key",
            "key_not_reported" => "its filter is too old to say that it trusts the key",
            "too_many_sources" => "has more sidecars than the server notes",
            other => other,
        };
        let _ = write!(text, "\n  {workload}: {why} ({sources})");
    }
}

/// What the server answers to a question for its keys, as far as it is shown.
#[derive(Debug, Deserialize)]
pub(super) struct Signing {
    pub(super) token: Known,
    pub(super) bundle: Known,
}

impl From<&Signing> for Value {
    fn from(signing: &Signing) -> Self {
        json!({ "token": signing.token, "bundle": signing.bundle })
    }
}
