//! What an agent used of its file, and the smallest file that explains it.

use std::collections::BTreeSet;

use crate::audit::{Kind, Outcome, Record};
use crate::claims::{ServiceRef, ToolGrant};
use crate::identity::{AgentId, ServiceId, ToolName};
use crate::manifest::{AgentSpec, Mesh};
use crate::policy::ServiceClaims;
use crate::resource::{ResourceGrant, ResourceTemplate};
use crate::scope::Scope;

/// What the permitted calls of one agent used, bounded by what the files list.
#[derive(Clone, Debug)]
pub struct Usage<'m> {
    agent: AgentId,
    mesh: &'m Mesh,
    calls: u64,
    services: BTreeSet<ServiceId>,
    tools: BTreeSet<(ServiceId, ToolName)>,
    prompts: BTreeSet<(ServiceId, ToolName)>,
    /// As their services list them.
    resources: BTreeSet<(ServiceId, String)>,
    scopes: BTreeSet<Scope>,
    /// Agents that it called, by the scope that this needs.
    called: BTreeSet<String>,
}

/// An entry of a file that nothing used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Removed {
    /// The field, as the file has it.
    pub field: &'static str,
    /// The entry.
    pub entry: String,
}

impl<'m> Usage<'m> {
    /// Nothing has been used yet.
    pub fn new(agent: &AgentId, mesh: &'m Mesh) -> Self {
        Self {
            agent: agent.clone(),
            mesh,
            calls: 0,
            services: BTreeSet::new(),
            tools: BTreeSet::new(),
            prompts: BTreeSet::new(),
            resources: BTreeSet::new(),
            scopes: BTreeSet::new(),
            called: BTreeSet::new(),
        }
    }

    /// How many permitted calls there were, each as often as a sidecar permitted it.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Adds what a record tells, if it is of a permitted call of the agent to a service that there is a file of.
    pub fn add(&mut self, record: &Record<'_>) {
        let is_permitted = record.kind == Kind::Decision && record.verdict == Some(Outcome::Permit);
        if !is_permitted || record.agent_id.as_deref() != Some(self.agent.as_str()) {
            return;
        }
        let id = record.service.as_deref().and_then(|id| ServiceId::parse(id).ok());
        let mesh = self.mesh;
        let Some(service) = id.and_then(|id| mesh.service(&id)) else {
            return;
        };
        self.calls += 1;
        self.services.insert(service.id.clone());
        if let Some(facts) = &record.facts {
            let name = |name: &str| ToolName::parse(name).ok().map(|name| (service.id.clone(), name));
            self.tools.extend(facts.tool.as_deref().and_then(name));
            self.prompts.extend(facts.prompt.as_deref().and_then(name));
            for (uri, scope) in &facts.resources {
                let templates = templates(service, uri);
                self.resources
                    .extend(templates.map(|template| (service.id.clone(), template)));
                self.scope(scope);
            }
            self.scope(facts.scope.as_deref().unwrap_or_default());
        }
    }

    /// Notes a scope, if the agent's file lists it: what it used by another file is not in this one.
    fn scope(&mut self, text: &str) {
        let policy = self.mesh.agent(&self.agent);
        let Some(scope) = Scope::parse(text).ok() else { return };
        self.called.extend(scope.called_agent().map(str::to_owned));
        if policy.is_some_and(|policy| policy.claims.scope.contains(&scope)) {
            self.scopes.insert(scope);
        }
    }

    /// The smallest file that explains these calls, and what it lacks of the one that was given. What denies or limits stays:
    /// forbidden tools, budgets, who may ask for tokens.
    pub fn shrink(&self, spec: &AgentSpec) -> (AgentSpec, Vec<Removed>) {
        let mut removed = Vec::new();
        let mut keep = |field: &'static str, entries: &[String], is_used: &dyn Fn(&str) -> bool| -> Vec<String> {
            let (used, unused): (Vec<_>, Vec<_>) = entries.iter().cloned().partition(|entry| is_used(entry));
            removed.extend(unused.into_iter().map(|entry| Removed { field, entry }));
            used
        };
        let shrunk = AgentSpec {
            tools: keep("tools", &spec.tools, &|entry| covers(entry, &self.tools)),
            prompts: keep("prompts", &spec.prompts, &|entry| covers(entry, &self.prompts)),
            resources: keep("resources", &spec.resources, &|entry| {
                let grant = ResourceGrant::parse(entry);
                grant.is_ok_and(|grant| {
                    self.resources
                        .iter()
                        .any(|(service, template)| grant.covers(service, template))
                })
            }),
            scope: keep("scope", &spec.scope, &|entry| {
                Scope::parse(entry).is_ok_and(|scope| self.scopes.contains(&scope))
            }),
            may_call: keep("mayCall", &spec.may_call, &|entry| self.called.contains(entry)),
            reaches: keep("reaches", &spec.reaches, &|entry| {
                let reference = ServiceRef::parse(entry);
                reference.is_ok_and(|reference| self.services.iter().any(|service| reference.names(service)))
            }),
            ..spec.clone()
        };
        (shrunk, removed)
    }
}

/// The resources and templates of a service that a URI names. A completion names a template itself.
fn templates<'s>(service: &'s ServiceClaims, uri: &'s str) -> impl Iterator<Item = String> + 's {
    let matching = service.resources.keys().filter(move |template| {
        *template == uri || ResourceTemplate::parse(template).is_ok_and(|parsed| parsed.captures(uri).is_some())
    });
    matching.cloned()
}

fn covers(entry: &str, used: &BTreeSet<(ServiceId, ToolName)>) -> bool {
    let grant = ToolGrant::parse(entry);
    grant.is_ok_and(|grant| used.iter().any(|(service, tool)| grant.covers(service, tool)))
}
