//! Runs the built `ostiary` as a person or a script would.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What a run left behind.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A call of `ostiary` in `folder`, with nothing of the caller's environment that changes its output.
pub(crate) fn command<A: AsRef<OsStr>>(folder: &Path, arguments: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostiary"));
    command
        .args(arguments)
        .current_dir(folder)
        .env_remove("RUST_LOG")
        .env_remove("NO_COLOR");
    command
}

/// Runs `ostiary` to its end.
pub(crate) fn ostiary<A: AsRef<OsStr>>(folder: &Path, arguments: &[A]) -> Run {
    command(folder, arguments).output().unwrap().into()
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// `ostiary serve` by the `ostiary.yaml` of a folder; killed, as by `kill -9`, when it is dropped.
pub(crate) struct Serving(Child);

impl Serving {
    /// Starts it and waits until it listens on its sockets, `ostiary.sock` and the operator's.
    pub(crate) fn start(folder: &Path) -> Self {
        let mut child = command(folder, &["serve", "--config", "ostiary.yaml", "--log-format", "json"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        for socket in ["ostiary.sock", "data/operator.sock"] {
            while UnixStream::connect(folder.join(socket)).is_err() {
                if let Some(status) = child.try_wait().unwrap() {
                    panic!("the server ended: {status}");
                }
                assert!(Instant::now() < deadline, "the server does not listen");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Self(child)
    }

    /// Has it stop in order, which signs what was accepted last.
    pub(crate) fn stop(mut self) {
        Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Puts the mini mesh's agent and service files into the folder `policy` of a folder.
pub(crate) fn mesh_policy(folder: &Path) {
    let policy = folder.join("policy");
    fs::create_dir(&policy).unwrap();
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/mesh/policy")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), policy.join(file.file_name())).unwrap();
    }
}
