//! Crashes of the policy server and of sidecars, and disks that take nothing more: what was answered for is there, and the mesh
//! recovers by itself.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod crash;
mod disk;
mod kill;
mod moments;
mod stored;
mod waiting;
mod witness;
