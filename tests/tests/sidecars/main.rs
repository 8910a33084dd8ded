//! Tests on real sidecars, in one binary so that they wait side by side. The first modules wait longest.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod bootstrap;
mod calls;
mod cancelled;
mod clients;
mod conformance;
mod decided_again;
mod definitions;
mod denials;
mod epoch;
mod failclosed_policy;
mod failclosed_request;
mod failclosed_server;
mod failclosed_vm;
mod faults;
mod harness;
mod lists;
mod pages;
mod recorded_first;
mod rotation;
mod sessions;
mod shadow;
mod story;
mod tasks;
mod traps;
#[path = "../../../authz/tests/vectors/mod.rs"]
mod vectors;
mod vectors_envoy;
mod witnesses;
mod wrong_input;
