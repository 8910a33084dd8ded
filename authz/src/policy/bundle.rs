//! From claims to an index, every rule checked on the way.

use super::{Agent, BundleClaims, PolicyError, Service, ServiceIndex, Version};
use crate::{
    identity::{Issuer, ServiceId, SpiffeId},
    token::{Issuers, TokenLimits},
};

/// The policy server as a built-in service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyServer {
    pub(super) identity: SpiffeId,
    pub(super) hosts: Box<[Box<str>]>,
}

/// A verified bundle, indexed.
#[derive(Debug, Clone)]
pub struct Bundle {
    issuer: Issuer,
    workload: SpiffeId,
    version: Version,
    expires_at: u64,
    max_state_age_seconds: u64,
    limits: TokenLimits,
    issuers: Issuers,
    policy_server: PolicyServer,
    services: Box<[Service]>,
    /// Sorted by id.
    agents: Box<[Agent]>,
}

impl PolicyServer {
    /// Its identity.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// Whether `authority` (`host` or `host:port`, in any case) names it; any port does.
    #[must_use]
    pub fn answers_to(&self, authority: &str) -> bool {
        let (host, _) = super::service::split_authority(authority);
        self.hosts.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

impl Bundle {
    pub(super) fn check(
        claims: BundleClaims,
        aud: &SpiffeId,
        held: Option<Version>,
        now: u64,
    ) -> Result<Self, PolicyError> {
        let _ = (claims, aud, held, now);
        Err(PolicyError::Audience)
    }

    /// Indexes claims that this very process compiled, for decisions made offline; nothing vouches for them otherwise.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], as for a signed bundle.
    pub fn from_own_claims(claims: BundleClaims, now: u64) -> Result<Self, PolicyError> {
        let aud = claims.aud.clone();
        Self::check(claims, &aud, None, now)
    }

    /// The policy server that signed it.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The workload that it is for (`aud`).
    #[must_use]
    pub fn workload(&self) -> &SpiffeId {
        &self.workload
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether it has expired at `now`.
    #[must_use]
    pub fn expired(&self, now: u64) -> bool {
        now >= self.expires_at
    }

    /// How old a state list may be, in seconds.
    #[must_use]
    pub fn max_state_age_seconds(&self) -> u64 {
        self.max_state_age_seconds
    }

    /// The bounds that tokens are held to.
    #[must_use]
    pub fn token_limits(&self) -> &TokenLimits {
        &self.limits
    }

    /// The issuers whose tokens are accepted.
    #[must_use]
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// The policy server as a service.
    #[must_use]
    pub fn policy_server(&self) -> &PolicyServer {
        &self.policy_server
    }

    /// The services.
    #[must_use]
    pub fn services(&self) -> &[Service] {
        &self.services
    }

    /// The service at a place.
    #[must_use]
    pub fn service(&self, index: ServiceIndex) -> Option<&Service> {
        self.services.get(usize::from(index.0))
    }

    /// The service that this workload exposes on `port`: how the inbound side finds it.
    #[must_use]
    pub fn service_exposed_on(&self, port: u16) -> Option<ServiceIndex> {
        self.position(|service| service.identity == self.workload && service.ports.contains(&port))
    }

    /// The service that `authority` names: how the outbound side finds it.
    #[must_use]
    pub fn service_named(&self, authority: &str) -> Option<ServiceIndex> {
        self.position(|service| service.answers_to(authority))
    }

    /// The service of this id.
    #[must_use]
    pub fn service_with_id(&self, id: &ServiceId) -> Option<ServiceIndex> {
        self.position(|service| service.id == *id)
    }

    /// The agent of this id.
    #[must_use]
    pub fn agent(&self, id: &str) -> Option<&Agent> {
        let index = self.agents.binary_search_by(|agent| agent.id.as_str().cmp(id)).ok()?;
        self.agents.get(index)
    }

    /// The agents, by id.
    #[must_use]
    pub fn agents(&self) -> &[Agent] {
        &self.agents
    }

    fn position(&self, fits: impl Fn(&Service) -> bool) -> Option<ServiceIndex> {
        self.services
            .iter()
            .position(fits)
            .and_then(|index| u16::try_from(index).ok())
            .map(ServiceIndex)
    }
}
