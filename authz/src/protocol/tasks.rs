//! Tasks, and contexts that hold several, bound to whoever opened them: the workload, the agent and the operation.
//!
//! Where the service's file says `tasks: bound`, the service's sidecar puts a seal before each id of a task or context that
//! an answer gives ([`Answer`]), as it does with sessions of MCP ([`crate::session`]), and takes it off what comes in: an id
//! that was not sealed for this very caller opens nothing. The ids stand in paths, queries, headers and bodies here, so these
//! are written anew, with nothing else in them changed. Where each protocol has them is known to its own module.
//!
//! What is not understood in an answer goes on as it came, without a seal, and so nobody can name what it gives: only a seal
//! opens anything, and only the service's sidecar makes one.

use std::ops::Range;

use super::{a2a, mcp};
use crate::denial::{Code, Denial};
use crate::order;
use crate::policy::{Protocol, Service};
use crate::request::Facts;
use crate::session::{Holder, Sealed, SessionKeys};

mod answer;
mod events;

pub use answer::{Answer, MAX_ANSWER_BYTES};
pub(super) use answer::{Seals, Word};

/// The header that repeats the method of an MCP message.
pub const METHOD_HEADER: &str = "mcp-method";
/// The header that repeats what an MCP message names, a task among others.
pub const NAME_HEADER: &str = "mcp-name";

/// What ids are opened and sealed by.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// The keys of the service's workload.
    pub keys: &'a SessionKeys,
    /// The caller; none without a capability, and then there is no id either.
    pub holder: Option<Holder<'a>>,
}

impl Binding<'_> {
    /// The id as the service gave it.
    ///
    /// # Errors
    ///
    /// `task_mismatch` or `mcp_task_mismatch`, unless it was sealed for this holder.
    pub(super) fn open<'i>(&self, what: Sealed, sealed: &'i str) -> Result<&'i str, Denial> {
        let holder = self.holder.as_ref();
        let id = holder.and_then(|holder| self.keys.open(what, holder, sealed.as_bytes()));
        let (code, detail) = match what {
            Sealed::McpTask => (
                Code::McpTaskMismatch,
                "this caller has opened no task of this id in this operation",
            ),
            Sealed::Session | Sealed::Task | Sealed::Context => (
                Code::TaskMismatch,
                "this caller has opened no task or context of this id in this operation",
            ),
        };
        id.ok_or_else(|| Denial::new(code, detail))
    }

    fn seal(&self, what: Sealed, id: &str) -> Option<String> {
        self.keys.seal(what, self.holder.as_ref()?, id.as_bytes())
    }
}

/// The target with the id in it opened; None if it names none.
///
/// # Errors
///
/// `task_mismatch`, `task_refused` or `a2a_malformed`.
pub fn open_target(
    method: &str,
    target: &str,
    service: &Service,
    binding: &Binding<'_>,
) -> Result<Option<String>, Denial> {
    match service.protocol() {
        Protocol::A2a => a2a::tasks::open_target(method, target, service, binding),
        Protocol::Mcp | Protocol::Http => Ok(None),
    }
}

/// `Mcp-Name` with the id in it opened, by this `Mcp-Method`; None if it names no task.
///
/// # Errors
///
/// `mcp_task_mismatch`.
pub fn open_name(
    method: Option<&[u8]>,
    name: Option<&[u8]>,
    service: &Service,
    binding: &Binding<'_>,
) -> Result<Option<String>, Denial> {
    match service.protocol() {
        Protocol::Mcp => mcp::tasks::open_name(method, name, binding),
        Protocol::A2a | Protocol::Http => Ok(None),
    }
}

/// The body with every id in it opened; None if it names none.
///
/// # Errors
///
/// `task_mismatch`, `mcp_task_mismatch`, or what else the reading of it refuses, with the id of a JSON-RPC request if there
/// is one.
pub fn open_body(
    facts: &Facts,
    body: &[u8],
    service: &Service,
    binding: &Binding<'_>,
) -> Result<Option<String>, Denial> {
    match service.protocol() {
        Protocol::A2a => a2a::tasks::open_body(facts, body, service, binding),
        Protocol::Mcp => mcp::tasks::open_body(body, binding),
        Protocol::Http => Ok(None),
    }
}

/// An id in a JSON text, quoted. INVARIANT: what was sealed holds nothing that JSON escapes.
pub(super) fn quoted(id: &str) -> String {
    format!("\"{id}\"")
}

/// A text with other words in some places of it.
pub(super) fn written(text: &str, words: impl IntoIterator<Item = (Range<usize>, String)>) -> String {
    let mut words: Vec<(Range<usize>, String)> = words.into_iter().collect();
    order::sort_by(&mut words, |(one, _), (other, _)| one.start.cmp(&other.start));
    let (mut out, mut from) = (String::with_capacity(text.len()), 0);
    for (place, word) in words {
        out.push_str(text.get(from..place.start).unwrap_or_default());
        out.push_str(&word);
        from = place.end;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}
