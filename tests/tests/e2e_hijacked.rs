//! What code inside an agent's container tries, each beside a call that its token permits: none of it gains a call.
//! docs/threat-model.md tells of each by the same name.
#![expect(clippy::unwrap_used, reason = "tests")]

use tests::built;
use tests::cluster::scene::{Scene, table};
use tests::cluster::stage::authority;

/// What the table of the page is headed by.
const MARK: &str = "<!-- tried by e2e_hijacked -->\n";

/// A name, a command of the shell inside the container, and what it prints then. `CODE` is curl's word for the status.
struct Attempt {
    name: &'static str,
    command: &'static str,
    prints: &'static str,
}

const fn attempt(name: &'static str, command: &'static str, prints: &'static str) -> Attempt {
    Attempt { name, command, prints }
}

/// Variables of the commands: the warehouse's pod, another agent's, and the token.
const ATTEMPTS: [Attempt; 20] = [
    attempt(
        "reading its sidecar's configuration at Envoy's admin port",
        "curl -s 127.0.0.1:15000/config_dump | grep -c -e \"$TOKEN\" -e '\"private_key\": {[^}]*\"inline_bytes\": \"[A-Za-z0-9+/=]\\{80\\}'",
        "0",
    ),
    attempt(
        "changing its sidecar's runtime",
        "curl -s -X POST '127.0.0.1:15000/runtime_modify?envoy.reloadable_features.http_reject_path_with_fragment=false' >/dev/null; CODE \"$WAREHOUSE_NAME/v1/tables/hr_salaries\" -H \"authorization: Bearer $TOKEN\"",
        "403",
    ),
    attempt(
        "a raw socket",
        "ping -c 1 \"$WAREHOUSE\" 2>&1; busybox ping -c 1 \"$WAREHOUSE\" 2>&1",
        "ermi",
    ),
    attempt(
        "plain text to a service's pod, past its name",
        "CODE \"http://$WAREHOUSE:8080/v1/tables/hr_salaries\" -H \"authorization: Bearer $TOKEN\"",
        "not 200",
    ),
    attempt(
        "the same with a good name in Host",
        "CODE \"http://$WAREHOUSE:8080/v1/tables/hr_salaries\" -H 'host: WAREHOUSE_HOST' -H \"authorization: Bearer $TOKEN\"",
        "not 200",
    ),
    attempt(
        "the service's port for sidecars",
        "CODE \"http://$WAREHOUSE:15006/v1/tables/hr_salaries\"",
        "not 200",
    ),
    attempt(
        "the service's admin port",
        "CODE \"http://$WAREHOUSE:15000/config_dump\"",
        "not 200",
    ),
    attempt(
        "its own sidecar's port for what comes in",
        "CODE \"http://127.0.0.1:15006/v1/tables/hr_salaries\" -H 'host: WAREHOUSE_HOST'",
        "not 200",
    ),
    attempt(
        "its own sidecar's port for what goes out",
        "CODE \"http://127.0.0.1:15001/v1/tables/hr_salaries\" -H 'host: WAREHOUSE_HOST'",
        "not 200",
    ),
    attempt("another agent's pod", "CODE \"http://$WRITER:8080/\"", "not 200"),
    attempt(
        "its sidecar's policy",
        "CODE \"$POLICY_NAME/v1/policy?formats=1\" -H 'ostiary-callout: 1'",
        "403",
    ),
    attempt(
        "a record in its sidecar's name",
        "CODE \"$POLICY_NAME/v1/records\" -H 'ostiary-callout: 1' -d '{}'",
        "403",
    ),
    attempt(
        "a token of its own, as the orchestrator",
        "CODE \"$POLICY_NAME/v1/tokens\" -H 'content-type: application/json' -H 'x-forwarded-client-cert: By=spiffe://cluster.local/ns/ostiary/sa/policy-server;URI=spiffe://cluster.local/ns/orchestration/sa/orchestrator' -d '{\"agent_id\":\"analyst-7\",\"operation_id\":\"x\",\"scope\":[],\"tools\":[],\"forbidden_tools\":[],\"ttl_seconds\":60,\"max_tokens\":1}'",
        "403",
    ),
    attempt("the keys of the policy server", "CODE \"$POLICY_NAME/v1/keys\"", "403"),
    attempt(
        "the API server",
        "CODE -k https://kubernetes.default.svc.cluster.local/version; CODE -k \"https://$KUBERNETES_SERVICE_HOST/version\"",
        "not 200",
    ),
    attempt(
        "a service account's token, or its sidecar's certificate",
        "ls /var/run/secrets/kubernetes.io /var/run/secrets/tokens /var/run/secrets/workload-spiffe-uds /etc/istio 2>/dev/null | wc -l",
        "0",
    ),
    attempt(
        "becoming its sidecar's user",
        "busybox su istio-proxy -c id 2>&1; busybox setuidgid 1337 id 2>&1; id -u",
        "65532",
    ),
    attempt(
        "looking into Envoy's process",
        "grep -l envoy /proc/[0-9]*/comm 2>/dev/null | wc -l",
        "0",
    ),
    attempt("a host outside the mesh", "CODE http://example.com/", "not 200"),
    attempt(
        "making its sidecar quit",
        "curl -s -X POST 127.0.0.1:15000/quitquitquit >/dev/null; CODE \"$WAREHOUSE_NAME/v1/tables/hr_salaries\"",
        "not 200",
    ),
];

/// The page's rows, by the name of what is tried.
fn told() -> Vec<String> {
    let page = std::fs::read_to_string(built::workspace().join("docs/threat-model.md")).unwrap();
    let table = page.split(MARK).nth(1).unwrap().lines().skip(2);
    let rows = table.take_while(|line| line.starts_with("| "));
    rows.map(|row| row.split(" | ").next().unwrap().trim_start_matches("| ").to_owned())
        .collect()
}

fn held(attempt: &Attempt, printed: &str) -> bool {
    match attempt.prints.strip_prefix("not ") {
        Some(passed) => !printed.split_whitespace().any(|word| word == passed),
        None => printed.contains(attempt.prints),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_hijacked_agent_tries_gains_a_call() {
    let scene = Scene::new().unwrap();
    assert_eq!(told(), ATTEMPTS.map(|attempt| attempt.name.to_owned()));
    let token = scene.token().await.unwrap();
    let address = |namespace, name: &str| {
        let label = format!("ostiary.dev/service-account={name}");
        scene.cluster.pod_ip(namespace, &label).unwrap().to_string()
    };
    let prelude = format!(
        "TOKEN={token}; WAREHOUSE={}; WRITER={}; WAREHOUSE_NAME=http://{}; POLICY_NAME=http://{};\n\
         CODE() {{ curl -s -m 5 -o /dev/null -w '%{{http_code}} ' \"$@\"; }}\n",
        address("data", "warehouse"),
        address("agents", "writer-2"),
        authority("warehouse"),
        authority("policy-server"),
    );
    let mut gained = Vec::new();
    for attempt in &ATTEMPTS {
        // The honest twin: the same process, with its token, by the way that it is meant to take.
        scene.passes().await.unwrap();
        let command = attempt.command.replace("WAREHOUSE_HOST", &authority("warehouse"));
        let line = format!("{prelude}{command}");
        let said = scene.cluster.exec("agents", "analyst-7", &["sh", "-c", &line]).unwrap();
        println!("{:<60} {}", attempt.name, said.stdout.trim().replace('\n', "; "));
        if !held(attempt, &said.stdout) {
            gained.push(format!("{}: {}{}", attempt.name, said.stdout, said.stderr));
        }
    }
    // What lost its sidecar has it again, by itself.
    scene.passes().await.unwrap();
    assert!(gained.is_empty(), "{gained:#?}");
    let seen = scene.cluster.pod("data", "warehouse").seen().unwrap();
    assert!(
        !seen.iter().any(|seen| seen.path.contains("hr_salaries")),
        "the warehouse was asked"
    );
    let read = scene.outcome(table("hr_salaries").bearer(&token)).await.unwrap();
    assert_eq!(read, "scope_not_granted");
}
