//! One agent calls another with the official A2A SDK, through its own sidecar and the other's: over JSON-RPC and REST, of 1.0
//! and 0.3, as one answer and as a stream.

use std::process::Command;

use serde_json::{Value, json};
use tests::backends::Seen;
use tests::built;
use tests::client::Call;
use tests::demo::Stage as _;
use tests::mesh::{CALLED, Mesh, Options};

/// What leaves tasks to the application.
const BY_APPLICATION: &str = "  tasks: application\n  forwardClaims: true\n";

async fn mesh(name: &str, lines: &'static str) -> Mesh {
    let options = Options {
        called: Some(lines),
        ..Options::only(&["analyst-7", "writer-2", CALLED])
    };
    Mesh::start(name, &options).await.unwrap()
}

/// A token of an agent, with these scopes.
async fn token(mesh: &Mesh, agent: &str, scope: &[&str]) -> String {
    let body = json!({"agent_id": agent, "operation_id": "report-2026-q1", "scope": scope});
    mesh.token(&body).await.unwrap()
}

/// What the official client makes of it.
async fn outcome(mesh: &Mesh, agent: &str, (binding, version): (&str, &str), token: &str, others: &[&str]) -> Value {
    let url = format!("http://{}", mesh.service(CALLED).unwrap().authority());
    let mut command = Command::new(built::python().unwrap());
    command
        .arg(built::mesh_files().join("a2a_client.py"))
        .args([binding, version, &mesh.agent(agent).unwrap().outbound.to_string(), &url])
        .args(others)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TOKEN", token);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{binding} {version}: {stderr}"))
}

/// What has reached the agent, but for the probe that waits until it serves.
fn reached(mesh: &Mesh) -> Vec<Seen> {
    let seen = mesh.service(CALLED).unwrap().backend.seen();
    seen.into_iter().filter(|seen| seen.path != "/healthz").collect()
}

const BINDINGS: [(&str, &str); 4] = [
    ("JSONRPC", "1.0"),
    ("HTTP+JSON", "1.0"),
    ("JSONRPC", "0.3"),
    ("HTTP+JSON", "0.3"),
];

/// The steps that open tasks of their own, which pass whoever holds tasks.
fn opened(outcome: &Value, at: (&str, &str)) {
    assert_eq!(outcome["card"]["name"], "scribe", "{at:?}: {outcome}");
    assert_eq!(
        outcome["extended"]["name"], "scribe, to those it knows",
        "{at:?}: {outcome}"
    );
    for step in ["answer", "stream"] {
        assert_eq!(
            outcome[step]["words"],
            json!(["Sales", "rose."]),
            "{at:?} {step}: {outcome}"
        );
        assert_eq!(
            outcome[step]["state"], "TASK_STATE_COMPLETED",
            "{at:?} {step}: {outcome}"
        );
    }
    let events = outcome["stream"]["events"].as_array().unwrap();
    assert!(events.len() > 3, "{at:?}: the stream comes event by event: {outcome}");
    assert_eq!(
        outcome["asked"]["state"], "TASK_STATE_INPUT_REQUIRED",
        "{at:?}: {outcome}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_calls_an_agent_but_names_no_task() {
    let mesh = mesh("calls", "").await;
    let permitted = token(&mesh, "analyst-7", &["call:agent.scribe"]).await;
    for at in BINDINGS {
        let outcome = outcome(&mesh, "analyst-7", at, &permitted, &[]).await;
        opened(&outcome, at);
        for step in ["get", "reply", "cancel"] {
            assert_eq!(outcome[step]["denial"], "task_refused", "{at:?} {step}: {outcome}");
        }
        // 0.3 has no list of tasks, and its client does not ask for one.
        let list = if at.1 == "1.0" {
            json!("task_refused")
        } else {
            Value::Null
        };
        assert_eq!(outcome["list"]["denial"], list, "{at:?}: {outcome}");
    }
    let seen = reached(&mesh);
    assert!(seen.iter().all(|seen| seen.header("authorization").is_none()));
    let tasks = seen.iter().filter(|seen| seen.path.contains("/tasks"));
    assert_eq!(tasks.count(), 0, "no path of a task has reached the agent");
    let text = |seen: &Seen| String::from_utf8_lossy(&seen.body).into_owned();
    assert!(
        seen.iter()
            .all(|seen| !text(seen).contains("taskId") && !text(seen).contains("task_id"))
    );

    let count = seen.len();
    let without = token(&mesh, "analyst-7", &[]).await;
    let refused = outcome(&mesh, "analyst-7", BINDINGS[0], &without, &[]).await;
    assert_eq!(refused["card"]["denial"], "scope_not_granted", "{refused}");
    assert_eq!(reached(&mesh).len(), count);
    not_granted(&mesh).await;
}

/// A token for another agent than those in `mayCall` is not issued, and a stolen one is of no use.
async fn not_granted(mesh: &Mesh) {
    let body = json!({"agent_id": "analyst-7", "operation_id": "o", "scope": ["call:agent.writer-2"]});
    let refused = mesh.token(&body).await.unwrap_err().to_string();
    assert!(refused.contains("scope_not_in_policy"), "{refused}");
    let stolen = token(mesh, "writer-2", &["call:agent.scribe"]).await;
    let authority = mesh.service(CALLED).unwrap().authority();
    let card = Call::new("GET", &authority, "/.well-known/agent-card.json").bearer(&stolen);
    let direct = mesh.direct(CALLED, "analyst-7").unwrap();
    assert_eq!(direct.send(card).await.unwrap().denial(), Some("peer_mismatch"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_may_hold_tasks_to_their_openers() {
    let mesh = mesh("calls-tasks", BY_APPLICATION).await;
    let analyst = token(&mesh, "analyst-7", &["call:agent.scribe"]).await;
    let writer = token(&mesh, "writer-2", &["call:agent.scribe"]).await;
    for at in BINDINGS {
        let own = outcome(&mesh, "analyst-7", at, &analyst, &[]).await;
        opened(&own, at);
        assert_eq!(own["get"]["state"], "TASK_STATE_COMPLETED", "{at:?}: {own}");
        assert_eq!(own["reply"]["state"], "TASK_STATE_COMPLETED", "{at:?}: {own}");
        assert_eq!(own["cancel"]["state"], "TASK_STATE_CANCELED", "{at:?}: {own}");
        if at.1 == "1.0" {
            let listed = own["list"]["tasks"].as_array();
            assert!(listed.is_some_and(|tasks| tasks.len() > 1), "{at:?}: {own}");
        }
        // The sidecars let the other name it; the application knows by the claims that it is not its.
        let task = own["asked again"]["task"].as_str().unwrap();
        let others = outcome(&mesh, "writer-2", at, &writer, &[task]).await;
        opened(&others, at);
        for step in ["another's", "another's cancelled"] {
            assert_eq!(others[step]["denial"], Value::Null, "{at:?}: {others}");
            assert!(others[step]["error"].as_str().is_some(), "{at:?} {step}: {others}");
        }
    }
    let seen = reached(&mesh);
    assert!(
        seen.iter().all(|seen| seen.header("ostiary-claims").is_some()),
        "the application is told who calls"
    );
}

/// The client goes on with its tasks as if nothing stood between; nobody else can, and the agent sees its own ids.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_its_openers_alone() {
    for (name, headers_stop_iteration) in [("calls-bound", true), ("calls-bound-ahead", false)] {
        let options = Options {
            called: Some("  tasks: bound\n"),
            headers_stop_iteration,
            ..Options::only(&["analyst-7", "writer-2", CALLED])
        };
        let mesh = Mesh::start(name, &options).await.unwrap();
        let analyst = token(&mesh, "analyst-7", &["call:agent.scribe"]).await;
        let writer = token(&mesh, "writer-2", &["call:agent.scribe"]).await;
        let body = json!({"agent_id": "analyst-7", "operation_id": "another", "scope": ["call:agent.scribe"]});
        let elsewhere = mesh.token(&body).await.unwrap();
        for at in BINDINGS {
            let own = outcome(&mesh, "analyst-7", at, &analyst, &["t-1"]).await;
            opened(&own, at);
            assert_eq!(own["get"]["state"], "TASK_STATE_COMPLETED", "{at:?}: {own}");
            assert_eq!(own["reply"]["state"], "TASK_STATE_COMPLETED", "{at:?}: {own}");
            // With headers that go ahead, this server cancels without waiting for the body, and so for the verdict.
            if headers_stop_iteration || at != ("HTTP+JSON", "1.0") {
                assert_eq!(own["cancel"]["state"], "TASK_STATE_CANCELED", "{at:?}: {own}");
            }
            if at.1 == "1.0" {
                assert_eq!(own["list"]["denial"], "task_refused", "{at:?}: {own}");
                let asked = json!([own["asked"]["task"]]);
                assert_eq!(own["list of a context"]["tasks"], asked, "{at:?}: {own}");
            }
            assert_eq!(own["another's"]["denial"], "task_mismatch", "unknown: {at:?}: {own}");
            let sealed = own["asked again"]["task"].as_str().unwrap();
            let (_, known) = sealed.split_once('.').unwrap();
            for (agent, token, task) in [
                ("writer-2", &writer, sealed),
                ("analyst-7", &elsewhere, sealed),
                ("writer-2", &writer, known),
            ] {
                let others = outcome(&mesh, agent, at, token, &[task]).await;
                opened(&others, at);
                for step in ["another's", "another's cancelled"] {
                    let denial = others[step]["denial"].as_str().unwrap();
                    // With headers that go ahead, the service's sidecar denies by the path while the caller's still waits for
                    // the body, and whoever answers before that verdict is not heard.
                    let unheard = !headers_stop_iteration
                        && (at, step, denial) == (("HTTP+JSON", "1.0"), "another's cancelled", "internal_error");
                    assert!(denial == "task_mismatch" || unheard, "{at:?} {agent} {step}: {others}");
                }
            }
            let named = |seen: &&Seen| {
                let body = String::from_utf8_lossy(&seen.body);
                seen.path.contains(known) || body.contains(known)
            };
            let seen = reached(&mesh);
            assert_eq!(
                seen.iter().filter(named).count(),
                1,
                "{at:?}: the cancellation by its opener"
            );
            let text = |seen: &Seen| format!("{} {}", seen.path, String::from_utf8_lossy(&seen.body));
            assert!(!seen.iter().any(|seen| text(seen).contains(sealed)), "{at:?}");
        }
    }
}

/// Denials come in the form of the binding; gRPC has none.
#[tokio::test(flavor = "multi_thread")]
async fn denials_are_told_as_the_binding_has_it() {
    let mesh = mesh("calls-denied", "").await;
    let before = reached(&mesh).len();
    let token = token(&mesh, "analyst-7", &["call:agent.scribe"]).await;
    let authority = mesh.service(CALLED).unwrap().authority();
    let clients = [
        mesh.agent("analyst-7").unwrap().client(),
        mesh.direct(CALLED, "analyst-7").unwrap(),
    ];
    for client in clients {
        for client in [client.clone(), client.http2()] {
            let post = |path: &str, body: &Value| Call::new("POST", &authority, path).bearer(&token).json(body);
            let answer = client
                .send(post(
                    "/",
                    &json!({"jsonrpc": "2.0", "id": "7", "method": "GetTask", "params": {"id": "t"}}),
                ))
                .await
                .unwrap();
            let error = answer.json();
            assert_eq!((answer.status, error["id"].as_str()), (403, Some("7")));
            assert_eq!(error["error"]["code"], -31_403);
            assert_eq!(error["error"]["data"]["code"], "task_refused");
            let versioned = post("/", &json!({"jsonrpc": "2.0", "id": 1, "method": "ListTasks"}));
            let answer = client.send(versioned.header("a2a-version", "3.0")).await.unwrap();
            assert_eq!(
                (answer.status, answer.json()["error"]["code"].as_i64()),
                (400, Some(-32_009))
            );
            let answer = client
                .send(Call::new("GET", &authority, "/tasks/t1").bearer(&token))
                .await
                .unwrap();
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(answer.json()["code"], "task_refused");
            let grpc = Call::new("POST", &authority, "/lf.a2a.v1.A2AService/SendMessage")
                .bearer(&token)
                .header("content-type", "application/grpc")
                .body("\0\0\0\0\0");
            let answer = client.send(grpc).await.unwrap();
            // Envoy tells callers of gRPC in its own form: of the 415 they get the nearest of its codes, `UNKNOWN`.
            assert_eq!(answer.denial(), Some("media_type_refused"));
            assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("2")));
        }
    }
    assert_eq!(reached(&mesh).len(), before);
}

/// Whom an agent called falls with it, and nobody else.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_reaches_whom_the_agent_called() {
    let mesh = mesh("cascade", "").await;
    let permitted = token(&mesh, "analyst-7", &["call:agent.scribe"]).await;
    let kill = |more: &[&str]| {
        let command = ["agent", "kill", "analyst-7", "--cascade", "--reason", "INC-42"];
        mesh.ostiary(&[&command[..], more].concat()).unwrap()
    };
    assert_eq!(kill(&["--dry-run"]), "nobody was stopped\n", "it has called nobody");
    let outcome = outcome(&mesh, "analyst-7", BINDINGS[0], &permitted, &[]).await;
    opened(&outcome, BINDINGS[0]);
    // Its own sidecar's records follow in batches, but the called agent's waited for theirs.
    let listed = kill(&["--dry-run"]);
    assert!(
        listed.contains("scribe, called by analyst-7 for ") && listed.contains("nobody was stopped"),
        "{listed}"
    );
    let said = kill(&[]);
    for name in ["analyst-7", "scribe"] {
        assert!(said.contains(&format!("killed: {name} is killed; ")), "{said}");
        let shown = mesh.ostiary(&["agent", "show", name]).unwrap();
        assert!(shown.contains("INC-42"), "{shown}");
    }
    let list = mesh.ostiary(&["agent", "list"]).unwrap();
    assert!(list.contains("writer-2  active"), "{list}");
}
