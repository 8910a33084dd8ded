//! Signs documents for tests.
#![expect(clippy::unwrap_used, reason = "tests")]

use ed25519_dalek::{Signer as _, SigningKey};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    identity::KeyId,
    jwks::{Jwk, Jwks, PublicKey},
    jws::base64url,
};

/// A key made of one byte repeated, and its id.
pub(crate) struct TestKey {
    key: SigningKey,
    kid: String,
}

impl TestKey {
    pub(crate) fn new(seed: u8) -> Self {
        Self {
            key: SigningKey::from_bytes(&[seed; 32]),
            kid: format!("key-{seed}"),
        }
    }

    pub(crate) fn jwk(&self) -> Jwk {
        let public = PublicKey::Ed25519(self.key.verifying_key().to_bytes());
        Jwk::new(KeyId::parse(&self.kid).unwrap(), public).unwrap()
    }

    pub(crate) fn jwks(&self) -> Jwks {
        Jwks::new(vec![self.jwk()]).unwrap()
    }

    pub(crate) fn header(&self, typ: &str) -> Value {
        json!({ "alg": "EdDSA", "typ": typ, "kid": self.kid })
    }

    /// Signs `payload` under the ordinary header.
    pub(crate) fn sign(&self, typ: &str, payload: &impl Serialize) -> String {
        self.sign_raw(&self.header(typ).to_string(), &serde_json::to_string(payload).unwrap())
    }

    /// Signs exactly these bytes.
    pub(crate) fn sign_raw(&self, header: &str, payload: &str) -> String {
        let input = format!("{}.{}", base64url::encode(header), base64url::encode(payload));
        let signature = self.key.sign(input.as_bytes()).to_bytes();
        format!("{input}.{}", base64url::encode(signature))
    }
}
