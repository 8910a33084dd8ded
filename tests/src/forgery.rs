//! Tokens that nobody should accept, made from one that is good.

use anyhow::{Result, anyhow};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use jwt_simple::algorithms::{HS256Key, MACLike as _};
use jwt_simple::claims::JWTClaims;
use jwt_simple::prelude::HeaderOptions;
use serde_json::Value;

fn parts(token: &str) -> Result<[&str; 3]> {
    let parts: Vec<&str> = token.split('.').collect();
    parts.try_into().map_err(|_| anyhow!("a compact JWS has three parts"))
}

/// With one byte of the signature changed.
///
/// # Errors
///
/// When `token` is no compact JWS.
pub fn signature_changed(token: &str) -> Result<String> {
    let [header, claims, signature] = parts(token)?;
    let mut bytes = BASE64URL.decode(signature)?;
    bytes.iter_mut().take(1).for_each(|byte| *byte ^= 1);
    Ok(format!("{header}.{claims}.{}", BASE64URL.encode(bytes)))
}

/// With `alg: none` and no signature.
///
/// # Errors
///
/// When `token` is no compact JWS.
pub fn unsigned(token: &str) -> Result<String> {
    let [_, claims, _] = parts(token)?;
    Ok(format!(
        "{}.{claims}.",
        BASE64URL.encode(r#"{"alg":"none","typ":"cap+jwt"}"#)
    ))
}

/// With the same claims, signed by HS256 with the issuer's public key as the secret, under its key id.
///
/// # Errors
///
/// When `token` is no compact JWS.
pub fn public_key_as_secret(token: &str, kid: &str, public: &[u8]) -> Result<String> {
    let [_, claims, _] = parts(token)?;
    let custom: Value = serde_json::from_slice(&BASE64URL.decode(claims)?)?;
    let claims = JWTClaims {
        issued_at: None,
        expires_at: None,
        invalid_before: None,
        issuer: None,
        subject: None,
        audiences: None,
        jwt_id: None,
        nonce: None,
        custom,
    };
    let options = HeaderOptions {
        signature_type: Some("cap+jwt".to_owned()),
        ..HeaderOptions::default()
    };
    HS256Key::from_bytes(public)
        .with_key_id(kid)
        .authenticate_with_options(claims, &options)
}
