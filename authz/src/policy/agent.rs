//! Agents, packed: a bundle may hold ten thousand.

use super::ServiceIndex;
use crate::{
    claims::ToolGrant,
    identity::{AgentId, ServiceId, SpiffeId, ToolName},
    scope::Scope,
};

/// The policy of an agent.
///
/// Lists are one string each, sorted and joined by line feeds, which no name holds: an allocation a list instead of one a
/// name. Lists are short, so they are searched from the front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub(super) id: AgentId,
    pub(super) identity: SpiffeId,
    pub(super) tools: Box<str>,
    pub(super) forbidden_tools: Box<str>,
    pub(super) scope: Box<str>,
    pub(super) may_call: Box<str>,
    /// Sorted.
    pub(super) reaches: Box<[ServiceIndex]>,
}

impl Agent {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> &AgentId {
        &self.id
    }

    /// The identity of its workload.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// Whether its policy lists `tool` as offered by `service`; says nothing of what it forbids.
    #[must_use]
    pub fn lists_tool(&self, service: &ServiceId, tool: &ToolName) -> bool {
        covers(&self.tools, service, tool)
    }

    /// Whether its policy forbids `tool` as offered by `service`.
    #[must_use]
    pub fn forbids(&self, service: &ServiceId, tool: &ToolName) -> bool {
        covers(&self.forbidden_tools, service, tool)
    }

    /// Whether its policy holds exactly this scope.
    #[must_use]
    pub fn has_scope(&self, scope: &Scope) -> bool {
        self.scope.split('\n').any(|entry| entry == scope.as_str())
    }

    /// Whether it may call `agent`.
    #[must_use]
    pub fn may_call(&self, agent: &AgentId) -> bool {
        self.may_call.split('\n').any(|entry| entry == agent.as_str())
    }

    /// Whether it reaches a service.
    #[must_use]
    pub fn reaches(&self, service: ServiceIndex) -> bool {
        self.reaches.binary_search(&service).is_ok()
    }
}

fn covers(list: &str, service: &ServiceId, tool: &ToolName) -> bool {
    list.split('\n').any(|entry| match entry.strip_suffix(tool.as_str()) {
        Some("") => true,
        // Qualified entries are rare: only those that end in the very tool are parsed.
        Some(qualifier) if qualifier.ends_with('/') => {
            ToolGrant::parse(entry).is_ok_and(|grant| grant.covers(service, tool))
        }
        _ => false,
    })
}
