//! The rules of Ostiary: every decision about a call is made in this crate, and nowhere else.
pub mod audit;
pub mod case;
pub mod claims;
pub mod decision;
pub mod denial;
pub mod digest;
pub mod identity;
pub mod json;
pub mod jwks;
pub mod jws;
pub mod manifest;
pub mod policy;
pub mod protocol;
pub mod request;
pub mod scope;
pub mod state;
#[cfg(test)]
mod testing;
pub mod token;

#[cfg(test)]
mod signing;
