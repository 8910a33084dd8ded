//! The real policy server on a Unix socket, with its own sidecar: the only one without the filter.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::client::{Answer, Call, Client};
use crate::envoy::Envoy;
use crate::loopback::Loopback;
use crate::pki::{Ca, Credential, Workload};
use crate::process::Process;
use crate::run::RunDirectory;
use crate::sidecar::{Inbound, POLICY_AUTHORITY, PolicyUpstream, Sidecar};
use crate::wait;

/// The port of its sidecar.
const PORT: u16 = 8080;

/// How long it may take to start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long it may take until a moment has come.
const CRASH_LIMIT: Duration = Duration::from_secs(60);

/// A policy server that may be killed and started again.
#[derive(Debug)]
pub struct PolicyServer {
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    address: SocketAddr,
    credential: Arc<Credential>,
    bundle_jwks: Value,
    server: Option<Process>,
    sidecar: Option<Envoy>,
}

/// What differs between policy servers of tests.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder of agent and service files.
    pub policy: PathBuf,
    /// Principals and their roles.
    pub roles: Vec<(String, Vec<String>)>,
    /// Fields of the configuration that are added or replace (YAML is JSON).
    pub config: Value,
}

impl PolicyServer {
    /// The workload of every policy server.
    pub fn workload() -> Workload {
        Workload::new("ostiary", "policy-server")
    }

    /// Writes the configuration, starts the server and its sidecar, and waits until both serve.
    ///
    /// # Errors
    ///
    /// When the binary is missing or either does not start.
    pub async fn start(options: &Options, ca: &Ca, net: &Loopback, run: &RunDirectory) -> Result<Self> {
        let mut started = Self::start_alone(options, ca, net, run).await?;
        let inbound = Inbound {
            forward_peer: true,
            ..Inbound::new(started.address, &started.socket)
        };
        let sidecar = Sidecar::new(&started.credential, ca, net.socket(1, 15_000)).with_inbound(inbound);
        started.sidecar = Some(sidecar.start(run).await?);
        Ok(started)
    }

    /// The same without a sidecar: [`Self::direct`] is the only way to it.
    ///
    /// # Errors
    ///
    /// When the binary is missing or does not start.
    pub async fn start_alone(options: &Options, ca: &Ca, net: &Loopback, run: &RunDirectory) -> Result<Self> {
        let credential = ca.issue(&Self::workload(), &[POLICY_AUTHORITY])?;
        let (config, socket) = (run.file("policy-server.yaml"), run.socket("policy-server"));
        let data = run.file("policy-server");
        std::fs::write(
            &config,
            serde_json::to_vec_pretty(&configuration(options, &socket, &data))?,
        )?;
        let mut started = Self {
            config,
            socket,
            log: run.file("policy-server.log"),
            address: net.socket(1, PORT),
            credential,
            bundle_jwks: Value::Null,
            server: None,
            sidecar: None,
        };
        started.start_server().await?;
        started.bundle_jwks = started.keys()?;
        Ok(started)
    }

    /// Starts the server process (again) and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it ends or is not ready in time; the error carries its log.
    pub async fn start_server(&mut self) -> Result<()> {
        let command = self.command()?;
        self.start_by(&command).await
    }

    /// What starts the server process.
    ///
    /// # Errors
    ///
    /// When the binary is missing.
    pub fn command(&self) -> Result<Command> {
        let mut command = Command::new(crate::built::ostiary()?);
        command.arg("serve").arg("--config").arg(&self.config);
        Ok(command)
    }

    /// Starts the server process by a command that becomes [`Self::command`], and waits until it is ready.
    ///
    /// # Errors
    ///
    /// As [`Self::start_server`].
    pub async fn start_by(&mut self, command: &Command) -> Result<()> {
        let server = self.spawn(command)?;
        let probe = self.direct();
        wait::until("the policy server to be ready", START_LIMIT, async || {
            let ready = probe.send(Call::new("GET", POLICY_AUTHORITY, "/readyz")).await;
            (ready.is_ok_and(|answer| answer.status == 200) || server.check_alive().is_err()).then_some(())
        })
        .await
        .with_context(|| server.log_tail())?;
        server.check_alive()?;
        self.server = Some(server);
        Ok(())
    }

    /// Ends the server process in order, changes fields of its configuration, and starts it again.
    ///
    /// # Errors
    ///
    /// When it does not end, or is not ready in time with what is changed.
    pub async fn reconfigure(&mut self, fields: &Value) -> Result<()> {
        self.stop_server().await?;
        let mut config: Value = serde_json::from_slice(&std::fs::read(&self.config)?)?;
        let (Some(config_fields), Some(fields)) = (config.as_object_mut(), fields.as_object()) else {
            bail!("a configuration is an object");
        };
        config_fields.extend(fields.clone());
        std::fs::write(&self.config, serde_json::to_vec_pretty(&config)?)?;
        self.start_server().await
    }

    /// Cuts every sidecar off: the server lives on, but nothing leads to it any more.
    pub fn cut_off(&mut self) {
        self.sidecar = None;
    }

    /// Starts a server process that ends by itself when it has come to a moment of `crash` so many times, and waits for its
    /// end.
    ///
    /// # Errors
    ///
    /// When it cannot be started or does not end in time.
    pub async fn start_to_crash(&mut self, moment: &str, times: u32) -> Result<()> {
        let mut command = self.command()?;
        command.env("OSTIARY_CRASH_AT", format!("{moment}:{times}"));
        let server = self.spawn(&command)?;
        let what = format!("the policy server to crash when it has `{moment}` {times} times");
        wait::until(&what, CRASH_LIMIT, async || server.check_alive().is_err().then_some(())).await
    }

    fn spawn(&self, command: &Command) -> Result<Process> {
        // A killed server leaves its socket behind.
        if self.socket.exists() {
            std::fs::remove_file(&self.socket)?;
        }
        Process::spawn("the policy server", command, &self.log)
    }

    /// Kills the server process as a crash would (its sidecar stays).
    pub fn kill_server(&mut self) {
        self.server = None;
    }

    /// Ends the server process in order.
    ///
    /// # Errors
    ///
    /// When it does not end by itself.
    pub async fn stop_server(&mut self) -> Result<()> {
        match self.server.take() {
            Some(server) => server.stop(Duration::from_secs(30)).await,
            None => Ok(()),
        }
    }

    /// The server's process, while it runs.
    pub fn process(&self) -> Option<&Process> {
        self.server.as_ref()
    }

    /// The public half of the keys that sign bundles, as a JWKS.
    pub fn bundle_jwks(&self) -> &Value {
        &self.bundle_jwks
    }

    /// How sidecars reach it.
    pub fn upstream(&self) -> PolicyUpstream {
        PolicyUpstream {
            address: self.address,
            identity: Some(Self::workload().spiffe()),
        }
    }

    /// Its sidecar's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its sidecar.
    pub fn sidecar(&self) -> Option<&Envoy> {
        self.sidecar.as_ref()
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Where checkpoints of its log are mirrored, unless its options say otherwise.
    pub fn mirror(&self) -> PathBuf {
        self.config.with_extension("mirror")
    }

    /// A client that goes around the sidecar, as only the sidecar should.
    pub fn direct(&self) -> Client {
        Client::unix(&self.socket).within(Duration::from_secs(5))
    }

    /// A client of the sidecar that shows `credential`.
    ///
    /// # Errors
    ///
    /// When the credential does not fit together.
    pub fn client(&self, ca: &Ca, credential: &Credential) -> Result<Client> {
        Client::tls(self.address, POLICY_AUTHORITY, ca, Some(credential))
    }

    /// Asks for a token.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn ask_token(&self, ca: &Ca, credential: &Credential, body: &Value) -> Result<Answer> {
        self.client(ca, credential)?
            .send(Call::new("POST", POLICY_AUTHORITY, "/v1/tokens").json(body))
            .await
    }

    /// Asks for a token and insists on getting it.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub async fn token(&self, ca: &Ca, credential: &Credential, body: &Value) -> Result<String> {
        let answer = self.ask_token(ca, credential, body).await?;
        let token = answer
            .json()
            .get("token")
            .and_then(Value::as_str)
            .map(ToOwned::to_owned);
        token.ok_or_else(|| anyhow!("no token: {} {}", answer.status, String::from_utf8_lossy(&answer.body)))
    }

    fn keys(&self) -> Result<Value> {
        let mut command = Command::new(crate::built::ostiary()?);
        command
            .args(["keys", "show", "--output", "json", "--config"])
            .arg(&self.config);
        let output = command.output()?;
        if !output.status.success() {
            bail!(
                "`ostiary keys show` failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let shown: Value = serde_json::from_slice(&output.stdout)?;
        shown
            .get("bundle_keys")
            .cloned()
            .ok_or_else(|| anyhow!("`ostiary keys show` names no bundle keys: {shown}"))
    }
}

fn configuration(options: &Options, socket: &Path, data: &Path) -> Value {
    let roles: serde_json::Map<String, Value> = options
        .roles
        .iter()
        .map(|(principal, roles)| (principal.clone(), json!(roles)))
        .collect();
    let mut config = json!({
        "trustDomain": crate::pki::TRUST_DOMAIN,
        "identity": PolicyServer::workload().spiffe(),
        "hosts": [POLICY_AUTHORITY],
        "listen": {"unix": socket},
        "data": data,
        "policy": options.policy,
        "audit": {"mirror": data.with_extension("mirror")},
        "authentication": {"mode": "sidecar"},
        "roles": roles,
        // Tests are denied what no honest agent would try so often; those of the risk engine let it act.
        "risk": {"act": false},
    });
    if let (Some(fields), Some(with)) = (config.as_object_mut(), options.config.as_object()) {
        fields.extend(with.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    config
}
