//! ES256 and RS256 for programs that do not run inside Envoy.

use authz::jwks::{Algorithm, PublicKey};
use authz::jws::ExternalVerifier;
use jwt_simple::algorithms::{ECDSAP256PublicKeyLike, ES256PublicKey, RS256PublicKey, RSAPublicKeyLike};
use p256::ecdsa::Signature;
use p256::ecdsa::signature::Verifier as _;
use superboring::hash::MessageDigest;
use superboring::pkey::PKey;
use superboring::rsa::Padding;
use superboring::sign::Verifier;

/// Verifies with the keys and primitives of `jwt-simple`.
///
/// Its `verify_token` is not used: it also reads the claims by its own rules, so that a well-signed token with a
/// malformed claim would be called badly signed, which is not what the filter in Envoy says of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NativeVerifier;

impl ExternalVerifier for NativeVerifier {
    fn verify(&self, key: &PublicKey, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (key, algorithm) {
            (PublicKey::P256 { x, y }, Algorithm::Es256) => verify_es256(x, y, message, signature).is_some(),
            (PublicKey::Rsa { n, e }, Algorithm::Rs256) => verify_rs256(n, e, message, signature).unwrap_or(false),
            _ => false,
        }
    }
}

/// The signature is `r || s`, 64 bytes.
fn verify_es256(x: &[u8; 32], y: &[u8; 32], message: &[u8], signature: &[u8]) -> Option<()> {
    let mut point = vec![4];
    point.extend_from_slice(x);
    point.extend_from_slice(y);
    let key = ES256PublicKey::from_bytes(&point).ok()?;
    let signature = Signature::from_slice(signature).ok()?;
    key.public_key().as_ref().verify(message, &signature).ok()
}

fn verify_rs256(n: &[u8], e: &[u8], message: &[u8], signature: &[u8]) -> Option<bool> {
    let key = RS256PublicKey::from_components(n, e).ok()?;
    let key = PKey::from_rsa(key.public_key().as_ref().clone()).ok()?;
    let mut verifier = Verifier::new(MessageDigest::sha256(), &key).ok()?;
    verifier.set_rsa_padding(Padding::PKCS1).ok()?;
    verifier.update(message).ok()?;
    verifier.verify(signature).ok()
}
