//! What docs/operations.md tells an operator to type, typed: from an empty cluster to the first denied call.
#![expect(clippy::unwrap_used, reason = "tests")]

use tests::built;
use tests::cluster::Cluster;

const MARK: &str = "<!-- run by e2e_docs -->\n```\n";

fn page() -> String {
    std::fs::read_to_string(built::workspace().join("docs/operations.md")).unwrap()
}

fn commands() -> Vec<String> {
    let page = page();
    let blocks = page.split(MARK).skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap().lines());
    lines.map(ToOwned::to_owned).collect()
}

/// The overlay is the one that the cluster was set up by, so that every command may be repeated.
#[test]
fn what_operators_are_told_to_type_works_and_ends_in_a_denial() {
    let cluster = Cluster::connect().unwrap();
    let top = built::workspace();
    let overlay = built::target().join("cluster/overlay");
    let mut last = String::new();
    let commands = commands();
    for command in &commands {
        println!("$ {command}");
        let words = command.split(' ').map(|word| match word {
            "OVERLAY" => overlay.display().to_string(),
            "k8s/crds" => top.join(word).display().to_string(),
            _ => word.to_owned(),
        });
        let words: Vec<String> = words.collect();
        let (program, arguments) = words.split_first().unwrap();
        assert_eq!(program, "kubectl", "{command}");
        last = cluster.kubectl(arguments).unwrap();
    }
    assert_eq!(commands.len(), 8, "{commands:?}");
    println!("{last}");
    assert!(last.contains("token_missing"));
    assert!(
        page().contains(&format!("```json\n{last}\n```")),
        "the page shows another answer"
    );
}
