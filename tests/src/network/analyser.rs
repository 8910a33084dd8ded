//! An independent analyser of NetworkPolicies: network-config-analyzer of the NP-Guard project.
#![expect(clippy::indexing_slicing, reason = "a JSON value without the field answers null")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Protocol, Way};
use crate::built;

/// A pod as the analyser is told of it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The workload, by namespace and service account.
    pub workload: String,
    /// Its labels.
    pub labels: Value,
}

/// The objects of a built overlay that a network is made of.
///
/// # Errors
///
/// When it is not YAML.
pub fn objects(built: &str) -> Result<Vec<Value>> {
    Ok(serde_saphyr::from_multiple(built)?)
}

/// The pods of Deployments, by their service accounts.
#[must_use]
pub fn pods(objects: &[Value]) -> Vec<Pod> {
    let deployments = objects.iter().filter(|object| object["kind"] == "Deployment");
    deployments
        .map(|object| {
            let template = &object["spec"]["template"];
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
            let account = template["spec"]["serviceAccountName"].as_str().unwrap_or("default");
            Pod {
                workload: format!("{namespace}/{account}"),
                labels: template["metadata"]["labels"].clone(),
            }
        })
        .collect()
}

/// What the analyser finds in NetworkPolicies: all ways between these pods over these ports.
///
/// # Errors
///
/// When it cannot be run, or says what is not understood here.
pub fn ways(objects: &[Value], pods: &[Pod], ports: &BTreeSet<u16>) -> Result<BTreeSet<Way>> {
    let folder = tempfile::tempdir()?;
    let (network, answer) = (folder.path().join("network.json"), folder.path().join("answer"));
    std::fs::write(&network, input(objects, pods)?.to_string())?;
    let run = Command::new(program())
        .args(["--connectivity", "--output_format", "json", "--resource_list"])
        .arg(&network)
        .arg("--file_out")
        .arg(&answer)
        .output()
        .with_context(|| {
            format!(
                "cannot run {}: tests/cluster/tools/checkers.sh installs it",
                program().display()
            )
        })?;
    ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let said: Value = serde_json::from_slice(&std::fs::read(&answer)?).context("the analyser's answer")?;
    let rules = said.pointer("/0/explanation/0/rules").and_then(Value::as_array);
    let mut ways = BTreeSet::new();
    for rule in rules.context("the analyser says no rules")? {
        read(rule, pods, ports, &mut ways)?;
    }
    Ok(ways)
}

fn program() -> PathBuf {
    std::env::var_os("NCA").map_or_else(|| built::workspace().join("target/cluster/bin/nca"), PathBuf::from)
}

/// A list of namespaces, pods and NetworkPolicies. JSON is YAML.
fn input(objects: &[Value], pods: &[Pod]) -> Result<Value> {
    let mut items: Vec<Value> = objects
        .iter()
        .filter(|object| object["kind"] == "NetworkPolicy")
        .cloned()
        .collect();
    ensure!(!items.is_empty(), "no NetworkPolicy");
    let namespaces: BTreeSet<_> = pods.iter().filter_map(|pod| pod.workload.split('/').next()).collect();
    for namespace in namespaces {
        let applied = objects
            .iter()
            .find(|object| object["kind"] == "Namespace" && object["metadata"]["name"] == namespace);
        let mut labels = applied.map_or_else(|| json!({}), |object| object["metadata"]["labels"].clone());
        labels["kubernetes.io/metadata.name"] = namespace.into();
        items.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}));
    }
    for pod in pods {
        let (namespace, account) = pod.workload.split_once('/').context("no workload")?;
        items.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": account, "namespace": namespace, "labels": pod.labels},
            "spec": {"containers": [{"name": "application", "image": "none"}]},
            "status": {"hostIP": "192.0.2.2"},
        }));
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

fn read(rule: &Value, pods: &[Pod], ports: &BTreeSet<u16>, ways: &mut BTreeSet<Way>) -> Result<()> {
    let (Some(from), Some(to)) = (side(rule, "src", pods)?, side(rule, "dst", pods)?) else {
        return Ok(());
    };
    for connection in rule["connection"].as_array().context("no connections")? {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for port in ports {
                if !carries(connection, protocol, *port)? {
                    continue;
                }
                for (from, to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
                    ways.insert(Way {
                        from: (*from).to_owned(),
                        to: (*to).to_owned(),
                        port: *port,
                        protocol,
                    });
                }
            }
        }
    }
    Ok(())
}

/// The pods of one side of a rule; none for addresses outside.
fn side<'p>(rule: &Value, side: &str, pods: &'p [Pod]) -> Result<Option<Vec<&'p str>>> {
    if rule.get(format!("{side}_ip_block")).is_some() {
        return Ok(None);
    }
    let list = |what: &str| -> Result<Vec<&str>> {
        let items = rule[format!("{side}_{what}")]
            .as_array()
            .context("neither pods nor addresses")?;
        Ok(items.iter().filter_map(Value::as_str).collect())
    };
    let (namespaces, names) = (list("ns")?, list("pods")?);
    let met = pods.iter().map(|pod| pod.workload.as_str()).filter(|workload| {
        let (namespace, name) = workload.split_once('/').unwrap_or_default();
        namespaces.contains(&namespace) && (names == ["*"] || names.contains(&name))
    });
    let met: Vec<_> = met.collect();
    // A name that is read wrongly would make a way disappear.
    let known = |name: &&str| *name == "*" || met.iter().any(|workload| workload.ends_with(&format!("/{name}")));
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        bail!("the analyser says `{unknown}`, which is no pod: {rule}");
    }
    Ok(Some(met))
}

fn carries(connection: &Value, protocol: Protocol, port: u16) -> Result<bool> {
    if connection == "All connections" {
        return Ok(true);
    }
    let protocols = connection["protocols"]
        .as_str()
        .with_context(|| connection.to_string())?;
    if !protocols.split(", ").any(|name| name == protocol.to_string()) {
        return Ok(false);
    }
    let Some(ports) = connection.get("dst_ports") else {
        return Ok(true);
    };
    let ports = ports.as_array().with_context(|| connection.to_string())?;
    for range in ports {
        let (first, last) = bounds(range).with_context(|| connection.to_string())?;
        if (first..=last).contains(&u64::from(port)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A number, or `first-last`.
fn bounds(range: &Value) -> Option<(u64, u64)> {
    if let Some(port) = range.as_u64() {
        return Some((port, port));
    }
    let (first, last) = range.as_str()?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// What `kubectl apply -k` would apply.
///
/// # Errors
///
/// When kubectl cannot build it.
pub fn build(folder: &Path) -> Result<String> {
    let kubectl = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let built = Command::new(kubectl)
        .arg("kustomize")
        .arg(folder)
        .output()
        .context("kubectl")?;
    ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Ok(String::from_utf8(built.stdout)?)
}
