//! Denials in the mesh: their form, and the same code in the response, in a metric and in the record.

use std::process::Command;
use std::time::Duration;

use policy_server::store::Store as _;
use policy_server::store::sqlite::SqliteStore;
use serde_json::{Value, json};
use tests::client::{Answer, Call, Client};
use tests::demo::token_request;
use tests::envoy::Envoy;
use tests::mesh::{Mesh, Options};
use tests::{built, mcp, wait};

/// A denial to provoke: at which sidecar, by what, and what is expected.
struct Case<'a> {
    side: &'static str,
    envoy: &'a Envoy,
    client: Client,
    call: Call,
    status: u16,
    code: &'static str,
    /// The scope that a challenge must name.
    scope: Option<&'static str>,
    /// Whether the denial is recorded in the chain by itself, or counted with others of its kind.
    bound: bool,
}

#[tokio::test(flavor = "multi_thread")]
async fn response_metric_and_record_say_the_same() {
    let mesh = Mesh::start(
        "denials",
        &Options::only(&["analyst-7", "writer-2", "warehouse", "mcp"]),
    )
    .await
    .unwrap();
    let token = mesh.token(&token_request()).await.unwrap();
    for case in cases(&mesh, &token) {
        let metric = format!(
            "wasmcustom.ostiary_decisions.side.{}.verdict.deny.code.{}",
            case.side, case.code
        );
        let before = case.envoy.stat(&metric).await.unwrap();
        let answer = case.client.send(case.call.clone()).await.unwrap();
        assert_form(&case, &answer);
        let counted = wait::until(&metric, Duration::from_secs(5), async || {
            (case.envoy.stat(&metric).await.ok()? == before + 1).then_some(())
        });
        counted.await.unwrap();
        let recorded = wait::until(case.code, Duration::from_secs(5), async || {
            let last = case
                .envoy
                .records()
                .into_iter()
                .rev()
                .find(|record| record["code"] == case.code)?;
            (last["verdict"] == "deny" && last["side"] == case.side).then_some(last)
        });
        let record = recorded.await.unwrap();
        if case.bound {
            assert_eq!(record["agent_id"], "analyst-7", "{record}");
            arrives(&mesh, &record).await;
        } else {
            assert!(
                record.get("agent_id").is_none(),
                "what a token claims that is not bound is not recorded: {record}"
            );
        }
    }
}

fn cases<'a>(mesh: &'a Mesh, token: &str) -> Vec<Case<'a>> {
    let (agent, writer) = (mesh.agent("analyst-7").unwrap(), mesh.agent("writer-2").unwrap());
    let (warehouse, tools) = (mesh.service("warehouse").unwrap(), mesh.service("mcp").unwrap());
    let direct = |service, name| mesh.direct(service, name).unwrap();
    let table = |table: &str| Call::new("GET", &warehouse.authority(), &format!("/v1/tables/{table}"));
    let tool = |name: &str| mcp::call_tool(&tools.authority(), name, &json!({})).bearer(token);
    let case = |side, envoy, client, call, status, code, scope, bound| Case {
        side,
        envoy,
        client,
        call,
        status,
        code,
        scope,
        bound,
    };
    let salaries = Some("read:data.hr_salaries");
    let denied = table("hr_salaries").bearer(token);
    let own = agent.client();
    vec![
        case(
            "outbound",
            &agent.envoy,
            own.clone(),
            denied.clone(),
            403,
            "scope_not_granted",
            salaries,
            true,
        ),
        case(
            "inbound",
            &warehouse.envoy,
            direct("warehouse", "analyst-7"),
            denied,
            403,
            "scope_not_granted",
            salaries,
            true,
        ),
        case(
            "outbound",
            &agent.envoy,
            own.clone(),
            tool("bash"),
            403,
            "tool_forbidden",
            None,
            true,
        ),
        case(
            "inbound",
            &tools.envoy,
            direct("mcp", "analyst-7"),
            tool("bash"),
            403,
            "tool_forbidden",
            None,
            true,
        ),
        case(
            "inbound",
            &tools.envoy,
            direct("mcp", "analyst-7"),
            tool("no_such"),
            403,
            "tool_not_offered",
            None,
            true,
        ),
        case(
            "outbound",
            &agent.envoy,
            own,
            table("x"),
            401,
            "token_missing",
            None,
            false,
        ),
        case(
            "inbound",
            &warehouse.envoy,
            direct("warehouse", "writer-2"),
            table("x").bearer(token),
            403,
            "peer_mismatch",
            None,
            false,
        ),
        case(
            "outbound",
            &writer.envoy,
            writer.client(),
            table("x").bearer("a.b.c"),
            401,
            "token_malformed",
            None,
            false,
        ),
    ]
}

fn assert_form(case: &Case<'_>, answer: &Answer) {
    let (body, code) = (answer.json(), case.code);
    assert_eq!((answer.status, answer.denial()), (case.status, Some(code)), "{body}");
    let challenge = answer.header("www-authenticate").unwrap();
    assert!(challenge.starts_with("Bearer realm="), "{challenge}");
    if let Some(scope) = case.scope {
        assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
        assert!(challenge.contains(&format!("scope=\"{scope}\"")), "{challenge}");
        assert_eq!(body["needed"]["scope"], scope);
    }
    let problem = if case.call.path == "/mcp" {
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!((&body["jsonrpc"], &body["id"]), (&json!("2.0"), &json!(1)));
        assert_eq!(body["error"]["code"], -(31_000 + i64::from(case.status)));
        &body["error"]["data"]
    } else {
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(body["type"], format!("https://ostiary.dev/denials#{code}"));
        assert_eq!(body["status"], case.status);
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        &body
    };
    assert_eq!(problem["code"], code);
    let text = body.to_string();
    for secret in ["writer-2", "2026q2", "matplotlib", "issuers"] {
        assert!(!text.contains(secret), "a denial tells of others: {text}");
    }
}

/// A record of a chain that is in the access log comes to the policy server, with its hash.
async fn arrives(mesh: &Mesh, record: &Value) {
    let store = SqliteStore::open(&mesh.run.file("policy-server/ostiary.db"))
        .await
        .unwrap();
    let (source, seq) = (record["source"].as_str().unwrap(), record["seq"].as_u64().unwrap());
    let stored = wait::until("the record at the policy server", Duration::from_secs(10), async || {
        store.records(source, seq, 1).await.ok()?.into_iter().next()
    });
    let stored: Value = serde_json::from_slice(&stored.await.unwrap().canonical).unwrap();
    assert_eq!(stored, *record, "access log and policy server have the same record");
}

/// The official client, of both eras of the protocol, through the agent's sidecar.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_mcp_client_works_and_is_told_why_not() {
    let mesh = Mesh::start("mcp", &Options::only(&["analyst-7", "mcp"])).await.unwrap();
    let token = mesh.token(&token_request()).await.unwrap();
    let (agent, service) = (mesh.agent("analyst-7").unwrap(), mesh.service("mcp").unwrap());
    for mode in ["auto", "legacy"] {
        let mut command = Command::new(built::python().unwrap());
        command
            .arg(built::mesh_files().join("mcp_client.py"))
            .args([mode, &format!("http://{}/mcp", agent.outbound)]);
        command
            .arg(service.authority())
            .args(["pandas", "bash", "http"])
            .env("TOKEN", &token);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let outcome: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{mode}: {stderr}"));
        assert_eq!(outcome["listed"], json!(["matplotlib", "pandas"]), "{mode}: {outcome}");
        assert_eq!(outcome["pandas"]["text"], "pandas: df.describe()", "{mode}: {outcome}");
        for tool in ["bash", "http"] {
            assert_eq!(
                outcome[tool]["data"]["code"], "tool_forbidden",
                "{mode}: {outcome} {stderr}"
            );
        }
    }
    let called = service
        .backend
        .seen()
        .into_iter()
        .filter(|seen| seen.body.starts_with(b"{"));
    let named: Vec<Value> = called
        .filter_map(|seen| serde_json::from_slice(&seen.body).ok())
        .collect();
    assert!(named.iter().any(|call| call["params"]["name"] == "pandas"));
    assert!(
        !named.iter().any(|call| call["params"]["name"] == "bash"),
        "the server never heard of it"
    );
}
