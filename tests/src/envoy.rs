//! A real Envoy: found, started, asked and stopped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::client::{Call, Client};
use crate::process::Process;
use crate::run::RunDirectory;
use crate::wait;

/// The oldest Envoy that a mesh is tried on.
const OLDEST: (u32, u32) = (1, 36);

/// How long an Envoy may take to start, compiling the filter on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Finds Envoy: `ENVOY=`, else one on the PATH that fits, else the one that set-up put under target/.
///
/// # Errors
///
/// When there is none.
pub fn find() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("ENVOY") {
        let named = PathBuf::from(named);
        version(&named).with_context(|| format!("ENVOY={} is no Envoy", named.display()))?;
        return Ok(named);
    }
    let on_path = PathBuf::from("envoy");
    if version(&on_path).is_ok_and(|version| version >= OLDEST) {
        return Ok(on_path);
    }
    installed().context("no Envoy: name one by ENVOY=, or run `make envoy`")
}

/// The Envoy of the virtual environment `target/envoy`.
fn installed() -> Option<PathBuf> {
    let libraries = std::fs::read_dir(crate::built::target().join("envoy/lib")).ok()?;
    let binaries = libraries
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    binaries.into_iter().find(|binary| binary.is_file())
}

/// Major and minor version.
fn version(binary: &Path) -> Result<(u32, u32)> {
    let output = Command::new(binary).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // "…  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
    let numbers = text
        .split("version: ")
        .nth(1)
        .and_then(|version| version.split('/').nth(1));
    let mut numbers = numbers.unwrap_or_default().split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("`{}` is not the version of an Envoy", text.trim()),
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    name: String,
    command: Command,
    process: Process,
    admin: SocketAddr,
    access_log: PathBuf,
}

impl Envoy {
    /// Starts one with `config` and returns without waiting for it to be ready.
    ///
    /// `config` must have its admin interface at `admin`, and log access to the file that [`access_log_path`] names.
    ///
    /// # Errors
    ///
    /// When there is no Envoy or its files cannot be written.
    pub fn spawn(name: &str, config: &Value, admin: SocketAddr, concurrency: u32, run: &RunDirectory) -> Result<Self> {
        let path = run.file(&format!("{name}.envoy.json"));
        std::fs::write(&path, serde_json::to_vec_pretty(config)?)?;
        let mut command = Command::new(find()?);
        command
            .arg("--config-path")
            .arg(&path)
            .args(["--concurrency", &concurrency.to_string()]);
        command.args([
            "--disable-hot-restart",
            "--log-level",
            "warning",
            "--component-log-level",
            "wasm:info",
        ]);
        command.args([
            "--file-flush-interval-msec",
            "50",
            "--drain-time-s",
            "1",
            "--parent-shutdown-time-s",
            "1",
        ]);
        let process = Process::spawn(name, &command, &run.file(&format!("{name}.envoy.log")))?;
        Ok(Self {
            name: name.to_owned(),
            command,
            process,
            admin,
            access_log: access_log_path(name, run),
        })
    }

    /// Kills it as a crash would and starts it again, without waiting for it to be ready.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn crash(&mut self) -> Result<()> {
        self.process.kill();
        let log = self.process.log().to_owned();
        self.process = Process::spawn(&self.name, &self.command, &log)?;
        Ok(())
    }

    /// Waits until it serves.
    ///
    /// # Errors
    ///
    /// When it ends or is not ready in time; the error carries the end of its log.
    pub async fn ready(&self) -> Result<()> {
        let what = format!("the Envoy of {}", self.name);
        wait::until(&what, START_LIMIT, async || {
            let ready = self
                .admin("GET", "/ready")
                .await
                .is_ok_and(|text| text.starts_with("LIVE"));
            (ready || self.process.check_alive().is_err()).then_some(())
        })
        .await
        .with_context(|| self.process.log_tail())?;
        self.process.check_alive()
    }

    /// Its admin interface.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Asks the admin interface and answers with the text.
    ///
    /// # Errors
    ///
    /// When it does not answer with 200.
    pub async fn admin(&self, method: &str, path: &str) -> Result<String> {
        let answer = Client::plain(self.admin).send(Call::new(method, "admin", path)).await?;
        if !matches!(answer.status, 200 | 503) {
            bail!(
                "{method} {path} at the admin interface of {}: {}",
                self.name,
                answer.status
            );
        }
        Ok(String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// Counters and gauges whose names contain `part`.
    ///
    /// # Errors
    ///
    /// When the admin interface does not answer.
    pub async fn stats(&self, part: &str) -> Result<BTreeMap<String, u64>> {
        let text = self.admin("GET", "/stats").await?;
        let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
        let wanted = pairs.filter(|(name, _)| name.contains(part));
        Ok(wanted
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect())
    }

    /// One counter or gauge; 0 when Envoy has not made it yet.
    ///
    /// # Errors
    ///
    /// When the admin interface does not answer.
    pub async fn stat(&self, name: &str) -> Result<u64> {
        Ok(self.stats(name).await?.get(name).copied().unwrap_or_default())
    }

    /// The access log so far, oldest first.
    pub fn access_log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.access_log).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The filter's records in the access log (filter state `wasm.ostiary`), oldest first.
    pub fn records(&self) -> Vec<Value> {
        let records = self.access_log().into_iter();
        records
            .filter_map(|entry| serde_json::from_str(entry.get("ostiary")?.as_str()?).ok())
            .collect()
    }

    /// The resident memory of its process in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or_default()
    }
}

/// Where the Envoy called `name` logs access.
pub fn access_log_path(name: &str, run: &RunDirectory) -> PathBuf {
    run.file(&format!("{name}.access.jsonl"))
}
