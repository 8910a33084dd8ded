//! `A2A-Version`: which protocol version a request is of, in a header or in the query.
//!
//! An unknown one is refused: it may name rights in ways not read here. Without it, 0.3 is meant (1.0, section 3.6).

use crate::denial::{Code, Denial, RPC_A2A_VERSION};
use crate::request::{self, RequestHead};

const NAME: &str = "A2A-Version";

/// The versions whose rules are known. A patch version changes none (1.0, section 3.6).
const VERSIONS: [&str; 2] = ["1.0", "0.3"];

/// Checks that the version is known, and that header and query do not name two.
///
/// # Errors
///
/// `a2a_version_refused` or `header_duplicate`.
pub(super) fn check(head: &RequestHead<'_>) -> Result<(), Denial> {
    let header = head.a2a_version()?.map(known).transpose()?;
    let mut asked = None;
    for part in head.query().unwrap_or_default().split(['&', ';']) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        if !request::could_name(name, NAME) {
            continue;
        }
        if name != NAME || asked.replace(known(value.as_bytes())?).is_some() {
            return Err(refused("`A2A-Version` must occur once in the query, in this spelling"));
        }
    }
    match (header, asked) {
        (Some(header), Some(asked)) if header != asked => {
            Err(refused("`A2A-Version` in the header differs from that in the query"))
        }
        _ => Ok(()),
    }
}

fn known(value: &[u8]) -> Result<&'static str, Denial> {
    // An empty one counts as none.
    if value.is_empty() {
        return Ok("0.3");
    }
    let is_version = |version: &&&str| {
        let patch = value.strip_prefix(version.as_bytes());
        patch.is_some_and(|patch| match patch {
            [] => true,
            [b'.', digits @ ..] => (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit),
            _ => false,
        })
    };
    VERSIONS
        .iter()
        .find(is_version)
        .copied()
        .ok_or_else(|| refused("`A2A-Version` is neither 1.0 nor 0.3"))
}

fn refused(detail: &'static str) -> Denial {
    Denial::new(Code::A2aVersionRefused, detail).with_rpc_code(RPC_A2A_VERSION)
}
