#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use serde_json::{Value, json};

use super::*;
use crate::{claims, jws::NoExternal, signing::TestKey};

const NOW: u64 = 1100;

fn issuers() -> Issuers {
    let mut issuers = Issuers::default();
    assert!(issuers.insert(
        Issuer::parse(claims::tests::valid()["iss"].as_str().unwrap()).unwrap(),
        key().jwks()
    ));
    assert!(issuers.insert(Issuer::parse("https://other").unwrap(), TestKey::new(2).jwks()));
    issuers
}

fn key() -> TestKey {
    TestKey::new(1)
}

fn verify_at(token: &str, now: u64) -> Result<VerifiedToken, TokenError> {
    UnverifiedToken::parse(token)?.verify(&issuers(), &TokenLimits::default(), now, &NoExternal)
}

fn with(changes: Value) -> String {
    let mut claims = claims::tests::valid();
    claims
        .as_object_mut()
        .unwrap()
        .extend(changes.as_object().unwrap().clone());
    key().sign(TOKEN_TYPE, &claims)
}

#[test]
fn a_valid_token_is_verified() {
    let token = with(json!({}));
    let verified = verify_at(&token, NOW).unwrap();
    assert_eq!(verified.claims().agent_id.as_str(), "analyst-7");
}

#[test]
fn each_step_has_its_own_error() {
    let valid = claims::tests::valid();
    let other_issuer = with(json!({"iss": "https://other"}));
    let cases = [
        ("x".to_owned(), TokenError::Malformed),
        (key().sign("JWT", &valid), TokenError::TypeRefused),
        (
            key().sign_raw(r#"{"alg":"none","typ":"cap+jwt","kid":"key-1"}"#, &valid.to_string()),
            TokenError::AlgorithmRefused,
        ),
        (
            key().sign_raw(r#"{"alg":"ES256","typ":"cap+jwt","kid":"key-1"}"#, &valid.to_string()),
            TokenError::AlgorithmRefused,
        ),
        (
            key().sign_raw(r#"{"alg":"EdDSA","typ":"cap+jwt"}"#, &valid.to_string()),
            TokenError::KeyUnknown,
        ),
        (
            key().sign_raw(
                r#"{"alg":"EdDSA","typ":"cap+jwt","kid":"key-1","crit":[]}"#,
                &valid.to_string(),
            ),
            TokenError::Malformed,
        ),
        (with(json!({"iss": "https://nobody"})), TokenError::IssuerUnknown),
        // A listed issuer, but the key is another's: keys are bound to their issuer.
        (other_issuer, TokenError::KeyUnknown),
        (TestKey::new(2).sign(TOKEN_TYPE, &valid), TokenError::KeyUnknown),
        (
            TestKey::new(2).sign_raw(&key().header(TOKEN_TYPE).to_string(), &valid.to_string()),
            TokenError::SignatureInvalid,
        ),
        (
            key().sign_raw(&key().header(TOKEN_TYPE).to_string(), "[]"),
            TokenError::ClaimsInvalid,
        ),
        (
            key().sign_raw(&key().header(TOKEN_TYPE).to_string(), "x"),
            TokenError::ClaimsInvalid,
        ),
        (with(json!({"iss": 1})), TokenError::ClaimsInvalid),
        (with(json!({"exp": "1300"})), TokenError::ClaimsInvalid),
        (with(json!({"exp": 1000})), TokenError::ClaimsInvalid),
        (with(json!({"exp": 999})), TokenError::ClaimsInvalid),
        (with(json!({"nbf": 1300})), TokenError::ClaimsInvalid),
        (with(json!({"act": {}})), TokenError::ClaimsInvalid),
        (with(json!({"exp": 1301})), TokenError::LifetimeExceeded),
    ];
    for (token, error) in cases {
        assert_eq!(verify_at(&token, NOW).unwrap_err(), error, "{token}");
    }
    let duplicate = valid.to_string().replacen('{', r#"{"agent_id":"writer-2","#, 1);
    let token = key().sign_raw(&key().header(TOKEN_TYPE).to_string(), &duplicate);
    assert_eq!(verify_at(&token, NOW).unwrap_err(), TokenError::ClaimsInvalid);
}

/// What is wrong with the claims of a forger must not be told before the signature is.
#[test]
fn claims_wait_for_the_signature() {
    let mut claims = claims::tests::valid();
    claims["exp"] = json!("x");
    let forged = TestKey::new(2).sign_raw(&key().header(TOKEN_TYPE).to_string(), &claims.to_string());
    assert_eq!(verify_at(&forged, NOW).unwrap_err(), TokenError::SignatureInvalid);
}

#[test]
fn times_hold_to_the_second() {
    let token = with(json!({}));
    let cases = [
        (994, Err(TokenError::NotYetValid)),
        (995, Ok(())),
        (1304, Ok(())),
        (1305, Err(TokenError::Expired)),
        (u64::MAX, Err(TokenError::Expired)),
        (0, Err(TokenError::NotYetValid)),
    ];
    for (now, expected) in cases {
        assert_eq!(verify_at(&token, now).map(drop), expected, "at {now}");
        assert_eq!(
            verify_at(&token, NOW).unwrap().check_time(now),
            expected,
            "again at {now}"
        );
    }
    let later = with(json!({"nbf": 1200}));
    assert_eq!(verify_at(&later, 1194).unwrap_err(), TokenError::NotYetValid);
    assert!(verify_at(&later, 1195).is_ok());
    let early_start = with(json!({"nbf": 900}));
    assert_eq!(
        verify_at(&early_start, 994).unwrap_err(),
        TokenError::NotYetValid,
        "iat counts beside nbf"
    );
    let endless = with(json!({"iat": 1000, "exp": u64::MAX}));
    assert_eq!(verify_at(&endless, NOW).unwrap_err(), TokenError::LifetimeExceeded);
}

#[test]
fn issuers_are_listed_once() {
    let mut issuers = issuers();
    assert!(!issuers.insert(Issuer::parse("https://other").unwrap(), key().jwks()));
    assert_eq!(issuers.keys("https://other"), Some(&TestKey::new(2).jwks()));
    assert!(issuers.keys("https://Other").is_none());
}
