//! What a request must say of its body for the body to be held, read whole and decided on.

use crate::denial::{Code, Denial};
use crate::request::RequestHead;

/// The media type of JSON.
pub(crate) const JSON: &str = "application/json";

/// Checks the headers that describe a body: that it will be JSON of one of `types`, not encoded, within the limit.
///
/// # Errors
///
/// `body_encoded`, `media_type_refused` or `body_too_large`.
pub(crate) fn check(
    head: &RequestHead<'_>,
    types: &[&str],
    expected: &'static str,
    limit_bytes: usize,
) -> Result<(), Denial> {
    if head
        .content_encoding()
        .is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity"))
    {
        return Err(Denial::new(
            Code::BodyEncoded,
            "send the body without `content-encoding`",
        ));
    }
    if !head.content_type().is_some_and(|given| is_one_of(given, types)) {
        return Err(Denial::new(Code::MediaTypeRefused, expected));
    }
    if head.content_length().is_some_and(|length| length > limit_bytes as u64) {
        return Err(too_large(limit_bytes));
    }
    Ok(())
}

/// The denial of a body that is longer than its service allows.
pub(crate) fn too_large(limit_bytes: usize) -> Denial {
    Denial::new(
        Code::BodyTooLarge,
        format!("the body may have at most {limit_bytes} bytes"),
    )
}

/// One of `types`, with no parameter but `charset=utf-8`.
fn is_one_of(content_type: &[u8], types: &[&str]) -> bool {
    let mut parts = content_type.split(|b| *b == b';');
    let is_type = parts.next().is_some_and(|part| {
        let part = part.trim_ascii();
        types.iter().any(|known| part.eq_ignore_ascii_case(known.as_bytes()))
    });
    let charset = |part: &[u8]| {
        let part = part.trim_ascii();
        part.eq_ignore_ascii_case(b"charset=utf-8") || part.eq_ignore_ascii_case(b"charset=\"utf-8\"")
    };
    is_type && parts.next().is_none_or(charset) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_one_type_with_one_parameter() {
        for fine in [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
        ] {
            assert!(is_one_of(fine.as_bytes(), &[JSON]), "{fine}");
        }
        for other in [
            "application/json; charset=utf-7",
            "application/json; x=1",
            "application/json; charset=utf-8; x=1",
            "application/json;",
            "application/jsonx",
            "application/vnd.api+json",
            "text/json",
            "",
            "application/json, application/json",
        ] {
            assert!(!is_one_of(other.as_bytes(), &[JSON]), "{other}");
        }
    }
}
