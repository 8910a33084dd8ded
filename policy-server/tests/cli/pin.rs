//! `ostiary pin`: what a service tells of its tools becomes what its file says of them.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;

use crate::seeds::TOOLS;
use crate::support::{Run, ostiary};
use serde_json::Value;

const LISTED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[
  {"name":"bash","description":"Runs."},{"name":"pandas","description":"Evaluates."},{"name":"curl"}]}}"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new(file: &str, listed: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.0.path().join("policy")).unwrap();
        fs::write(place.0.path().join("policy/mcp.yaml"), file).unwrap();
        fs::write(place.0.path().join("tools.json"), listed).unwrap();
        place
    }

    fn pin(&self, more: &[&str]) -> Run {
        let arguments = [&["pin", "mcp", "policy", "--list", "tools.json"], more].concat();
        ostiary(self.0.path(), &arguments)
    }
}

/// The file with the `tools` that were printed.
fn pinned(printed: &str) -> String {
    let (before, _) = TOOLS.split_once("  tools:\n").unwrap();
    let (_, tools) = printed.split_once("  tools:\n").unwrap();
    format!("{before}  tools:\n{tools}\n")
}

#[test]
fn what_is_printed_is_what_the_file_is_to_say() {
    let place = Place::new(TOOLS, LISTED);
    let first = place.pin(&[]);
    assert_eq!((first.code, first.stderr.as_str()), (1, ""), "{}", first.stdout);
    assert!(first.stdout.contains("# not pinned before"), "{}", first.stdout);
    assert!(
        first.stdout.contains("not offered by the file: curl"),
        "{}",
        first.stdout
    );
    // printf '{"description":"Evaluates.","name":"pandas"}' | sha256sum
    assert!(
        first.stdout.contains(
            "    pandas: { definition: \"sha256:3f77946418c3dc1663daf6866c4c37c00e655d62d84d2907d74ec0023631909c\" }"
        ),
        "{}",
        first.stdout
    );

    let file = pinned(&first.stdout);
    let again = Place::new(&file, LISTED).pin(&[]);
    assert_eq!(again.code, 0, "{file}\n{}", again.stdout);

    let changed = LISTED.replace("Evaluates.", "Evaluates! ");
    let drifted = Place::new(&file, &changed).pin(&["--output", "json"]);
    let told: Value = serde_json::from_str(&drifted.stdout).unwrap();
    assert_eq!((drifted.code, &told["service"]), (1, &"tools/mcp".into()));
    let states: Vec<_> = told["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| (&tool["tool"], &tool["state"]))
        .collect();
    assert_eq!(
        states,
        [
            (&"bash".into(), &"pinned".into()),
            (&"pandas".into(), &"drifted".into())
        ]
    );

    let without = LISTED.replace(r#"{"name":"bash","description":"Runs."},"#, "");
    let absent = Place::new(&file, &without).pin(&[]);
    assert_eq!(absent.code, 1);
    assert!(
        absent.stdout.contains("# the service does not list it"),
        "{}",
        absent.stdout
    );
}

#[test]
fn what_cannot_be_pinned_says_why() {
    for (file, listed, more, words) in [
        (TOOLS, "{}", &[][..], "is no answer to `tools/list`"),
        (TOOLS, LISTED, &["--list", "tools.json"], "is listed twice"),
        (TOOLS, LISTED, &["--list", "none.json"], "cannot read `none.json`"),
        (
            crate::seeds::WAREHOUSE,
            LISTED,
            &[],
            "there is no file of an MCP service `mcp`",
        ),
    ] {
        let run = Place::new(file, listed).pin(more);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{words}");
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
    let wrong = TOOLS.replace("bash: {}", "bash: { definition: \"sha256:0\" }");
    let run = Place::new(&wrong, LISTED).pin(&[]);
    assert_eq!(run.code, 1);
    assert!(
        run.stdout.contains("write what `ostiary pin` prints for it"),
        "{}",
        run.stdout
    );
}
