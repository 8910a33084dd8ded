//! The policy server of Ostiary and the `ostiary` command line.
//!
//! The server issues capability tokens ([`routes::tokens`]), tells sidecars their policy and which agents may act
//! ([`feed`]), and keeps the records of what passed ([`ingest`], [`store`]) in a log
//! that anyone can check ([`log`]). What it may grant and what a bundle says
//! is decided in `authz`; this crate authenticates callers ([`peer`]), signs ([`keys`]), stores and serves.
//!
//! An attacker who owns this process can issue any token and change any policy; one who owns its database can make
//! records vanish, but not change them unseen by whoever kept a newer hash; one who owns a caller gets what that
//! caller's roles and the agents' files say, and a bounded share of queue and disk.

pub mod agents;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
mod crash;
pub mod error;
pub mod feed;
pub mod files;
pub mod findings;
pub mod ingest;
pub mod keys;
pub mod kubernetes;
pub mod live;
pub mod log;
pub mod logging;
pub mod metrics;
pub mod operator;
pub mod peer;
pub mod policy;
pub mod recent;
pub mod reload;
pub mod render;
pub mod risk;
pub mod routes;
pub mod secret;
pub mod serve;
pub mod shares;
pub mod signer;
pub mod store;
pub mod traces;
pub mod verifier;
pub mod webhooks;
