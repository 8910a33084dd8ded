//! Proofs that a leaf is in a tree, and that a tree only added to an earlier one (RFC 6962, sections 2.1.1 and 2.1.2).
//!
//! A proof is a list of hashes, each the root above a [`Span`] of leaves. Which spans is a matter of numbers alone, so
//! that whoever makes a proof first asks for them here and then reads their hashes wherever they are kept.

use super::tree::{Span, node_hash};
use crate::digest::Digest;

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf would be beyond the end of the tree, or the earlier tree larger than the later.
    #[error("the proof is not for a tree of this size")]
    Size,
    /// More or fewer hashes than the proof must have.
    #[error("the proof has another length than it must have")]
    Length,
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// The longest proof of a tree of fewer than 2^63 leaves.
pub const MAX_PROOF_HASHES: usize = 64;

/// The spans of an inclusion proof, from the leaf's sibling to the root's child; None if there is no such leaf.
pub fn inclusion_path(index: u64, size: u64) -> Option<Vec<Span>> {
    if index >= size {
        return None;
    }
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let split = split(start, end);
        if index < split {
            path.push(Span { start: split, end });
            end = split;
        } else {
            path.push(Span { start, end: split });
            start = split;
        }
    }
    path.reverse();
    Some(path)
}

/// The spans of a consistency proof between trees of two sizes; None if the earlier is the larger. Everything is
/// consistent with the empty tree, and a tree with itself: then the proof is empty.
pub fn consistency_path(earlier: u64, later: u64) -> Option<Vec<Span>> {
    if earlier > later {
        return None;
    }
    let mut path = Vec::new();
    if earlier == 0 {
        return Some(path);
    }
    let (mut start, mut end) = (0, later);
    while earlier != end {
        let split = split(start, end);
        if earlier <= split {
            path.push(Span { start: split, end });
            end = split;
        } else {
            path.push(Span { start, end: split });
            start = split;
        }
    }
    // What starts at 0 is the earlier tree itself, whose root the verifier has.
    if start != 0 {
        path.push(Span { start, end });
    }
    path.reverse();
    Some(path)
}

/// Where the tree over these leaves has its two halves: at the largest power of two below their number.
fn split(start: u64, end: u64) -> u64 {
    start + (1 << (end - start - 1).ilog2())
}

/// Checks that the leaf at `index` has this hash in the tree of this size and root (RFC 9162, section 2.1.3.2).
///
/// # Errors
///
/// [`ProofError`].
pub fn verify_inclusion(
    leaf: &Digest,
    index: u64,
    size: u64,
    path: &[Digest],
    root: &Digest,
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Size);
    }
    let mut at = Place {
        node: index,
        last: size - 1,
    };
    let mut hash = *leaf;
    for sibling in path {
        if at.last == 0 {
            return Err(ProofError::Length);
        }
        if at.is_right() {
            hash = node_hash(sibling, &hash);
            at.rise_to_right();
        } else {
            hash = node_hash(&hash, sibling);
        }
        at.rise();
    }
    finish(at, hash == *root)
}

/// Checks that the later tree begins with all leaves of the earlier (RFC 9162, section 2.1.4.2).
///
/// # Errors
///
/// [`ProofError`].
pub fn verify_consistency(
    (earlier, earlier_root): (u64, &Digest),
    (later, later_root): (u64, &Digest),
    path: &[Digest],
) -> Result<(), ProofError> {
    if earlier > later {
        return Err(ProofError::Size);
    }
    if earlier == 0 || earlier == later {
        return match path {
            [] if earlier == 0 || earlier_root == later_root => Ok(()),
            [] => Err(ProofError::Root),
            _ => Err(ProofError::Length),
        };
    }
    let (first, rest) = match path.split_first() {
        // The earlier tree is a complete subtree, so that its root need not be sent.
        _ if earlier.is_power_of_two() => (earlier_root, path),
        Some((first, rest)) => (first, rest),
        None => return Err(ProofError::Length),
    };
    let mut at = Place {
        node: earlier - 1,
        last: later - 1,
    };
    while at.node & 1 == 1 {
        at.rise();
    }
    let (mut earlier_hash, mut later_hash) = (*first, *first);
    for sibling in rest {
        if at.last == 0 {
            return Err(ProofError::Length);
        }
        if at.is_right() {
            earlier_hash = node_hash(sibling, &earlier_hash);
            later_hash = node_hash(sibling, &later_hash);
            at.rise_to_right();
        } else {
            later_hash = node_hash(&later_hash, sibling);
        }
        at.rise();
    }
    finish(at, earlier_hash == *earlier_root && later_hash == *later_root)
}

fn finish(at: Place, roots_agree: bool) -> Result<(), ProofError> {
    match (at.last, roots_agree) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

/// A node on the way up: its place among those of its height (`fn` in the RFC), and the place of the last (`sn`).
#[derive(Clone, Copy)]
struct Place {
    node: u64,
    last: u64,
}

impl Place {
    /// Whether its sibling is on its left.
    fn is_right(self) -> bool {
        self.node & 1 == 1 || self.node == self.last
    }

    fn rise(&mut self) {
        self.node >>= 1;
        self.last >>= 1;
    }

    /// The last node of a height may lack a sibling there; it is a right child where it next has one.
    fn rise_to_right(&mut self) {
        while self.node & 1 == 0 && self.node != 0 {
            self.rise();
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

    use super::super::tree::tests::{leaves, mth};
    use super::*;

    fn hashes(all: &[Digest], spans: &[Span]) -> Vec<Digest> {
        let at = |place: u64| usize::try_from(place).unwrap();
        spans
            .iter()
            .map(|span| mth(&all[at(span.start)..at(span.end)]))
            .collect()
    }

    /// Every way to spoil a list of hashes by one step.
    fn spoilt(path: &[Digest]) -> Vec<Vec<Digest>> {
        let mut all = vec![[path, &[Digest::of(b"more")]].concat()];
        for index in 0..path.len() {
            let mut changed = path.to_vec();
            changed[index].0[31] ^= 1;
            all.push(changed);
            let mut shorter = path.to_vec();
            shorter.remove(index);
            all.push(shorter);
        }
        all
    }

    #[test]
    fn every_leaf_of_every_tree_is_proven_and_nothing_else_is() {
        let all = leaves(40);
        for size in 1..=all.len() {
            let root = mth(&all[..size]);
            for index in 0..size {
                let (place, count) = (index as u64, size as u64);
                let path = hashes(&all, &inclusion_path(place, count).unwrap());
                assert!(path.len() <= MAX_PROOF_HASHES);
                assert_eq!(verify_inclusion(&all[index], place, count, &path, &root), Ok(()));
                for path in spoilt(&path) {
                    assert!(verify_inclusion(&all[index], place, count, &path, &root).is_err());
                }
                for other in (0..size).filter(|other| *other != index) {
                    assert!(verify_inclusion(&all[index], other as u64, count, &path, &root).is_err());
                    assert!(verify_inclusion(&all[other], place, count, &path, &root).is_err());
                }
            }
            assert_eq!(inclusion_path(size as u64, size as u64), None);
            assert_eq!(
                verify_inclusion(&all[0], size as u64, size as u64, &[], &root),
                Err(ProofError::Size)
            );
        }
    }

    #[test]
    fn every_tree_is_proven_to_continue_every_earlier_one_and_no_other() {
        let all = leaves(40);
        for later in 0..=all.len() {
            for earlier in 0..=later {
                let (before, after) = (earlier as u64, later as u64);
                let roots = (mth(&all[..earlier]), mth(&all[..later]));
                let path = hashes(&all, &consistency_path(before, after).unwrap());
                let verify =
                    |path: &[Digest], first: &Digest| verify_consistency((before, first), (after, &roots.1), path);
                assert_eq!(verify(&path, &roots.0), Ok(()), "{earlier} to {later}");
                if earlier > 0 {
                    assert!(verify(&path, &Digest::of(b"another")).is_err(), "{earlier} to {later}");
                }
                for path in spoilt(&path) {
                    assert!(verify(&path, &roots.0).is_err(), "{earlier} to {later}");
                }
            }
        }
        assert_eq!(consistency_path(2, 1), None);
        let root = mth(&all);
        assert_eq!(verify_consistency((41, &root), (40, &root), &[]), Err(ProofError::Size));
    }

    #[test]
    fn the_largest_trees_have_proofs_too() {
        assert_eq!(inclusion_path(0, 1 << 63).unwrap().len(), 63);
        assert_eq!(inclusion_path((1 << 63) - 2, (1 << 63) - 1).unwrap().len(), 62);
        assert!(consistency_path((1 << 62) + 1, (1 << 63) - 1).unwrap().len() <= MAX_PROOF_HASHES);
    }
}
