//! The rules that files obey together.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::{
    DocumentRef, Manifests, MayRefresh, Problem,
    agent::{self, AgentIdentity},
    problem::Report,
    service::{self, CheckedService},
};
use crate::{
    claims::ServiceRef,
    identity::{AgentId, ServiceId, SpiffeId},
    policy::{AgentClaims, Service, ServiceClaims},
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
#[derive(Debug, Clone, Default)]
pub struct Mesh {
    /// Sorted by id.
    services: Vec<ServiceClaims>,
    /// The same services, compiled, in the same order.
    compiled: Vec<Service>,
    /// Sorted by id.
    agents: Vec<AgentPolicy>,
}

/// What a file may refer to in others.
pub(super) struct Directory<'d> {
    services: &'d [CheckedService],
    by_name: BTreeMap<&'d str, Vec<&'d CheckedService>>,
    /// Services whose files have faults of their own: a reference to them is not another fault.
    faulty: BTreeSet<(&'d str, &'d str)>,
    /// All agents that have a file, faulty or not.
    agents: BTreeSet<&'d str>,
}

impl<'d> Directory<'d> {
    fn new(manifests: &'d Manifests, services: &'d [CheckedService]) -> Self {
        let mut by_name: BTreeMap<&str, Vec<&CheckedService>> = BTreeMap::new();
        for service in services {
            by_name.entry(service.claims.id.name()).or_default().push(service);
        }
        let metadata = manifests.services.iter().map(|service| &service.metadata);
        Self {
            services,
            by_name,
            faulty: metadata
                .map(|metadata| (metadata.namespace.as_str(), metadata.name.as_str()))
                .collect(),
            agents: manifests
                .agents
                .iter()
                .map(|agent| agent.metadata.name.as_str())
                .collect(),
        }
    }

    /// The services that a reference names.
    pub(super) fn named(&self, reference: &ServiceRef) -> Vec<&'d CheckedService> {
        let name = match reference {
            ServiceRef::Name(name) => name,
            ServiceRef::Id(id) => id.name(),
        };
        let named = self.by_name.get(name).into_iter().flatten().copied();
        named.filter(|service| reference.names(&service.claims.id)).collect()
    }

    /// Whether a reference that names no sound service names one with faults.
    pub(super) fn is_faulty(&self, reference: &ServiceRef) -> bool {
        match reference {
            ServiceRef::Name(name) => self.faulty.iter().any(|(_, known)| *known == &**name),
            ServiceRef::Id(id) => self.faulty.contains(&(id.namespace(), id.name())),
        }
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &'d CheckedService> {
        self.services.iter()
    }

    pub(super) fn has_agent(&self, name: &str) -> bool {
        self.agents.contains(name)
    }
}

impl Manifests {
    /// Checks all files, for a mesh of this trust domain.
    ///
    /// # Errors
    ///
    /// Every [`Problem`] found, services' first, else in the order of the documents.
    pub fn check(&self, trust_domain: &str) -> Result<Mesh, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut services = check_services(self, trust_domain, &mut problems);
        let agents = check_agents(self, trust_domain, &services, &mut problems);
        check_called(self, &mut problems);
        if !problems.is_empty() {
            problems.sort_by_key(|problem| match problem.document {
                DocumentRef::Service(index) => (0, index),
                DocumentRef::Agent(index) => (1, index),
            });
            return Err(problems);
        }
        services.sort_unstable_by(|one, two| one.claims.id.cmp(&two.claims.id));
        let (services, compiled) = services
            .into_iter()
            .map(|service| (service.claims, service.compiled))
            .unzip();
        Ok(Mesh {
            services,
            compiled,
            agents: agents.into_values().collect(),
        })
    }
}

fn check_services(manifests: &Manifests, trust_domain: &str, problems: &mut Vec<Problem>) -> Vec<CheckedService> {
    let mut services = Vec::new();
    let mut claimed = Claims::default();
    for (index, manifest) in manifests.services.iter().enumerate() {
        let mut report = Report::new(DocumentRef::Service(index), problems);
        let Some(service) = service::check(manifest, trust_domain, &mut report) else {
            continue;
        };
        claimed.check(&service.claims, &mut report);
        services.push(service);
    }
    services
}

/// What services lay claim to, and who was first.
#[derive(Default)]
struct Claims {
    ids: BTreeSet<ServiceId>,
    hosts: BTreeMap<String, ServiceId>,
    ports: BTreeMap<(SpiffeId, u16), ServiceId>,
}

impl Claims {
    fn check(&mut self, service: &ServiceClaims, report: &mut Report<'_>) {
        if !self.ids.insert(service.id.clone()) {
            let message = format!("another file describes `{}` too", service.id);
            report.add("/metadata/name", message, "keep one file a service, or rename one");
            return;
        }
        for (index, host) in service.hosts.iter().enumerate() {
            let field = format!("/spec/hosts/{index}");
            first(
                self.hosts.entry(host.clone()),
                service,
                field,
                &format!("host `{host}`"),
                report,
            );
        }
        for (index, port) in service.ports.iter().enumerate() {
            let field = format!("/spec/ports/{index}");
            let what = format!("port {port} of `{}`", service.identity);
            first(
                self.ports.entry((service.identity.clone(), *port)),
                service,
                field,
                &what,
                report,
            );
        }
    }
}

/// Lays a claim, or reports who has it.
fn first<K: Ord>(
    entry: Entry<'_, K, ServiceId>,
    service: &ServiceClaims,
    field: String,
    what: &str,
    report: &mut Report<'_>,
) {
    match entry {
        Entry::Vacant(vacant) => {
            vacant.insert(service.id.clone());
        }
        Entry::Occupied(holder) if *holder.get() != service.id => {
            report.add(
                field,
                format!("{what} belongs to `{}`", holder.get()),
                "give each service its own",
            );
        }
        Entry::Occupied(_) => {}
    }
}

fn check_agents(
    manifests: &Manifests,
    trust_domain: &str,
    services: &[CheckedService],
    problems: &mut Vec<Problem>,
) -> BTreeMap<AgentId, AgentPolicy> {
    let directory = Directory::new(manifests, services);
    let mut agents = BTreeMap::new();
    let mut identities: BTreeMap<SpiffeId, AgentId> = BTreeMap::new();
    for (index, manifest) in manifests.agents.iter().enumerate() {
        let mut report = Report::new(DocumentRef::Agent(index), problems);
        let Some(who) = agent::identify(manifest, trust_domain, &mut report) else {
            continue;
        };
        check_unique(&who, &agents, &mut identities, &mut report);
        let policy = agent::check(manifest, &who, &directory, &mut report);
        agents.insert(who.id, policy);
    }
    agents
}

/// An A2A service is its agent's own: another workload that could name itself so would be taken for it by callers.
fn check_called(manifests: &Manifests, problems: &mut Vec<Problem>) {
    for (index, service) in manifests.services.iter().enumerate() {
        let Some(name) = &service.spec.agent else { continue };
        let mut named = manifests.agents.iter().filter(|agent| agent.metadata.name == *name);
        let (message, advice) = match named.next() {
            None => (
                format!("there is no agent `{name}`"),
                "add its file, or correct the name",
            ),
            Some(agent)
                if agent.metadata.namespace != service.metadata.namespace
                    || agent.spec.service_account != service.spec.service_account =>
            {
                (
                    format!("agent `{name}` runs under another service account"),
                    "let namespace and `serviceAccount` be those of the agent's file",
                )
            }
            Some(_) => continue,
        };
        Report::new(DocumentRef::Service(index), problems).add("/spec/agent", message, advice);
    }
}

fn check_unique(
    who: &AgentIdentity,
    agents: &BTreeMap<AgentId, AgentPolicy>,
    identities: &mut BTreeMap<SpiffeId, AgentId>,
    report: &mut Report<'_>,
) {
    if agents.contains_key(&who.id) {
        let message = format!("another agent is called `{}`", who.id);
        report.add(
            "/metadata/name",
            message,
            "agents' names are unique in the whole mesh: rename one",
        );
    }
    match identities.entry(who.identity.clone()) {
        Entry::Vacant(vacant) => {
            vacant.insert(who.id.clone());
        }
        Entry::Occupied(holder) => {
            let message = format!("agent `{}` has the same service account", holder.get());
            report.add(
                "/spec/serviceAccount",
                message,
                "give each agent a service account of its own",
            );
        }
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

    pub(super) fn compiled(&self, id: &ServiceId) -> Option<&Service> {
        self.compiled
            .get(self.compiled.binary_search_by(|service| service.id().cmp(id)).ok()?)
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
