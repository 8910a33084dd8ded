#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::json;

use super::*;
use crate::decision::Question;
use crate::json::{Limits, parse};
use crate::testing::World;

fn digest(entry: &str) -> String {
    DefinitionDigest::of(parse(entry.as_bytes(), &Limits::REQUEST).unwrap().root()).to_string()
}

#[test]
fn a_digest_is_that_of_the_canonical_form() {
    // printf '{"description":"Evaluates.","name":"pandas"}' | sha256sum
    let expected = "sha256:3f77946418c3dc1663daf6866c4c37c00e655d62d84d2907d74ec0023631909c";
    assert_eq!(digest(r#"{"name":"pandas","description":"Evaluates."}"#), expected);
    assert_eq!(
        digest("{ \"description\" : \"\\u0045valuates.\",\n\"name\":\"pandas\"}"),
        expected
    );
    for other in [
        r#"{"name":"pandas","description":"Evaluates. "}"#,
        r#"{"name":"pandas","description":"Evaluates.","_meta":{}}"#,
        r#"{"name":"pandas"}"#,
    ] {
        assert_ne!(digest(other), expected, "{other}");
    }
}

#[test]
fn only_a_report_goes_without_saying() {
    assert!(OnDrift::Report.is_default());
    assert!(!OnDrift::Deny.is_default());
}

#[test]
fn a_digest_has_one_spelling() {
    let text = digest("{}");
    assert_eq!(String::from(text.parse::<DefinitionDigest>().unwrap()), text);
    assert_eq!(text.parse::<DefinitionDigest>().unwrap().to_string(), text);
    let digits = text.strip_prefix("sha256:").unwrap();
    for bad in [
        digits.to_owned(),
        format!("sha-256:{digits}"),
        format!("SHA256:{digits}"),
        format!("sha256:{}", digits.to_uppercase()),
        format!("sha256:{digits}0"),
        format!("sha256:{digits}00"),
        text.get(..text.len() - 1).unwrap().to_owned(),
        format!("sha256:{}", "g".repeat(64)),
        String::new(),
    ] {
        assert_eq!(bad.parse::<DefinitionDigest>(), Err(DefinitionDigestError), "{bad}");
    }
}

/// The MCP server, which pins one tool, to this definition.
fn pinning(on_drift: &str, tool: &str, definition: &str) -> World {
    World::mcp().with(|w| {
        let service = &mut w.bundle["services"][1];
        service["on_drift"] = json!(on_drift);
        service["tools"][tool]["definition"] = json!(definition);
    })
}

fn server<'a>(q: &Question<'a>) -> &'a Service {
    let mut services = q.bundle.services().iter();
    services.find(|service| service.id().as_str() == "tools/mcp").unwrap()
}

#[test]
fn what_drifts_stays_denied_for_as_long_as_it_is_pinned_to_the_same() {
    let (first, second) = (digest("{}"), digest(r#"{"a":1}"#));
    let called: ToolName = "pandas".parse().unwrap();
    let other: ToolName = "matplotlib".parse().unwrap();
    let denies = |drifts: &Drifts, world: &World, tool: &ToolName| {
        let right = Right::Tool {
            name: tool.clone(),
            scope: None,
        };
        let denial = world.ask(|q| drifts.check(server(q), &right).err());
        denial.is_some_and(|denial| {
            assert_eq!(denial.needed().unwrap().tool.as_deref(), Some(tool.as_str()));
            true
        })
    };
    let note = |drifts: &mut Drifts, world: &World, tool: &ToolName, differs: bool| {
        world.ask(|q| drifts.note(q.bundle, server(q), [(tool, differs)]));
    };
    let pinned = pinning("deny", "pandas", &first);
    let mut drifts = Drifts::default();
    note(&mut drifts, &pinned, &called, false);
    assert!(!denies(&drifts, &pinned, &called));
    note(&mut drifts, &pinned, &called, true);
    assert!(denies(&drifts, &pinned, &called));
    assert!(!denies(&drifts, &pinned, &other), "another tool");
    assert!(!denies(&drifts, &pinning("report", "pandas", &first), &called));
    assert!(
        !denies(&drifts, &pinning("deny", "pandas", &second), &called),
        "pinned anew"
    );

    // What is seen of another tool changes nothing, what is seen of this one does.
    note(&mut drifts, &pinned, &other, true);
    assert!(denies(&drifts, &pinned, &called));
    assert!(!denies(&drifts, &pinned, &other), "it is not pinned");
    let mut as_pinned = drifts.clone();
    note(&mut as_pinned, &pinned, &called, false);
    assert!(!denies(&as_pinned, &pinned, &called));

    // A policy that pins it otherwise has what drifted forgotten, also once it is pinned as before.
    note(&mut drifts, &pinning("deny", "pandas", &second), &other, false);
    assert!(!denies(&drifts, &pinned, &called));
}
