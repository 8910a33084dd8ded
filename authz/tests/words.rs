//! Words that leave the crate: in metrics, records and look-ups.

#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use authz::{
    request::Side,
    scope::{MAX_SCOPE_BYTES, Scope, ScopeSet, ScopeTemplate},
};

#[test]
fn sides_are_named_as_metrics_and_records_name_them() {
    assert_eq!(Side::Inbound.as_str(), "inbound");
    assert_eq!(Side::Outbound.as_str(), "outbound");
}

#[test]
fn a_scope_is_found_by_its_text() {
    let scopes = BTreeSet::from(["read:data.a", "write:report.b"].map(|text| Scope::parse(text).unwrap()));
    assert!(scopes.contains("write:report.b"));
    assert!(!scopes.contains("write:report"));
}

#[test]
fn a_set_of_scopes_holds_each_once() {
    let set: ScopeSet = serde_json::from_str(r#"["write:b", "read:a", "read:a"]"#).unwrap();
    assert_eq!((set.len(), set.is_empty()), (2, false));
    let scopes: Vec<&str> = (&set).into_iter().map(Scope::as_str).collect();
    assert_eq!(scopes, ["read:a", "write:b"]);
    assert!(ScopeSet::default().is_empty());
}

#[test]
fn a_scope_made_from_a_request_is_no_longer_than_a_written_one() {
    let template = ScopeTemplate::parse("read:data.{table}").unwrap();
    let longest = "a".repeat(MAX_SCOPE_BYTES - "read:data.".len());
    let made = template.render(|_| Some(&longest)).unwrap();
    assert_eq!(Scope::parse(made.as_str()).unwrap(), made);
    let longer = format!("{longest}a");
    assert!(template.render(|_| Some(&longer)).is_err());
}
