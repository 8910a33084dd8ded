//! Tiles: the tree in pieces of at most 256 hashes, and the records in bundles of as many (C2SP `tlog-tiles`).
//!
//! What is written never changes but for the last tile of a level, which grows to its right. A proof needs a few tiles,
//! whatever the size of the log.

use std::fmt;
use std::str::FromStr;

use super::tree::{Frontier, Node};
use crate::digest::Digest;

/// Levels of the tree that a tile stands for.
pub const HEIGHT: u32 = 8;

/// The hashes of a full tile, and the entries of a full bundle.
pub const WIDTH: u64 = 1 << HEIGHT;

/// The longest entry that a bundle can hold: its length takes two bytes.
pub const MAX_ENTRY_BYTES: usize = u16::MAX as usize;

/// The levels of tiles that a path may name.
const MAX_LEVEL: u32 = 63;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Hashes, of subtrees that are so many times [`HEIGHT`] high.
    Hashes(u32),
    /// The entries themselves.
    Entries,
}

/// One resource of `tlog-tiles`, as its path below `tile/` names it: `0/x001/234`, `entries/005.p/17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// What is in it.
    pub content: Content,
    /// Its place in its level.
    pub index: u64,
    /// How many it holds, from 1 to [`WIDTH`]; full ones are named without it.
    pub width: u64,
}

/// Not a path of `tlog-tiles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a path like `0/x001/234`, `0/005.p/17` or `entries/005`")]
pub struct PathError;

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.content {
            Content::Hashes(level) => write!(f, "{level}/")?,
            Content::Entries => f.write_str("entries/")?,
        }
        let digits = self.index.to_string();
        let groups = digits.len().div_ceil(3);
        let padded = format!("{:0>width$}", digits, width = groups * 3);
        for (place, group) in padded.as_bytes().chunks(3).enumerate() {
            if place + 1 < groups {
                f.write_str("x")?;
            }
            f.write_str(std::str::from_utf8(group).unwrap_or_default())?;
            if place + 1 < groups {
                f.write_str("/")?;
            }
        }
        if self.width == WIDTH {
            Ok(())
        } else {
            write!(f, ".p/{}", self.width)
        }
    }
}

impl FromStr for Path {
    type Err = PathError;

    /// Reads the one spelling that `Display` writes.
    fn from_str(text: &str) -> Result<Self, PathError> {
        let (content, rest) = text.split_once('/').ok_or(PathError)?;
        let content = match content {
            "entries" => Content::Entries,
            level => Content::Hashes(number(level)?),
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, number(width)?),
            None => (rest, WIDTH),
        };
        let digits: String = index.chars().filter(|c| c.is_ascii_digit()).collect();
        let path = Self {
            content,
            index: digits.parse().map_err(|_| PathError)?,
            width,
        };
        let level_is_sound = !matches!(content, Content::Hashes(level) if level > MAX_LEVEL);
        let sound = level_is_sound && (1..=WIDTH).contains(&width) && path.to_string() == text;
        if sound { Ok(path) } else { Err(PathError) }
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, PathError> {
    text.parse().map_err(|_| PathError)
}

/// How many hashes a level of tiles has in all, in a tree of this size: one a full tile of the level below.
pub fn level_size(level: u32, size: u64) -> u64 {
    size.checked_shr(level.saturating_mul(HEIGHT)).unwrap_or(0)
}

/// Where the hash of a complete subtree comes from: a run of hashes in one tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The tile's level.
    pub level: u32,
    /// The tile's place in its level.
    pub tile: u64,
    /// The first hash of the run within the tile.
    pub first: u64,
    /// How many there are: a power of two.
    pub count: u64,
}

impl Run {
    /// The run under a node.
    pub fn under(node: Node) -> Self {
        let rise = node.height % HEIGHT;
        let first = node.index << rise;
        Self {
            level: node.height / HEIGHT,
            tile: first / WIDTH,
            first: first % WIDTH,
            count: 1 << rise,
        }
    }

    /// The hash of the node, from the tile's bytes; None if the tile is too short.
    pub fn hash(&self, tile: &[u8]) -> Option<Digest> {
        let at = |place: u64| usize::try_from(place * 32).ok();
        let run = tile.get(at(self.first)?..at(self.first + self.count)?)?;
        Some(root(run))
    }
}

/// The root above the hashes of a tile.
pub fn root(tile: &[u8]) -> Digest {
    let mut tree = Frontier::new();
    tree.extend(hashes(tile));
    tree.root()
}

/// The hashes in a tile's bytes.
pub fn hashes(tile: &[u8]) -> impl Iterator<Item = Digest> {
    tile.as_chunks::<32>().0.iter().copied().map(Digest)
}

/// An entry that no bundle can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry of a log has at most {MAX_ENTRY_BYTES} bytes")]
pub struct EntryTooLong;

/// Appends an entry to a bundle.
///
/// # Errors
///
/// [`EntryTooLong`]; records cannot be ([`crate::audit::MAX_LINE_BYTES`]).
pub fn append_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), EntryTooLong> {
    let length = u16::try_from(entry.len()).map_err(|_| EntryTooLong)?;
    bundle.extend_from_slice(&length.to_be_bytes());
    bundle.extend_from_slice(entry);
    Ok(())
}

/// The entries of a bundle; None if its bytes are not whole entries.
pub fn entries(mut bundle: &[u8]) -> Option<Vec<&[u8]>> {
    let mut all = Vec::new();
    while !bundle.is_empty() {
        let (length, rest) = bundle.split_first_chunk::<2>()?;
        let (entry, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        all.push(entry);
        bundle = rest;
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

    use super::super::tree::tests::{leaves, mth};
    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        for (text, content, index, width) in [
            ("0/000", Content::Hashes(0), 0, 256),
            ("0/x001/x234/067", Content::Hashes(0), 1_234_067, 256),
            ("3/999", Content::Hashes(3), 999, 256),
            ("63/x001/000.p/1", Content::Hashes(63), 1000, 1),
            ("entries/005.p/255", Content::Entries, 5, 255),
        ] {
            let path = Path { content, index, width };
            assert_eq!((text.parse(), path.to_string().as_str()), (Ok(path), text));
        }
        for text in [
            "",
            "0",
            "0/",
            "0/0",
            "0/0000",
            "0/001/234",
            "0/x1/234",
            "0/x000/001",
            "00/000",
            "64/000",
            "-1/000",
            "0/000.p/0",
            "0/000.p/256",
            "0/000.p/01",
            "0/000.p/",
            "data/000",
            "entries/000/",
            "0/+00",
            "0/../000",
            "0/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(text.parse::<Path>(), Err(PathError), "{text}");
        }
    }

    #[test]
    fn every_subtree_is_found_in_a_tile() {
        let all = leaves(1000);
        // Level 0 are the leaves, level 1 the roots of full tiles.
        let level_1: Vec<_> = all.chunks_exact(256).map(mth).collect();
        let tile = |level: u32, index: u64| -> Vec<u8> {
            let hashes = if level == 0 { &all } else { &level_1 };
            let first = usize::try_from(index * WIDTH).unwrap();
            let end = hashes.len().min(first + 256);
            hashes[first..end].iter().flat_map(|hash| hash.0).collect()
        };
        for height in 0..=9 {
            for index in 0..(1000_u64 >> height) {
                let run = Run::under(Node { height, index });
                let first = usize::try_from(index << height).unwrap();
                let expected = mth(&all[first..first + (1 << height)]);
                assert_eq!(run.hash(&tile(run.level, run.tile)), Some(expected), "{run:?}");
            }
        }
        assert_eq!(Run::under(Node { height: 0, index: 1000 }).hash(&tile(0, 3)), None);
        assert_eq!([0, 1, 2, 9].map(|level| level_size(level, 70_000)), [70_000, 273, 1, 0]);
    }

    #[test]
    fn a_bundle_is_read_whole_or_not_at_all() {
        let mut bundle = Vec::new();
        for entry in [&b"one"[..], b"", &[7; MAX_ENTRY_BYTES]] {
            append_entry(&mut bundle, entry).unwrap();
        }
        assert_eq!(append_entry(&mut bundle, &[0; MAX_ENTRY_BYTES + 1]), Err(EntryTooLong));
        assert_eq!(entries(&bundle).unwrap(), [&b"one"[..], b"", &[7; MAX_ENTRY_BYTES]]);
        assert_eq!(entries(&bundle[..bundle.len() - 1]), None);
        assert_eq!(entries(&bundle[..6]), None);
    }
}
