//! The mesh under load: two services with applications that cost nothing, and the outbound side of one agent.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use authz::policy::RecordMode;
use serde_json::{Value, json};

use super::application::{Application, ENDLESS_TABLE, HANGING_TABLE};
use crate::client::{Call, Client};
use crate::envoy::Envoy;
use crate::loopback::Loopback;
use crate::pki::{Ca, Credential, Workload};
use crate::policy_server::{self, PolicyServer};
use crate::run::RunDirectory;
use crate::sidecar::{Destination, Inbound, Outbound, Plugin, Sidecar};
use crate::wait;

/// The agent that has an outbound sidecar; it calls directly too.
pub const ANALYST: &str = "analyst-7";
/// An agent that does as it may.
pub const READER: &str = "reader-3";
/// The agent that turns hostile.
pub const WRITER: &str = "writer-2";

/// The table that may be read; it is there at once.
pub const TABLE: &str = "sales_q1_2026";

const WORKERS: u32 = 2;
const SERVICE_PORT: u16 = 8080;
const OUTBOUND_PORT: u16 = 15_001;
const ADMIN_PORT: u16 = 15_000;

/// Fresh connections that must all find a policy: each lands on a random worker, and every worker polls for itself.
const SETTLED_PROBES: usize = 24;
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// A gauge must be at rest for so many looks in a row.
const RESTING_LOOKS: usize = 30;
const REST_LIMIT: Duration = Duration::from_secs(180);

/// A service behind its sidecar.
#[derive(Debug)]
pub struct Served {
    /// What callers write in `Host`.
    pub authority: String,
    /// The host's name alone.
    pub host: String,
    /// Where its sidecar listens.
    pub address: SocketAddr,
    /// Its sidecar.
    pub envoy: Envoy,
    /// The application.
    pub application: Application,
}

/// The mesh; it ends when it is dropped.
#[derive(Debug)]
pub struct LoadMesh {
    /// Data over HTTP.
    pub warehouse: Served,
    /// Tools over MCP.
    pub mcp: Served,
    /// The outbound sidecar of [`ANALYST`].
    pub outbound: Envoy,
    /// Where it takes calls.
    pub outbound_address: SocketAddr,
    /// The policy server.
    pub policy_server: PolicyServer,
    /// Who asks for tokens.
    pub orchestrator: Arc<Credential>,
    /// The CA.
    pub ca: Ca,
    /// Files.
    pub run: RunDirectory,
    credentials: Vec<Arc<Credential>>,
    _net: Loopback,
}

impl LoadMesh {
    /// Starts the mesh, with these fields in the policy server's configuration, and waits until it has its policy.
    ///
    /// # Errors
    ///
    /// When a part of it does not start.
    pub async fn start(name: &str, config: Value) -> Result<Self> {
        // The server is killed under load, and calls that wait for their records would be denied meanwhile.
        Self::start_recording(name, config, RecordMode::Batched).await
    }

    /// The same, where calls of both services wait for their records, or do not.
    ///
    /// # Errors
    ///
    /// When a part of it does not start.
    pub async fn start_recording(name: &str, config: Value, record: RecordMode) -> Result<Self> {
        let (run, net) = (RunDirectory::create(name)?, Loopback::claim()?);
        let ca = Ca::create(&run.file("pki"))?;
        write_policy(&run.file("policy"), record)?;
        let orchestrator = ca.issue(&Workload::new("orchestration", "orchestrator"), &[])?;
        let options = policy_server::Options {
            policy: run.file("policy"),
            roles: vec![(orchestrator.workload.spiffe(), vec!["issuer".to_owned()])],
            config,
        };
        let policy_server = PolicyServer::start(&options, &ca, &net, &run).await?;
        let credentials = [ANALYST, READER, WRITER].map(|agent| ca.issue(&Workload::new("agents", agent), &[]));
        let credentials = credentials.into_iter().collect::<Result<Vec<_>>>()?;
        let plan = Plan {
            ca: &ca,
            net: &net,
            run: &run,
            policy_server: &policy_server,
        };
        let warehouse = plan.service("data", "warehouse", 21)?;
        let mcp = plan.service("tools", "mcp", 23)?;
        let (outbound, outbound_address) = plan.outbound(credentials.first(), &[&warehouse, &mcp])?;
        let mesh = Self {
            warehouse,
            mcp,
            outbound,
            outbound_address,
            policy_server,
            orchestrator,
            ca,
            run,
            credentials,
            _net: net,
        };
        for (_, envoy) in mesh.envoys() {
            envoy.ready().await?;
        }
        mesh.settled().await?;
        Ok(mesh)
    }

    /// The sidecars with the filter, by name.
    pub fn envoys(&self) -> [(&'static str, &Envoy); 3] {
        [
            ("warehouse", &self.warehouse.envoy),
            ("mcp", &self.mcp.envoy),
            (ANALYST, &self.outbound),
        ]
    }

    /// Kills one of the sidecars, by its place among [`Self::envoys`], as a crash would, starts it again and waits until it
    /// serves.
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub async fn crash_envoy(&mut self, number: usize) -> Result<()> {
        let envoy = match number {
            0 => &mut self.warehouse.envoy,
            1 => &mut self.mcp.envoy,
            _ => &mut self.outbound,
        };
        envoy.crash()?;
        envoy.ready().await
    }

    /// An agent's certificate.
    ///
    /// # Errors
    ///
    /// When there is no such agent.
    pub fn credential(&self, agent: &str) -> Result<&Arc<Credential>> {
        let mut credentials = self.credentials.iter();
        let found = credentials.find(|credential| credential.workload.service_account == agent);
        found.ok_or_else(|| anyhow!("no agent `{agent}`"))
    }

    /// A client of a service's sidecar that shows an agent's certificate.
    ///
    /// # Errors
    ///
    /// When there is no such agent.
    pub fn client(&self, service: &Served, agent: &str) -> Result<Client> {
        let client = Client::tls(service.address, &service.host, &self.ca, Some(self.credential(agent)?))?;
        Ok(client.within(Duration::from_secs(60)))
    }

    /// A token for an agent that outlives the test, for its whole scope and tools.
    ///
    /// # Errors
    ///
    /// When the policy server refuses.
    pub async fn token(&self, agent: &str) -> Result<String> {
        let body = token_request(agent);
        self.policy_server.token(&self.ca, &self.orchestrator, &body).await
    }

    /// Waits until every worker of every sidecar decides by a policy. It asks in the name of [`WRITER`], with calls that
    /// get a code that no other calls here get.
    ///
    /// # Errors
    ///
    /// When one has none in time.
    pub async fn settled(&self) -> Result<()> {
        let probes = [
            (self.client(&self.warehouse, WRITER)?, &self.warehouse),
            (self.client(&self.mcp, WRITER)?, &self.mcp),
            (Client::plain(self.outbound_address), &self.warehouse),
        ];
        for (client, service) in probes {
            let mut found = 0;
            let what = format!("a policy in every worker before {}", service.authority);
            wait::until(&what, SETTLE_LIMIT, async || {
                let probe = client.send(Call::new("GET", &service.authority, "/v1//x")).await;
                let judged = probe.is_ok_and(|answer| answer.status != 503);
                found = if judged { found + 1 } else { 0 };
                (found >= SETTLED_PROBES).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until nothing is on its way: no stream, no record in a sidecar's queue, and nothing new in the store.
    ///
    /// # Errors
    ///
    /// When something stays.
    pub async fn at_rest(&self) -> Result<()> {
        let (mut looks, mut records, mut last) = (0, 0, String::new());
        let rest = wait::until("the mesh to come to rest", REST_LIMIT, async || {
            let busy = self.busy().await.unwrap_or_else(|error| format!("{error:#}"));
            let stored = super::ledger::count(&self.database()).await.unwrap_or_default();
            looks = if busy.is_empty() && stored == records {
                looks + 1
            } else {
                0
            };
            (records, last) = (stored, busy);
            tokio::time::sleep(Duration::from_millis(80)).await;
            (looks >= RESTING_LOOKS).then_some(())
        });
        rest.await.with_context(|| format!("still busy: {last}"))
    }

    /// Gauges that are not at rest.
    async fn busy(&self) -> Result<String> {
        let mut busy = Vec::new();
        for (name, envoy) in self.envoys() {
            for (stat, value) in envoy.stats("").await? {
                let watched = stat.ends_with("ostiary_record_queue")
                    || stat == "http.inbound.downstream_rq_active"
                    || stat == "http.outbound.downstream_rq_active"
                    || stat == "cluster.application.upstream_rq_active";
                if watched && value > 0 {
                    busy.push(format!("{name}: {stat} {value}"));
                }
            }
        }
        for service in [&self.warehouse, &self.mcp] {
            let active = service.application.active();
            if active > 0 {
                busy.push(format!("{}: {active} in the application", service.authority));
            }
        }
        Ok(busy.join(", "))
    }

    /// The policy server's database.
    pub fn database(&self) -> std::path::PathBuf {
        self.run.file("policy-server").join("ostiary.db")
    }

    /// Ends the mesh and removes what it stored: hundreds of megabytes that nobody reads after a success.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn forget(self) -> Result<()> {
        let data = self.run.file("policy-server");
        drop(self);
        Ok(std::fs::remove_dir_all(data)?)
    }

    /// The bytes of the database with its write-ahead log.
    pub fn database_bytes(&self) -> u64 {
        let files = ["ostiary.db", "ostiary.db-wal"].map(|name| self.run.file("policy-server").join(name));
        files
            .iter()
            .filter_map(|file| Some(std::fs::metadata(file).ok()?.len()))
            .sum()
    }
}

/// What a token for an agent's whole policy is asked for with.
pub fn token_request(agent: &str) -> Value {
    let scope = [TABLE, HANGING_TABLE, ENDLESS_TABLE].map(|table| format!("read:data.{table}"));
    json!({
        "agent_id": agent,
        "operation_id": "load",
        "scope": scope,
        "tools": ["pandas"],
        "forbidden_tools": ["bash"],
        "ttl_seconds": 3600,
        "max_tokens": 1000,
    })
}

struct Plan<'a> {
    ca: &'a Ca,
    net: &'a Loopback,
    run: &'a RunDirectory,
    policy_server: &'a PolicyServer,
}

impl Plan<'_> {
    fn service(&self, namespace: &str, name: &str, number: u8) -> Result<Served> {
        let host = format!("{name}.{namespace}.svc.cluster.local");
        let credential = self.ca.issue(&Workload::new(namespace, name), &[&host])?;
        let application = Application::start(&self.run.socket(name))?;
        let address = self.net.socket(number, SERVICE_PORT);
        let sidecar = self.sidecar(&credential, number)?;
        let sidecar = sidecar.with_inbound(Inbound::new(address, &self.run.socket(name)));
        Ok(Served {
            authority: format!("{host}:{SERVICE_PORT}"),
            host,
            address,
            envoy: self.spawn(&sidecar)?,
            application,
        })
    }

    fn outbound(&self, credential: Option<&Arc<Credential>>, services: &[&Served]) -> Result<(Envoy, SocketAddr)> {
        let address = self.net.socket(11, OUTBOUND_PORT);
        let destinations = services.iter().map(|service| {
            let mut labels = service.host.split('.').map(ToOwned::to_owned);
            let (name, namespace) = (labels.next().unwrap_or_default(), labels.next().unwrap_or_default());
            Destination {
                identity: Workload::new(&namespace, &name).spiffe(),
                name,
                hosts: vec![service.host.clone()],
                address: service.address,
            }
        });
        let outbound = Outbound {
            address,
            inside: None,
            destinations: destinations.collect(),
        };
        let sidecar = self.sidecar(credential.context("no agents")?, 11)?;
        Ok((self.spawn(&sidecar.with_outbound(outbound))?, address))
    }

    fn sidecar(&self, credential: &Arc<Credential>, number: u8) -> Result<Sidecar> {
        let plugin = Plugin::built(self.policy_server.bundle_jwks())?;
        let mut sidecar = Sidecar::new(credential, self.ca, self.net.socket(number, ADMIN_PORT));
        sidecar.concurrency = WORKERS;
        Ok(sidecar.with_filter(plugin, self.policy_server.upstream()))
    }

    /// Without access logs: they would fill the disk, and cost as much as the calls.
    fn spawn(&self, sidecar: &Sidecar) -> Result<Envoy> {
        let mut config = sidecar.config(self.run);
        let listeners = config.pointer_mut("/static_resources/listeners");
        for listener in listeners.and_then(Value::as_array_mut).into_iter().flatten() {
            let manager = listener.pointer_mut("/filter_chains/0/filters/0/typed_config");
            let Some(fields) = manager.and_then(Value::as_object_mut) else {
                bail!("a listener without a connection manager");
            };
            fields.remove("access_log");
        }
        Envoy::spawn(&sidecar.name, &config, sidecar.admin, sidecar.concurrency, self.run)
    }
}

/// The policy of the mesh: three agents with the same rights.
fn write_policy(folder: &Path, record: RecordMode) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let head = |kind: &str, name: &str, namespace: &str| {
        format!(
            "apiVersion: ostiary.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
             spec:\n  serviceAccount: {name}\n"
        )
    };
    let service = |name: &str, namespace: &str, protocol: &str| {
        let head = head("Service", name, namespace);
        let record = match record {
            RecordMode::Before => "before",
            RecordMode::Batched => "batched",
        };
        format!(
            "{head}  hosts: [{name}.{namespace}.svc.cluster.local]\n  ports: [8080]\n  protocol: {protocol}\n  record: {record}\n"
        )
    };
    for agent in [ANALYST, READER, WRITER] {
        let text = format!(
            "{}  tools: [pandas]\n  forbiddenTools: [bash]\n  \
             scope: [\"read:data.{TABLE}\", \"read:data.{HANGING_TABLE}\", \"read:data.{ENDLESS_TABLE}\"]\n  \
             issuers: [spiffe://cluster.local/ns/orchestration/sa/orchestrator]\n  reaches: [warehouse, mcp]\n",
            head("Agent", agent, "agents")
        );
        std::fs::write(folder.join(format!("agent-{agent}.yaml")), text)?;
    }
    let route = "  routes:\n  - { method: GET, path: \"/v1/tables/{table}\", scope: \"read:data.{table}\" }\n";
    let warehouse = service("warehouse", "data", "http") + route;
    std::fs::write(folder.join("service-warehouse.yaml"), warehouse)?;
    let tools = "  path: /mcp\n  tools:\n    pandas: {}\n    matplotlib: {}\n    bash: {}\n";
    std::fs::write(folder.join("service-mcp.yaml"), service("mcp", "tools", "mcp") + tools)?;
    Ok(())
}
