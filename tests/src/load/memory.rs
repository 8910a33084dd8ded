//! How sidecars grow under load.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::mesh::LoadMesh;

/// How often memory is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

/// The resident memory of every sidecar over time, in KiB.
#[derive(Debug, Default)]
pub struct Memory {
    samples: BTreeMap<String, Vec<u64>>,
}

impl Memory {
    /// Looks once.
    pub fn sample(&mut self, mesh: &LoadMesh) {
        for (name, envoy) in mesh.envoys() {
            self.samples
                .entry(name.to_owned())
                .or_default()
                .push(envoy.resident_kib());
        }
    }

    /// Looks again and again until `work` is done, and gives its result.
    ///
    /// # Errors
    ///
    /// Those of `work`.
    pub async fn watch<T>(&mut self, mesh: &LoadMesh, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::pin!(work);
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.sample(mesh);
                    return done;
                }
                _ = interval.tick() => self.sample(mesh),
            }
        }
    }

    /// Asserts that no sidecar's highest memory here is more than `most_kib` above its highest in `before`, and prints both.
    ///
    /// # Errors
    ///
    /// When one has grown more.
    pub fn check_growth(&self, before: &Self, most_kib: u64) -> Result<()> {
        for (name, samples) in &self.samples {
            let highest = |samples: &[u64]| samples.iter().copied().max().unwrap_or_default();
            let old = highest(before.samples.get(name).map_or(&[], Vec::as_slice));
            let (new, last) = (highest(samples), samples.last().copied().unwrap_or_default());
            println!(
                "  memory of {name}: at most {old} KiB after warm-up, at most {new} KiB since, {last} KiB at the end"
            );
            ensure!(
                new <= old + most_kib,
                "the Envoy of {name} grew from {old} to {new} KiB, by more than {most_kib}"
            );
        }
        Ok(())
    }
}
