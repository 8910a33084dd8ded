//! Tasks of a real MCP server, through both sidecars: the official client opens one, answers what it asks and takes what comes of
//! it as if nothing stood between; and nobody else can ask for it, cancel it, answer for it or list what there is.

use serde_json::{Value, json};
use tests::built;
use tests::client::{Answer, Call, Client};
use tests::mcp;
use tests::mesh::{EVERYTHING, Mesh, Options};

const SESSION: &str = "mcp-session-id";
const TOOL: &str = "test_task";
const RELATED: &str = "io.modelcontextprotocol/related-task";

async fn mesh(name: &str, headers_stop_iteration: bool) -> Mesh {
    let options = Options {
        headers_stop_iteration,
        everything: true,
        ..Options::only(&["analyst-7", EVERYTHING])
    };
    Mesh::start(name, &options).await.unwrap()
}

async fn token(mesh: &Mesh, operation: &str) -> String {
    let token = json!({"agent_id": "analyst-7", "operation_id": operation, "tools": [TOOL]});
    mesh.token(&token).await.unwrap()
}

/// What the official client makes of the server.
async fn outcome(mesh: &Mesh, token: &str) -> Value {
    let mut command = built::node("client.mjs").unwrap();
    let url = format!(
        "http://localhost:{}/mcp",
        mesh.service(EVERYTHING).unwrap().address.port()
    );
    command.args([&url, &format!("task:{TOOL}")]);
    built::lead(&mut command, mesh.agent("analyst-7").unwrap().outbound, token);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{stderr}"))
}

/// A caller with a session of its own.
struct Caller<'a> {
    mesh: &'a Mesh,
    client: Client,
    token: String,
    session: String,
}

impl<'a> Caller<'a> {
    async fn new(mesh: &'a Mesh, operation: &str) -> Self {
        let mut caller = Self {
            mesh,
            client: mesh.agent("analyst-7").unwrap().client(),
            token: token(mesh, operation).await,
            session: String::new(),
        };
        let params = json!({
            "protocolVersion": mcp::LEGACY, "capabilities": {"elicitation": {}}, "clientInfo": {"name": "harness", "version": "1"},
        });
        let opened = caller.ask("initialize", &params).await;
        caller.session = opened.header(SESSION).unwrap().to_owned();
        caller
    }

    async fn ask(&self, method: &str, params: &Value) -> Answer {
        let authority = self.mesh.service(EVERYTHING).unwrap().authority();
        self.send(mcp::request(&authority, mcp::LEGACY, method, params)).await
    }

    async fn send(&self, call: Call) -> Answer {
        let call = match &*self.session {
            "" => call,
            session => call.header(SESSION, session),
        };
        self.client.send(call.bearer(&self.token)).await.unwrap()
    }
}

/// An answer to a question of the server's that is part of a task.
fn reply(authority: &str, id: &str) -> Call {
    let result = json!({"action": "accept", "_meta": {RELATED: {"taskId": id}}});
    let call = Call::new("POST", authority, "/mcp").header("accept", "application/json, text/event-stream");
    call.header("mcp-protocol-version", mcp::LEGACY)
        .json(&json!({"jsonrpc": "2.0", "id": 0, "result": result}))
}

/// The message that an answer brings as an event.
fn message(answer: &Answer) -> Value {
    let text = String::from_utf8_lossy(&answer.body);
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let mut messages = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
    messages.next_back().unwrap_or_else(|| panic!("{answer:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_its_openers_alone() {
    for (name, flag) in [("tasks-held", true), ("tasks-ahead", false)] {
        let mesh = mesh(name, flag).await;
        let backend = &mesh.service(EVERYTHING).unwrap().backend;

        let outcome = outcome(&mesh, &token(&mesh, "report-2026-q1").await).await;
        let task = &outcome[format!("task:{TOOL}")];
        assert_eq!(
            task["text"], "action=accept, content={\"username\":\"ada\"}",
            "{outcome}"
        );
        assert_eq!(task["last"], "completed", "{outcome}");
        let id = task["id"].as_str().unwrap();
        let (seal, known) = id.split_once('.').unwrap();
        assert_eq!(seal.len(), 22, "{id}");
        assert_eq!(
            task["related"],
            json!([id, id]),
            "what is part of it says so as the client knows it: {outcome}"
        );
        let seen: Vec<_> = backend
            .seen()
            .into_iter()
            .map(|seen| String::from_utf8_lossy(&seen.body).into_owned())
            .collect();
        assert!(!seen.iter().any(|body| body.contains(id)), "the server sees its own id");
        let named = seen.iter().filter(|body| body.contains(known));
        assert!(named.count() >= 4, "get, result, an answer of the client's, and again");

        let own = Caller::new(&mesh, "report-2026-q1").await;
        let opened = own
            .ask(
                "tools/call",
                &json!({"name": TOOL, "arguments": {}, "task": {"ttl": 60_000}}),
            )
            .await;
        let task = message(&opened)["result"]["task"]["taskId"]
            .as_str()
            .unwrap()
            .to_owned();
        let (_, known) = task.split_once('.').unwrap();
        // New connections, and so any of the workers.
        for _ in 0..4 {
            let got = own.ask("tasks/get", &json!({"taskId": task})).await;
            assert_eq!(message(&got)["result"]["taskId"], json!(task), "{got:?}");
        }

        let other = Caller::new(&mesh, "report-2026-q2").await;
        let before = backend.seen().len();
        for (caller, id) in [(&other, &*task), (&own, known), (&own, "t-1")] {
            for method in ["tasks/get", "tasks/result", "tasks/cancel", "tasks/update"] {
                let answer = caller.ask(method, &json!({"taskId": id})).await;
                assert_eq!(
                    (answer.status, answer.denial(), &answer.json()["error"]["code"]),
                    (403, Some("mcp_task_mismatch"), &json!(-32_602)),
                    "{method}: {answer:?}"
                );
            }
            // What the server would put into the task's own queue of messages.
            let part = json!({"name": TOOL, "arguments": {}, "_meta": {RELATED: {"taskId": id}}});
            let answer = caller.ask("tools/call", &part).await;
            assert_eq!(answer.denial(), Some("mcp_task_mismatch"), "{answer:?}");
            let authority = mesh.service(EVERYTHING).unwrap().authority();
            let answer = caller.send(reply(&authority, id)).await;
            assert_eq!(answer.denial(), Some("mcp_task_mismatch"), "{answer:?}");
        }
        let answer = own.ask("tasks/list", &json!({})).await;
        assert_eq!(answer.denial(), Some("task_refused"), "{answer:?}");
        assert_eq!(backend.seen().len(), before, "nothing of it reached the server");

        let cancelled = own.ask("tasks/cancel", &json!({"taskId": task})).await;
        let result = &message(&cancelled)["result"];
        assert_eq!(
            (&result["taskId"], &result["status"]),
            (&json!(task), &json!("cancelled"))
        );
    }
}
