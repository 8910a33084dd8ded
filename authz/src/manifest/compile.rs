//! From a mesh to what one workload is told of it.

use std::collections::BTreeSet;

use super::{AgentPolicy, Mesh};
use crate::{
    claims::ToolGrant,
    identity::{AgentId, Issuer, ServiceId, SpiffeId},
    policy::{AgentClaims, BundleClaims, FORMAT, IssuerClaims, PolicyServerClaims, ServiceClaims},
    resource::ResourceGrant,
    scope::Scope,
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
        let services = self.services_of(workload);
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
            session_keys: Vec::new(),
            agents: self.agents_of(workload, &services),
            services,
        }
    }

    fn services_of(&self, workload: &SpiffeId) -> Vec<ServiceClaims> {
        let own = self.agents().iter().filter(|agent| agent.claims.identity == *workload);
        let reached: BTreeSet<&ServiceId> = own.flat_map(|agent| &agent.claims.reaches).collect();
        let concerns = |service: &&ServiceClaims| service.identity == *workload || reached.contains(&service.id);
        self.services().iter().filter(concerns).cloned().collect()
    }

    fn agents_of(&self, workload: &SpiffeId, services: &[ServiceClaims]) -> Vec<AgentClaims> {
        let exposed: Vec<&ServiceClaims> = services
            .iter()
            .filter(|service| service.identity == *workload)
            .collect();
        let all: Vec<&ServiceClaims> = services.iter().collect();
        let own: Vec<&AgentId> = self
            .agents()
            .iter()
            .filter(|agent| agent.claims.identity == *workload)
            .map(|agent| &agent.claims.id)
            .collect();
        let mut agents = Vec::new();
        for AgentPolicy { claims, .. } in self.agents() {
            if claims.identity == *workload {
                agents.push(self.narrow(claims, &all));
            } else if exposed.iter().any(|service| claims.reaches.contains(&service.id)) {
                let mut narrowed = self.narrow(claims, &exposed);
                narrowed.may_call.retain(|callee| own.contains(&callee));
                agents.push(narrowed);
            }
        }
        agents
    }

    /// An agent's policy, without what none of `services` could ask for: a workload is not told what else an agent may do.
    fn narrow(&self, agent: &AgentClaims, services: &[&ServiceClaims]) -> AgentClaims {
        let reached: Vec<&ServiceClaims> = services
            .iter()
            .copied()
            .filter(|service| agent.reaches.contains(&service.id))
            .collect();
        let offers = |grant: &ToolGrant| {
            reached
                .iter()
                .any(|service| service.tools.contains_key(grant.tool()) && grant.covers(&service.id, grant.tool()))
        };
        // A tool that is forbidden here stays so even where it is not offered: the denial then says which of the two.
        let concerns = |grant: &ToolGrant| {
            grant
                .service()
                .is_none_or(|named| reached.iter().any(|service| named.names(&service.id)))
        };
        let gets = |grant: &ToolGrant| {
            let mut reached = reached.iter();
            reached.any(|service| service.prompts.contains_key(grant.tool()) && grant.covers(&service.id, grant.tool()))
        };
        let reads = |grant: &ResourceGrant| {
            let mut reached = reached.iter();
            reached.any(|service| {
                service.resources.contains_key(grant.resource()) && grant.covers(&service.id, grant.resource())
            })
        };
        let needs = |scope: &Scope| {
            let mut compiled = reached.iter().filter_map(|service| self.compiled(&service.id));
            compiled.any(|service| service.could_need(scope, &agent.id))
        };
        AgentClaims {
            id: agent.id.clone(),
            identity: agent.identity.clone(),
            tools: agent.tools.iter().filter(|grant| offers(grant)).cloned().collect(),
            forbidden_tools: agent
                .forbidden_tools
                .iter()
                .filter(|grant| concerns(grant))
                .cloned()
                .collect(),
            prompts: agent.prompts.iter().filter(|grant| gets(grant)).cloned().collect(),
            resources: agent.resources.iter().filter(|grant| reads(grant)).cloned().collect(),
            scope: agent.scope.iter().filter(|scope| needs(scope)).cloned().collect(),
            may_call: agent.may_call.clone(),
            reaches: reached.iter().map(|service| service.id.clone()).collect(),
        }
    }
}
