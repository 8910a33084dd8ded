//! Clients that nobody here has written, through both sidecars: MCP's official one for Rust, and large files over WebDAV, as
//! streams. Those for Python and TypeScript are in `lists.rs`, `calls.rs` and `conformance.rs`.

use std::process::Command;

use rmcp::ServiceExt as _;
use rmcp::model::{CallToolRequestParams, GetPromptRequestParams, ReadResourceRequestParams};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::{Value, json};
use tests::built;
use tests::mesh::{ARCHIVE, EVERYTHING, Mesh, Options};

/// More than any part on the way holds.
const MEBIBYTES: usize = 32;

async fn mesh(name: &str) -> Mesh {
    let options = Options {
        everything: true,
        ..Options::only(&["analyst-7", EVERYTHING, ARCHIVE])
    };
    Mesh::start(name, &options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_for_rust_uses_what_it_may_use() {
    let mesh = mesh("clients-rmcp").await;
    let tools = ["test_simple_text", "test_tool_with_progress"];
    let token = json!({"agent_id": "analyst-7", "operation_id": "report-2026-q1", "tools": tools});
    let token = mesh.token(&token).await.unwrap();
    let service = mesh.service(EVERYTHING).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    // It connects to its sidecar, as in a pod whatever the URL, and names the service.
    let host = [(reqwest::header::HOST, service.authority().parse().unwrap())];
    let http = reqwest::Client::builder().default_headers(host.into_iter().collect());
    let url = format!("http://{}/mcp", mesh.agent("analyst-7").unwrap().outbound);
    let config = StreamableHttpClientTransportConfig::with_uri(url).auth_header(&token);
    let transport = StreamableHttpClientTransport::with_client(http.build().unwrap(), config);
    let client = ().serve(transport).await.unwrap();

    let listed = client.list_all_tools().await.unwrap();
    let listed: Vec<_> = listed.iter().map(|tool| &*tool.name).collect();
    assert_eq!(listed, tools, "it is told of what its token grants");
    for tool in tools {
        let result = client.call_tool(CallToolRequestParams::new(tool)).await.unwrap();
        assert!(!result.content.is_empty(), "{tool}: {result:?}");
    }
    let read = ReadResourceRequestParams::new("test://static-text");
    assert!(!client.read_resource(read).await.unwrap().contents.is_empty());
    let prompt = GetPromptRequestParams::new("test_simple_prompt");
    assert!(!client.get_prompt(prompt).await.unwrap().messages.is_empty());
    let refused = client.call_tool(CallToolRequestParams::new("test_image_content")).await;
    let refused = format!("{:?}", refused.unwrap_err());
    assert!(
        refused.contains("InsufficientScope"),
        "as `WWW-Authenticate` says: {refused}"
    );
    client.cancel().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webdav_client_streams_a_file_up_and_down() {
    let mesh = mesh("clients-dav").await;
    let (agent, archive) = (mesh.agent("analyst-7").unwrap(), mesh.service(ARCHIVE).unwrap());
    let scope = ["q1", "q2", "q3"].map(|file| [format!("read:archive.{file}"), format!("write:archive.{file}")]);
    let scope = scope.concat();
    let token = json!({"agent_id": "analyst-7", "operation_id": "report-2026-q1", "scope": scope});
    let token = mesh.token(&token).await.unwrap();
    let mut client = Command::new(built::python().unwrap());
    client
        .arg(built::mesh_files().join("dav_client.py"))
        .args([agent.outbound.to_string(), format!("http://{}", archive.authority())])
        .arg(MEBIBYTES.to_string())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TOKEN", &token);
    let output = tokio::task::spawn_blocking(move || client.output())
        .await
        .unwrap()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"));
    for step in ["put", "get", "copy", "move", "remove"] {
        assert_eq!(outcome[step], Value::Null, "{step}: {outcome}");
    }
    assert_eq!(outcome["info"], MEBIBYTES << 20, "{outcome}");
    assert_eq!(outcome["same"], true, "what came down is what went up: {outcome}");
    for step in ["copied", "moved"] {
        assert_eq!(outcome[step], MEBIBYTES << 20, "{step}: {outcome}");
    }
    for step in ["another's", "copy to another's", "move to another's"] {
        let refused = outcome[step]["error"].as_str().unwrap_or_default();
        assert!(
            refused.contains("403") || refused.contains("Forbidden"),
            "{step}: {outcome}"
        );
    }
    let seen = archive.backend.seen();
    assert!(
        seen.iter().all(|seen| !seen.path.starts_with("/secrets")),
        "the application is not asked"
    );
    let destinations = seen.iter().filter_map(|seen| seen.header("destination"));
    let elsewhere = destinations.filter(|destination| !destination.contains("/archive/"));
    assert_eq!(elsewhere.count(), 0, "nor is it told to write there");
    let put = seen.iter().find(|seen| seen.method == "PUT").unwrap();
    assert_eq!(put.header("transfer-encoding"), Some("chunked"));
    assert!(seen.iter().all(|seen| seen.header("authorization").is_none()));
}
