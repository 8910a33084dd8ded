//! A policy server with its sidecar, and a service's sidecar that is started again and again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::backends::Backend;
use tests::client::{Call, Client};
use tests::envoy::Envoy;
use tests::loopback::Loopback;
use tests::pki::{Ca, Credential};
use tests::policy_server::{Options, PolicyServer};
use tests::run::RunDirectory;
use tests::sidecar::{Inbound, POLICY_AUTHORITY, POLICY_CLUSTER, Plugin, Sidecar};
use tests::{built, mcp, wait};

use super::LIMIT;
use crate::population::{self, Population};

/// Workers of the service's sidecar.
const WORKERS: u32 = 3;

/// Its VMs: one a worker, and one on the main thread.
pub(super) const VMS: u32 = WORKERS + 1;

/// The agent that calls.
const CALLER: usize = 0;

/// Everything but the service's sidecar.
#[derive(Debug)]
pub(super) struct Mesh {
    pub(super) population: Population,
    server: PolicyServer,
    application: Backend,
    service: Arc<Credential>,
    address: SocketAddr,
    client: Client,
    token: String,
    ca: Ca,
    net: Loopback,
    run: RunDirectory,
}

/// What a sidecar has been told by the policy server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// Answers with news.
    pub(super) answers: u64,
    /// Bytes on the wire, encrypted.
    pub(super) bytes: u64,
}

impl Mesh {
    /// Starts one with the policy of so many agents.
    ///
    /// # Errors
    ///
    /// When a part does not start.
    pub(super) async fn start(agents: usize) -> Result<Self> {
        let (run, net) = (RunDirectory::create("bench-memory")?, Loopback::claim()?);
        let ca = Ca::create(&run.file("pki"))?;
        let population = Population::write(&run.file("policy"), agents)?;
        let options = Options {
            policy: population.folder().to_owned(),
            roles: population::roles(),
            // So that nothing but a change of policy is told.
            config: json!({"state": {"renewSeconds": 1800, "maxAgeSeconds": 3600}}),
        };
        let server = PolicyServer::start(&options, &ca, &net, &run).await?;
        let orchestrator = ca.issue(&population::orchestrator(0), &[])?;
        let token = server
            .token(&ca, &orchestrator, &population::token_request(CALLER))
            .await?;
        let caller = ca.issue(&population::agent(CALLER), &[])?;
        let address = net.socket(21, population::PORT);
        Ok(Self {
            client: Client::tls(address, population::HOST, &ca, Some(&caller))?.within(Duration::from_secs(5)),
            application: Backend::echo("mcp", &run)?,
            service: ca.issue(&population::service(), &[population::HOST])?,
            population,
            server,
            address,
            token,
            ca,
            net,
            run,
        })
    }

    /// Starts the service's sidecar with the filter.
    ///
    /// # Errors
    ///
    /// When Envoy cannot be started.
    pub(super) fn filter(&self) -> Result<Envoy> {
        self.sidecar(Plugin::built(self.server.bundle_jwks())?)
    }

    /// The same with the no-op module in the filter's place.
    ///
    /// # Errors
    ///
    /// When Envoy cannot be started.
    pub(super) fn noop(&self) -> Result<Envoy> {
        self.sidecar(Plugin {
            wasm: built::target().join("wasm32-wasip1/release/noop.wasm"),
            ..Plugin::built(self.server.bundle_jwks())?
        })
    }

    fn sidecar(&self, plugin: Plugin) -> Result<Envoy> {
        let mut sidecar = Sidecar::new(&self.service, &self.ca, self.net.socket(21, 15_000))
            .with_filter(plugin, self.server.upstream())
            .with_inbound(Inbound::new(self.address, self.application.socket()));
        sidecar.concurrency = WORKERS;
        // The guard looks for the mark that only the real filter leaves.
        sidecar.guarded = false;
        sidecar.spawn(&self.run)
    }

    /// Calls until a call is answered.
    ///
    /// # Errors
    ///
    /// When none is.
    pub(super) async fn first_answer(&self, envoy: &Envoy) -> Result<()> {
        let first = wait::until("the first answer", LIMIT, async || {
            let answer = self.client.send(self.call(&self.token)).await;
            (answer.is_ok_and(|answer| answer.status == 200) || envoy.process().check_alive().is_err()).then_some(())
        });
        first.await.with_context(|| envoy.process().log_tail())?;
        envoy.process().check_alive()
    }

    fn call(&self, token: &str) -> Call {
        mcp::call_tool(population::HOST, &population::tool(CALLER), &json!({})).bearer(token)
    }

    /// Shows that the sidecar that is measured decides: it lets the good token pass, and no forged one.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(super) async fn check_denies(&self) -> Result<()> {
        let forged = tests::forgery::signature_changed(&self.token)?;
        // A VM may hold its next poll while pages of the policy before are still on their way.
        let decided = wait::until("both to be decided on", LIMIT, async || {
            let good = self.client.send(self.call(&self.token)).await.ok()?;
            let denied = self.client.send(self.call(&forged)).await.ok()?;
            let unavailable = [&good, &denied].map(|answer| answer.denial() == Some("policy_unavailable"));
            (unavailable == [false, false]).then_some((good, denied))
        });
        let (good, denied) = decided.await?;
        ensure!(good.status == 200, "a good call was answered {}", good.status);
        ensure!(
            denied.denial() == Some("token_signature_invalid"),
            "a forged token was answered {} {:?}",
            denied.status,
            denied.denial()
        );
        Ok(())
    }

    /// Waits until every VM has been answered once more than `answers` say, and asks again with what it got.
    ///
    /// # Errors
    ///
    /// When one has not.
    pub(super) async fn adopted(&self, envoy: &Envoy, answers: u64) -> Result<()> {
        let what = format!("{VMS} VMs with the new policy");
        wait::until(&what, LIMIT, async || {
            let told = self
                .told(envoy)
                .await
                .is_ok_and(|told| told.answers >= answers + u64::from(VMS));
            (told && self.polls_held().await.is_ok_and(|held| held == u64::from(VMS))).then_some(())
        })
        .await
        .with_context(|| envoy.process().log_tail())
    }

    /// What a sidecar has been told so far.
    ///
    /// # Errors
    ///
    /// When its admin interface does not answer.
    pub(super) async fn told(&self, envoy: &Envoy) -> Result<Told> {
        let stat = async |name: &str| envoy.stat(&format!("cluster.{POLICY_CLUSTER}.{name}")).await;
        Ok(Told {
            answers: stat("upstream_rq_200").await?,
            bytes: stat("upstream_cx_rx_bytes_total").await?,
        })
    }

    async fn polls_held(&self) -> Result<u64> {
        let answer = self
            .server
            .direct()
            .send(Call::new("GET", POLICY_AUTHORITY, "/metrics"))
            .await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let held = text.lines().find_map(|line| line.strip_prefix("ostiary_polls_held "));
        Ok(held.context("no metric `ostiary_polls_held`")?.trim().parse()?)
    }

    /// Ends it and removes its files.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(super) fn forget(self) -> Result<()> {
        let path = self.run.path().to_owned();
        drop(self);
        Ok(std::fs::remove_dir_all(path)?)
    }
}
