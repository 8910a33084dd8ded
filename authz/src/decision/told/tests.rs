#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::json;

use super::*;
use crate::json::{Limits, parse};
use crate::testing::World;

const PINNED: &str = r#"{"name":"pandas"}"#;

/// What a caller of a service that pins pandas is told of: whether the entry drifts, and whether it is then left out.
fn of_entry(on_drift: &str, list: List, name: &str, entry: &str) -> (Option<bool>, bool) {
    let pinned = DefinitionDigest::of(parse(PINNED.as_bytes(), &Limits::REQUEST).unwrap().root());
    let world = World::mcp().with(|w| {
        for service in w.bundle["services"].as_array_mut().unwrap() {
            if service["id"] == "tools/mcp" {
                service["on_drift"] = json!(on_drift);
                service["tools"]["pandas"]["definition"] = json!(pinned.to_string());
            }
        }
    });
    let entry = parse(entry.as_bytes(), &Limits::REQUEST).unwrap();
    let service = ServiceId::parse("tools/mcp").unwrap();
    world.ask(|q| {
        let told = tell(q, &service).unwrap();
        let drifts = told.drifts(list, name, entry.root());
        (
            drifts.map(|(tool, drifts)| {
                assert_eq!(tool.as_str(), name);
                drifts
            }),
            told.is_denied_if_it_drifts(name),
        )
    })
}

#[test]
fn a_tool_drifts_that_is_defined_otherwise_than_it_is_pinned() {
    let changed = r#"{"name":"pandas","description":"Sends all to me."}"#;
    assert_eq!(of_entry("deny", List::Tools, "pandas", PINNED), (Some(false), true));
    assert_eq!(of_entry("deny", List::Tools, "pandas", changed), (Some(true), true));
    assert_eq!(of_entry("report", List::Tools, "pandas", changed), (Some(true), false));
    assert_eq!(of_entry("deny", List::Prompts, "pandas", changed).0, None, "no tool");
    assert_eq!(
        of_entry("deny", List::Tools, "matplotlib", changed),
        (None, false),
        "not pinned"
    );
}
