#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::{
    identity::{AgentId, ServiceId, SpiffeId},
    policy::{Bundle, BundleClaims, PolicyServerClaims},
};

const DOMAIN: &str = "cluster.local";

fn warehouse() -> Value {
    json!({
        "apiVersion": "ostiary.dev/v1alpha1", "kind": "Service",
        "metadata": {"name": "warehouse", "namespace": "data"},
        "spec": {
            "serviceAccount": "warehouse", "hosts": ["warehouse.data.svc.cluster.local"], "ports": [8080],
            "protocol": "http",
            "routes": [
                {"method": "GET", "path": "/v1/tables/{table}", "scope": "read:data.{table}"},
                {"method": "GET", "path": "/memory/{namespace}/{key}", "scope": "read:memory.{namespace}", "own": "namespace"},
            ],
            "exempt": [{"peer": "spiffe://cluster.local/ns/monitoring/sa/prometheus", "method": "GET", "path": "/metrics"}],
        },
    })
}

fn mcp(name: &str) -> Value {
    json!({
        "apiVersion": "ostiary.dev/v1alpha1", "kind": "Service",
        "metadata": {"name": name, "namespace": "tools"},
        "spec": {
            "serviceAccount": name, "hosts": [format!("{name}.tools.svc.cluster.local")], "ports": [8080],
            "protocol": "mcp",
            "tools": {"pandas": {}, "matplotlib": {}, "bash": {}, "sql_query": {"scope": "read:data.{arguments./table}"}},
        },
    })
}

fn agent(name: &str) -> Value {
    json!({
        "apiVersion": "ostiary.dev/v1alpha1", "kind": "Agent",
        "metadata": {"name": name, "namespace": "agents"},
        "spec": {
            "serviceAccount": name,
            "tools": ["pandas", "matplotlib"], "forbiddenTools": ["bash", "http"],
            "scope": ["read:data.sales_q1_2026"],
            "issuers": ["spiffe://cluster.local/ns/orchestration/sa/orchestrator"],
            "maxTokensPerDay": 2_000_000,
            "reaches": ["warehouse", "tools/mcp"],
        },
    })
}

/// A mesh's files: two services and two agents.
struct Files(Vec<Value>);

impl Files {
    fn new() -> Self {
        Self(vec![warehouse(), mcp("mcp"), agent("analyst-7"), agent("writer-2")])
    }

    fn with(mut self, document: usize, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = self.0[document].pointer_mut(parent).unwrap();
        match key.parse::<usize>() {
            Ok(index) if parent.is_array() => parent[index] = value,
            _ => parent[key] = value,
        }
        self
    }

    fn and(mut self, document: Value) -> Self {
        self.0.push(document);
        self
    }

    fn manifests(&self) -> Manifests {
        let mut manifests = Manifests::default();
        for document in &self.0 {
            match document["kind"].as_str() {
                Some("Agent") => manifests.agents.push(serde_json::from_value(document.clone()).unwrap()),
                _ => manifests
                    .services
                    .push(serde_json::from_value(document.clone()).unwrap()),
            }
        }
        manifests
    }

    fn mesh(&self) -> Mesh {
        self.manifests().check(DOMAIN).unwrap()
    }

    /// The places of all problems, and a word of the first's message.
    fn problems(&self) -> Vec<(DocumentRef, String)> {
        let problems = self.manifests().check(DOMAIN).err().unwrap_or_default();
        problems
            .into_iter()
            .map(|problem| (problem.document, problem.field))
            .collect()
    }
}

#[test]
fn sound_files_make_a_mesh() {
    let mesh = Files::new().mesh();
    assert_eq!(mesh.agents().len(), 2);
    let warehouse = mesh.service(&ServiceId::parse("data/warehouse").unwrap()).unwrap();
    assert_eq!(
        warehouse.identity.as_str(),
        "spiffe://cluster.local/ns/data/sa/warehouse"
    );
    assert_eq!(
        (warehouse.token_header.as_str(), warehouse.body_limit_bytes),
        ("authorization", 1 << 20)
    );
    let mcp = mesh.service(&ServiceId::parse("tools/mcp").unwrap()).unwrap();
    assert_eq!(mcp.path.as_deref(), Some("/mcp"));
    for (workload, named) in [
        ("data/sa/warehouse", true),
        ("orchestration/sa/orchestrator", true),
        ("x/sa/y", false),
    ] {
        assert_eq!(
            mesh.names(&SpiffeId::parse(&format!("spiffe://cluster.local/ns/{workload}")).unwrap()),
            named
        );
    }
}

#[test]
fn every_mistake_is_named_by_its_place() {
    use DocumentRef::{Agent, Service};
    let (warehouse, mcp, analyst) = (0, 1, 2);
    let cases = [
        (
            warehouse,
            "/metadata/name",
            json!("Warehouse"),
            Service(0),
            "/metadata/name",
        ),
        (
            warehouse,
            "/spec/serviceAccount",
            json!("a b"),
            Service(0),
            "/spec/serviceAccount",
        ),
        (warehouse, "/spec/protocol", json!("llm"), Service(0), "/spec/protocol"),
        (
            warehouse,
            "/spec/hosts/0",
            json!("Warehouse"),
            Service(0),
            "/spec/hosts/0",
        ),
        (
            mcp,
            "/spec/hosts/0",
            json!("warehouse.data.svc.cluster.local"),
            Service(1),
            "/spec/hosts/0",
        ),
        (warehouse, "/spec/ports/0", json!(0), Service(0), "/spec/ports/0"),
        (
            warehouse,
            "/spec/routes/0/path",
            json!("/v1/*"),
            Service(0),
            "/spec/routes/0/path",
        ),
        (
            warehouse,
            "/spec/routes/1/own",
            json!("key2"),
            Service(0),
            "/spec/routes/1/own",
        ),
        (
            warehouse,
            "/spec/exempt/0/peer",
            json!("spiffe://cluster.local/ns/*"),
            Service(0),
            "/spec/exempt/0/peer",
        ),
        (
            warehouse,
            "/spec/tokenHeader",
            json!("Host"),
            Service(0),
            "/spec/tokenHeader",
        ),
        (
            warehouse,
            "/spec/bodyLimitBytes",
            json!(1 << 30),
            Service(0),
            "/spec/bodyLimitBytes",
        ),
        (mcp, "/spec/tools/a~1b", json!({}), Service(1), "/spec/tools/a~01b"),
        (mcp, "/spec/path", json!("mcp"), Service(1), "/spec/path"),
        (
            analyst,
            "/metadata/name",
            json!("analyst.7"),
            Agent(0),
            "/metadata/name",
        ),
        (analyst, "/metadata/name", json!("writer-2"), Agent(1), "/metadata/name"),
        (
            analyst,
            "/spec/serviceAccount",
            json!("writer-2"),
            Agent(1),
            "/spec/serviceAccount",
        ),
        (analyst, "/spec/tools/0", json!("*"), Agent(0), "/spec/tools/0"),
        (analyst, "/spec/tools/0", json!("numpy"), Agent(0), "/spec/tools/0"),
        (
            analyst,
            "/spec/tools/0",
            json!("warehouse/pandas"),
            Agent(0),
            "/spec/tools/0",
        ),
        (analyst, "/spec/tools/0", json!("bash"), Agent(0), "/spec/tools/0"),
        (
            analyst,
            "/spec/forbiddenTools/0",
            json!("nowhere/bash"),
            Agent(0),
            "/spec/forbiddenTools/0",
        ),
        (
            analyst,
            "/spec/forbiddenTools/0",
            json!("ba?h"),
            Agent(0),
            "/spec/forbiddenTools/0",
        ),
        (
            analyst,
            "/spec/scope/0",
            json!("read:data.*"),
            Agent(0),
            "/spec/scope/0",
        ),
        (
            analyst,
            "/spec/scope/0",
            json!("write:data.sales"),
            Agent(0),
            "/spec/scope/0",
        ),
        (
            analyst,
            "/spec/scope/0",
            json!("read:memory.writer-2"),
            Agent(0),
            "/spec/scope/0",
        ),
        (analyst, "/spec/mayCall", json!(["nobody"]), Agent(0), "/spec/mayCall/0"),
        (
            analyst,
            "/spec/mayCall",
            json!(["analyst-7"]),
            Agent(0),
            "/spec/mayCall/0",
        ),
        (
            analyst,
            "/spec/issuers/0",
            json!("orchestrator"),
            Agent(0),
            "/spec/issuers/0",
        ),
        (
            analyst,
            "/spec/issuers/0",
            json!("spiffe://cluster.local/ns/agents/sa/analyst-7"),
            Agent(0),
            "/spec/issuers/0",
        ),
        (
            analyst,
            "/spec/maxTokensPerDay",
            json!(0),
            Agent(0),
            "/spec/maxTokensPerDay",
        ),
        (
            analyst,
            "/spec/reaches/0",
            json!("nowhere"),
            Agent(0),
            "/spec/reaches/0",
        ),
    ];
    for (document, pointer, value, place, field) in cases {
        let problems = Files::new().with(document, pointer, value.clone()).problems();
        assert!(
            problems.contains(&(place, field.to_owned())),
            "{pointer} = {value}: {problems:?}"
        );
    }
    assert_eq!(
        Files::new()
            .with(2, "/spec/scope/0", json!("read:memory.analyst-7"))
            .problems(),
        []
    );
}

/// A mesh in which the MCP service offers, and `analyst-7` is granted, more than tools.
fn with_names() -> Files {
    Files::new()
        .with(
            1,
            "/spec/prompts",
            json!({"summary": {}, "review": {"scope": "read:prompt.{arguments./topic}"}}),
        )
        .with(
            1,
            "/spec/resources",
            json!({"memo://a": {}, "table://{table}": {"scope": "read:staff.{table}"}}),
        )
        .with(2, "/spec/prompts", json!(["summary", "mcp/review"]))
        .with(2, "/spec/resources", json!(["memo://a", "mcp/table://{table}"]))
        .with(
            2,
            "/spec/scope",
            json!(["read:data.a", "read:prompt.b", "read:staff.c"]),
        )
}

#[test]
fn prompts_and_resources_are_granted_by_what_a_reached_service_lists() {
    let mesh = with_names().mesh();
    let claims = &mesh.agent(&AgentId::parse("analyst-7").unwrap()).unwrap().claims;
    let prompts: Vec<String> = claims.prompts.iter().map(ToString::to_string).collect();
    let resources: Vec<String> = claims.resources.iter().map(ToString::to_string).collect();
    assert_eq!(prompts, ["summary", "tools/mcp/review"]);
    assert_eq!(resources, ["memo://a", "tools/mcp/table://{table}"]);
    for (document, pointer, value, place) in [
        (2, "/spec/prompts/0", json!("pandas"), "/spec/prompts/0"),
        (2, "/spec/prompts/0", json!("*"), "/spec/prompts/0"),
        (2, "/spec/prompts/0", json!("warehouse/summary"), "/spec/prompts/0"),
        (2, "/spec/resources/0", json!("memo://b"), "/spec/resources/0"),
        (2, "/spec/resources/0", json!("memo://*"), "/spec/resources/0"),
        (2, "/spec/resources/0", json!("memo"), "/spec/resources/0"),
        (2, "/spec/resources/1", json!("table://staff"), "/spec/resources/1"),
        (2, "/spec/scope/2", json!("read:other.c"), "/spec/scope/2"),
    ] {
        let problems = with_names().with(document, pointer, value.clone()).problems();
        assert_eq!(
            problems,
            [(DocumentRef::Agent(0), place.to_owned())],
            "{pointer} = {value}"
        );
    }
    for (pointer, value, place) in [
        ("/spec/prompts/a~1b", json!({}), "/spec/prompts/a~01b"),
        ("/spec/resources/x", json!({}), "/spec/resources/x"),
        ("/spec/resources/y:{a}", json!({}), "/spec/resources/y:{a}"),
    ] {
        let problems = with_names().with(1, pointer, value).problems();
        assert_eq!(problems, [(DocumentRef::Service(1), place.to_owned())], "{pointer}");
    }
    let two = with_names().and(with_names().0[1].clone());
    let two = two
        .with(4, "/metadata/name", json!("lab"))
        .with(4, "/spec/serviceAccount", json!("lab"));
    let two = two.with(4, "/spec/hosts", json!(["lab.tools.svc.cluster.local"]));
    let two = two
        .with(2, "/spec/reaches", json!(["warehouse", "mcp", "lab"]))
        .with(2, "/spec/tools", json!([]));
    let fields: Vec<String> = two.problems().into_iter().map(|(_, field)| field).collect();
    assert_eq!(
        fields,
        ["/spec/prompts/0", "/spec/resources/0"],
        "bare names are ambiguous"
    );
}

#[test]
fn a_service_of_resources_alone_is_useful() {
    let alone = |field: &str, value: Value| {
        Files(vec![mcp("mcp")])
            .with(0, "/spec/tools", json!({}))
            .with(0, &format!("/spec/{field}"), value)
    };
    assert_eq!(alone("resources", json!({"memo://a": {}})).problems(), []);
    assert_eq!(alone("prompts", json!({"summary": {}})).problems(), []);
    assert_eq!(
        alone("prompts", json!({})).problems(),
        [(DocumentRef::Service(0), "/spec/tools".to_owned())]
    );
}

#[test]
fn a_workload_is_told_of_prompts_and_resources_that_concern_it() {
    let mesh = with_names().mesh();
    let told = |workload: &str| {
        let agents = compile(&mesh, workload).agents;
        let agent = agents.iter().find(|agent| agent.id.as_str() == "analyst-7").unwrap();
        (agent.prompts.len(), agent.resources.len(), agent.scope.len())
    };
    assert_eq!(told("tools/sa/mcp"), (2, 2, 3));
    assert_eq!(
        told("data/sa/warehouse"),
        (0, 0, 1),
        "the warehouse asks for no such thing"
    );
    assert_eq!(told("agents/sa/analyst-7"), (2, 2, 3));
}

#[test]
fn calls_of_tools_wait_for_their_records_unless_the_file_says_otherwise() {
    for (document, workload, default) in [
        (0, "data/sa/warehouse", RecordMode::Batched),
        (1, "tools/sa/mcp", RecordMode::Before),
    ] {
        for (written, expected) in [
            (None, default),
            (Some("before"), RecordMode::Before),
            (Some("batched"), RecordMode::Batched),
        ] {
            let files = Files::new();
            let files = match written {
                Some(word) => files.with(document, "/spec/record", json!(word)),
                None => files,
            };
            let claims = compile(&files.mesh(), workload);
            assert_eq!(claims.services[0].record, expected, "{workload} {written:?}");
            let signed = serde_json::to_value(&claims).unwrap();
            let says = signed["services"][0].get("record").is_some();
            assert_eq!(
                says,
                expected == RecordMode::Before,
                "filters of the version before know no such member"
            );
        }
    }
}

#[test]
fn calls_end_with_their_tokens_unless_the_file_says_otherwise() {
    for (written, expected) in [
        (None, ExpiryMode::Cut),
        (Some("cut"), ExpiryMode::Cut),
        (Some("finish"), ExpiryMode::Finish),
    ] {
        let files = Files::new();
        let files = match written {
            Some(word) => files.with(0, "/spec/onExpiry", json!(word)),
            None => files,
        };
        let claims = compile(&files.mesh(), "data/sa/warehouse");
        assert_eq!(claims.services[0].on_expiry, expected, "{written:?}");
        let older = serde_json::to_value(claims.without_names()).unwrap();
        assert_eq!(
            older["services"][0].get("on_expiry"),
            None,
            "filters of the version before know no such member"
        );
    }
}

#[test]
fn calls_of_paused_agents_are_denied_unless_the_file_says_otherwise() {
    for (written, expected) in [("deny", PauseMode::Deny), ("hold", PauseMode::Hold)] {
        let files = Files::new().with(0, "/spec/onPause", json!(written));
        let claims = compile(&files.mesh(), "data/sa/warehouse");
        assert_eq!(claims.services[0].on_pause, expected);
        let signed = serde_json::to_value(&claims).unwrap();
        assert_eq!(signed["services"][0].get("on_pause").is_some(), written == "hold");
        let older = claims.without_names();
        assert_eq!(older.services[0].on_pause, PauseMode::Deny);
    }
    let silent = compile(&Files::new().mesh(), "data/sa/warehouse");
    assert_eq!(silent.services[0].on_pause, PauseMode::Deny);
}

#[test]
fn older_filters_let_nobody_name_a_task_that_they_cannot_bind() {
    let claims = compile(&Files::new().mesh(), "data/sa/warehouse");
    for (written, older) in [
        (Tasks::Bound, Tasks::Refused),
        (Tasks::Refused, Tasks::Refused),
        (Tasks::Application, Tasks::Application),
    ] {
        let mut claims = claims.clone();
        claims.services[0].tasks = written;
        claims.services[0].protocol = crate::policy::Protocol::A2a;
        assert_eq!(claims.clone().without_bindings().services[0].tasks, older);
        // Nor do they know that a service of MCP can have any.
        claims.services[0].protocol = crate::policy::Protocol::Mcp;
        assert_eq!(claims.without_bindings().services[0].tasks, Tasks::Refused);
    }
}

#[test]
fn a_service_is_enforced_unless_its_file_says_shadow_and_by_older_filters_always() {
    for (written, expected) in [("enforce", Mode::Enforce), ("shadow", Mode::Shadow)] {
        let files = Files::new().with(0, "/spec/mode", json!(written));
        let claims = compile(&files.mesh(), "data/sa/warehouse");
        assert_eq!(claims.services[0].mode, expected);
        let signed = serde_json::to_value(&claims).unwrap();
        assert_eq!(signed["services"][0].get("mode").is_some(), written == "shadow");
        assert_eq!(claims.without_bindings().services[0].mode, Mode::Enforce);
    }
    let silent = compile(&Files::new().mesh(), "data/sa/warehouse");
    assert_eq!(silent.services[0].mode, Mode::Enforce);
    let misspelt = Files::new().with(0, "/spec/mode", json!("audit"));
    assert!(serde_json::from_value::<ServiceManifest>(misspelt.0[0].clone()).is_err());
}

#[test]
fn one_mistake_is_told_once() {
    let problems = Files::new().with(0, "/spec/hosts/0", json!("Warehouse")).problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let problems = Files::new().with(2, "/spec/tools/0", json!("numpy")).problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn a_bare_name_of_two_services_is_ambiguous() {
    let two = || {
        Files::new()
            .and(mcp("lab"))
            .with(2, "/spec/reaches", json!(["warehouse", "mcp", "lab"]))
    };
    let fields: Vec<String> = two().problems().into_iter().map(|(_, field)| field).collect();
    assert_eq!(fields, ["/spec/tools/0", "/spec/tools/1"]);
    let named = two().with(2, "/spec/tools", json!(["lab/pandas", "tools/mcp/matplotlib"]));
    let tools = named
        .mesh()
        .agent(&AgentId::parse("analyst-7").unwrap())
        .unwrap()
        .claims
        .tools
        .clone();
    assert_eq!(
        tools.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["tools/lab/pandas", "tools/mcp/matplotlib"]
    );
    assert_eq!(
        Files::new().and(mcp("lab")).problems(),
        [],
        "a service that is not reached is no rival"
    );
}

#[test]
fn the_shape_of_files_is_strict() {
    let agent_of = |value: Value| serde_json::from_value::<AgentManifest>(value).is_ok();
    assert!(agent_of(agent("a")));
    for (pointer, value) in [
        ("/apiVersion", json!("ostiary.dev/v1")),
        ("/kind", json!("Service")),
        ("/surprise", json!(1)),
        ("/spec/tool", json!([])),
        ("/spec/may_call", json!([])),
        ("/spec/mayRefresh", json!("always")),
        ("/spec/serviceAccount", json!(null)),
        ("/metadata/labels", json!({})),
    ] {
        let files = Files(vec![agent("a")]).with(0, pointer, value);
        assert!(!agent_of(files.0[0].clone()), "{pointer}");
    }
    assert!(agent_of(
        Files(vec![agent("a")]).with(0, "/spec/mayRefresh", json!("self")).0[0].clone()
    ));
}

fn compile(mesh: &Mesh, workload: &str) -> BundleClaims {
    mesh.compile(
        &SpiffeId::parse(&format!("spiffe://cluster.local/ns/{workload}")).unwrap(),
        BundleHeader {
            iss: crate::identity::Issuer::parse("ostiary").unwrap(),
            epoch: 1,
            version: 1,
            issued_at: 1000,
            expires_at: 2000,
            max_state_age_seconds: 60,
            max_token_ttl_seconds: 300,
            issuers: Vec::new(),
            policy_server: PolicyServerClaims {
                identity: SpiffeId::parse("spiffe://cluster.local/ns/ostiary/sa/policy-server").unwrap(),
                hosts: vec!["policy.ostiary".to_owned()],
            },
        },
    )
}

#[test]
fn a_workload_is_told_what_concerns_it() {
    let mesh = Files::new()
        .with(3, "/spec/reaches", json!(["mcp"]))
        .with(3, "/spec/scope", json!(["read:data.x"]))
        .mesh();
    let names = |claims: &BundleClaims| {
        let services: Vec<String> = claims.services.iter().map(|service| service.id.to_string()).collect();
        let agents: Vec<String> = claims.agents.iter().map(|agent| agent.id.to_string()).collect();
        (services.join(" "), agents.join(" "))
    };
    let expected = [
        ("agents/sa/analyst-7", "data/warehouse tools/mcp", "analyst-7"),
        ("agents/sa/writer-2", "tools/mcp", "writer-2"),
        ("data/sa/warehouse", "data/warehouse", "analyst-7"),
        ("tools/sa/mcp", "tools/mcp", "analyst-7 writer-2"),
        ("orchestration/sa/orchestrator", "", ""),
    ];
    for (workload, services, agents) in expected {
        let claims = compile(&mesh, workload);
        assert_eq!(names(&claims), (services.to_owned(), agents.to_owned()), "{workload}");
        assert!(Bundle::from_own_claims(claims, 1000).is_ok(), "{workload}");
    }
    let told = compile(&mesh, "data/sa/warehouse").agents.remove(0);
    assert!(told.tools.is_empty(), "the warehouse offers no tools");
    assert_eq!(told.reaches.len(), 1);
    assert_eq!(told.scope.len(), 1);
    assert_eq!(told.forbidden_tools.len(), 2);
}

fn request() -> TokenRequest {
    serde_json::from_value(json!({
        "agent_id": "analyst-7", "operation_id": "report-2026-q1",
        "scope": ["read:data.sales_q1_2026"], "tools": ["pandas"], "forbidden_tools": ["http"],
        "ttl_seconds": 300, "max_tokens": 50_000,
    }))
    .unwrap()
}

const LIMITS: GrantLimits = GrantLimits {
    max_ttl_seconds: 300,
    default_ttl_seconds: 120,
};

#[test]
fn a_grant_is_what_was_asked_for_within_policy() {
    let grant = Files::new().mesh().grant(&request(), &LIMITS).unwrap();
    assert_eq!(grant.sub.as_str(), "spiffe://cluster.local/ns/agents/sa/analyst-7");
    assert_eq!(grant.aud.len(), 2);
    let forbidden: Vec<String> = grant.forbidden_tools.iter().map(ToString::to_string).collect();
    assert_eq!(forbidden, ["bash", "http"], "the policy's are added");
    assert_eq!((grant.ttl_seconds, grant.max_tokens), (300, Some(50_000)));
    let without_ttl = TokenRequest {
        ttl_seconds: None,
        max_tokens: None,
        ..request()
    };
    assert_eq!(
        Files::new().mesh().grant(&without_ttl, &LIMITS).unwrap().ttl_seconds,
        120
    );
    let qualified = TokenRequest {
        tools: vec!["mcp/pandas".into()],
        ..request()
    };
    assert_eq!(
        Files::new().mesh().grant(&qualified, &LIMITS).unwrap().tools[0].to_string(),
        "tools/mcp/pandas"
    );
}

#[test]
fn each_refusal_names_its_field() {
    let mesh = Files::new().mesh();
    let cases = [
        ("agent_id", json!("nobody"), "agent_id", "agent_unknown"),
        ("agent_id", json!("*"), "agent_id", "value_invalid"),
        ("operation_id", json!(""), "operation_id", "value_invalid"),
        (
            "scope",
            json!(["read:data.sales_q1_2026", "read:data.other"]),
            "scope/1",
            "scope_not_in_policy",
        ),
        ("scope", json!(["read:data.*"]), "scope/0", "wildcard_refused"),
        ("scope", json!(["Read:data"]), "scope/0", "value_invalid"),
        ("tools", json!(["pandas", "sql_query"]), "tools/1", "tool_not_in_policy"),
        ("tools", json!(["numpy"]), "tools/0", "tool_not_in_policy"),
        ("tools", json!(["bash"]), "tools/0", "tool_forbidden"),
        ("tools", json!(["mcp/bash"]), "tools/0", "tool_forbidden"),
        ("tools", json!(["*"]), "tools/0", "wildcard_refused"),
        ("tools", json!(["a b"]), "tools/0", "value_invalid"),
        ("tools", json!(vec!["pandas"; 513]), "tools", "too_many_entries"),
        ("forbidden_tools", json!(["pandas"]), "tools/0", "tool_forbidden"),
        ("forbidden_tools", json!(["*"]), "forbidden_tools/0", "wildcard_refused"),
        ("ttl_seconds", json!(301), "ttl_seconds", "ttl_out_of_range"),
        ("ttl_seconds", json!(0), "ttl_seconds", "ttl_out_of_range"),
        ("max_tokens", json!(2_000_001), "max_tokens", "budget_exceeded"),
        ("max_tokens", json!(0), "max_tokens", "value_invalid"),
        ("txn", json!("a b"), "txn", "value_invalid"),
        ("aud", json!([]), "aud", "audience_empty"),
        ("aud", json!(["warehouse"]), "aud/0", "value_invalid"),
        (
            "aud",
            json!(["spiffe://cluster.local/ns/data/sa/reports"]),
            "aud/0",
            "audience_not_reached",
        ),
    ];
    for (name, value, field, code) in cases {
        let mut body = serde_json::to_value(request()).unwrap();
        body[name] = value.clone();
        let request: TokenRequest = serde_json::from_value(body).unwrap();
        let error = mesh.grant(&request, &LIMITS).unwrap_err();
        assert_eq!(
            (error.field.as_str(), error.refusal.code()),
            (field, code),
            "{name} = {value}"
        );
    }
    let mut unknown = serde_json::to_value(request()).unwrap();
    unknown["scopes"] = json!([]);
    assert!(serde_json::from_value::<TokenRequest>(unknown).is_err());
}

#[test]
fn an_ambiguous_tool_is_refused_at_issue() {
    let mesh = Files::new()
        .and(mcp("lab"))
        .with(2, "/spec/reaches", json!(["warehouse", "mcp", "lab"]))
        .with(2, "/spec/tools", json!(["lab/pandas", "mcp/pandas"]))
        .mesh();
    let code = |tool: &str| {
        let request = TokenRequest {
            tools: vec![tool.into()],
            ..request()
        };
        mesh.grant(&request, &LIMITS).map(drop).map_err(|error| error.refusal)
    };
    assert_eq!(code("pandas"), Err(GrantRefusal::ToolAmbiguous));
    assert_eq!(code("lab/pandas"), Ok(()));
    assert_eq!(code("lab/matplotlib"), Err(GrantRefusal::ToolNotInPolicy));
}

#[test]
fn a_grant_fits_a_token() {
    let many: Vec<String> = (0..200)
        .map(|index| format!("read:data.a_table_with_a_long_name_{index}"))
        .collect();
    let mesh = Files::new().with(2, "/spec/scope", json!(many)).mesh();
    let ask = |count: usize| {
        let request = TokenRequest {
            scope: many[..count].to_vec(),
            ..request()
        };
        mesh.grant(&request, &LIMITS).map(drop)
    };
    assert_eq!(ask(90), Ok(()));
    assert_eq!(ask(200).unwrap_err().field, "scope");
}

/// The service by which `writer-2` is called.
fn writer() -> Value {
    json!({
        "apiVersion": "ostiary.dev/v1alpha1", "kind": "Service",
        "metadata": {"name": "writer", "namespace": "agents"},
        "spec": {
            "serviceAccount": "writer-2", "hosts": ["writer.agents.svc.cluster.local"], "ports": [9000],
            "protocol": "a2a", "agent": "writer-2",
        },
    })
}

/// A mesh in which `analyst-7` may call `writer-2`.
fn calling() -> Files {
    Files::new()
        .and(writer())
        .with(2, "/spec/mayCall", json!(["writer-2"]))
        .with(2, "/spec/reaches", json!(["warehouse", "mcp", "writer"]))
}

#[test]
fn a_service_of_an_agent_is_that_agents_own() {
    let mesh = calling().mesh();
    let service = mesh.service(&ServiceId::parse("agents/writer").unwrap()).unwrap();
    assert_eq!(
        (service.path.as_deref(), service.rest_path.as_deref()),
        (Some("/"), Some("/"))
    );
    let (service, analyst) = (DocumentRef::Service(2), DocumentRef::Agent(0));
    for (document, pointer, value, place, field) in [
        (4, "/spec/agent", json!("nobody"), service, "/spec/agent"),
        (4, "/spec/agent", json!("analyst-7"), service, "/spec/agent"),
        (4, "/spec/agent", json!("Writer"), service, "/spec/agent"),
        (4, "/spec/agent", Value::Null, service, "/spec/agent"),
        (4, "/spec/serviceAccount", json!("writer"), service, "/spec/agent"),
        (4, "/spec/tasks", json!("application"), service, "/spec/tasks"),
        (4, "/spec/restPath", json!("/{tenant}"), service, "/spec/restPath"),
        (4, "/spec/tools", json!({"pandas": {}}), service, "/spec/tools"),
        (
            1,
            "/spec/restPath",
            json!("/"),
            DocumentRef::Service(1),
            "/spec/restPath",
        ),
        (
            1,
            "/spec/tasks",
            json!("application"),
            DocumentRef::Service(1),
            "/spec/tasks",
        ),
        (0, "/spec/tasks", json!("bound"), DocumentRef::Service(0), "/spec/tasks"),
        (2, "/spec/mayCall", json!(["nobody"]), analyst, "/spec/mayCall/0"),
        (
            2,
            "/spec/scope",
            json!(["call:agent.writer-2"]),
            analyst,
            "/spec/scope/0",
        ),
    ] {
        let problems = calling().with(document, pointer, value.clone()).problems();
        assert!(
            problems.contains(&(place, field.to_owned())),
            "{pointer} {value}: {problems:?}"
        );
    }
    let told = calling()
        .with(4, "/spec/tasks", json!("application"))
        .with(4, "/spec/forwardClaims", json!(true));
    assert_eq!(told.problems(), []);
    let of_mcp = calling().with(1, "/spec/tasks", json!("bound"));
    assert_eq!(of_mcp.problems(), []);
    let by_scope = calling().with(2, "/spec/scope", json!(["call:agent.writer-2"]));
    let advice = by_scope.manifests().check(DOMAIN).err().unwrap_or_default()[0]
        .advice
        .clone();
    assert!(advice.contains("`mayCall`"), "{advice}");
}

#[test]
fn a_call_is_granted_by_the_agents_that_may_be_called() {
    let ask = |files: Files, scope: &str| {
        let request = TokenRequest {
            scope: vec![scope.into()],
            ..request()
        };
        files.mesh().grant(&request, &LIMITS)
    };
    let granted = ask(calling(), "call:agent.writer-2").unwrap();
    assert!(
        granted
            .scope
            .contains(&crate::scope::Scope::parse("call:agent.writer-2").unwrap())
    );
    assert!(
        granted
            .aud
            .iter()
            .any(|aud| aud.as_str().ends_with("/ns/agents/sa/writer-2"))
    );
    for scope in [
        "call:agent.analyst-7",
        "call:agent.writer",
        "call:agent.writer-2.x",
        "call:writer-2",
    ] {
        let error = ask(calling(), scope).unwrap_err();
        assert_eq!(error.refusal, GrantRefusal::ScopeNotInPolicy, "{scope}");
    }
    let not_listed = calling().with(2, "/spec/mayCall", json!([]));
    assert_eq!(ask(not_listed, "call:agent.writer-2").unwrap_err().field, "scope/0");
}

#[test]
fn both_sides_of_a_call_are_told_who_may_make_it() {
    let mesh = calling().mesh();
    let called = AgentId::parse("writer-2").unwrap();
    for workload in ["agents/sa/analyst-7", "agents/sa/writer-2"] {
        let claims = compile(&mesh, workload);
        assert!(
            claims
                .services
                .iter()
                .any(|service| service.id.as_str() == "agents/writer"),
            "{workload}"
        );
        let bundle = Bundle::from_own_claims(claims, 1000).unwrap();
        let analyst = bundle.agent("analyst-7").unwrap();
        assert!(analyst.may_call(&called), "{workload}");
    }
    let other = compile(&mesh, "tools/sa/mcp");
    assert!(
        other.agents.iter().all(|agent| agent.may_call.is_empty()),
        "it is called by nobody there"
    );
    let older = compile(&mesh, "agents/sa/analyst-7").without_calls();
    assert!(
        older
            .services
            .iter()
            .all(|service| service.id.as_str() != "agents/writer")
    );
    let bundle = Bundle::from_own_claims(older, 1000).unwrap();
    assert!(
        !bundle
            .agent("analyst-7")
            .unwrap()
            .reaches(&ServiceId::parse("agents/writer").unwrap())
    );
}
