//! What an auditor does with the log: exports it and verifies the file offline, with the command line that is shipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::wait;

use super::stand::Stand;

/// A file of the whole log, and the key to verify it by.
pub(crate) struct Exported {
    pub(crate) records: u64,
    file: PathBuf,
    key: String,
}

/// How long it may take until a checkpoint is signed of all records: that happens every few seconds.
const SIGNED_WITHIN: Duration = Duration::from_secs(60);

/// Exports the log of a server that runs, once so many records are under a checkpoint.
///
/// # Errors
///
/// When it does not answer, or does not sign them.
pub(crate) async fn export_all(stand: &Stand, records: u64) -> Result<Exported> {
    wait::until("all records to be signed", SIGNED_WITHIN, async || {
        match export(stand) {
            Ok(exported) if exported.records < records => None,
            answer => Some(answer),
        }
    })
    .await?
}

fn export(stand: &Stand) -> Result<Exported> {
    let config = stand.server.config();
    let told = |arguments: &[&str]| {
        let mut command = Command::new(tests::built::ostiary()?);
        command
            .args(arguments)
            .args(["--output", "json", "--config"])
            .arg(config);
        said(&command.output()?, 0)
    };
    let key = told(&["keys", "show"])?;
    let file = stand.folder().join("log.jsonl");
    let out = file.to_str().context("a path of other than text")?;
    let exported = told(&["audit", "export", "--out", out])?;
    Ok(Exported {
        records: exported
            .get("records")
            .and_then(Value::as_u64)
            .context("no count of records")?,
        key: key
            .pointer("/log_keys/0")
            .and_then(Value::as_str)
            .context("no key of the log")?
            .to_owned(),
        file,
    })
}

impl Exported {
    /// Verifies the file, and says how long that took.
    ///
    /// # Errors
    ///
    /// When it is found wanting.
    pub(crate) fn verify(&self) -> Result<Duration> {
        let start = Instant::now();
        let output = verify(&self.file, &self.key)?;
        let took = start.elapsed();
        // Nothing is wrong, and nobody can show that nothing followed.
        said(&output, 3)?;
        Ok(took)
    }

    /// Shows that a file with one byte changed is refused.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub(crate) fn check(&self) -> Result<()> {
        let mut bytes = std::fs::read(&self.file)?;
        let middle = bytes.len() / 2;
        let byte = bytes.get_mut(middle).context("an empty export")?;
        *byte ^= 1;
        let changed = self.file.with_extension("changed");
        std::fs::write(&changed, bytes)?;
        let output = verify(&changed, &self.key)?;
        ensure!(
            output.status.code() == Some(1),
            "a changed export was not refused, but {}",
            output.status
        );
        Ok(std::fs::remove_file(changed)?)
    }
}

fn verify(file: &Path, key: &str) -> Result<Output> {
    let mut command = Command::new(tests::built::ostiary()?);
    command
        .args(["audit", "verify", "--output", "json", "--key", key])
        .arg(file);
    Ok(command.output()?)
}

fn said(output: &Output, code: i32) -> Result<Value> {
    if output.status.code() != Some(code) {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
