#![expect(clippy::unwrap_used, clippy::string_slice, reason = "tests")]

use super::*;

fn table<T>(parse: impl Fn(&str) -> Result<T, NameError>, accepted: &[&str], refused: &[&str]) {
    for text in accepted {
        assert!(parse(text).is_ok(), "{text}");
    }
    for text in refused {
        assert!(parse(text).is_err(), "{text}");
    }
}

#[test]
fn spiffe_ids() {
    table(
        SpiffeId::parse,
        &[
            "spiffe://cluster.local/ns/agents/sa/analyst-7",
            "spiffe://a/b",
            "spiffe://td_1.x-y/A.b_c-d/...",
        ],
        &[
            "",
            "spiffe://cluster.local",
            "spiffe://cluster.local/",
            "spiffe:///ns/agents",
            "spiffe://cluster.local/ns//sa",
            "spiffe://cluster.local/ns/sa/",
            "spiffe://cluster.local/ns/../sa",
            "spiffe://cluster.local/./sa",
            "spiffe://Cluster.local/sa",
            "SPIFFE://cluster.local/sa",
            "spiffe://cluster.local:80/sa",
            "spiffe://user@cluster.local/sa",
            "spiffe://cluster.local/sa?x=1",
            "spiffe://cluster.local/sa#x",
            "spiffe://cluster.local/s%61",
            "spiffe://cluster.local/sa*",
            "spiffe://cluster.local/sa ",
            " spiffe://cluster.local/sa",
            "spiffe://cluster.local/sä",
            "https://cluster.local/sa",
        ],
    );
    let long = |length: usize| format!("spiffe://td/{}", "a".repeat(length - 12));
    table(SpiffeId::parse, &[&long(2048)], &[&long(2049)]);
    let id = SpiffeId::for_service_account("cluster.local", "agents", "analyst-7").unwrap();
    assert_eq!(id.as_str(), "spiffe://cluster.local/ns/agents/sa/analyst-7");
    assert_eq!(id.trust_domain(), "cluster.local");
    assert!(SpiffeId::for_service_account("cluster.local", "", "x").is_err());
}

#[test]
fn agents_and_services() {
    let long = "a".repeat(64);
    table(
        AgentId::parse,
        &["analyst-7", "a", "7", &long[1..]],
        &["", "-a", "a-", "A", "a.b", "a_b", "a/b", "a*", &long],
    );
    table(
        ServiceId::parse,
        &["data/warehouse"],
        &["warehouse", "data/", "/warehouse", "a/b/c", "data/Warehouse"],
    );
    let id = ServiceId::new("data", "warehouse").unwrap();
    assert_eq!((id.namespace(), id.name()), ("data", "warehouse"));
}

#[test]
fn tools_and_references() {
    let long = "t".repeat(129);
    table(
        ToolName::parse,
        &["pandas", "A.b_c-9", &long[1..]],
        &["", "a b", "a/b", "pаndas", "a*", "a\n", &long],
    );
    table(
        Jti::parse,
        &["a", "urn:x/y+z=~@"],
        &["", "a b", "a\"", "a\\", "é", &long],
    );
    table(
        Issuer::parse,
        &["https://issuer.example/x?y"],
        &["", "a b", "é", "a\u{7f}"],
    );
}

#[test]
fn serde_checks_too() {
    assert_eq!(serde_json::from_str::<AgentId>("\"a\"").unwrap().as_str(), "a");
    assert!(serde_json::from_str::<AgentId>("\"A\"").is_err());
    assert_eq!(serde_json::to_string(&AgentId::parse("a").unwrap()).unwrap(), "\"a\"");
    let error = AgentId::parse("A").unwrap_err();
    assert_eq!(error.kind(), "agent id");
    assert!(error.to_string().contains(error.rule()));
}
