//! Audit records, their one canonical encoding, and the hash chain that holds the records of a source together.
//!
//! A record is encoded by RFC 8785 (JCS) from strings, integers and objects only, so that there is exactly one encoding
//! and a reader can hash the bytes it was sent. Its hash is SHA-256 over a domain-separating prefix and that encoding,
//! which holds the sequence number and the hash of the record before: a record can be neither changed, dropped nor
//! inserted without breaking the chain. A **source** is one Wasm VM; its first record says so and names the source that
//! it replaces, if any.
//!
//! A record of a decision holds the facts and the verified claims that were decided on, so that with the bundle and
//! state that it names the decision can be made again.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::denial::Code;
use crate::digest::{self, Digest, Hasher};
use crate::json::{self, Limits};
use crate::order;
use crate::request::Side;

mod aggregate;
mod answer;
mod canonical;
mod decided;
mod parse;
#[cfg(test)]
mod tests;

pub use aggregate::Aggregates;
pub use answer::{
    AgentStanding, MAX_HEARTBEAT_SECONDS, SOURCE_HEADER, Stored, StoredCall, WAITING_HEADER, read_source, read_waiting,
    write_source, write_waiting,
};
pub use decided::{RecordedClaims, RecordedFacts};

use canonical::Object;
use parse::Texts;

/// The version of the record's format.
pub const FORMAT: u64 = 1;

/// Keeps the hash of a record apart from the hash of anything else that might be signed or logged.
const HASH_PREFIX: &[u8] = b"ostiary.dev/record/v1\n";

const LINE_START: &[u8] = b"{\"hash\":\"";
const LINE_MIDDLE: &[u8] = b"\",\"record\":";
const LINE_END: &[u8] = b"}";

/// Where the record starts in a line.
const RECORD_START: usize = LINE_START.len() + digest::ENCODED_LEN + LINE_MIDDLE.len();

/// The longest line that is accepted: a path of 8 KiB, a token's claims and room.
pub const MAX_LINE_BYTES: usize = 64 << 10;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// The word in the record.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words! {
    /// What a record tells.
    Kind {
        /// A call was permitted or denied.
        Decision = "decision",
        /// A call has ended.
        Completion = "completion",
        /// Several denials of one kind, counted.
        Aggregate = "aggregate",
        /// Denials that found no room, counted by code.
        Overflow = "overflow",
        /// A source starts.
        Source = "source",
    }
}

words! {
    /// The outcome of a decision.
    Outcome {
        /// The call went on.
        Permit = "permit",
        /// The call did not go on.
        Deny = "deny",
    }
}

/// The random name of a source.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub [u8; 16]);

impl SourceId {
    /// Reads what `Display` writes: base64url without padding.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 16];
        (text.len() == 22 && URL_SAFE_NO_PAD.decode_slice(text, &mut id) == Ok(16)).then_some(Self(id))
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

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

/// What happened. Absent fields are left out of the encoding.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    missing_docs,
    reason = "each field is described in docs under its name in the record"
)]
pub struct Record<'a> {
    pub kind: Kind,
    pub time_ms: u64,
    pub agent_id: Option<Cow<'a, str>>,
    pub bundle: Option<Cow<'a, str>>,
    pub call: Option<Cow<'a, str>>,
    pub claims: Option<RecordedClaims<'a>>,
    pub code: Option<Code>,
    pub count: Option<u64>,
    pub counts: Vec<(Code, u64)>,
    pub drifted: Vec<Cow<'a, str>>,
    pub duration_us: Option<u64>,
    pub end: Option<Cow<'a, str>>,
    pub facts: Option<RecordedFacts<'a>>,
    pub jti: Option<Cow<'a, str>>,
    pub operation_id: Option<Cow<'a, str>>,
    pub outcome: Option<Cow<'a, str>>,
    pub peer: Option<Cow<'a, str>>,
    pub previous_hash: Option<Digest>,
    pub previous_source: Option<SourceId>,
    pub protocol: Option<Cow<'a, str>>,
    pub request_bytes: Option<u64>,
    pub request_digest: Option<Digest>,
    pub response_bytes: Option<u64>,
    pub response_digest: Option<Digest>,
    pub service: Option<Cow<'a, str>>,
    pub side: Option<Side>,
    pub state: Option<Cow<'a, str>>,
    pub status: Option<u64>,
    pub trace_id: Option<Cow<'a, str>>,
    pub txn: Option<Cow<'a, str>>,
    pub verdict: Option<Outcome>,
    pub workload: Option<Cow<'a, str>>,
}

impl<'a> Record<'a> {
    /// A record of nothing but a kind and a time.
    pub fn new(kind: Kind, time_ms: u64) -> Self {
        Self {
            kind,
            time_ms,
            agent_id: None,
            bundle: None,
            call: None,
            claims: None,
            code: None,
            count: None,
            counts: Vec::new(),
            drifted: Vec::new(),
            duration_us: None,
            end: None,
            facts: None,
            jti: None,
            operation_id: None,
            outcome: None,
            peer: None,
            previous_hash: None,
            previous_source: None,
            protocol: None,
            request_bytes: None,
            request_digest: None,
            response_bytes: None,
            response_digest: None,
            service: None,
            side: None,
            state: None,
            status: None,
            trace_id: None,
            txn: None,
            verdict: None,
            workload: None,
        }
    }

    /// The first record of a source; `previous` is the source that it replaces and the last hash known of it.
    pub fn source(time_ms: u64, workload: &'a str, previous: Option<(SourceId, Option<Digest>)>) -> Self {
        Self {
            workload: Some(Cow::Borrowed(workload)),
            previous_source: previous.map(|(source, _)| source),
            previous_hash: previous.and_then(|(_, hash)| hash),
            ..Self::new(Kind::Source, time_ms)
        }
    }

    /// A heartbeat: since the record before, this source had nothing to tell, and the policy that it decides by is this.
    ///
    /// It is an aggregate that counts nothing, so that servers and verifiers that know no heartbeats read it.
    pub fn heartbeat(time_ms: u64, workload: &'a str, bundle: Option<&'a str>, state: Option<&'a str>) -> Self {
        Self {
            bundle: bundle.map(Cow::Borrowed),
            count: Some(0),
            state: state.map(Cow::Borrowed),
            workload: Some(Cow::Borrowed(workload)),
            ..Self::new(Kind::Aggregate, time_ms)
        }
    }

    /// Whether it is of a call that went on in shadow: a permit that says what would have denied it.
    pub fn is_in_shadow(&self) -> bool {
        self.kind == Kind::Decision && self.verdict == Some(Outcome::Permit) && self.code.is_some()
    }

    /// Whether it is one.
    pub fn is_heartbeat(&self) -> bool {
        self.kind == Kind::Aggregate && self.count == Some(0)
    }

    /// Appends the canonical encoding: keys in order, so that one pass suffices.
    fn encode(&self, link: &Link, out: &mut Vec<u8>) {
        let mut object = Object::open(out);
        object.text("agent_id", self.agent_id.as_deref());
        object.text("bundle", self.bundle.as_deref());
        object.text("call", self.call.as_deref());
        object.encoded("claims", self.claims.as_ref().map(RecordedClaims::encoding));
        object.text("code", self.code.map(Code::as_str));
        object.integer("count", self.count);
        if !self.counts.is_empty() {
            let mut counts = object.object("counts");
            for (code, count) in sorted(&self.counts, |code| code.as_str()) {
                counts.integer(code.as_str(), Some(*count));
            }
            counts.close();
        }
        if !self.drifted.is_empty() {
            object.texts("drifted", self.drifted.iter().map(|tool| &**tool));
        }
        object.integer("duration_us", self.duration_us);
        object.text("end", self.end.as_deref());
        if let Some(facts) = &self.facts {
            facts.encode(object.object("facts"));
        }
        object.text("jti", self.jti.as_deref());
        object.text("kind", Some(self.kind.as_str()));
        object.text("operation_id", self.operation_id.as_deref());
        object.text("outcome", self.outcome.as_deref());
        object.text("peer", self.peer.as_deref());
        object.digest("prev_hash", link.prev_hash.as_ref());
        object.digest("previous_hash", self.previous_hash.as_ref());
        object.bytes16("previous_source", self.previous_source.as_ref().map(|source| &source.0));
        object.text("protocol", self.protocol.as_deref());
        object.integer("request_bytes", self.request_bytes);
        object.digest("request_digest", self.request_digest.as_ref());
        object.integer("response_bytes", self.response_bytes);
        object.digest("response_digest", self.response_digest.as_ref());
        object.integer("seq", Some(link.seq));
        object.text("service", self.service.as_deref());
        object.text("side", self.side.map(Side::as_str));
        object.bytes16("source", Some(&link.source.0));
        object.text("state", self.state.as_deref());
        object.integer("status", self.status);
        object.integer("time_ms", Some(self.time_ms));
        object.text("trace_id", self.trace_id.as_deref());
        object.text("txn", self.txn.as_deref());
        object.integer("v", Some(FORMAT));
        object.text("verdict", self.verdict.map(Outcome::as_str));
        object.text("workload", self.workload.as_deref());
        object.close();
    }
}

fn sorted<K, V>(pairs: &[(K, V)], key: impl Fn(&K) -> &str) -> Vec<&(K, V)> {
    let mut pairs: Vec<_> = pairs.iter().collect();
    order::sort_by(&mut pairs, |(a, _), (b, _)| key(a).cmp(key(b)));
    pairs
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

fn hash_record(canonical: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(HASH_PREFIX);
    hasher.update(canonical);
    hasher.finish()
}

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
