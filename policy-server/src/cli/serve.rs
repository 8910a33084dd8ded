//! `ostiary serve`.

use std::path::PathBuf;

use super::Outcome;
use crate::config::{Config, ConfigError};
use crate::logging::{self, LogFormat};
use crate::serve;

/// Runs the policy server until SIGTERM or SIGINT.
///
/// The first start makes the signing keys and says where they are. Logs go to the standard error; RUST_LOG chooses
/// what is logged.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Serve {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How log lines look
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
}

const EXAMPLES: &str = "Examples:
  ostiary serve --config ostiary.yaml
  RUST_LOG=debug ostiary serve --config ostiary.yaml --log-format json";

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
}

impl Serve {
    pub(super) fn run(&self) -> Result<Outcome, ServeError> {
        let config = Config::load(&self.config)?;
        logging::init(self.log_format);
        serve::run(config)?;
        Ok(Outcome::Clean)
    }
}
