//! How a request goes on: at once, or once its record is stored.

use std::rc::Rc;

use authz::audit::{Outcome, Record};
use authz::decision::{Held, Permit};
use authz::denial::{Code, Denial};
use authz::digest::Hasher;
use authz::identity::AgentId;
use authz::policy::Service;
use authz::request::Side;

use super::{DECISION_KEY, Flow, Phase, Session};
use crate::calls::{Awaited, Call, Hold, Lease};
use crate::events::Tail;
use crate::host::{Host, Message};
use crate::known::Known;
use crate::meters::Verdict;
use crate::reading::Reading;
use crate::response::{self, Listing};
use crate::sealing::{Sealing, SealingError};
use crate::slots::Reservation;
use crate::vm::Vm;

#[derive(Debug)]
pub(super) struct Passing {
    pub(super) reservation: Reservation,
    /// None where the body was held: then it has been hashed whole.
    pub(super) request: Option<Hasher>,
    pub(super) request_bytes: u64,
    pub(super) response: Hasher,
    pub(super) response_ended: bool,
    /// Where the answer is a list.
    pub(super) listing: Option<Listing>,
    /// The end of what has gone to the caller.
    pub(super) tail: Tail,
    /// Where the answer is read, on its way, for how the call ended.
    pub(super) reading: Option<Reading>,
    /// Where ids in the answer are sealed.
    pub(super) sealing: Option<Sealing>,
}

/// The trace of a [`Permit`], which borrows what it rests on and so cannot be kept.
#[derive(Debug)]
pub(super) struct Permitted {
    /// Whether the service has its calls wait for their records.
    records_before: bool,
    /// Whether the service has its calls end with their tokens.
    cuts_on_expiry: bool,
    /// Whether it is one only for as long as its agent is active, which it is not: then it waits for that.
    held: bool,
    /// What would have denied the call, if it goes on in shadow.
    shadowed: Option<Code>,
    /// The agent of a call that goes on without a token.
    tokenless: Option<AgentId>,
}

impl Permitted {
    fn by(service: Option<&Service>, held: bool) -> Self {
        Self {
            records_before: service.is_some_and(Service::records_before),
            cuts_on_expiry: service.is_some_and(Service::cuts_on_expiry),
            held,
            shadowed: None,
            tokenless: None,
        }
    }
}

impl From<&Permit<'_>> for Permitted {
    fn from(permit: &Permit<'_>) -> Self {
        let permitted = Self::by(permit.service(), false);
        match permit.shadowed() {
            None => permitted,
            // What a rule denies goes on only with its record stored, whatever the service asks for.
            Some(shadowed) => Self {
                records_before: true,
                shadowed: Some(shadowed.denial().code()),
                tokenless: permit.claims().is_none().then(|| shadowed.agent_id().clone()),
                ..permitted
            },
        }
    }
}

impl From<Held<'_>> for Permitted {
    fn from(held: Held<'_>) -> Self {
        Self::by(Some(held.service()), true)
    }
}

impl Session {
    /// Lets the request go on, or wait for its record. The only way to `Passing` and to `Waiting`.
    pub(super) fn pass(
        &mut self,
        vm: &mut Vm,
        host: &impl Host,
        Permitted {
            records_before,
            cuts_on_expiry,
            held,
            shadowed,
            tokenless,
        }: Permitted,
        mut reservation: Reservation,
        held_bytes: Option<u64>,
    ) -> Result<Flow, Denial> {
        // The caller's sidecar waits for nothing and cuts nothing: the service's is the boundary that counts.
        let inbound = self.known.side == Some(Side::Inbound);
        let (waits, cuts) = (records_before && inbound, cuts_on_expiry && inbound);
        let hold = match held.then(|| vm.room_to_hold()).transpose() {
            Ok(hold) => hold,
            Err(denial) => {
                vm.records.release(reservation);
                return Err(denial);
            }
        };
        if waits && vm.records.is_failing(self.now.monotonic) {
            vm.records.release(reservation);
            return Err(Denial::new(
                Code::RecordsUnavailable,
                "the audit record of this call cannot be stored before it goes on",
            ));
        }
        self.known.shadowed = shadowed;
        let record = Record {
            verdict: Some(Outcome::Permit),
            code: shadowed,
            ..self.known.decision(self.now)
        };
        let Some(sealed) = vm.records.write(host, &mut reservation, &record) else {
            vm.records.release(reservation);
            return Err(Denial::new(
                Code::RecordsUnavailable,
                "the audit record of this call cannot be written",
            ));
        };
        host.publish(DECISION_KEY, sealed.record());
        let awaited = Awaited {
            seq: sealed.seq,
            hash: sealed.hash,
            since: self.now.monotonic,
        };
        let facts = self.known.facts.as_deref();
        let listing = facts.and_then(|facts| Listing::of(facts, self.headers_stop_iteration));
        // Headers that have gone cannot be asked for: that would cost the VM.
        if listing.is_some() && self.headers_stop_iteration {
            response::forgo_encoding(host);
        }
        let passing = Box::new(Passing {
            reservation,
            request: held_bytes.is_none().then(Hasher::new),
            request_bytes: held_bytes.unwrap_or_default(),
            response: Hasher::new(),
            response_ended: false,
            listing,
            tail: Tail::default(),
            reading: Reading::of(&self.known),
            sealing: Sealing::of(&self.known),
        });
        let mut call = self.own_call(cuts).of_agent(tokenless);
        if waits {
            call = call.awaiting(awaited);
        }
        if let Some((hold, facts)) = hold.zip(self.known.facts.as_ref()) {
            call = call.held(Hold::new(facts, self.now.monotonic + hold));
        }
        if waits || held {
            return Ok(self.wait(vm, host, passing, call));
        }
        vm.decided(self.known.side, Verdict::going_on(shadowed));
        self.watch(vm, call);
        self.phase = Phase::Passing(passing);
        Ok(Flow::Continue)
    }

    /// Lets the VM end the call, should its agent be suspended or killed. What passes without a capability is no agent's.
    pub(super) fn watch(&mut self, vm: &mut Vm, call: Call) {
        if call.is_of_an_agent() {
            let call = Rc::new(call);
            vm.calls.begin(self.context, Rc::clone(&call));
            self.call = Some(call);
        }
    }

    /// What the VM has to know of the call to end it; `cuts` says that it ends with its token.
    pub(super) fn own_call(&self, cuts: bool) -> Call {
        let facts = self.known.facts.as_ref();
        let rpc_id = facts.and_then(|facts| facts.rpc_id.clone());
        let (token, trace_id) = (self.known.token.clone(), self.known.trace_id.clone());
        let lease = token
            .as_deref()
            .zip(facts.filter(|_| cuts))
            .map(|(token, facts)| Lease::new(token.claims(), facts));
        Call::new(token, self.known.form(), rpc_id, trace_id).with_lease(lease)
    }
}

impl Passing {
    pub(super) fn response_chunk(&mut self, host: &impl Host, known: &Known, size: usize, end: bool) {
        if let Some(sealing) = &mut self.sealing {
            match sealing.body(host, known, size, end) {
                Ok(chunk) => {
                    self.tail.push(&chunk);
                    // The caller's own sidecar sees these bytes and no others.
                    self.response.update(&chunk);
                    if let Some(reading) = &mut self.reading {
                        reading.add(&chunk);
                    }
                }
                Err(SealingError) => self.break_off(host),
            }
            return;
        }
        if size == 0 {
            return;
        }
        match host.body(Message::Response, size) {
            Some(chunk) => {
                self.tail.push(&chunk);
                self.response.update(&chunk);
                if let Some(reading) = &mut self.reading {
                    reading.add(&chunk);
                }
            }
            None => log::warn!("a part of a response could not be read"),
        }
    }

    /// Ends an answer that cannot be sealed before its time.
    pub(super) fn break_off(&mut self, host: &impl Host) {
        log::warn!("an answer could not be sealed");
        self.response_ended = false;
        host.reset();
    }

    /// Puts an event in the place of a part of a stream of events, and nothing in that of those that follow. Nothing too
    /// in the middle of an event, which a caller would take for a whole one.
    pub(super) fn put_last_event(&mut self, host: &impl Host, size: usize, event: &[u8]) {
        let event = if self.tail.ends_an_event() { event } else { &[] };
        if !host.replace_response_body(size, event) {
            log::warn!("a part of a response could not be replaced");
            host.reset();
        }
        self.response.update(event);
    }

    pub(super) fn request_chunk(&mut self, host: &impl Host, size: usize) {
        if size == 0 {
            return;
        }
        if let Some(hasher) = &mut self.request {
            self.request_bytes += size as u64;
            match host.body(Message::Request, size) {
                Some(chunk) => hasher.update(&chunk),
                None => log::warn!("a part of a request could not be read"),
            }
        }
    }
}
