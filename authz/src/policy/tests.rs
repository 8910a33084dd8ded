#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::{
    identity::{AgentId, ServiceId, ToolName},
    jwks::Jwks,
    jws::base64url,
    scope::Scope,
    signing::TestKey,
};

pub(super) const NOW: u64 = 1000;
const WAREHOUSE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";

pub(super) fn service(name: &str, protocol: &str) -> Value {
    let mut service = json!({
        "id": format!("data/{name}"),
        "identity": format!("spiffe://cluster.local/ns/data/sa/{name}"),
        "hosts": [format!("{name}.data.svc.cluster.local")],
        "ports": [8080],
        "protocol": protocol,
        "token_header": "authorization",
        "forward_token": false,
        "forward_claims": false,
        "body_limit_bytes": 1 << 20,
    });
    match protocol {
        "http" => {
            service["routes"] = json!([
                {"method": "GET", "path": "/v1/tables/{table}", "scope": "read:data.{table}"},
                {"method": "PUT", "path": "/v1/memory/{owner}/{key}", "scope": "write:memory.{owner}", "own": "owner"},
            ]);
            service["exempt"] =
                json!([{"peer": "spiffe://cluster.local/ns/m/sa/prom", "method": "GET", "path": "/metrics"}]);
        }
        _ => {
            service["path"] = json!("/mcp");
            service["tools"] = json!({"pandas": {}, "sql_query": {"scope": "read:data.{arguments./table}"}});
        }
    }
    service
}

pub(super) fn agent(name: &str) -> Value {
    json!({
        "id": name,
        "identity": format!("spiffe://cluster.local/ns/agents/sa/{name}"),
        "tools": ["pandas", "data/mcp/sql_query"],
        "forbidden_tools": ["bash"],
        "scope": ["read:data.sales"],
        "may_call": ["writer-2"],
        "reaches": ["data/warehouse", "data/mcp"],
    })
}

pub(super) fn claims() -> Value {
    json!({
        "format": 1, "iss": "ostiary", "aud": WAREHOUSE, "epoch": 1, "version": 7,
        "issued_at": NOW, "expires_at": NOW + 3600,
        "max_state_age_seconds": 60, "max_token_ttl_seconds": 300,
        "issuers": [{"iss": "ostiary", "jwks": TestKey::new(3).jwks()}],
        "policy_server": {"identity": "spiffe://cluster.local/ns/ostiary/sa/policy-server", "hosts": ["policy.ostiary"]},
        "services": [service("warehouse", "http"), service("mcp", "mcp")],
        "agents": [agent("writer-2"), agent("analyst-7")],
    })
}

pub(super) fn keys() -> BundleKeys {
    BundleKeys::new(TestKey::new(1).jwks()).unwrap()
}

pub(super) fn workload() -> SpiffeId {
    SpiffeId::parse(WAREHOUSE).unwrap()
}

fn verify_after(claims: &Value, held: Option<Version>) -> Result<Bundle, PolicyError> {
    RawBundle::new(&TestKey::new(1).sign(BUNDLE_TYPE, claims)).verify(&keys(), &workload(), held, NOW)
}

fn verify(claims: &Value) -> Result<Bundle, PolicyError> {
    verify_after(claims, None)
}

pub(super) fn set(claims: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = claims.pointer_mut(parent).unwrap();
    match key.parse::<usize>() {
        Ok(index) if parent.is_array() => parent[index] = value,
        _ => parent[key] = value,
    }
}

fn with(pointer: &str, value: Value) -> Value {
    let mut claims = claims();
    set(&mut claims, pointer, value);
    claims
}

#[test]
fn services_are_found_by_host_and_port() {
    let bundle = verify(&claims()).unwrap();
    let named = |authority: &str| {
        let index = bundle.service_named(authority)?;
        Some(bundle.service(index)?.id().to_string())
    };
    for authority in [
        "warehouse.data.svc.cluster.local",
        "warehouse.data.svc.cluster.local:8080",
        "warehouse.data.svc.cluster.local:80",
        "WAREHOUSE.data.Svc.cluster.local",
    ] {
        assert_eq!(named(authority).as_deref(), Some("data/warehouse"), "{authority}");
    }
    assert_eq!(named("mcp.data.svc.cluster.local").as_deref(), Some("data/mcp"));
    for authority in [
        "",
        "warehouse",
        "warehouse.data.svc.cluster.local.",
        "xwarehouse.data.svc.cluster.local",
        "warehouse.data.svc.cluster.local:",
        "warehouse.data.svc.cluster.local:0",
        "warehouse.data.svc.cluster.local:65536",
        "warehouse.data.svc.cluster.local:+80",
        "warehouse.data.svc.cluster.local:80:80",
        "user@warehouse.data.svc.cluster.local",
        "policy.ostiary",
    ] {
        assert_eq!(named(authority), None, "{authority}");
    }
    assert!(bundle.policy_server().answers_to("Policy.ostiary:8080"));
    assert!(!bundle.policy_server().answers_to("policy.ostiary:x"));
    let exposed = bundle.service_exposed_on(8080).unwrap();
    assert_eq!(
        bundle.service(exposed).unwrap().id().as_str(),
        "data/warehouse",
        "mcp has another identity"
    );
    assert!(bundle.service_exposed_on(8081).is_none());
}

#[test]
fn agents_answer_exactly() {
    let bundle = verify(&claims()).unwrap();
    let agent = bundle.agent("analyst-7").unwrap();
    assert!(bundle.agent("analyst").is_none() && bundle.agent("analyst-77").is_none());
    assert_eq!(agent.id(), "analyst-7");
    let is = |identity: &str| agent.has_identity(&SpiffeId::parse(identity).unwrap());
    assert!(is("spiffe://cluster.local/ns/agents/sa/analyst-7"));
    for other in [
        "spiffe://cluster.local/ns/agents/sa/analyst-77",
        "spiffe://cluster.local/ns/agents/sa/analyst",
        "spiffe://cluster.local/ns/agent/sa/analyst-7",
        "spiffe://cluster.local/ns/agents/sa/x/analyst-7",
        "spiffe://cluster.local/analyst-7",
    ] {
        assert!(!is(other), "{other}");
    }
    let (mcp, other) = (
        ServiceId::parse("data/mcp").unwrap(),
        ServiceId::parse("lab/mcp").unwrap(),
    );
    let lists = |service: &ServiceId, tool: &str| agent.lists_tool(service, &ToolName::parse(tool).unwrap());
    assert!(lists(&mcp, "pandas") && lists(&other, "pandas"));
    assert!(lists(&mcp, "sql_query") && !lists(&other, "sql_query"));
    assert!(!lists(&mcp, "andas") && !lists(&mcp, "query") && !lists(&mcp, "bash"));
    assert!(agent.forbids(&mcp, &ToolName::parse("bash").unwrap()));
    assert!(!agent.forbids(&mcp, &ToolName::parse("pandas").unwrap()));
    let has = |scope: &str| agent.has_scope(&Scope::parse(scope).unwrap());
    assert!(has("read:data.sales") && !has("read:data.sale") && !has("read:data.sales.q1"));
    assert!(agent.may_call(&AgentId::parse("writer-2").unwrap()));
    assert!(!agent.may_call(&AgentId::parse("writer").unwrap()));
    let reaches = |agent: Agent<'_>| {
        ["data/warehouse", "data/mcp", "data/mc", "lab/mcp"].map(|id| agent.reaches(&ServiceId::parse(id).unwrap()))
    };
    assert_eq!(reaches(agent), [true, true, false, false]);
    let mut narrower = claims();
    set(&mut narrower, "/agents/1/reaches", json!(["data/mcp"]));
    let bundle = verify(&narrower).unwrap();
    assert_eq!(reaches(bundle.agent("analyst-7").unwrap()), [false, true, false, false]);
    assert_eq!(reaches(bundle.agent("writer-2").unwrap()), [true, true, false, false]);
}

#[test]
fn each_list_of_an_agent_is_its_own() {
    let mut claims = claims();
    claims["services"][1]["id"] = json!("data/a");
    claims["agents"] = json!([
        {"id": "a", "identity": "spiffe://d/ns/a", "tools": ["a"], "scope": ["a:a"], "reaches": ["data/a"]},
        {"id": "b", "identity": "spiffe://d/a/b", "forbidden_tools": ["a"], "may_call": ["a"], "reaches": ["data/warehouse"]},
        {"id": "c", "identity": "spiffe://d/a/c"},
    ]);
    let bundle = verify(&claims).unwrap();
    let facts = |id: &str| {
        let agent = bundle.agent(id).unwrap();
        let (service, tool) = (ServiceId::parse("data/a").unwrap(), ToolName::parse("a").unwrap());
        [
            agent.lists_tool(&service, &tool),
            agent.forbids(&service, &tool),
            agent.has_scope(&Scope::parse("a:a").unwrap()),
            agent.may_call(&AgentId::parse("a").unwrap()),
            agent.reaches(&service),
        ]
    };
    assert_eq!(facts("a"), [true, false, true, false, true]);
    assert_eq!(facts("b"), [false, true, false, true, false]);
    assert_eq!(facts("c"), [false; 5]);
    let ids: Vec<&str> = bundle.agents().map(Agent::id).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert_eq!(format!("{:?}", bundle.agent("a")), "Some(a)");
}

#[test]
fn header_of_a_bundle() {
    let version = |epoch, counter| Some(Version { epoch, counter });
    for held in [None, version(1, 7), version(1, 6), version(0, 99)] {
        assert!(verify_after(&claims(), held).is_ok(), "{held:?}");
    }
    for held in [version(1, 8), version(2, 0)] {
        assert!(
            matches!(verify_after(&claims(), held), Err(PolicyError::Older { .. })),
            "{held:?}"
        );
    }
    assert!(verify(&with("/issued_at", json!(NOW + 5))).is_ok());
    let cases = [
        ("/issued_at", json!(NOW + 6), PolicyError::IssuedInFuture),
        ("/expires_at", json!(NOW), PolicyError::Expired),
        ("/format", json!(6), PolicyError::Format(6)),
        (
            "/aud",
            json!("spiffe://cluster.local/ns/data/sa/reports"),
            PolicyError::Audience,
        ),
    ];
    for (pointer, value, error) in cases {
        assert_eq!(verify(&with(pointer, value)).unwrap_err(), error, "{pointer}");
    }
    let bundle = verify(&claims()).unwrap();
    assert!(!bundle.expired(NOW + 3599) && bundle.expired(NOW + 3600));
    assert_eq!(bundle.expires_at(), NOW + 3600);
}

#[test]
fn a_bundle_ends_after_it_began_and_after_now() {
    let lived = |issued_at: u64, expires_at: u64| {
        let mut claims = with("/issued_at", json!(issued_at));
        set(&mut claims, "/expires_at", json!(expires_at));
        verify(&claims).map(drop)
    };
    assert_eq!(lived(NOW - 10, NOW + 1), Ok(()));
    assert_eq!(lived(NOW - 10, NOW), Err(PolicyError::Expired));
    assert_eq!(lived(NOW + 5, NOW + 6), Ok(()));
    assert_eq!(lived(NOW + 5, NOW + 5), Err(PolicyError::Expired));
}

#[test]
fn times_that_a_bundle_grants_are_bounded() {
    for (field, most) in [
        ("/max_state_age_seconds", MAX_STATE_AGE_SECONDS),
        ("/max_token_ttl_seconds", MAX_TOKEN_TTL_SECONDS),
    ] {
        assert!(verify(&with(field, json!(1))).is_ok(), "{field}");
        assert!(verify(&with(field, json!(most))).is_ok(), "{field}");
        for seconds in [0, most + 1] {
            let refused = verify(&with(field, json!(seconds)));
            assert!(matches!(refused, Err(PolicyError::Content { .. })), "{field} {seconds}");
        }
    }
    let bundle = verify(&with("/max_token_ttl_seconds", json!(60))).unwrap();
    let limits = bundle.token_limits();
    assert_eq!((limits.max_lifetime_seconds, limits.skew_seconds), (60, 5));
}

#[test]
fn who_may_sign_policy() {
    let signed = TestKey::new(1).sign(BUNDLE_TYPE, &claims());
    let by = |keys: Vec<crate::jwks::Jwk>| {
        let keys = BundleKeys::new(Jwks::new(keys).unwrap())?;
        RawBundle::new(&signed).verify(&keys, &workload(), None, NOW).map(drop)
    };
    let [one, two, three, four] = [1, 2, 3, 4].map(|seed| TestKey::new(seed).jwk());
    assert_eq!(by(vec![three.clone(), two.clone(), one.clone()]), Ok(()));
    let bundle = verify(&claims()).unwrap();
    assert_eq!(bundle.key(), Some(one.kid()));
    assert_eq!(by(vec![two.clone()]), Err(PolicyError::Jws(JwsError::KeyUnknown)));
    assert_eq!(by(vec![]), Err(PolicyError::Keys));
    assert_eq!(by(vec![one, two, three, four]), Err(PolicyError::Keys));
    let p256 = json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": base64url::encode([1; 32]), "y": base64url::encode([2; 32])});
    assert_eq!(by(vec![serde_json::from_value(p256).unwrap()]), Err(PolicyError::Keys));
    let state = TestKey::new(1).sign("agent-state+jwt", &claims());
    let refused = RawBundle::new(&state)
        .verify(&keys(), &workload(), None, NOW)
        .unwrap_err();
    assert_eq!(refused, PolicyError::Jws(JwsError::Type));
}

#[test]
fn one_bad_part_refuses_the_whole() {
    let unknown = |name: &str| ContentError::CaptureUnknown(name.into());
    let cases = [
        ("/services/0/hosts", json!([]), "services/0/hosts", ContentError::NoHost),
        (
            "/services/0/hosts/0",
            json!("Warehouse"),
            "services/0/hosts/0",
            ContentError::Host,
        ),
        (
            "/services/0/hosts/0",
            json!("*.data"),
            "services/0/hosts/0",
            ContentError::Host,
        ),
        (
            "/services/0/hosts/0",
            json!("a:80"),
            "services/0/hosts/0",
            ContentError::Host,
        ),
        (
            "/services/0/hosts/0",
            json!("mcp.data.svc.cluster.local"),
            "services",
            ContentError::HostTwice,
        ),
        ("/services/0/ports", json!([]), "services/0/ports", ContentError::NoPort),
        (
            "/services/0/ports",
            json!([0]),
            "services/0/ports/0",
            ContentError::Port,
        ),
        (
            "/services/0/ports",
            json!([1, 1]),
            "services/0/ports/1",
            ContentError::PortTwice,
        ),
        (
            "/services/1/identity",
            json!(WAREHOUSE),
            "services",
            ContentError::PortTwice,
        ),
        (
            "/services/1/id",
            json!("data/warehouse"),
            "services",
            ContentError::Twice,
        ),
        (
            "/services/0/path",
            json!("/mcp"),
            "services/0/path",
            ContentError::NotOfProtocol,
        ),
        (
            "/services/0/tools",
            json!({"a": {}}),
            "services/0/tools",
            ContentError::NotOfProtocol,
        ),
        (
            "/services/1/routes",
            json!([{"method": "GET", "path": "/", "scope": "r:a"}]),
            "services/1/routes",
            ContentError::NotOfProtocol,
        ),
        (
            "/services/1/path",
            json!("/{mcp}"),
            "services/1/path",
            ContentError::CaptureHere,
        ),
        (
            "/services/1/path",
            json!("mcp"),
            "services/1/path",
            PathTemplateError::NotCanonical.into(),
        ),
        (
            "/services/0/routes/0/method",
            json!("get"),
            "services/0/routes/0/method",
            ContentError::Method,
        ),
        (
            "/services/0/routes/0/method",
            json!("CONNECT"),
            "services/0/routes/0/method",
            ContentError::Method,
        ),
        (
            "/services/0/routes/0/path",
            json!("/a//b"),
            "services/0/routes/0/path",
            PathTemplateError::NotCanonical.into(),
        ),
        (
            "/services/0/routes/0/path",
            json!("/a/../{table}"),
            "services/0/routes/0/path",
            PathTemplateError::NotCanonical.into(),
        ),
        (
            "/services/0/routes/0/path",
            json!("/a%2f/{table}"),
            "services/0/routes/0/path",
            PathTemplateError::Character.into(),
        ),
        (
            "/services/0/routes/0/path",
            json!("/a/x{table}"),
            "services/0/routes/0/path",
            PathTemplateError::Character.into(),
        ),
        (
            "/services/0/routes/0/path",
            json!("/{table}x"),
            "services/0/routes/0/path",
            PathTemplateError::Capture.into(),
        ),
        (
            "/services/0/routes/0/path",
            json!("/{table}/{table}"),
            "services/0/routes/0/path",
            PathTemplateError::Repeated.into(),
        ),
        (
            "/services/0/routes/0/path",
            json!("/*/{table}"),
            "services/0/routes/0/path",
            PathTemplateError::Character.into(),
        ),
        (
            "/services/0/routes/0/scope",
            json!("read:data.*"),
            "services/0/routes/0/scope",
            crate::scope::ScopeError::Wildcard.into(),
        ),
        (
            "/services/0/routes/0/scope",
            json!("read:data.{other}"),
            "services/0/routes/0/scope",
            unknown("other"),
        ),
        (
            "/services/0/routes/0/scope",
            json!("read:data.{arguments./a}"),
            "services/0/routes/0/scope",
            ContentError::CaptureKind,
        ),
        (
            "/services/0/routes/1/own",
            json!("other"),
            "services/0/routes/1/own",
            unknown("other"),
        ),
        (
            "/services/0/routes/1",
            json!({"method": "GET", "path": "/v1/{x}/y", "scope": "r:a"}),
            "services/0/routes/1/path",
            ContentError::RouteOverlap,
        ),
        (
            "/services/0/exempt/0/path",
            json!("/{x}"),
            "services/0/exempt/0/path",
            ContentError::CaptureHere,
        ),
        (
            "/services/0/exempt/0/method",
            json!("TRACE"),
            "services/0/exempt/0/method",
            ContentError::Method,
        ),
        (
            "/services/1/tools/pandas",
            json!({"scope": "read:data.{table}"}),
            "services/1/tools/pandas/scope",
            ContentError::CaptureKind,
        ),
        (
            "/services/0/token_header",
            json!("host"),
            "services/0/token_header",
            ContentError::TokenHeader,
        ),
        (
            "/services/0/token_header",
            json!("Authorization"),
            "services/0/token_header",
            ContentError::TokenHeader,
        ),
        (
            "/services/0/token_header",
            json!("ostiary-token"),
            "services/0/token_header",
            ContentError::TokenHeader,
        ),
        (
            "/services/0/body_limit_bytes",
            json!(0),
            "services/0/body_limit_bytes",
            ContentError::BodyLimit,
        ),
        (
            "/services/0/body_limit_bytes",
            json!((16 << 20) + 1),
            "services/0/body_limit_bytes",
            ContentError::BodyLimit,
        ),
        (
            "/agents/0/reaches/0",
            json!("data/nowhere"),
            "agents/reaches/data/nowhere",
            ContentError::Dangling,
        ),
        ("/agents/0/id", json!("analyst-7"), "agents", ContentError::Twice),
        (
            "/agents/0/identity",
            json!("spiffe://cluster.local/ns/agents/sa/analyst-7"),
            "agents",
            ContentError::Twice,
        ),
        (
            "/policy_server/hosts/0",
            json!("Policy"),
            "policy_server/hosts/0",
            ContentError::Host,
        ),
        (
            "/max_state_age_seconds",
            json!(0),
            "max_state_age_seconds",
            ContentError::OutOfBounds,
        ),
        (
            "/max_state_age_seconds",
            json!(3601),
            "max_state_age_seconds",
            ContentError::OutOfBounds,
        ),
        (
            "/max_token_ttl_seconds",
            json!(86_401),
            "max_token_ttl_seconds",
            ContentError::OutOfBounds,
        ),
    ];
    assert!(verify(&claims()).is_ok());
    for (pointer, value, field, error) in cases {
        let refused = verify(&with(pointer, value.clone())).map(drop);
        assert_eq!(
            refused,
            Err(PolicyError::Content {
                field: field.into(),
                error
            }),
            "{pointer} = {value}"
        );
    }
    let mut issuers = claims();
    issuers["issuers"] = json!([issuers["issuers"][0], issuers["issuers"][0]]);
    assert!(matches!(
        verify(&issuers),
        Err(PolicyError::Content {
            error: ContentError::Twice,
            ..
        })
    ));
    for (pointer, value) in [
        ("/surprise", json!(1)),
        ("/services/0/surprise", json!(1)),
        ("/agents/0/surprise", json!(1)),
        ("/agents/0/tools", json!(["*"])),
        ("/agents/0/scope", json!(["read:*"])),
        ("/services/0/protocol", json!("llm")),
        ("/services/0/ports", json!([65536])),
        ("/epoch", json!(1.0)),
    ] {
        assert!(
            matches!(verify(&with(pointer, value)), Err(PolicyError::Json(_))),
            "{pointer}"
        );
    }
}

#[test]
fn what_a_resource_captures_is_in_its_scope() {
    let fault = |resources: Value| match verify(&with("/services/1/resources", resources)).map(drop) {
        Err(PolicyError::Content { field, error }) => Some((field, error)),
        other => {
            assert_eq!(other, Ok(()));
            None
        }
    };
    assert_eq!(
        fault(json!({"memo://a": {}, "memo://b": {"scope": "read:memo.b"}})),
        None
    );
    assert_eq!(fault(json!({"table://{a}/{b}": {"scope": "read:{b}.{a}"}})), None);
    let at = "services/1/resources/table:~1~1{a}";
    let scope = format!("{at}/scope");
    let unused = (scope.clone(), ContentError::CaptureUnused("a".into()));
    assert_eq!(fault(json!({"table://{a}": {}})), Some(unused.clone()));
    assert_eq!(fault(json!({"table://{a}": {"scope": "read:data.all"}})), Some(unused));
    let unknown = ContentError::CaptureUnknown("b".into());
    assert_eq!(
        fault(json!({"table://{a}": {"scope": "read:{b}.{a}"}})),
        Some((scope.clone(), unknown))
    );
    assert_eq!(
        fault(json!({"table://{a}": {"scope": "read:{arguments./a}.{a}"}})),
        Some((scope, ContentError::CaptureKind))
    );
    assert_eq!(
        fault(json!({"table://*": {}})),
        Some((
            "services/1/resources/table:~1~1*".into(),
            crate::resource::ResourceError::Wildcard.into()
        ))
    );
    assert_eq!(
        fault(json!({"table://x": {}, "table://{a}": {"scope": "read:{a}"}})),
        Some((at.into(), ContentError::ResourceOverlap))
    );
    assert_eq!(
        fault(json!({"table://x": {"scope": "read:*"}})),
        Some((
            "services/1/resources/table:~1~1x/scope".into(),
            crate::scope::ScopeError::Wildcard.into()
        ))
    );
    for (pointer, value) in [
        ("/services/0/prompts", json!({"a": {}})),
        ("/services/0/resources", json!({"a:b": {}})),
    ] {
        let refused = verify(&with(pointer, value)).map(drop);
        let field = pointer.trim_start_matches('/').to_owned();
        let error = ContentError::NotOfProtocol;
        assert_eq!(refused, Err(PolicyError::Content { field, error }), "{pointer}");
    }
    let prompt = verify(&with(
        "/services/1/prompts",
        json!({"p": {"scope": "read:data.{table}"}}),
    ))
    .map(drop);
    assert_eq!(
        prompt,
        Err(PolicyError::Content {
            field: "services/1/prompts/p/scope".into(),
            error: ContentError::CaptureKind
        })
    );
}

#[test]
fn what_a_query_captures_is_one_thing_and_in_use() {
    let fault = |route: Value| match verify(&with("/services/0/routes/0", route)).map(drop) {
        Err(PolicyError::Content { field, error }) => Some((field, error)),
        other => {
            assert_eq!(other, Ok(()));
            None
        }
    };
    let route = |query: Value, scope: &str| json!({"method": "GET", "path": "/v1/{x}", "query": query, "scope": scope});
    assert_eq!(fault(route(json!({"table": "{table}"}), "read:{x}.{table}")), None);
    assert_eq!(fault(route(json!({"a-B_1": "{a}", "b": "{b}"}), "read:{a}.{b}")), None);
    let mut own = route(json!({"agent": "{agent}"}), "read:data");
    own["own"] = json!("agent");
    assert_eq!(fault(own), None);
    let at = |parameter: &str| format!("services/0/routes/0/query/{parameter}");
    let bad = |query: Value, scope: &str, parameter: &str| {
        assert_eq!(
            fault(route(query, scope)),
            Some((at(parameter), ContentError::Query)),
            "{parameter}"
        );
    };
    bad(json!({"table": "sales"}), "read:{x}", "table");
    bad(json!({"table": "{Table}"}), "read:{x}", "table");
    bad(json!({"table": "{x}"}), "read:{x}", "table");
    bad(json!({"a": "{a}", "b": "{a}"}), "read:{a}", "b");
    bad(json!({"Table": "{a}", "table": "{b}"}), "read:{a}.{b}", "table");
    bad(json!({"a b": "{a}"}), "read:{x}", "a b");
    bad(json!({"": "{a}"}), "read:{x}", "");
    let long = "a".repeat(65);
    bad(json!({long.as_str(): "{a}"}), "read:{x}", &long);
    assert_eq!(
        fault(route(json!({"table": "{table}"}), "read:{x}")),
        Some((at("table"), ContentError::CaptureUnused("table".into())))
    );
    assert_eq!(
        fault(route(json!({}), "read:{table}")),
        Some((
            "services/0/routes/0/scope".into(),
            ContentError::CaptureUnknown("table".into())
        ))
    );
}

#[test]
fn paths_match_segment_by_segment() {
    let template = PathTemplate::parse("/v1/tables/{table}").unwrap();
    assert_eq!(template.captures("/v1/tables/sales"), Some(vec![("table", "sales")]));
    for path in [
        "/v1/tables",
        "/v1/tables/",
        "/v1/tables/a/b",
        "/v1/Tables/a",
        "v1/tables/a",
        "",
        "/v1/tables/a/",
    ] {
        assert_eq!(template.captures(path), None, "{path}");
    }
    let root = PathTemplate::parse("/").unwrap();
    assert_eq!((root.captures("/"), root.captures("//")), (Some(vec![]), None));
}

#[test]
fn versions_have_one_spelling() {
    assert_eq!(Version::parse("1.7").unwrap(), Version { epoch: 1, counter: 7 });
    for text in [
        "1",
        "1.",
        ".7",
        "01.7",
        "1.07",
        "+1.7",
        "1.7.0",
        "-1.7",
        "1.7 ",
        "18446744073709551616.0",
    ] {
        assert!(Version::parse(text).is_err(), "{text}");
    }
    assert!(Version { epoch: 2, counter: 0 } > Version { epoch: 1, counter: 9 });
}
