//! base64url without padding (RFC 7515, section 2), canonical only.
//!
//! Two texts for one value would give a revoked or recorded token a second spelling: padding, whitespace, the other
//! alphabet and non-zero trailing bits are refused.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// The text is not canonical base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not canonical base64url without padding")]
pub struct Base64Error;

/// Decodes `text`.
///
/// # Errors
///
/// [`Base64Error`] for anything but the one canonical encoding.
pub fn decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Base64Error)
}

/// Encodes `bytes`.
#[must_use]
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
