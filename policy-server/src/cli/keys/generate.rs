//! `ostiary keys generate`.

use std::path::PathBuf;

use authz::jwks::Jwk;
use serde::Serialize;

use super::KeysError;
use crate::cli::Outcome;
use crate::cli::output::Printer;
use crate::secret;
use crate::signer::Signer;

/// Makes a private key in a folder, readable by nobody else, and prints its id and its public half. Needs no server.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Generate {
    /// What it will sign
    kind: Signs,
    /// The folder; it is made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// What keys are made for. Those of the log take no turns: all that there are sign (see [`crate::log::keys`]).
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Signs {
    /// Capability tokens
    Token,
    /// Bundles and state lists
    Bundle,
    /// Checkpoints of the log of records
    Log,
}

impl Signs {
    fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Bundle => "bundle",
            Self::Log => "log",
        }
    }
}

const EXAMPLES: &str = "Examples:
  ostiary keys generate token --out keys
  ostiary keys generate bundle --out keys
  ostiary keys generate log --out keys
  kubectl create secret generic keys --namespace ostiary --from-file keys";

#[derive(Debug, Serialize)]
struct Generated<'a> {
    kid: &'a str,
    kind: &'static str,
    file: &'a std::path::Path,
    public: &'a Jwk,
}

impl Generate {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, crate::cli::Error> {
        let signer = self.make()?;
        let generated = Generated {
            kid: signer.kid(),
            kind: self.kind.as_str(),
            file: signer.path(),
            public: signer.public(),
        };
        let public = serde_json::to_string(&generated.public).map_err(std::io::Error::from)?;
        let text = format!(
            "{}\n  {}\n  {public}",
            printer.strong(signer.kid()),
            signer.path().display()
        );
        printer.answer(text, &generated)?;
        Ok(Outcome::Clean)
    }

    fn make(&self) -> Result<Signer, KeysError> {
        secret::make_private_folder(&self.out)?;
        Ok(Signer::make(&self.out, self.kind.as_str())?)
    }
}
