//! `ostiary decide`: cases from a file in both forms, and one request by flags.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use crate::support::{Run, command, ostiary};
use authz::manifest::{BundleHeader, Manifests};
use authz::policy::PolicyServerClaims;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jwt_simple::claims::JWTClaims;
use jwt_simple::prelude::{Ed25519KeyPair, EdDSAKeyPairLike, HeaderOptions};
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "spiffe://cluster.local/ns/ostiary/sa/policy-server";
const ANALYST: &str = "spiffe://cluster.local/ns/agents/sa/analyst-7";
const WRITER: &str = "spiffe://cluster.local/ns/agents/sa/writer-2";
const WAREHOUSE: &str = "spiffe://cluster.local/ns/data/sa/warehouse";
const MCP: &str = "spiffe://cluster.local/ns/tools/sa/mcp";

/// A key that signs, as jwt-simple does it.
struct Key(Ed25519KeyPair);

impl Key {
    fn new(kid: &str) -> Self {
        Self(Ed25519KeyPair::generate().with_key_id(kid))
    }

    fn jwks(&self) -> Value {
        let jwk: Value = serde_json::from_str(&self.0.public_key().to_jwk()).unwrap();
        json!({ "keys": [jwk] })
    }

    fn sign(&self, typ: &str, payload: &Value) -> String {
        let options = HeaderOptions {
            signature_type: Some(typ.to_owned()),
            ..HeaderOptions::default()
        };
        let claims = JWTClaims {
            issued_at: None,
            expires_at: None,
            invalid_before: None,
            issuer: None,
            subject: None,
            audiences: None,
            jwt_id: None,
            nonce: None,
            custom: payload.clone(),
        };
        self.0.sign_with_options(claims, &options).unwrap()
    }

    /// A token of analyst-7 for one table and one tool.
    fn token(&self) -> String {
        self.sign(
            "cap+jwt",
            &json!({
                "iss": ISSUER, "sub": ANALYST, "aud": [WAREHOUSE, MCP],
                "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
                "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 290, "jti": "AAAAAAAAAAAAAAAAAAAAAA",
                "agent_id": "analyst-7", "operation_id": "report-2026-q1",
                "scope": ["read:data.sales_q1_2026"], "tools": ["pandas"], "forbidden_tools": ["bash"],
            }),
        )
    }
}

fn manifests() -> (Value, [Value; 2]) {
    let agent = json!({
        "apiVersion": "ostiary.dev/v1alpha1", "kind": "Agent",
        "metadata": { "name": "analyst-7", "namespace": "agents" },
        "spec": {
            "serviceAccount": "analyst-7", "tools": ["pandas"], "forbiddenTools": ["bash"],
            "scope": ["read:data.sales_q1_2026"], "reaches": ["warehouse", "mcp"],
            "issuers": ["spiffe://cluster.local/ns/orchestration/sa/orchestrator"],
        },
    });
    let service = |name: &str, namespace: &str, protocol: &str, extra: (&str, Value)| {
        let mut service = json!({
            "apiVersion": "ostiary.dev/v1alpha1", "kind": "Service",
            "metadata": { "name": name, "namespace": namespace },
            "spec": {
                "serviceAccount": name, "hosts": [format!("{name}.{namespace}.svc.cluster.local")],
                "ports": [8080], "protocol": protocol,
            },
        });
        service["spec"][extra.0] = extra.1;
        service
    };
    let routes = json!([{ "method": "GET", "path": "/v1/tables/{table}", "scope": "read:data.{table}" }]);
    let warehouse = service("warehouse", "data", "http", ("routes", routes));
    let mcp = service("mcp", "tools", "mcp", ("tools", json!({ "pandas": {}, "bash": {} })));
    (agent, [warehouse, mcp])
}

/// A folder with `policy/`; JSON is YAML.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy");
    fs::create_dir(&policy).unwrap();
    let (agent, [warehouse, mcp]) = manifests();
    for (name, manifest) in [("analyst-7", agent), ("warehouse", warehouse), ("mcp", mcp)] {
        fs::write(policy.join(format!("{name}.yaml")), manifest.to_string()).unwrap();
    }
    folder
}

/// The case of analyst-7 reading its table.
fn case(id: &str, key: &Key) -> Value {
    json!({
        "id": id, "now": NOW, "side": "inbound", "workload": WAREHOUSE, "peer": ANALYST,
        "request": {
            "method": "GET", "path": "/v1/tables/sales_q1_2026",
            "headers": [["host", "warehouse.data.svc.cluster.local"],
                        ["authorization", format!("Bearer {}", key.token())]],
            "body_base64": "",
        },
        "policy": "policy", "issuers": [{ "iss": ISSUER, "jwks": key.jwks() }],
    })
}

fn with(mut case: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    case.pointer_mut(parent).unwrap()[name] = value;
    case
}

fn decide(folder: &Path, lines: &[String]) -> Run {
    fs::write(folder.join("cases.jsonl"), lines.join("\n")).unwrap();
    ostiary(folder, &["decide", "--cases", "cases.jsonl"])
}

fn verdicts(run: &Run) -> Vec<Value> {
    run.stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn cases_over_files_are_decided() {
    let (folder, key) = (folder(), Key::new("t1"));
    let other = || case("other table", &key);
    let call =
        json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": "bash", "arguments": {} } });
    let mut tool = with(case("tool", &key), "/workload", json!(MCP));
    tool["request"] = json!({
        "method": "POST", "path": "/mcp",
        "headers": [["host", "mcp.tools.svc.cluster.local"], ["content-type", "application/json"],
                    ["accept", "application/json, text/event-stream"],
                    ["authorization", format!("Bearer {}", key.token())]],
        "body_base64": STANDARD.encode(call.to_string()),
    });
    let cases = [
        (case("allowed", &key), "permit", "ok"),
        (
            with(other(), "/request/path", json!("/v1/tables/salaries")),
            "deny",
            "scope_not_granted",
        ),
        (with(other(), "/peer", json!(WRITER)), "deny", "peer_mismatch"),
        (with(other(), "/peer", Value::Null), "deny", "peer_missing"),
        (with(other(), "/now", json!(NOW + 1000)), "deny", "token_expired"),
        (
            with(other(), "/states", json!({ "analyst-7": "paused" })),
            "deny",
            "agent_paused",
        ),
        (
            with(other(), "/revoked", json!(["AAAAAAAAAAAAAAAAAAAAAA"])),
            "deny",
            "token_revoked",
        ),
        (
            with(other(), "/issuers/0/jwks", Key::new("t1").jwks()),
            "deny",
            "token_signature_invalid",
        ),
        (tool, "deny", "tool_forbidden"),
    ];
    let run = decide(folder.path(), &cases.each_ref().map(|(case, ..)| case.to_string()));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let verdicts = verdicts(&run);
    assert_eq!(verdicts.len(), cases.len());
    for (verdict, (_, word, code)) in verdicts.iter().zip(cases) {
        assert_eq!(
            (&verdict["verdict"], &verdict["code"]),
            (&json!(word), &json!(code)),
            "{verdict}"
        );
    }
    assert_eq!(
        verdicts[1],
        json!({
            "id": "other table", "verdict": "deny", "code": "scope_not_granted", "status": 403,
            "needed": { "scope": "read:data.salaries" }, "agent_id": "analyst-7",
            "scope": "read:data.salaries", "tool": null,
        })
    );
}

#[test]
fn signed_cases_are_decided_by_their_signatures() {
    let (folder, key, root) = (folder(), Key::new("t1"), Key::new("b1"));
    let (agent, services) = manifests();
    let manifests = Manifests {
        agents: vec![serde_json::from_value(agent).unwrap()],
        services: services.map(|service| serde_json::from_value(service).unwrap()).into(),
    };
    let bundle = manifests.check("cluster.local").unwrap().compile(
        &WAREHOUSE.to_owned().try_into().unwrap(),
        BundleHeader {
            iss: ISSUER.to_owned().try_into().unwrap(),
            epoch: 1,
            version: 1,
            issued_at: NOW - 5,
            expires_at: NOW + 3600,
            max_state_age_seconds: 60,
            max_token_ttl_seconds: 300,
            issuers: serde_json::from_value(json!([{ "iss": ISSUER, "jwks": key.jwks() }])).unwrap(),
            policy_server: PolicyServerClaims {
                identity: ISSUER.to_owned().try_into().unwrap(),
                hosts: vec!["policy-server.ostiary.svc.cluster.local".to_owned()],
            },
        },
    );
    let state = |issued_at: u64, agents: Value| {
        root.sign(
            "agent-state+jwt",
            &json!({ "format": 1, "iss": ISSUER, "epoch": 1, "version": 1, "issued_at": issued_at,
                     "agents": agents, "not_before": {}, "revoked": {} }),
        )
    };
    let mut signed = case("signed", &key);
    for absent in ["policy", "issuers"] {
        signed.as_object_mut().unwrap().remove(absent);
    }
    signed["bundle"] = json!(root.sign("policy-bundle+jwt", &serde_json::to_value(&bundle).unwrap()));
    signed["state"] = json!(state(NOW - 1, json!({})));
    signed["trust"] = root.jwks();
    let cases = [
        (signed.clone(), "ok"),
        (
            with(signed.clone(), "/state", json!(state(NOW - 61, json!({})))),
            "policy_unavailable",
        ),
        (
            with(
                signed.clone(),
                "/state",
                json!(state(NOW, json!({ "analyst-7": "killed" }))),
            ),
            "agent_killed",
        ),
        (
            with(signed.clone(), "/trust", Key::new("b1").jwks()),
            "policy_unavailable",
        ),
        (with(signed.clone(), "/workload", json!(MCP)), "workload_mismatch"),
        (with(signed, "/request/path", json!("/v1/nothing")), "route_unknown"),
    ];
    let run = decide(folder.path(), &cases.each_ref().map(|(case, _)| case.to_string()));
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let codes: Vec<_> = verdicts(&run).iter().map(|verdict| verdict["code"].clone()).collect();
    assert_eq!(codes, cases.map(|(_, code)| json!(code)));
}

#[test]
fn expectations_are_compared() {
    let (folder, key) = (folder(), Key::new("t1"));
    let met = with(
        case("met", &key),
        "/expect",
        json!({ "verdict": "permit", "agent_id": "analyst-7" }),
    );
    let run = decide(folder.path(), &[met.to_string()]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));

    let missed = with(
        case("missed", &key),
        "/expect",
        json!({ "verdict": "deny", "code": "agent_killed" }),
    );
    let run = decide(folder.path(), &[met.to_string(), missed.to_string()]);
    assert_eq!((run.code, verdicts(&run).len()), (1, 2));
    assert!(
        run.stderr
            .contains("cases.jsonl:2: case `missed`: `code` should be \"agent_killed\", but is \"ok\"")
    );
}

#[test]
fn a_line_that_cannot_be_read_is_named_and_the_others_are_decided() {
    let (folder, key) = (folder(), Key::new("t1"));
    let good = case("good", &key);
    let lines = [
        good.to_string(),
        "{\"id\": 1".to_owned(),
        String::new(),
        with(good.clone(), "/policy", json!("nowhere")).to_string(),
        with(good.clone(), "/expect", json!({ "codes": 1 })).to_string(),
        with(good.clone(), "/surprise", json!(1)).to_string(),
        good.to_string().replacen("\"id\":", "\"id\":\"twice\",\"id\":", 1),
        good.to_string(),
    ];
    let run = decide(folder.path(), &lines);
    assert_eq!((run.code, verdicts(&run).len()), (2, 2));
    for (line, word) in [(2, ""), (4, "`policy`"), (5, "`codes`"), (6, "surprise"), (7, "")] {
        let place = format!("ostiary: cases.jsonl:{line}: ");
        assert!(
            run.stderr
                .lines()
                .any(|told| told.starts_with(&place) && told.contains(word)),
            "{line}: {}",
            run.stderr
        );
    }
    assert_eq!(run.stderr.lines().count(), 5, "{}", run.stderr);
}

#[test]
fn cases_are_answered_one_by_one_as_they_come() {
    let (folder, key) = (folder(), Key::new("t1"));
    let mut child = command(folder.path(), &["decide", "--cases", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    for id in ["first", "second"] {
        writeln!(input, "{}", case(id, &key)).unwrap();
        input.flush().unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let verdict: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&verdict["id"], &verdict["code"]), (&json!(id), &json!("ok")));
    }
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// The flags of analyst-7 reading a table.
fn one(folder: &Path, key: &Key, path: &str, more: &[&str]) -> Run {
    fs::write(folder.join("token"), key.token() + "\n").unwrap();
    fs::write(folder.join("jwks.json"), key.jwks().to_string()).unwrap();
    let now = NOW.to_string();
    let flags = [
        "decide",
        "--policy",
        "policy",
        "--workload",
        WAREHOUSE,
        "--peer",
        ANALYST,
        "--token-file",
        "token",
        "--issuer-jwks",
        "jwks.json",
        "--now",
        &now,
        "--path",
        path,
    ];
    ostiary(folder, &[&flags[..], more].concat())
}

#[test]
fn one_request_is_explained() {
    let (folder, key) = (folder(), Key::new("t1"));
    let run = one(folder.path(), &key, "/v1/tables/sales_q1_2026", &[]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert_eq!(
        run.stdout,
        "permit: the token of `analyst-7` is valid and token and policy both grant `read:data.sales_q1_2026`\n"
    );

    let run = one(folder.path(), &key, "/v1/tables/salaries", &[]);
    assert_eq!((run.code, run.stderr.as_str()), (1, ""));
    for words in [
        "deny: scope_not_granted (403)",
        "scope `read:data.salaries`",
        "ask the issuer for a token with",
    ] {
        assert!(run.stdout.contains(words), "{words}: {}", run.stdout);
    }

    let run = one(
        folder.path(),
        &key,
        "/v1/tables/sales_q1_2026",
        &["--state", "analyst-7=paused"],
    );
    assert!(
        run.code == 1 && run.stdout.contains("agent_paused") && run.stdout.contains("reviewer"),
        "{}",
        run.stdout
    );

    let run = one(
        folder.path(),
        &key,
        "/v1/tables/sales_q1_2026",
        &["--header", "authorization: Bearer x"],
    );
    assert!(
        run.code == 1 && run.stdout.contains("header_duplicate"),
        "{}",
        run.stdout
    );
}

#[test]
fn one_request_is_explained_in_json() {
    let (folder, key) = (folder(), Key::new("t1"));
    let run = one(folder.path(), &key, "/v1/tables/salaries", &["--output", "json"]);
    let answer: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (run.code, &answer["code"], &answer["status"]),
        (1, &json!("scope_not_granted"), &json!(403))
    );
    assert!(answer["rule"].is_string() && answer["remedy"].is_string() && answer["title"].is_string());
}

#[test]
fn a_wrong_policy_is_no_verdict() {
    let (folder, key) = (folder(), Key::new("t1"));
    let file = folder.path().join("policy/warehouse.yaml");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("hosts", "host")).unwrap();
    let run = one(folder.path(), &key, "/v1/tables/sales_q1_2026", &[]);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(
        run.stderr.contains("warehouse.yaml:1:") && run.stderr.contains("`hosts`"),
        "{}",
        run.stderr
    );
}
