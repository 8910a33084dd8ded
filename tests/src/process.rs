//! Child processes that never outlive the harness.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

type Job = Box<dyn FnOnce() + Send>;

/// A running child in a process group of its own; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    group: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output going to `log`.
    ///
    /// # Errors
    ///
    /// When the log cannot be written or the program not be started.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log);
        let output = output.with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = dying_with_parent(command);
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        let child = on_spawner(move || command.spawn())?.with_context(|| format!("cannot start {name}"))?;
        let group = Pid::from_raw(i32::try_from(child.id())?);
        Ok(Self {
            name: name.to_owned(),
            child: Mutex::new(child),
            group,
            log: log.to_path_buf(),
        })
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.group.as_raw()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// An error with the end of its log, if it has ended.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn check_alive(&self) -> Result<()> {
        match self.try_wait()? {
            false => Ok(()),
            true => bail!(
                "{} ended by itself; the end of its log:\n{}",
                self.name,
                self.log_tail()
            ),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .iter()
            .skip(lines.len().saturating_sub(20))
            .copied()
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Kills it (SIGKILL), as a crash would.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        if let Ok(mut child) = self.child.lock() {
            // It was killed: nothing is left to do if waiting fails.
            let _ = child.wait();
        }
    }

    /// Asks it to end (SIGTERM), and kills it when it has not within `limit`.
    ///
    /// # Errors
    ///
    /// When it had to be killed.
    pub async fn stop(&self, limit: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM);
        let start = Instant::now();
        while !self.try_wait()? {
            if start.elapsed() > limit {
                self.kill();
                bail!("{} did not end within {limit:?} and was killed", self.name);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // Only while it has not been waited for does the number name this process.
        if self.try_wait().is_ok_and(|ended| !ended) {
            // A process that has just ended is what was wanted.
            let _ = killpg(self.group, signal);
        }
    }

    fn try_wait(&self) -> Result<bool> {
        let mut child = self
            .child
            .lock()
            .map_err(|_| anyhow!("a thread of the harness panicked"))?;
        Ok(child.try_wait()?.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether util-linux is there, as on every Debian.
static HAS_SETPRIV: LazyLock<bool> = LazyLock::new(|| {
    Command::new("setpriv")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok()
});

/// The same command, killed by the kernel when the harness ends (however it ends).
fn dying_with_parent(command: &Command) -> Command {
    let mut wrapped = if *HAS_SETPRIV {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
        setpriv
    } else {
        Command::new(command.get_program())
    };
    wrapped.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    wrapped
}

/// Runs `work` on a thread that lives as long as this process.
///
/// The kernel sends the parent's death signal when the *thread* that forked ends, so a runtime's worker must not fork.
fn on_spawner<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        std::thread::spawn(move || queue.into_iter().for_each(|job| job()));
        jobs
    });
    let (result, wait) = mpsc::channel();
    let job: Job = Box::new(move || {
        // The caller waits below, so it is there to receive.
        let _ = result.send(work());
    });
    spawner.send(job).map_err(|_| anyhow!("the spawner has ended"))?;
    wait.recv().context("the spawner has ended")
}
