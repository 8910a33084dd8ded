//! Calls that end with their tokens.
//!
//! ```text
//! its own token ── 5 s before it expires: is there another? ── yes ──> that token ── 5 s before …
//!                                                       └── no, or no answer ──> asked again each second, ended at the expiry
//! ```
//!
//! The policy server says which live tokens there are for the same agent and operation; whether one of them permits the
//! call is decided here, as for a new call. No answer extends nothing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use authz::claims::Claims;
use authz::decision::{self, Question};
use authz::denial::{Code, Denial};
use authz::identity::Jti;
use authz::request::{Facts, Side};
use authz::state::StateList;
use authz::successor::{MAX_OPERATIONS, Operation};

use super::{Call, Calls};
use crate::cache::Verified;
use crate::host::Moment;
use crate::vm::Standing;

/// How long before the expiry it is asked for another token, in seconds.
const ASK_BEFORE: u64 = 5;

/// How long a call may go on, and by which token.
#[derive(Debug)]
pub(crate) struct Lease {
    facts: Rc<Facts>,
    /// When the last token expires by which it may go on, in seconds.
    until: Cell<u64>,
    /// That token, once it is another than the call's own.
    successor: RefCell<Option<Jti>>,
}

impl Lease {
    /// As long as the token of a call lives that was permitted on these facts.
    pub(crate) fn new(claims: &Claims, facts: &Rc<Facts>) -> Self {
        Self {
            facts: Rc::clone(facts),
            until: Cell::new(claims.exp),
            successor: RefCell::default(),
        }
    }

    /// Whether the token that it goes on by has not been revoked since.
    pub(super) fn outlives(&self, list: &StateList) -> Result<(), Denial> {
        let revoked = self.successor.borrow().as_ref().is_some_and(|jti| list.revoked(jti));
        if revoked {
            return Err(Denial::new(
                Code::TokenRevoked,
                "the token was revoked by which this call went on",
            ));
        }
        Ok(())
    }

    /// Takes a token over if the call may go on by it for longer.
    fn extend(&self, q: &Question<'_>, claims: &Claims) {
        if claims.exp > self.until.get() && decision::goes_on_by(q, claims, &self.facts).is_ok() {
            self.until.set(claims.exp);
            *self.successor.borrow_mut() = Some(claims.jti.clone());
        }
    }
}

impl Call {
    /// Its lease, unless it is being ended already.
    fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref().filter(|_| self.cancelled.get().is_none())
    }

    fn operation(&self) -> Option<Operation> {
        let claims = self.token.as_deref()?.claims();
        Some(Operation {
            sub: claims.sub.clone(),
            operation_id: claims.operation_id.clone(),
        })
    }
}

impl Calls {
    /// Ends the calls whose time is over with the next [`Calls::cancel`], and gives the operations of those whose time is
    /// over soon: as many as one question may name.
    pub(crate) fn expiring(&mut self, now: u64) -> Vec<Operation> {
        let mut soon = BTreeSet::new();
        for (stream, call) in &self.by_stream {
            let Some(until) = call.lease().map(|lease| lease.until.get()) else {
                continue;
            };
            if until <= now {
                self.doomed.entry(*stream).or_insert_with(expired);
            } else if until <= now.saturating_add(ASK_BEFORE) && soon.len() < MAX_OPERATIONS {
                soon.extend(call.operation());
            }
        }
        soon.into_iter().collect()
    }

    /// Lets calls go on by tokens that the policy server tells of, decided by what is in force now.
    pub(crate) fn extend(&self, standing: &Standing, now: Moment, told: &[Claims]) {
        let mut by_operation: HashMap<Operation, Vec<&Claims>> = HashMap::new();
        for claims in told {
            let operation = Operation {
                sub: claims.sub.clone(),
                operation_id: claims.operation_id.clone(),
            };
            by_operation.entry(operation).or_default().push(claims);
        }
        for call in self.by_stream.values() {
            let (Some(lease), Some(token)) = (call.lease(), call.token.as_deref()) else {
                continue;
            };
            let soon = lease.until.get() <= now.seconds().saturating_add(ASK_BEFORE);
            let Some(operation) = call.operation().filter(|_| soon) else {
                continue;
            };
            let q = question(token, standing, now);
            for claims in by_operation.get(&operation).into_iter().flatten() {
                lease.extend(&q, claims);
            }
        }
    }
}

/// What a call that is here already is to be decided by again, now. Calls end with their tokens, and are held, where they
/// arrive and nowhere else.
pub(super) fn question<'a>(token: &'a Verified, standing: &'a Standing, now: Moment) -> Question<'a> {
    Question {
        now: now.seconds(),
        side: Side::Inbound,
        workload: &standing.workload,
        // INVARIANT: a call is here only if its token is its peer's.
        peer: Some(&token.claims().sub),
        token: Some(&token.token),
        flaw: None,
        bundle: &standing.bundle.bundle,
        state: &standing.state.list,
        seconds_since_poll: standing.state.seconds_since_poll(now.monotonic),
    }
}

fn expired() -> Denial {
    Denial::new(
        Code::TokenExpired,
        "the token expired while the call was on its way, and no other for the same operation permits it; renew earlier",
    )
}

#[cfg(test)]
mod tests;
