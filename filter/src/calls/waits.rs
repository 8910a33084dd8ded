//! Calls that wait until the policy server has stored their record durably.
//!
//! ```text
//! Waiting ── stored, and its agent may still act ──> Delivered
//!    └── refused, lost, too late, or its agent may not act any more ──> Denied
//! ```
//!
//! Such a call has been permitted, and its record is queued; the proxy holds it. What the policy server answers to the batch
//! with its record decides, and the state lists that come meanwhile. Only a root context lets it go or denies it, and its
//! session learns of that with the stream's next callback.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

use authz::audit::{self, Stored, StoredCall};
use authz::decision;
use authz::denial::{Code, Denial};
use authz::digest::Digest;
use authz::state::StateList;

use super::{Call, Calls};
use crate::host::Host;

/// How long a call waits at most. A policy server that answers at all takes milliseconds, and callers that wait for long
/// keep their place in the queue from others.
pub(crate) const WAIT_LIMIT: Duration = Duration::from_secs(5);

/// The record that a call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) seq: u64,
    pub(crate) hash: Digest,
    /// On the clock that only advances.
    pub(crate) since: Duration,
}

/// Where a call stands that has to wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Wait {
    #[default]
    Waiting,
    Delivered,
    Denied(Code),
}

impl Call {
    /// The same call, waiting for its record.
    pub(crate) fn awaiting(self, awaited: Awaited) -> Self {
        Self {
            awaited: Some(awaited),
            ..self
        }
    }

    /// Where it stands; a call that waits for nothing has been delivered.
    pub(crate) fn wait(&self) -> Wait {
        match (self.awaited, &self.hold) {
            (None, None) => Wait::Delivered,
            (Some(_), _) | (_, Some(_)) => self.wait.get(),
        }
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.wait() == Wait::Waiting
    }

    /// Denies it if it waits; says whether it did.
    pub(crate) fn deny(&self, code: Code) -> bool {
        let waiting = self.is_waiting();
        if waiting {
            self.wait.set(Wait::Denied(code));
        }
        waiting
    }

    /// Whether the proxy holds a part of its body and more is to come.
    pub(crate) fn set_mid_body(&self, mid_body: bool) {
        self.mid_body.set(mid_body);
    }

    /// Whether what was answered lets it begin, by the list in force too.
    fn may_begin(&self, told: Option<&StoredCall>, list: Option<&StateList>) -> Result<(), Denial> {
        let own = |told: &&StoredCall| self.awaited.is_some_and(|own| told.is_of(own.seq, &own.hash));
        let told = told.filter(own).ok_or_else(unavailable)?;
        let Some(token) = &self.token else {
            return match &self.tokenless {
                Some(agent) => decision::may_begin_tokenless(list.ok_or_else(unavailable)?, agent),
                None => Ok(()),
            };
        };
        let claims = token.claims();
        let answer = told.agent.as_ref().ok_or_else(unavailable)?;
        let begins = decision::may_begin_by(answer, claims)
            .and_then(|()| decision::may_begin(list.ok_or_else(unavailable)?, claims));
        match begins {
            // A person may approve it yet.
            Err(denial) if denial.code() == Code::AgentPaused && self.hold.is_some() => Ok(()),
            begins => begins,
        }
    }
}

impl Calls {
    /// A call waits for its record.
    pub(crate) fn wait(&mut self, stream: u32, call: Rc<Call>) {
        if let Some(awaited) = &call.awaited {
            self.waiting.insert(awaited.seq, stream);
        }
        if call.hold.is_some() {
            self.held.insert(stream);
        }
        self.begin(stream, call);
    }

    /// Those records of a batch that calls wait for, as the policy server is told; None if there are none.
    pub(crate) fn awaited(&self, seqs: &RangeInclusive<u64>) -> Option<String> {
        let mut awaited = self.waiting.range(seqs.clone()).map(|(seq, _)| *seq).peekable();
        awaited.peek()?;
        Some(audit::write_waiting(awaited))
    }

    /// Whether a call waits whose record has not been answered for.
    pub(crate) fn any_wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A batch is stored: what waited for it goes on or is denied with the next [`Calls::cancel`].
    pub(crate) fn stored(&mut self, stored: &Stored, list: Option<&StateList>) {
        let later = match stored.accepted_through.checked_add(1) {
            Some(next) => self.waiting.split_off(&next),
            None => BTreeMap::new(),
        };
        let covered = std::mem::replace(&mut self.waiting, later);
        if covered.is_empty() {
            return;
        }
        let told: HashMap<u64, &StoredCall> = stored.calls.iter().map(|call| (call.seq, call)).collect();
        for (seq, stream) in covered {
            let Some(call) = self.by_stream.get(&stream) else {
                continue;
            };
            match (call.may_begin(told.get(&seq).copied(), list), &call.hold) {
                (Ok(()), Some(hold)) => hold.note_recorded(),
                (Ok(()), None) => self.released.push(stream),
                (Err(denial), _) => {
                    self.doomed.entry(stream).or_insert(denial);
                }
            }
        }
    }

    /// Nothing was stored: what waits is denied, for it is not known when there would be another answer.
    pub(crate) fn give_up(&mut self) {
        for stream in std::mem::take(&mut self.waiting).into_values() {
            self.doomed.entry(stream).or_insert_with(unavailable);
        }
    }

    /// Denies what has waited for too long.
    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some(first) = self.waiting.first_entry() {
            let stream = *first.get();
            let awaited = self.by_stream.get(&stream).and_then(|call| call.awaited);
            if awaited.is_some_and(|awaited| now.saturating_sub(awaited.since) < WAIT_LIMIT) {
                return;
            }
            first.remove();
            self.doomed.entry(stream).or_insert_with(unavailable);
        }
    }

    /// Lets go on what may; says whether another context was acted in.
    pub(super) fn release(&mut self, host: &impl Host) -> bool {
        let mut acted = false;
        for stream in std::mem::take(&mut self.released) {
            let call = self.by_stream.get(&stream).filter(|call| call.is_waiting());
            let Some(call) = call.filter(|_| !self.doomed.contains_key(&stream)) else {
                continue;
            };
            call.wait.set(Wait::Delivered);
            if !call.mid_body.get() && host.act_in(stream) {
                acted = true;
                host.resume();
            }
        }
        acted
    }

    /// The stream of a call that may have waited is over. Its record's place may have been taken by a new chain's.
    pub(super) fn forget_wait(&mut self, stream: u32, call: &Call) {
        if let Some(awaited) = &call.awaited
            && self.waiting.get(&awaited.seq) == Some(&stream)
        {
            self.waiting.remove(&awaited.seq);
        }
    }
}

fn unavailable() -> Denial {
    Denial::new(
        Code::RecordsUnavailable,
        "the audit record of this call could not be stored before it was to go on",
    )
}

#[cfg(test)]
mod tests;
