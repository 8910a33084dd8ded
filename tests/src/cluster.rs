//! The cluster that `make e2e` runs the tests on: whatever `kubectl` in `$KUBECTL` speaks to.
//!
//! The tests know nothing else of it, so they are the same on a cluster of plain processes and on kind.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::backends::Seen;
use crate::client::{Answer, Call};
use crate::netns::Netns;
use crate::wait;
use crate::workload::{Came, Line, Load, Tally};

pub mod identity;
pub mod scene;
pub mod stage;
pub mod straight;
pub mod versions;

/// How long the cluster may take for what it does by itself: a pod's start, a rollout, a push of configuration.
pub const ROLLOUT: Duration = Duration::from_secs(120);

/// A cluster, by its `kubectl`.
#[derive(Debug, Clone)]
pub struct Cluster {
    kubectl: PathBuf,
}

/// Leaves the mesh to the next test as it was, also when this one fails: does at its end what is to be done, which harms
/// nothing where it has been done already.
#[derive(Debug)]
pub struct Undo<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        (self.0)();
    }
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
        let apply = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        let said = self.try_kubectl(&apply, manifests)?;
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

    /// What the command `ostiary` says in the policy server's container, to the server's own user.
    ///
    /// # Errors
    ///
    /// When kubectl cannot be run.
    pub fn ostiary(&self, arguments: &[&str]) -> Result<Said> {
        let target = [
            "-n",
            "ostiary",
            "exec",
            "deploy/policy-server",
            "-c",
            "policy-server",
            "--",
        ];
        let config = ["--config", "/etc/ostiary/ostiary.yaml"];
        let line = [&target[..], &["/bin/ostiary"], arguments, &config].concat();
        self.try_kubectl(&line, "")
    }

    /// The pod of a Deployment.
    pub fn pod(&self, namespace: &str, deployment: &str) -> Pod {
        Pod {
            cluster: self.clone(),
            namespace: namespace.to_owned(),
            deployment: deployment.to_owned(),
        }
    }

    /// The address of a running pod with a label, none that is about to end.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn pod_ip(&self, namespace: &str, label: &str) -> Result<IpAddr> {
        let running = "--field-selector=status.phase=Running";
        let pods = self.kubectl(["-n", namespace, "get", "pods", "-l", label, running, "--output=json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        let mut pods = pods.pointer("/items").and_then(Value::as_array).into_iter().flatten();
        let stays = pods.find(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
        let address = stays.and_then(|pod| pod.pointer("/status/podIP")?.as_str());
        let address = address.with_context(|| format!("no pod with {label} in {namespace}"))?;
        Ok(address.parse()?)
    }

    /// The network of the node, from which every pod is reached as kubelet reaches it.
    ///
    /// # Errors
    ///
    /// When `$NODE_PID` names no process of it.
    pub fn node(&self) -> Result<Netns> {
        let process = std::env::var("NODE_PID").context("NODE_PID names no process of the node: run `make e2e`")?;
        Ok(Netns::of(&process))
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

/// The pod of a Deployment, whose container `application` has the demo's image.
#[derive(Debug, Clone)]
pub struct Pod {
    cluster: Cluster,
    namespace: String,
    deployment: String,
}

impl Pod {
    /// Makes one call from inside.
    ///
    /// # Errors
    ///
    /// When no complete answer comes in time.
    pub async fn send(&self, call: Call) -> Result<Answer> {
        let pod = self.clone();
        let answers = tokio::task::spawn_blocking(move || pod.calls(&[call])).await??;
        answers.into_iter().next().context("no answer")?
    }

    /// Makes calls from inside, one after another.
    ///
    /// # Errors
    ///
    /// When they could not be made; of each is told what came of it.
    pub fn calls(&self, calls: &[Call]) -> Result<Vec<Result<Answer>>> {
        let mut lines = String::new();
        for call in calls {
            lines.push_str(&serde_json::to_string(&Line::from(call))?);
            lines.push('\n');
        }
        let said = self.cluster.try_kubectl(&self.exec("call"), &lines)?;
        let answers: Vec<Came> = said
            .stdout
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        if answers.len() != calls.len() {
            bail!("{} in {}: {}", self.deployment, self.namespace, said.stderr.trim());
        }
        Ok(answers.into_iter().map(Came::answer).collect())
    }

    /// Begins to make calls all the time.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn load(&self, load: &Load) -> Result<UnderLoad> {
        let mut child = Command::new(&self.cluster.kubectl)
            .args(self.exec("load"))
            // Over WebSockets kubectl loses its pings at times, and ends after a minute without them.
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.as_mut().context("no standard input")?;
        writeln!(stdin, "{}", serde_json::to_string(load)?)?;
        let mut output = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut begun = String::new();
        output.read_line(&mut begun)?;
        if begun.is_empty() {
            bail!("{} in {} makes no load", self.deployment, self.namespace);
        }
        Ok(UnderLoad { child, output })
    }

    /// Every request that reached the application, as its log has them.
    ///
    /// # Errors
    ///
    /// When there is no log.
    pub fn seen(&self) -> Result<Vec<Seen>> {
        let target = format!("deploy/{}", self.deployment);
        let log = self
            .cluster
            .kubectl(["-n", &self.namespace, "logs", &target, "-c", "application", "--tail=-1"])?;
        let entries = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        Ok(entries.filter_map(|entry| Seen::from_json(&entry)).collect())
    }

    fn exec(&self, role: &str) -> Vec<String> {
        let target = format!("deploy/{}", self.deployment);
        let line = [
            "-n",
            &self.namespace,
            "exec",
            "-i",
            &target,
            "-c",
            "application",
            "--",
            "/workload",
            role,
        ];
        line.map(ToOwned::to_owned).to_vec()
    }
}

/// A load that is being made.
#[derive(Debug)]
pub struct UnderLoad {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl UnderLoad {
    /// Ends it and tells what came of it.
    ///
    /// # Errors
    ///
    /// When it has ended by itself.
    pub fn end(mut self) -> Result<Tally> {
        drop(self.child.stdin.take());
        let mut tally = String::new();
        self.output.read_line(&mut tally)?;
        self.child.wait()?;
        serde_json::from_str(&tally).context("the load ended by itself")
    }
}

impl Drop for UnderLoad {
    fn drop(&mut self) {
        // After `end` it has ended by itself.
        let _ = self.child.kill();
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
