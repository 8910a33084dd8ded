//! A mesh put together from what its sidecars say: which pods are asked, and what is told of them.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;

use policy_server::live::dump::Dump;
use policy_server::live::pods::{Pod, Standing, select};
use policy_server::live::report::{Answer, Report};
use serde_json::{Value, json};

fn read(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dumps").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn parse(dump: &Value) -> Dump {
    Dump::parse(dump.to_string().as_bytes()).unwrap()
}

fn pods() -> Vec<Pod> {
    let (namespaces, pods) = (read("namespaces.json"), read("pods.json"));
    select_from(&namespaces, &pods)
}

fn select_from(namespaces: &Value, pods: &Value) -> Vec<Pod> {
    let (namespaces, pods) = (namespaces.to_string(), pods.to_string());
    select(namespaces.as_bytes(), pods.as_bytes(), ("ostiary", "policy-server")).unwrap()
}

/// The report on a mesh whose pods all answer as the warehouse does, but for one fact.
fn report(change: impl FnOnce(&mut Vec<(Pod, Answer)>)) -> Report {
    let dump = parse(&read("warehouse.json"));
    let mut answers: Vec<_> = pods()
        .into_iter()
        .map(|pod| (pod, Answer::Dump(dump.clone())))
        .collect();
    change(&mut answers);
    Report::new(answers)
}

fn told(report: &Report) -> Vec<(Option<&str>, &str)> {
    let findings = report.findings.iter();
    findings.map(|finding| (finding.pod.as_deref(), finding.code)).collect()
}

#[test]
fn a_mesh_in_order_has_no_finding_and_each_pod_that_differs_is_named() {
    assert!(report(|_| {}).ok);
    let with = |dump: Dump| report(|answers| answers[2].1 = Answer::Dump(dump));
    let warehouse = Some("data/warehouse");

    let missing = with(parse(&read("reports-no-plugin.json")));
    assert_eq!(told(&missing), [(warehouse, "filter_missing")]);
    assert_eq!(missing.findings[0].listeners, ["virtualInbound", "0.0.0.0_8080"]);
    assert!(missing.findings[0].message.contains("the guard denies everything"));

    let silent = report(|answers| answers[2].1 = Answer::Nothing("no route".to_owned()));
    assert_eq!(told(&silent), [(warehouse, "no_answer")]);
    let ending = report(|answers| {
        answers[2].0.standing = Standing::Ending;
        answers[2].1 = Answer::Nothing("no route".to_owned());
    });
    assert!(ending.ok);
    assert_eq!(ending.pods[2].excuse.as_deref(), Some("it is being ended"));

    let bare = report(|answers| answers[2].0.standing = Standing::NoSidecar);
    assert_eq!(told(&bare), [(warehouse, "no_sidecar")]);
    let pending = report(|answers| answers[2].0.standing = Standing::NotRunning("Pending".to_owned()));
    assert_eq!(told(&pending), [(warehouse, "not_running")]);
    let ended = report(|answers| answers[2].0.standing = Standing::Excused("it has ended"));
    assert!(ended.ok);

    let mut refused = read("warehouse.json");
    refused["configs"][0]["ecds_filters"][0]["error_state"] = json!({"details": "cannot load"});
    let refused = with(parse(&refused));
    assert_eq!(told(&refused), [(warehouse, "refused")]);
    assert!(refused.findings[0].message.contains("cannot load"));

    let mut warming = read("warehouse.json");
    let listeners = warming["configs"][1]["dynamic_listeners"].as_array_mut().unwrap();
    let state = listeners[0].as_object_mut().unwrap().remove("active_state").unwrap();
    listeners[0]["warming_state"] = state;
    assert_eq!(told(&with(parse(&warming))), [(warehouse, "warming")]);
}

#[test]
fn pods_of_one_label_run_one_version_and_pods_of_two_may_run_two() {
    let mut other = read("warehouse.json");
    let extension = &mut other["configs"][0]["ecds_filters"][0]["ecds_filter"]["typed_config"];
    let file = &mut extension["config"]["vm_config"]["code"]["local"]["filename"];
    let (folder, _) = file.as_str().unwrap().rsplit_once('/').unwrap();
    *file = json!(format!("{folder}/{}.wasm", "ab".repeat(32)));
    let other = parse(&other);

    // `reports` is the canary.
    assert!(report(|answers| answers[1].1 = Answer::Dump(other.clone())).ok);
    let several = report(|answers| answers[2].1 = Answer::Dump(other));
    assert_eq!(told(&several), [(None, "several_versions")]);
    let message = &several.findings[0].message;
    assert!(message.contains("sha256:abababababab in data/warehouse"), "{message}");
    assert!(message.contains("in agents/analyst-7"), "{message}");
}

fn pod<'v>(pods: &'v mut Value, name: &str) -> &'v mut Value {
    let items = pods["items"].as_array_mut().unwrap();
    items.iter_mut().find(|pod| pod["metadata"]["name"] == name).unwrap()
}

#[test]
fn pods_are_asked_when_they_or_their_namespaces_are_labelled() {
    let names = |namespaces: &Value, pods: &Value| -> Vec<_> {
        let selected = select_from(namespaces, pods);
        selected.into_iter().map(|pod| (pod.name, pod.standing)).collect()
    };
    let (namespaces, pods) = (read("namespaces.json"), read("pods.json"));
    let all = ["analyst-7", "reports", "warehouse"].map(|name| (name.to_owned(), Standing::Ask));
    assert_eq!(names(&namespaces, &pods), all);

    // Without its own label it is still in a namespace of the mesh; elsewhere it is none of ours.
    let mut changed = pods.clone();
    pod(&mut changed, "warehouse")["metadata"]["labels"] = json!({});
    assert_eq!(names(&namespaces, &changed), all);
    pod(&mut changed, "warehouse")["metadata"]["namespace"] = json!("default");
    assert_eq!(names(&namespaces, &changed), all[..2]);

    let standing = |change: fn(&mut Value)| {
        let mut changed = pods.clone();
        change(pod(&mut changed, "warehouse"));
        names(&namespaces, &changed)
            .into_iter()
            .find(|(name, _)| name == "warehouse")
            .unwrap()
            .1
    };
    assert_eq!(
        standing(|pod| pod["spec"]["initContainers"] = json!([])),
        Standing::NoSidecar
    );
    let beside = standing(|pod| {
        pod["spec"]["initContainers"] = json!([]);
        pod["spec"]["containers"] = json!([{"name": "app"}, {"name": "istio-proxy"}]);
    });
    assert_eq!(beside, Standing::Ask);
    assert_eq!(
        standing(|pod| pod["status"]["phase"] = json!("Pending")),
        Standing::NotRunning("Pending".to_owned())
    );
    assert_eq!(
        standing(|pod| pod["status"]["phase"] = json!("Succeeded")),
        Standing::Excused("it has ended")
    );
    assert_eq!(
        standing(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-11-25T19:00:00Z")),
        Standing::Ending
    );

    // The policy server is named though nothing labels it; another account of its namespace is not it.
    let mut changed = pods.clone();
    let server = pod(&mut changed, "warehouse");
    server["metadata"] = json!({"name": "policy-server-0", "namespace": "ostiary"});
    server["spec"]["serviceAccountName"] = json!("policy-server");
    let found = names(&namespaces, &changed);
    assert!(matches!(&found[2], (name, Standing::Excused(why)) if name == "policy-server-0" && why.contains("itself")));
    pod(&mut changed, "policy-server-0")["spec"]["serviceAccountName"] = json!("another");
    assert_eq!(names(&namespaces, &changed).len(), 2);
}
