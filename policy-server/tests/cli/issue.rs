//! A server on a laptop and its tools: `serve`, `keys show`, `issue`, and `decide` on what was issued.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;

use crate::support::{Run, Serving, mesh_policy, ostiary};
use serde_json::Value;

const CONFIG: &str = "trustDomain: cluster.local
identity: spiffe://cluster.local/ns/ostiary/sa/policy-server
hosts: [policy-server.ostiary.svc.cluster.local]
listen: { unix: ostiary.sock }
data: data
policy: policy
authentication:
  mode: keyFile
  path: issuer.key
  principal: spiffe://cluster.local/ns/orchestration/sa/orchestrator
roles:
  spiffe://cluster.local/ns/orchestration/sa/orchestrator: [issuer]
";

/// A server with the mini mesh's policy; it ends with the test.
struct Server {
    // Ends before its folder does.
    _serving: Serving,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ostiary.yaml"), CONFIG).unwrap();
        mesh_policy(folder.path());
        let serving = Serving::start(folder.path());
        Self {
            folder,
            _serving: serving,
        }
    }

    fn run(&self, arguments: &[&str]) -> Run {
        ostiary(self.folder.path(), arguments)
    }

    fn issue(&self, more: &[&str]) -> Run {
        let flags = [
            "issue",
            "--unix",
            "ostiary.sock",
            "--key-file",
            "issuer.key",
            "--operation-id",
            "report-2026-q1",
        ];
        self.run(&[&flags[..], more].concat())
    }
}

const RIGHTS: &[&str] = &[
    "--agent-id",
    "analyst-7",
    "--scope",
    "read:data.sales_q1_2026",
    "--tools",
    "pandas,matplotlib",
    "--ttl",
    "2m",
];

#[test]
fn a_token_is_issued_and_decided_on() {
    let server = Server::start();
    let run = server.issue(RIGHTS);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    assert_eq!(run.stdout.trim().split('.').count(), 3);
    fs::write(server.folder.path().join("token"), &run.stdout).unwrap();

    let keys = server.run(&["--output", "json", "keys", "show", "--config", "ostiary.yaml"]);
    assert_eq!((keys.code, keys.stderr.as_str()), (0, ""));
    let keys: Value = serde_json::from_str(&keys.stdout).unwrap();
    fs::write(server.folder.path().join("jwks.json"), keys["token_keys"].to_string()).unwrap();
    assert_ne!(
        keys["token_keys"]["keys"][0]["kid"],
        keys["bundle_keys"]["keys"][0]["kid"]
    );

    let decide = |path: &str| {
        let flags = [
            "decide",
            "--policy",
            "policy",
            "--workload",
            "spiffe://cluster.local/ns/data/sa/warehouse",
            "--peer",
            "spiffe://cluster.local/ns/agents/sa/analyst-7",
            "--token-file",
            "token",
            "--issuer-jwks",
            "jwks.json",
            "--path",
            path,
        ];
        server.run(&flags).code
    };
    assert_eq!(decide("/v1/tables/sales_q1_2026"), 0);
    assert_eq!(decide("/v1/tables/salaries"), 1);
}

#[test]
fn answers_in_json_hold_what_the_server_said() {
    let server = Server::start();
    let run = server.issue(&[RIGHTS, &["--txn", "user-request-1", "--output", "json"]].concat());
    let answer: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, &answer["txn"]), (0, &"user-request-1".into()));
    assert!(answer["token"].is_string() && answer["jti"].is_string() && answer["expires_at"].is_u64());
}

#[test]
fn refusals_are_readable() {
    let server = Server::start();
    let run = server.issue(&["--agent-id", "analyst-7", "--scope", "read:data.*"]);
    assert_eq!((run.code, run.stderr.as_str()), (1, ""));
    assert!(
        run.stdout.starts_with("refused: ") && run.stdout.contains("field: scope/0"),
        "{}",
        run.stdout
    );

    let run = server.issue(&["--agent-id", "nobody", "--scope", "read:data.x", "--output", "json"]);
    let problem: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, &problem["field"]), (1, &"agent_id".into()), "{problem}");

    fs::write(server.folder.path().join("wrong.key"), "0".repeat(43)).unwrap();
    let flags = [
        "issue",
        "--unix",
        "ostiary.sock",
        "--key-file",
        "wrong.key",
        "--agent-id",
        "analyst-7",
    ];
    let run = server.run(&[&flags[..], &["--operation-id", "x"]].concat());
    assert!(
        run.code == 1 && run.stdout.contains("(401)"),
        "{}{}",
        run.stdout,
        run.stderr
    );
}

#[test]
fn keys_are_shown_without_their_private_halves() {
    let server = Server::start();
    let run = server.run(&["keys", "show", "--data", "data"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    assert!(
        run.stdout.contains("bundle_keys") && run.stdout.contains("thumbprints (RFC 7638)"),
        "{}",
        run.stdout
    );
    for name in ["token", "bundle"] {
        let file = fs::read_to_string(server.folder.path().join(format!("data/keys/{name}.json"))).unwrap();
        let private: Value = serde_json::from_str(&file).unwrap();
        assert!(!run.stdout.contains(private["d"].as_str().unwrap()));
        assert!(run.stdout.contains(private["x"].as_str().unwrap()));
    }
}
