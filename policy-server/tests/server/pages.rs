//! Bundles whose agents come in pages.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::support::{ANALYST, ANALYST_FILE, NOW, Place, Server, WAREHOUSE, poll, xfcc};
use authz::policy::{MAX_PAGES_ANSWER_BYTES, PageDigest, PendingBundle, RawBundle, Tasks};
use axum::body::Body;
use http::{Request, StatusCode};

/// A place with so many agents that reach the warehouse, `analyst-7` among them.
fn place(agents: usize) -> Place {
    let place = Place::new();
    for index in 1..agents {
        place.write_policy(&format!("agent-{index}.yaml"), &file(index, "read:data.sales"));
    }
    place
}

fn file(index: usize, scope: &str) -> String {
    let name = format!("agent-{index}");
    ANALYST_FILE
        .replace("analyst-7", &name)
        .replace("read:data.sales", scope)
}

async fn pages(server: &Server, peer: &str, digests: &[PageDigest]) -> crate::support::Answer {
    let digests: Vec<String> = digests.iter().map(PageDigest::to_string).collect();
    let path = format!("/v1/policy/pages?digests={}", digests.join(","));
    let request = Request::get(path)
        .header("x-forwarded-client-cert", xfcc(peer))
        .header("ostiary-callout", "1")
        .body(Body::empty())
        .unwrap();
    server.send(request).await
}

/// The head of what the warehouse is told, if it is not this version.
async fn head(server: &Server, query: &str) -> Option<PendingBundle> {
    let answer = server.poll(WAREHOUSE, query).await;
    let jws = answer.text("bundle")?;
    let now = server.app.clock.seconds();
    let opened = RawBundle::new(&jws).open(&server.bundle_keys(), &WAREHOUSE.parse().unwrap(), None, now);
    Some(opened.unwrap())
}

fn missing(bundle: &PendingBundle) -> Vec<PageDigest> {
    bundle.missing().copied().collect()
}

async fn fill(server: &Server, bundle: &mut PendingBundle) {
    while !missing(bundle).is_empty() {
        let asked: Vec<PageDigest> = bundle.missing().take(8).copied().collect();
        let answer = pages(server, WAREHOUSE, &asked).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert!(answer.headers["content-type"] == "application/x-ndjson");
        for page in std::str::from_utf8(&answer.body).unwrap().lines() {
            assert_eq!(bundle.fill(page.as_bytes()), Ok(true));
        }
    }
}

#[tokio::test]
async fn a_change_of_one_agent_needs_one_page() {
    let place = place(100);
    let server = Server::start(&place).await;
    let mut bundle = head(&server, "formats=1,2").await.unwrap();
    assert!(missing(&bundle).len() > 8);
    let answer = pages(&server, WAREHOUSE, &missing(&bundle)).await;
    assert!(answer.body.len() <= MAX_PAGES_ANSWER_BYTES);
    fill(&server, &mut bundle).await;
    let first = bundle.finish().unwrap();
    assert_eq!(first.agents().count(), 100);

    place.write_policy("agent-50.yaml", &file(50, "read:data.costs"));
    let query = format!("formats=1,2&bundle={}", first.version());
    let mut changed = loop {
        // Held until something changes; the state list may.
        match head(&server, &query).await {
            Some(bundle) => break bundle,
            None => tokio::task::yield_now().await,
        }
    };
    assert!(changed.version() > first.version());
    changed.share(&first);
    assert_eq!(missing(&changed).len(), 1);
    fill(&server, &mut changed).await;
    let second = changed.finish().unwrap();
    let costs = "read:data.costs".parse().unwrap();
    let has = |bundle: &authz::policy::Bundle, agent: &str| bundle.agent(agent).unwrap().has_scope(&costs);
    assert!(has(&second, "agent-50") && !has(&second, "agent-51") && !has(&first, "agent-50"));
    server.stop().await;
}

#[tokio::test]
async fn a_bundle_that_is_renewed_or_signed_by_a_new_process_has_the_same_pages() {
    let place = place(100);
    place.configure("bundle: { lifetimeSeconds: 100 }\n");
    let server = Server::start(&place).await;
    let first = head(&server, "formats=2").await.unwrap();
    server.advance(50);
    let renewed = head(&server, "formats=2").await.unwrap();
    assert!(renewed.version() > first.version());
    assert_eq!(missing(&renewed), missing(&first));
    server.stop().await;
    let server = Server::start_at(&place.config(), NOW).await;
    let restarted = head(&server, "formats=2").await.unwrap();
    assert!(restarted.version() > renewed.version());
    assert_eq!(missing(&restarted), missing(&first));
    server.stop().await;
}

#[tokio::test]
async fn filters_that_know_no_pages_are_served_as_before() {
    let place = place(100);
    let server = Server::start(&place).await;
    for query in ["formats=1", ""] {
        let bundle = head(&server, query).await.unwrap();
        assert!(missing(&bundle).is_empty());
        assert_eq!(bundle.finish().unwrap().agents().count(), 100, "{query}");
    }
    let paged = head(&server, "formats=1,2,9").await.unwrap();
    assert!(!missing(&paged).is_empty());
    let version = paged.version();
    let state = server.app.feed.state().unwrap().version;
    let query = format!("formats=2&bundle={version}&state={state}");
    let held = tokio::spawn(crate::support::answer(server.router.clone(), poll(WAREHOUSE, &query)));
    while server.app.metrics.polls.get() == 0 {
        tokio::task::yield_now().await;
    }
    server.stop().await;
    let answer = held.await.unwrap();
    assert_eq!(
        answer.status,
        StatusCode::NO_CONTENT,
        "there is nothing new in this format"
    );
}

/// A service of the warehouse's workload with more than tools.
const LIBRARY_FILE: &str = r#"
apiVersion: ostiary.dev/v1alpha1
kind: Service
metadata: { name: library, namespace: data }
spec:
  serviceAccount: warehouse
  hosts: [library.data.svc.cluster.local]
  ports: [8090]
  protocol: mcp
  prompts: { summary: {} }
  resources: { "report://2026q1": {} }
"#;

#[tokio::test]
async fn filters_that_know_no_prompts_and_resources_are_told_of_none() {
    let place = place(100);
    place.write_policy("library.yaml", LIBRARY_FILE);
    let granted = "  prompts: [summary]\n  resources: [\"report://2026q1\"]\n  reaches: [library, ";
    let agent = file(50, "read:data.sales").replace("  reaches: [", granted);
    assert!(agent.contains("summary"));
    place.write_policy("agent-50.yaml", &agent);
    let server = Server::start(&place).await;
    let (library, prompt) = ("data/library".parse().unwrap(), "summary".parse().unwrap());
    for (query, told, cuts) in [
        ("formats=1", false, false),
        ("formats=1,2", false, false),
        ("formats=1,2,3", true, false),
        ("formats=1,2,3,4", true, false),
        ("formats=1,2,3,4,5", true, true),
    ] {
        let mut bundle = head(&server, query).await.unwrap();
        fill(&server, &mut bundle).await;
        let bundle = bundle.finish().unwrap();
        let agent = bundle.agent("agent-50").unwrap();
        assert_eq!(agent.lists_prompt(&library, &prompt), told, "{query}");
        assert_eq!(agent.lists_resource(&library, "report://2026q1"), told, "{query}");
        let service = bundle.service(bundle.service_with_id(&library).unwrap()).unwrap();
        assert_eq!(service.prompt("summary").is_some(), told, "{query}");
        assert_eq!(service.resource("report://2026q1").is_some(), told, "{query}");
        assert!(agent.reaches(&library), "{query}");
        assert_eq!(
            service.records_before(),
            told,
            "no filter is asked for what it cannot do: {query}"
        );
        assert_eq!(service.cuts_on_expiry(), cuts, "{query}");
    }
    server.stop().await;
}

/// A service of the warehouse's workload, which is an agent too.
const CLERK_FILES: [(&str, &str); 2] = [
    (
        "clerk.yaml",
        r#"
apiVersion: ostiary.dev/v1alpha1
kind: Agent
metadata: { name: clerk, namespace: data }
spec: { serviceAccount: warehouse }
"#,
    ),
    (
        "clerk-service.yaml",
        r#"
apiVersion: ostiary.dev/v1alpha1
kind: Service
metadata: { name: clerk, namespace: data }
spec:
  serviceAccount: warehouse
  hosts: [clerk.data.svc.cluster.local]
  ports: [8090]
  protocol: a2a
  agent: clerk
"#,
    ),
];

#[tokio::test]
async fn filters_that_know_no_services_of_agents_are_told_of_none() {
    let place = place(100);
    for (name, text) in CLERK_FILES {
        place.write_policy(name, text);
    }
    let granted = "  mayCall: [clerk]\n  reaches: [clerk, ";
    let agent = file(50, "read:data.sales").replace("  reaches: [", granted);
    assert!(agent.contains("clerk"));
    place.write_policy("agent-50.yaml", &agent);
    let server = Server::start(&place).await;
    let (clerk, name) = ("data/clerk".parse().unwrap(), "clerk".parse().unwrap());
    for (query, told) in [
        ("formats=1", false),
        ("formats=2", false),
        ("formats=3", false),
        ("formats=1,2,3,4", true),
    ] {
        let mut bundle = head(&server, query).await.unwrap();
        fill(&server, &mut bundle).await;
        let bundle = bundle.finish().unwrap();
        let agent = bundle.agent("agent-50").unwrap();
        assert_eq!(bundle.service_with_id(&clerk).is_some(), told, "{query}");
        assert_eq!(bundle.service_exposed_on(8090).is_some(), told, "{query}");
        assert_eq!(agent.reaches(&clerk), told, "{query}");
        assert!(agent.may_call(&name), "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn pages_are_given_to_the_workload_that_they_are_for_and_only_to_its_sidecar() {
    let place = place(100);
    let server = Server::start(&place).await;
    let digests = missing(&head(&server, "formats=2").await.unwrap());
    assert_eq!(pages(&server, WAREHOUSE, &digests[..1]).await.status, StatusCode::OK);
    let answer = |peer: &'static str, digests: Vec<PageDigest>| {
        let server = &server;
        async move {
            let answer = pages(server, peer, &digests).await;
            (answer.status.as_u16(), answer.code())
        }
    };
    let unknown = (404, "page_unknown".to_owned());
    assert_eq!(answer(ANALYST, digests.clone()).await, unknown);
    assert_eq!(answer(WAREHOUSE, vec![PageDigest::of(b"another")]).await, unknown);
    assert_eq!(
        answer("spiffe://cluster.local/ns/data/sa/stranger", digests.clone()).await,
        (404, "workload_unknown".to_owned())
    );
    let mut request = poll(WAREHOUSE, "");
    *request.uri_mut() = format!("/v1/policy/pages?digests={}", digests.first().unwrap())
        .parse()
        .unwrap();
    request.headers_mut().remove("ostiary-callout");
    assert_eq!(server.send(request).await.code(), "endpoint_refused");
    let mut request = poll(WAREHOUSE, "");
    *request.uri_mut() = "/v1/policy/pages?digests=x".parse().unwrap();
    assert_eq!(server.send(request).await.code(), "request_malformed");
    server.stop().await;
}

#[tokio::test]
async fn filters_that_bind_nothing_are_told_of_no_keys_and_definitions() {
    let place = place(1);
    let pinned = "  tools: { pandas: { definition: \"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\" } }\n  onDrift: deny\n";
    place.write_policy("library.yaml", &format!("{LIBRARY_FILE}{pinned}"));
    let server = Server::start(&place).await;
    let library = "data/library".parse().unwrap();
    for (query, told) in [
        ("formats=1", false),
        ("formats=1,2,3,4", false),
        ("formats=1,2,3,4,5", true),
    ] {
        let mut bundle = head(&server, query).await.unwrap();
        fill(&server, &mut bundle).await;
        let bundle = bundle.finish().unwrap();
        let service = bundle.service(bundle.service_with_id(&library).unwrap()).unwrap();
        assert_eq!(service.denied_if_not("pandas").is_some(), told, "{query}");
        assert_eq!(service.tool("pandas").unwrap().definition.is_some(), told, "{query}");
        assert_eq!(bundle.session_keys().is_empty(), !told, "{query}");
    }
    server.stop().await;
}

#[tokio::test]
async fn filters_that_bind_no_tasks_let_nobody_name_one() {
    let place = place(1);
    for (name, text) in CLERK_FILES {
        let bound = if text.contains("kind: Service") {
            "  tasks: bound\n"
        } else {
            ""
        };
        place.write_policy(name, &format!("{text}{bound}"));
    }
    let server = Server::start(&place).await;
    let clerk = "data/clerk".parse().unwrap();
    for (query, tasks) in [("formats=1,2,3,4", Tasks::Refused), ("formats=1,2,3,4,5", Tasks::Bound)] {
        let mut bundle = head(&server, query).await.unwrap();
        fill(&server, &mut bundle).await;
        let bundle = bundle.finish().unwrap();
        let service = bundle.service(bundle.service_with_id(&clerk).unwrap()).unwrap();
        assert_eq!(service.tasks(), tasks, "{query}");
        assert_eq!(bundle.session_keys().is_empty(), tasks == Tasks::Refused, "{query}");
    }
    server.stop().await;
}
