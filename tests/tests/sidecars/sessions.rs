//! Sessions of a real MCP server, through both sidecars: the official client keeps one as if nothing stood between, hears what the
//! server says by itself, and nobody else can go on with it, listen to it or end it.

use std::process::Command;

use serde_json::{Value, json};
use tests::built;
use tests::client::{Answer, Call};
use tests::demo::token_request;
use tests::mcp;
use tests::mesh::{Mesh, Options};

const SESSION: &str = "mcp-session-id";

async fn mesh(name: &str, headers_stop_iteration: bool) -> Mesh {
    let options = Options {
        headers_stop_iteration,
        mcp_sessions: true,
        ..Options::only(&["analyst-7", "writer-2", "mcp"])
    };
    Mesh::start(name, &options).await.unwrap()
}

async fn token(mesh: &Mesh, operation: &str) -> String {
    let mut request = token_request();
    request["operation_id"] = json!(operation);
    mesh.token(&request).await.unwrap()
}

/// What the official client makes of the server, by the rules of 2025.
async fn outcome(mesh: &Mesh, token: &str) -> Value {
    let (agent, service) = (mesh.agent("analyst-7").unwrap(), mesh.service("mcp").unwrap());
    let mut command = Command::new(built::python().unwrap());
    command
        .arg(built::mesh_files().join("mcp_client.py"))
        .args([
            "legacy",
            &format!("http://{}/mcp", agent.outbound),
            &service.authority(),
        ])
        .args(["pandas", "updates:matplotlib", "pandas", "bash"])
        .env("TOKEN", token);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"))
}

fn initialize(mesh: &Mesh) -> Call {
    let params = json!({
        "protocolVersion": mcp::LEGACY, "capabilities": {}, "clientInfo": {"name": "harness", "version": "1"},
    });
    mcp::request(
        &mesh.service("mcp").unwrap().authority(),
        mcp::LEGACY,
        "initialize",
        &params,
    )
}

fn call(mesh: &Mesh, id: &str) -> Call {
    let authority = mesh.service("mcp").unwrap().authority();
    mcp::call_tool_legacy(&authority, "pandas", &json!({"expression": "df.head()"})).header(SESSION, id)
}

fn of_session(mesh: &Mesh, method: &'static str, id: &str) -> Call {
    let authority = mesh.service("mcp").unwrap().authority();
    Call::new(method, &authority, "/mcp")
        .header("mcp-protocol-version", mcp::LEGACY)
        .header("accept", "text/event-stream")
        .header(SESSION, id)
}

fn mismatches(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.denial()),
        (404, Some("session_mismatch")),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_openers_alone() {
    for (name, flag) in [("sessions-held", true), ("sessions-ahead", false)] {
        let mesh = mesh(name, flag).await;
        let (own, other) = (
            token(&mesh, "report-2026-q1").await,
            token(&mesh, "report-2026-q2").await,
        );
        let backend = &mesh.service("mcp").unwrap().backend;

        let outcome = outcome(&mesh, &own).await;
        assert_eq!(outcome["pandas"]["text"], "pandas: df.describe()", "{outcome}");
        assert_eq!(outcome["bash"]["data"]["code"], "tool_forbidden", "{outcome}");
        assert_eq!(
            outcome["updates:matplotlib"]["text"], "report://2026q1",
            "by the stream of the session: {outcome}"
        );
        let ended = backend.seen().into_iter().find(|seen| seen.method == "DELETE").unwrap();
        let known = ended.header(SESSION).unwrap().to_owned();
        assert!(!known.contains('.'), "the server sees its own id: {known}");
        assert!(backend.seen_with(SESSION, &known).len() > 4, "{known}");

        let client = mesh.agent("analyst-7").unwrap().client();
        let opened = client.send(initialize(&mesh).bearer(&own)).await.unwrap();
        let sealed = opened.header(SESSION).unwrap().to_owned();
        let (_, id) = sealed.split_once('.').unwrap();
        // New connections, and so any of the workers.
        for _ in 0..8 {
            let answer = client.send(call(&mesh, &sealed).bearer(&own)).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        let before = backend.seen().len();
        for (token, id) in [(&other, &*sealed), (&own, id), (&own, &known)] {
            mismatches(&client.send(call(&mesh, id).bearer(token)).await.unwrap());
            for method in ["GET", "DELETE"] {
                mismatches(&client.send(of_session(&mesh, method, id).bearer(token)).await.unwrap());
            }
        }
        // Another agent, that has stolen the id and may call the server itself.
        let stranger = mesh.direct("mcp", "writer-2").unwrap();
        let answer = stranger.send(call(&mesh, &sealed).bearer(&own)).await.unwrap();
        assert_eq!(answer.denial(), Some("peer_mismatch"), "{answer:?}");
        assert_eq!(backend.seen().len(), before, "nothing of it reached the server");

        let resumed = of_session(&mesh, "GET", &sealed).header("last-event-id", "1");
        let answer = client.send(resumed.bearer(&own)).await.unwrap();
        assert_eq!(answer.denial(), Some("method_not_allowed"), "{answer:?}");

        let answer = client
            .send(of_session(&mesh, "DELETE", &sealed).bearer(&own))
            .await
            .unwrap();
        assert!(answer.status < 300 && answer.denial().is_none(), "{answer:?}");
        let answer = client.send(call(&mesh, &sealed).bearer(&own)).await.unwrap();
        assert_eq!(
            (answer.status, answer.denial()),
            (404, None),
            "the server has forgotten it: {answer:?}"
        );
    }
}
