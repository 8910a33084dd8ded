#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use super::*;

fn read(text: &str) -> Result<(), JsonError> {
    let kept = parse(text.as_bytes(), &Limits::REQUEST).map(drop);
    let checked = reader::check(text, &Limits::REQUEST);
    if !text.starts_with('\u{feff}') {
        assert_eq!(kept, checked, "both readers agree on {text}");
    }
    kept
}

#[test]
fn each_refusal_stands_beside_its_neighbour() {
    let cases: &[(&str, &str, JsonError)] = &[
        (r#"{"a":1,"b":2}"#, r#"{"a":1,"a":2}"#, JsonError::DuplicateKey(12)),
        (r#"{"a":1,"A":2}"#, r#"{"a":1,"\u0061":2}"#, JsonError::DuplicateKey(17)),
        (
            r#"[{"x":{"a":1,"b":2}}]"#,
            r#"[{"x":{"a":1,"a":2}}]"#,
            JsonError::DuplicateKey(18),
        ),
        (r#"{"a":{"a":1}}"#, r#"{"a":{},"a":1}"#, JsonError::DuplicateKey(13)),
        ("1", "\u{feff}1", JsonError::ByteOrderMark),
        ("{} ", "{} x", JsonError::TrailingBytes(3)),
        ("[]", "[][]", JsonError::TrailingBytes(2)),
        ("[1]", "[1,]", JsonError::Unexpected(3)),
        (r#"{"a":1}"#, r#"{"a":1,}"#, JsonError::Unexpected(7)),
        (r#"{"a":1}"#, "{a:1}", JsonError::Unexpected(1)),
        (r#"{"a":1}"#, r#"{"a" 1}"#, JsonError::Unexpected(5)),
        ("0", "00", JsonError::InvalidNumber(0)),
        ("10", "01", JsonError::InvalidNumber(0)),
        ("-1", "-", JsonError::InvalidNumber(0)),
        ("1", "+1", JsonError::Unexpected(0)),
        ("1.0", "1.", JsonError::InvalidNumber(0)),
        ("0.1", ".1", JsonError::Unexpected(0)),
        ("1e5", "1e", JsonError::InvalidNumber(0)),
        ("-0", "-01", JsonError::InvalidNumber(0)),
        ("null", "nul", JsonError::Unexpected(0)),
        ("true", "True", JsonError::Unexpected(0)),
        ("1", "NaN", JsonError::Unexpected(0)),
        ("1", "", JsonError::UnexpectedEnd),
        ("[]", "[", JsonError::UnexpectedEnd),
        (r#""a""#, r#""a"#, JsonError::UnexpectedEnd),
        (r#""\n""#, "\"\n\"", JsonError::ControlCharacter(1)),
        (r#""\u0000""#, "\"\0\"", JsonError::ControlCharacter(1)),
        (r#""\n""#, r#""\x""#, JsonError::InvalidEscape(1)),
        (r#""\u00e9""#, r#""\u00g9""#, JsonError::InvalidEscape(1)),
        (r#""\ud83d\ude00""#, r#""\ud83d""#, JsonError::InvalidEscape(1)),
        (r#""\ud83d\ude00""#, r#""\ud83d\u0041""#, JsonError::InvalidEscape(1)),
        (r#""\ud83d\ude00""#, r#""\ude00""#, JsonError::InvalidEscape(1)),
        ("[ \t\r\n1]", "[\u{b}1]", JsonError::Unexpected(1)),
        ("[1]", "[1/**/]", JsonError::Unexpected(2)),
    ];
    for (accepted, refused, error) in cases {
        assert_eq!(read(accepted), Ok(()), "{accepted}");
        assert_eq!(read(refused), Err(*error), "{refused}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_refused() {
    assert!(parse("\"é\"".as_bytes(), &Limits::REQUEST).is_ok());
    for bytes in [&b"\"\xff\""[..], b"\"\xc0\xaf\"", b"\"\xed\xa0\x80\""] {
        assert_eq!(parse(bytes, &Limits::REQUEST).unwrap_err(), JsonError::InvalidUtf8(1));
    }
}

#[test]
fn every_bound_holds_exactly() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(read(&nested(64)), Ok(()));
    assert_eq!(read(&nested(65)), Err(JsonError::TooDeep(64)));
    let limits = Limits {
        max_nodes: 4,
        ..Limits::REQUEST
    };
    assert!(parse(b"[1,2,3]", &limits).is_ok());
    assert_eq!(parse(b"[1,2,3,4]", &limits).unwrap_err(), JsonError::TooManyNodes);
    assert!(parse(br#"{"a":[]}"#, &Limits { max_nodes: 3, ..limits }).is_ok());
    assert_eq!(
        parse(br#"{"a":[]}"#, &Limits { max_nodes: 2, ..limits }).unwrap_err(),
        JsonError::TooManyNodes
    );
    let limits = Limits { max_bytes: 2, ..limits };
    assert!(parse(b"[]", &limits).is_ok());
    assert_eq!(parse(b"[] ", &limits).unwrap_err(), JsonError::TooLong);
}

#[test]
fn duplicates_are_found_among_many_keys_and_escapes() {
    let object = |last: &str| {
        let keys: Vec<String> = (0..5000).map(|index| format!("\"key-{index}\":0")).collect();
        format!("{{{},\"{last}\":0}}", keys.join(","))
    };
    assert_eq!(read(&object("key-5000")), Ok(()));
    assert!(matches!(read(&object("key-17")), Err(JsonError::DuplicateKey(_))));
    assert!(matches!(read(&object(r"k\u0065y-17")), Err(JsonError::DuplicateKey(_))));
}

#[test]
fn values_are_read_as_they_are() {
    let source = br#" {"s":"a\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t","plain":"x","n":-7,"u":18446744073709551615,"list":[true,null,[1],{"k":2}],"e\u0073c":false,"o":{}} "#;
    let document = parse(source, &Limits::REQUEST).unwrap();
    let root = document.root();
    assert_eq!(root.kind(), Kind::Object);
    assert_eq!(root.get("s").unwrap().as_str().unwrap(), "aé😀\"\\/\u{8}\u{c}\n\r\t");
    assert!(matches!(root.get("plain").unwrap().as_str(), Some(Cow::Borrowed("x"))));
    assert_eq!(root.get("n").unwrap().as_i64(), Some(-7));
    assert_eq!(root.get("n").unwrap().as_u64(), None);
    assert_eq!(root.get("u").unwrap().as_u64(), Some(u64::MAX));
    assert_eq!(root.get("esc").unwrap().as_bool(), Some(false));
    let list: Vec<_> = root.get("list").unwrap().as_array().unwrap().collect();
    assert_eq!(
        list.iter().map(Value::raw).collect::<Vec<_>>(),
        ["true", "null", "[1]", r#"{"k":2}"#]
    );
    assert!(list[1].is_null());
    assert_eq!(list[3].get("k").unwrap().as_u64(), Some(2));
    assert_eq!(root.get("o").unwrap().entries().unwrap().count(), 0);
    assert!(root.get("missing").is_none());
    assert!(root.as_str().is_none() && root.as_array().is_none());
    assert_eq!(
        root.entries()
            .unwrap()
            .map(|(key, _)| key.into_owned())
            .collect::<Vec<_>>(),
        ["s", "plain", "n", "u", "list", "esc", "o"]
    );
}

#[test]
fn only_integers_are_integers() {
    for (text, value) in [
        ("1", Some(1)),
        ("1.0", None),
        ("1e3", None),
        ("1E3", None),
        ("-1", None),
        ("\"1\"", None),
    ] {
        let document = parse(text.as_bytes(), &Limits::REQUEST).unwrap();
        assert_eq!(document.root().as_u64(), value, "{text}");
    }
    for (text, value) in [("0", Some(0)), ("-1", Some(-1)), ("-0", None), ("-0.0", None)] {
        let document = parse(text.as_bytes(), &Limits::REQUEST).unwrap();
        assert_eq!(document.root().as_i64(), value, "{text}");
    }
    let document = parse(b"18446744073709551616", &Limits::REQUEST).unwrap();
    assert_eq!(document.root().as_u64(), None);
}

#[test]
fn strict_reading_refuses_what_serde_lets_pass() {
    use std::collections::BTreeMap;
    type Map = BTreeMap<String, u64>;
    assert_eq!(strict::<Map>(br#"{"a":1}"#, &Limits::REQUEST).unwrap()["a"], 1);
    let duplicate = br#"{"a":1,"a":2}"#;
    assert!(serde_json::from_slice::<Map>(duplicate).is_ok());
    assert_eq!(
        strict::<Map>(duplicate, &Limits::REQUEST),
        Err(JsonError::DuplicateKey(12))
    );
    assert_eq!(
        strict::<Map>(br#"{"a":1.0}"#, &Limits::REQUEST),
        Err(JsonError::Shape { line: 1, column: 8 })
    );
}

/// Whatever serde_json reads and we do too, we read alike; whatever it refuses, so do we.
#[test]
fn agrees_with_serde_json() {
    let seeds = [
        r#"{"a":[1,2.5e-3,-0,"x\u00e9\ud83d\ude00"],"b":{"c":null,"d":[true,false]},"e":"é"}"#,
        r#"[[],{},"",0,-1,1E+2,[[[[]]]],{"k\\":"\"\/"}]"#,
    ];
    let substitutes = b"\"\\{}[],:0123.eE+-ntfu \n\x00\x7f\xc3\xa9";
    for seed in seeds {
        for at in 0..seed.len() {
            for &byte in substitutes {
                let mut bytes = seed.as_bytes().to_vec();
                bytes[at] = byte;
                let theirs = serde_json::from_slice::<serde_json::Value>(&bytes);
                match parse(&bytes, &Limits::REQUEST) {
                    Ok(document) => assert_eq!(document.read::<serde_json::Value>().unwrap(), theirs.unwrap()),
                    Err(JsonError::DuplicateKey(_)) => assert!(theirs.is_ok()),
                    Err(error) => assert!(theirs.is_err(), "{error}: {}", String::from_utf8_lossy(&bytes)),
                }
            }
        }
    }
}

#[test]
fn special_bytes_are_found_wherever_they_stand() {
    for length in 0..40 {
        for place in 0..length {
            for byte in 0..=u8::MAX {
                let mut bytes = vec![b'a'; length];
                bytes[place] = byte;
                let special = matches!(byte, 0..=0x1f | b'"' | b'\\');
                assert_eq!(
                    find_special(&bytes),
                    special.then_some(place),
                    "{byte} at {place} of {length}"
                );
                // What comes after the first does not matter.
                bytes[place..].fill(byte);
                assert_eq!(
                    find_special(&bytes),
                    special.then_some(place),
                    "{byte} from {place} of {length}"
                );
            }
        }
    }
    assert_eq!(find_special("é€😀\u{7f}\u{80}\u{ff} !#[]".as_bytes()), None);
}
