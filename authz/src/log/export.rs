//! A whole log in one file, and what it proves to somebody who has the log's public key and nothing else.
//!
//! Lines of JSON, each in the one spelling that is written here:
//!
//! 1. a header: format, the log's name and keys, and how many records there are;
//! 2. before each 256 records the policy that none before them names, signed, and their tile, the hashes of these leaves
//!    in the tree;
//! 3. the records, in the order in which they were accepted, as sidecars send them;
//! 4. among them checkpoints, each where the log had as many records; the last is that of all;
//! 5. an end, which counts both.
//!
//! Of policy, first the pages of agents, then the bundles, then the state lists, then which of both were not kept; each in
//! order and once. A file of version 1 has none.
//!
//! The log's signatures are all that is believed, of checkpoints and of the keys that sign policy. The tiles are there to tell the place: a record that was changed
//! together with its hash, or dropped from the end of its source's chain, differs from its tile at once, and from nothing
//! else before the next checkpoint.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::note::NoteKey;
use super::policy::PolicyKeys;
use crate::digest::Digest;
use crate::jws::MAX_POLICY_BYTES;

mod finding;
mod line;
mod policy;
mod verifier;

#[cfg(test)]
mod tests;

pub use finding::{Fault, Finding, Named};
pub use line::Line;
pub use policy::{PolicyLine, PolicyProven};
pub use verifier::{Completeness, Proven, Verifier};

/// The format's name.
pub const FORMAT: &str = "ostiary.dev/audit-export/v2";

/// The format without policy, of servers that kept none.
pub const FORMAT_WITHOUT_POLICY: &str = "ostiary.dev/audit-export/v1";

/// The longest line of an export or a receipt, its line feed among it. Bundles and state lists are the longest.
pub const MAX_EXPORT_LINE_BYTES: usize = MAX_POLICY_BYTES + 64;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    export: String,
    keys: Vec<String>,
    origin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<String>,
    size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TileLine {
    tile: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    end: End,
}

/// What a whole export has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// How many checkpoints.
    pub checkpoints: u64,
    /// How many records.
    pub records: u64,
}

/// The line that an export begins with, without its line feed. `policy` is the note of the keys that sign policy; without
/// one, the export holds none.
pub fn header_line(keys: &[NoteKey], origin: &str, policy: Option<&str>, size: u64) -> Vec<u8> {
    let format = if policy.is_some() {
        FORMAT
    } else {
        FORMAT_WITHOUT_POLICY
    };
    write(&Header {
        export: format.to_owned(),
        keys: keys.iter().map(ToString::to_string).collect(),
        origin: origin.to_owned(),
        policy: policy.map(str::to_owned),
        size,
    })
}

/// The keys that sign policy, by the first line of an export; None if that is none or tells of no policy. Nothing is
/// verified.
pub fn policy_keys(line: &[u8]) -> Option<PolicyKeys> {
    let header: Header = read(line)?;
    PolicyKeys::unverified(&header.policy?, &header.origin)
}

/// The line of a tile, without its line feed.
pub fn tile_line(tile: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let tile = base64::engine::general_purpose::STANDARD.encode(tile);
    write(&TileLine { tile })
}

/// The line of a checkpoint, without its line feed.
pub fn checkpoint_line(note: &str) -> Vec<u8> {
    write(&CheckpointLine {
        checkpoint: note.to_owned(),
    })
}

/// The line that an export ends with, without its line feed.
pub fn end_line(end: End) -> Vec<u8> {
    write(&EndLine { end })
}

/// Writes the one spelling of a line.
pub(super) fn write(line: &impl Serialize) -> Vec<u8> {
    // INVARIANT: structs of strings and numbers always serialise.
    serde_json::to_vec(line).unwrap_or_default()
}

/// Reads a line that is in its one spelling: whatever is changed in it shows.
pub(super) fn read<T: Serialize + DeserializeOwned>(line: &[u8]) -> Option<T> {
    let value = serde_json::from_slice(line).ok()?;
    (write(&value) == line).then_some(value)
}

/// Reads the hashes of a tile's line.
fn read_tile(line: &[u8]) -> Option<Vec<Digest>> {
    use base64::Engine as _;
    let TileLine { tile } = read(line)?;
    let bytes = base64::engine::general_purpose::STANDARD.decode(tile).ok()?;
    let (hashes, rest) = bytes.as_chunks::<32>();
    rest.is_empty().then(|| hashes.iter().copied().map(Digest).collect())
}
