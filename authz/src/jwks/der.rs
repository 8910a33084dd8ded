//! The DER forms that BoringSSL, and so Envoy's `verify_signature`, takes.

use super::PublicKey;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// `AlgorithmIdentifier` of Ed25519 (RFC 8410).
const ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];
/// `AlgorithmIdentifier` of an EC key on P-256 (RFC 5480).
const P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];
/// `AlgorithmIdentifier` of an RSA key (RFC 8017, appendix A.1).
const RSA: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

/// The `SubjectPublicKeyInfo` of a key (RFC 5280, section 4.1).
#[must_use]
pub fn to_spki_der(key: &PublicKey) -> Vec<u8> {
    let (algorithm, bits) = match key {
        PublicKey::Ed25519(point) => (ED25519, point.to_vec()),
        PublicKey::P256 { x, y } => (P256, [&[0x04][..], x, y].concat()),
        PublicKey::Rsa { n, e } => (RSA, tagged(SEQUENCE, &[unsigned(n), unsigned(e)].concat())),
    };
    let no_unused_bits = [&[0x00][..], &bits].concat();
    tagged(
        SEQUENCE,
        &[algorithm.to_vec(), tagged(BIT_STRING, &no_unused_bits)].concat(),
    )
}

/// Turns the fixed-length ECDSA signature of JOSE (RFC 7518, section 3.4) into the DER of X9.62; `None` unless it has
/// 64 bytes.
#[must_use]
pub fn ecdsa_p1363_to_der(signature: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = signature.split_at_checked(32)?;
    (s.len() == 32).then(|| tagged(SEQUENCE, &[unsigned(r), unsigned(s)].concat()))
}

/// A non-negative `INTEGER` in its shortest form.
fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = bytes.iter().copied().skip_while(|&byte| byte == 0).collect();
    let needs_sign_byte = digits.first().is_none_or(|&high| high & 0x80 != 0);
    let content = if needs_sign_byte {
        [&[0x00][..], &digits].concat()
    } else {
        digits
    };
    tagged(INTEGER, &content)
}

fn tagged(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut der = vec![tag];
    match content.len() {
        // INVARIANT: the casts keep the value, each arm bounds it.
        length @ 0..0x80 => der.push(length as u8),
        length @ 0x80..0x100 => der.extend([0x81, length as u8]),
        length => der.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    der.extend_from_slice(content);
    der
}
