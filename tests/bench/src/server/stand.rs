//! The real policy server on its Unix socket, and callers who say who they are as its sidecar would say it.

use anyhow::{Context, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use tests::client::{Call, Client};
use tests::loopback::Loopback;
use tests::pki::{Ca, Workload};
use tests::policy_server::{Options, PolicyServer};
use tests::process::Process;
use tests::run::RunDirectory;
use tests::sidecar::POLICY_AUTHORITY;

use crate::population::{self, Population};

/// A policy server with the policy of so many agents.
#[derive(Debug)]
pub(crate) struct Stand {
    pub(crate) server: PolicyServer,
    pub(crate) population: Population,
    run: RunDirectory,
    _net: Loopback,
}

impl Stand {
    /// Starts one. The limits let one machine play a whole mesh; the state list is renewed every `renew_seconds`.
    ///
    /// # Errors
    ///
    /// When the server does not start.
    pub(crate) async fn start(name: &str, agents: usize, renew_seconds: u64) -> Result<Self> {
        let (run, net) = (RunDirectory::create(name)?, Loopback::claim()?);
        let ca = Ca::create(&run.file("pki"))?;
        let population = Population::write(&run.file("policy"), agents)?;
        let options = Options {
            policy: population.folder().to_owned(),
            roles: population::roles(),
            config: json!({
                "state": {"renewSeconds": renew_seconds, "maxAgeSeconds": 3600},
                "limits": {"connections": 1 << 14, "newSourcesPerMinute": 1 << 16},
            }),
        };
        let server = PolicyServer::start_alone(&options, &ca, &net, &run).await?;
        Ok(Self {
            server,
            population,
            run,
            _net: net,
        })
    }

    /// The server's process.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub(crate) fn process(&self) -> Result<&Process> {
        self.server.process().context("the policy server does not run")
    }

    /// How it is reached, around the sidecar that it has not got.
    pub(crate) fn client(&self) -> Client {
        self.server.direct().within(std::time::Duration::from_secs(60))
    }

    /// Where it and its callers keep their files.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.run.path()
    }

    /// Its database.
    pub(crate) fn database(&self) -> std::path::PathBuf {
        self.run.file("policy-server").join("ostiary.db")
    }

    /// The server's resident memory, in KiB.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub(crate) fn resident_kib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.process()?.id());
        let status = std::fs::read_to_string(path)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("no VmRSS")?.parse()?)
    }

    /// Ends the server and removes what it stored: hundreds of megabytes that nobody reads afterwards.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub(crate) fn forget(mut self) -> Result<()> {
        self.server.kill_server();
        Ok(std::fs::remove_dir_all(self.run.path())?)
    }
}

/// A number among a server's metrics.
///
/// # Errors
///
/// When it does not answer or has no such metric.
pub(crate) async fn metric(server: &PolicyServer, name: &str) -> Result<u64> {
    let call = Call::new("GET", POLICY_AUTHORITY, "/metrics");
    let answer = server.direct().send(call).await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.with_context(|| format!("no metric `{name}`"))?;
    Ok(value.trim().parse()?)
}

/// What the server's own sidecar would say of a caller.
pub(crate) fn peer(workload: &Workload) -> (&'static str, String) {
    let by = PolicyServer::workload().spiffe();
    let value = format!("By={by};URI={}", workload.spiffe());
    (policy_server::peer::XFCC, value)
}

/// The body of an answer, if its status is 200.
///
/// # Errors
///
/// When it is another.
pub(crate) fn accepted(answer: &tests::client::Answer) -> Result<Value> {
    if answer.status != 200 {
        bail!("{}: {}", answer.status, String::from_utf8_lossy(&answer.body));
    }
    Ok(answer.json())
}

/// Lets this process, and the children that it starts from now on, open so many files.
///
/// # Errors
///
/// When the machine's own limit is lower.
pub(crate) fn allow_open_files(files: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= files {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, files, hard.max(files))
        .with_context(|| format!("{files} files must be open at once; the limit is {hard}: raise it (`ulimit -Hn`)"))
}
