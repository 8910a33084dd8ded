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

mod aggregate;
mod answer;
mod canonical;
mod chain;
mod decided;
mod parse;
mod record;
#[cfg(test)]
mod tests;
mod verify;

pub use aggregate::Aggregates;
pub use answer::{
    AgentStanding, MAX_HEARTBEAT_SECONDS, SOURCE_HEADER, Stored, StoredCall, WAITING_HEADER, read_source, read_waiting,
    write_source, write_waiting,
};
pub use chain::{Chain, Link, Sealed, line_of};
pub use decided::{RecordedClaims, RecordedFacts};
pub use record::{FORMAT, Kind, Outcome, Record, SourceId};
pub use verify::{MAX_LINE_BYTES, RecordError, Verified, check_batch, check_follows, check_start, read, verify_line};
