//! Ids of MCP sessions on their way through the service's sidecar: sealed to the caller where the service gives one, and
//! opened where a caller shows it.
//!
//! The caller's sidecar hands them on as they are: it has no key. A policy server that tells none does not know of sessions,
//! and then they go on as they come.

use authz::denial::Denial;
use authz::policy::Bundle;
use authz::session::{self, SESSION_HEADER, Sealed, SessionKeys};

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
    let shown = pairs.iter().find(|(name, _)| name == SESSION_HEADER);
    let bundle = &known.standing()?.bundle.bundle;
    let shown = shown.map(|(_, id)| id.as_slice());
    session::opened(keys(known, bundle), known.holder().as_ref(), shown)
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
    let sealed = known
        .holder()
        .and_then(|holder| keys.seal(Sealed::Session, &holder, &id));
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
    session::binding(bundle, known.service(bundle)?, known.side?)
}

#[cfg(test)]
mod tests;
