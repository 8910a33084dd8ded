//! A directory for one run: configurations, logs and keys stay readable afterwards, sockets do not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// Where one mesh keeps its files: `target/run/NAME-PID-N`.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    // A Unix socket's path holds 108 bytes at most, so sockets do not live under target/.
    // Only its owner may enter, so that no other user's process goes around a sidecar.
    sockets: TempDir,
}

impl RunDirectory {
    /// Makes a new, empty one, and clears away those of that name whose process has ended.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn create(name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let runs = crate::built::target().join("run");
        clear_ended(&runs, name);
        Self::at(runs.join(format!("{name}-{}-{count}", std::process::id())))
    }

    /// Makes one at a given place, emptied first.
    ///
    /// # Errors
    ///
    /// When the file system refuses.
    pub fn at(path: PathBuf) -> Result<Self> {
        if path.exists() {
            std::fs::remove_dir_all(&path).with_context(|| format!("cannot empty {}", path.display()))?;
        }
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let sockets = tempfile::Builder::new()
            .prefix("ostiary-")
            .tempdir()
            .context("no temporary directory")?;
        Ok(Self { path, sockets })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A short path for a Unix socket.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }
}

/// The files of a run stay until the next run of the same name.
fn clear_ended(runs: &Path, name: &str) {
    for entry in std::fs::read_dir(runs).into_iter().flatten().flatten() {
        let file_name = entry.file_name();
        let rest = file_name
            .to_str()
            .and_then(|text| text.strip_prefix(name)?.strip_prefix('-'));
        let process = rest
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(process, _)| process.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            // Another test may be clearing the same away.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
