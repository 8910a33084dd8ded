//! `ostiary audit verify`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use authz::log::checkpoint::SignedCheckpoint;
use authz::log::export::{Completeness, Finding, Line, MAX_EXPORT_LINE_BYTES, PolicyProven, Proven, Verifier};
use authz::log::note::NoteKey;
use authz::log::receipt::{self, Receipt};
use serde_json::{Value, json};

use super::lines::in_turns;
use super::{AuditError, keys, read_text};
use crate::cli::keys::moment;
use crate::cli::output::{Printer, Progress, printable};
use crate::cli::{Error, Outcome};

/// A receipt of 256 records of the longest kind.
const MAX_RECEIPT_BYTES: u64 = 32 << 20;

/// Checks an export or a receipt against the log's public key, offline: nothing in the file is believed but what that
/// key signed.
///
/// Of an export: each record's form and hash, each source's chain from its first record on, the Merkle tree under every
/// checkpoint, and the signatures of the bundles and state lists that the records name. A file cannot tell that nothing was cut off its end together with the newest checkpoints; a newer
/// checkpoint that came another way (a mirror, a witness, another auditor) can.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Verify {
    /// What `audit export` or `audit prove` wrote, or the answer of /v1/receipts
    file: PathBuf,
    /// The log's public key, as `keys show` prints it, or a file with one a line; all that it has had, if it was rotated
    #[arg(long, value_name = "KEY", required = true)]
    key: Vec<String>,
    /// The newest checkpoint that is known of the log from elsewhere
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
}

const EXAMPLES: &str = "Examples:
  ostiary audit verify log.jsonl --key log.vkey --checkpoint /mnt/mirror/checkpoint
  ostiary audit verify receipt.jsonl --key cluster.local/ns/ostiary/sa/policy-server+0d1f2a3b+AQ…

Exit codes: 0 all is proven, 1 something is wrong (the first bad line is named), 2 it could not be read,
3 nothing is wrong, but without a checkpoint of as many records nobody can show that nothing followed";

impl Verify {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let keys = keys(&self.key)?;
        let other = self.checkpoint.as_deref().map(|path| read_checkpoint(path, &keys));
        let other = other.transpose()?;
        let mut file = BufReader::with_capacity(1 << 20, File::open(&self.file).map_err(|error| self.unread(error))?);
        let start = file.fill_buf().map_err(|error| self.unread(error))?;
        if start.starts_with(b"{\"call\":") {
            if other.is_some() {
                return Err(AuditError::CheckpointOfReceipt(self.file.clone()).into());
            }
            return self.receipt(file, &keys, printer);
        }
        match self.export(file, keys, other)? {
            Ok(proven) => {
                printer.answer(describe(&proven, printer), &value(&proven))?;
                Ok(match proven.completeness {
                    Completeness::Complete { .. } => Outcome::Clean,
                    Completeness::Unknown | Completeness::Continues { .. } => Outcome::Unshown,
                })
            }
            Err(finding) => report(&finding, printer),
        }
    }

    fn export(
        &self,
        file: BufReader<File>,
        keys: Vec<NoteKey>,
        other: Option<SignedCheckpoint>,
    ) -> Result<Result<Proven, Finding>, AuditError> {
        let state = (Verifier::new(keys, other), Progress::new("verifying", 0));
        let verified = in_turns(file, MAX_EXPORT_LINE_BYTES, state, |lines, turn| {
            let read: Vec<Line<'_>> = lines.iter().map(Line::read).collect();
            turn.take(|(verifier, progress)| {
                read.into_iter().try_for_each(|line| verifier.line(line))?;
                let (done, all) = verifier.progress();
                progress.show_of(done, all);
                Ok(())
            });
        });
        let verified = verified.map_err(|error| self.unread(error))?;
        Ok(verified.and_then(|(verifier, _)| verifier.finish()))
    }

    fn receipt(&self, file: BufReader<File>, keys: &[NoteKey], printer: &mut Printer) -> Result<Outcome, Error> {
        let mut bytes = Vec::new();
        let read = file.take(MAX_RECEIPT_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| self.unread(error))?;
        match receipt::verify(&bytes, keys) {
            Ok(receipt) => {
                printer.answer(describe_receipt(&receipt, printer), &receipt_value(&receipt))?;
                Ok(Outcome::Clean)
            }
            Err(finding) => report(&finding, printer),
        }
    }

    fn unread(&self, source: std::io::Error) -> AuditError {
        AuditError::Read {
            path: self.file.clone(),
            source,
        }
    }
}

/// Reads a checkpoint that a known key must have signed.
pub(super) fn read_checkpoint(path: &Path, keys: &[NoteKey]) -> Result<SignedCheckpoint, AuditError> {
    SignedCheckpoint::verify(&read_text(path)?, keys).map_err(|source| AuditError::Checkpoint {
        path: path.to_owned(),
        source,
    })
}

fn report(finding: &Finding, printer: &mut Printer) -> Result<Outcome, Error> {
    let text = format!("{} {}", printer.bad("not proven:"), printable(&finding.to_string()));
    let record = finding.record.as_ref();
    let value = json!({
        "verdict": "finding",
        "line": finding.line,
        "source": record.map(|record| &record.source),
        "seq": record.map(|record| record.seq),
        "reason": finding.fault.to_string(),
    });
    printer.answer(text, &value)?;
    Ok(Outcome::Finding)
}

fn describe(proven: &Proven, printer: &Printer) -> String {
    let (records, at) = (proven.records, moment(proven.seconds));
    let proof = format!(
        "{} the {records} records are those that {} signed, unchanged, all and in order, up to {at}:\n  \
         each record's form and hash, {} sources' unbroken chains, {} checkpoints of one tree",
        printer.good("proven:"),
        printable(&proven.origin),
        proven.sources,
        proven.checkpoints,
    );
    let rest = match proven.completeness {
        Completeness::Complete { seconds } => {
            format!(
                "{} the log had no more records at {}",
                printer.good("proven:"),
                moment(seconds)
            )
        }
        Completeness::Unknown => format!(
            "{} complete up to {records} at {at}; cannot show that nothing followed: \
             that takes a newer checkpoint from elsewhere (--checkpoint)",
            printer.strong("not shown:"),
        ),
        Completeness::Continues {
            records: older,
            seconds,
        } => format!(
            "{} the log has only been added to since it had {older} records at {}\n\
             {} complete up to {records} at {at}; cannot show that nothing followed: \
             that takes a checkpoint of at least as many records",
            printer.good("proven:"),
            moment(seconds),
            printer.strong("not shown:"),
        ),
    };
    let policy = proven
        .policy
        .map_or_else(String::new, |policy| describe_policy(&policy, printer));
    format!("{proof}\n{policy}{rest}")
}

/// What is shown of the policy that records name.
fn describe_policy(policy: &PolicyProven, printer: &Printer) -> String {
    let mut text = format!(
        "{} the policy that records name is here, {} bundles and {} state lists, each signed by a key that the log vouches for\n",
        printer.good("proven:"),
        policy.bundles,
        policy.states,
    );
    if policy.missing > 0 {
        text.push_str(&format!(
            "{} {} bundles and state lists were not kept, by the file's own word: {} records name one of them\n",
            printer.strong("not shown:"),
            policy.missing,
            policy.records_without,
        ));
    }
    if policy.records_of_others > 0 {
        text.push_str(&format!(
            "{} {} records name the bundle of another workload than their own\n",
            printer.strong("not shown:"),
            policy.records_of_others,
        ));
    }
    text
}

fn policy_value(policy: &PolicyProven) -> Value {
    json!({
        "bundles": policy.bundles,
        "states": policy.states,
        "not_kept": policy.missing,
        "records_without": policy.records_without,
        "records_of_other_workloads": policy.records_of_others,
    })
}

fn value(proven: &Proven) -> Value {
    let (verdict, other) = match proven.completeness {
        Completeness::Complete { seconds } => ("complete", json!({ "records": proven.records, "signed_at": seconds })),
        Completeness::Continues { records, seconds } => ("open", json!({ "records": records, "signed_at": seconds })),
        Completeness::Unknown => ("open", Value::Null),
    };
    json!({
        "verdict": verdict,
        "origin": proven.origin,
        "records": proven.records,
        "sources": proven.sources,
        "checkpoints": proven.checkpoints,
        "signed_at": proven.seconds,
        "compared_with": other,
        "policy": proven.policy.as_ref().map(policy_value),
    })
}

fn describe_receipt(receipt: &Receipt<'_>, printer: &Printer) -> String {
    let signed = &receipt.signed;
    let mut text = format!(
        "{} these records of call {} are in the log of {}, which had {} at {}",
        printer.good("proven:"),
        printable(&receipt.call),
        printable(&signed.checkpoint.origin),
        signed.checkpoint.size,
        moment(signed.seconds)
    );
    for included in &receipt.records {
        let summary = super::summary::of(&included.record);
        text.push_str(&format!("\n  {:>8}  {}", included.index, printable(&summary)));
    }
    text.push_str(&format!(
        "\n{} that the log has no other record of this call: that takes an export",
        printer.strong("not shown:")
    ));
    text
}

fn receipt_value(receipt: &Receipt<'_>) -> Value {
    let records = receipt.records.iter().map(|included| {
        json!({
            "index": included.index,
            "source": included.link.source.to_string(),
            "seq": included.link.seq,
            "kind": included.record.kind.as_str(),
            "side": included.record.side.map(|side| side.as_str()),
        })
    });
    json!({
        "verdict": "included",
        "call": receipt.call,
        "origin": receipt.signed.checkpoint.origin,
        "size": receipt.signed.checkpoint.size,
        "signed_at": receipt.signed.seconds,
        "records": records.collect::<Vec<_>>(),
    })
}
