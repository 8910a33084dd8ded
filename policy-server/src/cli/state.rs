//! `ostiary state`.

use std::path::PathBuf;

use serde::Serialize;

use super::keys::{Files, KeysError};
use super::output::Printer;
use super::{Outcome, server};
use crate::app::{self, DATABASE, StartError};
use crate::clock::Clock;
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};

/// What sidecars are told of agents' states.
#[derive(Debug, clap::Subcommand)]
pub(super) enum State {
    /// Go on with a database that was restored from an older copy
    NewEpoch(NewEpoch),
}

/// Starts a new epoch, so that sidecars believe a server whose database was restored from an older copy.
///
/// They refuse every bundle and state list whose version is lower than one that they have seen, and an older database hands
/// such versions out again. The server must not run. What the copy does not know is lost: agents that were killed since are
/// active in it, and tokens that were revoked since are not; decide again before the server starts, or at once after.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct NewEpoch {
    #[command(flatten)]
    files: Files,
}

const EXAMPLES: &str = "Examples:
  ostiary state new-epoch --config ostiary.yaml

On the server's own machine and as its own user. Exit codes: 0 it is done, 2 it could not be";

/// Why there is no new epoch.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error(transparent)]
    Files(#[from] KeysError),
    #[error("there is no database `{}`", .0.display())]
    NoDatabase(PathBuf),
    #[error(transparent)]
    Lock(#[from] StartError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Serialize)]
struct Answer {
    epoch: u64,
}

impl State {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        let Self::NewEpoch(asked) = self;
        asked.run(printer)
    }
}

impl NewEpoch {
    fn run(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        let (data, _) = self.files.folders().map_err(StateError::from)?;
        let epoch = server::runtime()?.block_on(raise(data))?;
        let text = format!(
            "{} epoch {epoch}; sidecars take what the server signs from now on for newer than anything before",
            printer.good("done:")
        );
        printer.answer(text, &Answer { epoch })?;
        Ok(Outcome::Clean)
    }
}

async fn raise(data: PathBuf) -> Result<u64, StateError> {
    let database = data.join(DATABASE);
    if !database.exists() {
        return Err(StateError::NoDatabase(database));
    }
    // A server that runs has versions of the old epoch reserved.
    let _lock = app::lock(&data)?;
    let store = SqliteStore::open(&database).await?;
    // The time, and not one more than the last: the same copy may have been restored before.
    let epoch = store.new_epoch(Clock::system().seconds()).await?;
    store.close().await?;
    Ok(epoch)
}
