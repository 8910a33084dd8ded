//! One signing key.

use std::path::{Path, PathBuf};

use authz::json::{self, Limits};
use authz::jwks::{Jwk, Jwks};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jwt_simple::algorithms::{Ed25519KeyPair, EdDSAKeyPairLike};
use jwt_simple::claims::JWTClaims;
use jwt_simple::prelude::HeaderOptions;
use serde::Serialize;
use sha2::Sha256;

use crate::secret::{self, Readers, SecretError};

/// Why something could not be signed or a key not be used.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// The key file cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Signing failed: the claims do not serialise.
    #[error("cannot sign a `{typ}`: {reason}")]
    Sign {
        /// The type of what was to be signed.
        typ: &'static str,
        /// What failed.
        reason: String,
    },
    /// Our own public key does not read back.
    #[error("the public key of `{}` is not readable: {reason}", path.display())]
    PublicKey {
        /// The key file.
        path: PathBuf,
        /// What failed.
        reason: String,
    },
}

/// An Ed25519 key that signs compact JWS, or checkpoints of the log. The private half never leaves it.
pub struct Signer {
    pair: Ed25519KeyPair,
    kid: String,
    public: Jwk,
    path: PathBuf,
}

impl Signer {
    /// Reads a key file, a private JWK, that nobody but `readers` may read.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, others may read it, or it holds no Ed25519 key.
    pub fn read(path: &Path, readers: Readers) -> Result<Self, SignerError> {
        Self::parse(path, &secret::read_by(path, readers)?)
    }

    /// Reads a key file; makes one if there is none.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or made, others may read it, or it holds no Ed25519 key.
    pub fn read_or_make(path: &Path) -> Result<Self, SignerError> {
        Self::parse(path, &secret::read_or_create(path, || Ok(new_jwk().1))?)
    }

    /// Makes a key file in a folder, named by `prefix` and the key's id.
    ///
    /// # Errors
    ///
    /// If the file cannot be made.
    pub fn make(folder: &Path, prefix: &str) -> Result<Self, SignerError> {
        let (kid, jwk) = new_jwk();
        let path = folder.join(format!("{prefix}-{kid}.json"));
        Self::parse(&path, &secret::read_or_create(&path, || Ok(jwk))?)
    }

    fn parse(path: &Path, jwk: &[u8]) -> Result<Self, SignerError> {
        let invalid = |reason| SecretError::Invalid {
            path: path.to_owned(),
            reason,
        };
        let jwk = str::from_utf8(jwk).map_err(|_| invalid("not UTF-8"))?;
        let pair = Ed25519KeyPair::from_jwk(jwk).map_err(|_| invalid("not a private Ed25519 JWK"))?;
        // RFC 7638: the key's own digest, so that two keys never share an id and nobody has to choose one.
        let kid = pair.jwk_thumbprint();
        let pair = pair.with_key_id(&kid);
        let public = public_jwk(&pair.public_key().to_jwk()).map_err(|reason| SignerError::PublicKey {
            path: path.to_owned(),
            reason,
        })?;
        Ok(Self {
            pair,
            kid,
            public,
            path: path.to_owned(),
        })
    }

    /// Signs claims as a compact JWS of type `typ`.
    ///
    /// # Errors
    ///
    /// If the claims do not serialise.
    pub fn sign<T: Serialize>(&self, typ: &'static str, claims: &T) -> Result<String, SignerError> {
        let options = HeaderOptions {
            signature_type: Some(typ.to_owned()),
            ..HeaderOptions::default()
        };
        // All claims are ours: the library's own fields stay empty, so that it adds no time of its own.
        let claims = JWTClaims {
            issued_at: None,
            expires_at: None,
            invalid_before: None,
            issuer: None,
            subject: None,
            audiences: None,
            jwt_id: None,
            nonce: None,
            custom: claims,
        };
        self.pair
            .sign_with_options(claims, &options)
            .map_err(|error| SignerError::Sign {
                typ,
                reason: error.to_string(),
            })
    }

    /// Signs bytes as they are (RFC 8032); what they are must show in them, or one signature could be taken for another.
    pub fn sign_bytes(&self, message: &[u8]) -> [u8; 64] {
        *self.pair.key_pair().as_ref().sk.sign(message, None)
    }

    /// A secret of 32 bytes for `purpose`, within `domain`, which tells nothing of the key (HMAC-SHA-256 under its seed).
    /// Who has the key has the secret too: it could sign any policy anyway. None never happens.
    pub fn derive(&self, domain: &str, purpose: &str) -> Option<[u8; 32]> {
        let seed = self.pair.key_pair().as_ref().sk.seed();
        // INVARIANT: HMAC takes a key of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&*seed).ok()?;
        mac.update(domain.as_bytes());
        mac.update(b"\n");
        mac.update(purpose.as_bytes());
        Some(mac.finalize().into_bytes().into())
    }

    /// The key's id: its RFC 7638 thumbprint.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public half.
    pub fn public(&self) -> &Jwk {
        &self.public
    }

    /// Where the key is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A new key's id and private JWK.
fn new_jwk() -> (String, Vec<u8>) {
    let pair = Ed25519KeyPair::generate();
    let kid = pair.jwk_thumbprint();
    let jwk = pair.with_key_id(&kid).to_jwk().into_bytes();
    (kid, jwk)
}

/// Reads back what the library exports, through the same strict reader that filters use.
fn public_jwk(jwk: &str) -> Result<Jwk, String> {
    let set = format!("{{\"keys\":[{jwk}]}}");
    let set: Jwks = json::strict(set.as_bytes(), &Limits::POLICY).map_err(|error| error.to_string())?;
    set.keys().first().cloned().ok_or_else(|| "no key".to_owned())
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("kid", &self.kid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use jwt_simple::algorithms::EdDSAPublicKeyLike;

    use super::*;

    fn made(folder: &tempfile::TempDir) -> Signer {
        Signer::make(folder.path(), "token").unwrap()
    }

    #[test]
    fn a_key_file_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        let first = Signer::read_or_make(&path).unwrap();
        assert_eq!(Signer::read_or_make(&path).unwrap().kid(), first.kid());
        assert_eq!(Signer::read(&path, Readers::Owner).unwrap().kid(), first.kid());
        let other = made(&folder);
        assert_ne!(other.kid(), first.kid());
        assert_eq!(other.path(), folder.path().join(format!("token-{}.json", other.kid())));
    }

    #[test]
    fn the_key_id_is_the_rfc_7638_thumbprint_of_rfc_8037() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.json");
        let jwk = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        secret::read_or_create(&path, || Ok(jwk.into())).unwrap();
        assert_eq!(
            Signer::read(&path, Readers::Owner).unwrap().kid(),
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        );
    }

    #[test]
    fn a_signature_carries_type_and_key_id_and_no_claim_of_the_library() {
        let folder = tempfile::tempdir().unwrap();
        let signer = made(&folder);
        let jws = signer.sign("cap+jwt", &serde_json::json!({"a": 1})).unwrap();
        let mut parts = jws.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
        let header: serde_json::Value = serde_json::from_slice(&parts.next().unwrap()).unwrap();
        assert_eq!(
            header,
            serde_json::json!({"alg": "EdDSA", "typ": "cap+jwt", "kid": signer.kid()})
        );
        assert_eq!(parts.next().unwrap(), br#"{"a":1}"#);
        signer
            .pair
            .public_key()
            .verify_token::<serde_json::Value>(&jws, None)
            .unwrap();
    }

    #[test]
    fn nothing_secret_is_printed() {
        let folder = tempfile::tempdir().unwrap();
        let signer = made(&folder);
        let file = std::fs::read_to_string(signer.path()).unwrap();
        let private: serde_json::Value = serde_json::from_str(&file).unwrap();
        let secret = private.get("d").unwrap().as_str().unwrap();
        assert!(!format!("{signer:?}").contains(secret));
    }
}
