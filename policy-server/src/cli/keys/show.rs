//! `ostiary keys show`.

use std::fmt::Write;
use std::path::Path;

use authz::jwks::Jwks;
use authz::policy::Version;
use reqwest::Method;
use serde_json::{Value, json};

use super::rotate::{Known, Signing};
use super::{Files, KeysError, moment};
use crate::app::DATABASE;
use crate::cli::Outcome;
use crate::cli::output::Printer;
use crate::cli::server::{self, Server, ServerError};
use crate::keys::folder::{KeyFiles, KeyFolder};
use crate::keys::ring::{self, Settled};
use crate::keys::{KeyKind, KeyState};
use crate::log::{self, keys::LogKey};
use crate::operator;
use crate::signer::Signer;
use crate::store::StoredKey;
use crate::store::sqlite::SqliteStore;

/// Shows the public halves of the keys, what each is for, and since when. Private keys are never printed.
///
/// The bundle keys are the root of trust of every sidecar: take them from the server's own disk, as here, and not
/// over the network. If the server runs, and for its own user, it also says which live sidecars lack a key that signs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Show {
    #[command(flatten)]
    files: Files,
}

const EXAMPLES: &str = "Examples:
  ostiary keys show --config ostiary.yaml
  ostiary --output json keys show --data /var/lib/ostiary | jq .bundle_keys";

/// What is shown.
struct Shown {
    stored: Vec<StoredKey>,
    spare: Vec<(KeyKind, String)>,
    token_keys: Jwks,
    bundle_keys: Jwks,
    log_keys: Vec<String>,
    signing: Option<Signing>,
}

impl Show {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, crate::cli::Error> {
        let runtime = server::runtime()?;
        let (data, folder) = self.files.folders()?;
        let shown = runtime.block_on(Shown::read(&data, &folder))?;
        printer.answer(shown.words(printer), &shown.value())?;
        Ok(Outcome::Clean)
    }
}

impl Shown {
    /// Showing makes nothing: keys that appear in a mistyped folder would be pasted into every sidecar.
    async fn read(data: &Path, folder: &KeyFolder) -> Result<Self, KeysError> {
        let files = folder.read()?;
        let mut stored = SqliteStore::peek_keys(&data.join(DATABASE)).await?;
        for kind in KeyKind::ALL {
            match ring::settle(kind, &files, &stored, folder) {
                Ok(Settled::Signs(_)) => {}
                // As it will be once the server has started.
                Ok(Settled::Takes(signer)) => stored.push(signs(kind, &signer)),
                Ok(Settled::Nothing) => {
                    let path = folder.path.clone();
                    return Err(KeysError::NoKeys { kind, path });
                }
                Err(error) => return Err(error.into()),
            }
        }
        // A server that is not there, or of another user, says nothing.
        let signing = ask(data).await.ok();
        Ok(Self {
            spare: spare(&files, &stored),
            token_keys: ring::published(&stored, KeyKind::Token)?,
            bundle_keys: ring::published(&stored, KeyKind::Bundle)?,
            log_keys: log_keys(data, folder).await?,
            stored,
            signing,
        })
    }

    fn value(&self) -> Value {
        let stored = self.stored.iter().map(|key| {
            json!({
                "kid": key.kid(), "kind": key.kind, "state": key.state, "since": key.since, "until": key.until,
            })
        });
        let spare = self.spare.iter();
        let spare = spare.map(|(kind, kid)| json!({ "kid": kid, "kind": kind, "state": "spare" }));
        json!({
            "token_keys": self.token_keys,
            "bundle_keys": self.bundle_keys,
            "log_keys": self.log_keys,
            "keys": stored.chain(spare).collect::<Vec<_>>(),
            "sources": self.signing.as_ref().map(Value::from),
        })
    }

    fn words(&self, printer: &Printer) -> String {
        let mut text = String::new();
        for (kind, title, set) in [
            (
                KeyKind::Token,
                "Token keys, which sign capability tokens (sidecars learn them from their policy bundle)",
                &self.token_keys,
            ),
            (
                KeyKind::Bundle,
                "Bundle keys, which sign policy; paste this into the plugin configuration as \"bundle_keys\"",
                &self.bundle_keys,
            ),
        ] {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}\n  {}", printer.strong(title), json!(set));
            self.describe_keys(kind, &mut text);
            if let Some(signing) = &self.signing {
                let known = match kind {
                    KeyKind::Token => &signing.token,
                    KeyKind::Bundle => &signing.bundle,
                };
                describe_known(known, &mut text);
            }
        }
        if !self.log_keys.is_empty() {
            let title = "Log keys, which sign the log of records; give them to who checks it (audit verify --key)";
            let _ = writeln!(text, "{}", printer.strong(title));
        }
        for key in &self.log_keys {
            let _ = writeln!(text, "  {key}");
        }
        text.truncate(text.trim_end().len());
        text
    }

    fn describe_keys(&self, kind: KeyKind, text: &mut String) {
        let _ = writeln!(text, "  thumbprints (RFC 7638):");
        for key in self.stored.iter().filter(|key| key.kind == kind) {
            let _ = write!(text, "  {}  {:<8}", key.kid(), key.state.as_str());
            if key.since > 0 {
                let _ = write!(text, "  since {}", moment(key.since));
            }
            if let Some(until) = key.until {
                let _ = write!(text, ", until {}", moment(until));
            }
            text.push('\n');
        }
        for (_, kid) in self.spare.iter().filter(|(other, _)| *other == kind) {
            let _ = writeln!(text, "  {kid}  spare");
        }
    }
}

fn describe_known(known: &Known, text: &mut String) {
    let mut lines = String::new();
    known.describe(&mut lines);
    text.push_str(lines.trim_start_matches('\n'));
    text.push('\n');
}

fn signs(kind: KeyKind, signer: &Signer) -> StoredKey {
    StoredKey {
        kind,
        state: KeyState::Signing,
        public: signer.public().clone(),
        since: 0,
        until: None,
        from: Version { epoch: 0, counter: 0 },
    }
}

fn spare(files: &KeyFiles, stored: &[StoredKey]) -> Vec<(KeyKind, String)> {
    let all = files
        .iter()
        .flat_map(|(kind, keys)| keys.keys().map(move |kid| (*kind, kid)));
    let spare = all.filter(|(_, kid)| !stored.iter().any(|key| key.kid() == *kid));
    spare.map(|(kind, kid)| (kind, kid.to_string())).collect()
}

/// The keys of a log that has been signed: before that nothing says its name.
async fn log_keys(data: &Path, folder: &KeyFolder) -> Result<Vec<String>, KeysError> {
    let Some(origin) = SqliteStore::peek_origin(&data.join(DATABASE)).await? else {
        return Ok(Vec::new());
    };
    let keys = log::keys::read(folder, data)?.into_iter();
    let keys = keys.map(|signer| Ok(LogKey::new(signer, &origin)?.public().to_string()));
    keys.collect()
}

async fn ask(data: &Path) -> Result<Signing, ServerError> {
    let server = Server::at_socket(operator::socket(data));
    let answer = server.ask(Method::GET, "/v1/keys", None::<&Value>).await?;
    answer.read()?.map_err(|_| ServerError::NoServer)
}
