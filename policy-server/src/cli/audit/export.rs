//! `ostiary audit export`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use authz::log::export::{self, End};
use authz::log::tile::WIDTH;
use serde_json::json;

use super::AuditError;
use super::policy::Gathered;
use super::remote::{Remote, Told};
use crate::cli::keys::Running;
use crate::cli::output::{Printer, Progress, printable};
use crate::cli::{Error, Outcome, server};

/// Writes the whole log, up to its newest checkpoint, to one file: records, tiles, checkpoints and the log's keys, and the
/// signed bundles and state lists that the records name.
///
/// `ostiary audit verify` checks it offline, as does anyone by docs/audit.md, and `ostiary audit replay` decides its calls
/// again. The file appears when it is whole.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, group = clap::ArgGroup::new("where").args(["config", "data", "server", "unix"]).required(true))]
pub(in crate::cli) struct Export {
    /// The file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    running: Running,
}

const EXAMPLES: &str = "Examples:
  ostiary audit export --config ostiary.yaml --out log.jsonl
  ostiary audit export --server https://127.0.0.1:8443 --cert me.pem --key me.key --ca ca.pem \\
    --server-identity spiffe://cluster.local/ns/ostiary/sa/policy-server --out log.jsonl

Exit codes: 0 it is written, 1 the server refused, 2 it could not be asked, or the file not be written";

impl Export {
    pub(super) fn run(&self, printer: &mut Printer) -> Result<Outcome, Error> {
        let found = self.running.find()?;
        let remote = Remote::of(&found)?;
        let (newest, end) = server::runtime()?.block_on(self.write(&remote))?;
        let text = format!(
            "{} {} records of {} under {} checkpoints in {}",
            printer.good("exported"),
            end.records,
            printable(&newest.origin),
            end.checkpoints,
            self.out.display()
        );
        let value = json!({ "origin": newest.origin, "records": end.records, "checkpoints": end.checkpoints, "file": self.out });
        printer.answer(text, &value)?;
        Ok(Outcome::Clean)
    }

    async fn write(&self, remote: &Remote) -> Result<(Told, End), AuditError> {
        let newest = remote.checkpoint().await?;
        let draft = beside(&self.out);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| AuditError::Write { path, source }
        };
        let file = File::create(&draft).map_err(failed(&draft))?;
        let mut writer = Writer {
            out: BufWriter::new(file),
            path: draft.clone(),
        };
        let end = writer.log(remote, &newest).await?;
        let file = writer
            .out
            .into_inner()
            .map_err(|error| failed(&draft)(error.into_error()))?;
        file.sync_all().map_err(failed(&draft))?;
        std::fs::rename(&draft, &self.out).map_err(failed(&self.out))?;
        Ok((newest, end))
    }
}

/// Where the file is while it is not whole.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

struct Writer {
    out: BufWriter<File>,
    path: PathBuf,
}

impl Writer {
    async fn log(&mut self, remote: &Remote, newest: &Told) -> Result<End, AuditError> {
        let mut end = End {
            checkpoints: 0,
            records: 0,
        };
        let mut checkpoints = Checkpoints {
            remote,
            newest,
            from: 0,
            next: VecDeque::new(),
        };
        let mut progress = Progress::new("exporting", newest.size);
        let mut policy = Gathered::begin(remote, &newest.origin).await?;
        let note = policy.as_ref().map(Gathered::note);
        self.line(&export::header_line(
            &remote.keys().await?,
            &newest.origin,
            note,
            newest.size,
        ))?;
        end.checkpoints += self.checkpoint(&mut checkpoints, 0).await?;
        for index in 0..newest.size.div_ceil(WIDTH) {
            let records = remote.records(index, newest.size).await?;
            if let Some(policy) = &mut policy {
                for line in policy.before(remote, &records).await? {
                    self.line(&line.write())?;
                }
            }
            let tile = remote.tile(0, index, newest.size).await?;
            self.line(&export::tile_line(&tile))?;
            for record in &records {
                self.line(record)?;
                end.records += 1;
                end.checkpoints += self.checkpoint(&mut checkpoints, end.records).await?;
            }
            progress.show(end.records);
        }
        self.line(&export::end_line(end))?;
        Ok(end)
    }

    /// Writes the checkpoint of so many records, if there is one.
    async fn checkpoint(&mut self, checkpoints: &mut Checkpoints<'_>, records: u64) -> Result<u64, AuditError> {
        match checkpoints.of(records).await? {
            Some(note) => self.line(&export::checkpoint_line(&note)).map(|()| 1),
            None => Ok(0),
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), AuditError> {
        let written = self.out.write_all(line).and_then(|()| self.out.write_all(b"\n"));
        written.map_err(|source| AuditError::Write {
            path: self.path.clone(),
            source,
        })
    }
}

/// The checkpoints up to the newest, read as they are needed.
struct Checkpoints<'a> {
    remote: &'a Remote,
    newest: &'a Told,
    /// The least size of those that were not read yet.
    from: u64,
    next: VecDeque<Told>,
}

impl Checkpoints<'_> {
    /// The checkpoint of exactly so many records; to be asked for rising numbers.
    async fn of(&mut self, records: u64) -> Result<Option<String>, AuditError> {
        // Whatever else is signed meanwhile: the export ends with the one that it began with.
        if records == self.newest.size {
            return Ok(Some(self.newest.note.clone()));
        }
        if self.next.is_empty() && self.from <= records {
            self.next = self.remote.checkpoints(self.from).await?.into();
            self.from = self.next.back().map_or(u64::MAX, |last| last.size.saturating_add(1));
        }
        match self.next.front() {
            Some(next) if next.size <= records => Ok(self.next.pop_front().map(|told| told.note)),
            _ => Ok(None),
        }
    }
}
