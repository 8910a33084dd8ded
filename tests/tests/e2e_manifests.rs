//! Every manifest, held against what will read it: the API server, the schemas of its kinds, istiod and Istio's own analysis.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::built::workspace;
use tests::cluster::Cluster;
use tests::network::analyser::{build, objects};
use tests::schemas;

/// What is applied as a whole.
const BUILT: [&str; 5] = [
    "istio/base",
    "istio/overlays/canary",
    "istio/overlays/traffic-extension",
    "k8s/overlays/kind",
    "k8s/overlays/production",
];

/// How what `istioctl analyze` says of the demo begins, and why it may.
const REASONED: [(&str, &str); 2] = [
    (
        "IST0133 EnvoyFilter istio-system/ostiary-",
        "no other API of Istio changes what these change; a new version of Istio is tried here first",
    ),
    ("IST0102 Namespace default", "nothing of the mesh runs there"),
];

fn tool(name: &str) -> PathBuf {
    workspace().join("target/cluster/bin").join(name)
}

fn built(folder: &str) -> String {
    build(&workspace().join(folder)).unwrap()
}

/// The objects of an overlay as a list, which is YAML too; those of the policy server's namespace are moved to one of
/// their own, because an installed PersistentVolumeClaim cannot become another's.
fn moved(folder: &str, namespace: &str) -> String {
    let mut items = objects(&built(folder)).unwrap();
    for item in &mut items {
        if item["metadata"]["namespace"] == "ostiary" {
            item["metadata"]["namespace"] = namespace.into();
        }
        if item["kind"] == "Namespace" && item["metadata"]["name"] == "ostiary" {
            item["metadata"]["name"] = namespace.into();
        }
    }
    list(&items)
}

fn list(items: &[Value]) -> String {
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn dry_run(cluster: &Cluster, manifests: &str) -> Result<(), String> {
    let arguments = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
    ];
    let said = cluster.try_kubectl(&arguments, manifests).unwrap();
    if said.ok { Ok(()) } else { Err(said.stderr) }
}

#[test]
fn the_api_server_takes_every_manifest_in_a_strict_dry_run() {
    const NAMESPACE: &str = "dry-run";
    let cluster = Cluster::connect().unwrap();
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: {NAMESPACE} }}\n"
        ))
        .unwrap();
    let mut wrong = Vec::new();
    for folder in BUILT {
        if let Err(said) = dry_run(&cluster, &moved(folder, NAMESPACE)) {
            wrong.push(format!("{folder}: {said}"));
        }
    }
    // The demo itself, where it is.
    if let Err(said) = dry_run(&cluster, &built("k8s/overlays/kind")) {
        wrong.push(format!("the demo: {said}"));
    }
    let misspelt = moved("k8s/overlays/kind", NAMESPACE)
        .replace("\"automountServiceAccountToken\"", "\"automountServiceAcountToken\"");
    let refused = dry_run(&cluster, &misspelt).unwrap_err();
    cluster
        .kubectl(["delete", "namespace", NAMESPACE, "--wait=false"])
        .unwrap();
    assert_eq!(wrong, Vec::<String>::new());
    assert!(refused.contains("automountServiceAcountToken"), "{refused}");
}

#[test]
fn every_manifest_fits_the_schemas_of_the_cluster() {
    let cluster = Cluster::connect().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let custom = schemas::write(&cluster, folder.path()).unwrap();
    for kind in [
        "WasmPlugin",
        "TrafficExtension",
        "EnvoyFilter",
        "AuthorizationPolicy",
        "Sidecar",
    ] {
        assert!(custom.contains(kind), "no CustomResourceDefinition of {kind}");
    }
    let conform = |manifests: &str| {
        let mut child = Command::new(tool("kubeconform"))
            .args(["-strict", "-summary", "-output", "text", "-schema-location"])
            .arg(schemas::location(folder.path()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, manifests.as_bytes()).unwrap();
        drop(input);
        let said = child.wait_with_output().unwrap();
        (
            said.status.success(),
            String::from_utf8([said.stdout, said.stderr].concat()).unwrap(),
        )
    };
    for folder in BUILT {
        let (ok, said) = conform(&built(folder));
        assert!(
            ok && said.contains("Invalid: 0, Errors: 0, Skipped: 0"),
            "{folder}: {said}"
        );
    }
    let demo = built("k8s/overlays/kind");
    for (from, to) in [
        ("failStrategy: FAIL_RELOAD", "failStrategie: FAIL_RELOAD"),
        ("failStrategy: FAIL_RELOAD", "failStrategy: FAIL_OFTEN"),
        (
            "terminationGracePeriodSeconds: 30",
            "terminationGracePeriodSeconds: soon",
        ),
        ("policyTypes:", "policyType:"),
    ] {
        let wrong = demo.replacen(from, to, 1);
        assert_ne!(wrong, demo, "{from}");
        let (ok, said) = conform(&wrong);
        assert!(!ok && said.contains("invalid"), "{to}: {said}");
    }
}

#[test]
fn istiod_refuses_what_its_schemas_let_pass() {
    let cluster = Cluster::connect().unwrap();
    let policy = |key: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: only-by-day, namespace: data }}
spec:
  action: ALLOW
  rules:
  - when: [{{ key: {key}, values: [\"10.0.0.1\"] }}]
"
        )
    };
    dry_run(&cluster, &policy("source.ip")).unwrap();
    let refused = dry_run(&cluster, &policy("source.moon")).unwrap_err();
    assert!(
        refused.contains("validation.istio.io") && refused.contains("source.moon"),
        "{refused}"
    );

    let filter = |kind: &str| {
        format!(
            "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{ name: team-filter, namespace: data }}
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: {{ context: SIDECAR_INBOUND }}
    patch:
      operation: INSERT_FIRST
      value:
        name: team-filter
        typed_config: {{ \"@type\": type.googleapis.com/{kind} }}
"
        )
    };
    dry_run(&cluster, &filter("envoy.extensions.filters.http.rbac.v3.RBAC")).unwrap();
    let refused = dry_run(&cluster, &filter("envoy.extensions.filters.http.rbac.v3.ABAC")).unwrap_err();
    assert!(
        refused.contains("validation.istio.io") && refused.contains("ABAC"),
        "{refused}"
    );
}

#[test]
fn istios_own_analysis_says_nothing_of_the_demo_without_a_reason() {
    // It stands beside kubectl, and reaches the same cluster.
    let kubectl = PathBuf::from(std::env::var_os("KUBECTL").unwrap());
    let istioctl = kubectl.with_file_name("istioctl");
    let analysed = |more: &str| -> Vec<String> {
        let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        std::fs::write(file.path(), more).unwrap();
        let said = Command::new(&istioctl)
            .args([
                "analyze",
                "--all-namespaces",
                "--output=json",
                "--failure-threshold=Error",
            ])
            .arg(file.path())
            .output()
            .unwrap();
        let messages: Value = serde_json::from_slice(&said.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&said.stderr)));
        let text = |message: &Value, field: &str| message[field].as_str().unwrap_or_default().to_owned();
        let messages = messages.as_array().unwrap().iter();
        messages
            .map(|message| {
                ["code", "origin", "message"]
                    .map(|field| text(message, field))
                    .join(" ")
            })
            .filter(|message| !REASONED.iter().any(|(start, _)| message.starts_with(start)))
            .collect()
    };
    let policy = |account: &str| {
        format!(
            "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{ name: one-more, namespace: data }}
spec:
  selector: {{ matchLabels: {{ ostiary.dev/service-account: {account} }} }}
"
        )
    };
    assert_eq!(analysed(&policy("warehouse")), Vec::<String>::new());
    // It does look.
    let said = analysed(&policy("werehouse"));
    assert!(
        said.len() == 1 && said[0].starts_with("IST0127 AuthorizationPolicy data/one-more"),
        "{said:?}"
    );
}
