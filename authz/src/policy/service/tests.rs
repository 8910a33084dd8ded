#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::{super::tests as bundles, *};
use crate::policy::{BUNDLE_TYPE, Bundle, ContentError, PolicyError, RawBundle, check::is_host};
use crate::signing::TestKey;

/// A bundle in which one value is another.
fn bundle(pointer: &str, value: Value) -> Result<Bundle, PolicyError> {
    changed(bundles::claims(), pointer, value)
}

fn changed(mut claims: Value, pointer: &str, value: Value) -> Result<Bundle, PolicyError> {
    bundles::set(&mut claims, pointer, value);
    RawBundle::new(&TestKey::new(1).sign(BUNDLE_TYPE, &claims)).verify(
        &bundles::keys(),
        &bundles::workload(),
        None,
        bundles::NOW,
    )
}

#[test]
fn a_protocol_is_the_word_that_files_have() {
    let all = [Protocol::Http, Protocol::Mcp, Protocol::A2a];
    for protocol in all {
        assert_eq!(json!(protocol), protocol.as_str());
    }
    assert_eq!(all.map(Protocol::as_str), ["http", "mcp", "a2a"]);
}

#[test]
fn records_come_before_where_the_bundle_says_so() {
    let before = |bundle: Bundle| bundle.services().iter().any(Service::records_before);
    assert!(before(bundle("/services/0/record", json!("before")).unwrap()));
    assert!(!before(bundle("/services/0/record", json!("batched")).unwrap()));
    assert!(!before(bundle("/version", json!(8)).unwrap()));
    assert!(bundle("/services/0/record", json!("after")).is_err());
}

#[test]
fn a_host_is_a_dns_name_in_lower_case() {
    let (label, longer) = ("a".repeat(63), "a".repeat(64));
    let longest = [&*label, &label, &label, &*"a".repeat(61)].join(".");
    for fine in ["a", "a-b", "a_b.c", "7.a", &*label, &*longest] {
        assert!(is_host(fine), "{fine}");
    }
    for other in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "-a",
        "a-",
        "a.-b",
        "a-.b",
        "A",
        "a:80",
        "a b",
        "caf\u{e9}",
        &*longer,
        &*format!("{longest}a"),
    ] {
        assert!(!is_host(other), "{other}");
    }
}

#[test]
fn a_service_has_each_host_once() {
    let hosts = |hosts: [&str; 3]| bundle("/services/0/hosts", json!(hosts)).map(drop);
    assert_eq!(hosts(["a", "b", "c"]), Ok(()));
    assert_eq!(
        hosts(["a", "b", "a"]),
        Err(PolicyError::Content {
            field: "services/0/hosts/2".into(),
            error: ContentError::HostTwice
        })
    );
}

#[test]
fn a_capability_rides_in_a_header_of_its_own() {
    let (longest, longer) = ("a".repeat(64), "a".repeat(65));
    for fine in ["authorization", "x-capability", "a", "a1-", "hosts", "x-b", &*longest] {
        assert_eq!(HeaderName::parse(fine).unwrap().as_str(), fine);
    }
    for other in [
        "",
        "1a",
        "-a",
        "A",
        "a_b",
        "a b",
        ":path",
        "caf\u{e9}",
        "host",
        "cookie",
        "mcp-name",
        "x-b3-traceid",
        &*longer,
    ] {
        assert!(HeaderName::parse(other).is_none(), "{other}");
    }
}

#[test]
fn a_segment_of_ones_own_narrows_only_the_scope_that_it_is_in() {
    let could = |template: &str, scope: &str| {
        let bundle = bundle("/services/0/routes/1/scope", json!(template)).unwrap();
        let service = bundle.service_with_id(&ServiceId::parse("data/warehouse").unwrap());
        let service = service.and_then(|index| bundle.service(index)).unwrap();
        service.could_need(&Scope::parse(scope).unwrap(), &AgentId::parse("analyst-7").unwrap())
    };
    assert!(could("write:memory.{owner}", "write:memory.analyst-7"));
    assert!(!could("write:memory.{owner}", "write:memory.writer-2"));
    assert!(could("write:memory.{key}", "write:memory.writer-2"));
}

#[test]
fn calls_are_cut_with_their_tokens_where_that_is_said_and_enforced() {
    for (on_expiry, mode, cuts) in [
        ("cut", "enforce", true),
        ("cut", "shadow", false),
        ("finish", "enforce", false),
        ("finish", "shadow", false),
    ] {
        let mut claims = bundles::claims();
        bundles::set(&mut claims, "/services/0/on_expiry", json!(on_expiry));
        let bundle = changed(claims, "/services/0/mode", json!(mode)).unwrap();
        let cut = bundle.services().iter().any(Service::cuts_on_expiry);
        assert_eq!(cut, cuts, "{on_expiry}, {mode}");
    }
}

#[test]
fn only_what_older_filters_do_goes_without_saying() {
    assert!(ExpiryMode::Finish.is_finish());
    assert!(!ExpiryMode::Cut.is_finish());
}
