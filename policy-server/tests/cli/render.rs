//! `ostiary render`: what the manifests let through is what the files declare, no more and no less.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::ostiary;
use serde_json::Value;

/// Policies whose rendered manifests are committed.
const COMMITTED: [(&str, &str); 2] = [
    ("tests/mesh/policy", "tests/mesh/rendered"),
    ("k8s/demo/policy", "k8s/demo/rendered"),
];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Policy files by name, in a folder of their own.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("policy")).unwrap();
    for (name, text) in files {
        fs::write(folder.path().join("policy").join(name), text).unwrap();
    }
    folder
}

const WAREHOUSE: &str = r#"apiVersion: ostiary.dev/v1alpha1
kind: Service
metadata: { name: warehouse, namespace: data }
spec:
  serviceAccount: warehouse
  hosts: [warehouse, warehouse.data.svc.cluster.local]
  ports: [8080]
  protocol: http
  routes:
  - { method: GET, path: "/v1/tables/{table}", scope: "read:data.{table}" }
"#;

const ANALYST: &str = r#"apiVersion: ostiary.dev/v1alpha1
kind: Agent
metadata: { name: analyst-7, namespace: agents }
spec:
  serviceAccount: analyst-7
  scope: ["read:data.sales"]
  issuers: [spiffe://cluster.local/ns/orchestration/sa/orchestrator]
  reaches: [warehouse]
"#;

const IDLE: &str = r#"apiVersion: ostiary.dev/v1alpha1
kind: Agent
metadata: { name: idle, namespace: agents }
spec:
  serviceAccount: idle
  issuers: [spiffe://cluster.local/ns/orchestration/sa/orchestrator]
"#;

fn two() -> tempfile::TempDir {
    folder(&[("a.yaml", WAREHOUSE), ("b.yaml", ANALYST)])
}

/// Every file below a folder.
fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.insert(path.clone(), fs::read_to_string(&path).unwrap());
        }
    }
    files
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

/// All manifests of a folder but the lists of files.
fn manifests(folder: &Path) -> Vec<Value> {
    let all = files(folder).into_values().flat_map(|text| documents(&text));
    all.filter(|document| document["kind"] != "Kustomization").collect()
}

#[test]
fn what_is_committed_is_what_is_rendered() {
    for (policy, rendered) in COMMITTED {
        let run = ostiary(&top(), &["render", policy, "--out", rendered, "--check"]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{policy}: {}", run.stdout);
    }
}

#[test]
fn the_same_files_give_the_same_bytes_in_any_order() {
    let one = two();
    let other = folder(&[("b.yaml", WAREHOUSE), ("a.yaml", ANALYST)]);
    let [first, second] = [&one, &other].map(|folder| {
        let run = ostiary(folder.path(), &["render", "policy"]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""));
        run.stdout
    });
    assert_eq!(first, second);
    assert_eq!(documents(&first).len(), 6);
}

#[test]
fn the_list_of_files_is_complete() {
    let folder = two();
    let run = ostiary(folder.path(), &["render", "policy", "--out", "out"]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (
            0,
            "agents/agent-analyst-7.yaml: added\ndata/service-warehouse.yaml: added\nkustomization.yaml: added\n\
             ostiary/policy-server.yaml: added\nok: 4 files\n"
        )
    );
    let list = &documents(&fs::read_to_string(folder.path().join("out/kustomization.yaml")).unwrap())[0];
    let listed: Vec<_> = list["resources"].as_array().unwrap().iter().collect();
    assert_eq!(
        listed,
        [
            "agents/agent-analyst-7.yaml",
            "data/service-warehouse.yaml",
            "ostiary/policy-server.yaml"
        ]
    );
    let again = ostiary(folder.path(), &["render", "policy", "--out", "out"]);
    assert_eq!(again.stdout, "ok: 4 files\n");
}

#[test]
fn a_check_names_each_file_that_is_not_up_to_date_and_writes_none() {
    let folder = two();
    let check = || ostiary(folder.path(), &["render", "policy", "--out", "out", "--check"]);
    let missing = check();
    assert_eq!(missing.code, 1);
    assert!(missing.stdout.contains("kustomization.yaml: is missing\n"));
    assert!(!folder.path().join("out").exists());

    ostiary(folder.path(), &["render", "policy", "--out", "out"]);
    assert_eq!((check().code, check().stdout.as_str()), (0, "ok: 4 files\n"));

    let agent = folder.path().join("out/agents/agent-analyst-7.yaml");
    let text = fs::read_to_string(&agent).unwrap();
    fs::write(&agent, text.replace("port: 8080", "port: 8081")).unwrap();
    fs::write(folder.path().join("out/agents/agent-gone.yaml"), &text).unwrap();
    let stale = check();
    assert_eq!(
        (stale.code, stale.stdout.as_str()),
        (
            1,
            "agents/agent-analyst-7.yaml: is stale\nagents/agent-gone.yaml: is left over\n\
             2 files not up to date; render again without --check and commit\n"
        )
    );
    let json = ostiary(
        folder.path(),
        &["--output", "json", "render", "policy", "--out", "out", "--check"],
    );
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((json.code, &report["ok"]), (1, &Value::Bool(false)));
    assert_eq!(report["changes"][1]["kind"], "left-over");
    assert_eq!(
        fs::read_to_string(&agent).unwrap(),
        text.replace("port: 8080", "port: 8081")
    );

    ostiary(folder.path(), &["render", "policy", "--out", "out"]);
    assert_eq!(check().code, 0);
    assert!(!folder.path().join("out/agents/agent-gone.yaml").exists());
}

#[test]
fn what_was_not_rendered_is_never_touched() {
    let folder = two();
    let own = folder.path().join("out/kustomization.yaml");
    fs::create_dir(folder.path().join("out")).unwrap();
    fs::write(&own, "resources: [mine.yaml]\n").unwrap();
    fs::write(folder.path().join("out/mine.yaml"), "kind: Mine\n").unwrap();
    for arguments in [
        &["render", "policy", "--out", "out"][..],
        &["render", "policy", "--out", "out", "--check"],
    ] {
        let run = ostiary(folder.path(), arguments);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""));
        assert_eq!(
            run.stderr,
            "ostiary: `out/kustomization.yaml` was not rendered and is in the way: move it\n"
        );
    }
    assert_eq!(files(&folder.path().join("out")).len(), 2);

    fs::remove_file(&own).unwrap();
    let run = ostiary(folder.path(), &["render", "policy", "--out", "out"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(folder.path().join("out/mine.yaml").exists());
}

#[cfg(unix)]
#[test]
fn no_link_is_followed_out_of_the_folder() {
    let folder = two();
    fs::create_dir(folder.path().join("elsewhere")).unwrap();
    fs::create_dir(folder.path().join("out")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", folder.path().join("out/agents")).unwrap();
    let run = ostiary(folder.path(), &["render", "policy", "--out", "out"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("`out/agents` was not rendered"), "{}", run.stderr);
    assert!(files(&folder.path().join("elsewhere")).is_empty());
}

#[test]
fn what_no_manifest_can_say_is_told_with_its_place() {
    let long = format!("{0}.{0}", "a".repeat(32));
    for (from, to, place, message) in [
        (
            "serviceAccount: analyst-7",
            format!("serviceAccount: {long}"),
            "policy/b.yaml:5:19:",
            "longer than a label's value",
        ),
        (
            "ns/orchestration/sa/orchestrator",
            "orchestrator".to_owned(),
            "policy/b.yaml:7:13:",
            "no service account of this cluster",
        ),
        (
            "spiffe://cluster.local/ns/orch",
            "spiffe://elsewhere/ns/orch".to_owned(),
            "policy/b.yaml:7:13:",
            "no service account of this cluster",
        ),
        (
            "namespace: agents",
            "namespace: Agents_1".to_owned(),
            "policy/b.yaml:3:",
            "is not the name of a Kubernetes namespace",
        ),
    ] {
        let text = ANALYST.replace(from, &to);
        let folder = folder(&[("a.yaml", WAREHOUSE), ("b.yaml", &text)]);
        let run = ostiary(folder.path(), &["render", "policy", "--out", "out"]);
        assert_eq!((run.code, run.stderr.as_str()), (1, ""), "{to}: {}", run.stdout);
        assert!(run.stdout.starts_with(place), "{to}: {}", run.stdout);
        assert!(run.stdout.contains(message), "{to}: {}", run.stdout);
        assert!(!folder.path().join("out").exists());
    }
    let host = WAREHOUSE.replace("warehouse.data.svc", "warehouse.tools.svc");
    let misplaced = folder(&[("a.yaml", &host), ("b.yaml", ANALYST)]);
    let run = ostiary(misplaced.path(), &["render", "policy"]);
    assert_eq!(run.code, 1);
    let told = "policy/a.yaml:6:22: `warehouse.tools.svc.cluster.local` is in the namespace `tools`, but the service is in `data`";
    assert!(run.stdout.starts_with(told), "{}", run.stdout);
    for (path, code) in [("/metrics", 0), ("/metrics*", 1)] {
        let exempt =
            format!("  exempt: [{{ peer: \"spiffe://cluster.local/ns/m/sa/p\", method: GET, path: \"{path}\" }}]\n");
        let folder = folder(&[("a.yaml", &format!("{WAREHOUSE}{exempt}")), ("b.yaml", ANALYST)]);
        let run = ostiary(folder.path(), &["render", "policy"]);
        assert_eq!(run.code, code, "{path}: {}", run.stdout);
    }
}

#[test]
fn an_agent_without_grants_reaches_what_its_sidecar_needs_and_nothing_else() {
    let folder = folder(&[("a.yaml", WAREHOUSE), ("b.yaml", IDLE), ("c.yaml", ANALYST)]);
    ostiary(folder.path(), &["render", "policy", "--out", "out"]);
    let of = |agent: &str, kind: &str| {
        let file = folder.path().join(format!("out/agents/agent-{agent}.yaml"));
        let documents = documents(&fs::read_to_string(file).unwrap());
        documents.into_iter().find(|document| document["kind"] == kind).unwrap()
    };
    assert_eq!(
        of("idle", "NetworkPolicy")["spec"]["egress"].as_array().unwrap().len(),
        3
    );
    assert_eq!(
        of("analyst-7", "NetworkPolicy")["spec"]["egress"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    let sidecar = [
        "istio-system/istiod.istio-system.svc.cluster.local",
        "ostiary/policy-server.ostiary.svc.cluster.local",
    ];
    let hosts = |agent| of(agent, "Sidecar")["spec"]["egress"][0]["hosts"].clone();
    assert_eq!(hosts("idle"), serde_json::json!(sidecar));
    let with_warehouse = [&["data/warehouse.data.svc.cluster.local"][..], &sidecar].concat();
    assert_eq!(hosts("analyst-7"), serde_json::json!(with_warehouse));
}

/// A place that packets come from or go to, as the selectors of a NetworkPolicy see it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pod {
    namespace: String,
    labels: BTreeMap<String, String>,
}

fn pod(namespace: &str, label: &str, value: &str) -> Pod {
    Pod {
        namespace: namespace.to_owned(),
        labels: BTreeMap::from([(label.to_owned(), value.to_owned())]),
    }
}

fn of_account(namespace: &str, service_account: &str) -> Pod {
    pod(namespace, "ostiary.dev/service-account", service_account)
}

fn of_identity(identity: &str) -> Pod {
    let segments: Vec<_> = identity.split('/').collect();
    of_account(segments[4], segments[6])
}

/// Whether a selector takes labels. An absent selector takes none here: no rendered policy may leave one out.
fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let selector = selector.as_object().unwrap();
    assert_eq!(selector.keys().collect::<Vec<_>>(), ["matchLabels"]);
    let wanted = selector["matchLabels"].as_object().unwrap();
    assert!(!wanted.is_empty());
    wanted
        .iter()
        .all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
}

fn applies(policy: &Value, pod: &Pod) -> bool {
    policy["metadata"]["namespace"] == pod.namespace.as_str() && selects(&policy["spec"]["podSelector"], &pod.labels)
}

/// What Kubernetes would decide for one direction.
fn passes(policies: &[&Value], kind: &str, own: &Pod, other: &Pod, port: u16, protocol: &str) -> bool {
    let (rules, peers) = match kind {
        "Ingress" => ("ingress", "from"),
        _ => ("egress", "to"),
    };
    let isolating: Vec<_> = policies
        .iter()
        .filter(|policy| applies(policy, own))
        .filter(|policy| policy["spec"]["policyTypes"].as_array().unwrap().contains(&kind.into()))
        .collect();
    let other_namespace = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), other.namespace.clone())]);
    isolating.is_empty()
        || isolating.iter().any(|policy| {
            policy["spec"][rules].as_array().unwrap().iter().any(|rule| {
                let peer = rule[peers].as_array().unwrap().iter().any(|peer| {
                    selects(&peer["namespaceSelector"], &other_namespace)
                        && selects(&peer["podSelector"], &other.labels)
                });
                let ports = rule["ports"].as_array().unwrap();
                peer && ports
                    .iter()
                    .any(|entry| entry["port"] == port && entry["protocol"] == protocol)
            })
        })
}

fn policy_server() -> Pod {
    of_account("ostiary", "policy-server")
}

type Link = (Pod, Pod, u16, &'static str);

/// The workloads that the files of a folder describe, and who reaches whom; read without any code of ours.
fn declared(policy: &Path) -> (BTreeSet<Pod>, BTreeSet<Link>) {
    let all: Vec<_> = files(policy).into_values().flat_map(|text| documents(&text)).collect();
    let of_kind = |kind: &'static str| all.iter().filter(move |document| document["kind"] == kind);
    let workload = |document: &Value| {
        of_account(
            document["metadata"]["namespace"].as_str().unwrap(),
            document["spec"]["serviceAccount"].as_str().unwrap(),
        )
    };
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().cloned().unwrap_or_default();
        list.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let server = policy_server();
    let mut links = BTreeSet::new();
    let mut infrastructure = |from: &Pod| {
        let dns = pod("kube-system", "k8s-app", "kube-dns");
        links.insert((from.clone(), dns.clone(), 53, "UDP"));
        links.insert((from.clone(), dns, 53, "TCP"));
        links.insert((from.clone(), pod("istio-system", "app", "istiod"), 15012, "TCP"));
        links.insert((from.clone(), server.clone(), 8080, "TCP"));
    };
    let mut workloads = BTreeSet::new();
    for document in &all {
        infrastructure(&workload(document));
        workloads.insert(workload(document));
    }
    let mut issuers = BTreeSet::new();
    for agent in of_kind("Agent") {
        issuers.extend(texts(&agent["spec"]["issuers"]));
        for reached in texts(&agent["spec"]["reaches"]) {
            let service = of_kind("Service")
                .find(|service| service["metadata"]["name"] == reached.as_str())
                .unwrap();
            for port in service["spec"]["ports"].as_array().unwrap() {
                let port = u16::try_from(port.as_u64().unwrap()).unwrap();
                links.insert((workload(agent), workload(service), port, "TCP"));
            }
        }
    }
    for service in of_kind("Service") {
        for exempt in service["spec"]["exempt"].as_array().into_iter().flatten() {
            let peer = of_identity(exempt["peer"].as_str().unwrap());
            for port in service["spec"]["ports"].as_array().unwrap() {
                let port = u16::try_from(port.as_u64().unwrap()).unwrap();
                links.insert((peer.clone(), workload(service), port, "TCP"));
            }
        }
    }
    for issuer in issuers {
        links.insert((of_identity(&issuer), server.clone(), 8080, "TCP"));
    }
    (workloads, links)
}

/// Every connection that policies let through and that they could stop: from or to a workload, or to the policy server.
fn let_through(policies: &[&Value], workloads: &BTreeSet<Pod>, declared: &BTreeSet<Link>) -> BTreeSet<Link> {
    let mut pods: BTreeSet<_> = declared
        .iter()
        .flat_map(|(from, to, ..)| [from.clone(), to.clone()])
        .collect();
    // One of each kind that nothing declares: a stranger, one in a known namespace, one of a known name elsewhere, and
    // one with another label.
    pods.extend([
        of_account("elsewhere", "stranger"),
        of_account("agents", "stranger"),
        of_account("elsewhere", "analyst-7"),
        pod("agents", "app", "analyst-7"),
    ]);
    let mut seen = BTreeSet::new();
    for from in &pods {
        for to in pods.iter().filter(|to| *to != from) {
            if !workloads.contains(from) && !workloads.contains(to) && *to != policy_server() {
                continue;
            }
            for port in [53, 80, 443, 8080, 15006, 15012, 15020, 15021, 15090] {
                for protocol in ["TCP", "UDP"] {
                    if passes(policies, "Egress", from, to, port, protocol)
                        && passes(policies, "Ingress", to, from, port, protocol)
                    {
                        seen.insert((from.clone(), to.clone(), port, protocol));
                    }
                }
            }
        }
    }
    seen
}

#[test]
fn both_ways_the_network_lets_through_what_is_declared_and_nothing_else() {
    for (policy, rendered) in COMMITTED {
        let (workloads, declared) = declared(&top().join(policy));
        let all = manifests(&top().join(rendered));
        let policies: Vec<_> = all
            .iter()
            .filter(|document| document["kind"] == "NetworkPolicy")
            .collect();
        assert_eq!(let_through(&policies, &workloads, &declared), declared, "{policy}");

        // The comparison sees one peer too many, and one too few.
        let warehouse = policies
            .iter()
            .find(|policy| policy["metadata"]["name"] == "service-warehouse")
            .unwrap();
        for change in ["elsewhere", "agents"] {
            let mut wrong = (*warehouse).clone();
            wrong["spec"]["ingress"][0]["from"][0] = serde_json::json!({
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": change}},
                "podSelector": {"matchLabels": {"ostiary.dev/service-account": "stranger"}},
            });
            let policies: Vec<_> = policies
                .iter()
                .map(|policy| if policy == warehouse { &wrong } else { *policy })
                .collect();
            let seen = let_through(&policies, &workloads, &declared);
            let more = seen.difference(&declared).count();
            let less = declared.difference(&seen).count();
            assert_eq!((more, less), (1, 1), "{policy}: {change}");
        }
    }
}

#[test]
fn the_identities_let_in_are_those_that_the_files_name() {
    let all = manifests(&top().join("tests/mesh/rendered"));
    let principals = |name: &str| {
        let policy = all
            .iter()
            .find(|document| document["kind"] == "AuthorizationPolicy" && document["metadata"]["name"] == name)
            .unwrap();
        assert_eq!(policy["spec"]["action"], "ALLOW");
        policy["spec"]["rules"].clone()
    };
    assert_eq!(
        principals("service-warehouse"),
        serde_json::json!([
            {
                "from": [{"source": {"principals": ["cluster.local/ns/agents/sa/analyst-7", "cluster.local/ns/agents/sa/writer-2"]}}],
                "to": [{"operation": {"ports": ["8080"]}}],
            },
            {
                "from": [{"source": {"principals": ["cluster.local/ns/monitoring/sa/prometheus"]}}],
                "to": [{"operation": {"ports": ["8080"], "methods": ["GET"], "paths": ["/metrics"]}}],
            },
        ])
    );
    assert_eq!(
        principals("policy-server-callers")[0]["from"][0]["source"]["principals"]
            .as_array()
            .unwrap()
            .len(),
        6
    );
}

#[test]
fn a_service_that_nobody_reaches_lets_nobody_in() {
    let folder = folder(&[("a.yaml", WAREHOUSE), ("b.yaml", IDLE)]);
    ostiary(folder.path(), &["render", "policy", "--out", "out"]);
    let file = folder.path().join("out/data/service-warehouse.yaml");
    for document in documents(&fs::read_to_string(file).unwrap()) {
        let rules = if document["kind"] == "NetworkPolicy" {
            "ingress"
        } else {
            "rules"
        };
        assert_eq!(document["spec"][rules], serde_json::json!([]));
    }
}
