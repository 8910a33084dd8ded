//! An agent sees in a real MCP server's lists what it may use, through its own sidecar and the service's, and nothing else.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tests::client::Call;
use tests::demo::token_request;
use tests::mesh::{Mesh, Options};
use tests::{built, mcp, wait};

/// What the MCP server has beside tools, as its service's file would say.
const OFFERED: &str = r#"
  prompts: { summary: {}, audit: {} }
  resources:
    "report://2026q1": {}
    "report://2026q2": {}
    "table://sales/{table}": { scope: "read:data.{table}" }
    "table://staff/{table}": { scope: "read:data.{table}" }
"#;

/// What of it `analyst-7` may use.
const GRANTED: &str = r#"
  prompts: [summary]
  resources: ["report://2026q1", "table://sales/{table}"]
"#;

/// A mesh whose files say so.
async fn mesh(name: &str, headers_stop_iteration: bool) -> (Mesh, String) {
    let options = Options {
        headers_stop_iteration,
        ..Options::only(&["analyst-7", "mcp"])
    };
    let mesh = Mesh::start(name, &options).await.unwrap();
    let add = |file: &str, text: &str| {
        let path = mesh.policy.join(file);
        let whole = format!("{}{text}", std::fs::read_to_string(&path).unwrap().trim_end());
        std::fs::write(path, whole).unwrap();
    };
    add("service-mcp.yaml", OFFERED);
    add("agent-analyst-7.yaml", GRANTED);
    let token = mesh.token(&token_request()).await.unwrap();
    // Every worker of both sidecars has the new files when none denies the prompt any more.
    let (agent, authority) = (
        mesh.agent("analyst-7").unwrap(),
        mesh.service("mcp").unwrap().authority(),
    );
    let mut permitted = 0;
    wait::until("the prompt to be granted", Duration::from_secs(60), async || {
        let call = mcp::request(&authority, mcp::LEGACY, "prompts/get", &json!({"name": "summary"}));
        let answer = agent.client().send(call.bearer(&token)).await.ok()?;
        permitted = if answer.denial().is_none() { permitted + 1 } else { 0 };
        (permitted >= 40).then_some(())
    })
    .await
    .unwrap();
    (mesh, token)
}

/// What the official client makes of it.
async fn outcome(mesh: &Mesh, mode: &str, token: &str) -> Value {
    let (agent, service) = (mesh.agent("analyst-7").unwrap(), mesh.service("mcp").unwrap());
    let mut command = Command::new(built::python().unwrap());
    command
        .arg(built::mesh_files().join(Path::new("mcp_client.py")))
        .args([mode, &format!("http://{}/mcp", agent.outbound), &service.authority()])
        .args([
            "pandas",
            "bash",
            "prompt:summary",
            "prompt:audit",
            "report://2026q1",
            "report://2026q2",
        ])
        .args([
            "table://sales/sales_q1_2026",
            "table://sales/payroll",
            "table://staff/sales_q1_2026",
        ])
        .env("TOKEN", token);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{mode}: {stderr}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_is_told_of_what_it_may_use() {
    for (name, flag) in [("lists-held", true), ("lists-ahead", false)] {
        let (mesh, token) = mesh(name, flag).await;
        for mode in ["auto", "legacy"] {
            let outcome = outcome(&mesh, mode, &token).await;
            assert_eq!(
                outcome["listed"],
                json!(["matplotlib", "pandas"]),
                "{name} {mode}: {outcome}"
            );
            assert_eq!(outcome["prompts"], json!(["summary"]), "{name} {mode}");
            assert_eq!(outcome["resources"], json!(["report://2026q1"]), "{name} {mode}");
            assert_eq!(outcome["templates"], json!(["table://sales/{table}"]), "{name} {mode}");
            for (used, text) in [
                ("pandas", "pandas: df.describe()"),
                ("prompt:summary", "Write a short summary."),
                ("report://2026q1", "Sales rose."),
                ("table://sales/sales_q1_2026", "rows of sales_q1_2026"),
            ] {
                assert_eq!(outcome[used]["text"], text, "{name} {mode}: {outcome}");
            }
            for (refused, code) in [
                ("bash", "tool_forbidden"),
                ("prompt:audit", "prompt_not_in_policy"),
                ("report://2026q2", "resource_not_in_policy"),
                ("table://sales/payroll", "scope_not_granted"),
                ("table://staff/sales_q1_2026", "resource_not_in_policy"),
            ] {
                assert_eq!(outcome[refused]["data"]["code"], code, "{name} {mode}: {outcome}");
            }
        }
        typescript(&mesh, &token).await;
        told_by_one_sidecar(&mesh, &token).await;
    }
}

/// The client for TypeScript is told the same, and learns of a denial why.
async fn typescript(mesh: &Mesh, token: &str) {
    let url = format!("http://{}/mcp", mesh.service("mcp").unwrap().authority());
    let mut client = built::node("client.mjs").unwrap();
    client
        .args([&url, "pandas", "bash", "prompt:summary", "prompt:audit"])
        .args([
            "report://2026q1",
            "table://sales/sales_q1_2026",
            "table://sales/payroll",
        ]);
    built::lead(&mut client, mesh.agent("analyst-7").unwrap().outbound, token);
    let output = tokio::task::spawn_blocking(move || client.output())
        .await
        .unwrap()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
    assert_eq!(outcome["tools"], json!(["matplotlib", "pandas"]), "{outcome}");
    assert_eq!(outcome["prompts"], json!(["summary"]));
    assert_eq!(outcome["resources"], json!(["report://2026q1"]));
    assert_eq!(outcome["templates"], json!(["table://sales/{table}"]));
    for (used, text) in [
        ("pandas", "pandas: df.describe()"),
        ("prompt:summary", "Write a short summary."),
        ("report://2026q1", "Sales rose."),
        ("table://sales/sales_q1_2026", "rows of sales_q1_2026"),
    ] {
        assert_eq!(outcome[used]["text"], text, "{outcome}");
    }
    for (refused, code) in [
        ("bash", "tool_forbidden"),
        ("prompt:audit", "prompt_not_in_policy"),
        ("table://sales/payroll", "scope_not_granted"),
    ] {
        let error = outcome[refused]["error"].as_str().unwrap_or_default();
        assert!(error.contains(code), "{refused}: {outcome}");
    }
}

/// The service's own sidecar alone filters too, in both forms that the server answers in, and marks what it tells as the
/// caller's own.
async fn told_by_one_sidecar(mesh: &Mesh, token: &str) {
    let authority = mesh.service("mcp").unwrap().authority();
    let client = mesh.direct("mcp", "analyst-7").unwrap();
    let list = |version: &str| {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientInfo": {"name": "harness", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let call: Call = mcp::request(&authority, version, "tools/list", &json!({ "_meta": meta }));
        call.header("mcp-method", "tools/list")
            .header("accept-encoding", "gzip, br")
            .bearer(token)
    };
    let answer = client.send(list(mcp::MODERN)).await.unwrap();
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    assert_eq!(answer.headers["cache-control"], "private, no-store");
    assert!(text.contains("\"pandas\"") && text.contains("\"matplotlib\""), "{text}");
    assert!(text.contains("\"cacheScope\":\"private\""), "{text}");
    for hidden in ["bash", "http", "sql_query"] {
        assert!(!text.contains(&format!("\"{hidden}\"")), "{hidden}: {text}");
    }
    let seen = mesh.service("mcp").unwrap().backend.seen();
    let listed = seen
        .iter()
        .rfind(|seen| seen.header("mcp-method") == Some("tools/list"));
    let asked = listed.unwrap().header("accept-encoding");
    assert_eq!(asked, None, "the server is not asked to encode what is read");
}
