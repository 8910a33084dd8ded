//! Who reaches whom, whatever enforces it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use authz::identity::{ServiceId, SpiffeId};
use authz::manifest::{AgentPolicy, Mesh};
use authz::policy::ServiceClaims;

use super::Settings;

/// The pods of one service account in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Workload {
    pub(crate) namespace: String,
    pub(crate) service_account: String,
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)
    }
}

impl Workload {
    /// The pods behind the identity of a Kubernetes service account; of another identity nothing is known.
    pub(crate) fn of(identity: &SpiffeId) -> Option<Self> {
        let path = identity.as_str().strip_prefix("spiffe://")?;
        let mut segments = path.split('/').skip(1);
        match (
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
            segments.next(),
        ) {
            (Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) => Some(Self {
                namespace: namespace.to_owned(),
                service_account: service_account.to_owned(),
            }),
            _ => None,
        }
    }
}

/// The policy server, written `NAMESPACE/NAME:PORT`: its Service, whose pods run under the service account of that name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyServer {
    pub(crate) id: ServiceId,
    pub(crate) port: u16,
}

impl PolicyServer {
    pub(crate) fn workload(&self) -> Workload {
        Workload {
            namespace: self.id.namespace().to_owned(),
            service_account: self.id.name().to_owned(),
        }
    }
}

/// Why a policy server is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not NAMESPACE/NAME:PORT, such as `ostiary/policy-server:8080`")]
pub struct PolicyServerError;

impl FromStr for PolicyServer {
    type Err = PolicyServerError;

    fn from_str(text: &str) -> Result<Self, PolicyServerError> {
        let (id, port) = text.rsplit_once(':').ok_or(PolicyServerError)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(PolicyServerError)?;
        let id = ServiceId::parse(id).map_err(|_| PolicyServerError)?;
        Ok(Self { id, port })
    }
}

/// A mesh as what its workloads reach.
pub(crate) struct Reach<'m> {
    pub(crate) agents: Vec<AgentReach<'m>>,
    pub(crate) services: Vec<ServiceReach<'m>>,
    pub(crate) policy_server: &'m PolicyServer,
    /// All whose sidecars ask for policy, and all who may ask for tokens.
    pub(crate) policy_callers: BTreeMap<Workload, &'m SpiffeId>,
    pub(crate) cluster_domain: &'m str,
}

/// An agent and the services that it reaches.
pub(crate) struct AgentReach<'m> {
    pub(crate) policy: &'m AgentPolicy,
    pub(crate) workload: Workload,
    pub(crate) services: Vec<&'m ServiceClaims>,
}

/// A service and the agents that reach it.
pub(crate) struct ServiceReach<'m> {
    pub(crate) claims: &'m ServiceClaims,
    pub(crate) workload: Workload,
    pub(crate) agents: BTreeMap<Workload, &'m SpiffeId>,
}

impl ServiceReach<'_> {
    /// All who may open a connection: the agents, and who holds no capability.
    pub(crate) fn callers(&self) -> BTreeSet<Workload> {
        let exempt = self.claims.exempt.iter();
        let exempt = exempt.filter_map(|exempt| Workload::of(&exempt.peer));
        self.agents.keys().cloned().chain(exempt).collect()
    }
}

impl<'m> Reach<'m> {
    /// Works out who reaches whom.
    pub(crate) fn of(mesh: &'m Mesh, settings: &'m Settings) -> Self {
        let agents: Vec<_> = mesh.agents().iter().filter_map(|policy| agent(mesh, policy)).collect();
        let services: Vec<_> = mesh
            .services()
            .iter()
            .filter_map(|claims| service(mesh, claims))
            .collect();
        let identities = agents
            .iter()
            .flat_map(|agent| agent.policy.issuers.iter().chain([&agent.policy.claims.identity]));
        let identities = identities.chain(services.iter().map(|service| &service.claims.identity));
        let own = settings.policy_server.workload();
        Self {
            policy_callers: workloads(identities).filter(|(workload, _)| *workload != own).collect(),
            agents,
            services,
            policy_server: &settings.policy_server,
            cluster_domain: &settings.cluster_domain,
        }
    }
}

fn agent<'m>(mesh: &'m Mesh, policy: &'m AgentPolicy) -> Option<AgentReach<'m>> {
    Some(AgentReach {
        workload: Workload::of(&policy.claims.identity)?,
        services: policy.claims.reaches.iter().filter_map(|id| mesh.service(id)).collect(),
        policy,
    })
}

fn service<'m>(mesh: &'m Mesh, claims: &'m ServiceClaims) -> Option<ServiceReach<'m>> {
    let reaching = mesh.agents().iter().map(|policy| &policy.claims);
    let reaching = reaching.filter(|agent| agent.reaches.contains(&claims.id));
    Some(ServiceReach {
        workload: Workload::of(&claims.identity)?,
        agents: workloads(reaching.map(|agent| &agent.identity)).collect(),
        claims,
    })
}

fn workloads<'m>(identities: impl Iterator<Item = &'m SpiffeId>) -> impl Iterator<Item = (Workload, &'m SpiffeId)> {
    identities.filter_map(|identity| Some((Workload::of(identity)?, identity)))
}
