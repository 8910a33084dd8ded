//! The records of a file: an export, a receipt, or lines of records alone.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use authz::audit::{self, Record, RecordError};
use authz::log::export::MAX_EXPORT_LINE_BYTES;

use crate::cli::output::Progress;

/// Why a file gives no records.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum LogError {
    #[error("cannot read `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("line {line} of `{}` is no sound record: {source}", path.display())]
    Record {
        path: PathBuf,
        line: u64,
        source: RecordError,
    },
    #[error("the policy on line {line} of `{}` is not sound: {reason}", path.display())]
    Policy { path: PathBuf, line: u64, reason: String },
    #[error(
        "`{}` holds no policy, which exports have since servers keep it: name the files that were in force (--policy)", .0.display()
    )]
    NoPolicy(PathBuf),
    #[error("line {line} of `{}` is longer than any of a log", path.display())]
    TooLong { path: PathBuf, line: u64 },
    #[error("`{}` holds no record of a log; `ostiary audit export` writes one that does", .0.display())]
    Empty(PathBuf),
}

/// A record and where it stands.
pub(in crate::cli) struct Line<'a> {
    pub(in crate::cli) number: u64,
    pub(in crate::cli) record: &'a Record<'a>,
}

/// Reads every record of a file, each checked by its own hash; whether they are the log's is for `audit verify` to say.
/// What stands between them (tiles, checkpoints, proofs) is passed over.
pub(in crate::cli) fn read(path: &Path, mut each: impl FnMut(Line<'_>)) -> Result<(), LogError> {
    read_all(path, |_, content| {
        if let Content::Record(line) = content {
            each(line);
        }
        Ok(())
    })
}

/// A line of a file.
pub(in crate::cli) enum Content<'a> {
    Record(Line<'a>),
    /// Whatever else, without its line feed.
    Other(&'a [u8]),
}

/// Reads every line of a file that has records, as [`read`] does; `each` is given the line's number.
pub(in crate::cli) fn read_all(
    path: &Path,
    mut each: impl FnMut(u64, Content<'_>) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let unread = |source| LogError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(unread)?;
    let bytes = file.metadata().map_err(unread)?.len();
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut progress = Progress::new("deciding bytes", bytes);
    let (mut line, mut number, mut done, mut records) = (Vec::new(), 0, 0, 0_u64);
    loop {
        line.clear();
        let mut bounded = (&mut file).take(MAX_EXPORT_LINE_BYTES as u64 + 1);
        let length = bounded.read_until(b'\n', &mut line).map_err(unread)?;
        if length == 0 {
            break;
        }
        number += 1;
        if length > MAX_EXPORT_LINE_BYTES {
            let path = path.to_owned();
            return Err(LogError::TooLong { path, line: number });
        }
        done += length as u64;
        progress.show_of(done, bytes);
        let content = line.strip_suffix(b"\n").unwrap_or(&line);
        if !content.starts_with(b"{\"hash\":") {
            each(number, Content::Other(content))?;
            continue;
        }
        let verified = audit::verify_line(content).map_err(|source| LogError::Record {
            path: path.to_owned(),
            line: number,
            source,
        })?;
        records += 1;
        let record = &verified.record;
        each(number, Content::Record(Line { number, record }))?;
    }
    if records == 0 {
        return Err(LogError::Empty(path.to_owned()));
    }
    Ok(())
}
