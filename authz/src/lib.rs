//! The rules of Ostiary: every decision about a call is made in this crate, and nowhere else.
//!
//! The crate is pure. It does no I/O, reads no clock, draws no random numbers and spawns nothing, so that the very same code
//! decides in an Envoy sidecar (`wasm32-wasip1`), in the policy server, in `ostiary decide` and in tests, and any past
//! decision can be made again from its record.
//!
//! # Threat model
//!
//! The attacker may
//!
//! - run the agent: send any bytes through its own sidecar, under any header, path, body or framing, as often as it likes;
//! - hold tokens: its own, expired or revoked ones, and those stolen from other agents;
//! - hold a listed issuer, and have it sign whatever it likes for its own `iss`;
//! - stand between a sidecar and the policy server: delay, drop, replay or reorder what was signed.
//!
//! It does not hold the bundle key, the private key of another workload's certificate, or the memory of another sidecar. What
//! each part of the system loses if an attacker owns it stands in the README.
//!
//! # Invariants
//!
//! 1. **Nothing defaults to allow.** A request goes on only with a [`decision::Permit`], which nothing but
//!    [`decision::decide`] can make; every failure on the way is a [`denial::Denial`].
//! 2. **Effective right = token ∩ the agent's policy ∩ the agent's state ∩ the mTLS peer.** No single one of them, forged or
//!    fooled, grants anything. Forbidden wins over allowed.
//! 3. **Names are compared exactly.** There are no wildcards, prefixes, case folding or normalisation; what is decided on is
//!    byte for byte what goes on.
//! 4. **Trust shows in the type.** [`token::UnverifiedToken`] becomes [`token::VerifiedToken`], [`policy::RawBundle`] a
//!    [`policy::Bundle`], [`state::RawStateList`] a [`state::StateList`], and files a [`manifest::Mesh`], in each case by
//!    the one function that checks.
//! 5. **A header never chooses how it is checked.** `iss` picks the keys, `kid` one of them, and the key its algorithm.
//! 6. **All input is bounded** before it is read: tokens, headers, bodies, JSON depth and nodes, lists.
//! 7. **Two readers, one reading.** JSON and paths on which implementations are known to disagree are refused ([`json`],
//!    [`request`]).
//! 8. **Time moves one way.** Versions of policy never fall; age counts from when a poll was sent, so that neither a replay nor
//!    a stepped clock keeps what is stale.
//!
//! # Map
//!
//! | from | modules |
//! |---|---|
//! | bytes to values | [`json`], [`jws`], [`jwks`] |
//! | names and rights | [`identity`], [`scope`], [`resource`], [`claims`] |
//! | who vouches | [`token`], [`policy`], [`state`], [`successor`] |
//! | what people write | [`manifest`] |
//! | what is asked | [`request`], [`protocol`], [`session`], [`definition`] |
//! | the verdict | [`decision`], [`denial`], [`case`] |
//! | what is kept | [`digest`], [`audit`], [`log`] |
//! | what is learnt from it | [`replay`], [`risk`], [`trace`], [`witness`] |

pub mod audit;
pub mod case;
pub mod claims;
pub mod decision;
pub mod definition;
pub mod denial;
pub mod digest;
pub mod identity;
pub mod json;
pub mod jwks;
pub mod jws;
pub mod log;
pub mod manifest;
mod order;
pub mod policy;
pub mod protocol;
pub mod replay;
pub mod request;
pub mod resource;
pub mod risk;
pub mod scope;
pub mod session;
pub mod state;
pub mod successor;
#[cfg(test)]
mod testing;
pub mod token;
pub mod trace;
pub mod witness;

#[cfg(test)]
mod signing;
