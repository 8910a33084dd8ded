//! `ostiary check`: what is right passes, and every mistake in agent and service files is told with its place and what to
//! write instead. Mistakes that a whole tree shows, manifests included, have a folder each (`mistakes/`).
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;

use crate::seeds::{ANALYST, SEEDS, TOOLS, WAREHOUSE};
use crate::support::ostiary;
use serde_json::Value;

/// The three files, with `from` written as `to` in one of them.
fn folder_with(file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("analyst-7.yaml", ANALYST),
        ("mcp.yaml", TOOLS),
        ("warehouse.yaml", WAREHOUSE),
    ] {
        let text = if name == file {
            assert!(text.contains(from), "{from:?} is not in {name}");
            text.replace(from, to)
        } else {
            text.to_owned()
        };
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn good_folder() -> tempfile::TempDir {
    folder_with("warehouse.yaml", "8080", "8080")
}

#[test]
fn every_seeded_mistake_is_told_with_its_place_and_advice() {
    for (file, from, to, place, message, advice) in SEEDS {
        let folder = folder_with(file, from, to);
        let run = ostiary(folder.path(), &["check", "."]);
        assert_eq!(run.code, 1, "{to:?}: {}{}", run.stdout, run.stderr);
        let told = run
            .stdout
            .lines()
            .any(|line| line.starts_with(&format!("./{place}")) && line.contains(message) && line.contains(advice));
        assert!(
            told,
            "{to:?} should give {place} with {message:?} and {advice:?}, but gave:\n{}",
            run.stdout
        );
    }
}

#[test]
fn a_good_folder_passes() {
    let folder = good_folder();
    let run = ostiary(folder.path(), &["check", "."]);
    assert_eq!(
        (run.code, run.stdout.as_str(), run.stderr.as_str()),
        (0, "ok: 3 files, 1 agent, 2 services\n", "")
    );
}

#[test]
fn services_in_shadow_are_named() {
    let folder = folder_with("warehouse.yaml", "protocol: http", "protocol: http\n  mode: shadow");
    let run = ostiary(folder.path(), &["check", "."]);
    let told = "\nin shadow: data/warehouse does not enforce";
    assert!(run.code == 0 && run.stdout.contains(told), "{}", run.stdout);
    let run = ostiary(folder.path(), &["--output", "json", "check", "."]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["in_shadow"], serde_json::json!(["data/warehouse"]));
}

#[test]
fn the_policy_of_the_mini_mesh_passes() {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/mesh/policy");
    let run = ostiary(&policy, &["check", "."]);
    assert_eq!(run.code, 0, "{}", run.stdout);
}

#[test]
fn all_mistakes_of_a_document_are_told_at_once() {
    let folder = folder_with(
        "analyst-7.yaml",
        "  tools: [pandas]",
        "  tools: pandas\n  password: x\n  mayrefresh: selv",
    );
    let run = ostiary(folder.path(), &["check", "."]);
    let lines: Vec<_> = run.stdout.lines().filter_map(|line| line.split(": ").next()).collect();
    let expected = [
        "./analyst-7.yaml:6:10",
        "./analyst-7.yaml:7:3",
        "./analyst-7.yaml:8:3",
        "./analyst-7.yaml:8:15",
        "4 mistakes in 3 files",
    ];
    assert_eq!(lines[..expected.len()], expected, "{}", run.stdout);
}

#[test]
fn the_same_agent_in_two_files_is_told() {
    let folder = good_folder();
    fs::write(folder.path().join("twin.yml"), ANALYST).unwrap();
    let run = ostiary(folder.path(), &["check", "."]);
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("./twin.yml:3:"), "{}", run.stdout);
}

#[test]
fn several_documents_stand_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("all.yaml"),
        format!("{ANALYST}---\n{TOOLS}---\n{WAREHOUSE}...\n"),
    )
    .unwrap();
    let run = ostiary(folder.path(), &["check", "all.yaml"]);
    assert_eq!(run.stdout, "ok: 1 file, 1 agent, 2 services\n", "{}", run.stderr);
}

#[test]
fn json_answers_are_json() {
    let folder = folder_with("warehouse.yaml", "protocol: http", "protocol: htpp");
    let run = ostiary(folder.path(), &["--output", "json", "check", "."]);
    assert_eq!(run.code, 1);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["files"], 3);
    let diagnostic = &report["diagnostics"][0];
    assert_eq!((&diagnostic["line"], &diagnostic["column"]), (&8.into(), &13.into()));
    assert_eq!(diagnostic["file"], "./warehouse.yaml");

    let run = ostiary(good_folder().path(), &["check", ".", "--output", "json"]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (run.code, &report["ok"], &report["diagnostics"]),
        (0, &true.into(), &Value::Array(Vec::new()))
    );
}

#[test]
fn links_are_followed_inside_the_folder_only() {
    use std::os::unix::fs::symlink;
    let outside = good_folder();
    let folder = tempfile::tempdir().unwrap();
    // As a mounted ConfigMap looks.
    fs::create_dir(folder.path().join("..data")).unwrap();
    for (name, text) in [
        ("analyst-7.yaml", ANALYST),
        ("mcp.yaml", TOOLS),
        ("warehouse.yaml", WAREHOUSE),
    ] {
        fs::write(folder.path().join("..data").join(name), text).unwrap();
        symlink(Path::new("..data").join(name), folder.path().join(name)).unwrap();
    }
    let run = ostiary(folder.path(), &["check", "."]);
    assert_eq!(run.stdout, "ok: 3 files, 1 agent, 2 services\n");

    symlink(outside.path().join("mcp.yaml"), folder.path().join("out.yaml")).unwrap();
    let run = ostiary(folder.path(), &["check", "."]);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout
            .contains("./out.yaml:1:1: this symbolic link leads out of the folder"),
        "{}",
        run.stdout
    );
}

#[test]
fn files_are_bounded_and_must_be_text() {
    let folder = good_folder();
    fs::write(folder.path().join("big.yaml"), "#".repeat((1 << 20) + 1)).unwrap();
    fs::write(folder.path().join("latin.yaml"), b"a: 1\nb: \xe4\n").unwrap();
    let run = ostiary(folder.path(), &["check", "."]);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout
            .contains("./big.yaml:1:1: the file has more than 1048576 bytes"),
        "{}",
        run.stdout
    );
    assert!(
        run.stdout.contains("./latin.yaml:2:4: this is not UTF-8 text"),
        "{}",
        run.stdout
    );
}

#[test]
fn nothing_to_check_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let empty = ostiary(folder.path(), &["check", "."]);
    assert_eq!((empty.code, empty.stdout.as_str()), (2, ""));
    assert!(empty.stderr.contains("no agent or service file"));
    let missing = ostiary(folder.path(), &["check", "nowhere"]);
    assert_eq!(missing.code, 2);
    assert!(missing.stderr.contains("`nowhere`"), "{}", missing.stderr);
}
