//! Public keys and sets of them (RFC 7517, RFC 7518 section 6, RFC 8037).
//!
//! A key is bound to one algorithm when it is read, so that a token's header can never choose how a key is used
//! (RFC 8725, section 3.1). Symmetric keys do not exist here: an HMAC "with the public key" finds nothing to use.

use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use crate::identity::KeyId;

pub mod der;
mod wire;

/// A signature algorithm that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// Ed25519 (RFC 8037), under its old name `EdDSA` or its new one `Ed25519` (RFC 9864).
    Ed25519,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
}

impl Algorithm {
    /// Reads a JOSE algorithm name; anything not served, `none` and `HS256` among them, is `None`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "EdDSA" | "Ed25519" => Some(Self::Ed25519),
            "ES256" => Some(Self::Es256),
            "RS256" => Some(Self::Rs256),
            _ => None,
        }
    }

    /// The JOSE name that we write.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// The smallest RSA modulus: shorter ones are within reach of factoring (RFC 7518, section 3.3).
pub const MIN_RSA_BITS: usize = 2048;

/// The largest RSA modulus; bounds the time that one verification takes.
pub const MAX_RSA_BITS: usize = 4096;

/// The most keys in one set; bounds a search that happens before any signature is checked.
pub const MAX_KEYS: usize = 64;

/// The material of a public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// The encoded point.
    Ed25519([u8; 32]),
    /// The affine coordinates, big-endian.
    P256 {
        /// x.
        x: [u8; 32],
        /// y.
        y: [u8; 32],
    },
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa {
        /// The modulus.
        n: Box<[u8]>,
        /// The public exponent.
        e: Box<[u8]>,
    },
}

impl PublicKey {
    /// The one algorithm that keys of this type are used with.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519(_) => Algorithm::Ed25519,
            Self::P256 { .. } => Algorithm::Es256,
            Self::Rsa { .. } => Algorithm::Rs256,
        }
    }
}

/// Why a key or a set was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwkError {
    /// Not a type, curve and algorithm that are served together.
    #[error("key type, curve and algorithm are not served together")]
    Unsupported,
    /// `kid` is missing or not 1 to 128 visible ASCII characters.
    #[error("a key needs a `kid` of 1 to 128 visible ASCII characters")]
    KeyId,
    /// A member that a public key of this type needs is missing, or is not canonical base64url of the right length.
    #[error("the key material is missing or malformed")]
    Material,
    /// A small-order or otherwise unusable point.
    #[error("the key is weak")]
    Weak,
    /// An RSA modulus or exponent outside the bounds.
    #[error("RSA keys have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits and an odd exponent from 3 to 32 bits")]
    RsaSize,
    /// `use` is not `sig`, or `key_ops` is not `["verify"]`.
    #[error("the key is not for verifying signatures")]
    Usage,
    /// The JWK carries a private or symmetric part.
    #[error("private and symmetric keys do not belong in a key set")]
    Private,
    /// Two keys of one set share a `kid`.
    #[error("two keys have the same `kid`")]
    DuplicateKeyId,
    /// More than [`MAX_KEYS`] keys.
    #[error("a key set holds at most {MAX_KEYS} keys")]
    TooMany,
}

/// One key: its id, its material, and so the one algorithm that it may be used with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "wire::Jwk", into = "wire::Jwk")]
pub struct Jwk {
    kid: KeyId,
    key: PublicKey,
    /// The decompressed point of an Ed25519 key: decompressing it costs a tenth of a verification.
    point: Option<Box<VerifyingKey>>,
}

impl Jwk {
    /// Binds an id to key material.
    ///
    /// # Errors
    ///
    /// [`JwkError::Weak`] for a point that is not on the curve or of small order, [`JwkError::RsaSize`].
    pub fn new(kid: KeyId, key: PublicKey) -> Result<Self, JwkError> {
        let point = match &key {
            PublicKey::Ed25519(bytes) => Some(ed25519_point(bytes)?),
            PublicKey::P256 { .. } => None,
            PublicKey::Rsa { n, e } => {
                check_rsa(n, e)?;
                None
            }
        };
        Ok(Self { kid, key, point })
    }

    /// The id.
    #[must_use]
    pub fn kid(&self) -> &KeyId {
        &self.kid
    }

    /// The material.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The one algorithm of this key.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.key.algorithm()
    }

    pub(crate) fn point(&self) -> Option<&VerifyingKey> {
        self.point.as_deref()
    }
}

fn ed25519_point(bytes: &[u8; 32]) -> Result<Box<VerifyingKey>, JwkError> {
    let point = VerifyingKey::from_bytes(bytes).map_err(|_| JwkError::Weak)?;
    if point.is_weak() {
        Err(JwkError::Weak)
    } else {
        Ok(Box::new(point))
    }
}

fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), JwkError> {
    let (Some(&high), Some(&low), Some(&e_high), Some(&e_low)) = (n.first(), n.last(), e.first(), e.last()) else {
        return Err(JwkError::RsaSize);
    };
    let bits = n.len() * 8 - high.leading_zeros() as usize;
    let sound = high != 0
        && low & 1 == 1
        && (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits)
        && e_high != 0
        && e_low & 1 == 1
        && e.len() <= 4
        && e != [1];
    if sound { Ok(()) } else { Err(JwkError::RsaSize) }
}

/// A set of keys with distinct ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "wire::Jwks", into = "wire::Jwks")]
pub struct Jwks(Vec<Jwk>);

impl Jwks {
    /// Puts keys into a set.
    ///
    /// # Errors
    ///
    /// [`JwkError::DuplicateKeyId`], [`JwkError::TooMany`].
    pub fn new(keys: Vec<Jwk>) -> Result<Self, JwkError> {
        if keys.len() > MAX_KEYS {
            return Err(JwkError::TooMany);
        }
        let repeated = keys
            .iter()
            .enumerate()
            .any(|(index, key)| keys.iter().skip(index + 1).any(|k| k.kid == key.kid));
        if repeated {
            Err(JwkError::DuplicateKeyId)
        } else {
            Ok(Self(keys))
        }
    }

    /// The key with this id.
    #[must_use]
    pub fn find(&self, kid: &str) -> Option<&Jwk> {
        self.0.iter().find(|key| key.kid.as_str() == kid)
    }

    /// The keys in their order.
    #[must_use]
    pub fn keys(&self) -> &[Jwk] {
        &self.0
    }
}

#[cfg(test)]
mod tests;
