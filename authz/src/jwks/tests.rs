#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::jws::base64url;

/// RFC 8037, appendix A.2.
const X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn ed25519() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": X})
}

fn p256() -> Value {
    json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": base64url::encode([1; 32]), "y": base64url::encode([2; 32])})
}

fn rsa(bytes: usize) -> Value {
    let mut n = vec![0xff; bytes];
    n[0] = 0x80;
    json!({"kty": "RSA", "kid": "k", "n": base64url::encode(n), "e": "AQAB"})
}

fn read(key: &Value) -> Result<Jwk, String> {
    serde_json::from_value(key.clone()).map_err(|error| error.to_string())
}

fn with(mut key: Value, name: &str, value: Value) -> Value {
    key[name] = value;
    key
}

#[test]
fn each_type_and_what_breaks_it() {
    for key in [ed25519(), p256(), rsa(256), rsa(512)] {
        assert!(read(&key).is_ok(), "{key}");
    }
    let refused = [
        (with(ed25519(), "kid", json!(null)), JwkError::KeyId),
        (with(ed25519(), "kid", json!("")), JwkError::KeyId),
        (with(ed25519(), "kid", json!("a b")), JwkError::KeyId),
        (with(ed25519(), "alg", json!("ES256")), JwkError::Unsupported),
        (with(ed25519(), "alg", json!("HS256")), JwkError::Unsupported),
        (with(ed25519(), "use", json!("enc")), JwkError::Usage),
        (with(ed25519(), "key_ops", json!(["sign"])), JwkError::Usage),
        (with(ed25519(), "d", json!(X)), JwkError::Private),
        (with(ed25519(), "crv", json!("X25519")), JwkError::Unsupported),
        (with(ed25519(), "x", json!(null)), JwkError::Material),
        (with(ed25519(), "x", json!("AAAA")), JwkError::Material),
        (with(ed25519(), "x", json!(format!("{X}="))), JwkError::Material),
        (with(ed25519(), "x", json!(base64url::encode([0; 32]))), JwkError::Weak),
        (
            with(
                ed25519(),
                "x",
                json!(base64url::encode({
                    let mut b = [0; 32];
                    b[0] = 1;
                    b
                })),
            ),
            JwkError::Weak,
        ),
        (with(ed25519(), "x", json!(base64url::encode([2; 32]))), JwkError::Weak),
        (with(p256(), "crv", json!("P-384")), JwkError::Unsupported),
        (with(p256(), "y", json!(null)), JwkError::Material),
        (with(p256(), "d", json!("AA")), JwkError::Private),
        (with(rsa(256), "alg", json!("PS256")), JwkError::Unsupported),
        (with(rsa(256), "e", json!("AQ")), JwkError::RsaSize),
        (with(rsa(256), "e", json!("Ag")), JwkError::RsaSize),
        (with(rsa(256), "n", json!("AAAA")), JwkError::RsaSize),
        (rsa(255), JwkError::RsaSize),
        (rsa(513), JwkError::RsaSize),
        (json!({"kty": "oct", "kid": "k", "k": "AAAA"}), JwkError::Private),
        (json!({"kty": "oct", "kid": "k"}), JwkError::Unsupported),
    ];
    for (key, error) in refused {
        assert_eq!(read(&key), Err(error.to_string()), "{key}");
    }
}

#[test]
fn sets_have_distinct_ids() {
    let read = |keys: Value| serde_json::from_value::<Jwks>(json!({ "keys": keys }));
    let other = with(p256(), "kid", json!("other"));
    let keys = read(json!([ed25519(), other])).unwrap();
    assert_eq!(keys.find("other").unwrap().algorithm(), Algorithm::Es256);
    assert!(keys.find("Other").is_none());
    assert!(read(json!([ed25519(), p256()])).is_err());
    assert!(read(json!([])).is_ok());
    let numbered = |count: usize| {
        (0..count)
            .map(|n| with(ed25519(), "kid", json!(n.to_string())))
            .collect::<Value>()
    };
    assert!(read(numbered(MAX_KEYS)).is_ok());
    assert!(read(numbered(MAX_KEYS + 1)).is_err());
}

#[test]
fn keys_come_back_as_written() {
    for key in [ed25519(), p256(), rsa(256)] {
        let parsed = read(&key).unwrap();
        let written = serde_json::to_value(&parsed).unwrap();
        assert_eq!(written["alg"], parsed.algorithm().name());
        assert_eq!(read(&written).unwrap(), parsed);
    }
}

#[test]
fn der_is_shortest() {
    let spki = der::to_spki_der(read(&ed25519()).unwrap().key());
    assert_eq!(spki.len(), 44);
    assert_eq!(
        spki.get(..12).unwrap(),
        [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00]
    );
    assert_eq!(der::to_spki_der(read(&p256()).unwrap().key()).len(), 91);
    assert_eq!(der::to_spki_der(read(&rsa(256)).unwrap().key()).len(), 294);

    let mut signature = [0; 64];
    (signature[31], signature[32]) = (1, 0x80);
    let der = der::ecdsa_p1363_to_der(&signature).unwrap();
    assert_eq!(der.get(..7).unwrap(), [0x30, 38, 0x02, 1, 1, 0x02, 33]);
    assert_eq!(der.get(7..9).unwrap(), [0, 0x80]);
    assert!(der::ecdsa_p1363_to_der(&signature[..63]).is_none());
    assert!(der::ecdsa_p1363_to_der(&[0; 65]).is_none());
}
