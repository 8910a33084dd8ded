//! The request target: refused unless its path is already canonical.
//!
//! The bytes that go on are the bytes that were decided on, so nothing is normalised here; what a proxy or an
//! application could read as another path is refused.

use std::borrow::Cow;

use crate::denial::{Code, Denial};

/// The longest path and query that are read; Envoy's own bound on all headers is 60 KiB.
pub const MAX_TARGET_BYTES: usize = 8 << 10;

/// Splits a request target into path and query if the path is already canonical.
pub(super) fn split(target: &[u8]) -> Result<(&str, Option<&str>), Denial> {
    if target.len() > MAX_TARGET_BYTES {
        return Err(not_canonical("longer than 8 KiB"));
    }
    if !target.iter().all(|b| b.is_ascii_graphic() && *b != b'#') {
        return Err(not_canonical(
            "it holds a control, blank or non-ASCII byte, or a fragment",
        ));
    }
    let target = std::str::from_utf8(target).map_err(|_| not_canonical("it is not UTF-8"))?;
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    check_path(path)?;
    Ok((path, query))
}

fn check_path(path: &str) -> Result<(), Denial> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err(not_canonical("it does not start with `/`"));
    };
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            // A trailing slash is a path of its own; it matches no route that is not written so.
            "" if segments.peek().is_some() => return Err(not_canonical("an empty segment")),
            "." | ".." => return Err(not_canonical("a dot segment")),
            _ => check_segment(segment.as_bytes())?,
        }
    }
    Ok(())
}

fn check_segment(segment: &[u8]) -> Result<(), Denial> {
    let mut bytes = segment.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'%' => match (bytes.next().copied().and_then(hex), bytes.next().copied().and_then(hex)) {
                (Some(high), Some(low)) => check_escaped(high << 4 | low)?,
                _ => {
                    return Err(not_canonical(
                        "a bad percent escape (two hexadecimal digits in upper case)",
                    ));
                }
            },
            b'\\' | b';' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                return Err(not_canonical("a byte that paths may not hold"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Upper case only: RFC 3986, section 6.2.2.1, calls that the canonical form.
fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// What an escape may stand for: nothing that needs no escape, and nothing that means another path once unescaped.
/// `%25` would be a second layer of escapes for a reader that unescapes twice.
fn check_escaped(byte: u8) -> Result<(), Denial> {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            Err(not_canonical("an escape of a character that needs none"))
        }
        b'/' | b'\\' | b';' | b'%' | b'#' | b'?' | 0..=0x1f | 0x7f => {
            Err(not_canonical("an escaped separator or control byte"))
        }
        _ => Ok(()),
    }
}

fn not_canonical(why: &'static str) -> Denial {
    Denial::new(Code::PathNotCanonical, why)
}

/// Whether the query has a parameter named `access_token` (RFC 6750, section 2.3), however it is spelt.
pub(super) fn holds_token(query: &str) -> bool {
    names(query, b"access_token")
}

/// Whether the query has a parameter named `_method`, by which web frameworks (Symfony, Laravel, WordPress) take a `POST`
/// for another method.
pub(super) fn overrides_method(query: &str) -> bool {
    names(query, b"_method")
}

/// Whether some application could take `given`, a parameter's name as it came, for `name`: there are those that undo escapes,
/// fold case, trim blanks, read `table[]` and `table.x` as parts of `table`, or an underscore for a dot, a blank or a hyphen.
pub(crate) fn could_name(given: &str, name: &str) -> bool {
    let blank = |byte: &u8| matches!(byte, b'+' | 0..=b' ');
    let given = unescape(given);
    let start = given.iter().take_while(|byte| blank(byte)).count();
    let Some((head, rest)) = given.get(start..).and_then(|given| given.split_at_checked(name.len())) else {
        return false;
    };
    let fold = |byte: u8| match byte {
        b'.' | b'+' | b' ' | b'[' | b'-' => b'_',
        byte => byte.to_ascii_lowercase(),
    };
    let is_same = head.iter().copied().map(fold).eq(name.bytes().map(fold));
    is_same
        && rest
            .first()
            .is_none_or(|byte| blank(byte) || matches!(byte, b'[' | b'.'))
}

fn names(query: &str, wanted: &[u8]) -> bool {
    query.split(['&', ';']).any(|parameter| {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        unescape(name).eq_ignore_ascii_case(wanted)
    })
}

fn unescape(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = match (byte, tail) {
            (b'%', [high, low, after @ ..]) => hex(high.to_ascii_uppercase())
                .zip(hex(low.to_ascii_uppercase()))
                .map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((byte, tail));
        out.push(byte);
        rest = after;
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_parameter_may_be_another_to_some() {
        for same in [
            "table",
            "TABLE",
            "t%61ble",
            "+table",
            "%20table",
            "table[]",
            "table%5B%5D",
            "table[x]",
            "table.x",
            "table+",
            "table%00",
            "Table%20x",
        ] {
            assert!(could_name(same, "table"), "{same}");
        }
        for other in [
            "",
            "tabl",
            "tables",
            "table_name",
            "table-name",
            "a_table",
            "stable",
            "[table]",
            "table%5D",
        ] {
            assert!(!could_name(other, "table"), "{other}");
        }
        for same in ["a_b", "a.b", "a-b", "a+b", "a[b", "A%2Eb"] {
            assert!(could_name(same, "a_b") && could_name(same, "a-b"), "{same}");
        }
    }

    #[test]
    fn a_canonical_path_beside_each_of_its_other_spellings() {
        let (path, query) = split(b"/v1/tables/sales_q1_2026?limit=3&to=/../x").unwrap();
        assert_eq!((path, query), ("/v1/tables/sales_q1_2026", Some("limit=3&to=/../x")));
        for fine in [
            "/",
            "/a",
            "/a/",
            "/a-b_c.d~e",
            "/a..b/.well-known",
            "/%C3%A9",
            "/a%20b",
            "/a:b@c!$&'()*+,=",
        ] {
            assert!(split(fine.as_bytes()).is_ok(), "{fine}");
        }
        for other in [
            "",
            "*",
            "a",
            "http://host/v1",
            "//v1",
            "/v1//tables",
            "/v1/./tables",
            "/v1/../tables",
            "/v1/..",
            "/.",
            "/v1/%2e/tables",
            "/v1/%2E%2E/tables",
            "/v1/.%2E/tables",
            "/v1%2Ftables",
            "/v1%2ftables",
            "/v1%5Ctables",
            "/v1\\tables",
            "/v1/..;/tables",
            "/v1;a=b",
            "/v1%3Btables",
            "/v1#f",
            "/v1%23",
            "/v1%3F",
            "/v1%252Ftables",
            "/v1/%74ables",
            "/v1/%7E",
            "/v1/%c3%a9",
            "/v1/%",
            "/v1/%4",
            "/v1/%GG",
            "/v1/%00",
            "/v1/%0A",
            "/v1/%7F",
            "/v1 ",
            "/v1\t",
            "/v1\n",
            "/v1\0",
            "/v1/\u{e9}",
            "/v1/\"",
            "/v1/{a}",
            "/v1/<a>",
            "/v1/^",
            "/v1/`",
            "/v1/|",
            "/v1?a#b",
            "/v1?a b",
        ] {
            let denial = split(other.as_bytes()).unwrap_err();
            assert_eq!(denial.code(), Code::PathNotCanonical, "{other}");
        }
        assert!(split(b"/\xff").is_err());
    }

    #[test]
    fn the_bound_is_on_path_and_query_together() {
        let fits = format!("/{}", "a".repeat(MAX_TARGET_BYTES - 1));
        assert!(split(fits.as_bytes()).is_ok());
        assert!(split(format!("{fits}a").as_bytes()).is_err());
        assert!(split(format!("/?{}", "a".repeat(MAX_TARGET_BYTES)).as_bytes()).is_err());
    }

    #[test]
    fn a_token_in_the_query_is_found_however_it_is_spelt() {
        for hidden in [
            "access_token=x",
            "a=b&access_token=x",
            "a;access_token=x",
            "Access_Token=x",
            "%61ccess_token=x",
            "access%5ftoken",
        ] {
            assert!(holds_token(hidden), "{hidden}");
        }
        for fine in [
            "",
            "a=access_token",
            "access_tokens=x",
            "my_access_token=x",
            "%zz=1",
            "%6",
        ] {
            assert!(!holds_token(fine), "{fine}");
        }
    }

    #[test]
    fn a_method_in_the_query_is_found_however_it_is_spelt() {
        for hidden in [
            "_method=DELETE",
            "a=b&_method",
            "a;_METHOD=PUT",
            "%5Fmethod=PUT",
            "_%6Dethod=PUT",
        ] {
            assert!(overrides_method(hidden), "{hidden}");
        }
        for fine in ["", "method=DELETE", "a=_method", "_methods=1", "payment_method=card"] {
            assert!(!overrides_method(fine), "{fine}");
        }
    }
}
