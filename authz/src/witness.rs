//! Every call has two witnesses, its caller's sidecar and its service's: what only one of them saw, or what they saw
//! differently, took a way around the other.
//!
//! [`judge`] is the whole rule, over all records of one call. [`Matcher`] finds in a log that is read in its order which
//! calls there is anything to judge about: it holds what one side alone has told, until the other side has told the
//! same or a window has passed, in bounded memory. Judging a call twice, or one that turns out well, does no harm.
//!
//! What is legal: Envoy tries a call again, so that one of the caller's may be several of the service's; a call is denied at
//! the caller's side and never arrives; it fails on its way, and the caller's Envoy answers in the service's place (with a
//! 5xx, so that only an answer under 400 says that somebody served it); batches of records come late and out of order.

use crate::audit::{Kind, Outcome, Record};
use crate::digest::Digest;
use crate::request::Side;

mod matcher;
#[cfg(test)]
mod tests;

pub use matcher::{Candidate, Matcher, Phase, Sighting};

/// How much later than the end of a call, by its caller's clock, an attempt of it may begin by the service's.
const SKEW_MS: u64 = 5_000;

/// What is wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mismatch {
    /// The service's side saw it, the caller's did not: the caller went around its sidecar.
    ServiceOnly,
    /// The caller got an answer that the service's side did not see: the service answered around its sidecar.
    CallerOnly,
    /// The sides saw different calls or different bytes.
    Differs,
    /// The service's side saw it define tools otherwise than they are pinned.
    Drifted,
}

impl Mismatch {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ServiceOnly, Self::CallerOnly, Self::Differs, Self::Drifted];

    /// The word in findings and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceOnly => "service_only",
            Self::CallerOnly => "caller_only",
            Self::Differs => "differs",
            Self::Drifted => "drifted",
        }
    }

    /// Reads what [`Self::as_str`] writes.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mismatch| mismatch.as_str() == word)
    }
}

/// A call that was judged, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What is wrong.
    pub mismatch: Mismatch,
    /// The same in a few words: what is missing, or what differs.
    pub why: &'static str,
}

/// The records of one call by its sides.
#[derive(Default)]
struct Sides<'r, 'a> {
    decided_out: Vec<&'r Record<'a>>,
    ended_out: Vec<&'r Record<'a>>,
    decided_in: Vec<&'r Record<'a>>,
    ended_in: Vec<&'r Record<'a>>,
}

/// Judges a call by all its records, which name its id and its caller; `phase` says whether its beginning is judged, or its
/// end.
pub fn judge(records: &[Record<'_>], phase: Phase) -> Option<Judgement> {
    let mut sides = Sides::default();
    for record in records {
        match (record.kind, record.side) {
            (Kind::Decision, Some(Side::Outbound)) => sides.decided_out.push(record),
            (Kind::Completion, Some(Side::Outbound)) => sides.ended_out.push(record),
            (Kind::Decision, Some(Side::Inbound)) => sides.decided_in.push(record),
            (Kind::Completion, Some(Side::Inbound)) => sides.ended_in.push(record),
            _ => {}
        }
    }
    match phase {
        Phase::Decided => sides.begun(),
        Phase::Ended => sides.ended(),
    }
}

fn found(mismatch: Mismatch, why: &'static str) -> Option<Judgement> {
    Some(Judgement { mismatch, why })
}

impl Sides<'_, '_> {
    /// What arrived must have been let out.
    fn begun(&self) -> Option<Judgement> {
        if self.decided_in.is_empty() {
            return None;
        }
        let mut let_out = self.decided_out.iter().filter(|record| is_permitted(record)).peekable();
        if let_out.peek().is_none() {
            return match (self.decided_out.is_empty(), self.ended_out.is_empty()) {
                (true, true) => found(Mismatch::ServiceOnly, "the caller's sidecar did not see it"),
                (false, _) => found(Mismatch::ServiceOnly, "the caller's sidecar had denied it"),
                // The decision itself was lost, with a VM that died; the call was seen.
                (true, false) => None,
            };
        }
        let sent: Vec<_> = let_out.map(|record| target(record)).collect();
        let mut arrived = self.decided_in.iter().map(|record| target(record));
        if !arrived.all(|arrived| sent.iter().any(|sent| agree(sent, &arrived))) {
            return found(Mismatch::Differs, "the sides saw different requests");
        }
        let ended = self.ended_out.iter().map(|record| record.time_ms).max()?;
        let again = |record: &&Record<'_>| record.time_ms > ended.saturating_add(SKEW_MS);
        if self.decided_in.iter().any(again) {
            return found(
                Mismatch::ServiceOnly,
                "it arrived once more when it was over for the caller's sidecar",
            );
        }
        None
    }

    /// An answer that the caller got was given, and what went through both sides is the same bytes.
    fn ended(&self) -> Option<Judgement> {
        let out = self.ended_out.iter().find(|record| is_served(record))?;
        if self.decided_in.is_empty() && self.ended_in.is_empty() {
            return found(Mismatch::CallerOnly, "the service's sidecar did not see it");
        }
        let complete: Vec<_> = self.ended_in.iter().filter(|record| is_complete(record)).collect();
        if complete.is_empty() {
            return None;
        }
        if complete
            .iter()
            .any(|record| record.request_digest != out.request_digest)
        {
            return found(Mismatch::Differs, "the sides saw different request bodies");
        }
        // Of a list that was filtered on its way the sides see different bytes.
        let is_list = self
            .decided_in
            .iter()
            .chain(&self.decided_out)
            .any(|record| is_list(record));
        let same = |record: &&&Record<'_>| {
            record.status == out.status && (is_list || record.response_digest == out.response_digest)
        };
        if complete.iter().any(same) {
            None
        } else {
            found(Mismatch::Differs, "the sides saw different responses")
        }
    }
}

fn is_permitted(record: &Record<'_>) -> bool {
    record.verdict == Some(Outcome::Permit)
}

fn is_complete(record: &Record<'_>) -> bool {
    record.end.as_deref() == Some(COMPLETE)
}

/// How the end of a stream is told that ended by itself.
const COMPLETE: &str = "complete";

/// Whether a caller was served: an answer that no proxy gives in a service's place, and that came whole.
fn is_served(record: &Record<'_>) -> bool {
    is_complete(record) && serves(record.status)
}

/// Whether an answer of this status comes from an application.
fn serves(status: Option<u64>) -> bool {
    status.is_some_and(|status| (200..400).contains(&status))
}

fn is_list(record: &Record<'_>) -> bool {
    let method = record.facts.as_ref().and_then(|facts| facts.rpc_method.as_deref());
    method.is_some_and(|method| method.ends_with("/list"))
}

/// What a call is about.
type Target<'r> = [Option<&'r str>; 6];

fn target<'r>(record: &'r Record<'_>) -> Target<'r> {
    let service = record.service.as_deref();
    match &record.facts {
        Some(facts) => [
            service,
            facts.method.as_deref(),
            facts.path.as_deref(),
            facts.rpc_method.as_deref(),
            facts.tool.as_deref(),
            facts.prompt.as_deref(),
        ],
        None => [service, None, None, None, None, None],
    }
}

/// Whether two sides tell of one call: where both say something, it is the same. Of a request that was denied before it was
/// read, little is told.
fn agree(one: &Target<'_>, other: &Target<'_>) -> bool {
    one.iter().zip(other).all(|pair| match pair {
        (Some(one), Some(other)) => one == other,
        (None, _) | (_, None) => true,
    })
}

/// The end of a call at one side that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) status: Option<u64>,
    pub(crate) request: Option<Digest>,
    pub(crate) response: Option<Digest>,
}
