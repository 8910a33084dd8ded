//! External issuers sign with ES256 and RS256: tokens that `jwt-simple` signs are accepted, and altered ones are not.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use authz::jws::NoExternal;
use authz::token::{Issuers, TokenError, TokenLimits, UnverifiedToken};
use jwt_simple::algorithms::{ECDSAP256KeyPairLike, ES256KeyPair, RS256KeyPair, RSAKeyPairLike};
use jwt_simple::claims::JWTClaims;
use jwt_simple::prelude::HeaderOptions;
use policy_server::verifier::NativeVerifier;
use serde_json::{Value, json};

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";

fn claims() -> JWTClaims<Value> {
    JWTClaims {
        issued_at: None,
        expires_at: None,
        invalid_before: None,
        issuer: None,
        subject: None,
        audiences: None,
        jwt_id: None,
        nonce: None,
        custom: json!({
            "iss": ISSUER,
            "sub": "spiffe://cluster.local/ns/agents/sa/analyst-7",
            "aud": ["spiffe://cluster.local/ns/data/sa/warehouse"],
            "issued_by": "spiffe://cluster.local/ns/orchestration/sa/orchestrator",
            "iat": NOW, "nbf": NOW, "exp": NOW + 300,
            "jti": "j", "txn": "t", "agent_id": "analyst-7", "operation_id": "o",
            "scope": ["read:data.sales"], "tools": [], "forbidden_tools": [],
        }),
    }
}

fn options() -> HeaderOptions {
    HeaderOptions {
        signature_type: Some("cap+jwt".to_owned()),
        ..HeaderOptions::default()
    }
}

fn issuers(jwk: &str) -> Issuers {
    let jwks = serde_json::from_str(&format!("{{\"keys\":[{jwk}]}}")).unwrap();
    let mut issuers = Issuers::default();
    assert!(issuers.insert(ISSUER.parse().unwrap(), jwks));
    issuers
}

fn verify(token: &str, issuers: &Issuers) -> Result<(), TokenError> {
    let limits = TokenLimits {
        max_lifetime_seconds: 300,
        skew_seconds: 5,
    };
    UnverifiedToken::parse(token)?
        .verify(issuers, &limits, NOW, &NativeVerifier)
        .map(|_| ())
}

fn check(token: &str, issuers: &Issuers) {
    assert_eq!(verify(token, issuers), Ok(()));
    let limits = TokenLimits {
        max_lifetime_seconds: 300,
        skew_seconds: 5,
    };
    let unverified = UnverifiedToken::parse(token).unwrap();
    assert!(
        unverified.verify(issuers, &limits, NOW, &NoExternal).is_err(),
        "without a verifier nothing is verified"
    );
    let (signed, signature) = token.rsplit_once('.').unwrap();
    for (place, other) in [
        (10, 'A'),
        (10, 'B'),
        (signature.len() / 2, 'A'),
        (signature.len() / 2, 'B'),
    ] {
        let mut altered: Vec<char> = signature.chars().collect();
        if altered[place] != other {
            altered[place] = other;
            let altered: String = altered.into_iter().collect();
            assert!(verify(&format!("{signed}.{altered}"), issuers).is_err());
        }
    }
    assert!(verify(&format!("{signed}."), issuers).is_err());
}

#[test]
fn es256_of_an_external_issuer() {
    let key = ES256KeyPair::generate().with_key_id("external");
    let issuers = issuers(&key.public_key().to_jwk());
    let token = key.sign_with_options(claims(), &options()).unwrap();
    check(&token, &issuers);
    let other = ES256KeyPair::generate().with_key_id("external");
    let forged = other.sign_with_options(claims(), &options()).unwrap();
    assert!(verify(&forged, &issuers).is_err());
}

#[test]
fn rs256_of_an_external_issuer() {
    let key = RS256KeyPair::generate(2048).unwrap().with_key_id("external");
    let issuers = issuers(&key.public_key().to_jwk());
    let token = key.sign_with_options(claims(), &options()).unwrap();
    check(&token, &issuers);
}

#[test]
fn a_well_signed_token_with_a_malformed_claim_is_not_called_badly_signed() {
    let key = ES256KeyPair::generate().with_key_id("external");
    let issuers = issuers(&key.public_key().to_jwk());
    let mut claims = claims();
    claims.custom["exp"] = json!("never");
    let token = key.sign_with_options(claims, &options()).unwrap();
    let error = verify(&token, &issuers).unwrap_err();
    assert_eq!(error, TokenError::ClaimsInvalid);
}
