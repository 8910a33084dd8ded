//! Agents, packed: a bundle may hold ten thousand.

use std::fmt::Display;

use super::{AgentClaims, ServiceIndex};
use crate::{
    claims::ToolGrant,
    identity::{AgentId, ServiceId, SpiffeId, ToolName},
    scope::Scope,
};

/// The policy of an agent.
///
/// Lists are one string each, joined by line feeds, which no name holds: an allocation a list instead of one a
/// name. Lists are short, so they are searched from the front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    id: AgentId,
    identity: SpiffeId,
    tools: Box<str>,
    forbidden_tools: Box<str>,
    scope: Box<str>,
    may_call: Box<str>,
    /// Sorted.
    reaches: Box<[ServiceIndex]>,
}

impl Agent {
    /// Packs the claims of an agent; `reaches` are its services by their places.
    pub(super) fn pack(claims: AgentClaims, mut reaches: Vec<ServiceIndex>) -> Self {
        reaches.sort_unstable();
        reaches.dedup();
        Self {
            id: claims.id,
            identity: claims.identity,
            tools: join(claims.tools),
            forbidden_tools: join(claims.forbidden_tools),
            scope: join(claims.scope.iter()),
            may_call: join(claims.may_call),
            reaches: reaches.into(),
        }
    }

    /// What it holds on the heap, with 16 bytes a shared name or list for the allocator.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let lists = [&self.tools, &self.forbidden_tools, &self.scope, &self.may_call];
        let texts: usize = lists.iter().map(|list| list.len() + 16).sum();
        let names = [self.id.as_str(), self.identity.as_str()];
        let shared: usize = names.iter().map(|name| name.len() + 2 * size_of::<usize>() + 16).sum();
        texts + shared + self.reaches.len() * size_of::<ServiceIndex>() + 16
    }

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

fn join(entries: impl IntoIterator<Item = impl Display>) -> Box<str> {
    let texts: Vec<String> = entries.into_iter().map(|entry| entry.to_string()).collect();
    texts.join("\n").into()
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
