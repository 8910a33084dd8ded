//! The keys of the vectors, each made from its own name, and what they sign.
//!
//! They are published here, so they protect nothing. jwt-simple and its primitives sign, so that what is under test
//! never judges signatures of its own making.

use std::{
    collections::BTreeMap,
    sync::{LazyLock, Mutex},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jwt_simple::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use superboring::{hash::MessageDigest, pkey::PKey, rsa::Padding, sign::Signer};

/// The one key that is no seed; checking its primes takes a while, so that is done once.
static RSA: LazyLock<RS256KeyPair> =
    LazyLock::new(|| RS256KeyPair::from_pem(include_str!("../../vectors/keys/idp-rs256.pem")).unwrap());

/// One of the keys that a vector may name.
pub enum SigningKey {
    Ed25519(Ed25519KeyPair),
    Es256(ES256KeyPair),
    Rs256(&'static RS256KeyPair),
    /// HMAC keyed with the raw public key of the key named: what a confused verifier would check HS256 with.
    HmacOfPublic([u8; 32]),
}

impl SigningKey {
    /// The key of this name: `NAME-es256` and `NAME-rs256` by their ending, `hmac:NAME`, else Ed25519.
    pub fn named(name: &str) -> Self {
        if let Some(public) = name.strip_prefix("hmac:") {
            return Self::HmacOfPublic(ed25519(public).public_key().to_bytes().try_into().unwrap());
        }
        if name.ends_with("-es256") {
            return Self::Es256(ES256KeyPair::from_bytes(&seed(name)).unwrap());
        }
        if name.ends_with("-rs256") {
            return Self::Rs256(&RSA);
        }
        Self::Ed25519(ed25519(name))
    }

    /// The public half as a JWK with the name for its `kid`; made once, as every vector asks for several.
    pub fn public_jwk(name: &str) -> Value {
        static MADE: Mutex<BTreeMap<String, Value>> = Mutex::new(BTreeMap::new());
        let mut made = MADE.lock().unwrap();
        made.entry(name.to_owned())
            .or_insert_with(|| Self::named(name).to_public_jwk(name))
            .clone()
    }

    fn to_public_jwk(&self, kid: &str) -> Value {
        let jwk = match self {
            Self::Ed25519(key) => key.public_key().with_key_id(kid).to_jwk(),
            Self::Es256(key) => key.public_key().with_key_id(kid).to_jwk(),
            Self::Rs256(key) => key.public_key().with_key_id(kid).to_jwk(),
            Self::HmacOfPublic(_) => unreachable!("an HMAC has no public half"),
        };
        serde_json::from_str(&jwk).unwrap()
    }

    /// A set of the public halves of the keys named.
    pub fn public_jwks<'n>(names: impl IntoIterator<Item = &'n str>) -> Value {
        json!({ "keys": names.into_iter().map(Self::public_jwk).collect::<Vec<_>>() })
    }

    /// Encodes header and payload, and signs them.
    pub fn sign(&self, header: &[u8], payload: &[u8]) -> Signed {
        let (header, payload) = (URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let message = format!("{header}.{payload}");
        let signature = match self {
            Self::Ed25519(key) => key.key_pair().as_ref().sk.sign(message, None).to_vec(),
            Self::Es256(key) => key
                .key_pair()
                .as_ref()
                .sign_recoverable(message.as_bytes())
                .0
                .to_bytes()
                .to_vec(),
            Self::Rs256(key) => rs256(key, message.as_bytes()),
            Self::HmacOfPublic(key) => hmac_sha256(key, message.as_bytes()).to_vec(),
        };
        Signed {
            header,
            payload,
            signature,
        }
    }
}

/// The parts of a compact JWS: the first two as they are sent, the third still in bytes.
pub struct Signed {
    pub header: String,
    pub payload: String,
    pub signature: Vec<u8>,
}

/// The same ES256 signature as DER has it.
pub fn ecdsa_der(signature: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let significant = &bytes[bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len() - 1)..];
        let sign = if significant[0] >= 0x80 { &[0][..] } else { &[] };
        [&[2, (sign.len() + significant.len()) as u8], sign, significant].concat()
    };
    let (r, s) = signature.split_at(32);
    let body = [integer(r), integer(s)].concat();
    [&[0x30, body.len() as u8], &body[..]].concat()
}

/// An Ed25519 signature whose `s` is larger by the order of the group.
pub fn malleated(signature: &[u8]) -> Vec<u8> {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut out = signature.to_vec();
    let mut carry = 0;
    for (byte, order) in out[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    out
}

fn ed25519(name: &str) -> Ed25519KeyPair {
    // PKCS #8 around the seed (RFC 8410): the one form that needs no public half beside it.
    const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    Ed25519KeyPair::from_der(&[&PKCS8[..], &seed(name)].concat()).unwrap()
}

/// The secret half of the key of this name.
pub fn seed(name: &str) -> [u8; 32] {
    Sha256::digest(format!("a vector's key: {name}")).into()
}

fn rs256(key: &RS256KeyPair, message: &[u8]) -> Vec<u8> {
    let key = PKey::from_rsa(key.key_pair().as_ref().clone()).unwrap();
    let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
    signer.set_rsa_padding(Padding::PKCS1).unwrap();
    signer.update(message).unwrap();
    signer.sign_to_vec().unwrap()
}

pub fn hmac_sha256(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}
