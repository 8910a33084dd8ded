//! The calls of one VM that are on their way or wait for their record ([`waits`]), and how they are ended once their agent
//! may not act any more.
//!
//! A new state list may suspend or kill an agent whose calls have passed already. Each is ended from the root context:
//! before the service has begun to answer the caller gets our denial, after it the stream is reset; a stream of events gets
//! our event first, in the place of its next part, if one comes at once. Envoy may take an answer or a reset
//! and do nothing (envoy#39797), so what is still there a moment later is reset, and how a call ended is judged where its
//! stream ends ([`Call::ending`]), never by what the proxy said.
//!
//! The number is bounded by the record queue: a call that is here holds slots of it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use authz::decision;
use authz::denial::{Denial, Form, Response};
use authz::identity::AgentId;
use authz::state::StateList;

use crate::cache::Verified;
use crate::events;
use crate::host::Host;

mod holds;
mod leases;
mod waits;

pub(crate) use holds::Hold;
pub(crate) use leases::Lease;
pub(crate) use waits::{Awaited, Wait};

/// How long a stream of events is waited for, so that an event of ours can take the place of its next part.
const LAST_EVENT: Duration = Duration::from_millis(50);

/// How long an ending may take before it is tried again. Envoy acts as soon as the callback returns.
const RETRY: Duration = Duration::from_millis(200);

/// After that many attempts the stream is left to its own end; its record says how that was.
const MOST_ATTEMPTS: u8 = 3;

/// A call that has passed or waits to, shared by its session and its VM.
#[derive(Debug)]
pub(crate) struct Call {
    /// None for a call that needs no capability: no change of any agent's state ends it.
    token: Option<Rc<Verified>>,
    /// Whose call it is that goes on in shadow without a token.
    tokenless: Option<AgentId>,
    form: Form,
    rpc_id: Option<String>,
    trace_id: Option<String>,
    /// The record that it waits for, or waited for.
    awaited: Option<Awaited>,
    wait: Cell<Wait>,
    /// Whether the proxy has a part of its body and waits for the rest, so that only its own session can let it go on.
    mid_body: Cell<bool>,
    /// Whether an answer has begun, whosever it is: then no other can be given.
    answering: Cell<bool>,
    /// Whether that answer is a stream of events.
    events: Cell<bool>,
    cancelled: Cell<Option<Cancelled>>,
    /// What is to take the place of the next part of a stream of events.
    last_event: RefCell<Option<Vec<u8>>>,
    /// How long it may go on, where it ends with its token.
    lease: Option<Lease>,
    /// Until when it waits for a person to approve its agent, if it does.
    hold: Option<Hold>,
}

/// What has been done to end a call.
#[derive(Debug, Clone, Copy)]
struct Cancelled {
    status: u16,
    /// The caller was to get our answer.
    answered: bool,
    attempts: u8,
    /// When it is tried again.
    next: Duration,
}

impl Call {
    pub(crate) fn new(
        token: Option<Rc<Verified>>,
        form: Form,
        rpc_id: Option<String>,
        trace_id: Option<String>,
    ) -> Self {
        Self {
            token,
            tokenless: None,
            form,
            rpc_id,
            trace_id,
            awaited: None,
            wait: Cell::default(),
            mid_body: Cell::default(),
            answering: Cell::new(false),
            events: Cell::new(false),
            cancelled: Cell::new(None),
            last_event: RefCell::default(),
            lease: None,
            hold: None,
        }
    }

    /// The same call, which ends with its token.
    pub(crate) fn with_lease(self, lease: Option<Lease>) -> Self {
        Self { lease, ..self }
    }

    /// The same call, of an agent that shows no token.
    pub(crate) fn of_agent(self, tokenless: Option<AgentId>) -> Self {
        Self { tokenless, ..self }
    }

    /// Whether some change of an agent's state ends it.
    pub(crate) fn is_of_an_agent(&self) -> bool {
        self.token.is_some() || self.tokenless.is_some()
    }

    /// Whether it may begin, or go on, by this list.
    fn judge(&self, list: &StateList) -> Result<(), Denial> {
        let begins = self.is_waiting() && self.hold.is_none();
        match (&self.token, &self.tokenless) {
            (Some(token), _) if begins => decision::may_begin(list, token.claims()),
            (Some(token), _) => decision::outlives(list, token.claims()),
            (None, Some(agent)) if begins => decision::may_begin_tokenless(list, agent),
            (None, Some(agent)) => decision::outlives_tokenless(list, agent),
            (None, None) => Ok(()),
        }
    }

    fn render(&self, denial: &Denial) -> Response {
        denial.render(self.form, self.rpc_id.as_deref(), self.trace_id.as_deref())
    }

    /// Response headers have come by, of a stream of events or of anything else.
    pub(crate) fn begins_to_answer(&self, events: bool) {
        self.answering.set(true);
        self.events.set(events);
    }

    /// Whether our own answer is on its way: Envoy takes no second one, and the SDK would panic over its refusal.
    pub(crate) fn is_answered(&self) -> bool {
        self.cancelled.get().is_some_and(|cancelled| cancelled.answered)
    }

    /// What takes the place of what the service still sends, once the call is being ended within a stream of events: our
    /// event, and nothing from then on. None as long as all goes on.
    pub(crate) fn last_event(&self) -> Option<Vec<u8>> {
        self.last_event.borrow_mut().as_mut().map(std::mem::take)
    }

    /// How a call that was to be ended did end, for its record: the caller got our answer (`cancelled`), the stream broke
    /// off (`reset`), or the service was through with its answer all the same (`outran`). None if nobody ended it.
    ///
    /// `status` is what went back to the caller; `from_service` says that the service sent it.
    pub(crate) fn ending(&self, status: Option<u64>, from_service: bool, response_ended: bool) -> Option<&'static str> {
        let cancelled = self.cancelled.get()?;
        let ours = cancelled.answered && !from_service && status == Some(cancelled.status.into());
        Some(match (ours, response_ended) {
            (true, _) => "cancelled",
            (false, true) => "outran",
            (false, false) => "reset",
        })
    }
}

/// The calls of one VM that are on their way, by the id of their stream's context.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    by_stream: HashMap<u32, Rc<Call>>,
    /// Of them, those that wait, by the places of their records.
    waiting: BTreeMap<u64, u32>,
    /// Of them, those that wait for a person.
    held: BTreeSet<u32>,
    /// Of them, those whose records are durable and that may go on.
    released: Vec<u32>,
    /// Of them, those to be ended, and why.
    doomed: HashMap<u32, Denial>,
    ended: u64,
}

impl Calls {
    /// A call has passed.
    pub(crate) fn begin(&mut self, stream: u32, call: Rc<Call>) {
        self.by_stream.insert(stream, call);
    }

    /// Its stream is over, or it has been denied after all.
    pub(crate) fn end(&mut self, stream: u32) {
        if let Some(call) = self.by_stream.remove(&stream) {
            self.forget_wait(stream, &call);
        }
        self.held.remove(&stream);
        self.doomed.remove(&stream);
    }

    /// Holds every call to a new state list; those that it ends are ended by the next [`Self::cancel`].
    pub(crate) fn judge(&mut self, list: &StateList) {
        for (stream, call) in &self.by_stream {
            if call.cancelled.get().is_some() {
                continue;
            }
            let judged = call.judge(list).and_then(|()| match &call.lease {
                Some(lease) => lease.outlives(list),
                None => Ok(()),
            });
            if let Err(denial) = judged {
                self.doomed.entry(*stream).or_insert(denial);
            }
        }
    }

    /// Ends what is to be ended and lets go on what may, from the callback of a root context, whose id is `root`.
    pub(crate) fn cancel(&mut self, host: &impl Host, root: u32) {
        let mut acted = self.release(host);
        let now = host.monotonic();
        for (stream, denial) in &self.doomed {
            let Some(call) = self.by_stream.get(stream) else {
                continue;
            };
            let before = call.cancelled.get();
            let due = before.is_none_or(|cancelled| cancelled.attempts < MOST_ATTEMPTS && now >= cancelled.next);
            if !due {
                continue;
            }
            let mut cancelled = before.unwrap_or(Cancelled {
                status: denial.code().status(),
                answered: false,
                attempts: 0,
                next: now,
            });
            // One that waited has not begun: it is denied, not ended.
            self.ended += u64::from(before.is_none() && !call.deny(denial.code()));
            cancelled.next = now + RETRY;
            // One that is gone already has told its session, or is about to.
            if host.act_in(*stream) {
                acted = true;
                if before.is_none() && !call.answering.get() {
                    cancelled.answered = true;
                    call.cancelled.set(Some(cancelled));
                    host.deny(&call.render(denial));
                } else if before.is_none() && call.events.get() {
                    *call.last_event.borrow_mut() = Some(event(call, denial));
                    cancelled.next = now + LAST_EVENT;
                    call.cancelled.set(Some(cancelled));
                    continue;
                } else {
                    host.reset();
                }
            }
            cancelled.attempts += 1;
            call.cancelled.set(Some(cancelled));
        }
        if acted && !host.act_in(root) {
            log::error!("the root context is gone in its own callback");
        }
    }

    /// How many calls were ended since this was last asked.
    pub(crate) fn take_ended(&mut self) -> u64 {
        std::mem::take(&mut self.ended)
    }

    /// How many are on their way.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_stream.len()
    }
}

fn event(call: &Call, denial: &Denial) -> Vec<u8> {
    events::of_denial(call.form, &call.render(denial).body)
}

#[cfg(test)]
mod tests;
