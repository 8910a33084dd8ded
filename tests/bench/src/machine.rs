//! Where a measurement was made.

use std::fs;

use anyhow::Result;
use serde::Serialize;

/// What of the machine the figures hang on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    envoy: String,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    ///
    /// When there is no Envoy.
    pub(crate) fn find() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name"));
        let version = std::process::Command::new(tests::envoy::find()?)
            .arg("--version")
            .output()?;
        let version = String::from_utf8_lossy(&version.stdout).into_owned();
        // "…  version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL"
        let envoy = version
            .split("version: ")
            .nth(1)
            .and_then(|version| version.split('/').nth(1));
        Ok(Self {
            cpu: model
                .unwrap_or("unknown")
                .trim_start_matches([' ', '\t', ':'])
                .to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            envoy: envoy.unwrap_or("unknown").to_owned(),
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            cpu,
            cores,
            kernel,
            envoy,
        } = self;
        write!(f, "{cores} cores of {cpu}, Linux {kernel}, Envoy {envoy}")
    }
}
