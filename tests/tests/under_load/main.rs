//! Sidecars under load: whatever comes, every verdict is as expected, every call is on record, and nothing grows. The loads run
//! side by side, each on a mesh of its own; a flood and a kill have the machine to themselves.
#![expect(clippy::unwrap_used, reason = "tests")]

mod aborts;
mod mixed;
