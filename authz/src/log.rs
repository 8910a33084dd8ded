//! The Merkle log of audit records, and what can be proven from it offline.
//!
//! Every accepted record is a leaf of one append-only tree (RFC 6962, section 2.1); the leaf's bytes are the record's
//! canonical encoding. The log signs **checkpoints** of the tree ([`checkpoint`], a C2SP `tlog-checkpoint` in a C2SP
//! `signed-note`, [`note`]) and shows the tree as **tiles** ([`tile`], C2SP `tlog-tiles`). From these anyone makes and
//! checks proofs ([`proof`]) that a record is in the log, or that a later tree only added to an earlier one.
//!
//! An [`export`] is the whole log in one file; a [`receipt`] is the records of one call with their proofs. Both are
//! checked here, without a server, against a key that the reader has from elsewhere.
//!
//! Records name the policy that they were decided by; an export holds that too, signed, under keys that the log's key
//! vouches for ([`policy`]).
//!
//! A chain of hashes alone proves an order to somebody who knows its head. The tree adds what an outsider needs: short
//! proofs, and a signature over everything at once, so that dropping a source's last records shows too.

pub mod checkpoint;
pub mod export;
pub mod note;
pub mod policy;
pub mod proof;
pub mod receipt;
pub mod tile;
pub mod tree;
