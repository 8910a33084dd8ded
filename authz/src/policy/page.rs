//! A page of a bundle: some of its agents, packed. A bundle may hold ten thousand.
//!
//! A page keeps each name once, whoever uses it, and the agents' lists as numbers of names: four allocations a page
//! instead of a dozen an agent. It depends on nothing else in its bundle, so that the next bundle can share it.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use super::{AgentClaims, ContentError, bundle::has_repeats};
use crate::{
    claims::{ServiceRef, ToolGrant},
    identity::{AgentId, ServiceId, SpiffeId, ToolName},
    order,
    scope::Scope,
};

/// The number of a name on its page.
type Number = u16;

/// Agents, packed.
pub(super) struct Page {
    /// The names, one after the other.
    text: Box<str>,
    /// Where each name ends in `text`.
    ends: Box<[u32]>,
    /// The lists of all agents, one after the other.
    lists: Box<[Number]>,
    /// The services that some agent reaches, each once.
    services: Box<[Number]>,
    /// Sorted by id.
    agents: Box<[Entry]>,
}

/// One agent.
struct Entry {
    id: Number,
    identity: [Number; 2],
    /// Where its lists begin in [`Page::lists`].
    start: u32,
    /// Where each of its lists ends, counted from `start`.
    ends: [u16; 7],
}

/// The lists of an agent, in their order.
#[derive(Clone, Copy)]
enum List {
    Tools,
    ForbiddenTools,
    Scope,
    MayCall,
    Reaches,
    Prompts,
    Resources,
}

impl Page {
    /// Packs agents.
    ///
    /// # Errors
    ///
    /// [`ContentError::Twice`] if two have one id, [`ContentError::TooMany`] if there are more names than numbers.
    pub(super) fn pack(mut claims: Vec<AgentClaims>) -> Result<Self, ContentError> {
        order::sort_by(&mut claims, |one, two| one.id.cmp(&two.id));
        if has_repeats(claims.iter().map(|agent| &agent.id)) {
            return Err(ContentError::Twice);
        }
        let mut packer = Packer::default();
        let agents: Box<[Entry]> = claims
            .iter()
            .map(|agent| packer.agent(agent))
            .collect::<Result<_, _>>()?;
        order::sort(&mut packer.services);
        packer.services.dedup();
        Ok(Self {
            text: packer.text.into(),
            ends: packer.ends.into(),
            lists: packer.lists.into(),
            services: packer.services.into(),
            agents,
        })
    }

    /// The agent of this id.
    pub(super) fn agent(&self, id: &str) -> Option<Agent<'_>> {
        let index = self.agents.binary_search_by(|entry| self.name(entry.id).cmp(id)).ok()?;
        self.agents.get(index).map(|entry| Agent { page: self, entry })
    }

    /// The agents, by id.
    pub(super) fn agents(&self) -> impl Iterator<Item = Agent<'_>> + Clone {
        self.agents.iter().map(|entry| Agent { page: self, entry })
    }

    /// The services that its agents reach, each once.
    pub(super) fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|&number| self.name(number))
    }

    /// What it holds on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.text.len()
            + size_of_val(&*self.ends)
            + size_of_val(&*self.lists)
            + size_of_val(&*self.services)
            + size_of_val(&*self.agents)
    }

    /// INVARIANT: only numbers that the packer gave out are asked for; the fallback, which is no name, is never seen.
    fn name(&self, number: Number) -> &str {
        let end = |number: usize| self.ends.get(number).map(|&end| end as usize);
        let number = usize::from(number);
        let start = number.checked_sub(1).map_or(Some(0), end);
        start
            .zip(end(number))
            .and_then(|(start, end)| self.text.get(start..end))
            .unwrap_or_default()
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.agents()).finish()
    }
}

/// Gives names their numbers.
#[derive(Default)]
struct Packer {
    numbers: BTreeMap<String, Number>,
    text: String,
    ends: Vec<u32>,
    lists: Vec<Number>,
    services: Vec<Number>,
}

impl Packer {
    fn agent(&mut self, claims: &AgentClaims) -> Result<Entry, ContentError> {
        let start = self.lists.len();
        let (namespace, account) = halves(&claims.identity);
        Ok(Entry {
            id: self.number(claims.id.as_str())?,
            identity: [self.number(namespace)?, self.number(account)?],
            start: u32::try_from(start).map_err(|_| ContentError::TooMany)?,
            ends: [
                self.list(start, &claims.tools)?,
                self.list(start, &claims.forbidden_tools)?,
                self.list(start, &claims.scope)?,
                self.list(start, &claims.may_call)?,
                self.reaches(start, &claims.reaches)?,
                self.list(start, &claims.prompts)?,
                self.list(start, &claims.resources)?,
            ],
        })
    }

    /// Appends a list; gives its end, counted from `start`.
    fn list(&mut self, start: usize, names: impl IntoIterator<Item = impl Display>) -> Result<u16, ContentError> {
        for name in names {
            let number = self.number(&name.to_string())?;
            self.lists.push(number);
        }
        u16::try_from(self.lists.len() - start).map_err(|_| ContentError::TooMany)
    }

    fn reaches(&mut self, start: usize, services: &[ServiceId]) -> Result<u16, ContentError> {
        let first = self.lists.len();
        let end = self.list(start, services)?;
        self.services.extend(self.lists.iter().skip(first));
        Ok(end)
    }

    fn number(&mut self, name: &str) -> Result<Number, ContentError> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        let number = Number::try_from(self.ends.len()).map_err(|_| ContentError::TooMany)?;
        self.text.push_str(name);
        self.ends
            .push(u32::try_from(self.text.len()).map_err(|_| ContentError::TooMany)?);
        self.numbers.insert(name.to_owned(), number);
        Ok(number)
    }
}

/// The policy of an agent.
#[derive(Clone, Copy)]
pub struct Agent<'a> {
    page: &'a Page,
    entry: &'a Entry,
}

impl<'a> Agent<'a> {
    /// Its name.
    #[must_use]
    pub fn id(self) -> &'a str {
        self.page.name(self.entry.id)
    }

    /// Whether its workload has exactly this identity.
    #[must_use]
    pub fn has_identity(self, identity: &SpiffeId) -> bool {
        self.identity() == halves(identity)
    }

    /// Whether its policy lists `tool` as offered by `service`; says nothing of what it forbids.
    #[must_use]
    pub fn lists_tool(self, service: &ServiceId, tool: &ToolName) -> bool {
        self.list(List::Tools).any(|entry| covers(entry, service, tool))
    }

    /// Whether its policy forbids `tool` as offered by `service`.
    #[must_use]
    pub fn forbids(self, service: &ServiceId, tool: &ToolName) -> bool {
        self.list(List::ForbiddenTools)
            .any(|entry| covers(entry, service, tool))
    }

    /// Whether its policy lists `prompt` as offered by `service`.
    #[must_use]
    pub fn lists_prompt(self, service: &ServiceId, prompt: &ToolName) -> bool {
        self.list(List::Prompts).any(|entry| covers(entry, service, prompt))
    }

    /// Whether its policy lists what `service` lists as `resource`: a URI, or a template by its text.
    #[must_use]
    pub fn lists_resource(self, service: &ServiceId, resource: &str) -> bool {
        self.list(List::Resources)
            .any(|entry| covers_resource(entry, service, resource))
    }

    /// Whether its policy holds exactly this scope.
    #[must_use]
    pub fn has_scope(self, scope: &Scope) -> bool {
        self.list(List::Scope).any(|entry| entry == scope.as_str())
    }

    /// Whether it may call `agent`.
    #[must_use]
    pub fn may_call(self, agent: &AgentId) -> bool {
        self.list(List::MayCall).any(|entry| entry == agent.as_str())
    }

    /// Whether it reaches a service.
    #[must_use]
    pub fn reaches(self, service: &ServiceId) -> bool {
        self.list(List::Reaches).any(|entry| entry == service.as_str())
    }

    /// Its identity, in its [`halves`].
    pub(super) fn identity(self) -> (&'a str, &'a str) {
        let [namespace, account] = self.entry.identity;
        (self.page.name(namespace), self.page.name(account))
    }

    fn list(self, list: List) -> impl Iterator<Item = &'a str> {
        let Entry { start, ends, .. } = self.entry;
        let [tools, forbidden, scope, may_call, reaches, prompts, resources] = *ends;
        let (from, to) = match list {
            List::Tools => (0, tools),
            List::ForbiddenTools => (tools, forbidden),
            List::Scope => (forbidden, scope),
            List::MayCall => (scope, may_call),
            List::Reaches => (may_call, reaches),
            List::Prompts => (reaches, prompts),
            List::Resources => (prompts, resources),
        };
        let at = |end: u16| *start as usize + usize::from(end);
        let numbers = self.page.lists.get(at(from)..at(to)).unwrap_or_default();
        numbers.iter().map(|&number| self.page.name(number))
    }
}

impl fmt::Debug for Agent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// What comes before the last slash of an identity, which many agents of a page share, and what comes after it.
fn halves(identity: &SpiffeId) -> (&str, &str) {
    // INVARIANT: a SPIFFE ID of a workload has a path; the fallback is never seen, and would still tell two apart.
    identity.as_str().rsplit_once('/').unwrap_or((identity.as_str(), ""))
}

fn covers(entry: &str, service: &ServiceId, tool: &ToolName) -> bool {
    match entry.strip_suffix(tool.as_str()) {
        Some("") => true,
        // Qualified entries are rare: only those that end in the very tool are parsed.
        Some(qualifier) if qualifier.ends_with('/') => {
            ToolGrant::parse(entry).is_ok_and(|grant| grant.covers(service, tool))
        }
        _ => false,
    }
}

fn covers_resource(entry: &str, service: &ServiceId, resource: &str) -> bool {
    match entry.strip_suffix(resource) {
        Some("") => true,
        Some(qualifier) => qualifier
            .strip_suffix('/')
            .is_some_and(|named| ServiceRef::parse(named).is_ok_and(|named| named.names(service))),
        None => false,
    }
}
