//! A record: what it can tell, and its one canonical encoding.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Link;
use super::canonical::Object;
use super::decided::{RecordedClaims, RecordedFacts};
use crate::denial::Code;
use crate::digest::Digest;
use crate::order;
use crate::request::Side;

/// The version of the record's format.
pub const FORMAT: u64 = 1;

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

            pub(super) fn from_word(word: &str) -> Option<Self> {
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
    pub(super) fn encode(&self, link: &Link, out: &mut Vec<u8>) {
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

pub(super) fn sorted<K, V>(pairs: &[(K, V)], key: impl Fn(&K) -> &str) -> Vec<&(K, V)> {
    let mut pairs: Vec<_> = pairs.iter().collect();
    order::sort_by(&mut pairs, |(a, _), (b, _)| key(a).cmp(key(b)));
    pairs
}
