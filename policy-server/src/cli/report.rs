//! `ostiary report`: what a log tells a person who has to decide something.

mod grant;
mod group;
mod shadow;

use super::output::Printer;
use super::{Error, Outcome};

/// What the log tells.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Report {
    /// List what enforcing would have denied at services in shadow, and the smallest grants that would allow it
    Shadow(Box<shadow::Shadow>),
}

impl Report {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        match self {
            Self::Shadow(shadow) => shadow.run(printer),
        }
    }
}
