//! The mini mesh: a policy server, an orchestrator, two agents and three services, each agent and service behind a sidecar.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use crate::backends::{self, Backend};
use crate::client::{Call, Client};
use crate::envoy::Envoy;
use crate::loopback::Loopback;
use crate::netns::Netns;
use crate::pki::{Ca, Credential, Workload};
use crate::policy_server::{self, PolicyServer};
use crate::run::RunDirectory;
use crate::sidecar::{Destination, Inbound, Outbound, POLICY_AUTHORITY, Plugin, Sidecar};
use crate::wait;

/// The port of every service.
const SERVICE_PORT: u16 = 8080;

/// The port where a sidecar takes its own workload's calls, as in Istio.
const OUTBOUND_PORT: u16 = 15_001;

/// The port of every Envoy's admin interface.
const ADMIN_PORT: u16 = 15_000;

/// Fresh connections that must all find a policy before a mesh counts as settled: each lands on a random worker, and
/// every worker polls for itself.
const SETTLED_PROBES: usize = 16;

/// How long a mesh may take to settle.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// What differs between meshes.
#[derive(Debug, Clone)]
pub struct Options {
    /// Worker threads of each sidecar.
    pub concurrency: u32,
    /// Envoy's `allow_on_headers_stop_iteration` and the filter's field of the same meaning.
    pub headers_stop_iteration: bool,
    /// Fields added to the policy server's configuration.
    pub policy_server: Value,
    /// Whether the policy server is stopped (its keys made) before the sidecars start.
    pub without_policy_server: bool,
    /// Whether the MCP server keeps sessions, as those before 2026-07-28 do.
    pub mcp_sessions: bool,
    /// Adds an agent that others call, `scribe`, with these lines added to its service's file; the other agents' files then
    /// are those of `tests/mesh/a2a`.
    pub called: Option<&'static str>,
    /// Adds an MCP server that offers one of everything, [`EVERYTHING`], and a WebDAV server, [`ARCHIVE`], all of the former and a
    /// file of the latter granted to `analyst-7`: the agent's file then is that of `tests/mesh/everything`.
    pub everything: bool,
    /// Adds a memory for each agent, by the files of the cluster's demo.
    pub memory: bool,
    /// The agents and services to start, of all.
    pub only: Option<&'static [&'static str]>,
}

impl Options {
    /// A mesh of these agents and services alone: each Envoy takes a second of a processor to compile the filter.
    pub fn only(workloads: &'static [&'static str]) -> Self {
        Self {
            only: Some(workloads),
            ..Self::default()
        }
    }

    fn starts(&self, workload: &str) -> bool {
        self.only.is_none_or(|only| only.contains(&workload))
    }
}

/// The agent that others call.
pub const CALLED: &str = "scribe";

/// The MCP server that offers one of everything.
pub const EVERYTHING: &str = "everything";

/// The WebDAV server.
pub const ARCHIVE: &str = "archive";

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 2,
            headers_stop_iteration: true,
            policy_server: json!({}),
            without_policy_server: false,
            mcp_sessions: false,
            called: None,
            everything: false,
            memory: false,
            only: None,
        }
    }
}

/// An agent behind its sidecar.
#[derive(Debug)]
pub struct Agent {
    /// Its name, which is its service account's too.
    pub name: String,
    /// Its certificate (its sidecar's; the agent's process does not see it).
    pub credential: Arc<Credential>,
    /// Its sidecar.
    pub envoy: Envoy,
    /// Where its sidecar takes calls on the host.
    pub outbound: SocketAddr,
    /// Its network namespace and where its sidecar takes calls inside it, if this machine has namespaces.
    pub inside: Option<(Netns, SocketAddr)>,
}

impl Agent {
    /// The agent's process: inside its namespace where there is one.
    pub fn client(&self) -> Client {
        match &self.inside {
            Some((netns, address)) => Client::plain(*address).inside(netns),
            None => Client::plain(self.outbound),
        }
    }
}

/// A service behind its sidecar.
#[derive(Debug)]
pub struct Service {
    /// Its name, which is its service account's too.
    pub name: String,
    /// How callers name it.
    pub host: String,
    /// Its certificate.
    pub credential: Arc<Credential>,
    /// Its sidecar.
    pub envoy: Envoy,
    /// Where its sidecar listens.
    pub address: SocketAddr,
    /// The application.
    pub backend: Backend,
}

impl Service {
    /// What callers write in `Host`.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.address.port())
    }
}

/// The mesh; it ends when it is dropped.
#[derive(Debug)]
pub struct Mesh {
    /// Agents by name.
    pub agents: BTreeMap<String, Agent>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// The policy server.
    pub policy_server: PolicyServer,
    /// Who asks for tokens.
    pub orchestrator: Arc<Credential>,
    /// A principal that may issue, but for none of the agents.
    pub scheduler: Arc<Credential>,
    /// The CA.
    pub ca: Ca,
    /// The folder of agent and service files that the policy server reads: a copy that a test may change.
    pub policy: PathBuf,
    /// Addresses.
    pub net: Loopback,
    /// Files.
    pub run: RunDirectory,
    /// Whether filters can hold a request's headers back until they have judged its body.
    pub headers_stop_iteration: bool,
    /// Why agents have no network namespaces, if they have none.
    pub without_netns: Option<String>,
}

impl Mesh {
    /// Starts a mesh and waits until every sidecar has its policy.
    ///
    /// # Errors
    ///
    /// When a part of it does not start.
    pub async fn start(name: &str, options: &Options) -> Result<Self> {
        let mesh = Self::start_at(RunDirectory::create(name)?, Loopback::claim()?, options).await?;
        if !options.without_policy_server {
            mesh.settled().await?;
        }
        Ok(mesh)
    }

    /// Starts a mesh with these files and addresses, without waiting for policies.
    ///
    /// # Errors
    ///
    /// When a part of it does not start.
    pub async fn start_at(run: RunDirectory, net: Loopback, options: &Options) -> Result<Self> {
        let ca = Ca::create(&run.file("pki"))?;
        let policy = run.file("policy");
        copy_files(&crate::built::mesh_files().join("policy"), &policy)?;
        if let Some(lines) = options.called {
            copy_files(&crate::built::mesh_files().join("a2a"), &policy)?;
            let file = policy.join(format!("service-{CALLED}.yaml"));
            let text = std::fs::read_to_string(&file)?;
            std::fs::write(file, format!("{}\n{lines}", text.trim_end()))?;
        }
        if options.everything {
            copy_files(&crate::built::mesh_files().join(EVERYTHING), &policy)?;
        }
        if options.memory {
            let files = crate::built::mesh_files().join("../../k8s/demo/policy");
            for file in ["agent-analyst-7.yaml", "agent-writer-2.yaml", "service-memory.yaml"] {
                std::fs::copy(files.join(file), policy.join(file)).with_context(|| format!("cannot copy {file}"))?;
            }
        }
        let orchestrator = ca.issue(&Workload::new("orchestration", "orchestrator"), &[])?;
        let scheduler = ca.issue(&Workload::new("orchestration", "scheduler"), &[])?;
        let issuers = [&orchestrator, &scheduler].map(|issuer| (issuer.workload.spiffe(), vec!["issuer".to_owned()]));
        let server = policy_server::Options {
            policy: policy.clone(),
            roles: issuers.into(),
            config: options.policy_server.clone(),
        };
        let mut policy_server = PolicyServer::start(&server, &ca, &net, &run).await?;
        if options.without_policy_server {
            policy_server.stop_server().await?;
        }
        let plugin = Plugin::built(policy_server.bundle_jwks())?.headers_stop_iteration(options.headers_stop_iteration);
        let plan = Plan {
            ca: &ca,
            net: &net,
            run: &run,
            policy_server: &policy_server,
            plugin,
            options,
        };
        // All start side by side: Envoys compile the filter meanwhile, the MCP server loads its SDK.
        let services = plan.services()?;
        let (agents, without_netns) = plan.agents(&services).await?;
        for service in services.values() {
            service.backend.ready().await?;
        }
        for envoy in services
            .values()
            .map(|service| &service.envoy)
            .chain(agents.values().map(|agent| &agent.envoy))
        {
            envoy.ready().await?;
        }
        Ok(Self {
            agents,
            services,
            policy_server,
            orchestrator,
            scheduler,
            ca,
            policy,
            net,
            run,
            headers_stop_iteration: options.headers_stop_iteration,
            without_netns,
        })
    }

    /// Waits until every worker of every sidecar has a policy. No agent is denied anything meanwhile: that would count for it.
    ///
    /// # Errors
    ///
    /// When one has none in time.
    pub async fn settled(&self) -> Result<()> {
        for agent in self.agents.values() {
            let keys = Call::new("GET", POLICY_AUTHORITY, "/.well-known/jwks.json");
            settled(&agent.name, &Client::plain(agent.outbound), &keys).await?;
        }
        for service in self.services.values() {
            let stranger = Some(&*self.orchestrator);
            let client = Client::tls(service.address, &service.host, &self.ca, stranger)?;
            let nowhere = Call::new("GET", &service.authority(), "/");
            settled(&service.name, &client, &nowhere).await?;
        }
        Ok(())
    }

    /// An agent by its name.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn agent(&self, name: &str) -> Result<&Agent> {
        self.agents.get(name).ok_or_else(|| anyhow!("no agent `{name}`"))
    }

    /// A service by its name.
    ///
    /// # Errors
    ///
    /// When there is none of that name.
    pub fn service(&self, name: &str) -> Result<&Service> {
        self.services.get(name).ok_or_else(|| anyhow!("no service `{name}`"))
    }

    /// A client of a service's sidecar that shows an agent's certificate: an agent that has got around its own sidecar.
    ///
    /// # Errors
    ///
    /// When there is no such service or agent.
    pub fn direct(&self, service: &str, agent: &str) -> Result<Client> {
        let service = self.service(service)?;
        Client::tls(
            service.address,
            &service.host,
            &self.ca,
            Some(&self.agent(agent)?.credential),
        )
    }

    /// A token that the orchestrator asks for.
    ///
    /// # Errors
    ///
    /// When the policy server refuses.
    pub async fn token(&self, body: &Value) -> Result<String> {
        self.policy_server.token(&self.ca, &self.orchestrator, body).await
    }

    /// What people and tools need to know of a running mesh (`target/mesh.json`).
    pub fn describe(&self) -> Value {
        let credential = |credential: &Credential| {
            json!({
                "spiffe_id": credential.workload.spiffe(),
                "certificate": credential.certificate_path,
                "key": credential.key_path,
            })
        };
        let agents = self.agents.values().map(|agent| {
            let inside = agent.inside.as_ref().map(
                |(netns, address)| json!({"network_namespace": netns.path(), "outbound": format!("http://{address}")}),
            );
            let described = json!({
                "outbound": format!("http://{}", agent.outbound),
                "inside": inside,
                "credential": credential(&agent.credential),
                "admin": format!("http://{}", agent.envoy.admin_address()),
            });
            (agent.name.clone(), described)
        });
        let services = self.services.values().map(|service| {
            let described = json!({
                "inbound": format!("https://{}", service.address),
                "host": service.host,
                "credential": credential(&service.credential),
                "requests": self.run.file(&format!("{}.requests.jsonl", service.name)),
                "admin": format!("http://{}", service.envoy.admin_address()),
            });
            (service.name.clone(), described)
        });
        json!({
            "trust_domain": crate::pki::TRUST_DOMAIN,
            "ca": self.ca.path(),
            "agents": agents.collect::<serde_json::Map<_, _>>(),
            "services": services.collect::<serde_json::Map<_, _>>(),
            "policy_server": {
                "url": format!("https://{}", self.policy_server.address()),
                "host": POLICY_AUTHORITY,
                "config": self.policy_server.config(),
                "policy": self.policy,
                "admin": self.policy_server.sidecar().map(|envoy| format!("http://{}", envoy.admin_address())),
            },
            "issuer": credential(&self.orchestrator),
            "logs": self.run.path(),
        })
    }
}

/// What the parts of a mesh have in common while it starts.
struct Plan<'a> {
    ca: &'a Ca,
    net: &'a Loopback,
    run: &'a RunDirectory,
    policy_server: &'a PolicyServer,
    plugin: Plugin,
    options: &'a Options,
}

impl Plan<'_> {
    fn services(&self) -> Result<BTreeMap<String, Service>> {
        let (run, options) = (self.run, self.options);
        let everything = options.everything;
        let mut services = BTreeMap::new();
        let mut start = |is_wanted: bool, name: &str, start: &dyn Fn() -> Result<Service>| {
            if is_wanted && options.starts(name) {
                services.insert(name.to_owned(), start()?);
            }
            anyhow::Ok(())
        };
        start(true, "warehouse", &|| {
            self.service("data", 21, Backend::warehouse(run)?)
        })?;
        start(true, "reports", &|| self.service("data", 22, Backend::reports(run)?))?;
        start(true, "mcp", &|| {
            self.service("tools", 23, Backend::mcp(run, options.mcp_sessions)?)
        })?;
        start(options.called.is_some(), CALLED, &|| {
            let authority = format!("{CALLED}.agents.svc.cluster.local:{SERVICE_PORT}");
            self.service("agents", 24, Backend::a2a(CALLED, &authority, run)?)
        })?;
        start(everything, EVERYTHING, &|| {
            let backend = Backend::everything(EVERYTHING, run)?;
            // So the conformance suite calls servers, and no other name.
            self.service_named("localhost".to_owned(), "tools", 25, backend)
        })?;
        start(everything, ARCHIVE, &|| {
            self.service("data", 26, Backend::dav(ARCHIVE, &["archive", "secrets"], run)?)
        })?;
        start(options.memory, "memory", &|| {
            self.service("data", 27, Backend::start("memory", run, backends::remembered())?)
        })?;
        Ok(services)
    }

    fn service(&self, namespace: &str, host_number: u8, backend: Backend) -> Result<Service> {
        let host = format!("{}.{namespace}.svc.cluster.local", backend.name());
        self.service_named(host, namespace, host_number, backend)
    }

    fn service_named(&self, host: String, namespace: &str, host_number: u8, backend: Backend) -> Result<Service> {
        let name = backend.name().to_owned();
        let workload = Workload::new(namespace, &name);
        let credential = self.ca.issue(&workload, &[&host])?;
        let address = self.net.socket(host_number, SERVICE_PORT);
        let sidecar = self
            .sidecar(&credential, host_number)
            .with_inbound(Inbound::new(address, backend.socket()));
        let envoy = sidecar.spawn(self.run)?;
        Ok(Service {
            name,
            host,
            credential,
            envoy,
            address,
            backend,
        })
    }

    async fn agents(&self, services: &BTreeMap<String, Service>) -> Result<(BTreeMap<String, Agent>, Option<String>)> {
        let mut destinations: Vec<Destination> = services.values().map(destination).collect();
        destinations.push(Destination {
            name: "policy-server-api".to_owned(),
            hosts: vec![POLICY_AUTHORITY.to_owned()],
            address: self.policy_server.address(),
            identity: PolicyServer::workload().spiffe(),
        });
        let (mut agents, mut without_netns) = (BTreeMap::new(), None);
        let known = [("analyst-7", 11), ("writer-2", 12)];
        for (name, number) in known.into_iter().filter(|(name, _)| self.options.starts(name)) {
            let netns = Netns::create(name, self.run).await;
            let netns = netns.map_err(|error| without_netns = Some(format!("{error:#}"))).ok();
            agents.insert(name.to_owned(), self.agent(name, number, netns, destinations.clone())?);
        }
        Ok((agents, without_netns))
    }

    fn agent(&self, name: &str, number: u8, netns: Option<Netns>, destinations: Vec<Destination>) -> Result<Agent> {
        let credential = self.ca.issue(&Workload::new("agents", name), &[])?;
        let outbound = self.net.socket(number, OUTBOUND_PORT);
        let inside = netns.map(|netns| (netns, SocketAddr::from(([127, 0, 0, 1], OUTBOUND_PORT))));
        let sidecar = self.sidecar(&credential, number);
        let sidecar = sidecar.with_outbound(Outbound {
            address: outbound,
            inside: inside.clone(),
            destinations,
        });
        let envoy = sidecar.spawn(self.run)?;
        Ok(Agent {
            name: name.to_owned(),
            credential,
            envoy,
            outbound,
            inside,
        })
    }

    fn sidecar(&self, credential: &Arc<Credential>, number: u8) -> Sidecar {
        let mut sidecar = Sidecar::new(credential, self.ca, self.net.socket(number, ADMIN_PORT));
        sidecar.concurrency = self.options.concurrency;
        sidecar.with_filter(self.plugin.clone(), self.policy_server.upstream())
    }
}

fn destination(service: &Service) -> Destination {
    Destination {
        name: service.name.clone(),
        hosts: vec![service.host.clone()],
        address: service.address,
        identity: service.credential.workload.spiffe(),
    }
}

/// Waits until calls on fresh connections are judged by a policy, whatever the verdict.
async fn settled(name: &str, client: &Client, call: &Call) -> Result<()> {
    let mut found = 0;
    wait::until(
        &format!("every worker of {name} to have its policy"),
        SETTLE_LIMIT,
        async || {
            let probe = client.send(call.clone()).await;
            found = if probe.is_ok_and(|answer| answer.status != 503) {
                found + 1
            } else {
                0
            };
            (found >= SETTLED_PROBES).then_some(())
        },
    )
    .await
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
