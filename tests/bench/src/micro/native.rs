//! Runs criterion and reads the samples that it leaves.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tests::built;

use crate::plan::Plan;

/// What one sample of a function says: how often it ran, and how long all of it took.
#[derive(Debug, Deserialize)]
struct Samples {
    iters: Vec<f64>,
    /// In nanoseconds.
    times: Vec<f64>,
}

/// Runs these functions.
///
/// # Errors
///
/// When cargo or criterion fails.
pub(super) fn measure(plan: &Plan, ids: &[&str]) -> Result<()> {
    let [warm_up, measured, samples] = if plan.quick {
        ["0.05", "0.1", "10"]
    } else {
        ["0.5", "2", "30"]
    };
    let filter = format!("^native/({})$", ids.join("|"));
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(built::workspace())
        .env("CRITERION_HOME", home())
        .args(["bench", "--quiet", "--package", "micro", "--features", "criterion"])
        .args(["--profile", "measure", "--bench", "native", "--", "--noplot"])
        .args(["--warm-up-time", warm_up, "--measurement-time", measured])
        .args(["--sample-size", samples])
        .arg(filter);
    let output = command.output().context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "criterion failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The nanoseconds that a function took in each sample.
///
/// # Errors
///
/// When criterion has left none.
pub(super) fn samples(id: &str) -> Result<Vec<f64>> {
    let path = home().join("native").join(id).join("new/sample.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let samples: Samples = serde_json::from_slice(&text)?;
    let pairs = samples.times.iter().zip(&samples.iters);
    Ok(pairs.map(|(time, iterations)| time / iterations).collect())
}

fn home() -> PathBuf {
    built::target().join("bench/criterion")
}
