//! A real MCP server tells of a tool otherwise than its service's file pins it: no agent is told, nobody calls it, and an
//! auditor reads of it.

use std::collections::BTreeMap;
use std::time::Duration;

use authz::definition::DefinitionDigest;
use authz::identity::ToolName;
use authz::protocol::list;
use serde_json::json;
use tests::client::{Call, Client};
use tests::demo::token_request;
use tests::mesh::{Mesh, Options};
use tests::{mcp, wait};

use crate::witnesses::findings;

const LIMIT: Duration = Duration::from_secs(60);

/// Another digest than any tool's.
const OTHER: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

fn list(mesh: &Mesh) -> Call {
    let authority = mesh.service("mcp").unwrap().authority();
    mcp::request(&authority, mcp::LEGACY, "tools/list", &json!({}))
}

/// What the application itself tells, past its sidecar: what a person would read and pin.
async fn definitions(mesh: &Mesh) -> BTreeMap<ToolName, DefinitionDigest> {
    let application = Client::unix(mesh.service("mcp").unwrap().backend.socket());
    let answer = application.send(list(mesh)).await.unwrap();
    list::definitions(&answer.body).unwrap()
}

/// The tools that the agent is told of, by whichever workers it meets.
async fn told(mesh: &Mesh, token: &str) -> Vec<String> {
    let client = mesh.agent("analyst-7").unwrap().client();
    let answer = client.send(list(mesh).bearer(token)).await.unwrap();
    let tools = answer.json().pointer("/result/tools").cloned().unwrap_or_default();
    let tools = tools.as_array().into_iter().flatten();
    tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_is_not_what_was_pinned_is_neither_told_of_nor_called() {
    let mesh = Mesh::start("definitions", &Options::only(&["analyst-7", "mcp"]))
        .await
        .unwrap();
    let token = mesh.token(&token_request()).await.unwrap();
    let pinned = definitions(&mesh).await[&"pandas".parse::<ToolName>().unwrap()];
    assert_eq!(told(&mesh, &token).await, ["pandas", "matplotlib"]);

    let file = mesh.policy.join("service-mcp.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("pandas: {}", &format!("pandas: {{ definition: \"{pinned}\" }}"));
    let text = text.replace("matplotlib: {}", &format!("matplotlib: {{ definition: \"{OTHER}\" }}"));
    std::fs::write(&file, format!("{}\n  onDrift: deny\n", text.trim_end())).unwrap();
    let mut without = 0;
    wait::until("no worker to tell of it", LIMIT, async || {
        let told = told(&mesh, &token).await;
        assert!(told.contains(&"pandas".to_owned()), "{told:?}");
        without = if told == ["pandas"] { without + 1 } else { 0 };
        (without >= 40).then_some(())
    })
    .await
    .unwrap();

    let authority = mesh.service("mcp").unwrap().authority();
    let client = mesh.agent("analyst-7").unwrap().client();
    let call = |tool| mcp::call_tool_legacy(&authority, tool, &json!({})).bearer(&token);
    // Each worker denies once it has seen a list itself.
    let mut denied = 0;
    wait::until("every worker to deny its calls", LIMIT, async || {
        assert_eq!(told(&mesh, &token).await, ["pandas"]);
        assert_eq!(client.send(call("pandas")).await.ok()?.status, 200);
        let answer = client.send(call("matplotlib")).await.ok()?;
        let is_denied = (answer.status, answer.denial()) == (403, Some("tool_drifted"));
        denied = if is_denied { denied + 1 } else { 0 };
        (denied >= 16).then_some(())
    })
    .await
    .unwrap();
    let finding = wait::until("the finding", LIMIT, async || {
        let told = findings(&mesh).await;
        let mut findings = told["findings"].as_array().unwrap().iter();
        findings.find(|finding| finding["kind"] == "drifted").cloned()
    });
    let finding = finding.await.unwrap();
    assert_eq!(finding["service"], "tools/mcp");
    assert!(finding["why"].as_str().unwrap().ends_with("`matplotlib`"), "{finding}");
}
