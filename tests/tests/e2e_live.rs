//! `ostiary check --live` on real sidecars: it says that all is in order when it is, and names exactly what is not.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::fs;
use std::process::Command;

use serde_json::Value;
use tests::built;
use tests::cluster::Cluster;

/// What `ostiary check --live` says: its exit code and its report.
fn look() -> (i32, Value) {
    let output = Command::new(built::ostiary().unwrap())
        .args(["check", "--live", "--output", "json"])
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    (
        output.status.code().unwrap(),
        report.unwrap_or_else(|error| panic!("{error}: {complaint}")),
    )
}

/// Waits until it says `code` with exactly these findings: Istio takes a moment to tell a sidecar.
async fn says(cluster: &Cluster, code: i32, findings: &[(&str, &str)]) -> Value {
    let mut last = String::new();
    let said = cluster
        .until("what the sidecars have", async || {
            let (exit, report) = look();
            last = report["findings"].to_string();
            let told: Vec<_> = report["findings"]
                .as_array()?
                .iter()
                .map(|finding| Some((finding["pod"].as_str()?, finding["code"].as_str()?)))
                .collect::<Option<_>>()?;
            (exit == code && told == findings).then_some(report)
        })
        .await;
    said.unwrap_or_else(|error| panic!("{error}; the last findings: {last}"))
}

/// The digest of the filter's image, as `make images` printed it.
fn digest() -> String {
    let digests = fs::read_to_string(built::target().join("images/digests")).unwrap();
    let line = digests.lines().find_map(|line| line.strip_prefix("filter sha256:"));
    line.unwrap().to_owned()
}

#[tokio::test]
async fn every_sidecar_of_the_demo_runs_the_filter_that_was_pushed() {
    let cluster = Cluster::connect().unwrap();
    let report = says(&cluster, 0, &[]).await;
    let pods = report["pods"].as_array().unwrap();
    for (namespace, workload) in [
        ("agents", "analyst-7"),
        ("agents", "writer-2"),
        ("data", "memory"),
        ("data", "reports"),
        ("data", "warehouse"),
        ("tools", "mcp"),
    ] {
        let is_it = |pod: &&Value| pod["namespace"] == namespace && pod["pod"].as_str().unwrap().starts_with(workload);
        let pod = pods.iter().filter(is_it).find(|pod| pod["excuse"].is_null());
        let chains = pod.unwrap()["chains"].as_array().unwrap();
        for direction in ["inbound", "outbound"] {
            let mut reading = chains
                .iter()
                .filter(|chain| chain["direction"] == direction && chain["carries"] == "http");
            assert!(
                reading.clone().count() > 0,
                "{workload}: nothing {direction} reads requests"
            );
            assert!(
                reading.all(|chain| chain["module"]["sha256"] == digest().as_str()),
                "{workload}: {direction}"
            );
        }
    }
    let server = pods.iter().find(|pod| pod["namespace"] == "ostiary").unwrap();
    assert!(server["excuse"].as_str().unwrap().starts_with("the policy server"));
}

/// The name of the pod of a Deployment.
fn pod(cluster: &Cluster, namespace: &str, workload: &str) -> String {
    let selector = format!("ostiary.dev/service-account={workload}");
    let name = "jsonpath={.items[0].metadata.name}";
    cluster
        .kubectl(["-n", namespace, "get", "pods", "-l", &selector, "-o", name])
        .unwrap()
}

#[tokio::test]
async fn a_pod_that_asks_for_a_version_that_there_is_not_is_named() {
    let cluster = Cluster::connect().unwrap();
    says(&cluster, 0, &[]).await;
    let pod = pod(&cluster, "data", "memory");
    let label = |value: &str| {
        let label = format!("ostiary.dev/filter={value}");
        cluster
            .kubectl(["-n", "data", "label", "--overwrite", "pod", &pod, &label])
            .unwrap()
    };
    label("canary");
    let name = format!("data/{pod}");
    let report = says(&cluster, 1, &[(&name, "filter_missing")]).await;
    let message = report["findings"][0]["message"].as_str().unwrap();
    assert!(message.ends_with("the guard denies everything"), "{message}");
    label("stable");
    says(&cluster, 0, &[]).await;
}

#[tokio::test]
async fn a_pod_of_the_mesh_without_a_sidecar_is_named() {
    let cluster = Cluster::connect().unwrap();
    says(&cluster, 0, &[]).await;
    let image = "jsonpath={.spec.template.spec.containers[?(@.name=='application')].image}";
    let image = cluster.kubectl(["-n", "outside", "get", "deployment", "outsider", "-o", image]);
    // Where the admission policies hold, nobody can make one.
    let bare = format!(
        r#"apiVersion: v1
kind: Pod
metadata:
  name: bare
  namespace: outside
  labels: {{ ostiary.dev/mesh: enabled, sidecar.istio.io/inject: "false" }}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {{ name: application, image: "{}", args: [agent] }}
"#,
        image.unwrap()
    );
    cluster.apply(&bare).unwrap();
    says(&cluster, 1, &[("outside/bare", "no_sidecar")]).await;
    cluster
        .kubectl(["-n", "outside", "delete", "pod", "bare", "--wait"])
        .unwrap();
    says(&cluster, 0, &[]).await;
}
