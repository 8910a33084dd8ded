//! Three files without fault, and mistakes to seed into them: one list for all that judges a file.

#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) const WAREHOUSE: &str = r#"apiVersion: ostiary.dev/v1alpha1
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

pub(crate) const TOOLS: &str = r#"apiVersion: ostiary.dev/v1alpha1
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

pub(crate) const ANALYST: &str = r#"apiVersion: ostiary.dev/v1alpha1
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

/// A mistake: the file, what is replaced by what, and then the place, the message's and the advice's words.
pub(crate) type Seed = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

pub(crate) const SEEDS: &[Seed] = &[
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
        "`http`, `mcp` or `a2a`",
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

/// Who tells of a mistake that an API server lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Teller {
    /// The policy server, in the status of the resource: the mistake shows only among the other resources.
    Status,
    /// `ostiary check` alone, since the API server is never sent it.
    Check,
}

/// The seeds that an API server lets pass, by what is replaced by what, and who tells then. It refuses every other.
pub(crate) const PASSED: &[(&str, &str, Teller)] = &[
    // kubectl puts in what anchors and tags stand for before it sends anything.
    ("[pandas]", "&t [pandas]", Teller::Check),
    ("2000000", "!!int 2000000", Teller::Check),
    // `kubectl apply` leaves out what is null; a list that is not there is an empty one, and grants nothing.
    ("[\"read:data.sales_q1_2026\"]", "", Teller::Check),
    ("pandas: {}", "pandas:", Teller::Status),
    // What is not there, or belongs to another, only the others show.
    ("[warehouse, mcp]", "[warehouse, mcp, werehouse]", Teller::Status),
    ("read:data.sales_q1_2026", "write:report.x", Teller::Status),
    ("[pandas]", "[pandsa]", Teller::Status),
    ("  reaches", "  mayCall: [writer-2]\n  reaches", Teller::Status),
    (
        "mcp.tools.svc.cluster.local",
        "warehouse.data.svc.cluster.local",
        Teller::Status,
    ),
    (
        "namespace: tools }\nspec:\n  serviceAccount: mcp",
        "namespace: data }\nspec:\n  serviceAccount: warehouse",
        Teller::Status,
    ),
];

/// The file that a seed is of, with the mistake in it.
pub(crate) fn seeded(seed: &Seed) -> String {
    let (file, from, to, ..) = seed;
    let (_, text) = FILES.iter().find(|(name, _)| name == file).copied().unwrap_or_default();
    assert!(text.contains(from), "{from:?} is not in {file}");
    text.replace(from, to)
}

/// The three files by their names.
pub(crate) const FILES: [(&str, &str); 3] = [
    ("analyst-7.yaml", ANALYST),
    ("mcp.yaml", TOOLS),
    ("warehouse.yaml", WAREHOUSE),
];
