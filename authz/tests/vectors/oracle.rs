//! jwt-simple as a second opinion on every token.

use std::collections::HashSet;

use authz::{
    identity::Issuer,
    jwks::Jwks,
    token::{Issuers, TokenError, TokenLimits, UnverifiedToken, VerifiedToken},
};
use jwt_simple::prelude::*;
use serde_json::{Map, Value};

#[path = "../../../policy-server/src/verifier.rs"]
#[allow(unreachable_pub, reason = "public in the crate that it belongs to")]
mod verifier;

pub use verifier::NativeVerifier;

use super::Recipe;

/// Our own verdict on the token of a recipe.
///
/// # Errors
///
/// Why it is refused.
pub fn ours(recipe: &Recipe, now: u64) -> Result<VerifiedToken, TokenError> {
    let mut issuers = Issuers::default();
    for issuer in recipe.issuers().as_array().unwrap() {
        let name: Issuer = serde_json::from_value(issuer["iss"].clone()).unwrap();
        let keys: Jwks = serde_json::from_value(issuer["jwks"].clone()).unwrap();
        assert!(issuers.insert(name, keys));
    }
    UnverifiedToken::parse(&recipe.token(now))?.verify(&issuers, &TokenLimits::default(), now, &NativeVerifier)
}

/// The verdict of jwt-simple, configured as strictly as it can be; the key is the one that `kid` names.
///
/// # Errors
///
/// Why it refuses the token.
pub fn jwt_simple(recipe: &Recipe, now: u64) -> Result<(), jwt_simple::Error> {
    let token = recipe.token(now);
    let kid = Token::decode_metadata(&token)?
        .key_id()
        .map(str::to_owned)
        .unwrap_or_default();
    let issuers = recipe.issuers();
    let issuers = issuers.as_array().unwrap();
    let keys = issuers
        .iter()
        .flat_map(|issuer| issuer["jwks"]["keys"].as_array().unwrap());
    let Some(key) = keys.into_iter().find(|key| key["kid"] == kid.as_str()) else {
        return Err(jwt_simple::JWTError::KeyIdentifierMismatch.into());
    };
    let limits = TokenLimits::default();
    let options = VerificationOptions {
        required_key_id: Some(kid),
        required_signature_type: Some("cap+jwt".into()),
        allowed_issuers: Some(
            issuers
                .iter()
                .map(|issuer| issuer["iss"].as_str().unwrap().into())
                .collect::<HashSet<_>>(),
        ),
        time_tolerance: Some(Duration::from_secs(limits.skew_seconds)),
        max_validity: Some(Duration::from_secs(limits.max_lifetime_seconds + limits.skew_seconds)),
        max_token_length: Some(8192),
        artificial_time: Some(Duration::from_secs(now)),
        ..Default::default()
    };
    let jwk = key.to_string();
    type Claims = Map<String, Value>;
    match key["alg"].as_str() {
        Some("EdDSA") => Ed25519PublicKey::from_jwk(&jwk)?
            .verify_token::<Claims>(&token, Some(options))
            .map(drop),
        Some("ES256") => ES256PublicKey::from_jwk(&jwk)?
            .verify_token::<Claims>(&token, Some(options))
            .map(drop),
        _ => RS256PublicKey::from_jwk(&jwk)?
            .verify_token::<Claims>(&token, Some(options))
            .map(drop),
    }
}
