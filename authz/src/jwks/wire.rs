//! The JSON form of keys, and the checks between it and a key that may be used.

use serde::{Deserialize, Serialize};

use super::{Algorithm, JwkError, PublicKey};
use crate::{identity::KeyId, jws::base64url};

/// RFC 7517 permits further members; those that matter are read, `x5c` and its kin are never looked at.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Jwk {
    kty: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    usage: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_ops: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    /// The private part of any asymmetric key.
    #[serde(default, skip_serializing)]
    d: Option<serde::de::IgnoredAny>,
    /// A symmetric key.
    #[serde(default, skip_serializing)]
    k: Option<serde::de::IgnoredAny>,
}

/// A set as it is published; members other than `keys` are ignored (RFC 7517, section 5).
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Jwks {
    keys: Vec<super::Jwk>,
}

impl TryFrom<Jwks> for super::Jwks {
    type Error = JwkError;

    fn try_from(wire: Jwks) -> Result<Self, JwkError> {
        Self::new(wire.keys)
    }
}

impl From<super::Jwks> for Jwks {
    fn from(keys: super::Jwks) -> Self {
        Self { keys: keys.0 }
    }
}

impl TryFrom<Jwk> for super::Jwk {
    type Error = JwkError;

    fn try_from(wire: Jwk) -> Result<Self, JwkError> {
        if wire.d.is_some() || wire.k.is_some() {
            return Err(JwkError::Private);
        }
        if wire.usage.as_deref().is_some_and(|usage| usage != "sig")
            || wire
                .key_ops
                .as_ref()
                .is_some_and(|operations| operations != &["verify"])
        {
            return Err(JwkError::Usage);
        }
        let kid = KeyId::parse(wire.kid.as_deref().ok_or(JwkError::KeyId)?).map_err(|_| JwkError::KeyId)?;
        let key = material(&wire)?;
        if wire
            .alg
            .as_deref()
            .is_some_and(|name| Algorithm::from_name(name) != Some(key.algorithm()))
        {
            return Err(JwkError::Unsupported);
        }
        Self::new(kid, key)
    }
}

fn material(wire: &Jwk) -> Result<PublicKey, JwkError> {
    match (wire.kty.as_str(), wire.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => Ok(PublicKey::Ed25519(fixed(wire.x.as_deref())?)),
        ("EC", Some("P-256")) => Ok(PublicKey::P256 {
            x: fixed(wire.x.as_deref())?,
            y: fixed(wire.y.as_deref())?,
        }),
        ("RSA", None) => Ok(PublicKey::Rsa {
            n: integer(wire.n.as_deref())?,
            e: integer(wire.e.as_deref())?,
        }),
        _ => Err(JwkError::Unsupported),
    }
}

fn fixed(member: Option<&str>) -> Result<[u8; 32], JwkError> {
    integer(member)?.as_ref().try_into().map_err(|_| JwkError::Material)
}

fn integer(member: Option<&str>) -> Result<Box<[u8]>, JwkError> {
    base64url::decode(member.ok_or(JwkError::Material)?)
        .map(Into::into)
        .map_err(|_| JwkError::Material)
}

impl From<super::Jwk> for Jwk {
    fn from(jwk: super::Jwk) -> Self {
        let common = Self {
            kid: Some(jwk.kid.as_str().to_owned()),
            alg: Some(jwk.algorithm().name().to_owned()),
            usage: Some("sig".to_owned()),
            ..Self::default()
        };
        let text = |bytes: &[u8]| Some(base64url::encode(bytes));
        match &jwk.key {
            PublicKey::Ed25519(x) => Self {
                kty: "OKP".to_owned(),
                crv: Some("Ed25519".to_owned()),
                x: text(x),
                ..common
            },
            PublicKey::P256 { x, y } => Self {
                kty: "EC".to_owned(),
                crv: Some("P-256".to_owned()),
                x: text(x),
                y: text(y),
                ..common
            },
            PublicKey::Rsa { n, e } => Self {
                kty: "RSA".to_owned(),
                n: text(n),
                e: text(e),
                ..common
            },
        }
    }
}
