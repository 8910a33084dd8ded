//! Ids of MCP's sessions and tasks, and of A2A's tasks and contexts, on their way through the service's sidecar: sealed to the caller where
//! the service gives one, and opened where a caller shows it.
//!
//! The caller's sidecar hands them on as they are: it has no key. A policy server that tells none does not know of sessions,
//! and then they go on as they come.

use authz::denial::{Code, Denial};
use authz::policy::{Bundle, Service};
use authz::protocol::tasks::{self, Binding, METHOD_HEADER, NAME_HEADER};
use authz::request::Facts;
use authz::session::{self, SESSION_HEADER, Sealed, SessionKeys};

use crate::host::{HeaderPair, Host, Message};
use crate::known::Known;
use crate::response;

const METHOD: &str = ":method";
const TARGET: &str = ":path";

/// Puts the ids that the service gave in the place of the sealed ones, in the headers and in the path.
///
/// # Errors
///
/// `session_mismatch`, `task_mismatch` or `mcp_task_mismatch` if an id was not sealed for this caller.
pub(crate) fn open(known: &Known, host: &impl Host, pairs: &[HeaderPair]) -> Result<(), Denial> {
    if let Some(id) = opened(known, pairs)? {
        host.set_request_header(SESSION_HEADER, id);
    }
    for (name, value) in opened_tasks(known, pairs)? {
        host.set_request_header(name, &value);
    }
    if binding(known, &known.standing()?.bundle.bundle).is_some() {
        // The answer is read.
        response::forgo_encoding(host);
    }
    Ok(())
}

/// The target, or the header that names a task, with the id in it as the service gave it, if there is one and it is bound here.
///
/// # Errors
///
/// As [`open`].
pub(crate) fn opened_tasks(known: &Known, pairs: &[HeaderPair]) -> Result<Vec<(&'static str, String)>, Denial> {
    let bundle = &known.standing()?.bundle.bundle;
    let Some((service, binding)) = binding(known, bundle) else {
        return Ok(Vec::new());
    };
    let value = |wanted| {
        let pair = pairs.iter().find(|(name, _)| name == wanted);
        pair.map(|(_, value)| value.as_slice())
    };
    let text = |wanted| value(wanted).and_then(|value| std::str::from_utf8(value).ok());
    let (method, target) = text(METHOD)
        .zip(text(TARGET))
        .ok_or_else(|| Denial::new(Code::InternalError, "the target cannot be read"))?;
    let target = tasks::open_target(method, target, service, &binding)?;
    let name = tasks::open_name(value(METHOD_HEADER), value(NAME_HEADER), service, &binding)?;
    let target = target.map(|target| (TARGET, target));
    Ok(target.into_iter().chain(name.map(|name| (NAME_HEADER, name))).collect())
}

/// The body with the ids of tasks in it as the service gave them, if there are any and they are bound here.
///
/// # Errors
///
/// `task_mismatch` or `mcp_task_mismatch`, or what else the reading of it refuses.
pub(crate) fn opened_body(known: &Known, facts: &Facts, body: &[u8]) -> Result<Option<String>, Denial> {
    let bundle = &known.standing()?.bundle.bundle;
    match binding(known, bundle) {
        Some((service, binding)) => tasks::open_body(facts, body, service, &binding),
        None => Ok(None),
    }
}

/// What tasks are opened and sealed by, where they are bound.
pub(crate) fn binding<'b>(known: &'b Known, bundle: &'b Bundle) -> Option<(&'b Service, Binding<'b>)> {
    let service = known.service(bundle)?;
    let keys = session::task_binding(bundle, service, known.side?)?;
    let holder = known.holder();
    Some((service, Binding { keys, holder }))
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
