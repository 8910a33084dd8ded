//! `ostiary agent` and `ostiary revoke` beside a running server, on its operator socket and as a principal.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;

use crate::support::{Run, Serving, mesh_policy, ostiary};
use serde_json::{Value, json};

/// The principal of the key file is a reviewer; the server's own user is an operator.
const CONFIG: &str = "trustDomain: cluster.local
identity: spiffe://cluster.local/ns/ostiary/sa/policy-server
hosts: [policy-server.ostiary.svc.cluster.local]
listen: { unix: ostiary.sock }
data: data
policy: policy
authentication:
  mode: keyFile
  path: reviewer.key
  principal: spiffe://cluster.local/ns/people/sa/reviewer
roles:
  spiffe://cluster.local/ns/people/sa/reviewer: [reviewer]
";
const OPERATOR: &[&str] = &["--config", "ostiary.yaml"];
const REVIEWER: &[&str] = &["--unix", "ostiary.sock", "--key-file", "reviewer.key"];

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

    fn run(&self, arguments: &[&str], caller: &[&str]) -> Run {
        ostiary(self.folder.path(), &[arguments, caller].concat())
    }

    fn change(&self, change: &str, caller: &[&str]) -> Run {
        self.run(&["agent", change, "analyst-7", "--reason", "INC-42"], caller)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let run = self.run(&[arguments, &["--output", "json"]].concat(), OPERATOR);
        serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{} {}", run.stdout, run.stderr))
    }
}

#[test]
fn agents_are_changed_listed_and_shown() {
    let server = Server::start();
    let run = server.run(&["agent", "list"], OPERATOR);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "analyst-7  active\nwriter-2  active\n")
    );
    for (change, caller, said) in [
        ("pause", REVIEWER, "paused: analyst-7 is paused; "),
        ("approve", REVIEWER, "approved: analyst-7 is active; "),
        ("suspend", OPERATOR, "suspended: analyst-7 is suspended; "),
        ("kill", OPERATOR, "killed: analyst-7 is killed; "),
        ("kill", OPERATOR, "killed: analyst-7 is killed already; "),
    ] {
        let run = server.change(change, caller);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{change}: {}", run.stdout);
        assert!(run.stdout.starts_with(said), "{}", run.stdout);
    }
    let run = server.run(&["review"], REVIEWER);
    assert_eq!((run.code, run.stdout.as_str()), (0, "nobody waits\n"));
    server.run(&["agent", "pause", "writer-2", "--reason", "odd"], OPERATOR);
    let run = server.run(&["review"], REVIEWER);
    assert_eq!(run.code, 1, "{}", run.stdout);
    assert!(
        run.stdout.starts_with("writer-2  paused\n") && run.stdout.ends_with(": odd\n"),
        "{}",
        run.stdout
    );
    let run = server.run(&["agent", "list", "--state", "killed"], OPERATOR);
    let (first, second) = run.stdout.split_once('\n').unwrap();
    assert_eq!((run.code, first), (0, "analyst-7  killed"));
    assert!(
        second.ends_with("suspended -> killed by the server's own user (operator): INC-42\n"),
        "{second}"
    );
    let run = server.run(&["agent", "list", "--state", "suspended"], OPERATOR);
    assert_eq!((run.code, run.stdout.as_str()), (0, "none\n"));
    let run = server.run(&["agent", "show", "analyst-7"], OPERATOR);
    assert_eq!((run.code, run.stdout.lines().count()), (0, 5), "{}", run.stdout);
    let reviewer = "by spiffe://cluster.local/ns/people/sa/reviewer (reviewer)";
    assert!(run.stdout.contains(reviewer), "{}", run.stdout);
    let shown = server.json(&["agent", "show", "analyst-7"]);
    assert_eq!(shown.pointer("/changes/0/change"), Some(&json!("kill")));
    let listed = server.json(&["agent", "list"]);
    assert_eq!(listed.pointer("/agents/0/state"), Some(&json!("killed")));
}

#[test]
fn a_refusal_exits_with_1_and_says_why() {
    let server = Server::start();
    for (arguments, caller, code, word) in [
        (
            &["agent", "kill", "analyst-7", "--reason", "r"][..],
            REVIEWER,
            "role_missing (403)",
            "only an operator may kill",
        ),
        (
            &["agent", "kill", "analyst-8", "--reason", "r"],
            OPERATOR,
            "agent_unknown (404)",
            "no file names this agent",
        ),
        (
            &["agent", "show", "analyst-8"],
            OPERATOR,
            "agent_unknown (404)",
            "field: agent",
        ),
        (
            &["agent", "kill", "analyst-7", "--reason", " "],
            OPERATOR,
            "request_malformed (400)",
            "field: reason",
        ),
        (
            &["revoke", "--jti", "j", "--reason", "r"],
            REVIEWER,
            "role_missing (403)",
            "operator",
        ),
    ] {
        let run = server.run(arguments, caller);
        assert_eq!(
            (run.code, run.stderr.as_str()),
            (1, ""),
            "{arguments:?}: {}",
            run.stdout
        );
        assert!(run.stdout.contains(code) && run.stdout.contains(word), "{}", run.stdout);
    }
    server.change("kill", OPERATOR);
    let run = server.change("approve", OPERATOR);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.contains("an agent that is killed cannot be approved"),
        "{}",
        run.stdout
    );
    let folder = server.folder.path().join("elsewhere");
    let nowhere = ["--data", folder.to_str().unwrap()];
    let run = server.change("kill", &nowhere);
    assert_eq!((run.code, run.stdout.as_str()), (2, ""));
    assert!(run.stderr.contains("is it running"), "{}", run.stderr);
}

#[test]
fn a_token_is_revoked() {
    let server = Server::start();
    let run = server.run(&["revoke", "--jti", "-abc", "--reason", "leaked"], OPERATOR);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    assert!(
        run.stdout
            .starts_with("revoked: a token that this server did not issue"),
        "{}",
        run.stdout
    );
    for (arguments, said) in [
        (
            ["--txn", "t1"],
            "revoked: no token was alive; none is issued for user request t1 again\n",
        ),
        (
            ["--operation", "o"],
            "revoked: no token was alive; none is issued for operation o before ",
        ),
    ] {
        let run = server.run(&[&["revoke", "--reason", "INC-42"], &arguments[..]].concat(), OPERATOR);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
        assert!(run.stdout.starts_with(said), "{}", run.stdout);
    }
}
