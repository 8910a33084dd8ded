//! `ostiary audit prove`.

use std::path::PathBuf;

use authz::log::checkpoint::SignedCheckpoint;
use authz::log::note::NoteKey;
use authz::log::proof;
use authz::log::receipt;
use serde_json::json;

use super::remote::Remote;
use super::verify::read_checkpoint;
use super::{AuditError, keys};
use crate::cli::keys::{Running, moment};
use crate::cli::output::Printer;
use crate::cli::{Error, Outcome, server};

/// Gets from a server the proof that the records of a call are in its log (a receipt), or that its log has only been added
/// to since an older checkpoint, and checks it before anything is believed or written.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("what").args(["call", "since"]).required(true), group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct Prove {
    /// The call's id
    #[arg(allow_hyphen_values = true)]
    call: Option<String>,
    /// An older checkpoint that the log must continue
    #[arg(long, value_name = "FILE")]
    since: Option<PathBuf>,
    /// The log's public key, as `keys show` prints it, or a file with one a line
    #[arg(long, value_name = "KEY", required = true)]
    log_key: Vec<String>,
    /// Where to keep the receipt, or the newest checkpoint
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary audit prove 3q2-7wAAAAAAAAAAAAAAAA --log-key log.vkey --config ostiary.yaml --out receipt.jsonl
  ostiary audit prove --since yesterday.checkpoint --log-key log.vkey --config ostiary.yaml --out today.checkpoint

Exit codes: 0 it is proven, 1 it is not, or the server refused, 2 it could not be asked";

impl Prove {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let keys = keys(&self.log_key)?;
        let found = self.running.find()?;
        let remote = Remote::of(&found)?;
        let runtime = server::runtime()?;
        match (&self.call, &self.since) {
            (Some(call), _) => {
                let receipt = runtime.block_on(remote.receipt(call))?;
                self.included(&receipt, &keys, printer)
            }
            (None, Some(since)) => {
                let older = read_checkpoint(since, &keys)?;
                runtime.block_on(self.continued(&remote, &older, &keys, printer))
            }
            // The arguments' group asks for one of them.
            (None, None) => Ok(Outcome::Incomplete),
        }
    }

    fn included(&self, bytes: &[u8], keys: &[NoteKey], printer: &mut Printer) -> Result<Outcome, Error> {
        match receipt::verify(bytes, keys) {
            Ok(receipt) => {
                self.keep(bytes)?;
                let (records, size) = (receipt.records.len(), receipt.signed.checkpoint.size);
                let at = receipt.signed.seconds;
                let text = format!(
                    "{} {records} records of the call are in the log, which had {size} at {}",
                    printer.good("proven:"),
                    moment(at)
                );
                printer.answer(
                    text,
                    &json!({ "verdict": "included", "records": records, "size": size, "signed_at": at }),
                )?;
                Ok(Outcome::Clean)
            }
            Err(finding) => refuse(&finding.to_string(), printer),
        }
    }

    async fn continued(
        &self,
        remote: &Remote,
        older: &SignedCheckpoint,
        keys: &[NoteKey],
        printer: &mut Printer,
    ) -> Result<Outcome, Error> {
        let note = remote.checkpoint().await?.note;
        let newer = match SignedCheckpoint::verify(&note, keys) {
            Ok(newer) => newer,
            Err(error) => return refuse(&format!("the server's checkpoint is not good: {error}"), printer),
        };
        let (before, after) = (&older.checkpoint, &newer.checkpoint);
        let Some(path) = proof::consistency_path(before.size, after.size) else {
            let reason = format!(
                "the log has {} records now, and had {}: it was rolled back",
                after.size, before.size
            );
            return refuse(&reason, printer);
        };
        let path = remote.hashes(&path, after.size).await?;
        if let Err(error) = proof::verify_consistency((before.size, &before.root), (after.size, &after.root), &path) {
            return refuse(
                &format!("the log does not continue the older checkpoint: {error}"),
                printer,
            );
        }
        self.keep(note.as_bytes())?;
        let text = format!(
            "{} the log of {} records at {} begins with the {} of {}",
            printer.good("proven:"),
            after.size,
            moment(newer.seconds),
            before.size,
            moment(older.seconds)
        );
        let value =
            json!({ "verdict": "continued", "size": after.size, "signed_at": newer.seconds, "since": before.size });
        printer.answer(text, &value)?;
        Ok(Outcome::Clean)
    }

    fn keep(&self, bytes: &[u8]) -> Result<(), AuditError> {
        match &self.out {
            Some(path) => std::fs::write(path, bytes).map_err(|source| AuditError::Write {
                path: path.clone(),
                source,
            }),
            None => Ok(()),
        }
    }
}

fn refuse(reason: &str, printer: &mut Printer) -> Result<Outcome, Error> {
    let text = format!(
        "{} {}",
        printer.bad("not proven:"),
        crate::cli::output::printable(reason)
    );
    printer.answer(text, &json!({ "verdict": "finding", "reason": reason }))?;
    Ok(Outcome::Finding)
}
