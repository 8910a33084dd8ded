//! What a reader checks of a line by itself, and of lines that follow each other.

use super::chain::{LINE_END, LINE_MIDDLE, LINE_START, hash_record};
use super::parse::{self, Texts};
use super::{Link, Record};
use crate::digest::{self, Digest};
use crate::json::{self, Limits};

/// The longest line that is accepted: a path of 8 KiB, a token's claims and room.
pub const MAX_LINE_BYTES: usize = 64 << 10;

/// Why a line or a batch was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Longer than [`MAX_LINE_BYTES`].
    #[error("the line is too long")]
    TooLong,
    /// Not of the form of a line.
    #[error("the line is not `{{\"hash\":…,\"record\":…}}`")]
    Line,
    /// The hash is not that of the record.
    #[error("the hash is not that of the record")]
    Hash,
    /// A field is unknown, missing or of the wrong type.
    #[error("the record's field `{0}` is unknown, missing or of the wrong type")]
    Field(&'static str),
    /// A format other than [`FORMAT`].
    #[error("the record's format is not known")]
    Format,
    /// The record is sound, but not in its canonical encoding.
    #[error("the record is not in canonical form")]
    NotCanonical,
    /// The records of a batch belong to several sources.
    #[error("the records belong to more than one source")]
    Sources,
    /// A record does not follow the one before: one is missing.
    #[error("a record is missing before number {0}")]
    Gap(u64),
    /// A record names another predecessor than the one that is there.
    #[error("record {0} does not follow the record before it")]
    Fork(u64),
}

/// A record whose hash and encoding have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified<'a> {
    /// Its place in the chain of its source.
    pub link: Link,
    /// Its hash.
    pub hash: Digest,
    /// What it tells.
    pub record: Record<'a>,
    /// The bytes that were hashed.
    pub canonical: &'a [u8],
}

/// Checks one line: its form, its hash, and that the record is in its one canonical encoding.
///
/// # Errors
///
/// [`RecordError`], never `Sources`, `Gap` or `Fork`.
pub fn verify_line(line: &[u8]) -> Result<Verified<'_>, RecordError> {
    if line.len() > MAX_LINE_BYTES {
        return Err(RecordError::TooLong);
    }
    let (hash, canonical) = split_line(line).ok_or(RecordError::Line)?;
    if hash_record(canonical) != hash {
        return Err(RecordError::Hash);
    }
    let document = json::parse(canonical, &Limits::REQUEST).map_err(|_| RecordError::Line)?;
    let (link, record) = parse::record(document.root(), Texts::Source(document.source()))?;
    let mut again = Vec::with_capacity(canonical.len());
    record.encode(&link, &mut again);
    if again != canonical {
        return Err(RecordError::NotCanonical);
    }
    Ok(Verified {
        link,
        hash,
        record,
        canonical,
    })
}

/// Reads the canonical bytes of a record that [`verify_line`] has accepted before, from where they were kept.
///
/// # Errors
///
/// `Line`, `Field` or `Format`, if they are no such bytes.
pub fn read(canonical: &[u8]) -> Result<(Link, Record<'static>), RecordError> {
    let document = json::parse(canonical, &Limits::REQUEST).map_err(|_| RecordError::Line)?;
    parse::record(document.root(), Texts::Record)
}

fn split_line(line: &[u8]) -> Option<(Digest, &[u8])> {
    let (hash, rest) = line.strip_prefix(LINE_START)?.split_at_checked(digest::ENCODED_LEN)?;
    let canonical = rest.strip_prefix(LINE_MIDDLE)?.strip_suffix(LINE_END)?;
    let hash = Digest::from_base64url(std::str::from_utf8(hash).ok()?).ok()?;
    Some((hash, canonical))
}

/// Checks that the records of a batch are one unbroken piece of one chain. What came before the first is the caller's
/// to compare with what it has stored.
///
/// # Errors
///
/// `Sources`, `Gap` or `Fork`.
pub fn check_batch(batch: &[Verified<'_>]) -> Result<(), RecordError> {
    for (before, after) in batch.iter().zip(batch.iter().skip(1)) {
        check_follows(&before.link, before.hash, &after.link)?;
    }
    batch.first().map_or(Ok(()), |first| check_start(&first.link))
}

/// Checks that `after` is the record after the one at `before`, whose hash is `hash`.
///
/// # Errors
///
/// `Sources`, `Gap` or `Fork`.
pub fn check_follows(before: &Link, hash: Digest, after: &Link) -> Result<(), RecordError> {
    if after.source != before.source {
        return Err(RecordError::Sources);
    }
    if Some(after.seq) != before.seq.checked_add(1) {
        return Err(if after.seq > before.seq {
            RecordError::Gap(after.seq)
        } else {
            RecordError::Fork(after.seq)
        });
    }
    if after.prev_hash != Some(hash) {
        return Err(RecordError::Fork(after.seq));
    }
    Ok(())
}

/// Checks that a record with nothing before it says so: only the first of a source has no predecessor.
///
/// # Errors
///
/// `Fork`.
pub fn check_start(link: &Link) -> Result<(), RecordError> {
    if (link.seq == 0) == link.prev_hash.is_none() {
        Ok(())
    } else {
        Err(RecordError::Fork(link.seq))
    }
}
