//! What the policy server answers to a batch of records that is stored, and how a filter says which of them have calls that
//! wait for it.
//!
//! Readers pass over members that they do not know, so that a later server may say more. What an answer says of a call is
//! bound to it by the place and the hash of the call's own record.

use serde::{Deserialize, Serialize};

use super::SourceId;
use crate::digest::Digest;

/// The request header that names the records of a batch whose calls wait: each by its `seq`, with commas between. A server
/// that does not know it stores the batch as any other.
pub const WAITING_HEADER: &str = "ostiary-waiting";

/// A batch is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The source.
    pub source: String,
    /// The place of its last record that is stored.
    pub accepted_through: u64,
    /// What the calls that wait for it are told, as far as it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<StoredCall>,
    /// How long the source may have nothing to tell before it says so by a heartbeat, in seconds; a server before
    /// heartbeats wants none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_seconds: Option<u64>,
}

/// The request header by which a poll says which source its VM writes to, and how often that tells something:
/// `SOURCE;SECONDS`. Absent before there is a source, and where no heartbeats are wanted.
pub const SOURCE_HEADER: &str = "ostiary-source";

/// The longest that a source may have nothing to tell, in seconds.
pub const MAX_HEARTBEAT_SECONDS: u64 = 3600;

/// The value of [`SOURCE_HEADER`].
pub fn write_source(source: SourceId, heartbeat_seconds: u64) -> String {
    format!("{source};{heartbeat_seconds}")
}

/// Reads what [`write_source`] writes; None if it is anything else.
#[must_use]
pub fn read_source(value: &str) -> Option<(SourceId, u64)> {
    let (source, seconds) = value.split_once(';')?;
    let read = (SourceId::parse(source)?, seconds.parse().ok()?);
    let is_sound = (1..=MAX_HEARTBEAT_SECONDS).contains(&read.1) && write_source(read.0, read.1) == value;
    is_sound.then_some(read)
}

/// What a call is told whose record is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredCall {
    /// The place of its record.
    pub seq: u64,
    /// The hash of its record, in base64url.
    pub hash: String,
    /// Its agent; None for a call that needs no capability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStanding>,
}

/// How an agent stands now that a call of it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStanding {
    /// The agent.
    pub id: String,
    /// Its state; a text, because a word that a reader does not know must stop that call and no other.
    pub state: String,
    /// Tokens of it that were issued before this second are dead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
    /// Its score, which counts that call already; None while there is nothing to score by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<u8>,
}

impl StoredCall {
    /// Whether it is said of the call with this record.
    #[must_use]
    pub fn is_of(&self, seq: u64, hash: &Digest) -> bool {
        self.seq == seq && Digest::from_base64url(&self.hash) == Ok(*hash)
    }
}

/// The value of [`WAITING_HEADER`] for these records.
pub fn write_waiting(seqs: impl Iterator<Item = u64>) -> String {
    let seqs: Vec<String> = seqs.map(|seq| seq.to_string()).collect();
    seqs.join(",")
}

/// Reads what [`write_waiting`] writes of at most `most` records; None if it is anything else.
#[must_use]
pub fn read_waiting(value: &str, most: usize) -> Option<Vec<u64>> {
    let mut seqs = Vec::new();
    for seq in value.split(',') {
        if seqs.len() == most || seq.is_empty() || !seq.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        seqs.push(seq.parse().ok()?);
    }
    Some(seqs)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_waits_is_read_as_it_was_written() {
        assert_eq!(write_waiting([3, 7, 12].into_iter()), "3,7,12");
        assert_eq!(read_waiting("3,7,12", 3), Some(vec![3, 7, 12]));
        for bad in ["", ",", "3,", "+3", " 3", "3;7", "-1", "18446744073709551616"] {
            assert_eq!(read_waiting(bad, 3), None, "{bad}");
        }
        assert_eq!(read_waiting("1,2,3,4", 3), None, "more than a batch has");
    }

    #[test]
    fn a_source_is_read_as_it_was_written() {
        let source = SourceId([7; 16]);
        let written = write_source(source, 300);
        assert_eq!(read_source(&written), Some((source, 300)));
        for bad in [
            "",
            ";300",
            "BwcHBwcHBwcHBwcHBwcHBw",
            "BwcHBwcHBwcHBwcHBwcHBw;",
            "BwcHBwcHBwcHBwcHBwcHBw;0",
            "BwcHBwcHBwcHBwcHBwcHBw;03",
            "BwcHBwcHBwcHBwcHBwcHBw;3601",
            "BwcHBwcHBwcHBwcHBwcHBw;-1",
        ] {
            assert_eq!(read_source(bad), None, "{bad}");
        }
    }

    /// An answer of the version before, and one of a later version.
    #[test]
    fn answers_of_other_versions_are_read() {
        let before: Stored = serde_json::from_str(r#"{"source":"s","accepted_through":9}"#).unwrap();
        assert_eq!((before.accepted_through, before.calls.len()), (9, 0));
        let later = r#"{"source":"s","accepted_through":9,"more":1,"calls":[
            {"seq":9,"hash":"h","agent":{"id":"a","state":"dreaming","mood":3}}]}"#;
        let later: Stored = serde_json::from_str(later).unwrap();
        assert_eq!(later.calls.first().unwrap().agent.as_ref().unwrap().state, "dreaming");
    }

    #[test]
    fn an_answer_is_of_one_record() {
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let told = StoredCall {
            seq: 4,
            hash: one.to_base64url(),
            agent: None,
        };
        assert!(told.is_of(4, &one));
        assert!(!told.is_of(5, &one) && !told.is_of(4, &other));
    }
}
