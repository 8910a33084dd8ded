//! From a mesh to what one workload is told of it.

use super::Mesh;
use crate::{
    identity::{Issuer, SpiffeId},
    policy::{BundleClaims, FORMAT, IssuerClaims, PolicyServerClaims},
};

/// What a bundle says beside services and agents.
#[derive(Debug, Clone, PartialEq)]
pub struct BundleHeader {
    /// The policy server that signs it.
    pub iss: Issuer,
    /// The epoch of its version.
    pub epoch: u64,
    /// The counter of its version.
    pub version: u64,
    /// When it is signed, in seconds.
    pub issued_at: u64,
    /// When it stops to be valid, in seconds.
    pub expires_at: u64,
    /// How old a state list may be, in seconds.
    pub max_state_age_seconds: u64,
    /// The longest lifetime of a token, in seconds.
    pub max_token_ttl_seconds: u64,
    /// The issuers whose tokens are accepted.
    pub issuers: Vec<IssuerClaims>,
    /// The policy server as a service.
    pub policy_server: PolicyServerClaims,
}

impl Mesh {
    /// The bundle of one workload: only what concerns it.
    ///
    /// That is the services that it exposes or that its own agents reach, its own agents, and the agents that reach what it
    /// exposes; and of those agents only the rights that a service in the bundle could ask for.
    #[must_use]
    pub fn compile(&self, workload: &SpiffeId, header: BundleHeader) -> BundleClaims {
        let BundleHeader {
            iss,
            epoch,
            version,
            issued_at,
            expires_at,
            max_state_age_seconds,
            max_token_ttl_seconds,
            issuers,
            policy_server,
        } = header;
        BundleClaims {
            format: FORMAT,
            iss,
            aud: workload.clone(),
            epoch,
            version,
            issued_at,
            expires_at,
            max_state_age_seconds,
            max_token_ttl_seconds,
            issuers,
            policy_server,
            services: Vec::new(),
            agents: Vec::new(),
        }
    }
}
