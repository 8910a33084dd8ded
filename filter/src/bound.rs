//! Ids of MCP sessions on their way through the service's sidecar: sealed to the caller where the service gives one, and
//! opened where a caller shows it.
//!
//! The caller's sidecar hands them on as they are: it has no key. A policy server that tells none does not know of sessions,
//! and then they go on as they come.

use authz::denial::{Code, Denial};
use authz::policy::{Bundle, Protocol};
use authz::request::Side;
use authz::session::{SESSION_HEADER, SessionKeys};

use crate::host::{HeaderPair, Host, Message};
use crate::known::Known;

/// Puts the id that the service gave in the place of the sealed one.
///
/// # Errors
///
/// `session_mismatch` if the id was not sealed for this caller.
pub(crate) fn open(known: &Known, host: &impl Host, pairs: &[HeaderPair]) -> Result<(), Denial> {
    if let Some(id) = opened(known, pairs)? {
        host.set_request_header(SESSION_HEADER, id);
    }
    Ok(())
}

/// The id as the service gave it, if the caller shows one and it is bound here.
///
/// # Errors
///
/// As [`open`].
pub(crate) fn opened<'p>(known: &Known, pairs: &'p [HeaderPair]) -> Result<Option<&'p str>, Denial> {
    let Some((_, sealed)) = pairs.iter().find(|(name, _)| name == SESSION_HEADER) else {
        return Ok(None);
    };
    let bundle = &known.standing()?.bundle.bundle;
    let Some(keys) = keys(known, bundle) else {
        return Ok(None);
    };
    known
        .holder()
        .and_then(|holder| keys.open(&holder, sealed))
        .map(Some)
        .ok_or_else(|| {
            Denial::new(
                Code::SessionMismatch,
                "this caller has no session of this id in this operation: open one",
            )
        })
}

/// Seals the id that an answer of the service gives. One that cannot be sealed is left out: nobody could go on with it.
pub(crate) fn seal(known: &Known, host: &impl Host) {
    let Some(id) = host.header(Message::Response, SESSION_HEADER) else {
        return;
    };
    let Ok(standing) = known.standing() else { return };
    let Some(keys) = keys(known, &standing.bundle.bundle) else {
        return;
    };
    let headers = host.response_headers().unwrap_or_default();
    let is_alone = headers.iter().filter(|(name, _)| name == SESSION_HEADER).count() == 1;
    let sealed = known.holder().and_then(|holder| keys.seal(&holder, &id));
    match sealed.filter(|_| is_alone) {
        Some(sealed) => host.set_response_header(SESSION_HEADER, &sealed),
        None => {
            log::warn!("the service gave an id of a session that cannot be sealed: it is left out");
            host.remove_response_header(SESSION_HEADER);
        }
    }
}

/// The keys, where sessions are bound.
fn keys<'b>(known: &Known, bundle: &'b Bundle) -> Option<&'b SessionKeys> {
    let is_mcp = known.service(bundle)?.protocol() == Protocol::Mcp;
    let keys = bundle.session_keys();
    (is_mcp && known.side == Some(Side::Inbound) && !keys.is_empty()).then_some(keys)
}

#[cfg(test)]
mod tests;
