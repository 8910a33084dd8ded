//! Compact JWS (RFC 7515): parsing, header rules, and the signature.
//!
//! Nothing in the header is trusted to choose anything but a key of a set that was already chosen: keys in the header
//! or behind URLs, critical extensions, detached and compressed payloads are refused, and the algorithm must be the
//! one that the key is bound to.

use std::borrow::Cow;

use crate::{
    json::{self, Document, Limits},
    jwks::{Algorithm, Jwk, Jwks, PublicKey},
};

pub mod base64url;
mod tables;

pub use tables::{KeyTables, MAX_TABLES};

/// The longest capability token; a header field of Envoy's default size still holds it.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;

/// The longest policy bundle or state list.
pub const MAX_POLICY_BYTES: usize = 16 << 20;

/// The longest protected header once decoded; real ones have about 60 bytes.
const MAX_HEADER_BYTES: usize = 1 << 10;

/// Why a JWS was refused before or at its signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// Longer than the bound for its kind.
    #[error("longer than allowed")]
    TooLong,
    /// Not three parts of canonical base64url with a JSON object as header.
    #[error("not a compact JWS")]
    Malformed,
    /// `alg` is missing, not served, or not the algorithm of the key.
    #[error("the algorithm is not allowed")]
    Algorithm,
    /// `typ` is missing or another one.
    #[error("the type is not the expected one")]
    Type,
    /// `jku`, `jwk`, `x5u`, `x5c`, `crit`, `b64`, `zip` or `enc` is present.
    #[error("a header parameter is refused")]
    Parameter,
    /// `kid` is missing or not a string.
    #[error("the key id is missing")]
    KeyIdMissing,
    /// No key of the set has this `kid`.
    #[error("no such key")]
    KeyUnknown,
    /// The signature is not by that key over these bytes.
    #[error("the signature is not valid")]
    Signature,
}

/// Verifies the algorithms that this crate does not: ES256 and RS256.
///
/// The filter asks Envoy (BoringSSL), native programs ask a crate; neither belongs in the core.
pub trait ExternalVerifier {
    /// Whether `signature` (in its JOSE form, RFC 7518 section 3) is by `key` over `message`.
    ///
    /// Must be false whenever in doubt, and for an algorithm that does not fit the key.
    fn verify(&self, key: &PublicKey, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool;

    /// Tables by which this crate verifies Ed25519 faster, where the caller keeps any. They change no verdict.
    fn tables(&self) -> &KeyTables {
        KeyTables::NONE
    }
}

/// Verifies nothing: for places where only Ed25519 is expected.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoExternal;

impl ExternalVerifier for NoExternal {
    fn verify(&self, _: &PublicKey, _: Algorithm, _: &[u8], _: &[u8]) -> bool {
        false
    }
}

/// A compact JWS whose header obeys the rules; its payload is not to be trusted before [`CompactJws::verify`].
#[derive(Debug, Clone)]
pub struct CompactJws<'a> {
    signing_input: &'a str,
    algorithm: Algorithm,
    kid: String,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> CompactJws<'a> {
    /// Splits and decodes `text`, at most `max_bytes` long, and applies the header rules; `typ` must match exactly.
    ///
    /// # Errors
    ///
    /// Any [`JwsError`] but [`JwsError::KeyUnknown`] and [`JwsError::Signature`].
    pub fn parse(text: &'a str, typ: &str, max_bytes: usize) -> Result<Self, JwsError> {
        if text.len() > max_bytes {
            return Err(JwsError::TooLong);
        }
        let (signing_input, signature) = text.rsplit_once('.').ok_or(JwsError::Malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(JwsError::Malformed)?;
        if header.len() > MAX_HEADER_BYTES * 4 / 3 {
            return Err(JwsError::TooLong);
        }
        let header = decode(header)?;
        let (algorithm, kid) = check_header(&header, typ)?;
        Ok(Self {
            signing_input,
            algorithm,
            kid,
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }

    /// The id of the key that is to verify it.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.kid
    }

    /// The payload; trust nothing in it before [`Self::verify`] has returned.
    #[must_use]
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, taken out.
    #[must_use]
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// Checks the signature by the key of `keys` that `kid` names.
    ///
    /// # Errors
    ///
    /// [`JwsError::KeyUnknown`], [`JwsError::Algorithm`] if the header names another algorithm than the key's,
    /// [`JwsError::Signature`].
    pub fn verify(&self, keys: &Jwks, external: &dyn ExternalVerifier) -> Result<(), JwsError> {
        let key = keys.find(&self.kid).ok_or(JwsError::KeyUnknown)?;
        if key.algorithm() != self.algorithm {
            return Err(JwsError::Algorithm);
        }
        if is_signed_by(key, self.signing_input.as_bytes(), &self.signature, external) {
            Ok(())
        } else {
            Err(JwsError::Signature)
        }
    }
}

/// Whether `signature`, in the form that JOSE gives it, is that of `key` over `message`.
///
/// Every signature that this crate relies on goes through here; published, so that known-answer tests do too.
#[must_use]
pub fn is_signed_by(key: &Jwk, message: &[u8], signature: &[u8], external: &dyn ExternalVerifier) -> bool {
    match (key.algorithm(), key.point()) {
        (Algorithm::Ed25519, Some(point)) => ed25519_dalek::Signature::from_slice(signature)
            .is_ok_and(|signature| external.tables().verify(point, message, &signature)),
        (Algorithm::Ed25519, None) => false,
        // JOSE fixes both lengths; a verifier that takes DER as well must not be handed any.
        (Algorithm::Es256, _) if signature.len() != 64 => false,
        (algorithm, _) => external.verify(key.key(), algorithm, message, signature),
    }
}

fn decode(part: &str) -> Result<Vec<u8>, JwsError> {
    base64url::decode(part).map_err(|_| JwsError::Malformed)
}

/// Header parameters that let a token bring its own key, hide what is signed, or change what it means.
const REFUSED_PARAMETERS: [&str; 8] = ["jku", "jwk", "x5u", "x5c", "crit", "b64", "zip", "enc"];

fn check_header(header: &[u8], typ: &str) -> Result<(Algorithm, String), JwsError> {
    let document = json::parse(header, &Limits::REQUEST).map_err(|_| JwsError::Malformed)?;
    if document.root().kind() != json::Kind::Object {
        return Err(JwsError::Malformed);
    }
    if REFUSED_PARAMETERS
        .iter()
        .any(|name| document.root().get(name).is_some())
    {
        return Err(JwsError::Parameter);
    }
    let algorithm = text(&document, "alg")
        .and_then(|name| Algorithm::from_name(&name))
        .ok_or(JwsError::Algorithm)?;
    if text(&document, "typ").as_deref() != Some(typ) {
        return Err(JwsError::Type);
    }
    let kid = text(&document, "kid").ok_or(JwsError::KeyIdMissing)?;
    Ok((algorithm, kid.into_owned()))
}

fn text<'d>(document: &'d Document<'_>, name: &str) -> Option<Cow<'d, str>> {
    document.root().get(name)?.as_str()
}

#[cfg(test)]
mod tests;
