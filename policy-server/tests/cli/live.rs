//! `ostiary check --live`: it asks by kubectl, tells people and programs, and says by its exit code how it went. What it
//! finds in a dump is `live.rs`'s to test.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::{Run, command, ostiary};
use serde_json::{Value, json};
use tempfile::TempDir;

fn dumps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dumps")
}

/// A `kubectl` that answers with the saved lists and dumps; `extra` is shell that runs before.
fn kubectl(extra: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "#!/bin/sh\n{extra}\ncd '{}'\ncase \"$*\" in\n\
         *'get namespaces'*) cat namespaces.json ;;\n*'get pods'*) cat pods.json ;;\n\
         '--namespace data exec '*|'--namespace agents exec '*) cat warehouse.json ;;\n\
         *) echo \"not known: $*\" >&2; exit 1 ;;\nesac\n",
        dumps().display()
    );
    let path = folder.path().join("kubectl");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn live(extra: &str, arguments: &[&str]) -> Run {
    let folder = kubectl(extra);
    let mut command = command(folder.path(), &[&["check", "--live"], arguments].concat());
    command.env("KUBECTL", folder.path().join("kubectl"));
    command.output().unwrap().into()
}

#[test]
fn the_table_names_every_listener_and_exits_with_0_when_all_is_in_order() {
    let run = live("", &[]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{}", run.stdout);
    for line in [
        "data/warehouse (stable)",
        "  inbound   virtualInbound    http ×2  sha256:cdc8ab74f8b7  ok",
        "  own       0.0.0.0_15021     http                          health of the sidecar",
        "ok: 3 pods, the filter is in all 9 chains that read requests",
    ] {
        assert!(
            run.stdout.lines().any(|written| written == line),
            "{line}\n{}",
            run.stdout
        );
    }
}

#[test]
fn findings_exit_with_1_and_are_told_to_programs_too() {
    let faulty = r#"case "$*" in *'exec reports'*) cat "$DUMPS/reports-not-loaded.json"; exit ;; esac"#;
    let faulty = faulty.replace("$DUMPS", dumps().to_str().unwrap());
    let run = live(&faulty, &[]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    let last: Vec<_> = run.stdout.lines().rev().take(3).collect();
    assert_eq!(last[0], "2 findings in 3 pods");
    assert!(last[2].starts_with("data/reports: virtualInbound, 0.0.0.0_8080: the module of `extensions.istio.io/"));
    assert!(
        last[1].starts_with("data/reports: virtualInbound: port 9000 is TCP to Istio"),
        "{}",
        last[1]
    );

    let run = live(&faulty, &["--output", "json"]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((run.code, &report["ok"]), (1, &json!(false)));
    assert_eq!(report["findings"][0]["code"], "filter_not_loaded");
    assert_eq!(report["findings"][1]["code"], "tcp_port");
    assert_eq!(report["findings"].as_array().unwrap().len(), 2);
    let warehouse = &report["pods"][2]["chains"];
    let inbound = warehouse
        .as_array()
        .unwrap()
        .iter()
        .find(|chain| chain["chain"] == "0.0.0.0_8080")
        .unwrap();
    assert_eq!(
        (&inbound["failure"], &inbound["carries"]),
        (&json!("reload"), &json!("http"))
    );
}

#[test]
fn a_sidecar_that_does_not_answer_is_a_finding_and_a_cluster_that_does_not_is_an_error() {
    let silent = live(
        "case \"$*\" in *'exec reports'*) echo 'container not found' >&2; exit 1 ;; esac",
        &[],
    );
    assert_eq!(silent.code, 1);
    assert!(
        silent
            .stdout
            .contains("data/reports: its sidecar does not answer: container not found;"),
        "{}",
        silent.stdout
    );

    let down = live("echo 'connection refused' >&2; exit 1", &[]);
    assert_eq!(down.code, 2);
    assert!(down.stderr.contains("connection refused"), "{}", down.stderr);
    let nobody = live(r#"case "$*" in *'get pods'*) echo '{"items": []}'; exit ;; esac"#, &[]);
    assert_eq!(nobody.code, 2);
    assert!(nobody.stderr.contains("no pod of the mesh"), "{}", nobody.stderr);
}

#[test]
fn the_context_and_the_namespace_are_kubectls() {
    let wanted = r#"case "$*" in
        '--context=there get namespaces --output=json') cat "$D/namespaces.json"; exit ;;
        '--context=there get pods --output=json --namespace data') cat "$D/pods.json"; exit ;;
        '--context=there --namespace '*' --container istio-proxy -- pilot-agent request GET config_dump') cat "$D/warehouse.json"; exit ;;
      esac"#;
    let wanted = wanted.replace("$D", dumps().to_str().unwrap());
    let run = live(&wanted, &["--context", "there", "--namespace", "data"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    for arguments in [&["policy/"][..], &["--manifests", "x"]] {
        assert_eq!(live("", arguments).code, 2);
    }
    // They say where to look, and without --live nothing is looked at.
    assert_eq!(
        ostiary(Path::new("."), &["check", "policy/", "--namespace", "data"]).code,
        2
    );
}
