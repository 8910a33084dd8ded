//! One request, from its headers to its end.
//!
//! ```text
//! Fresh ── headers ──> Held ── body, trailers ──┬──> Passing ── response ──> Ended
//!   │                    │                      │       ^
//!   ├────────────────────┼── denied ──> Denied  │       │ its record is stored
//!   └── headers decide ──┼──────────────────────┴──> Waiting ── denied, broken off ──> Ended
//!                        └── broken off ──> Ended
//! ```
//!
//! A request goes on only out of [`Session::pass`], which takes what only a `Permit` of the core makes; or after it, where
//! the service has its calls wait for their records ([`waiting`]), once a root context has let it go. It holds slots for its
//! records from before it passes until they are written.

use std::rc::Rc;

use authz::denial::{Code, Denial};
use authz::request::Pending;

use crate::calls::Call;
use crate::connection::Connection;
use crate::headers;
use crate::host::{HeaderPair, Host, Moment};
use crate::known::Known;
use crate::slots::Reservation;
use crate::vm::Vm;

mod answer;
mod deciding;
mod denying;
mod ending;
mod passage;
mod waiting;

use passage::Passing;
use waiting::Waiting;

/// Where access logs read the record of the decision.
const DECISION_KEY: &str = "ostiary";

/// What Envoy is to do next with what it is holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    Pause,
}

/// The state machine of one request.
#[derive(Debug)]
pub(crate) struct Session {
    headers_stop_iteration: bool,
    started: Moment,
    /// When what is being decided or recorded happens.
    now: Moment,
    known: Known,
    phase: Phase,
    /// The id of its stream's context.
    context: u32,
    /// What the VM ends it by, once it has passed by a capability.
    call: Option<Rc<Call>>,
}

#[derive(Debug)]
enum Phase {
    /// No byte has been seen.
    Fresh,
    /// Held until its body can be decided on.
    Held(Box<HeldBody>),
    /// Held with a permit until its record is stored.
    Waiting(Box<Waiting>),
    /// On its way with a permit.
    Passing(Box<Passing>),
    /// Answered by us.
    Denied,
    /// Denied after the service had answered: nothing of its answer may get through.
    Withheld,
    /// Accounted for.
    Ended,
}

#[derive(Debug)]
struct HeldBody {
    pairs: Vec<HeaderPair>,
    connection: Rc<Connection>,
    pending: Pending,
    reservation: Reservation,
    body_bytes: usize,
}

impl Session {
    pub(crate) fn new(headers_stop_iteration: bool) -> Self {
        Self {
            headers_stop_iteration,
            started: Moment::default(),
            now: Moment::default(),
            known: Known::default(),
            phase: Phase::Fresh,
            context: 0,
            call: None,
        }
    }

    /// The session of the stream whose context has this id.
    pub(crate) fn in_context(self, context: u32) -> Self {
        Self { context, ..self }
    }

    /// The request's headers are here; `end` says that nothing follows them.
    pub(crate) fn request_headers(&mut self, vm: &mut Vm, host: &impl Host, count: usize, end: bool) -> Flow {
        self.started = Moment::now(host);
        self.now = self.started;
        match self.decide_on_headers(vm, host, count, end) {
            Ok(flow) => flow,
            Err(denial) => self.deny(vm, host, denial, None),
        }
    }

    /// The next bytes of the request's body; while it is held, `size` counts all of it so far.
    pub(crate) fn request_body(&mut self, vm: &mut Vm, host: &impl Host, size: usize, end: bool) -> Flow {
        self.wake(vm);
        match &mut self.phase {
            Phase::Passing(passing) => {
                passing.request_chunk(host, size);
                Flow::Continue
            }
            Phase::Waiting(_) => self.waiting_body(vm, host, size, end),
            Phase::Held(held) => {
                held.body_bytes = size;
                if size > held.pending.body_limit_bytes() {
                    let denial = held.pending.too_large();
                    return self.deny_held(vm, host, denial);
                }
                if end {
                    self.decide_on_body(vm, host)
                } else {
                    Flow::Pause
                }
            }
            Phase::Fresh | Phase::Denied | Phase::Withheld | Phase::Ended => Flow::Pause,
        }
    }

    /// The request ends with trailers: then no body callback said that it was the last.
    pub(crate) fn request_trailers(&mut self, vm: &mut Vm, host: &impl Host) -> Flow {
        self.wake(vm);
        // What cannot be looked at stays where it is until the stream is given up.
        let looked_at = match self.phase {
            Phase::Passing(_) | Phase::Held(_) | Phase::Waiting(_) => headers::strip_trailers(&self.known, host),
            Phase::Fresh | Phase::Denied | Phase::Withheld | Phase::Ended => false,
        };
        if !looked_at {
            return Flow::Pause;
        }
        match &self.phase {
            Phase::Passing(_) => Flow::Continue,
            Phase::Held(_) => self.decide_on_body(vm, host),
            Phase::Waiting(_) => self.waiting_trailers(vm, host),
            Phase::Fresh | Phase::Denied | Phase::Withheld | Phase::Ended => Flow::Pause,
        }
    }
}

fn internal(why: &'static str) -> Denial {
    Denial::new(Code::InternalError, why)
}

#[cfg(test)]
mod tests;
