//! The tree itself: hashes of leaves and nodes, and the root of what has been appended (RFC 6962, section 2.1).

use crate::digest::{Digest, Hasher};

/// Sets leaves apart from nodes, so that no node can be passed off as a record (RFC 6962: second preimages).
const LEAF: &[u8] = &[0];
const NODE: &[u8] = &[1];

/// The hash of a leaf.
pub fn leaf_hash(entry: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(LEAF);
    hasher.update(entry);
    hasher.finish()
}

/// The hash of a node above two others.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(NODE);
    hasher.update(left.as_bytes());
    hasher.update(right.as_bytes());
    hasher.finish()
}

/// The root above complete subtrees that stand side by side, the larger ones first; of none, that of the empty tree.
pub fn root_above(subtrees: &[Digest]) -> Digest {
    let above = |right: Digest, left: &Digest| node_hash(left, &right);
    match subtrees.split_last() {
        Some((last, others)) => others.iter().rev().fold(*last, above),
        None => Digest::of(b""),
    }
}

/// A complete subtree: the `index`-th of all that are `height` levels high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Levels above the leaves; a leaf has 0.
    pub height: u32,
    /// Its place among those of its height.
    pub index: u64,
}

/// A run of leaves that has a root of its own in the tree: it starts at a multiple of its length, rounded up to a power
/// of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first leaf.
    pub start: u64,
    /// The leaf after the last.
    pub end: u64,
}

impl Span {
    /// The leaves of a whole tree.
    pub fn whole(size: u64) -> Self {
        Self { start: 0, end: size }
    }

    /// The complete subtrees that make it up, from left to right, the larger ones first: the root is above them
    /// ([`root_above`]). At most 64.
    pub fn nodes(&self) -> Vec<Node> {
        let mut nodes = Vec::new();
        let mut at = self.start;
        while at < self.end {
            let height = at.trailing_zeros().min((self.end - at).ilog2());
            nodes.push(Node {
                height,
                index: at >> height,
            });
            at += 1 << height;
        }
        nodes
    }
}

/// The right edge of a growing tree: enough to append and to tell the root, whatever the size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// The roots of the complete subtrees, the larger ones first: one a bit of `size`.
    subtrees: Vec<Digest>,
}

impl Frontier {
    /// The empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends a leaf by its hash.
    pub fn push(&mut self, leaf: Digest) {
        let mut hash = leaf;
        let mut complete = self.size;
        // As in adding one: each carry joins two subtrees of one height.
        while complete & 1 == 1 {
            if let Some(left) = self.subtrees.pop() {
                hash = node_hash(&left, &hash);
            }
            complete >>= 1;
        }
        self.subtrees.push(hash);
        self.size += 1;
    }

    /// The root of the tree.
    pub fn root(&self) -> Digest {
        root_above(&self.subtrees)
    }
}

impl Extend<Digest> for Frontier {
    fn extend<I: IntoIterator<Item = Digest>>(&mut self, leaves: I) {
        leaves.into_iter().for_each(|leaf| self.push(leaf));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// `MTH` of RFC 6962, word for word.
    pub(crate) fn mth(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::of(b""),
            [leaf] => *leaf,
            leaves => {
                let k = (1..).map(|bit| 1 << bit).find(|k| k * 2 >= leaves.len()).unwrap_or(1);
                let k = if leaves.len() == 2 { 1 } else { k };
                node_hash(&mth(&leaves[..k]), &mth(&leaves[k..]))
            }
        }
    }

    pub(crate) fn leaves(count: u64) -> Vec<Digest> {
        (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    /// The tree that Certificate Transparency's implementations are tested with.
    #[test]
    fn the_roots_are_those_of_the_reference_tree() {
        let entries: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let hex = |digest: Digest| digest.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut tree = Frontier::new();
        assert_eq!(
            hex(tree.root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        let mut roots = Vec::new();
        for entry in entries {
            tree.push(leaf_hash(entry));
            roots.push(hex(tree.root()));
        }
        assert_eq!(
            roots[0],
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
        );
        assert_eq!(
            roots[1],
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
        );
        assert_eq!(
            roots[7],
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
        );
    }

    #[test]
    fn the_edge_has_the_root_of_the_definition_at_every_size() {
        let leaves = leaves(300);
        let mut tree = Frontier::new();
        for (index, leaf) in leaves.iter().enumerate() {
            assert_eq!((tree.size(), tree.root()), (index as u64, mth(&leaves[..index])));
            tree.push(*leaf);
        }
    }

    #[test]
    fn a_span_is_made_of_complete_subtrees() {
        let leaves = leaves(100);
        for (start, end) in [
            (0, 1),
            (0, 7),
            (0, 64),
            (0, 100),
            (64, 100),
            (96, 100),
            (4, 7),
            (99, 100),
        ] {
            let span = Span { start, end };
            let roots: Vec<_> = span
                .nodes()
                .iter()
                .map(|node| {
                    let first = usize::try_from(node.index << node.height).unwrap();
                    mth(&leaves[first..first + (1 << node.height)])
                })
                .collect();
            let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
            assert_eq!(root_above(&roots), mth(&leaves[range]), "{span:?}");
        }
        assert!(Span::whole(0).nodes().is_empty());
        assert_eq!(Span::whole(u64::MAX).nodes().len(), 64);
    }
}
