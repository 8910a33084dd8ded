//! Packets between pods: sent beside the redirect, as the sidecar's user, so that only the network can stop them.
//!
//! A way that is open answers at once: the other side accepts, or refuses because nobody listens. Of a way that is closed
//! nothing is heard. A datagram shows as much where somebody answers it (DNS), or where the other node says that nobody
//! listens (ICMP); a silent listener would look like a closed way, so each datagram here is a DNS query, sent to the DNS server
//! or to a port on which nobody listens.
#![expect(clippy::indexing_slicing, reason = "a JSON value without the field answers null")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Protocol, Way};
use crate::cluster::Cluster;

/// How long nothing may be heard, in seconds. An open way answers within milliseconds; one that says nothing is asked again,
/// for longer.
const PATIENCE_SECONDS: [u32; 2] = [2, 8];

/// What asks, in a shell of a sidecar: busybox there, or the programs of Istio's own image.
const ASK: &str = r#"
tcp() { if nc -h 2>&1 | grep -q BusyBox; then nc -w "$3" "$1" "$2" -e /bin/sleep 0; else nc -z -v -w "$3" "$1" "$2"; fi; }
udp() { if nc -h 2>&1 | grep -q BusyBox; then timeout "$3" nslookup -type=a localhost. "$1:$2"; else kdig +retry=0 +timeout="$3" @"$1" -p "$2" localhost.; fi; }
ask() {
  said=$("$1" "$2" "$3" "$4" 2>&1 </dev/null)
  case "$?: $said" in
    0:*|*refused*|*NXDOMAIN*|*"t find"*|*"Non-authoritative"*) echo "$1 $2 $3 open" ;;
    *) echo "$1 $2 $3 closed" ;;
  esac
}
"#;

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Namespace and service account.
    pub workload: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// The ports that its containers name.
    pub ports: Vec<(u16, Protocol)>,
    /// The container in whose network and as whose user packets are sent: the sidecar, or the only one.
    container: String,
}

impl Pod {
    /// All running pods that have an address of their own.
    ///
    /// # Errors
    ///
    /// When the cluster does not answer.
    pub fn all(cluster: &Cluster) -> Result<Vec<Self>> {
        let list = cluster.kubectl(["get", "pods", "--all-namespaces", "--output=json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let items = list["items"].as_array().context("no list of pods")?;
        Ok(items.iter().filter_map(Self::read).collect())
    }

    fn read(pod: &Value) -> Option<Self> {
        let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
        if status["phase"] != "Running" || spec["hostNetwork"] == true || !metadata["deletionTimestamp"].is_null() {
            return None;
        }
        let lists = ["containers", "initContainers"];
        let containers: Vec<_> = lists
            .iter()
            .filter_map(|list| spec[*list].as_array())
            .flatten()
            .collect();
        let ports = containers
            .iter()
            .filter_map(|container| container["ports"].as_array())
            .flatten();
        let sidecar = containers.iter().find(|container| container["name"] == "istio-proxy");
        let account = spec["serviceAccountName"].as_str()?;
        Some(Self {
            workload: format!("{}/{account}", metadata["namespace"].as_str()?),
            name: metadata["name"].as_str()?.to_owned(),
            address: status["podIP"].as_str()?.parse().ok()?,
            ports: ports.filter_map(port).collect(),
            container: sidecar.or(containers.first())?["name"].as_str()?.to_owned(),
        })
    }

    fn namespace(&self) -> &str {
        self.workload.split('/').next().unwrap_or_default()
    }

    /// Asks at all these addresses at once; answers which ways are open.
    fn ask(&self, cluster: &Cluster, asked: &[&Probe], seconds: u32) -> Result<BTreeMap<Way, bool>> {
        let mut script = ASK.to_owned();
        for probe in asked {
            let (address, Way { port, protocol, .. }) = (probe.address, &probe.way);
            let protocol = protocol.to_string().to_ascii_lowercase();
            writeln!(script, "ask {protocol} {address} {port} {seconds} &")?;
        }
        script.push_str("wait\n");
        let container = ["-c", &self.container];
        let mut arguments = vec!["-n", self.namespace(), "exec", "-i", &self.name];
        arguments.extend(container);
        arguments.extend(["--", "sh", "-s"]);
        let said = cluster.try_kubectl(&arguments, &script)?;
        let mut found = BTreeMap::new();
        for probe in asked {
            let Way { port, protocol, .. } = &probe.way;
            let start = format!(
                "{} {} {port} ",
                protocol.to_string().to_ascii_lowercase(),
                probe.address
            );
            let outcome = said.stdout.lines().find_map(|line| line.strip_prefix(&start));
            let outcome = outcome.with_context(|| format!("no answer from {}: {}", self.workload, said.stderr))?;
            ensure!(["open", "closed"].contains(&outcome), "{outcome}");
            found.insert(probe.way.clone(), outcome == "open");
        }
        Ok(found)
    }
}

fn port(port: &Value) -> Option<(u16, Protocol)> {
    let protocol = match port["protocol"].as_str() {
        Some("UDP") => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    Some((port["containerPort"].as_u64()?.try_into().ok()?, protocol))
}

/// A way, and the address that it is tried at.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The way.
    pub way: Way,
    /// Where the other side is.
    pub address: IpAddr,
}

/// Tries ways from the pods that they begin at, all at once, and those that are not as expected once more with more patience;
/// answers which are not as expected.
///
/// # Errors
///
/// When a pod has no shell, or the cluster does not answer.
pub fn surprises(
    cluster: &Cluster,
    from: &[Pod],
    probes: &[Probe],
    expected: &dyn Fn(&Way) -> bool,
) -> Result<Vec<Way>> {
    let mut left: Vec<&Probe> = probes.iter().collect();
    for seconds in PATIENCE_SECONDS {
        let found = tried(cluster, from, &left, seconds)?;
        left.retain(|probe| found.get(&probe.way) != Some(&expected(&probe.way)));
    }
    Ok(left.into_iter().map(|probe| probe.way.clone()).collect())
}

/// Tries ways once; answers which are open.
///
/// # Errors
///
/// As [`surprises`].
pub fn tried(cluster: &Cluster, from: &[Pod], probes: &[&Probe], seconds: u32) -> Result<BTreeMap<Way, bool>> {
    thread::scope(|scope| {
        let asking: Vec<_> = from
            .iter()
            .filter_map(|pod| {
                let own: Vec<_> = probes
                    .iter()
                    .copied()
                    .filter(|probe| probe.way.from == pod.workload)
                    .collect();
                (!own.is_empty()).then(|| scope.spawn(move || pod.ask(cluster, &own, seconds)))
            })
            .collect();
        let mut all = BTreeMap::new();
        for answer in asking {
            let answer = answer.join().ok().context("a prober panicked")?;
            all.extend(answer?);
        }
        Ok(all)
    })
}
