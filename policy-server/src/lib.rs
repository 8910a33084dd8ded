//! The policy server of Ostiary and the `ostiary` command line.

pub mod cli;
pub mod files;
