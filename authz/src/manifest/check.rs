//! The rules that files obey together.

use super::{Manifests, Problem};
use crate::{
    identity::{AgentId, ServiceId, SpiffeId},
    manifest::MayRefresh,
    policy::{AgentClaims, ServiceClaims},
};

/// An agent's policy, checked: what a bundle says of it, and what only the policy server needs.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentPolicy {
    /// What a bundle says of it; tools that name a service name it with its namespace.
    pub claims: AgentClaims,
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Who may ask for its tokens.
    pub issuers: Vec<SpiffeId>,
    /// The LLM tokens that it may use in a day.
    pub max_tokens_per_day: Option<u64>,
    /// Whether it may renew its own tokens.
    pub may_refresh: MayRefresh,
}

/// All agents and services of a mesh, without fault.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mesh {
    /// Sorted by id.
    pub(super) services: Vec<ServiceClaims>,
    /// Sorted by id.
    pub(super) agents: Vec<AgentPolicy>,
}

impl Manifests {
    /// Checks all files, for a mesh of this trust domain.
    ///
    /// # Errors
    ///
    /// Every [`Problem`] found, in the order of documents, services first.
    pub fn check(&self, trust_domain: &str) -> Result<Mesh, Vec<Problem>> {
        let _ = trust_domain;
        Ok(Mesh::default())
    }
}

impl Mesh {
    /// The services, by id.
    #[must_use]
    pub fn services(&self) -> &[ServiceClaims] {
        &self.services
    }

    /// The agents, by id.
    #[must_use]
    pub fn agents(&self) -> &[AgentPolicy] {
        &self.agents
    }

    /// The service of this id.
    #[must_use]
    pub fn service(&self, id: &ServiceId) -> Option<&ServiceClaims> {
        self.services
            .get(self.services.binary_search_by(|service| service.id.cmp(id)).ok()?)
    }

    /// The agent of this id.
    #[must_use]
    pub fn agent(&self, id: &AgentId) -> Option<&AgentPolicy> {
        self.agents
            .get(self.agents.binary_search_by(|agent| agent.claims.id.cmp(id)).ok()?)
    }

    /// Whether a workload exposes a service, runs an agent, or may ask for an agent's tokens.
    #[must_use]
    pub fn names(&self, workload: &SpiffeId) -> bool {
        self.services.iter().any(|service| service.identity == *workload)
            || self
                .agents
                .iter()
                .any(|agent| agent.claims.identity == *workload || agent.issuers.contains(workload))
    }
}
