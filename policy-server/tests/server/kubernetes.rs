//! Policy from an API server: in force when it is whole and right, and each object told what came of it.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use crate::api_server::ApiServer;
use crate::support::{ANALYST_FILE, MCP_FILE, Place, Server, WAREHOUSE_FILE};
use authz::identity::AgentId;
use axum::body::Body;
use http::{Request, StatusCode};
use serde_json::Value;

const WRITER_FILE: &str = "\
apiVersion: ostiary.dev/v1alpha1
kind: Agent
metadata: { name: writer-2, namespace: agents }
spec:
  serviceAccount: writer-2
  tools: [pandas]
  reaches: [mcp]
";

/// A configuration that names an API server, and the policy of the tests on it.
fn place(api: &ApiServer, more: &str) -> Place {
    for file in [ANALYST_FILE, WAREHOUSE_FILE, MCP_FILE] {
        api.apply(file);
    }
    let place = Place::new();
    let kubeconfig = place.path("admin.conf");
    api.write_kubeconfig(&kubeconfig);
    let config = std::fs::read_to_string(place.config()).unwrap();
    let policy = format!("policy: {{ kubernetes: {{ kubeconfig: admin.conf{more} }} }}");
    std::fs::write(place.config(), config.replace("policy: policy", &policy)).unwrap();
    place
}

async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let met = async {
        loop {
            if let Some(met) = condition().await {
                return met;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let met = tokio::time::timeout(Duration::from_secs(60), met).await;
    assert!(met.is_ok(), "waited in vain: {what}");
    met.unwrap()
}

async fn readiness(server: &Server) -> (StatusCode, Value) {
    let answer = server.send(Request::get("/readyz").body(Body::empty()).unwrap()).await;
    (answer.status, answer.json())
}

/// Waits until readiness says whether the policy in force is what the API server says.
async fn until_current(server: &Server, current: bool) -> Value {
    until("readiness", async || {
        let (_, body) = readiness(server).await;
        (body["policy_current"] == current).then_some(body)
    })
    .await
}

/// Waits until an object is told this, of this generation.
async fn until_told(api: &ApiServer, name: (&str, &str, &str), reason: &str, generation: u64) -> Value {
    until(&format!("{name:?} {reason} {generation}"), async || {
        let ready = api.ready(name.0, name.1, name.2);
        (ready["reason"] == reason && ready["observedGeneration"] == generation).then_some(ready)
    })
    .await
}

/// Waits until each object of the first policy is told that it is in force.
async fn until_all_told(api: &ApiServer) {
    for name in [ANALYST, MCP, WAREHOUSE] {
        until_told(api, name, "InForce", 1).await;
    }
}

fn knows(server: &Server, agent: &str) -> bool {
    let agent = AgentId::parse(agent).unwrap();
    server
        .app
        .feed
        .policy()
        .is_some_and(|mesh| mesh.agent(&agent).is_some())
}

const ANALYST: (&str, &str, &str) = ("agents", "agents", "analyst-7");
const WRITER: (&str, &str, &str) = ("agents", "agents", "writer-2");
const MCP: (&str, &str, &str) = ("services", "tools", "mcp");
const WAREHOUSE: (&str, &str, &str) = ("services", "data", "warehouse");

#[tokio::test]
async fn what_is_applied_is_in_force_and_told_once() {
    let api = ApiServer::start();
    let server = Server::start(&place(&api, "")).await;
    until_current(&server, true).await;
    assert_eq!(readiness(&server).await.0, StatusCode::OK);
    for name in [ANALYST, MCP, WAREHOUSE] {
        let ready = until_told(&api, name, "InForce", 1).await;
        assert_eq!((&ready["type"], &ready["status"]), (&"Ready".into(), &"True".into()));
        assert_eq!(ready["message"], "generation 1 is in force");
        assert_eq!(ready["lastTransitionTime"], "2027-01-15T08:00:00Z");
    }
    let (bundle, _) = server.first(crate::support::ANALYST).await;
    assert_eq!(bundle.agents().count(), 1);

    api.apply(WRITER_FILE);
    until_told(&api, WRITER, "InForce", 1).await;
    assert!(knows(&server, "writer-2"));

    api.apply(&WRITER_FILE.replace("tools: [pandas]", "tools: [pandas, bash]"));
    until_told(&api, WRITER, "InForce", 2).await;
    let bash = |mesh: &authz::manifest::Mesh| {
        mesh.agents()
            .iter()
            .filter(|agent| agent.claims.tools.len() == 2)
            .count()
    };
    assert_eq!(server.app.feed.policy().map(|mesh| bash(&mesh)), Some(1));

    api.delete("agents", "agents", "writer-2");
    until("the deletion", async || (!knows(&server, "writer-2")).then_some(())).await;
    assert!(knows(&server, "analyst-7"));
    // Each of four objects once, and one of them again: what is written comes back, and is not written again.
    assert_eq!(api.patches().len(), 5, "{:?}", api.patches());
    server.stop().await;
}

#[tokio::test]
async fn a_list_that_breaks_off_is_no_policy() {
    let api = ApiServer::start();
    let place = place(&api, "");
    // Agents come on two pages.
    api.apply(WRITER_FILE);
    api.apply(&WRITER_FILE.replace("writer-2", "writer-3"));
    api.break_lists(Some("agents"));
    let server = Server::start(&place).await;
    let told = until("the trouble", async || {
        let (status, body) = readiness(&server).await;
        body["policy_problems"]
            .to_string()
            .contains("etcd is gone")
            .then_some((status, body))
    })
    .await;
    assert_eq!(told.0, StatusCode::SERVICE_UNAVAILABLE, "{}", told.1);
    assert_eq!(told.1["policy"], false);
    assert!(server.app.feed.policy().is_none() && api.patches().is_empty());

    api.break_lists(None);
    until_current(&server, true).await;
    assert!(knows(&server, "analyst-7") && knows(&server, "writer-3"));
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_object_keeps_the_last_good_policy_and_is_told_why() {
    let api = ApiServer::start();
    let server = Server::start(&place(&api, "")).await;
    until_all_told(&api).await;

    // Its schema lets it pass: that there is no such service shows only among the others.
    api.apply(&WRITER_FILE.replace("reaches: [mcp]", "reaches: [mcp, archive]"));
    let refused = until_told(&api, WRITER, "Refused", 1).await;
    assert_eq!(refused["status"], "False");
    let message = refused["message"].as_str().unwrap();
    assert_eq!(
        message,
        "spec.reaches[1]: there is no service `archive`; add its file, or correct the name"
    );
    let body = until_current(&server, false).await;
    let problem = format!("Agent agents/writer-2: {message}");
    assert_eq!(body["policy_problems"], serde_json::json!([problem]));
    assert_eq!(
        readiness(&server).await.0,
        StatusCode::OK,
        "the last good policy is one"
    );
    assert!(knows(&server, "analyst-7") && !knows(&server, "writer-2"));

    // One that is right waits with it; what is in force stays so.
    api.apply(&ANALYST_FILE.replace("[bash]", "[]"));
    let held = until_told(&api, ANALYST, "Held", 2).await;
    assert_eq!(held["status"], "False");
    assert!(
        held["message"]
            .as_str()
            .unwrap()
            .ends_with("generation 1 stays in force"),
        "{held}"
    );
    assert_eq!(api.ready(MCP.0, MCP.1, MCP.2)["status"], "True");

    api.apply(WRITER_FILE);
    until_told(&api, WRITER, "InForce", 2).await;
    until_told(&api, ANALYST, "InForce", 2).await;
    until_current(&server, true).await;
    assert!(knows(&server, "writer-2"));
    server.stop().await;
}

#[tokio::test]
async fn a_service_that_is_still_needed_stays_until_nobody_needs_it() {
    let api = ApiServer::start();
    let server = Server::start(&place(&api, "")).await;
    until_told(&api, ANALYST, "InForce", 1).await;
    api.delete("services", "tools", "mcp");
    let refused = until_told(&api, ANALYST, "Refused", 1).await;
    assert!(
        refused["message"].as_str().unwrap().contains("no service `mcp`"),
        "{refused}"
    );
    let mcp = authz::identity::ServiceId::parse("tools/mcp").unwrap();
    assert!(server.app.feed.policy().unwrap().service(&mcp).is_some());
    api.delete("agents", "agents", "analyst-7");
    until_current(&server, true).await;
    assert!(server.app.feed.policy().unwrap().service(&mcp).is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_watch_that_lost_its_place_lists_again() {
    let api = ApiServer::start();
    let place = place(&api, "");
    api.apply(WRITER_FILE);
    let server = Server::start(&place).await;
    until_told(&api, WRITER, "InForce", 1).await;
    let lists = api.lists();
    api.delete_unseen("agents", "agents", "writer-2");
    until("the deletion", async || (!knows(&server, "writer-2")).then_some(())).await;
    assert!(api.lists() > lists && knows(&server, "analyst-7"));
    until_current(&server, true).await;
    server.stop().await;
}

#[tokio::test]
async fn without_the_api_server_the_last_good_policy_goes_on_and_readiness_says_so() {
    let mut api = ApiServer::start();
    let server = Server::start(&place(&api, "")).await;
    until_all_told(&api).await;
    let patches = api.patches().len();
    api.go();
    let body = until_current(&server, false).await;
    let problems = body["policy_problems"].to_string();
    assert!(
        problems.contains("agents: cannot") && problems.contains("services: cannot"),
        "{problems}"
    );
    assert_eq!(readiness(&server).await.0, StatusCode::OK);
    let (bundle, _) = server.first(crate::support::ANALYST).await;
    assert_eq!(bundle.agents().count(), 1);

    api.apply(WRITER_FILE);
    api.come_back();
    until_told(&api, WRITER, "InForce", 1).await;
    until_current(&server, true).await;
    assert!(knows(&server, "writer-2"));
    assert_eq!(api.patches().len(), patches + 1, "{:?}", api.patches());
    server.stop().await;
}

#[tokio::test]
async fn what_the_api_server_refuses_is_told_in_its_words() {
    let api = ApiServer::start();
    api.refuse(Some((StatusCode::FORBIDDEN, "agents.ostiary.dev is forbidden")));
    let server = Server::start(&place(&api, "")).await;
    let body = until("the trouble", async || {
        let (_, body) = readiness(&server).await;
        body["policy_problems"]
            .to_string()
            .contains("is forbidden")
            .then_some(body)
    })
    .await;
    let first = body["policy_problems"][0].as_str().unwrap().to_owned();
    assert_eq!(first, "agents: cannot list: agents.ostiary.dev is forbidden (403)");
    assert_eq!((&body["status"], &body["policy"]), (&"not ready".into(), &false.into()));
    api.refuse(None);
    until_current(&server, true).await;
    server.stop().await;
}

#[tokio::test]
async fn a_status_that_could_not_be_written_is_written_later() {
    let api = ApiServer::start();
    let server = Server::start(&place(&api, "")).await;
    until_told(&api, ANALYST, "InForce", 1).await;
    // Watches go on; only new requests are refused, and so is the status of what the watch tells now.
    api.refuse(Some((StatusCode::SERVICE_UNAVAILABLE, "later")));
    api.apply(WRITER_FILE);
    until("the policy", async || knows(&server, "writer-2").then_some(())).await;
    assert_eq!(api.ready(WRITER.0, WRITER.1, WRITER.2), Value::Null);
    api.refuse(None);
    until_told(&api, WRITER, "InForce", 1).await;
    server.stop().await;
}

#[tokio::test]
async fn only_the_namespaces_that_are_named_count() {
    let api = ApiServer::start();
    let place = place(&api, ", namespaces: [agents, data, tools]");
    let elsewhere = WRITER_FILE.replace("namespace: agents", "namespace: elsewhere");
    api.apply(&elsewhere);
    let server = Server::start(&place).await;
    until_all_told(&api).await;
    assert!(knows(&server, "analyst-7") && !knows(&server, "writer-2"));
    api.apply(WRITER_FILE);
    until_told(&api, WRITER, "InForce", 1).await;
    assert!(knows(&server, "writer-2"));
    assert_eq!(api.ready("agents", "elsewhere", "writer-2"), Value::Null);
    server.stop().await;
}
