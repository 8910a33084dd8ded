//! A test key that signs anything: tokens, bundles, state lists, and what a forger would send.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

/// An Ed25519 key with its key id.
#[derive(Clone)]
pub struct TestKey {
    id: String,
    key: SigningKey,
}

impl std::fmt::Debug for TestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl TestKey {
    /// The key that `id` always stands for in tests: its seed is the digest of the id.
    pub fn named(id: &str) -> Self {
        use sha2::{Digest as _, Sha256};
        let seed: [u8; 32] = Sha256::digest(id.as_bytes()).into();
        Self {
            id: id.to_owned(),
            key: SigningKey::from_bytes(&seed),
        }
    }

    /// Its key id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The public key's bytes.
    pub fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The public half as a JWK.
    pub fn jwk(&self) -> Value {
        let x = BASE64URL.encode(self.public());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.id, "x": x})
    }

    /// The public half as a JWKS of one key.
    pub fn jwks(&self) -> Value {
        json!({"keys": [self.jwk()]})
    }

    /// A compact JWS with the ordinary header for `typ`.
    pub fn sign(&self, typ: &str, claims: &Value) -> String {
        self.sign_with_header(
            &json!({"alg": "EdDSA", "typ": typ, "kid": self.id}).to_string(),
            &claims.to_string(),
        )
    }

    /// A compact JWS over exactly these bytes of header and payload.
    pub fn sign_with_header(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(payload));
        let signature = self.key.sign(message.as_bytes()).to_bytes();
        format!("{message}.{}", BASE64URL.encode(signature))
    }
}
