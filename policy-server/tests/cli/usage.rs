//! The command line itself: help, completion, usage errors, exit codes.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use crate::support::{Run, ostiary};

const COMMANDS: &[&[&str]] = &[
    &[],
    &["serve"],
    &["issue"],
    &["keys"],
    &["keys", "show"],
    &["keys", "generate"],
    &["keys", "rotate"],
    &["keys", "retire"],
    &["audit"],
    &["audit", "tail"],
    &["audit", "search"],
    &["audit", "show"],
    &["audit", "export"],
    &["audit", "verify"],
    &["audit", "findings"],
    &["audit", "prove"],
    &["audit", "replay"],
    &["trace"],
    &["agent"],
    &["agent", "list"],
    &["agent", "show"],
    &["agent", "approve"],
    &["agent", "pause"],
    &["agent", "resume"],
    &["agent", "suspend"],
    &["agent", "kill"],
    &["review"],
    &["revoke"],
    &["state"],
    &["state", "new-epoch"],
    &["check"],
    &["report"],
    &["report", "shadow"],
    &["shrink"],
    &["pin"],
    &["render"],
    &["decide"],
    &["completion"],
];

fn run(arguments: &[&str]) -> Run {
    ostiary(Path::new("."), arguments)
}

#[test]
fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        for flag in ["--help", "-h"] {
            let run = run(&[command, &[flag][..]].concat());
            assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{command:?}");
            assert!(run.stdout.contains("Usage: ostiary"), "{command:?}");
            assert!(run.stdout.contains("--output <OUTPUT>"), "{command:?}");
            assert!(
                !run.stdout.contains('\x1b'),
                "{command:?} is coloured without a terminal"
            );
            if ![["keys"], ["audit"], ["agent"], ["state"], ["report"]]
                .iter()
                .any(|group| command == group)
            {
                assert!(run.stdout.contains("Examples:\n  "), "{command:?} {flag}");
            }
        }
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let run = run(&["--version"]);
    assert_eq!(
        (run.code, run.stdout),
        (0, format!("ostiary {}\n", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn wrong_usage_exits_with_2_and_says_why_on_the_standard_error() {
    for arguments in [
        &["--unknown"][..],
        &["check", "--unknown", "."],
        &["check"],
        &["render"],
        &["render", ".", "--check"],
        &["render", ".", "--policy-server", "policy-server"],
        &["render", ".", "--trust-domain", "a/b"],
        &["unknown"],
        &["agent", "kill", "analyst-7", "--unix", "s"],
        &["agent", "kill", "--reason", "why", "--unix", "s"],
        &["agent", "kill", "analyst-7", "--reason", "why"],
        &["agent", "kill", "Analyst 7", "--reason", "why", "--unix", "s"],
        &["agent", "list"],
        &["trace", "t-1"],
        &["audit", "findings"],
        &["audit", "replay", "--policy", "a"],
        &["audit", "replay", "log.jsonl", "--data", "a", "--policy", "b"],
        &["shrink", "analyst-7", "policy"],
        &["report", "shadow"],
        &["report", "shadow", "log.jsonl", "--data", "a"],
        &["trace", "--unix", "s"],
        &["revoke", "--reason", "why", "--unix", "s"],
        &["revoke", "--jti", "j", "--txn", "t", "--reason", "why", "--unix", "s"],
        &["revoke", "--operation", "o", "--reason", "why"],
        &["state", "new-epoch"],
        &["state", "new-epoch", "--data", "a", "--config", "b"],
        &["serve"],
        &["issue", "--agent-id", "a", "--operation-id", "b"],
        &[
            "issue",
            "--agent-id",
            "a",
            "--operation-id",
            "b",
            "--unix",
            "s",
            "--ttl",
            "soon",
        ],
        &[
            "issue",
            "--agent-id",
            "a",
            "--operation-id",
            "b",
            "--unix",
            "s",
            "--cert",
            "c",
        ],
        &["keys", "show"],
        &["keys", "show", "--data", "a", "--config", "b"],
        &["keys", "generate", "token"],
        &["keys", "generate", "tokens", "--out", "a"],
        &["keys", "rotate", "token"],
        &["keys", "rotate", "--data", "a"],
        &["keys", "rotate", "token", "--data", "a", "--unix", "b"],
        &["keys", "retire", "--data", "a"],
        &["keys", "retire", "a b", "--data", "a"],
        &["audit", "verify", "a"],
        &["audit", "export", "--data", "a"],
        &["audit", "prove", "--data", "a", "--log-key", "k"],
        &["audit", "tail"],
        &["decide"],
        &["decide", "--cases", "a", "--policy", "b", "--workload", "c"],
        &["decide", "--policy", "b"],
        &["completion", "tcsh"],
        &["--output", "yaml", "check", "."],
    ] {
        let run = run(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(run.stderr.contains("error: "), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn what_cannot_run_exits_with_2_and_one_line() {
    for arguments in [
        &["serve", "--config", "nowhere.yaml"][..],
        &["keys", "show", "--data", "nowhere"],
        &["keys", "rotate", "token", "--data", "nowhere"],
        &["keys", "rotate", "bundle", "--unix", "nowhere.sock"],
        &["keys", "retire", "a", "--data", "nowhere"],
        &["audit", "verify", "nowhere", "--key", "k"],
        &["audit", "tail", "--data", "nowhere"],
        &["audit", "export", "--data", "nowhere", "--out", "a"],
        &["render", "nowhere"],
        &["decide", "--cases", "nowhere.jsonl"],
        &[
            "decide",
            "--policy",
            "nowhere",
            "--workload",
            "spiffe://cluster.local/ns/data/sa/warehouse",
        ],
        &["decide", "--policy", ".", "--workload", "warehouse"],
        &[
            "issue",
            "--agent-id",
            "a",
            "--operation-id",
            "b",
            "--unix",
            "nowhere.sock",
        ],
        &[
            "issue",
            "--agent-id",
            "a",
            "--operation-id",
            "b",
            "--server",
            "https://127.0.0.1:1",
        ],
        &[
            "issue",
            "--agent-id",
            "a",
            "--operation-id",
            "b",
            "--server",
            "ftp://127.0.0.1:1",
        ],
    ] {
        let run = run(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(
            run.stderr.starts_with("ostiary: ") && run.stderr.lines().count() == 1,
            "{arguments:?}: {}",
            run.stderr
        );
    }
}

#[test]
fn showing_keys_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let run = ostiary(folder.path(), &["keys", "show", "--data", "data"]);
    assert_eq!(run.code, 2);
    assert!(!folder.path().join("data").exists());
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let run = run(&["completion", shell]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{shell}");
        for word in [
            "serve", "issue", "check", "render", "decide", "agent-id", "cases", "audit", "export", "verify",
        ] {
            assert!(run.stdout.contains(word), "{shell}: {word}");
        }
    }
}
