//! ES256 and RS256 by the proxy's own cryptography.
//!
//! In wasm an ES256 verification costs six times an Ed25519 one; BoringSSL is at hand through the foreign function
//! `verify_signature`, whose arguments are a small protobuf message.

use authz::jwks::{Algorithm, PublicKey, der};
use authz::jws::{ExternalVerifier, KeyTables};

use crate::host::Host;

const FUNCTION: &str = "verify_signature";

// Field numbers of envoy.source.extensions.common.wasm.VerifySignatureArguments.
const HASH_FUNCTION: u8 = 1;
const PUBLIC_KEY_DER: u8 = 2;
const SIGNATURE: u8 = 3;
const TEXT: u8 = 4;

/// VerifySignatureResult { result: true } with no error. Anything else is a refusal.
const VERIFIED: [u8; 2] = [0x08, 0x01];

/// Verifies through the host, and keeps the tables of the issuers' Ed25519 keys.
pub(crate) struct HostVerifier<'a, H> {
    pub(crate) host: &'a H,
    pub(crate) tables: &'a KeyTables,
}

impl<H: Host> ExternalVerifier for HostVerifier<'_, H> {
    fn verify(&self, key: &PublicKey, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let signature = match algorithm {
            Algorithm::Es256 => match der::ecdsa_p1363_to_der(signature) {
                Some(der) => der,
                None => return false,
            },
            Algorithm::Rs256 => signature.to_vec(),
            Algorithm::Ed25519 => return false,
        };
        let mut arguments = Vec::with_capacity(message.len() + signature.len() + 512);
        put_field(&mut arguments, HASH_FUNCTION, b"sha256");
        put_field(&mut arguments, PUBLIC_KEY_DER, &der::to_spki_der(key));
        put_field(&mut arguments, SIGNATURE, &signature);
        put_field(&mut arguments, TEXT, message);
        self.host
            .foreign(FUNCTION, &arguments)
            .is_some_and(|result| result == VERIFIED)
    }

    fn tables(&self) -> &KeyTables {
        self.tables
    }
}

/// Appends one length-delimited protobuf field.
fn put_field(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    const LENGTH_DELIMITED: u8 = 2;
    out.push(number << 3 | LENGTH_DELIMITED);
    let mut length = value.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_tagged_and_their_length_is_a_varint() {
        let mut out = Vec::new();
        put_field(&mut out, 1, b"sha256");
        assert_eq!(out, b"\x0a\x06sha256");
        let mut out = Vec::new();
        put_field(&mut out, 4, &[7; 300]);
        assert_eq!(out.get(..3), Some(&[0x22, 0xac, 0x02][..]));
        assert_eq!(out.len(), 303);
    }
}
