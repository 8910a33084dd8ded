//! What is wrong with an export or a receipt, and where.

use std::fmt;

use crate::audit::RecordError;
use crate::log::note::{KeyError, NoteError};
use crate::log::policy::Kind;
use crate::log::proof::ProofError;
use crate::policy::{PolicyError, Version};

/// The first thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The line of the file, from 1.
    pub line: u64,
    /// The record on that line as it names itself, if it is one. What a changed record says of itself may be the change.
    pub record: Option<Named>,
    /// What is wrong.
    pub fault: Fault,
}

/// A record by its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its source.
    pub source: String,
    /// Its place in the chain of its source.
    pub seq: u64,
}

impl Named {
    /// What a line says of itself, however little of it is right.
    pub(in crate::log) fn by(line: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(line).ok()?;
        let record = value.get("record")?;
        Some(Self {
            source: record.get("source")?.as_str()?.to_owned(),
            seq: record.get("seq")?.as_u64()?,
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(Named { source, seq }) = &self.record {
            write!(f, " (source {source}, seq {seq})")?;
        }
        write!(f, ": {}", self.fault)
    }
}

/// What can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file begins with something else, or is empty.
    #[error("this is neither an export nor a receipt of this version, or its first line was changed")]
    Header,
    /// A key in the header was changed.
    #[error("a key in the first line is none: {0}")]
    HeaderKey(KeyError),
    /// The header names keys, and none is one of those given.
    #[error("the log names none of the given keys as its own: it is another log, or was signed anew with another key")]
    OtherKeys,
    /// A line is nothing that belongs here, or not in its one spelling.
    #[error("the line is no record, tile, proof or checkpoint in its one spelling")]
    Line,
    /// A line does not end.
    #[error("the line does not end with a line feed: the file was cut off, or the line is too long")]
    Cut,
    /// A record's own hash, form or fields are wrong, or it does not follow the one before it in its source's chain.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record that was there before.
    #[error("the same record stands on line {0} already")]
    Duplicate(u64),
    /// The tree has another record here.
    #[error(
        "the log's tree has another record at this place (by the tile on line {tile_line}): this one was changed or put here, or one before it is missing"
    )]
    Tile {
        /// Where the tile is.
        tile_line: u64,
    },
    /// A tile should be here.
    #[error("a tile is expected here, not a record: a tile is missing, or records were added before this line")]
    TileMissing,
    /// No tile should be here, or one of another width.
    #[error("no such tile is expected here: a record before this line is missing, or the tile was put here")]
    TilePlace,
    /// The records are those that were signed, and the tile is not theirs.
    #[error(
        "the tile was changed: the records themselves are those that the checkpoint on line {checkpoint_line} signs"
    )]
    TileChanged {
        /// Where that checkpoint is.
        checkpoint_line: u64,
    },
    /// A checkpoint is not good.
    #[error("the checkpoint is not good: {0}")]
    Checkpoint(#[from] NoteError),
    /// A checkpoint stands where the log has another number of records.
    #[error(
        "the checkpoint is of {size} records, but {records} stand before it: records are missing or were added, or it was moved"
    )]
    CheckpointPlace {
        /// What it says.
        size: u64,
        /// What there is.
        records: u64,
    },
    /// The records up to a checkpoint are not those that were signed, and nothing says which.
    #[error(
        "the records from here to line {to_line} are not those that the checkpoint there signs: one or more were changed together with all hashes that tell of it"
    )]
    Root {
        /// Where the checkpoint is.
        to_line: u64,
    },
    /// The list of keys that sign policy is not good.
    #[error("the list of keys that sign policy, in the first line, is not good: {0}")]
    PolicyKeys(NoteError),
    /// A bundle or a state list is not good.
    #[error("the {kind} is not good: {error}")]
    Policy {
        /// Which.
        kind: Kind,
        /// What is wrong with it.
        error: Box<PolicyError>,
    },
    /// A bundle names a page that is not there.
    #[error("a page of the bundle is missing before this line")]
    PolicyPage,
    /// A line of policy is out of its place.
    #[error("no such policy is expected here: each stands once, in order, before the tile whose records name it first")]
    PolicyPlace,
    /// Policy that nothing names.
    #[error(
        "no record of the tile that follows names this, nor any bundle: it was put here or moved, or records are missing"
    )]
    PolicyUnnamed,
    /// A record names what is not there.
    #[error(
        "the {kind} {version} that the record names is not in the file, and nothing says that it was not kept: it was taken out"
    )]
    PolicyMissing {
        /// Which.
        kind: Kind,
        /// Its version.
        version: Version,
    },
    /// There is more than the header says.
    #[error("the export ends before this line by its first line: it was added")]
    Surplus,
    /// There is less than the header says.
    #[error(
        "the file ends here, with {records} of the {size} records that its first line tells of and their checkpoint"
    )]
    Ended {
        /// What there is.
        records: u64,
        /// What there should be.
        size: u64,
    },
    /// The counts of the last line are not what was read.
    #[error("the last line counts other records or checkpoints than there are: some were taken out, or it was changed")]
    Count,
    /// The newer checkpoint tells of more records.
    #[error(
        "the file ends here with {records} records, but the newer checkpoint signs {size}: the end was cut off, or the log was rolled back"
    )]
    Missing {
        /// What there is.
        records: u64,
        /// What the log had.
        size: u64,
    },
    /// The newer checkpoint signs another tree of this size than the file's.
    #[error(
        "the first {size} records of this file are not those that the other checkpoint signs: the log was written anew, or shows each reader another"
    )]
    Rewritten {
        /// How many the other checkpoint signs.
        size: u64,
    },
    /// A receipt without records.
    #[error("the receipt has no record")]
    Empty,
    /// A record of another call than the receipt's.
    #[error("the record is not of the call that the receipt is for")]
    Call,
    /// A proof of inclusion does not hold.
    #[error("the record is not proven to be in the log: {0}")]
    Proof(#[from] ProofError),
    /// The proofs of a receipt lead to different checkpoints.
    #[error("the proof leads to another checkpoint than the one before")]
    Checkpoints,
}

impl Fault {
    pub(super) fn policy(kind: Kind, error: PolicyError) -> Self {
        let error = Box::new(error);
        Self::Policy { kind, error }
    }
}
