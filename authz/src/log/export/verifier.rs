//! Checks an export line by line, in memory that grows with the number of sources and of versions of policy, and with
//! nothing else. What a line says by itself has been read before ([`Line`]).

use std::collections::HashMap;

use super::line::{CHECKPOINT, Line, TILE};
use super::policy::{PolicyCheck, PolicyLine, PolicyProven};
use super::{
    CheckpointLine, End, EndLine, FORMAT, FORMAT_WITHOUT_POLICY, Fault, Finding, Header, Named, read, read_tile,
};
use crate::audit::{self, Link, RecordError, SourceId, Verified};
use crate::digest::Digest;
use crate::log::checkpoint::SignedCheckpoint;
use crate::log::note::NoteKey;
use crate::log::policy::PolicyKeys;
use crate::log::tile::WIDTH;
use crate::log::tree::Frontier;

/// What an export proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// The log's name.
    pub origin: String,
    /// How many records it has, all of them in the file.
    pub records: u64,
    /// How many sources' chains are unbroken from their first record on.
    pub sources: usize,
    /// How many checkpoints agree with the records before them.
    pub checkpoints: u64,
    /// When the last of them was signed, in seconds since 1970.
    pub seconds: u64,
    /// The policy that the records name; None of an export of version 1, which has none.
    pub policy: Option<PolicyProven>,
    /// Whether nothing was cut off.
    pub completeness: Completeness,
}

/// What is known of records that may have followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// Nothing: there was no other checkpoint to compare with.
    Unknown,
    /// Nothing; but another checkpoint, of fewer records, is of the same log, which has only been added to since.
    Continues {
        /// How many records that one signs.
        records: u64,
        /// When it was signed.
        seconds: u64,
    },
    /// The log had no more records when the other checkpoint was signed.
    Complete {
        /// When that was.
        seconds: u64,
    },
}

/// Checks an export. Give it every [`line`](Self::line), then [`finish`](Self::finish).
#[derive(Debug)]
pub struct Verifier {
    keys: Vec<NoteKey>,
    other: Option<SignedCheckpoint>,
    line: u64,
    header: Option<Header>,
    /// The tree over the records.
    tree: Frontier,
    tile: Option<Tile>,
    sources: HashMap<SourceId, Last>,
    policy: Option<PolicyCheck>,
    /// The first record that is not what its tile says, and that tile's line.
    differs: Option<(Finding, u64)>,
    signed: Option<SignedCheckpoint>,
    checkpoints: u64,
    /// The line after the last good checkpoint.
    unsigned_from: u64,
    ended: bool,
}

/// The hashes that the next records must have.
#[derive(Debug)]
struct Tile {
    hashes: Vec<Digest>,
    first: u64,
    line: u64,
}

/// The last record of a source.
#[derive(Debug)]
struct Last {
    link: Link,
    hash: Digest,
    line: u64,
}

impl Verifier {
    /// Before the first line. `keys` are those that the reader trusts; `other` is a checkpoint of the same log that came
    /// another way, the newest there is: without one, nobody can tell whether the end was cut off.
    pub fn new(keys: Vec<NoteKey>, other: Option<SignedCheckpoint>) -> Self {
        Self {
            keys,
            other,
            line: 0,
            header: None,
            tree: Frontier::new(),
            tile: None,
            sources: HashMap::new(),
            policy: None,
            differs: None,
            signed: None,
            checkpoints: 0,
            unsigned_from: 2,
            ended: false,
        }
    }

    /// How many records have been read, of how many: for showing progress.
    pub fn progress(&self) -> (u64, u64) {
        (self.tree.size(), self.size())
    }

    /// Checks the next line.
    ///
    /// # Errors
    ///
    /// The first [`Finding`]; nothing after it can be relied on.
    pub fn line(&mut self, line: Line<'_>) -> Result<(), Finding> {
        self.line += 1;
        let content = line.content;
        if line.is_cut {
            return Err(self.first(Fault::Cut, content));
        }
        let checked = if self.header.is_none() {
            self.header(content)
        } else if self.ended {
            Err(Fault::Surplus)
        } else if let Some(record) = line.record {
            self.record(content, record)
        } else if content.starts_with(CHECKPOINT) {
            return self.checkpoint(content);
        } else if content.starts_with(TILE) {
            return self.tile(content);
        } else if PolicyLine::is(content) {
            return self.policy(content);
        } else {
            return self.end(content);
        };
        checked.map_err(|fault| self.first(fault, content))
    }

    /// Says what has been proven, once every line was read.
    ///
    /// # Errors
    ///
    /// The [`Finding`] that something is missing at the end.
    pub fn finish(self) -> Result<Proven, Finding> {
        let records = self.tree.size();
        let Some(header) = &self.header else {
            return Err(self.first(Fault::Header, b""));
        };
        let size = header.size;
        let signed = match &self.signed {
            Some(signed) if self.ended => signed,
            _ => return Err(self.first(Fault::Ended { records, size }, b"")),
        };
        let completeness = match &self.other {
            None => Completeness::Unknown,
            Some(other) if other.checkpoint.size > size => {
                let size = other.checkpoint.size;
                return Err(self.first(Fault::Missing { records, size }, b""));
            }
            Some(other) if other.checkpoint.size == size => Completeness::Complete { seconds: other.seconds },
            Some(other) => Completeness::Continues {
                records: other.checkpoint.size,
                seconds: other.seconds,
            },
        };
        Ok(Proven {
            origin: header.origin.clone(),
            records,
            sources: self.sources.len(),
            checkpoints: self.checkpoints,
            seconds: signed.seconds,
            policy: self.policy.as_ref().map(PolicyCheck::proven),
            completeness,
        })
    }

    fn size(&self) -> u64 {
        self.header.as_ref().map_or(0, |header| header.size)
    }

    /// The finding to report: what is wrong here, unless a record before was not what its tile says.
    fn first(&self, fault: Fault, line: &[u8]) -> Finding {
        match &self.differs {
            Some((finding, _)) => finding.clone(),
            None => Finding {
                line: self.line.max(1),
                record: Named::by(line),
                fault,
            },
        }
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Fault> {
        let header: Header = read(line).ok_or(Fault::Header)?;
        let format = match &header.policy {
            Some(_) => FORMAT,
            None => FORMAT_WITHOUT_POLICY,
        };
        if header.export != format {
            return Err(Fault::Header);
        }
        let mut known = false;
        for key in &header.keys {
            let key: NoteKey = key.parse().map_err(Fault::HeaderKey)?;
            known |= self.keys.contains(&key) && key.name() == header.origin;
        }
        if !known {
            return Err(Fault::OtherKeys);
        }
        if let Some(note) = &header.policy {
            let keys = PolicyKeys::verify(note, &self.keys, &header.origin).map_err(Fault::PolicyKeys)?;
            self.policy = Some(PolicyCheck::new(keys));
        }
        self.header = Some(header);
        self.compare_with_other()
    }

    /// A line of policy stands where a tile is expected next.
    fn policy(&mut self, line: &[u8]) -> Result<(), Finding> {
        self.tile_ended()?;
        let is_expected = self.tile_width().is_some();
        let number = self.line;
        let checked = match &mut self.policy {
            Some(policy) if is_expected => policy.line(number, line),
            Some(_) => Err(Fault::PolicyPlace),
            None => Err(Fault::Line),
        };
        checked.map_err(|fault| self.first(fault, line))
    }

    /// How many hashes the next tile has, where one is expected.
    fn tile_width(&self) -> Option<u64> {
        let first = self.tree.size();
        let again = self.tile.as_ref().is_some_and(|tile| tile.first == first);
        let width = WIDTH.min(self.size().saturating_sub(first));
        (!again && first.is_multiple_of(WIDTH) && width > 0).then_some(width)
    }

    /// If every record of the last tile has come, so has whatever names the policy before it.
    fn tile_ended(&self) -> Result<(), Finding> {
        let records = self.tree.size();
        let is_whole = records.is_multiple_of(WIDTH) || records == self.size();
        let has_begun = self.tile.as_ref().is_some_and(|tile| tile.first < records);
        match &self.policy {
            Some(policy) if is_whole && has_begun && !policy.awaits_tile() => self.at(policy.tile_ended()),
            _ => Ok(()),
        }
    }

    fn at(&self, checked: Result<(), (u64, Fault)>) -> Result<(), Finding> {
        checked.map_err(|(line, fault)| {
            let finding = self.first(fault, b"");
            // What was wrong before counts first.
            Finding {
                line: if self.differs.is_some() { finding.line } else { line },
                ..finding
            }
        })
    }

    fn tile(&mut self, line: &[u8]) -> Result<(), Finding> {
        self.tile_ended()?;
        self.read_tile(line).map_err(|fault| self.first(fault, line))?;
        let checked = self.policy.as_mut().map_or(Ok(()), PolicyCheck::tile);
        self.at(checked)
    }

    fn read_tile(&mut self, line: &[u8]) -> Result<(), Fault> {
        let hashes = read_tile(line).ok_or(Fault::Line)?;
        let first = self.tree.size();
        if self.tile_width() != Some(hashes.len() as u64) {
            return Err(Fault::TilePlace);
        }
        self.tile = Some(Tile {
            hashes,
            first,
            line: self.line,
        });
        Ok(())
    }

    fn record(&mut self, line: &[u8], record: Result<(Verified<'_>, Digest), RecordError>) -> Result<(), Fault> {
        let index = self.tree.size();
        if index >= self.size() {
            return Err(Fault::Surplus);
        }
        let expected = self.tile.as_ref().and_then(|tile| {
            let place = usize::try_from(index - tile.first).ok()?;
            tile.hashes.get(place).map(|hash| (*hash, tile.line))
        });
        let (verified, leaf) = record?;
        self.follow(&verified)?;
        let (expected, tile_line) = expected.ok_or(Fault::TileMissing)?;
        if leaf != expected && self.differs.is_none() {
            self.differs = Some((self.first(Fault::Tile { tile_line }, line), tile_line));
        }
        self.tree.push(leaf);
        if let Some(policy) = &mut self.policy {
            policy.record(&verified.record)?;
        }
        self.compare_with_other()
    }

    /// Checks that a record follows the one before in its source's chain, which begins with its first.
    fn follow(&mut self, verified: &Verified<'_>) -> Result<(), Fault> {
        let (link, hash) = (verified.link, verified.hash);
        match self.sources.get(&link.source) {
            None if link.seq > 0 => return Err(RecordError::Gap(link.seq).into()),
            None => audit::check_start(&link)?,
            Some(last) if last.link.seq == link.seq && last.hash == hash => return Err(Fault::Duplicate(last.line)),
            Some(last) => audit::check_follows(&last.link, last.hash, &link)?,
        }
        let line = self.line;
        self.sources.insert(link.source, Last { link, hash, line });
        Ok(())
    }

    fn checkpoint(&mut self, line: &[u8]) -> Result<(), Finding> {
        let signed = self.read_checkpoint(line).map_err(|fault| self.first(fault, line))?;
        let agrees = signed.checkpoint.root == self.tree.root();
        match (&self.differs, agrees) {
            (None, true) => {}
            (None, false) => {
                return Err(Finding {
                    line: self.unsigned_from,
                    record: None,
                    fault: Fault::Root { to_line: self.line },
                });
            }
            (Some((finding, _)), false) => return Err(finding.clone()),
            (Some((_, tile_line)), true) => {
                return Err(Finding {
                    line: *tile_line,
                    record: None,
                    fault: Fault::TileChanged {
                        checkpoint_line: self.line,
                    },
                });
            }
        }
        self.signed = Some(signed);
        self.checkpoints += 1;
        self.unsigned_from = self.line + 1;
        Ok(())
    }

    fn read_checkpoint(&self, line: &[u8]) -> Result<SignedCheckpoint, Fault> {
        let CheckpointLine { checkpoint } = read(line).ok_or(Fault::Line)?;
        let signed = SignedCheckpoint::verify(&checkpoint, &self.keys)?;
        let (size, records) = (signed.checkpoint.size, self.tree.size());
        // Each size once, and never between a tile and its first record: a line that was moved shows.
        let before = self.signed.as_ref().map(|signed| signed.checkpoint.size);
        let tile_just_read = self.tile.as_ref().is_some_and(|tile| tile.first == records)
            || self.policy.as_ref().is_some_and(PolicyCheck::awaits_tile);
        if size != records || before.is_some_and(|before| before >= size) || tile_just_read {
            return Err(Fault::CheckpointPlace { size, records });
        }
        Ok(signed)
    }

    fn end(&mut self, line: &[u8]) -> Result<(), Finding> {
        self.tile_ended()?;
        self.read_end(line).map_err(|fault| self.first(fault, line))
    }

    /// Everything that the first line told of is there, and signed.
    fn read_end(&mut self, line: &[u8]) -> Result<(), Fault> {
        let EndLine { end } = read(line).ok_or(Fault::Line)?;
        let (records, size) = (self.tree.size(), self.size());
        let signed = self.signed.as_ref().map(|signed| signed.checkpoint.size);
        if records != size || signed != Some(size) {
            return Err(Fault::Ended { records, size });
        }
        let checkpoints = self.checkpoints;
        if end != (End { checkpoints, records }) {
            return Err(Fault::Count);
        }
        self.ended = true;
        Ok(())
    }

    fn compare_with_other(&self) -> Result<(), Fault> {
        match &self.other {
            Some(other) if other.checkpoint.size == self.tree.size() && other.checkpoint.root != self.tree.root() => {
                let size = other.checkpoint.size;
                Err(Fault::Rewritten { size })
            }
            _ => Ok(()),
        }
    }
}
