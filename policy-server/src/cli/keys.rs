//! `ostiary keys`.

mod generate;
mod retire;
mod rotate;
mod show;

use std::path::PathBuf;

use super::Outcome;
use super::output::Printer;
use super::server::Server;
use crate::config::{Config, ConfigError};
use crate::keys::KeyError;
use crate::keys::folder::KeyFolder;
use crate::log::LogError;
use crate::operator;
use crate::secret::SecretError;
use crate::signer::SignerError;
use crate::store::StoreError;

/// The keys of a policy server.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Keys {
    /// Show the keys, and what to paste into the plugin configuration of the sidecars
    Show(show::Show),
    /// Make a key file, for a folder of keys or a Secret
    Generate(generate::Generate),
    /// Let the next key sign, once every live sidecar knows it
    Rotate(Box<rotate::Rotate>),
    /// End a key's time before what it signed has expired
    Retire(Box<retire::Retire>),
}

/// Why a command about keys could not be run.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("there is no {kind} key in `{}`: the server makes it at its first start", path.display())]
    NoKeys { kind: crate::keys::KeyKind, path: PathBuf },
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("no server listens on `{}`: is it running, and are you its user?", .0.display())]
    NotRunning(PathBuf),
}

impl Keys {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, super::Error> {
        match self {
            Self::Show(show) => show.run(printer),
            Self::Generate(generate) => generate.run(printer),
            Self::Rotate(rotate) => rotate.run(printer),
            Self::Retire(retire) => retire.run(printer),
        }
    }
}

/// The running server: the one whose configuration or data folder is at hand, by the socket that its own user can open;
/// else one that is asked like any other, for which the caller needs a role: `operator` for keys, `auditor` for the log,
/// `reviewer` or `operator` for agents.
#[derive(Debug, clap::Args)]
pub(super) struct Running {
    /// The server's configuration, on its own machine and as its own user
    #[arg(long, value_name = "FILE", help_heading = "The server")]
    config: Option<PathBuf>,
    /// The server's data folder, on its own machine and as its own user
    #[arg(long, value_name = "DIR", help_heading = "The server")]
    data: Option<PathBuf>,
    #[command(flatten)]
    server: Server,
}

/// The names of the arguments by which a server is found: what takes a file instead refuses them beside it.
pub(super) const SERVERS: [&str; 4] = ["config", "data", "server", "unix"];

impl Running {
    /// The server to ask; a socket that nobody listens on is told apart from other failures.
    pub(super) fn find(&self) -> Result<Found<'_>, KeysError> {
        let data = match (&self.config, &self.data) {
            (Some(config), _) => Config::load(config)?.data,
            (None, Some(data)) => data.clone(),
            (None, None) => return Ok(Found::Named(&self.server)),
        };
        let socket = operator::socket(&data);
        match std::os::unix::net::UnixStream::connect(&socket) {
            Ok(_) => Ok(Found::Own(Box::new(Server::at_socket(socket)))),
            Err(_) => Err(KeysError::NotRunning(socket)),
        }
    }
}

/// The server that is asked.
pub(super) enum Found<'a> {
    Named(&'a Server),
    Own(Box<Server>),
}

impl std::ops::Deref for Found<'_> {
    type Target = Server;

    fn deref(&self) -> &Server {
        match self {
            Self::Named(server) => server,
            Self::Own(server) => server,
        }
    }
}

/// A server's files.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct Files {
    /// The server's configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The server's data folder, where the keys are in `keys`
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl Files {
    /// The data folder and the folder of keys.
    pub(super) fn folders(&self) -> Result<(PathBuf, KeyFolder), KeysError> {
        if let Some(config) = &self.config {
            let config = Config::load(config)?;
            return Ok((config.data, config.keys));
        }
        let data = self.data.clone().unwrap_or_else(|| PathBuf::from("."));
        let path = data.join("keys");
        Ok((data, KeyFolder { path, own: true }))
    }
}

/// A time in seconds since 1970, as people read it, in UTC.
pub(super) fn moment(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The date of a day since 1970: eras of 400 years, in years that begin in March, so that the leap day comes last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::moment;

    #[test]
    fn moments_are_dates() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_800_000_000, "2027-01-15T08:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(moment(seconds), date);
        }
    }
}
