//! Load: a mesh with applications that cost nothing, calls by the hundred thousand, and the books kept on them.
//!
//! Every call carries its number as its call id, so that what the policy server stored can be held against what each
//! caller was answered, call by call.
//!
//! * [`wire`] speaks HTTP/1.1 and HTTP/2 with little more than the bytes, and breaks off where it is told to;
//! * [`mesh`] is the mesh: two services, the outbound side of one agent, three agents' certificates; [`application`] is
//!   what the services serve;
//! * [`mix`] are the calls with what each must be answered, and who makes them;
//! * [`aborts`] breaks calls off at every point; [`ledger`] reads what the policy server stored;
//! * [`memory`] watches how the sidecars grow; [`killed`] kills an agent meanwhile.

use anyhow::{Context, Result};

pub mod aborts;
pub mod application;
pub mod killed;
pub mod ledger;
pub mod memory;
pub mod mesh;
pub mod mix;
pub mod wire;

/// Of a count, or of seconds, what this run of a load test has: `LOAD_PERCENT` of a hundred, ten unless that says otherwise.
/// `make load` says all.
///
/// # Errors
///
/// When `LOAD_PERCENT` is no number.
pub fn part_of(whole: u64) -> Result<u64> {
    let percent: u64 = match std::env::var("LOAD_PERCENT") {
        Ok(percent) => percent.parse().context("LOAD_PERCENT is a number")?,
        Err(_) => 10,
    };
    Ok((whole * percent / 100).max(1))
}
