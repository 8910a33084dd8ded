//! The chain of a source as it is written, a line a record.

use super::{Record, SourceId};
use crate::digest::{self, Digest, Hasher};

/// Keeps the hash of a record apart from the hash of anything else that might be signed or logged.
const HASH_PREFIX: &[u8] = b"ostiary.dev/record/v1\n";

pub(super) const LINE_START: &[u8] = b"{\"hash\":\"";
pub(super) const LINE_MIDDLE: &[u8] = b"\",\"record\":";
pub(super) const LINE_END: &[u8] = b"}";

/// Where the record starts in a line.
const RECORD_START: usize = LINE_START.len() + digest::ENCODED_LEN + LINE_MIDDLE.len();

/// Where a record stands in the chain of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The source.
    pub source: SourceId,
    /// Position, from 0 without gaps.
    pub seq: u64,
    /// The hash of the record before; None for the first.
    pub prev_hash: Option<Digest>,
}

/// A record in its place in the chain, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The line: `{"hash":"…","record":{…}}`, without a line feed.
    pub line: Vec<u8>,
    /// The position of the record in its source.
    pub seq: u64,
    /// The hash of the record.
    pub hash: Digest,
}

impl Sealed {
    /// The canonical encoding of the record alone.
    pub fn record(&self) -> &[u8] {
        self.line
            .get(RECORD_START..self.line.len() - LINE_END.len())
            .unwrap_or_default()
    }
}

/// The chain of a source as its writer holds it.
#[derive(Clone, Debug)]
pub struct Chain {
    next: Link,
    /// Where records are encoded before they get a line of their own, as long as they are.
    scratch: Vec<u8>,
}

impl Chain {
    /// A chain without records. `source` must be random: two chains of one name are a fork.
    pub fn new(source: SourceId) -> Self {
        Self {
            next: Link {
                source,
                seq: 0,
                prev_hash: None,
            },
            scratch: Vec::new(),
        }
    }

    /// The name of the source.
    pub fn source(&self) -> SourceId {
        self.next.source
    }

    /// The hash of the last record that was sealed.
    pub fn last_hash(&self) -> Option<Digest> {
        self.next.prev_hash
    }

    /// Gives a record its place.
    pub fn seal(&mut self, record: &Record<'_>) -> Sealed {
        self.scratch.clear();
        record.encode(&self.next, &mut self.scratch);
        let hash = hash_record(&self.scratch);
        let line = write_line(&hash, &self.scratch);
        let seq = self.next.seq;
        self.next = Link {
            source: self.next.source,
            seq: seq + 1,
            prev_hash: Some(hash),
        };
        Sealed { line, seq, hash }
    }
}

/// The line of a record that is kept as its canonical encoding. Checks nothing: [`verify_line`] does.
pub fn line_of(canonical: &[u8]) -> Vec<u8> {
    write_line(&hash_record(canonical), canonical)
}

fn write_line(hash: &Digest, canonical: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(RECORD_START + canonical.len() + LINE_END.len());
    line.extend_from_slice(LINE_START);
    hash.append_base64url(&mut line);
    line.extend_from_slice(LINE_MIDDLE);
    line.extend_from_slice(canonical);
    line.extend_from_slice(LINE_END);
    line
}

pub(super) fn hash_record(canonical: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(HASH_PREFIX);
    hasher.update(canonical);
    hasher.finish()
}
