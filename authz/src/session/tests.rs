#![expect(clippy::unwrap_used, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::json::{self as strict, Limits};

fn claims(name: &str, value: &str) -> Claims {
    let mut claims: Value = json!({
        "iss": "spiffe://cluster.local/ns/ostiary/sa/policy-server",
        "sub": "spiffe://cluster.local/ns/agents/sa/analyst-7",
        "aud": ["spiffe://cluster.local/ns/tools/sa/mcp"],
        "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
        "iat": 1000, "nbf": 1000, "exp": 1300, "jti": "n-1",
        "agent_id": "analyst-7", "operation_id": "report", "scope": [], "tools": [], "forbidden_tools": [],
    });
    claims.as_object_mut().unwrap().insert(name.to_owned(), json!(value));
    let text = claims.to_string();
    Claims::read(strict::parse(text.as_bytes(), &Limits::REQUEST).unwrap().root()).unwrap()
}

fn keys(seeds: &[u8]) -> SessionKeys {
    let keys: Vec<SessionKey> = seeds.iter().map(|seed| SessionKey::new([*seed; 32])).collect();
    SessionKeys::new(&keys).unwrap()
}

#[test]
fn an_id_opens_for_its_holder_and_for_nobody_else() {
    let (service, other) = ("tools/mcp".parse().unwrap(), "tools/mcp-2".parse().unwrap());
    let own = claims("jti", "n-1");
    let holder = Holder {
        service: &service,
        claims: &own,
    };
    let keys = keys(&[1]);
    let sealed = keys.seal(Sealed::Session, &holder, b"b2f1-0a").unwrap();
    assert_eq!(sealed.len(), "b2f1-0a".len() + SEAL_CHARS + 1);
    assert!(sealed.bytes().all(|byte| byte.is_ascii_graphic()), "{sealed}");
    assert_eq!(keys.open(Sealed::Session, &holder, sealed.as_bytes()), Some("b2f1-0a"));
    // Another token of the same operation goes on with its session.
    let later = claims("jti", "n-2");
    let refreshed = Holder {
        claims: &later,
        ..holder
    };
    assert_eq!(
        keys.open(Sealed::Session, &refreshed, sealed.as_bytes()),
        Some("b2f1-0a")
    );
    for (name, value) in [
        ("sub", "spiffe://cluster.local/ns/agents/sa/writer-2"),
        ("agent_id", "writer-2"),
        ("operation_id", "report-2"),
    ] {
        let claims = claims(name, value);
        let stranger = Holder {
            claims: &claims,
            ..holder
        };
        assert_eq!(keys.open(Sealed::Session, &stranger, sealed.as_bytes()), None, "{name}");
    }
    let elsewhere = Holder {
        service: &other,
        ..holder
    };
    assert_eq!(keys.open(Sealed::Session, &elsewhere, sealed.as_bytes()), None);
}

/// Made by Python's `hmac`, as docs/formats.md says it: filters of two versions must open each other's.
#[test]
fn a_seal_is_always_the_same() {
    let service = "tools/mcp".parse().unwrap();
    let claims = claims("jti", "n-1");
    let holder = Holder {
        service: &service,
        claims: &claims,
    };
    let sealed = keys(&[7]).seal(Sealed::Session, &holder, b"b2f1-0a").unwrap();
    assert_eq!(sealed, "SMiu-khe-o1e5uK_5xYPFw.b2f1-0a");
}

#[test]
fn what_is_not_byte_for_byte_what_was_sealed_opens_nothing() {
    let service = "tools/mcp".parse().unwrap();
    let claims = claims("jti", "n-1");
    let holder = Holder {
        service: &service,
        claims: &claims,
    };
    let keys = keys(&[1]);
    let sealed = keys.seal(Sealed::Session, &holder, b"b2f1").unwrap();
    for place in 0..sealed.len() {
        let mut altered = sealed.clone().into_bytes();
        *altered.get_mut(place).unwrap() ^= 1;
        assert_eq!(keys.open(Sealed::Session, &holder, &altered), None, "{place}");
    }
    for other in [
        "b2f1".to_owned(),
        String::new(),
        sealed.get(..SEAL_CHARS).unwrap().to_owned(),
        sealed.get(..=SEAL_CHARS).unwrap().to_owned(),
        format!("{sealed}0"),
        format!("{sealed} "),
        format!(" {sealed}"),
        sealed.replacen('.', ":", 1),
        // Two seals, as of a sidecar before a sidecar.
        keys.seal(Sealed::Session, &holder, sealed.as_bytes())
            .unwrap()
            .replacen('.', "", 1),
    ] {
        assert_eq!(keys.open(Sealed::Session, &holder, other.as_bytes()), None, "{other}");
    }
}

#[test]
fn keys_change_with_overlap() {
    let service = "tools/mcp".parse().unwrap();
    let claims = claims("jti", "n-1");
    let holder = Holder {
        service: &service,
        claims: &claims,
    };
    let (before, told, switched, after) = (keys(&[1]), keys(&[1, 2]), keys(&[2, 1]), keys(&[2]));
    let old = before.seal(Sealed::Session, &holder, b"s").unwrap();
    assert_eq!(
        told.seal(Sealed::Session, &holder, b"s").unwrap(),
        old,
        "a key that comes next seals nothing"
    );
    let new = switched.seal(Sealed::Session, &holder, b"s").unwrap();
    assert_ne!(new, old);
    for keys in [&told, &switched] {
        assert_eq!(keys.open(Sealed::Session, &holder, old.as_bytes()), Some("s"));
        assert_eq!(keys.open(Sealed::Session, &holder, new.as_bytes()), Some("s"));
    }
    assert_eq!(before.open(Sealed::Session, &holder, new.as_bytes()), None);
    assert_eq!(after.open(Sealed::Session, &holder, old.as_bytes()), None);
    assert_eq!(SessionKeys::default().seal(Sealed::Session, &holder, b"s"), None);
    assert_eq!(
        SessionKeys::default().open(Sealed::Session, &holder, old.as_bytes()),
        None
    );
}

#[test]
fn an_id_is_visible_ascii_of_a_bounded_length() {
    let service = "tools/mcp".parse().unwrap();
    let claims = claims("jti", "n-1");
    let holder = Holder {
        service: &service,
        claims: &claims,
    };
    let keys = keys(&[1]);
    let longest = "x".repeat(MAX_SESSION_ID_BYTES);
    for id in ["!", "~", "a.b.c", &longest] {
        let sealed = keys.seal(Sealed::Session, &holder, id.as_bytes()).unwrap();
        assert_eq!(keys.open(Sealed::Session, &holder, sealed.as_bytes()), Some(id));
    }
    let longer = format!("{longest}x");
    for id in ["", " ", "a b", "a\t", "\u{e4}", "\u{7f}", &longer] {
        assert_eq!(keys.seal(Sealed::Session, &holder, id.as_bytes()), None, "{id}");
    }
}

#[test]
fn a_key_is_read_as_written_and_never_shown() {
    let key = SessionKey::new([7; 32]);
    let written = serde_json::to_string(&key).unwrap();
    assert_eq!(serde_json::from_str::<SessionKey>(&written).unwrap(), key);
    let shown = format!("{key:?} {:?}", SessionKeys::new(std::slice::from_ref(&key)).unwrap());
    assert!(
        !shown.contains(written.trim_matches('"')) && !shown.contains('7'),
        "{shown}"
    );
    for bad in ["", "AAAA", &"A".repeat(44), &"!".repeat(43)] {
        assert!(serde_json::from_value::<SessionKey>(json!(bad)).is_err(), "{bad}");
    }
    let many = vec![key; MAX_SESSION_KEYS + 1];
    assert!(SessionKeys::new(&many).is_none());
}
