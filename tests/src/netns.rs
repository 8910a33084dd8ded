//! Network namespaces: an agent's process in one reaches its own sidecar and nothing else.
//!
//! The namespace is held by a child process and ends with it; nothing is left under /run/netns.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use crate::process::Process;
use crate::run::RunDirectory;

/// Brings the loopback device up by sysfs (the `ip` tool may be missing), says so, and stays.
const HOLD: &str = "mount -t sysfs none /sys && echo 0x9 > /sys/class/net/lo/flags && echo up && exec sleep infinity";

/// How long a connection may take to open. It is waited for by a thread that nothing else can end.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A network namespace with a loopback device and no other.
#[derive(Debug, Clone)]
pub struct Netns {
    path: PathBuf,
    _holder: Option<Arc<Process>>,
}

impl Netns {
    /// Makes one for `name`, or says why this machine cannot.
    ///
    /// # Errors
    ///
    /// Without the privilege to make namespaces, or without util-linux.
    pub async fn create(name: &str, run: &RunDirectory) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
        let log = run.file(&format!("{name}.netns.log"));
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--", "sh", "-c", HOLD]);
        let holder = Process::spawn(&format!("network namespace of {name}"), &command, &log)?;
        crate::wait::until("the network namespace", Duration::from_secs(10), async || {
            let up = std::fs::read_to_string(&log).is_ok_and(|text| text.lines().any(|line| line == "up"));
            (up || holder.check_alive().is_err()).then_some(())
        })
        .await?;
        holder.check_alive()?;
        Ok(Self {
            path: of_process(&holder.id().to_string()),
            _holder: Some(Arc::new(holder)),
        })
    }

    /// That of a process which lives longer than this.
    pub fn of(process: &str) -> Self {
        Self {
            path: of_process(process),
            _holder: None,
        }
    }

    /// The file that stands for the namespace (Envoy's `network_namespace_filepath`).
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// A command that runs `program` inside, as nobody.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display()));
        command.args([
            "--",
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--",
            program,
        ]);
        command
    }

    /// Connects from inside: the socket belongs to the namespace wherever it is used afterwards.
    ///
    /// # Errors
    ///
    /// When nothing listens there inside the namespace.
    pub fn connect(&self, address: SocketAddr) -> Result<TcpStream> {
        let path = self.path();
        let connect = move || -> Result<TcpStream> {
            let namespace = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            TcpStream::connect_timeout(&address, CONNECT_LIMIT).with_context(|| format!("cannot connect to {address}"))
        };
        // The thread enters the namespace for good, so it is used once.
        std::thread::spawn(connect)
            .join()
            .map_err(|_| anyhow!("connecting panicked"))?
    }
}

fn of_process(process: &str) -> PathBuf {
    Path::new("/proc").join(process).join("ns/net")
}
