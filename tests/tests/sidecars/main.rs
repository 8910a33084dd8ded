//! Tests of the whole mini mesh, in one binary so that they wait side by side.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod bootstrap;
mod denials;
mod harness;
mod story;
