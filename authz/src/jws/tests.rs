#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::signing::TestKey;

const TYP: &str = "cap+jwt";

fn verdict(text: &str, keys: &Jwks) -> Result<(), JwsError> {
    CompactJws::parse(text, TYP, MAX_TOKEN_BYTES)?.verify(keys, &NoExternal)
}

#[test]
fn base64url_is_canonical() {
    for text in ["", "AA", "AAA", "AAAA", "-_-_"] {
        assert_eq!(base64url::encode(base64url::decode(text).unwrap()), text);
    }
    for text in [
        "A", "AB", "AA==", "AA=", "AAB", "A A", "AA\n", "+/+/", "AÄ", "AAAAA", "A.A",
    ] {
        assert!(base64url::decode(text).is_err(), "{text:?}");
    }
}

#[test]
fn header_rules() {
    let key = TestKey::new(1);
    let header = |name: &str, value: Value| {
        let mut header = key.header(TYP);
        header[name] = value;
        key.sign_raw(&header.to_string(), "{}")
    };
    let cases = [
        (header("x", json!(1)), Ok(())),
        (header("cty", json!("x")), Ok(())),
        (header("alg", json!("Ed25519")), Ok(())),
        (header("alg", json!("none")), Err(JwsError::Algorithm)),
        (header("alg", json!("HS256")), Err(JwsError::Algorithm)),
        (header("alg", json!("eddsa")), Err(JwsError::Algorithm)),
        (header("alg", json!("ES256")), Err(JwsError::Algorithm)),
        (header("alg", json!(["EdDSA"])), Err(JwsError::Algorithm)),
        (header("alg", json!(null)), Err(JwsError::Algorithm)),
        (header("typ", json!("JWT")), Err(JwsError::Type)),
        (header("typ", json!("CAP+JWT")), Err(JwsError::Type)),
        (header("typ", json!("application/cap+jwt")), Err(JwsError::Type)),
        (header("typ", json!(null)), Err(JwsError::Type)),
        (header("kid", json!(null)), Err(JwsError::KeyIdMissing)),
        (header("kid", json!(1)), Err(JwsError::KeyIdMissing)),
        (header("kid", json!("key-2")), Err(JwsError::KeyUnknown)),
        (header("kid", json!("")), Err(JwsError::KeyUnknown)),
        (header("jku", json!("https://x/")), Err(JwsError::Parameter)),
        (header("jwk", json!({})), Err(JwsError::Parameter)),
        (header("x5u", json!("https://x/")), Err(JwsError::Parameter)),
        (header("x5c", json!([])), Err(JwsError::Parameter)),
        (header("crit", json!([])), Err(JwsError::Parameter)),
        (header("b64", json!(true)), Err(JwsError::Parameter)),
        (header("zip", json!("DEF")), Err(JwsError::Parameter)),
        (header("enc", json!("A256GCM")), Err(JwsError::Parameter)),
    ];
    for (token, expected) in cases {
        assert_eq!(verdict(&token, &key.jwks()), expected, "{token}");
    }
    let twice = key.sign_raw(r#"{"alg":"EdDSA","typ":"cap+jwt","kid":"key-1","kid":"key-1"}"#, "{}");
    assert_eq!(verdict(&twice, &key.jwks()), Err(JwsError::Malformed));
    let folded = key.sign_raw(r#"{"alg":"EdDSA","typ":"cap+jwt","KID":"key-1"}"#, "{}");
    assert_eq!(verdict(&folded, &key.jwks()), Err(JwsError::KeyIdMissing));
}

#[test]
fn shape_and_bounds() {
    let key = TestKey::new(1);
    let token = key.sign(TYP, &json!({}));
    assert_eq!(verdict(&token, &key.jwks()), Ok(()));
    let (input, signature) = token.rsplit_once('.').unwrap();
    let malformed = [
        String::new(),
        ".".into(),
        "..".into(),
        input.into(),
        format!("{token}."),
        format!("{token}.x"),
        format!(".{token}"),
        format!(" {token}"),
        format!("{token}\n"),
        format!("{token}="),
        format!("{{\"payload\":\"{token}\"}}"),
        format!("!{input}.{signature}"),
    ];
    for text in malformed {
        assert_eq!(verdict(&text, &key.jwks()), Err(JwsError::Malformed), "{text}");
    }
    for header in ["[]", "\"x\"", "", "{", "{}x", "null"] {
        assert_eq!(
            verdict(&key.sign_raw(header, "{}"), &key.jwks()),
            Err(JwsError::Malformed),
            "{header}"
        );
    }
    let sized = |bytes: usize| {
        let token = key.sign_raw(&key.header(TYP).to_string(), "");
        let payload = (bytes - token.len()) * 3 / 4;
        key.sign_raw(&key.header(TYP).to_string(), &"x".repeat(payload))
    };
    assert_eq!(verdict(&sized(MAX_TOKEN_BYTES), &key.jwks()), Ok(()));
    assert_eq!(
        verdict(&sized(MAX_TOKEN_BYTES + 8), &key.jwks()),
        Err(JwsError::TooLong)
    );
    let long = json!({"alg": "EdDSA", "typ": TYP, "kid": "key-1", "x": "x".repeat(MAX_HEADER_BYTES)});
    assert_eq!(
        verdict(&key.sign_raw(&long.to_string(), "{}"), &key.jwks()),
        Err(JwsError::TooLong)
    );
}

#[test]
fn every_changed_bit_is_noticed() {
    let key = TestKey::new(1);
    let token = key.sign(TYP, &json!({"a": 1}));
    let (input, signature) = token.rsplit_once('.').unwrap();
    let signature = base64url::decode(signature).unwrap();
    for bit in 0..signature.len() * 8 {
        let mut changed = signature.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let token = format!("{input}.{}", base64url::encode(changed));
        assert_eq!(verdict(&token, &key.jwks()), Err(JwsError::Signature), "bit {bit}");
    }
    for length in [0, 63, 65] {
        let mut other = signature.clone();
        other.resize(length, 0);
        let token = format!("{input}.{}", base64url::encode(other));
        assert_eq!(verdict(&token, &key.jwks()), Err(JwsError::Signature));
    }
    let mut other = TestKey::new(1).header(TYP);
    other["x"] = json!(1);
    let (header, rest) = (base64url::encode(other.to_string()), token.split_once('.').unwrap().1);
    assert_eq!(
        verdict(&format!("{header}.{rest}"), &key.jwks()),
        Err(JwsError::Signature)
    );
}

#[test]
fn a_signature_is_bound_to_its_key() {
    let (one, two) = (TestKey::new(1), TestKey::new(2));
    let both = Jwks::new(vec![one.jwk(), two.jwk()]).unwrap();
    assert_eq!(verdict(&two.sign(TYP, &json!({})), &both), Ok(()));
    let stolen_kid = two.sign_raw(&one.header(TYP).to_string(), "{}");
    assert_eq!(verdict(&stolen_kid, &both), Err(JwsError::Signature));
}

/// Says yes to everything; what it is asked is what matters.
struct Yes;

impl ExternalVerifier for Yes {
    fn verify(&self, _: &PublicKey, _: Algorithm, _: &[u8], _: &[u8]) -> bool {
        true
    }
}

#[test]
fn others_verify_only_what_is_theirs() {
    let key = TestKey::new(1);
    let mut token = key.sign(TYP, &json!({}));
    token.replace_range(token.len() - 4..token.len() - 3, "_");
    let parsed = CompactJws::parse(&token, TYP, MAX_TOKEN_BYTES).unwrap();
    assert_eq!(
        parsed.verify(&key.jwks(), &Yes),
        Err(JwsError::Signature),
        "Ed25519 is never asked of others"
    );

    let p256: Jwk = serde_json::from_value(json!({
        "kty": "EC", "crv": "P-256", "kid": "key-1",
        "x": base64url::encode([1; 32]), "y": base64url::encode([2; 32]),
    }))
    .unwrap();
    let keys = Jwks::new(vec![p256]).unwrap();
    assert_eq!(
        parsed.verify(&keys, &Yes),
        Err(JwsError::Algorithm),
        "the key decides the algorithm"
    );
    let es256 = |signature: &[u8]| {
        let header = base64url::encode(json!({"alg": "ES256", "typ": TYP, "kid": "key-1"}).to_string());
        let token = format!("{header}.e30.{}", base64url::encode(signature));
        let parsed = CompactJws::parse(&token, TYP, MAX_TOKEN_BYTES).unwrap();
        (parsed.verify(&keys, &Yes), parsed.verify(&keys, &NoExternal))
    };
    assert_eq!(es256(&[1; 64]), (Ok(()), Err(JwsError::Signature)));
    assert_eq!(
        es256(&[1; 70]),
        (Err(JwsError::Signature), Err(JwsError::Signature)),
        "no DER in JOSE"
    );
}
