#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::json::{self, Limits};

pub(crate) fn valid() -> Value {
    json!({
        "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server",
        "sub": "spiffe://cluster.local/ns/agents/sa/analyst-7",
        "aud": ["spiffe://cluster.local/ns/data/sa/warehouse", "spiffe://cluster.local/ns/tools/sa/mcp"],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
        "iat": 1000, "nbf": 1000, "exp": 1300,
        "jti": "n-1", "txn": "t-1",
        "agent_id": "analyst-7", "operation_id": "report-2026-q1",
        "scope": ["read:data.sales_q1_2026"],
        "tools": ["pandas", "mcp/sql_query", "tools/mcp/matplotlib"],
        "forbidden_tools": ["bash"],
        "max_tokens": 50000,
    })
}

fn read(claims: &Value) -> Result<Claims, ClaimsError> {
    read_text(&claims.to_string())
}

fn read_text(claims: &str) -> Result<Claims, ClaimsError> {
    Claims::read(json::parse(claims.as_bytes(), &Limits::REQUEST).unwrap().root())
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = valid();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = valid();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[test]
fn valid_claims_come_back_as_written() {
    let claims = read(&valid()).unwrap();
    assert_eq!(serde_json::to_value(&claims).unwrap(), valid());
}

#[test]
fn what_may_be_absent_and_what_may_not() {
    for name in [
        "iss",
        "sub",
        "aud",
        "issued_by",
        "iat",
        "nbf",
        "exp",
        "jti",
        "agent_id",
        "operation_id",
    ] {
        assert!(read(&without(name)).is_err(), "{name}");
    }
    for name in ["txn", "scope", "tools", "forbidden_tools", "max_tokens"] {
        assert!(read(&without(name)).is_ok(), "{name}");
    }
    assert!(read(&with("unknown", json!({"a": 1}))).is_ok(), "RFC 7519, section 4");
}

#[test]
fn every_type_is_strict() {
    let refused = [
        ("iss", json!(1)),
        ("sub", json!("analyst-7")),
        ("sub", json!(["spiffe://cluster.local/ns/agents/sa/analyst-7"])),
        ("aud", json!([])),
        ("aud", json!("warehouse")),
        ("aud", json!(["spiffe://cluster.local/ns/data/sa/warehouse", 1])),
        ("aud", json!(null)),
        ("exp", json!("1300")),
        ("exp", json!(1300.0)),
        ("exp", json!(1300.5)),
        ("exp", json!(-1)),
        ("exp", json!(null)),
        ("iat", json!(true)),
        ("nbf", json!([1000])),
        ("jti", json!("")),
        ("txn", json!(null)),
        ("agent_id", json!("Analyst-7")),
        ("scope", json!(["read:data.*"])),
        ("scope", json!("read:data.a  read:data.b")),
        ("scope", json!({"read:data": true})),
        ("scope", json!(null)),
        ("tools", json!("pandas")),
        ("tools", json!(["*"])),
        ("tools", json!(["mcp/*"])),
        ("tools", json!(["a/b/c/d"])),
        ("tools", json!(["/pandas"])),
        ("tools", json!(null)),
        ("forbidden_tools", json!([1])),
        ("max_tokens", json!(1.0)),
        ("max_tokens", json!(-1)),
        ("max_tokens", json!(null)),
        ("act", json!({"sub": "spiffe://cluster.local/ns/agents/sa/writer-2"})),
        ("act", json!(null)),
        ("depth", json!(0)),
    ];
    for (name, value) in refused {
        assert!(read(&with(name, value.clone())).is_err(), "{name}: {value}");
    }
    let accepted = [
        ("aud", json!("spiffe://cluster.local/ns/data/sa/warehouse")),
        ("scope", json!("read:data.a read:data.b")),
        ("max_tokens", json!(0)),
    ];
    for (name, value) in accepted {
        assert!(read(&with(name, value.clone())).is_ok(), "{name}: {value}");
    }
}

#[test]
fn exponents_are_not_integers() {
    let text = valid().to_string();
    assert!(read_text(&text).is_ok());
    assert!(read_text(&text.replace("\"exp\":1300", "\"exp\":13e2")).is_err());
}

#[test]
fn lists_are_bounded() {
    let tools = |count: usize| with("tools", (0..count).map(|index| format!("t{index}")).collect());
    assert!(read(&tools(MAX_ENTRIES)).is_ok());
    assert!(read(&tools(MAX_ENTRIES + 1)).is_err());
}

#[test]
fn an_entry_covers_what_it_names() {
    let service = ServiceId::parse("tools/mcp").unwrap();
    let other = ServiceId::parse("lab/mcp").unwrap();
    let pandas = ToolName::parse("pandas").unwrap();
    let covers = |text: &str, service: &ServiceId| ToolGrant::parse(text).unwrap().covers(service, &pandas);
    assert!(covers("pandas", &service) && covers("pandas", &other));
    assert!(covers("mcp/pandas", &service) && covers("mcp/pandas", &other));
    assert!(covers("tools/mcp/pandas", &service) && !covers("tools/mcp/pandas", &other));
    assert!(!covers("data/pandas", &service) && !covers("Pandas", &service) && !covers("panda", &service));
}

#[test]
fn forbidden_and_listed_are_separate_questions() {
    let claims = read(&with("forbidden_tools", json!(["pandas"]))).unwrap();
    let (service, pandas) = (
        ServiceId::parse("tools/mcp").unwrap(),
        ToolName::parse("pandas").unwrap(),
    );
    assert!(claims.lists_tool(&service, &pandas) && claims.forbids(&service, &pandas));
    assert!(!claims.forbids(&service, &ToolName::parse("matplotlib").unwrap()));
    assert!(claims.is_for(&SpiffeId::parse("spiffe://cluster.local/ns/tools/sa/mcp").unwrap()));
    assert!(!claims.is_for(&SpiffeId::parse("spiffe://cluster.local/ns/data/sa/reports").unwrap()));
}
