//! The cluster that `make e2e` runs the tests on: whatever `kubectl` in `$KUBECTL` speaks to.
//!
//! The tests know nothing else of it, so they are the same on a cluster of plain processes and on kind.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// How long the cluster may take for what it does by itself: a pod's start, a rollout, a push of configuration.
pub const ROLLOUT: Duration = Duration::from_secs(120);

/// A cluster, by its `kubectl`.
#[derive(Debug, Clone)]
pub struct Cluster {
    kubectl: PathBuf,
}

/// What came of a command.
#[derive(Debug, Clone)]
pub struct Said {
    /// Whether it exited with 0.
    pub ok: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Cluster {
    /// The cluster that `$KUBECTL` speaks to.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub fn connect() -> Result<Self> {
        let kubectl = std::env::var_os("KUBECTL").context("KUBECTL names no kubectl: run `make e2e`")?;
        let cluster = Self {
            kubectl: kubectl.into(),
        };
        cluster
            .kubectl(["version", "--output=json"])
            .context("no cluster answers: run `make e2e`")?;
        Ok(cluster)
    }

    /// Runs kubectl; answers with its standard output.
    ///
    /// # Errors
    ///
    /// When it fails; the error holds what it said.
    pub fn kubectl<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        let arguments: Vec<A> = arguments.into_iter().collect();
        let said = self.try_kubectl(&arguments, "")?;
        if !said.ok {
            let line: Vec<_> = arguments
                .iter()
                .map(|argument| argument.as_ref().to_string_lossy())
                .collect();
            bail!("kubectl {}: {}", line.join(" "), said.stderr.trim());
        }
        Ok(said.stdout)
    }

    /// Runs kubectl with something on its standard input, and lets it fail.
    ///
    /// # Errors
    ///
    /// When it cannot be run.
    pub fn try_kubectl<A: AsRef<OsStr>>(&self, arguments: &[A], input: &str) -> Result<Said> {
        let mut child = Command::new(&self.kubectl)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.kubectl.display()))?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        let input = input.to_owned();
        // A kubectl that does not read its input closes the pipe: what it says then counts.
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let _ = writer.join();
        Ok(Said::from(output))
    }

    /// Applies manifests.
    ///
    /// # Errors
    ///
    /// When the API server refuses one.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let said = self.try_kubectl(&["apply", "-f", "-"], manifests)?;
        match said.ok {
            true => Ok(()),
            false => bail!("kubectl apply: {}", said.stderr.trim()),
        }
    }

    /// Runs a command in the container `application` of a Deployment's pod, and lets it fail.
    ///
    /// # Errors
    ///
    /// When kubectl cannot be run.
    pub fn exec(&self, namespace: &str, deployment: &str, command: &[&str]) -> Result<Said> {
        let target = format!("deploy/{deployment}");
        let mut arguments = vec!["-n", namespace, "exec", "-i", &target, "-c", "application", "--"];
        arguments.extend(command);
        self.try_kubectl(&arguments, "")
    }

    /// Waits until a Deployment's pods are ready.
    ///
    /// # Errors
    ///
    /// When they are not within [`ROLLOUT`].
    pub fn rolled_out(&self, namespace: &str, deployment: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", ROLLOUT.as_secs());
        let target = format!("deployment/{deployment}");
        self.kubectl(["-n", namespace, "rollout", "status", &target, &timeout])
            .map(drop)
    }

    /// Waits until a condition of the cluster holds.
    ///
    /// # Errors
    ///
    /// When it does not within [`ROLLOUT`]; `what` says what was waited for.
    pub async fn until<T>(&self, what: &str, condition: impl AsyncFnMut() -> Option<T>) -> Result<T> {
        wait::until(what, ROLLOUT, condition).await
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
