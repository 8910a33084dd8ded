//! Versions of the filter in a cluster: pushed to its registry, named in a plugin, and seen in the sidecars.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::scene::{ALLOWED, Scene, told};
use super::stage::namespace;
use crate::built;
use crate::workload::Tally;

/// Where the plugins are, and what they are called.
const NAMESPACE: &str = "istio-system";
const STABLE: &str = "wasmplugin/ostiary";
const CANARY: &str = "wasmplugin/ostiary-canary";

/// The service whose pods try a version first.
const FIRST: &str = "reports";

/// The filter as it is deployed.
///
/// # Errors
///
/// When it cannot be read.
pub fn this_version() -> Result<Vec<u8>> {
    Ok(std::fs::read(built::filter()?)?)
}

/// Packs a filter, and pushes it; gives its digest.
///
/// # Errors
///
/// When the registry does not take it.
pub fn push(module: &[u8]) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let (root, layout) = (folder.path().join("root"), folder.path().join("layout"));
    std::fs::create_dir(&root)?;
    std::fs::write(root.join("plugin.wasm"), module)?;
    let mut pack = Command::new(built::workspace().join(".ci/oci-layout"));
    pack.arg(&layout).arg("--root").arg(&root);
    let digest = said(pack.args(["--platform", "wasip1/wasm"]))?;
    let push = format!(
        ". {} && push {} ostiary/filter",
        scripts()?.join("registry").display(),
        layout.display()
    );
    said(Command::new("bash").args(["-euo", "pipefail", "-c", &push]))?;
    Ok(digest.trim().to_owned())
}

fn said(command: &mut Command) -> Result<String> {
    let said = command.output()?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    Ok(String::from_utf8(said.stdout)?)
}

/// The folder of the cluster's scripts, where its kubectl is.
fn scripts() -> Result<PathBuf> {
    let kubectl = std::env::var_os("KUBECTL").context("KUBECTL is not set")?;
    let folder = Path::new(&kubectl).parent().context("KUBECTL is in no folder")?;
    Ok(folder.to_owned())
}

/// Two versions side by side: the one that all pods run, and one that those labelled for it run. What was there is there
/// again when it goes.
#[derive(Debug)]
pub struct Versions<'a> {
    scene: &'a Scene,
    /// The digest of the one that was there.
    pub old: String,
    /// The digest of the other.
    pub new: String,
}

impl<'a> Versions<'a> {
    /// Gives the first service's pods another version, that has been pushed.
    ///
    /// # Errors
    ///
    /// When the cluster does not take it.
    pub fn canary(scene: &'a Scene, new: String) -> Result<Self> {
        let stable = scene.object(NAMESPACE, STABLE)?;
        let sha256 = text(&stable, "/spec/sha256").context("no sha256 in the plugin")?;
        let versions = Self {
            scene,
            old: format!("sha256:{sha256}"),
            new,
        };
        let mut spec = stable.pointer("/spec").cloned().context("no spec in the plugin")?;
        let selected = spec.pointer_mut("/selector/matchLabels/ostiary.dev~1filter");
        *selected.context("the plugin does not say which pods it is for")? = json!("canary");
        let plugin = json!({
            "apiVersion": "extensions.istio.io/v1alpha1",
            "kind": "WasmPlugin",
            "metadata": {"name": "ostiary-canary", "namespace": NAMESPACE},
            "spec": spec,
        });
        scene.cluster.apply(&plugin.to_string())?;
        versions.name(CANARY, &versions.new)?;
        versions.label("canary")?;
        Ok(versions)
    }

    /// Gives every pod the other version, or the one that was there.
    ///
    /// # Errors
    ///
    /// When the cluster does not take it.
    pub fn to_all(&self, digest: &str) -> Result<()> {
        self.name(STABLE, digest)?;
        self.label("stable")
    }

    /// Waits until the first service runs the other version, and another service the one that was there.
    ///
    /// # Errors
    ///
    /// When that is not so in time.
    pub async fn first_alone(&self) -> Result<()> {
        let cluster = &self.scene.cluster;
        let alone = cluster.until("the canary, alone, to run the new version", async || {
            let apart = self.runs(FIRST)? == [bare(&self.new)] && self.runs("warehouse")? == [bare(&self.old)];
            apart.then_some(())
        });
        alone.await
    }

    /// Waits until all sidecars are in order and run nothing but one of the two; says how long it took.
    ///
    /// # Errors
    ///
    /// When that is not so in time.
    pub async fn all_run(&self, digest: &str) -> Result<Duration> {
        let start = Instant::now();
        let other = if digest == self.old { &self.new } else { &self.old };
        let cluster = &self.scene.cluster;
        let all = cluster.until("every sidecar to run one version", async || {
            let (in_order, said) = self.scene.live().ok()?;
            (in_order && said.contains(bare(digest)) && !said.contains(bare(other))).then_some(())
        });
        all.await?;
        Ok(start.elapsed())
    }

    /// The versions that read requests in a service's sidecars, each once; none while they are unknown.
    fn runs(&self, service: &str) -> Option<Vec<String>> {
        let (_, said) = self.scene.live().ok()?;
        let report: Value = serde_json::from_str(&said).ok()?;
        let of_it = |pod: &&Value| text(pod, "/pod").is_some_and(|name| name.starts_with(service));
        let pods = report.pointer("/pods")?.as_array()?.iter().filter(of_it);
        let chains = pods.filter_map(|pod| pod.pointer("/chains")?.as_array()).flatten();
        // What is its own (health, metrics) has no filter.
        let reading =
            chains.filter(|chain| text(chain, "/carries") == Some("http") && text(chain, "/direction") != Some("own"));
        let modules = reading.map(|chain| text(chain, "/module/sha256").map(ToOwned::to_owned));
        let mut versions: Vec<_> = modules.collect::<Option<_>>()?;
        versions.sort();
        versions.dedup();
        Some(versions)
    }

    /// Names a version in a plugin.
    fn name(&self, plugin: &str, digest: &str) -> Result<()> {
        let stable = self.scene.object(NAMESPACE, STABLE)?;
        let url = text(&stable, "/spec/url").context("no url in the plugin")?;
        let repository = url.split('@').next().unwrap_or(url);
        let spec = json!({"spec": {"url": format!("{repository}@{digest}"), "sha256": bare(digest)}});
        self.scene.patch(NAMESPACE, plugin, &spec)
    }

    /// Gives the first service's pods one plugin or the other.
    fn label(&self, version: &str) -> Result<()> {
        let patch = json!({"spec": {"template": {"metadata": {"labels": {"ostiary.dev/filter": version}}}}});
        self.scene
            .patch(namespace(FIRST), &format!("deployment/{FIRST}"), &patch)?;
        self.scene.cluster.rolled_out(namespace(FIRST), FIRST)
    }

    fn undo(&self) -> Result<()> {
        self.to_all(&self.old)?;
        let delete = ["-n", NAMESPACE, "delete", "--ignore-not-found", CANARY];
        self.scene.cluster.kubectl(delete).map(drop)
    }
}

impl Drop for Versions<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            eprintln!("the filter's versions are not as they were: {error:#}");
        }
    }
}

fn text<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer)?.as_str()
}

/// A digest as sidecars tell it.
fn bare(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

/// A version goes to one service first, then to all, then the old one comes back, under calls that never stop. Prints the
/// figures.
///
/// # Errors
///
/// When a sidecar does not get the version, when a call passes that nothing permits, or when one that is permitted is denied
/// for another reason than that its sidecar has no policy yet. A connection may be closed: the listener that it is on goes.
pub async fn there_and_back(scene: &Scene, module: &[u8]) -> Result<()> {
    let new = push(module)?;
    let load = scene.load().await?;
    let versions = Versions::canary(scene, new)?;
    versions.first_alone().await?;
    versions.to_all(&versions.new)?;
    let upgraded = versions.all_run(&versions.new).await?;
    scene.passes().await?;
    versions.to_all(&versions.old)?;
    let rolled_back = versions.all_run(&versions.old).await?;
    drop(versions);
    scene.passes().await?;
    let tally = load.end()?;
    println!(
        "upgraded after {upgraded:.1?}, rolled back after {rolled_back:.1?}; {}",
        told(&tally)
    );
    scene.none_passed(&tally)?;
    only_for_want_of_policy(&tally)
}

fn only_for_want_of_policy(tally: &Tally) -> Result<()> {
    for name in ALLOWED {
        // A 503 without our code is Envoy's own, of a call that met a connection or a VM on its way out.
        let outcomes = ["2", "503 ", "error: "];
        let accounted: u64 = outcomes.iter().map(|outcome| tally.count(name, outcome)).sum();
        let other = tally.count(name, "503 records_unavailable");
        ensure!(accounted == tally.made(name) && other == 0, "{:?}", tally.outcomes);
    }
    Ok(())
}
