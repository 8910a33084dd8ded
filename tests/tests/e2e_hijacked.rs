//! What code inside an agent's container tries, each beside a call that its token permits: none of it gains a call.
//! docs/threat-model.md tells of each by the same name.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use tests::built;
use tests::cluster::scene::{Scene, table};
use tests::cluster::stage::authority;

/// What the table of the page is headed by.
const MARK: &str = "<!-- tried by e2e_hijacked -->\n";

/// A name, a command of the shell inside the container, and all that it prints then.
struct Attempt {
    name: &'static str,
    command: &'static str,
    prints: &'static str,
}

const fn attempt(name: &'static str, command: &'static str, prints: &'static str) -> Attempt {
    Attempt { name, command, prints }
}

/// What the commands are made of. `says URL ...` is the status of a call and our code if it has one, 000 where nothing answered.
const WORDS: &str = r#"
says() {
  curl -s -m 5 -w ' %{http_code}' "$@" | tr -d '\n' |
    sed 's/.*"code":"\([a-z_]*\)".* \([0-9]\{3\}\)$/\2 \1/; s/^.* \([0-9]\{3\}\)$/\1/'
  echo
}
bearer() { says -H "authorization: Bearer $TOKEN" "$@"; }
permitted() { bearer "http://$HOST/v1/tables/sales_q1_2026"; }
forbidden() { bearer "http://$HOST/v1/tables/hr_salaries"; }
post() { curl -s -m 5 -o /dev/null -X POST "$1"; }
lost() {
  tries=0
  while [ "$(permitted)" = 200 ] && [ $tries -lt 200 ]; do tries=$((tries + 1)); done
  [ $tries -eq 200 ] || echo "reaches nothing"
  case "$(forbidden)" in 200*) echo "gained a call" ;; esac
}
admin=http://127.0.0.1:15000
agent=http://127.0.0.1:15020
"#;

/// What Envoy writes in the place of a key: `[redacted]` in base64.
const KEY_REDACTED: &str = "listeners seen\n\"private_key\":{\"inline_bytes\":\"W3JlZGFjdGVkXQ==\"}";

const ATTEMPTS: [Attempt; 25] = [
    attempt(
        "reading its sidecar's configuration at Envoy's admin port",
        r#"dump=$(curl -s $admin/config_dump | tr -d '\n ')
           case "$dump" in *ostiary*) echo "listeners seen" ;; esac
           case "$dump" in *"$TOKEN"*) echo "a token seen" ;; esac
           echo "$dump" | grep -o '"private_key":{[^}]*}' | sort -u"#,
        KEY_REDACTED,
    ),
    attempt(
        "changing its sidecar's runtime",
        "says -X POST \"$admin/runtime_modify?envoy.reloadable_features.http_reject_path_with_fragment=false\"; forbidden",
        "200\n403 scope_not_granted",
    ),
    attempt(
        "having its sidecar log everything",
        "says -X POST \"$admin/logging?level=trace\" | grep -o 200; forbidden; post \"$admin/logging?level=warning\"",
        "200\n403 scope_not_granted",
    ),
    attempt(
        "failing its sidecar's health check",
        "says -X POST $admin/healthcheck/fail; forbidden; post $admin/healthcheck/ok",
        "200\n403 scope_not_granted",
    ),
    attempt(
        "the profiler of Istio's agent",
        "says $agent/debug/pprof/cmdline | grep -o 200; forbidden",
        "200\n403 scope_not_granted",
    ),
    attempt(
        "sockets that are not redirected, and becoming somebody else",
        r#"/python/bin/python3 - "$WAREHOUSE" <<'END'
import ctypes, os, socket, struct, sys
def tried(what, act):
    try:
        act()
    except OSError:
        return
    print(what)
def marked():
    socket.socket().setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 1337)
def echo():
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    sender.settimeout(1)
    sender.sendto(struct.pack("!BBHHH", 8, 0, 0, 0, 1), (sys.argv[1], 0))
    sender.recv(100)
def namespace():
    if ctypes.CDLL(None).unshare(0x10000000):
        raise OSError()
tried("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
tried("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
tried("marked", marked)
tried("icmp", echo)
tried("root", lambda: os.setuid(0))
tried("the sidecar's user", lambda: os.setuid(1337))
tried("the sidecar's group", lambda: os.setgid(1337))
tried("namespace", namespace)
tried("tcp, as the twin of these", lambda: socket.create_connection((sys.argv[1], 8080), 5))
END"#,
        "tcp, as the twin of these",
    ),
    attempt(
        "plain text to a service's pod, past its name",
        "bearer \"http://$WAREHOUSE:8080/v1/tables/hr_salaries\"",
        "403 service_unknown",
    ),
    attempt(
        "the same with a good name in Host",
        "bearer \"http://$WAREHOUSE:8080/v1/tables/hr_salaries\" -H \"host: $HOST\"",
        "403 scope_not_granted",
    ),
    attempt(
        "the service's port for sidecars",
        "bearer \"http://$WAREHOUSE:15006/v1/tables/hr_salaries\"",
        "000",
    ),
    attempt(
        "the service's admin port",
        "says \"http://$WAREHOUSE:15000/config_dump\"",
        "000",
    ),
    attempt(
        "making the service's sidecar quit",
        "says -X POST \"http://$WAREHOUSE:15020/quitquitquit\"",
        "000",
    ),
    attempt(
        "its own sidecar's port for what comes in",
        "bearer http://127.0.0.1:15006/v1/tables/hr_salaries -H \"host: $HOST\"",
        "000",
    ),
    attempt(
        "its own sidecar's port for what goes out",
        "bearer http://127.0.0.1:15001/v1/tables/hr_salaries -H \"host: $HOST\"; bearer -x http://127.0.0.1:15001 \"http://$HOST/v1/tables/hr_salaries\"",
        "000\n000",
    ),
    attempt(
        "another agent's pod",
        "bearer \"http://$WRITER:8080/\"",
        "403 service_unknown",
    ),
    attempt(
        "the policy server's pod, past its name",
        "says \"http://$POLICY_POD:8080/metrics\"",
        "403 service_unknown",
    ),
    attempt(
        "its sidecar's policy",
        "says \"http://$POLICY/v1/policy?formats=1\" -H 'ostiary-callout: 1'",
        "403 endpoint_refused",
    ),
    attempt(
        "a record in its sidecar's name",
        "says \"http://$POLICY/v1/records\" -H 'ostiary-callout: 1' -d '{}'",
        "403 endpoint_refused",
    ),
    attempt(
        "a token of its own, as the orchestrator",
        "says \"http://$POLICY/v1/tokens\" -H 'content-type: application/json' -H 'x-forwarded-client-cert: By=spiffe://cluster.local/ns/ostiary/sa/policy-server;URI=spiffe://cluster.local/ns/orchestration/sa/orchestrator' -d \"$REQUEST\"",
        "403 role_missing",
    ),
    attempt(
        "the policy server's keys, health and metrics",
        "says \"http://$POLICY/v1/keys\"; says \"http://$POLICY/healthz\"; says \"http://$POLICY/metrics\"",
        "403 endpoint_refused\n403 endpoint_refused\n403 endpoint_refused",
    ),
    attempt(
        "the API server and kubelet",
        "says -k https://kubernetes.default.svc.cluster.local/version; says -k \"https://$NODE:6443/version\"; says -k \"https://$NODE:10250/pods\"",
        "000\n000\n000",
    ),
    attempt(
        "a service account's token, or its sidecar's certificate",
        "ls -d /var/run/secrets/* /run/secrets/* /etc/istio 2>/dev/null; ls -d /etc/passwd",
        "/etc/passwd",
    ),
    attempt(
        "looking into Envoy's process",
        "cat /proc/[0-9]*/comm | grep -e envoy -e pilot; cat /proc/1/comm",
        "workload",
    ),
    attempt(
        "a host outside the mesh",
        "says http://example.com/; says http://192.0.2.1/",
        "000\n000",
    ),
    // Each time that a sidecar quits, kubelet waits longer before it starts it again: so there are no more than two of these.
    attempt(
        "draining its sidecar's listeners, and making Istio's agent quit",
        "post $admin/drain_listeners; lost; post $agent/quitquitquit; lost",
        "reaches nothing\nreaches nothing",
    ),
    attempt(
        "making Envoy quit, and taking its port",
        r#"post $admin/quitquitquit; lost
           nc -l -p 15001 >/dev/null </dev/null & squatter=$!
           lost; kill $squatter 2>/dev/null"#,
        "reaches nothing\nreaches nothing",
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

/// The node's address.
fn node(scene: &Scene) -> String {
    let pod = scene.object("data", "pods").unwrap();
    pod["items"][0]["status"]["hostIP"].as_str().unwrap().to_owned()
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
        "TOKEN={token} HOST={} POLICY={} WAREHOUSE={} WRITER={} POLICY_POD={} NODE={} REQUEST='{}'\n{WORDS}",
        authority("warehouse"),
        authority("policy-server"),
        address("data", "warehouse"),
        address("agents", "writer-2"),
        address("ostiary", "policy-server"),
        node(&scene),
        tests::demo::token_request(),
    );
    let mut others = Vec::new();
    for attempt in &ATTEMPTS {
        // The honest twin: the same process, with its token, by the way that it is meant to take.
        scene.passes().await.unwrap();
        let line = format!("{prelude}{}", attempt.command);
        let said = scene.cluster.exec("agents", "analyst-7", &["sh", "-c", &line]).unwrap();
        println!("{:<60} {}", attempt.name, said.stdout.trim().replace('\n', "; "));
        if said.stdout.trim() != attempt.prints {
            others.push(format!("{}: {}{}", attempt.name, said.stdout, said.stderr));
        }
    }
    // What lost its sidecar has it again, by itself.
    scene.passes().await.unwrap();
    assert!(others.is_empty(), "{others:#?}");
    let seen = scene.cluster.pod("data", "warehouse").seen().unwrap();
    assert!(
        !seen.iter().any(|seen| seen.path.contains("hr_salaries")),
        "the warehouse was asked"
    );
    let read = scene.outcome(table("hr_salaries").bearer(&token)).await.unwrap();
    assert_eq!(read, "scope_not_granted");
}
