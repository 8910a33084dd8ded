//! `ostiary keys retire`.

use std::fmt::Write;

use authz::identity::KeyId;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Running;
use super::rotate::{Lacking, describe};
use crate::cli::output::{Printer, printable};
use crate::cli::server;
use crate::cli::{Error, Outcome};
use crate::keys::{KeyKind, KeyState};

/// Ends a key's time before what it signed has expired: the overlap of a rotation, or, with --now, whatever it breaks.
///
/// For a key that somebody else may hold. If it signs, the next key takes its place at once, known to the sidecars or
/// not; tokens that it signed are dead as soon as sidecars have the new bundle. A bundle key is believed for as long as
/// it stands in plugin configurations: take it out of them first.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct Retire {
    /// The key's id, as `keys show` prints it
    #[arg(value_parser = KeyId::parse, allow_hyphen_values = true)]
    kid: KeyId,
    /// Do it whatever breaks
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary keys retire kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k --config ostiary.yaml
  ostiary keys retire kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k --now --config ostiary.yaml

Exit codes: 0 it is retired, 1 something would break, or the server refused, 2 it could not be asked";

/// What the server answers.
#[derive(Debug, Deserialize, Serialize)]
struct Retirement {
    kid: String,
    kind: KeyKind,
    was: KeyState,
    retired: bool,
    signing: String,
    tokens: u64,
    lacking: Vec<Lacking>,
}

impl Retire {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let server = self.running.find()?;
        let body = json!({ "kid": self.kid, "now": self.now });
        let asked = server.ask(Method::POST, "/v1/keys/retire", Some(&body));
        let retirement: Retirement = match server::runtime()?.block_on(asked)?.read()? {
            Ok(retirement) => retirement,
            Err(refusal) => return refusal.print(printer),
        };
        printer.answer(printable(&retirement.words(printer)), &retirement)?;
        Ok(if retirement.retired {
            Outcome::Clean
        } else {
            Outcome::Finding
        })
    }
}

impl Retirement {
    fn words(&self, printer: &Printer) -> String {
        let Self { kid, kind, .. } = self;
        let mut text = if self.retired {
            format!("{} the {kind} key {kid}", printer.good("retired:"))
        } else {
            format!(
                "{} the {kind} key {kid}; --now does it all the same",
                printer.bad("not retired:")
            )
        };
        // Writing to a string cannot fail.
        match (self.was, self.retired) {
            (KeyState::Signing, true) => {
                let _ = write!(text, "\n  {} signs in its place", self.signing);
            }
            (KeyState::Signing, false) => text.push_str("\n  it signs: rotate it first, and nothing breaks"),
            _ => {}
        }
        let (breaks, break_) = if self.retired {
            ("are dead", "deny")
        } else {
            ("would die", "would deny")
        };
        if self.tokens > 0 {
            let _ = write!(
                text,
                "\n  at most {} tokens that have not expired {breaks}",
                self.tokens
            );
        }
        if !self.lacking.is_empty() {
            let _ = write!(text, "\n  sidecars that {break_} until they know the key that signs:");
            describe(&self.lacking, &mut text);
        }
        if *kind == KeyKind::Bundle && self.was != KeyState::Next {
            text.push_str("\n  sidecars believe it for as long as it is in their plugin configuration: take it out");
        }
        text
    }
}
