//! Calls of paused agents that are held until a person has looked, or for as long as the configuration says.
//!
//! Such a call was decided as if its agent were active, and that is recorded. Whether it goes on is decided anew, by all that
//! is in force then; if it never does, the record of its end says so, with the code.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use authz::decision;
use authz::denial::{Code, Denial};
use authz::request::Facts;

use super::leases::question;
use super::{Call, Calls};
use crate::host::Moment;
use crate::vm::Standing;

/// How a call is held.
#[derive(Debug)]
pub(crate) struct Hold {
    facts: Rc<Facts>,
    /// On the clock that only advances.
    until: Duration,
    /// Whether nothing but a person is waited for.
    recorded: Cell<bool>,
}

impl Hold {
    pub(crate) fn new(facts: &Rc<Facts>, until: Duration) -> Self {
        Self {
            facts: Rc::clone(facts),
            until,
            recorded: Cell::new(false),
        }
    }

    /// The record that the call waited for is durable.
    pub(super) fn note_recorded(&self) {
        self.recorded.set(true);
    }
}

impl Call {
    /// The same call, held.
    pub(crate) fn held(self, hold: Hold) -> Self {
        hold.recorded.set(self.awaited.is_none());
        Self {
            hold: Some(hold),
            ..self
        }
    }

    /// Whether it may go on now; None if it is still to be held.
    fn judge_hold(&self, standing: &Result<Standing, Denial>, now: Moment) -> Option<Result<(), Denial>> {
        let (Some(hold), Some(token)) = (&self.hold, self.token.as_deref()) else {
            return Some(Ok(()));
        };
        let verdict = match standing {
            Ok(standing) => decision::decide(&question(token, standing, now), &hold.facts).map(drop),
            Err(denial) => Err(denial.clone()),
        };
        match verdict {
            Err(denial) if denial.code() == Code::AgentPaused && now.monotonic < hold.until => None,
            Ok(()) if !hold.recorded.get() => None,
            verdict => Some(verdict),
        }
    }
}

impl Calls {
    /// How many are held.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Decides all that is held anew; what may go on does, and what may not is denied, with the next [`Calls::cancel`].
    pub(crate) fn review(&mut self, standing: &Result<Standing, Denial>, now: Moment) {
        let (by_stream, released, doomed) = (&self.by_stream, &mut self.released, &mut self.doomed);
        self.held.retain(|stream| {
            let call = by_stream.get(stream).filter(|call| call.is_waiting());
            match call.map(|call| call.judge_hold(standing, now)) {
                Some(None) => return true,
                Some(Some(Ok(()))) => released.push(*stream),
                Some(Some(Err(denial))) => {
                    doomed.entry(*stream).or_insert(denial);
                }
                None => {}
            }
            false
        });
    }
}

#[cfg(test)]
mod tests;
