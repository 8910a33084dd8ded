//! `ostiary check`: what is right passes, and every mistake is told with its place and what to write instead.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod cli_support;

use std::fs;
use std::path::Path;

use cli_support::ostiary;
use serde_json::Value;

const WAREHOUSE: &str = r#"apiVersion: ostiary.dev/v1alpha1
kind: Service
metadata: { name: warehouse, namespace: data }
spec:
  serviceAccount: warehouse
  hosts: [warehouse.data.svc.cluster.local]
  ports: [8080]
  protocol: http
  routes:
  - { method: GET, path: "/v1/tables/{table}", scope: "read:data.{table}" }
"#;

const TOOLS: &str = r#"apiVersion: ostiary.dev/v1alpha1
kind: Service
metadata: { name: mcp, namespace: tools }
spec:
  serviceAccount: mcp
  hosts: [mcp.tools.svc.cluster.local]
  ports: [8080]
  protocol: mcp
  tools:
    pandas: {}
    bash: {}
"#;

const ANALYST: &str = r#"apiVersion: ostiary.dev/v1alpha1
kind: Agent
metadata: { name: analyst-7, namespace: agents }
spec:
  serviceAccount: analyst-7
  tools: [pandas]
  forbiddenTools: [bash]
  scope: ["read:data.sales_q1_2026"]
  issuers: [spiffe://cluster.local/ns/orchestration/sa/orchestrator]
  maxTokensPerDay: 2000000
  reaches: [warehouse, mcp]
"#;

/// The three files, with `from` written as `to` in one of them.
fn folder_with(file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("analyst-7.yaml", ANALYST),
        ("mcp.yaml", TOOLS),
        ("warehouse.yaml", WAREHOUSE),
    ] {
        let text = if name == file {
            assert!(text.contains(from), "{from:?} is not in {name}");
            text.replace(from, to)
        } else {
            text.to_owned()
        };
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn good_folder() -> tempfile::TempDir {
    folder_with("warehouse.yaml", "8080", "8080")
}

/// A mistake: the file, what is replaced by what, and then the place, the message's and the advice's words.
type Seed = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

const SEEDS: &[Seed] = &[
    // The YAML itself.
    (
        "warehouse.yaml",
        "  ports:",
        "\tports:",
        "warehouse.yaml:7:",
        "this is not YAML",
        "indentation",
    ),
    (
        "warehouse.yaml",
        "[8080]",
        "[8080",
        "warehouse.yaml:",
        "this is not YAML",
        "indentation",
    ),
    (
        "analyst-7.yaml",
        "  reaches",
        "  tools: [bash]\n  reaches",
        "analyst-7.yaml:11:3",
        "`tools` is given twice, first on line 6",
        "`tools` once",
    ),
    (
        "analyst-7.yaml",
        "[pandas]",
        "&t [pandas]",
        "analyst-7.yaml:6:",
        "YAML anchor",
        "without it",
    ),
    (
        "analyst-7.yaml",
        "[bash]",
        "*t",
        "analyst-7.yaml:7:19",
        "",
        "write instead",
    ),
    (
        "analyst-7.yaml",
        "2000000",
        "!!int 2000000",
        "analyst-7.yaml:10:",
        "YAML tag",
        "without it",
    ),
    // Names of fields and their types.
    (
        "analyst-7.yaml",
        "serviceAccount",
        "serviceAcount",
        "analyst-7.yaml:5:3",
        "`serviceAcount` is not known",
        "write instead `serviceAccount`",
    ),
    (
        "analyst-7.yaml",
        "forbiddenTools",
        "forbidden_tools",
        "analyst-7.yaml:7:3",
        "`forbidden_tools` is not known",
        "`forbiddenTools`",
    ),
    (
        "analyst-7.yaml",
        "  reaches",
        "  password: x\n  reaches",
        "analyst-7.yaml:11:3",
        "`password` is not known",
        "one of `serviceAccount`",
    ),
    (
        "warehouse.yaml",
        "method: GET",
        "verb: GET",
        "warehouse.yaml:10:7",
        "`verb` is not known",
        "one of `method`",
    ),
    (
        "warehouse.yaml",
        "  hosts: [warehouse.data.svc.cluster.local]\n",
        "",
        "warehouse.yaml:4:1",
        "`hosts` is missing in `spec`",
        "`hosts: [",
    ),
    (
        "warehouse.yaml",
        "kind: Service\n",
        "",
        "warehouse.yaml:1:1",
        "`kind` is missing",
        "`kind: ",
    ),
    (
        "warehouse.yaml",
        "kind: Service",
        "kind: service",
        "warehouse.yaml:2:7",
        "`service` is not one of the values of `kind`",
        "`Service`",
    ),
    (
        "warehouse.yaml",
        "kind: Service",
        "kind: Deployment",
        "warehouse.yaml:2:7",
        "`Deployment`",
        "one of `Agent`, `Service`",
    ),
    (
        "warehouse.yaml",
        "v1alpha1",
        "v1",
        "warehouse.yaml:1:13",
        "`ostiary.dev/v1`",
        "`ostiary.dev/v1alpha1`",
    ),
    (
        "warehouse.yaml",
        "protocol: http",
        "protocol: htpp",
        "warehouse.yaml:8:13",
        "`htpp`",
        "`http`",
    ),
    (
        "warehouse.yaml",
        "[8080]",
        "8080",
        "warehouse.yaml:7:10",
        "`ports` must be a list",
        "[8080]",
    ),
    (
        "warehouse.yaml",
        "[8080]",
        "[\"8080\"]",
        "warehouse.yaml:7:11",
        "item 1 of `ports` must be a whole number",
        "8080, without quotes",
    ),
    (
        "warehouse.yaml",
        "[8080]",
        "[8080, 70000]",
        "warehouse.yaml:7:17",
        "from 0 to 65535",
        "a port from 1 to 65535",
    ),
    (
        "analyst-7.yaml",
        "serviceAccount: analyst-7",
        "serviceAccount: 7",
        "analyst-7.yaml:5:19",
        "`serviceAccount` must be text",
        "\"7\", in quotes",
    ),
    (
        "analyst-7.yaml",
        "2000000",
        "\"2000000\"",
        "analyst-7.yaml:10:20",
        "must be a whole number",
        "2000000, without quotes",
    ),
    (
        "analyst-7.yaml",
        "[\"read:data.sales_q1_2026\"]",
        "",
        "analyst-7.yaml:8:3",
        "`scope` must be a list, but nothing is given",
        "[] for an empty list",
    ),
    (
        "mcp.yaml",
        "pandas: {}",
        "pandas:",
        "mcp.yaml:10:5",
        "`pandas` must be a mapping",
        "{} where there is nothing to add",
    ),
    // What files say together.
    (
        "analyst-7.yaml",
        "read:data.sales_q1_2026",
        "read:data.*",
        "analyst-7.yaml:8:11",
        "wildcards are not allowed",
        "`read:data.sales_q1_2026`",
    ),
    (
        "analyst-7.yaml",
        "[warehouse, mcp]",
        "[warehouse, mcp, werehouse]",
        "analyst-7.yaml:11:29",
        "`werehouse`",
        "",
    ),
    (
        "analyst-7.yaml",
        "read:data.sales_q1_2026",
        "write:report.x",
        "analyst-7.yaml:8:11",
        "`write:report.x`",
        "remove it",
    ),
    (
        "analyst-7.yaml",
        "[pandas]",
        "[pandsa]",
        "analyst-7.yaml:6:11",
        "`pandsa`",
        "",
    ),
    (
        "analyst-7.yaml",
        "[bash]",
        "[bash, pandas]",
        "analyst-7.yaml:6:11",
        "`pandas`",
        "",
    ),
    (
        "analyst-7.yaml",
        "[spiffe://cluster.local/ns/orchestration/sa/orchestrator]",
        "[orchestrator]",
        "analyst-7.yaml:9:13",
        "SPIFFE ID",
        "spiffe://",
    ),
    (
        "analyst-7.yaml",
        "  reaches",
        "  mayCall: [writer-2]\n  reaches",
        "analyst-7.yaml:11:13",
        "`writer-2`",
        "",
    ),
    (
        "warehouse.yaml",
        "read:data.{table}",
        "read:data.{tabel}",
        "warehouse.yaml:10:",
        "`tabel`",
        "`path`",
    ),
    (
        "warehouse.yaml",
        "[warehouse.data",
        "[Warehouse.data",
        "warehouse.yaml:6:11",
        "host",
        "lower case",
    ),
    (
        "warehouse.yaml",
        "protocol: http",
        "protocol: llm",
        "warehouse.yaml:8:13",
        "`llm` is not served by this version",
        "`http` or `mcp`",
    ),
    // What another service has claimed.
    (
        "mcp.yaml",
        "mcp.tools.svc.cluster.local",
        "warehouse.data.svc.cluster.local",
        "warehouse.yaml:6:11",
        "host `warehouse.data.svc.cluster.local` belongs to `tools/mcp`",
        "give each service its own",
    ),
    (
        "mcp.yaml",
        "namespace: tools }\nspec:\n  serviceAccount: mcp",
        "namespace: data }\nspec:\n  serviceAccount: warehouse",
        "warehouse.yaml:7:11",
        "port 8080 of `spiffe://cluster.local/ns/data/sa/warehouse` belongs to `data/mcp`",
        "give each service its own",
    ),
    // What the sidecar would not show to the filter.
    (
        "warehouse.yaml",
        "[8080]",
        "[15020]",
        "warehouse.yaml:7:11",
        "port 15020 is the sidecar's own",
        "another port, such as 8080",
    ),
    (
        "warehouse.yaml",
        "[8080]",
        "[8080, 3306]",
        "warehouse.yaml:7:17",
        "Istio takes port 3306 for TCP",
        "another port, such as 8080",
    ),
    (
        "analyst-7.yaml",
        "namespace: agents",
        "namespace: Agents",
        "analyst-7.yaml:3:",
        "`Agents` is not the name of a Kubernetes namespace",
        "the workload's Kubernetes namespace",
    ),
    (
        "warehouse.yaml",
        "method: GET",
        "method: get",
        "warehouse.yaml:10:15",
        "method",
        "`GET`",
    ),
];

#[test]
fn every_seeded_mistake_is_told_with_its_place_and_advice() {
    for (file, from, to, place, message, advice) in SEEDS {
        let folder = folder_with(file, from, to);
        let run = ostiary(folder.path(), &["check", "."]);
        assert_eq!(run.code, 1, "{to:?}: {}{}", run.stdout, run.stderr);
        let told = run
            .stdout
            .lines()
            .any(|line| line.starts_with(&format!("./{place}")) && line.contains(message) && line.contains(advice));
        assert!(
            told,
            "{to:?} should give {place} with {message:?} and {advice:?}, but gave:\n{}",
            run.stdout
        );
    }
}

#[test]
fn a_good_folder_passes() {
    let folder = good_folder();
    let run = ostiary(folder.path(), &["check", "."]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (0, "ok: 3 files, 1 agent, 2 services\n", "")
    );
}

#[test]
fn the_policy_of_the_mini_mesh_passes() {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/mesh/policy");
    let run = ostiary(&policy, &["check", "."]);
    assert_eq!(run.code, 0, "{}", run.stdout);
}

#[test]
fn all_mistakes_of_a_document_are_told_at_once() {
    let folder = folder_with(
        "analyst-7.yaml",
        "  tools: [pandas]",
        "  tools: pandas\n  password: x\n  mayrefresh: selv",
    );
    let run = ostiary(folder.path(), &["check", "."]);
    let lines: Vec<_> = run.stdout.lines().filter_map(|line| line.split(": ").next()).collect();
    let expected = [
        "./analyst-7.yaml:6:10",
        "./analyst-7.yaml:7:3",
        "./analyst-7.yaml:8:3",
        "./analyst-7.yaml:8:15",
        "4 mistakes in 3 files",
    ];
    assert_eq!(lines[..expected.len()], expected, "{}", run.stdout);
}

#[test]
fn the_same_agent_in_two_files_is_told() {
    let folder = good_folder();
    fs::write(folder.path().join("twin.yml"), ANALYST).unwrap();
    let run = ostiary(folder.path(), &["check", "."]);
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("./twin.yml:3:"), "{}", run.stdout);
}

#[test]
fn several_documents_stand_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("all.yaml"),
        format!("{ANALYST}---\n{TOOLS}---\n{WAREHOUSE}...\n"),
    )
    .unwrap();
    let run = ostiary(folder.path(), &["check", "all.yaml"]);
    assert_eq!(run.stdout, "ok: 1 file, 1 agent, 2 services\n", "{}", run.stderr);
}

#[test]
fn json_answers_are_json() {
    let folder = folder_with("warehouse.yaml", "protocol: http", "protocol: htpp");
    let run = ostiary(folder.path(), &["--output", "json", "check", "."]);
    assert_eq!(run.code, 1);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["files"], 3);
    let diagnostic = &report["diagnostics"][0];
    assert_eq!((&diagnostic["line"], &diagnostic["column"]), (&8.into(), &13.into()));
    assert_eq!(diagnostic["file"], "./warehouse.yaml");

    let run = ostiary(good_folder().path(), &["check", ".", "--output", "json"]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (run.code, &report["ok"], &report["diagnostics"]),
        (0, &true.into(), &Value::Array(Vec::new()))
    );
}

#[test]
fn links_are_followed_inside_the_folder_only() {
    use std::os::unix::fs::symlink;
    let outside = good_folder();
    let folder = tempfile::tempdir().unwrap();
    // As a mounted ConfigMap looks.
    fs::create_dir(folder.path().join("..data")).unwrap();
    for (name, text) in [
        ("analyst-7.yaml", ANALYST),
        ("mcp.yaml", TOOLS),
        ("warehouse.yaml", WAREHOUSE),
    ] {
        fs::write(folder.path().join("..data").join(name), text).unwrap();
        symlink(Path::new("..data").join(name), folder.path().join(name)).unwrap();
    }
    let run = ostiary(folder.path(), &["check", "."]);
    assert_eq!(run.stdout, "ok: 3 files, 1 agent, 2 services\n");

    symlink(outside.path().join("mcp.yaml"), folder.path().join("out.yaml")).unwrap();
    let run = ostiary(folder.path(), &["check", "."]);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout
            .contains("./out.yaml:1:1: this symbolic link leads out of the folder"),
        "{}",
        run.stdout
    );
}

#[test]
fn files_are_bounded_and_must_be_text() {
    let folder = good_folder();
    fs::write(folder.path().join("big.yaml"), "#".repeat((1 << 20) + 1)).unwrap();
    fs::write(folder.path().join("latin.yaml"), b"a: 1\nb: \xe4\n").unwrap();
    let run = ostiary(folder.path(), &["check", "."]);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout
            .contains("./big.yaml:1:1: the file has more than 1048576 bytes"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.contains("./latin.yaml:2:4: this is not UTF-8 text"),
        "{}",
        run.stdout
    );
}

#[test]
fn nothing_to_check_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let empty = ostiary(folder.path(), &["check", "."]);
    assert_eq!((empty.code, empty.stdout.as_str()), (2, ""));
    assert!(empty.stderr.contains("no agent or service file"));
    let missing = ostiary(folder.path(), &["check", "nowhere"]);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("`nowhere`"), "{}", missing.stderr);
}

/// A folder with the good files, and the manifests of a namespace of the mesh in `cluster.yaml`, with `from` written as `to`.
fn cluster_with(from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::rename(good_folder().keep(), folder.path().join("policy")).unwrap();
    assert!(CLUSTER.contains(from), "{from:?}");
    fs::write(folder.path().join("cluster.yaml"), CLUSTER.replacen(from, to, 1)).unwrap();
    folder
}

const CLUSTER: &str = r#"apiVersion: v1
kind: Namespace
metadata:
  name: data
  labels: { istio-injection: enabled, ostiary.dev/mesh: enabled }
---
apiVersion: v1
kind: Service
metadata: { name: warehouse, namespace: data }
spec:
  selector: { ostiary.dev/service-account: warehouse }
  ports:
  - { name: http, port: 80, targetPort: 8080 }
---
apiVersion: apps/v1
kind: Deployment
metadata: { name: warehouse, namespace: data }
spec:
  template:
    metadata:
      labels: { ostiary.dev/mesh: enabled, ostiary.dev/filter: stable, ostiary.dev/service-account: warehouse }
    spec: { serviceAccountName: warehouse }
---
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata: { name: ostiary, namespace: istio-system }
spec:
  selector: { matchLabels: { ostiary.dev/filter: stable } }
  failStrategy: FAIL_RELOAD
---
apiVersion: extensions.istio.io/v1alpha1
kind: TrafficExtension
metadata: { name: ostiary, namespace: istio-system }
spec:
  selector: { matchLabels: { ostiary.dev/filter: canary } }
  wasm: { failStrategy: FAIL_RELOAD }
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: { name: guard, namespace: istio-system }
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match: { listener: { filterChain: { filter: { subFilter: { name: envoy.filters.http.router } } } } }
    patch: { operation: INSERT_BEFORE, value: { name: ostiary.guard } }
"#;

#[test]
fn what_would_go_past_the_filter_in_a_cluster_is_told_with_its_place() {
    let folder = cluster_with("", "");
    let run = ostiary(folder.path(), &["check", "policy", "--manifests", "cluster.yaml"]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "ok: 3 files, 1 agent, 2 services\n")
    );
    for (from, to, place, message) in [
        ("istio-injection: enabled", "a: b", "5:11", "no sidecar"),
        (
            "{ istio-injection",
            "{ istio.io/dataplane-mode: ambient, istio-injection",
            "5:13",
            "ambient",
        ),
        ("name: http, ", "name: web, ", "13:5", "guess"),
        ("name: http, ", "appProtocol: tcp, name: http, ", "13:5", "guess"),
        ("targetPort: 8080", "targetPort: 9090", "13:41", "lists port 9090"),
        (
            "labels: { ostiary.dev/mesh: enabled, ",
            "labels: { ",
            "21:15",
            "`ostiary.dev/mesh: enabled`",
        ),
        ("filter: stable", "filter: v2", "21:64", "`ostiary.dev/filter: stable`"),
        (
            "account: warehouse }\n    spec",
            "account: reports }\n    spec",
            "21:101",
            "service-account: warehouse`",
        ),
        (
            "serviceAccountName: warehouse",
            "serviceAccountName: other",
            "21:15",
            "no agent or service file",
        ),
        (
            "spec: { serviceAccountName",
            "  annotations: { sidecar.istio.io/inject: \"false\" }\n    spec: { serviceAccountName",
            "22:47",
            "no sidecar",
        ),
        ("FAIL_RELOAD", "FAIL_OPEN", "29:17", "every request"),
        (
            "  failStrategy: FAIL_RELOAD\n",
            "  failStrategy: FAIL_RELOAD\n  match: [{ mode: SERVER }]\n",
            "30:3",
            "`match`",
        ),
        ("filter: canary", "filter: stable", "35:50", "share one VM"),
        ("ostiary.guard", "other", "43:5", "between ours and the router"),
        ("kind: Namespace", "kind: &n Namespace", "2:", "YAML anchor"),
    ] {
        let folder = cluster_with(from, to);
        let run = ostiary(folder.path(), &["check", "policy", "--manifests", "cluster.yaml"]);
        assert_eq!(run.code, 1, "{to:?}: {}{}", run.stdout, run.stderr);
        let told = run
            .stdout
            .lines()
            .any(|line| line.starts_with(&format!("cluster.yaml:{place}")) && line.contains(message));
        assert!(
            told,
            "{to:?} should give {place} with {message:?}, but gave:\n{}",
            run.stdout
        );
    }
}
