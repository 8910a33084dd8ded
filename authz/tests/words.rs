//! Words that leave the crate: in metrics, records and look-ups.

#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use authz::{request::Side, scope::Scope};

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
