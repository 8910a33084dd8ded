#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::jws::NoExternal;
use crate::testing::{World, jwk};

fn read(line: &Value) -> Result<Case, CaseError> {
    Case::read(line.to_string().as_bytes(), |folder, _| {
        Err(format!("no folder `{folder}`"))
    })
}

fn error_with(change: impl FnOnce(&mut Value)) -> String {
    let mut line = World::warehouse().line();
    change(&mut line);
    match read(&line) {
        Err(error) => error.to_string(),
        Ok(case) => run(&case, &NoExternal).unwrap_err().to_string(),
    }
}

#[test]
fn a_bad_case_names_its_field() {
    for (error, field) in [
        (error_with(|line| line["revokd"] = json!([])), "revokd"),
        (error_with(|line| line["side"] = json!("sideways")), "sideways"),
        (error_with(|line| line["now"] = json!(1.0)), "1.0"),
        (error_with(|line| line["workload"] = json!("warehouse")), "SPIFFE ID"),
        (error_with(|line| line["request"]["body"] = json!("")), "body"),
        (
            error_with(|line| line["request"]["body_base64"] = json!("*")),
            "request.body_base64",
        ),
        (error_with(|line| line["trust"] = json!({"keys": []})), "trust"),
        (error_with(|line| line["states"] = json!({})), "states"),
        (error_with(|line| line["policy"] = json!("folder")), "policy"),
        (
            error_with(|line| drop(line.as_object_mut().unwrap().remove("trust"))),
            "trust",
        ),
        (
            error_with(|line| drop(line.as_object_mut().unwrap().remove("now"))),
            "now",
        ),
    ] {
        assert!(error.contains(field), "{error}");
    }
    assert!(matches!(Case::read(b"{", |_, _| Err("")), Err(CaseError::Json(_))));
    assert!(matches!(
        Case::read(br#"{"id":1,"id":2}"#, |_, _| Err("")),
        Err(CaseError::Json(_))
    ));
}

#[test]
fn policy_that_no_filter_would_take_denies() {
    let code = |change: fn(&mut Value)| {
        let mut line = World::warehouse().line();
        change(&mut line);
        run(&read(&line).unwrap(), &NoExternal).unwrap().code
    };
    assert_eq!(code(|_| {}), "ok");
    assert_eq!(
        code(|line| line["trust"] = json!({"keys": [jwk(3)]})),
        "policy_unavailable"
    );
    assert_eq!(code(|line| line["bundle"] = json!("a.b.c")), "policy_unavailable");
    assert_eq!(
        code(|line| line["state"] = line["bundle"].clone()),
        "policy_unavailable"
    );
}

#[test]
fn the_port_is_said_or_found() {
    let code = |change: fn(&mut Value)| {
        let mut line = World::warehouse().line();
        change(&mut line);
        run(&read(&line).unwrap(), &NoExternal).unwrap().code
    };
    assert_eq!(code(|line| line["local_port"] = json!(8080)), "ok");
    assert_eq!(code(|line| line["local_port"] = json!(8081)), "service_unknown");
    let several = World::warehouse().with(|w| {
        w.bundle["services"][0]["ports"] = json!([8080, 8081]);
        w.header("host", "warehouse.data.svc.cluster.local");
    });
    let error = run(&read(&several.line()).unwrap(), &NoExternal).unwrap_err();
    assert!(error.to_string().contains("local_port"));
}

#[test]
fn a_verdict_has_every_field() {
    let denied = World::legacy_mcp("matplotlib", json!({})).verdict();
    assert_eq!(
        serde_json::to_value(&denied).unwrap(),
        json!({"id": "w", "verdict": "deny", "code": "tool_not_granted", "status": 403,
            "needed": {"tool": "matplotlib"}, "agent_id": "analyst-7", "scope": null, "tool": "matplotlib"})
    );
    let malformed = World::warehouse().with(|w| w.path = "//".to_owned()).verdict();
    assert_eq!(
        serde_json::to_value(&malformed).unwrap(),
        json!({"id": "w", "verdict": "deny", "code": "path_not_canonical", "status": 400, "needed": {},
            "agent_id": null, "scope": null, "tool": null})
    );
}
