#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::audit::{RecordedClaims, RecordedFacts};
use crate::identity::AgentId;
use crate::log::export::PolicyLine;
use crate::manifest::{AgentSpec, Manifests};

const ANALYST: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";
const WAREHOUSE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";
const MCP: &str = "spiffe://cluster.local/ns/tools/sa/mcp";
const NOW: u64 = 1_800_000_000;

/// The files of a small mesh.
struct Files {
    analyst: Value,
    warehouse: Value,
    mcp: Value,
}

impl Files {
    fn new() -> Self {
        Self {
            analyst: json!({
                "serviceAccount": "analyst-7", "tools": ["pandas", "sql_query"], "forbiddenTools": ["bash"],
                "scope": ["read:data.sales", "read:data.costs"], "reaches": ["warehouse", "tools/mcp"],
                "resources": ["memo://a", "table://{table}"], "maxTokensPerDay": 100,
            }),
            warehouse: json!({
                "serviceAccount": "warehouse", "hosts": ["warehouse.data.svc.cluster.local"], "ports": [8080],
                "protocol": "http",
                "routes": [
                    {"method": "GET", "path": "/v1/tables/{table}", "scope": "read:data.{table}"},
                    {"method": "GET", "path": "/v1/rows", "query": {"table": "{table}"}, "scope": "read:data.{table}"},
                ],
                "exempt": [
                    {"peer": "spiffe://cluster.local/ns/monitoring/sa/prometheus", "method": "GET", "path": "/metrics"},
                ],
            }),
            mcp: json!({
                "serviceAccount": "mcp", "hosts": ["mcp.tools.svc.cluster.local"], "ports": [8080], "protocol": "mcp",
                "tools": {"pandas": {}, "bash": {}, "sql_query": {"scope": "read:data.{arguments./table}"}},
                "resources": {"memo://a": {}, "table://{table}": {"scope": "read:data.{table}"}},
            }),
        }
    }

    fn manifests(&self) -> Manifests {
        let document = |kind: &str, namespace: &str, name: &str, spec: &Value| {
            json!({
                "apiVersion": "ostiary.dev/v1alpha1", "kind": kind, "spec": spec,
                "metadata": {"name": name, "namespace": namespace},
            })
        };
        let agent = document("Agent", "agents", "analyst-7", &self.analyst);
        let services = [("data", "warehouse", &self.warehouse), ("tools", "mcp", &self.mcp)];
        let services = services.map(|(namespace, name, spec)| document("Service", namespace, name, spec));
        Manifests {
            agents: vec![serde_json::from_value(agent).unwrap()],
            services: services.map(|service| serde_json::from_value(service).unwrap()).into(),
        }
    }

    fn mesh(&self) -> Mesh {
        self.manifests().check("cluster.local").unwrap()
    }

    fn changed(change: impl FnOnce(&mut Self)) -> Mesh {
        let mut files = Self::new();
        change(&mut files);
        files.mesh()
    }
}

fn claims() -> RecordedClaims<'static> {
    let claims = json!({
        "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server", "sub": ANALYST, "aud": [WAREHOUSE, MCP],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator", "iat": NOW, "nbf": NOW,
        "exp": NOW + 300, "jti": "j-1", "agent_id": "analyst-7", "operation_id": "report",
        "scope": ["read:data.sales", "read:data.payroll"], "tools": ["pandas", "sql_query"], "forbidden_tools": [],
    });
    let claims = claims.to_string();
    let document = json::parse(claims.as_bytes(), &Limits::REQUEST).unwrap();
    RecordedClaims::of(&Claims::read(document.root()).unwrap())
}

/// A decision at a service's side.
fn decision(service: &'static str, verdict: Verdict, facts: RecordedFacts<'static>) -> Record<'static> {
    let (workload, protocol) = match service {
        "data/warehouse" => (WAREHOUSE, "http"),
        _ => (MCP, "mcp"),
    };
    Record {
        agent_id: Some("analyst-7".into()),
        claims: Some(claims()),
        code: verdict.unwrap_or_else(Some),
        facts: Some(facts),
        peer: Some(ANALYST.into()),
        protocol: Some(protocol.into()),
        service: Some(service.into()),
        side: Some(Side::Inbound),
        verdict: Some(if verdict.is_ok() {
            Outcome::Permit
        } else {
            Outcome::Deny
        }),
        workload: Some(workload.into()),
        ..Record::new(Kind::Decision, (NOW + 10) * 1000)
    }
}

fn read_table(table: &str, verdict: Verdict) -> Record<'static> {
    let facts = RecordedFacts {
        captures: vec![("table".into(), table.to_owned().into())],
        method: Some("GET".into()),
        path: Some(format!("/v1/tables/{table}").into()),
        right: Some("scope".into()),
        scope: Some(format!("read:data.{table}").into()),
        ..RecordedFacts::default()
    };
    decision("data/warehouse", verdict, facts)
}

fn call_tool(tool: &'static str, scope: Option<&'static str>, verdict: Verdict) -> Record<'static> {
    let facts = RecordedFacts {
        method: Some("POST".into()),
        path: Some("/mcp".into()),
        right: Some("tool".into()),
        rpc_method: Some("tools/call".into()),
        scope: scope.map(Into::into),
        tool: Some(tool.into()),
        ..RecordedFacts::default()
    };
    decision("tools/mcp", verdict, facts)
}

fn again(mesh: &Mesh, record: &Record<'_>, facts: Facts) -> Result<Verdict, Unplayed> {
    Policy::new(mesh).replay(record, facts).map(|replayed| replayed.again)
}

#[test]
fn a_record_is_decided_again_as_it_was() {
    let mesh = Files::new().mesh();
    for record in [
        read_table("sales", Ok(None)),
        read_table("costs", Err(Code::ScopeNotGranted)),
        read_table("payroll", Err(Code::ScopeNotInPolicy)),
        call_tool("pandas", None, Ok(None)),
        call_tool("sql_query", Some("read:data.sales"), Ok(None)),
        call_tool("bash", None, Err(Code::ToolForbidden)),
    ] {
        for facts in [Facts::Recorded, Facts::Read] {
            let replayed = Policy::new(&mesh).replay(&record, facts).unwrap();
            assert_eq!(replayed.recorded, replayed.again, "{facts:?} {record:?}");
        }
    }
    let mut stolen = read_table("sales", Ok(None));
    stolen.peer = Some("spiffe://cluster.local/ns/agents/sa/writer-2".into());
    assert_eq!(again(&mesh, &stolen, Facts::Recorded), Ok(Err(Code::PeerMismatch)));
    let mut late = read_table("sales", Ok(None));
    late.time_ms = (NOW + 400) * 1000;
    assert_eq!(again(&mesh, &late, Facts::Recorded), Ok(Err(Code::TokenExpired)));
}

#[test]
fn what_a_record_does_not_hold_is_said_and_not_guessed() {
    let mesh = Files::new().mesh();
    let denied = |code| read_table("sales", Err(code));
    let mut unread = denied(Code::RouteUnknown);
    unread.facts.as_mut().unwrap().right = None;
    let mut completion = read_table("sales", Ok(None));
    completion.kind = Kind::Completion;
    for (record, why) in [
        (denied(Code::AgentPaused), Unplayed::State),
        (denied(Code::TokenRevoked), Unplayed::State),
        (denied(Code::RecordsUnavailable), Unplayed::Sidecar),
        (unread, Unplayed::Unread),
        (completion, Unplayed::NoDecision),
    ] {
        assert_eq!(again(&mesh, &record, Facts::Recorded), Err(why), "{record:?}");
    }
}

#[test]
fn what_went_on_in_shadow_did_so_by_a_service_in_shadow() {
    let files = Files::new().mesh();
    let in_shadow = Files::changed(|files| files.warehouse["mode"] = json!("shadow"));
    let costs = read_table("costs", Ok(Some(Code::ScopeNotGranted)));
    assert_eq!(
        Policy::new(&in_shadow).replay(&costs, Facts::Recorded),
        Ok(Replayed {
            recorded: Ok(Some(Code::ScopeNotGranted)),
            again: Ok(Some(Code::ScopeNotGranted)),
        })
    );
    // A sidecar that lets it go on by itself is found out.
    let enforced = again(&files, &costs, Facts::Recorded);
    assert_eq!(enforced, Ok(Err(Code::ScopeNotGranted)));
    let mut bare = read_table("sales", Ok(Some(Code::TokenMissing)));
    (bare.claims, bare.agent_id) = (None, None);
    let again_bare = again(&in_shadow, &bare, Facts::Recorded);
    assert_eq!(again_bare, Ok(Ok(Some(Code::TokenMissing))));
    bare.code = Some(Code::TokenExpired);
    let expired = again(&in_shadow, &bare, Facts::Recorded);
    assert_eq!(expired, Err(Unplayed::Unread), "what was shown is not recorded");
}

#[test]
fn edited_files_decide_what_was_asked_then() {
    let narrower = Files::changed(|files| files.analyst["scope"] = json!(["read:data.costs"]));
    let sales = read_table("sales", Ok(None));
    assert_eq!(again(&narrower, &sales, Facts::Read), Ok(Err(Code::ScopeNotInPolicy)));
    let wider = Files::changed(|files| files.analyst["scope"] = json!(["read:data.sales", "read:data.payroll"]));
    let payroll = read_table("payroll", Err(Code::ScopeNotInPolicy));
    assert_eq!(again(&wider, &payroll, Facts::Read), Ok(Ok(None)));

    // The service asks for something else now; and what matched no route then, matches one.
    let moved = Files::changed(|files| {
        files.warehouse["routes"][0] =
            json!({"method": "GET", "path": "/v1/tables/{table}", "scope": "read:archive.{table}"});
        files.analyst["scope"] = json!(["read:data.sales"]);
    });
    assert_eq!(again(&moved, &sales, Facts::Read), Ok(Err(Code::ScopeNotGranted)));
    assert_eq!(again(&moved, &sales, Facts::Recorded), Ok(Ok(None)));
    let mut unknown = read_table("sales", Err(Code::RouteUnknown));
    unknown.facts = Some(RecordedFacts {
        method: Some("GET".into()),
        path: Some("/v2/tables/sales".into()),
        ..RecordedFacts::default()
    });
    let before = Files::new().mesh();
    assert_eq!(again(&before, &unknown, Facts::Read), Ok(Err(Code::RouteUnknown)));
    let added = Files::changed(|files| {
        let route = json!({"method": "GET", "path": "/v2/tables/{table}", "scope": "read:data.{table}"});
        files.warehouse["routes"].as_array_mut().unwrap().push(route);
    });
    assert_eq!(again(&added, &unknown, Facts::Read), Ok(Ok(None)));

    let gone = Files::changed(|files| {
        files.mcp["tools"] = json!({"bash": {}, "sql_query": {"scope": "read:data.{arguments./table}"}});
        files.analyst["tools"] = json!(["sql_query"]);
    });
    assert_eq!(
        again(&gone, &call_tool("pandas", None, Ok(None)), Facts::Read),
        Ok(Err(Code::ToolNotOffered))
    );
}

#[test]
fn queries_and_arguments_are_taken_as_far_as_they_were_recorded() {
    let mesh = Files::new().mesh();
    let mut rows = read_table("sales", Ok(None));
    rows.facts.as_mut().unwrap().path = Some("/v1/rows".into());
    assert_eq!(again(&mesh, &rows, Facts::Read), Ok(Ok(None)));
    rows.facts.as_mut().unwrap().captures.clear();
    assert_eq!(again(&mesh, &rows, Facts::Read), Err(Unplayed::Unread));
    // A scope of arguments that nobody asked for then.
    let scoped =
        Files::changed(|files| files.mcp["tools"]["pandas"] = json!({"scope": "read:data.{arguments./table}"}));
    assert_eq!(
        again(&scoped, &call_tool("pandas", None, Ok(None)), Facts::Read),
        Err(Unplayed::Unread)
    );
}

#[test]
fn a_copy_is_decided_again_with_where_it_went() {
    let mesh = Files::changed(|files| {
        for method in ["COPY", "PUT"] {
            let route = json!({"method": method, "path": "/v1/tables/{table}", "scope": "read:data.{table}"});
            files.warehouse["routes"].as_array_mut().unwrap().push(route);
        }
    });
    for (table, verdict) in [("sales", Ok(None)), ("costs", Err(Code::ScopeNotGranted))] {
        let mut copied = read_table("sales", verdict);
        let facts = copied.facts.as_mut().unwrap();
        facts.method = Some("COPY".into());
        facts.resources = vec![(
            format!("/v1/tables/{table}").into(),
            format!("read:data.{table}").into(),
        )];
        for facts in [Facts::Recorded, Facts::Read] {
            assert_eq!(again(&mesh, &copied, facts), Ok(verdict), "{facts:?} {table}");
        }
    }
}

#[test]
fn an_exempt_call_is_decided_again_without_a_token() {
    let facts = RecordedFacts {
        method: Some("GET".into()),
        path: Some("/metrics".into()),
        right: Some("exempt".into()),
        ..RecordedFacts::default()
    };
    let mut scraped = decision("data/warehouse", Ok(None), facts);
    (scraped.claims, scraped.agent_id) = (None, None);
    scraped.peer = Some("spiffe://cluster.local/ns/monitoring/sa/prometheus".into());
    let mesh = Files::new().mesh();
    let stricter = Files::changed(|files| files.warehouse["exempt"] = json!([]));
    for facts in [Facts::Recorded, Facts::Read] {
        assert_eq!(again(&mesh, &scraped, facts), Ok(Ok(None)), "{facts:?}");
    }
    assert_eq!(again(&stricter, &scraped, Facts::Read), Ok(Err(Code::RouteUnknown)));
}

#[test]
fn the_smallest_file_is_what_was_used() {
    let files = Files::new();
    let mesh = files.mesh();
    let agent = AgentId::parse("analyst-7").unwrap();
    let spec = files.manifests().agents.remove(0).spec;
    let resource = |uri: &'static str, scope: &'static str| {
        let facts = RecordedFacts {
            method: Some("POST".into()),
            path: Some("/mcp".into()),
            resources: vec![(uri.into(), scope.into())],
            right: Some("resources".into()),
            ..RecordedFacts::default()
        };
        decision("tools/mcp", Ok(None), facts)
    };
    let used = |records: &[Record<'static>]| {
        let mut usage = Usage::new(&agent, &mesh);
        records.iter().for_each(|record| usage.add(record));
        (usage.calls(), usage.shrink(&spec))
    };
    let names = |removed: &[Removed]| {
        removed
            .iter()
            .map(|gone| format!("{} {}", gone.field, gone.entry))
            .collect::<Vec<_>>()
    };

    let (calls, (nothing, _)) = used(&[read_table("sales", Err(Code::AgentPaused))]);
    assert_eq!((calls, nothing.reaches.len(), nothing.scope.len()), (0, 0, 0));
    assert_eq!(nothing.forbidden_tools, ["bash"]);

    let (calls, (smaller, removed)) = used(&[read_table("sales", Ok(None)), read_table("sales", Ok(None))]);
    let expected = AgentSpec {
        tools: vec![],
        resources: vec![],
        scope: vec!["read:data.sales".to_owned()],
        reaches: vec!["warehouse".to_owned()],
        ..spec.clone()
    };
    assert_eq!((calls, &smaller), (2, &expected));
    assert_eq!(
        names(&removed),
        [
            "tools pandas",
            "tools sql_query",
            "resources memo://a",
            "resources table://{table}",
            "scope read:data.costs",
            "reaches tools/mcp",
        ]
    );
    // It explains the log: a mesh with it permits what was permitted.
    let mut manifests = files.manifests();
    manifests.agents[0].spec = smaller;
    let shrunk = manifests.check("cluster.local").unwrap();
    assert_eq!(
        again(&shrunk, &read_table("sales", Ok(None)), Facts::Recorded),
        Ok(Ok(None))
    );

    let all = [
        read_table("costs", Ok(None)),
        read_table("sales", Ok(None)),
        call_tool("pandas", None, Ok(None)),
        call_tool("sql_query", Some("read:data.sales"), Ok(None)),
        resource("memo://a", ""),
        resource("table://sales", "read:data.sales"),
    ];
    let (_, (same, removed)) = used(&all);
    assert_eq!((same, removed.len()), (spec.clone(), 0));
}

/// A mesh's policy as an export has it: the warehouse's bundle 1.1, state list 1.1, in which nobody is paused, and 1.2.
fn kept(mesh: &Mesh) -> KeptPolicy {
    use crate::log::policy::{PolicyKeys, keys_text};
    use crate::manifest::BundleHeader;
    use crate::policy::{BUNDLE_TYPE, PolicyServerClaims};
    use crate::signing::TestKey;
    use crate::state::STATE_TYPE;

    let issuer = "spiffe://cluster.local/ns/ostiary/sa/policy-server";
    let key = TestKey::new(7);
    let note = format!("{}\nno signature is looked at", keys_text("log", &[key.jwk()]));
    let header = BundleHeader {
        iss: issuer.parse().unwrap(),
        epoch: 1,
        version: 1,
        issued_at: NOW,
        expires_at: NOW + 3600,
        max_state_age_seconds: 60,
        max_token_ttl_seconds: 300,
        issuers: Vec::new(),
        policy_server: PolicyServerClaims {
            identity: issuer.parse().unwrap(),
            hosts: Vec::new(),
        },
    };
    let paged = mesh.compile(&WAREHOUSE.parse().unwrap(), header).calling().unwrap();
    let state = |version: u64, agents: Value| {
        let claims = json!({
            "format": 1, "iss": issuer, "epoch": 1, "version": version, "issued_at": NOW, "agents": agents,
            "not_before": {}, "revoked": {},
        });
        PolicyLine::State(key.sign(STATE_TYPE, &claims))
    };
    let mut kept = KeptPolicy::new(PolicyKeys::unverified(&note, "log").unwrap());
    for page in paged.pages.texts() {
        kept.take(PolicyLine::Page(page.to_owned())).unwrap();
    }
    kept.take(PolicyLine::Bundle(key.sign(BUNDLE_TYPE, &paged.head)))
        .unwrap();
    kept.take(state(1, json!({}))).unwrap();
    kept.take(state(2, json!({"analyst-7": "paused"}))).unwrap();
    kept
}

#[test]
fn a_decision_is_made_again_by_the_bundle_and_the_state_list_that_its_record_names() {
    let mesh = Files::new().mesh();
    let kept = kept(&mesh);
    let named = |record: Record<'static>, bundle: &'static str, state: &'static str| Record {
        bundle: Some(bundle.into()),
        state: Some(state.into()),
        ..record
    };
    let paused = Err(Code::AgentPaused);
    for (record, state, again) in [
        (read_table("sales", Ok(None)), "1.1", Ok(None)),
        (read_table("sales", paused), "1.2", paused),
        (read_table("sales", Ok(None)), "1.2", paused),
        (read_table("sales", paused), "1.1", Ok(None)),
        (read_table("payroll", Ok(None)), "1.1", Err(Code::ScopeNotInPolicy)),
    ] {
        let recorded = outcome(&record).unwrap();
        let replayed = kept.replay(&named(record, "1.1", state)).unwrap();
        assert_eq!((replayed.recorded, replayed.again), (recorded, again), "{state}");
    }
    for (bundle, state) in [("1.2", "1.1"), ("1.1", "1.3"), ("-", "1.1")] {
        let record = named(read_table("sales", Ok(None)), bundle, state);
        assert_eq!(kept.replay(&record), Err(Unplayed::NotKept), "{bundle} {state}");
    }
    let mut others = named(read_table("sales", Ok(None)), "1.1", "1.1");
    others.workload = Some(MCP.into());
    assert_eq!(kept.replay(&others), Err(Unplayed::Policy));
}
