//! `ostiary keys`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use authz::jwks::Jwk;
use serde_json::{Value, json};

use super::Outcome;
use super::output::Printer;
use crate::config::{Config, ConfigError};
use crate::signer::{SignerError, Signers};

/// The keys of a policy server.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Keys {
    /// Show the public keys, and what to paste into the plugin configuration of the sidecars
    Show(Show),
}

/// Shows the public halves of the token key and the bundle key. Private keys are never printed.
///
/// The bundle keys are the root of trust of every sidecar: take them from the server's own disk, as here, and not
/// over the network.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Show {
    #[command(flatten)]
    source: Source,
}

const EXAMPLES: &str = "Examples:
  ostiary keys show --config ostiary.yaml
  ostiary --output json keys show --data /var/lib/ostiary | jq .bundle_keys";

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The server's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The server's data folder
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Why no keys can be shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("there is no key at `{}`: the server makes it at its first start", path.display())]
    NoKeys { path: PathBuf },
    #[error(transparent)]
    Signer(#[from] SignerError),
}

impl Keys {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        let Self::Show(show) = self;
        let signers = open(&show.source.folder()?)?;
        let (token, bundle) = (signers.token.public(), signers.bundle.public());
        let answer = json!({ "token_keys": key_set(token), "bundle_keys": key_set(bundle) });
        let text = render(&answer, printer);
        printer.answer(text, &answer)?;
        Ok(Outcome::Clean)
    }
}

impl Source {
    fn folder(&self) -> Result<PathBuf, KeysError> {
        match (&self.config, &self.data) {
            (Some(config), _) => Ok(Config::load(config)?.data),
            (None, Some(data)) => Ok(data.clone()),
            (None, None) => Ok(PathBuf::from(".")),
        }
    }
}

/// Showing must not make: keys that appear in a mistyped folder would be pasted into every sidecar.
fn open(data: &Path) -> Result<Signers, KeysError> {
    for name in ["token.json", "bundle.json"] {
        let path = data.join("keys").join(name);
        if !path.is_file() {
            return Err(KeysError::NoKeys { path });
        }
    }
    Ok(Signers::open(data)?)
}

fn key_set(key: &Jwk) -> Value {
    json!({ "keys": [key] })
}

fn render(answer: &Value, printer: &Printer) -> String {
    let mut text = String::new();
    for (title, member) in [
        (
            "Token key, which signs capability tokens (sidecars learn it from their policy bundle)",
            "token_keys",
        ),
        (
            "Bundle key, which signs policy; paste this into the plugin configuration as \"bundle_keys\"",
            "bundle_keys",
        ),
    ] {
        let set = answer.get(member).unwrap_or(&Value::Null);
        let thumbprint = set.pointer("/keys/0/kid").and_then(Value::as_str).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{}\n  thumbprint (RFC 7638): {thumbprint}\n  {set}\n",
            printer.strong(title)
        );
    }
    text.truncate(text.trim_end().len());
    text
}
