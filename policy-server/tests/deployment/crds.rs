//! `k8s/crds`: the API server refuses what the reader of agent and service files refuses, and nothing that it takes.
//!
//! What the rules in CEL do is seen only with a real API server: `e2e_policy` seeds every mistake of `seeds` there.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::path::Path;

use crate::probe::names;
use crate::seeds::{FILES, PASSED, SEEDS, Teller, seeded};
use authz::claims::{ServiceRef, ToolGrant};
use authz::definition::{DefinitionDigest, OnDrift};
use authz::identity::{AgentId, ServiceId, SpiffeId, ToolName, is_label};
use authz::manifest::{
    AgentManifest, AgentSpec, ExemptSpec, MayRefresh, Metadata, NamedSpec, ProtocolName, RouteSpec, ServiceManifest,
    ServiceSpec, ToolSpec, bounds,
};
use authz::policy::{HeaderName, MAX_BODY_LIMIT_BYTES, Method, PathTemplate, PathTemplateError, QueryCapture, Tasks};
use authz::resource::{ResourceError, ResourceGrant};
use authz::scope::{Capture, MAX_SCOPES, Scope, ScopeTemplate, is_capture_name};
use policy_server::files::read_objects;
use regex::Regex;
use serde_json::{Value, json};

/// The schema of a resource, and its definition.
fn definition(plural: &str) -> Value {
    let path = format!("../k8s/crds/{plural}.ostiary.dev.yaml");
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

fn schema(plural: &str) -> Value {
    definition(plural)["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// All schemas within a schema, each with its place.
fn within(place: &str, schema: &Value) -> Vec<(String, Value)> {
    let mut all = vec![(place.to_owned(), schema.clone())];
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        all.extend(within(&format!("{place}.{name}"), property));
    }
    if schema["items"].is_object() {
        all.extend(within(&format!("{place}[]"), &schema["items"]));
    }
    if schema["additionalProperties"].is_object() {
        all.extend(within(&format!("{place}{{}}"), &schema["additionalProperties"]));
    }
    all
}

/// The schemas of what people write, of both kinds, by places such as `agents.spec.tools[]`.
fn written() -> Vec<(String, Value)> {
    let all = ["agents", "services"]
        .into_iter()
        .flat_map(|plural| within(plural, &schema(plural)));
    all.filter(|(place, _)| !place.contains(".status")).collect()
}

fn at(place: &str) -> Value {
    let found = written().into_iter().find(|(known, _)| known == place);
    found.unwrap_or_else(|| panic!("no {place}")).1
}

fn properties(place: &str) -> BTreeSet<String> {
    at(place)["properties"].as_object().unwrap().keys().cloned().collect()
}

fn words(list: &Value) -> BTreeSet<String> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|word| word.as_str().unwrap().to_owned())
        .collect()
}

/// A document of each kind in which every field is written.
fn agent() -> Value {
    json!({
        "apiVersion": "ostiary.dev/v1alpha1", "kind": "Agent",
        "metadata": {"name": "analyst-7", "namespace": "agents"},
        "spec": {
            "serviceAccount": "analyst-7", "tools": ["pandas"], "forbiddenTools": ["bash"],
            "prompts": ["summary"], "resources": ["memo:a"],
            "scope": ["read:data.sales"], "mayCall": [], "maxTokensPerDay": 1, "mayRefresh": "self",
            "issuers": ["spiffe://cluster.local/ns/orchestration/sa/orchestrator"], "reaches": ["warehouse", "mcp"],
        },
    })
}

fn http() -> Value {
    json!({
        "apiVersion": "ostiary.dev/v1alpha1", "kind": "Service",
        "metadata": {"name": "warehouse", "namespace": "data"},
        "spec": {
            "serviceAccount": "warehouse", "hosts": ["warehouse.data.svc.cluster.local"], "ports": [8080],
            "protocol": "http", "tokenHeader": "authorization", "forwardToken": false, "forwardClaims": false,
            "bodyLimitBytes": 1, "record": "before", "onExpiry": "finish", "onPause": "hold", "mode": "shadow",
            "routes": [
                {"method": "GET", "path": "/v1/{table}", "query": {"row": "{row}"}, "scope": "read:data.{table}.{row}"},
            ],
            "exempt": [{"peer": "spiffe://cluster.local/ns/a/sa/b", "method": "GET", "path": "/metrics"}],
        },
    })
}

const DEFINITION: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

fn mcp() -> Value {
    json!({
        "apiVersion": "ostiary.dev/v1alpha1", "kind": "Service",
        "metadata": {"name": "mcp", "namespace": "tools"},
        "spec": {
            "serviceAccount": "mcp", "hosts": ["mcp.tools.svc.cluster.local"], "ports": [8080],
            "protocol": "mcp", "path": "/mcp", "onDrift": "deny",
            "tools": {"pandas": {"scope": "read:data.{arguments./table}", "definition": DEFINITION}, "bash": {}},
            "prompts": {"summary": {"scope": "read:data.{arguments./table}"}}, "resources": {"memo:a": {"scope": "read:memo.a"}},
        },
    })
}

fn a2a() -> Value {
    json!({
        "apiVersion": "ostiary.dev/v1alpha1", "kind": "Service",
        "metadata": {"name": "analyst-7", "namespace": "agents"},
        "spec": {
            "serviceAccount": "analyst-7", "hosts": ["analyst-7.agents.svc.cluster.local"], "ports": [8080],
            "protocol": "a2a", "path": "/", "restPath": "/a2a", "agent": "analyst-7", "tasks": "application",
            "forwardClaims": true,
        },
    })
}

/// What the reader says of one document among the others: `field: message; advice`.
fn told(changed: usize, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut documents = [agent(), http(), mcp(), a2a()];
    change(&mut documents[changed]);
    let mistakes = read_objects(&documents, "cluster.local").err().unwrap_or_default();
    let of = mistakes.into_iter().filter(|mistake| mistake.object == changed);
    of.map(|mistake| mistake.to_string()).collect()
}

#[test]
fn the_schemas_have_the_fields_of_the_reader() {
    let with_status = |fields: BTreeSet<String>| fields.into_iter().chain(["status".to_owned()]).collect();
    for (place, fields) in [
        ("agents", with_status(names::<AgentManifest>())),
        ("agents.spec", names::<AgentSpec>()),
        ("services", with_status(names::<ServiceManifest>())),
        ("services.spec", names::<ServiceSpec>()),
        ("services.spec.routes[]", names::<RouteSpec>()),
        ("services.spec.exempt[]", names::<ExemptSpec>()),
        ("services.spec.tools{}", names::<ToolSpec>()),
        ("services.spec.prompts{}", names::<NamedSpec>()),
        ("services.spec.resources{}", names::<NamedSpec>()),
    ] {
        assert_eq!(properties(place), fields, "{place}");
    }
    // The API server knows these two; of the others, nothing is read.
    assert_eq!(
        names::<Metadata>(),
        BTreeSet::from(["name", "namespace"].map(str::to_owned))
    );
    assert_eq!(words(&at("agents.spec.mayRefresh")["enum"]), names::<MayRefresh>());
    assert_eq!(words(&at("services.spec.tasks")["enum"]), names::<Tasks>());
    assert_eq!(words(&at("services.spec.onDrift")["enum"]), names::<OnDrift>());
    let served = names::<ProtocolName>().into_iter().filter(|name| {
        told(1, |service| service["spec"]["protocol"] = json!(name))
            .iter()
            .all(|line| !line.contains("not served"))
    });
    assert_eq!(words(&at("services.spec.protocol")["enum"]), served.collect());
}

#[test]
fn what_the_schemas_require_is_what_the_reader_misses() {
    assert_eq!(told(0, |_| ()), [""; 0]);
    let mut required = 0;
    for (place, schema) in written() {
        let Some(fields) = schema["properties"].as_object().filter(|_| place != "agents.metadata") else {
            continue;
        };
        let (document, pointer) = match place.as_str() {
            place if place.starts_with("agents") => (0, place.trim_start_matches("agents")),
            "services.spec.tools{}" => (2, ".spec.tools.pandas"),
            "services.spec.prompts{}" => (2, ".spec.prompts.summary"),
            "services.spec.resources{}" => (2, ".spec.resources.memo:a"),
            place => (1, place.trim_start_matches("services")),
        };
        let pointer = pointer.replace("[]", ".0").replace('.', "/");
        for field in fields
            .keys()
            .filter(|field| !["apiVersion", "kind", "metadata", "status"].contains(&field.as_str()))
        {
            let told = told(document, |document| {
                document
                    .pointer_mut(&pointer)
                    .unwrap()
                    .as_object_mut()
                    .unwrap()
                    .remove(field);
            });
            let misses = told.iter().any(|line| line.contains(&format!("`{field}` is missing")));
            assert_eq!(
                words(&schema["required"]).contains(field),
                misses,
                "{place}.{field}: {told:?}"
            );
            required += usize::from(misses);
        }
    }
    assert_eq!(required, 2 + 1 + 4 + 3 + 3);
}

#[test]
fn the_schemas_have_the_bounds_of_the_reader() {
    for (place, bound, expected) in [
        ("agents.spec.tools", "maxItems", bounds::MAX_TOOLS),
        ("agents.spec.forbiddenTools", "maxItems", bounds::MAX_TOOLS),
        ("agents.spec.prompts", "maxItems", bounds::MAX_TOOLS),
        ("agents.spec.resources", "maxItems", bounds::MAX_TOOLS),
        ("agents.spec.resources[]", "maxLength", bounds::MAX_RESOURCE_ENTRY_BYTES),
        ("agents.spec.scope", "maxItems", MAX_SCOPES),
        ("agents.spec.mayCall", "maxItems", bounds::MAX_CALLEES),
        ("agents.spec.issuers", "maxItems", bounds::MAX_ISSUERS),
        ("agents.spec.reaches", "maxItems", bounds::MAX_REACHED),
        ("services.spec.hosts", "maxItems", bounds::MAX_HOSTS),
        ("services.spec.ports", "maxItems", bounds::MAX_PORTS),
        ("services.spec.routes", "maxItems", bounds::MAX_ROUTES),
        ("services.spec.exempt", "maxItems", bounds::MAX_EXEMPT),
        ("services.spec.tools", "maxProperties", bounds::MAX_TOOLS),
        ("services.spec.prompts", "maxProperties", bounds::MAX_TOOLS),
        ("services.spec.resources", "maxProperties", bounds::MAX_TOOLS),
        (
            "services.spec.bodyLimitBytes",
            "maximum",
            usize::try_from(MAX_BODY_LIMIT_BYTES).unwrap(),
        ),
        ("services.spec.routes[].path", "maxLength", bounds::MAX_ROUTE_PATH_BYTES),
        ("services.spec.routes[].query", "maxProperties", bounds::MAX_ROUTE_QUERY),
    ] {
        assert_eq!(at(place)[bound], expected, "{place}");
    }
    for (place, schema) in written() {
        let bound = match schema["type"].as_str() {
            Some("array") => "maxItems",
            Some("string") if schema.get("enum").is_none() && place.contains(".spec.") => "maxLength",
            Some("integer") => "minimum",
            _ => continue,
        };
        assert!(schema[bound].is_u64(), "{place} has no {bound}");
    }
}

/// Whether the reader takes a text at a place, as far as the text alone says.
fn takes(place: &str, text: &str) -> bool {
    let route = |text: &str| matches!(PathTemplate::parse(text), Ok(_) | Err(PathTemplateError::Repeated));
    let literal = |text: &str| PathTemplate::parse(text).is_ok_and(|path| path.capture_count() == 0);
    let template =
        |text: &str, of: fn(&Capture) -> bool| ScopeTemplate::parse(text).is_ok_and(|scope| scope.captures().all(of));
    match place {
        "agents.spec.serviceAccount" | "services.spec.serviceAccount" => {
            text.len() <= 253 && text.split('.').all(is_label)
        }
        "agents.spec.tools[]" | "agents.spec.forbiddenTools[]" | "agents.spec.prompts[]" => {
            ToolGrant::parse(text).is_ok()
        }
        "agents.spec.resources[]" => {
            matches!(ResourceGrant::parse(text), Ok(_) | Err(ResourceError::Repeated))
                && text.len() <= bounds::MAX_RESOURCE_ENTRY_BYTES
        }
        "agents.spec.scope[]" => Scope::parse(text).is_ok(),
        "agents.spec.mayCall[]" | "services.spec.agent" => AgentId::parse(text).is_ok(),
        "agents.spec.issuers[]" | "services.spec.exempt[].peer" => SpiffeId::parse(text).is_ok(),
        "agents.spec.reaches[]" => ServiceRef::parse(text).is_ok(),
        "services.spec.hosts[]" => {
            let told = told(1, |service| service["spec"]["hosts"] = json!([text]));
            !told.iter().any(|line| line.contains("not a host name"))
        }
        "services.spec.routes[].method" | "services.spec.exempt[].method" => Method::parse(text).is_some(),
        "services.spec.routes[].path" => route(text) && text.len() <= bounds::MAX_ROUTE_PATH_BYTES,
        "services.spec.routes[].scope" => template(text, |capture| matches!(capture, Capture::Path(_))),
        "services.spec.routes[].own" => is_capture_name(text),
        "services.spec.routes[].query{}" => QueryCapture::parse("table", text).is_some(),
        "services.spec.exempt[].path" | "services.spec.path" | "services.spec.restPath" => literal(text),
        "services.spec.resources{}.scope" => template(text, |capture| matches!(capture, Capture::Path(_))),
        "services.spec.tools{}.scope" | "services.spec.prompts{}.scope" => {
            template(text, |capture| matches!(capture, Capture::Argument(_)))
        }
        "services.spec.tools{}.definition" => text.parse::<DefinitionDigest>().is_ok(),
        "services.spec.tokenHeader" => HeaderName::parse(text).is_some(),
        other => panic!("nothing is known of {other}"),
    }
}

/// Texts that are right somewhere, and each of them with one thing changed.
fn texts() -> BTreeSet<String> {
    let right = [
        "analyst-7",
        "a.b-c.d",
        "mcp/pandas",
        "tools/mcp/sql_query.v2",
        "read:data.sales_q1",
        "write:x",
        "GET",
        "M-SEARCH",
        "spiffe://cluster.local/ns/a/sa/b",
        "spiffe://a/..x/.y/z..",
        "warehouse.data.svc.cluster.local",
        "_x.y_",
        "/",
        "/v1/tables/{table}",
        "/a/{b}/{c_1}/..d",
        "/a;b",
        "read:data.{table}",
        "read:{a}.b.{c}",
        "read:x.{arguments./a/b-c}",
        "x-capability",
        DEFINITION,
        "namespace",
        "memo://{a}/b",
        "{table}",
        "tools/mcp/memo:a[]!;?#%&'()+,-.=@_~$",
        "/metrics",
        "/mcp",
        "/~a!$&'()+,=:@",
        "a",
        "A",
        "0",
        "-",
        ".",
        "..",
        "*",
        "",
    ];
    let mut texts: BTreeSet<String> = right.iter().map(|text| (*text).to_owned()).collect();
    for text in right {
        for at in 0..=text.len() {
            let (before, after) = text.split_at(at);
            for added in [
                "", "/", ".", "-", "_", "*", "?", "{", "}", "%", ":", "A", "a", "0", " ", "~", ";", "é", "\n", "{x}",
            ] {
                texts.insert(format!("{before}{added}{after}"));
                texts.insert(format!("{before}{added}{}", after.get(1..).unwrap_or_default()));
            }
        }
        for length in [
            20, 21, 63, 64, 65, 128, 129, 253, 254, 256, 257, 400, 401, 1024, 1025, 2048, 2049,
        ] {
            let missing = length - text.len().min(length);
            texts.insert(format!("{text}{}", "a".repeat(missing)));
            texts.insert(format!("{text}{}", "/a".repeat(missing / 2)));
            texts.insert(format!("{text}{}", ".a".repeat(missing / 2)));
        }
    }
    texts
}

/// Whether a rule beside the pattern names the text.
fn is_excepted(place: &str, schema: &Value, text: &str) -> bool {
    match place {
        "services.spec.tokenHeader" => {
            let rules = rules(schema);
            let prefixes = listed(rules[1].0);
            listed(rules[0].0).contains(text) || prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()))
        }
        "services.spec.routes[].method" | "services.spec.exempt[].method" => listed(rules(schema)[0].0).contains(text),
        _ => false,
    }
}

#[test]
fn a_text_that_fits_its_pattern_is_one_that_the_reader_takes() {
    let texts = texts();
    let mut patterns = 0;
    for (place, schema) in written() {
        let Some(pattern) = schema["pattern"].as_str() else {
            continue;
        };
        let regex = Regex::new(pattern).unwrap();
        let longest = usize::try_from(schema["maxLength"].as_u64().unwrap()).unwrap();
        let mut taken = 0;
        for text in &texts {
            let fits = regex.is_match(text) && text.chars().count() <= longest && !is_excepted(&place, &schema, text);
            assert_eq!(fits, takes(&place, text), "{place}: {text:?}");
            taken += usize::from(fits);
        }
        assert!(taken > 5 && taken < texts.len(), "{place}: {taken}");
        patterns += 1;
    }
    assert_eq!(patterns, 27);
}

/// The rules of a schema, with their messages.
fn rules(schema: &Value) -> Vec<(&str, &str)> {
    let rules = schema["x-kubernetes-validations"].as_array().into_iter().flatten();
    rules
        .map(|rule| (rule["rule"].as_str().unwrap(), rule["message"].as_str().unwrap()))
        .collect()
}

#[test]
fn every_rule_says_what_to_write_instead() {
    let mut count = 0;
    for (place, schema) in written() {
        for (rule, message) in rules(&schema) {
            let advises = ["write", "list", "remove", "keep", "name", "take", "let", "leave"];
            let advised = message.split([' ', ':', ',', ';']).any(|word| advises.contains(&word));
            assert!(advised, "{place}: {message}");
            assert!(!rule.contains('\n') && message.len() < 200, "{place}: {rule}");
            count += 1;
        }
    }
    assert!(count > 25, "{count}");
}

/// The words or numbers in the first list of a rule.
fn listed(rule: &str) -> BTreeSet<String> {
    let start = rule.find('[').unwrap() + 1;
    let end = start + rule[start..].find(']').unwrap();
    rule[start..end]
        .split(", ")
        .map(|word| word.trim_matches('\'').to_owned())
        .collect()
}

#[test]
fn the_ports_that_rules_name_are_those_that_the_reader_refuses() {
    let schema = at("services.spec.ports[]");
    let named: BTreeSet<u16> = rules(&schema)
        .iter()
        .flat_map(|(rule, _)| listed(rule))
        .map(|port| port.parse().unwrap())
        .collect();
    let all: Vec<u16> = (1..=u16::MAX).collect();
    let mut refused = BTreeSet::new();
    for ports in all.chunks(bounds::MAX_PORTS) {
        for line in told(1, |service| service["spec"]["ports"] = json!(ports)) {
            let index = line
                .strip_prefix("spec.ports[")
                .and_then(|rest| rest.split(']').next())
                .unwrap();
            refused.insert(ports[index.parse::<usize>().unwrap()]);
        }
    }
    assert_eq!(named, refused);
}

#[test]
fn the_headers_that_rules_name_are_refused_by_the_reader() {
    let schema = at("services.spec.tokenHeader");
    let rules = rules(&schema);
    let (exact, prefixes) = (listed(rules[0].0), listed(rules[1].0));
    for header in exact
        .iter()
        .cloned()
        .chain(prefixes.iter().map(|prefix| format!("{prefix}x")))
    {
        assert!(HeaderName::parse(&header).is_none(), "{header}");
    }
    // And none but them, of what is likely to be tried.
    for header in [
        "authorization",
        "x-capability",
        "x-api-key",
        "proxy-authorization",
        "dpop",
        "x-forward",
        "mcp",
        "hosts",
    ] {
        assert!(HeaderName::parse(header).is_some(), "{header}");
        assert!(!exact.contains(header) && !prefixes.iter().any(|prefix| header.starts_with(prefix.as_str())));
    }
    assert_eq!((exact.len(), prefixes.len()), (20, 6));
}

#[test]
fn names_are_those_of_the_reader() {
    for (plural, takes) in [
        ("agents", (|name| AgentId::parse(name).is_ok()) as fn(&str) -> bool),
        ("services", |name| ServiceId::new("n", name).is_ok()),
    ] {
        assert_eq!(
            rules(&at(plural))[0].0,
            "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')"
        );
        // What Kubernetes takes for a name: labels, joined by dots.
        for name in ["a", "a-7", &"a".repeat(63), &"a".repeat(64), "a.b"] {
            assert_eq!(name.len() <= 63 && !name.contains('.'), takes(name), "{name}");
        }
    }
    let schema = at("services.spec.tools");
    let (rule, _) = rules(&schema)[0];
    let pattern = rule.split("matches('").nth(1).unwrap().split('\'').next().unwrap();
    let regex = Regex::new(pattern).unwrap();
    for text in texts() {
        assert_eq!(
            regex.is_match(&text) && text.len() <= 128,
            ToolName::parse(&text).is_ok(),
            "{text:?}"
        );
    }
}

#[test]
fn a_mistake_that_shows_only_among_others_is_told_in_a_status() {
    for (from, to, teller) in PASSED {
        let seed = SEEDS.iter().find(|seed| (seed.1, seed.2) == (*from, *to));
        let seed = seed.unwrap_or_else(|| panic!("no seed writes {from:?} as {to:?}"));
        if *teller == Teller::Check {
            continue;
        }
        let documents = FILES.map(|(name, text)| match name == seed.0 {
            true => serde_saphyr::from_str::<Value>(&seeded(seed)).unwrap(),
            false => serde_saphyr::from_str(text).unwrap(),
        });
        let mistakes = read_objects(&documents, "cluster.local").unwrap_err();
        let told = mistakes
            .iter()
            .any(|mistake| mistake.message.contains(seed.4) && mistake.advice.contains(seed.5));
        assert!(told, "{to:?}: {mistakes:?}");
    }
}

#[test]
fn the_columns_are_what_people_look_for() {
    let columns = |plural: &str| -> Vec<String> {
        let columns = definition(plural)["spec"]["versions"][0]["additionalPrinterColumns"].clone();
        columns
            .as_array()
            .unwrap()
            .iter()
            .map(|column| column["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        columns("agents"),
        ["Service Account", "Reaches", "Tools", "Ready", "Age", "Message"]
    );
    assert_eq!(
        columns("services"),
        ["Service Account", "Protocol", "Hosts", "Ready", "Age", "Message"]
    );
}
