#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::json::{Limits, parse};

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
fn a_digest_has_one_spelling() {
    let text = digest("{}");
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
