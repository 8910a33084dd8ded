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

use authz::audit::{Kind, Outcome, Record};
use authz::decision::{self, Held, Permit, Question};
use authz::denial::{Code, Denial};
use authz::digest::{Digest, Hasher};
use authz::policy::Service;
use authz::request::{self, Extraction, Facts, Pending, RequestHead, Side};
use authz::token::VerifiedToken;

use crate::bound;
use crate::calls::{Awaited, Call, Hold, Lease};
use crate::connection::{self, Connection};
use crate::events::{self, Tail};
use crate::headers;
use crate::host::{HeaderPair, Host, Message, Moment};
use crate::known::Known;
use crate::reading::Reading;
use crate::response::{self, Listing};
use crate::slots::Reservation;
use crate::vm::{Standing, Vm};

mod waiting;

use waiting::Waiting;

/// Proxy-wasm hands over at most 1,024 pairs; a request with that many is no request.
const MOST_HEADERS: usize = 1000;

/// Where access logs read the record of the decision.
const DECISION_KEY: &str = "ostiary";
/// What stands there while headers go ahead of the verdict: Envoy's own guard behind the filter, which refuses what the
/// filter has not looked at, finds that it has.
const PENDING: &[u8] = br#"{"kind":"pending"}"#;
/// Where access logs read the record of the end of what was permitted.
const COMPLETION_KEY: &str = "ostiary_completion";

/// A decision and a completion.
const RECORDS_A_REQUEST: usize = 2;

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

#[derive(Debug)]
struct Passing {
    reservation: Reservation,
    /// None where the body was held: then it has been hashed whole.
    request: Option<Hasher>,
    request_bytes: u64,
    response: Hasher,
    response_ended: bool,
    /// Where the answer is a list.
    listing: Option<Listing>,
    /// The end of what has gone to the caller.
    tail: Tail,
    /// Where the answer is read, on its way, for how the call ended.
    reading: Option<Reading>,
}

/// The trace of a [`Permit`], which borrows what it rests on and so cannot be kept.
#[derive(Debug)]
struct Permitted {
    /// Whether the service has its calls wait for their records.
    records_before: bool,
    /// Whether the service has its calls end with their tokens.
    cuts_on_expiry: bool,
    /// Whether it is one only for as long as its agent is active, which it is not: then it waits for that.
    held: bool,
}

impl Permitted {
    fn by(service: Option<&Service>, held: bool) -> Self {
        Self {
            records_before: service.is_some_and(Service::records_before),
            cuts_on_expiry: service.is_some_and(Service::cuts_on_expiry),
            held,
        }
    }
}

impl From<Permit<'_>> for Permitted {
    fn from(permit: Permit<'_>) -> Self {
        Self::by(permit.service(), false)
    }
}

impl From<Held<'_>> for Permitted {
    fn from(held: Held<'_>) -> Self {
        Self::by(Some(held.service()), true)
    }
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

    fn decide_on_headers(&mut self, vm: &mut Vm, host: &impl Host, count: usize, end: bool) -> Result<Flow, Denial> {
        let number = connection::number(host);
        let remembered = number.and_then(|number| vm.connections.get(number)).cloned();
        self.known.side = match &remembered {
            Some(connection) => Some(connection.side()),
            None => connection::side(host),
        };
        let standing = vm.standing()?;
        let connection = match remembered {
            Some(connection) => connection,
            None => self.read_connection(vm, host, number, &standing)?,
        };
        self.known.peer.clone_from(&connection.peer);
        self.known.standing = Some(standing.clone());
        if count > MOST_HEADERS {
            return Err(Denial::new(Code::RequestMalformed, "too many headers"));
        }
        let pairs = host
            .request_headers()
            .ok_or_else(|| internal("the headers cannot be read"))?;
        match self.read_head(vm, host, &connection, &pairs, end)? {
            Extraction::Ready(facts) => {
                let verdict = self.decide(&connection, &facts);
                self.known.facts = Some(Rc::new(facts));
                let permit = verdict?;
                bound::open(&self.known, host, &pairs)?;
                headers::rewrite(&self.known, host, &pairs)?;
                let reservation = self.reserve(vm)?;
                self.pass(vm, host, permit, reservation, None)
            }
            Extraction::NeedsBody(pending) => {
                let token = self.known.token.clone();
                decision::admit(
                    &question(
                        self.now,
                        &standing,
                        &connection,
                        token.as_deref().map(|known| &known.token),
                    ),
                    pending.service(),
                )?;
                bound::open(&self.known, host, &pairs)?;
                headers::rewrite(&self.known, host, &pairs)?;
                let reservation = self.reserve(vm)?;
                self.phase = Phase::Held(Box::new(HeldBody {
                    pairs,
                    connection,
                    pending,
                    reservation,
                    body_bytes: 0,
                }));
                if self.headers_stop_iteration {
                    return Ok(Flow::Pause);
                }
                // Where the flag is off, Pause here would keep the body from ever coming (and hang the request).
                host.publish(DECISION_KEY, PENDING);
                // What the body asks for comes too late to change them.
                response::forgo_encoding(host);
                Ok(Flow::Continue)
            }
        }
    }

    fn read_connection(
        &self,
        vm: &mut Vm,
        host: &impl Host,
        number: Option<u64>,
        standing: &Standing,
    ) -> Result<Rc<Connection>, Denial> {
        let connection = Rc::new(Connection::read(host, self.known.side, &standing.workload)?);
        if let Some(number) = number {
            vm.connections.remember(number, &connection);
        }
        Ok(connection)
    }

    /// Reads the headers by the steps that `decision` lays down, up to the verified token.
    fn read_head(
        &mut self,
        vm: &mut Vm,
        host: &impl Host,
        connection: &Connection,
        pairs: &[HeaderPair],
        end: bool,
    ) -> Result<Extraction, Denial> {
        let standing = self.known.standing()?.clone();
        let bundle = &standing.bundle.bundle;
        let question = question(self.now, &standing, connection, None);
        decision::available(&question)?;
        let head = RequestHead::parse(pairs)?;
        self.known.look_at(host, &head, connection, bundle);
        let extraction = request::extract(&head, connection.listener, bundle, end);
        if !matches!(extraction, Ok(Extraction::Ready(_))) {
            self.known.note_target(&head);
        }
        if let Ok(Extraction::Ready(facts)) = &extraction
            && decision::exempt(&question, facts)
        {
            return extraction;
        }
        if let Some(service) = self.known.service(bundle) {
            let token = match head.bearer(service) {
                Ok(None) => Ok(None),
                Ok(Some(compact)) => vm.verify(host, compact, &standing.bundle, question.now).map(Some),
                Err(denial) => Err(denial),
            };
            match token {
                Ok(token) => self.known.token = token,
                // What is wrong with the request comes first; the token only tells whose denial it is.
                Err(denial) if extraction.is_ok() => return Err(denial),
                Err(_) => {}
            }
        }
        extraction
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

    fn decide_on_body(&mut self, vm: &mut Vm, host: &impl Host) -> Flow {
        let Phase::Held(held) = std::mem::replace(&mut self.phase, Phase::Denied) else {
            return Flow::Pause;
        };
        let HeldBody {
            pairs,
            connection,
            pending,
            reservation,
            body_bytes,
        } = *held;
        self.now = Moment::now(host);
        match self.decide_held(vm, host, &pairs, &connection, pending, body_bytes) {
            Ok((permit, bytes)) => match self.pass(vm, host, permit, reservation, Some(bytes)) {
                Ok(flow) => flow,
                Err(denial) => self.deny(vm, host, denial, None),
            },
            Err(denial) => self.deny(vm, host, denial, Some(reservation)),
        }
    }

    /// Decides on the whole body, which is exactly what goes on.
    fn decide_held(
        &mut self,
        vm: &mut Vm,
        host: &impl Host,
        pairs: &[HeaderPair],
        connection: &Connection,
        pending: Pending,
        body_bytes: usize,
    ) -> Result<(Permitted, u64), Denial> {
        let body = match body_bytes {
            0 => Vec::new(),
            _ => host
                .body(Message::Request, body_bytes)
                .ok_or_else(|| internal("the body cannot be read"))?,
        };
        if body.len() != body_bytes {
            return Err(internal("the body is not what was announced"));
        }
        self.known.request_digest = (!body.is_empty()).then(|| Digest::of(&body));
        let standing = vm.standing()?;
        let changed = !self
            .known
            .standing
            .as_ref()
            .is_some_and(|held| Rc::ptr_eq(&held.bundle, &standing.bundle));
        self.known.standing = Some(standing.clone());
        let pending = if changed {
            // Policy changed while the body came: nothing that the old bundle said of this request holds any more.
            let pending = match self.read_head(vm, host, connection, pairs, false)? {
                Extraction::NeedsBody(pending) => pending,
                Extraction::Ready(_) => return Err(internal("the policy changed while the request came")),
            };
            bound::opened(&self.known, pairs)?;
            pending
        } else {
            pending
        };
        let facts = pending.finish(&standing.bundle.bundle, &body)?;
        let verdict = self.decide(connection, &facts);
        let rpc_id = facts.rpc_id.clone();
        self.known.facts = Some(Rc::new(facts));
        verdict
            .map(|permit| (permit, body.len() as u64))
            .map_err(|denial| denial.with_rpc_id(rpc_id.as_deref()))
    }

    fn decide(&self, connection: &Connection, facts: &Facts) -> Result<Permitted, Denial> {
        let standing = self.known.standing()?;
        let token = self.known.token.as_deref().map(|known| &known.token);
        let question = question(self.now, standing, connection, token);
        let (service, permitted) = match decision::decide(&question, facts) {
            Ok(permit) => (permit.service(), Permitted::from(permit)),
            Err(denial) if denial.code() == Code::AgentPaused => {
                let held = decision::hold(&question, facts).ok_or(denial)?;
                (Some(held.service()), Permitted::from(held))
            }
            Err(denial) => return Err(denial),
        };
        if let Some(service) = service {
            let drifts = standing.drifts.try_borrow();
            drifts
                .map_err(|_| internal("what is known of definitions cannot be read"))?
                .check(service, &facts.right)?;
        }
        Ok(permitted)
    }

    fn reserve(&self, vm: &mut Vm) -> Result<Reservation, Denial> {
        vm.records
            .reserve(self.known.peer.as_ref(), RECORDS_A_REQUEST)
            .ok_or_else(|| {
                Denial::new(
                    Code::RecordsUnavailable,
                    "the audit records of this call cannot be stored",
                )
            })
    }

    /// Lets the request go on, or wait for its record. The only way to `Passing` and to `Waiting`.
    fn pass(
        &mut self,
        vm: &mut Vm,
        host: &impl Host,
        Permitted {
            records_before,
            cuts_on_expiry,
            held,
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
        let record = Record {
            verdict: Some(Outcome::Permit),
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
        });
        let mut call = self.own_call(cuts);
        if waits {
            call = call.awaiting(awaited);
        }
        if let Some((hold, facts)) = hold.zip(self.known.facts.as_ref()) {
            call = call.held(Hold::new(facts, self.now.monotonic + hold));
        }
        if waits || held {
            return Ok(self.wait(vm, host, passing, call));
        }
        vm.decided(self.known.side, None);
        self.watch(vm, call);
        self.phase = Phase::Passing(passing);
        Ok(Flow::Continue)
    }

    /// Lets the VM end the call, should its agent be suspended or killed. What passes without a capability is no agent's.
    fn watch(&mut self, vm: &mut Vm, call: Call) {
        if self.known.token.is_some() {
            let call = Rc::new(call);
            vm.calls.begin(self.context, Rc::clone(&call));
            self.call = Some(call);
        }
    }

    /// What the VM has to know of the call to end it; `cuts` says that it ends with its token.
    fn own_call(&self, cuts: bool) -> Call {
        let facts = self.known.facts.as_ref();
        let rpc_id = facts.and_then(|facts| facts.rpc_id.clone());
        let (token, trace_id) = (self.known.token.clone(), self.known.trace_id.clone());
        let lease = token
            .as_deref()
            .zip(facts.filter(|_| cuts))
            .map(|(token, facts)| Lease::new(token.claims(), facts));
        Call::new(token, self.known.form(), rpc_id, trace_id).with_lease(lease)
    }

    fn deny_held(&mut self, vm: &mut Vm, host: &impl Host, denial: Denial) -> Flow {
        match std::mem::replace(&mut self.phase, Phase::Denied) {
            Phase::Held(held) => self.deny(vm, host, denial, Some(held.reservation)),
            _ => self.deny(vm, host, denial, None),
        }
    }

    /// Answers in the application's place.
    fn deny(&mut self, vm: &mut Vm, host: &impl Host, denial: Denial, reservation: Option<Reservation>) -> Flow {
        self.phase = Phase::Denied;
        self.record_denial(vm, host, &denial, reservation);
        vm.decided(self.known.side, Some(denial.code()));
        if let Some(call) = self.call.take() {
            vm.calls.end(self.context);
            if call.is_answered() {
                return Flow::Pause;
            }
        }
        self.answer(host, &denial);
        Flow::Pause
    }

    fn answer(&self, host: &impl Host, denial: &Denial) {
        let response = denial.render(self.known.form(), None, self.known.trace_id.as_deref());
        let headers: Vec<(&str, &str)> = response
            .headers
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        host.respond(response.status, &headers, &response.body);
    }

    /// Records a denial on its own if its token is the peer's, else counts it: nobody can flood the log in another's
    /// name.
    fn record_denial(&self, vm: &mut Vm, host: &impl Host, denial: &Denial, reservation: Option<Reservation>) {
        if self.known.bound() {
            let reservation = reservation.or_else(|| vm.records.reserve(self.known.peer.as_ref(), 1));
            if let Some(mut reservation) = reservation {
                let record = Record {
                    verdict: Some(Outcome::Deny),
                    code: Some(denial.code()),
                    status: Some(denial.code().status().into()),
                    ..self.known.decision(self.now)
                };
                let written = vm
                    .records
                    .write(host, &mut reservation, &record)
                    .map(|sealed| host.publish(DECISION_KEY, sealed.record()));
                vm.records.release(reservation);
                if written.is_some() {
                    return;
                }
            }
        } else if let Some(reservation) = reservation {
            vm.records.release(reservation);
        }
        self.known.count(&mut vm.records, denial.code(), self.now);
        host.publish(DECISION_KEY, self.known.counted(denial.code()).as_bytes());
    }

    /// The response's headers are here. What answers a request without a verdict is not the application's to give.
    pub(crate) fn response_headers(&mut self, vm: &mut Vm, host: &impl Host, end: bool) -> Flow {
        self.wake(vm);
        match &mut self.phase {
            Phase::Passing(passing) => {
                if let Some(call) = &self.call {
                    // What comes by is our denial, and no list of the service.
                    if call.is_answered() && !from_upstream(host) {
                        (passing.listing, passing.reading) = (None, None);
                    }
                    // Once they have gone they cannot be read any more.
                    call.begins_to_answer(!end && events::is_stream(host));
                }
                bound::seal(&self.known, host);
                if let Some(reading) = &mut passing.reading {
                    reading.headers(host);
                }
                passing.response_ended |= end;
                match &mut passing.listing {
                    Some(listing) => listing.headers(host, end),
                    None => Flow::Continue,
                }
            }
            Phase::Held(_) if from_upstream(host) => {
                let denial = internal("the service answered before the whole request could be decided on");
                let flow = self.deny_held(vm, host, denial);
                self.phase = Phase::Withheld;
                flow
            }
            Phase::Waiting(_) => self.waiting_response(vm, host),
            Phase::Withheld => Flow::Pause,
            // Envoy's own answer (413, 408, no upstream), or ours.
            Phase::Held(_) | Phase::Fresh | Phase::Denied | Phase::Ended => Flow::Continue,
        }
    }

    /// The next bytes of the response's body.
    pub(crate) fn response_body(&mut self, host: &impl Host, size: usize, end: bool) -> Flow {
        match &mut self.phase {
            Phase::Passing(passing) => {
                if let Some(event) = self.call.as_ref().and_then(|call| call.last_event()) {
                    passing.put_last_event(host, size, &event);
                    return Flow::Continue;
                }
                passing.response_ended |= end;
                let Passing { listing, response, .. } = &mut **passing;
                if let Some(listing) = listing.as_mut().filter(|listing| listing.is_holding()) {
                    return listing.body(host, &self.known, self.now, size, end, response);
                }
                passing.response_chunk(host, size);
                Flow::Continue
            }
            Phase::Waiting(waiting) => waiting.response(),
            Phase::Withheld => Flow::Pause,
            Phase::Held(_) | Phase::Fresh | Phase::Denied | Phase::Ended => Flow::Continue,
        }
    }

    /// The response ends with trailers.
    pub(crate) fn response_trailers(&mut self, host: &impl Host) -> Flow {
        match &mut self.phase {
            Phase::Passing(passing) => {
                passing.response_ended = self.call.as_ref().is_none_or(|call| call.last_event().is_none());
                let Passing { listing, response, .. } = &mut **passing;
                match listing {
                    Some(listing) => listing.settle(host, &self.known, self.now, response),
                    None => Flow::Continue,
                }
            }
            Phase::Waiting(waiting) => waiting.response(),
            Phase::Withheld => Flow::Pause,
            Phase::Held(_) | Phase::Fresh | Phase::Denied | Phase::Ended => Flow::Continue,
        }
    }

    /// The stream is over, however it ended; `logging` says that its access log is about to be written.
    pub(crate) fn finish(&mut self, vm: &mut Vm, host: &impl Host, logging: bool) {
        self.wake(vm);
        let phase = std::mem::replace(&mut self.phase, Phase::Ended);
        if self.call.is_some() {
            vm.calls.end(self.context);
        }
        if matches!(phase, Phase::Passing(_) | Phase::Waiting(_) | Phase::Held(_)) {
            self.now = self.started.until_now(host);
        }
        match phase {
            Phase::Passing(passing) => self.complete(vm, host, *passing, logging),
            Phase::Waiting(waiting) => self.not_delivered(vm, host, *waiting, logging),
            Phase::Held(held) => {
                let end = if status(host).is_some() { "refused" } else { "aborted" };
                let record = Record {
                    request_bytes: Some(held.body_bytes as u64),
                    end: Some(end.into()),
                    status: status(host),
                    duration_us: Some(self.now.micros_since(self.started)),
                    ..self.known.record(Kind::Completion, self.now)
                };
                self.close(vm, host, held.reservation, &record, logging);
            }
            Phase::Fresh | Phase::Denied | Phase::Withheld | Phase::Ended => {}
        }
    }

    fn complete(&self, vm: &mut Vm, host: &impl Host, passing: Passing, logging: bool) {
        let Passing {
            reservation,
            request,
            request_bytes,
            response,
            response_ended,
            listing,
            tail: _,
            reading,
        } = passing;
        let withheld = listing.as_ref().and_then(Listing::withheld);
        let end = match (withheld, response_ended) {
            (Some(_), _) => "withheld",
            (None, true) => "complete",
            (None, false) => "broken",
        };
        let response_bytes = response.bytes();
        let status = status(host);
        let ended = self
            .call
            .as_ref()
            .and_then(|call| call.ending(status, from_upstream(host), response_ended));
        let record = Record {
            response_digest: (response_bytes > 0).then(|| response.finish()),
            response_bytes: Some(response_bytes),
            code: withheld,
            outcome: reading
                .and_then(Reading::outcome)
                .map(|outcome| outcome.as_str().into()),
            drifted: listing.iter().flat_map(Listing::drifted).map(Into::into).collect(),
            end: Some(ended.unwrap_or(end).into()),
            ..self.completion(request, request_bytes, status)
        };
        self.close(vm, host, reservation, &record, logging);
    }

    /// The record of the end of a call that was permitted, but for how it ended.
    fn completion(&self, request: Option<Hasher>, request_bytes: u64, status: Option<u64>) -> Record<'_> {
        Record {
            request_digest: request
                .filter(|hasher| hasher.bytes() > 0)
                .map(Hasher::finish)
                .or(self.known.request_digest),
            request_bytes: Some(request_bytes),
            status,
            duration_us: Some(self.now.micros_since(self.started)),
            ..self.known.record(Kind::Completion, self.now)
        }
    }

    fn close(&self, vm: &mut Vm, host: &impl Host, mut reservation: Reservation, record: &Record<'_>, logging: bool) {
        if let Some(sealed) = vm.records.write(host, &mut reservation, record)
            && logging
        {
            host.publish(COMPLETION_KEY, sealed.record());
        }
        vm.records.release(reservation);
    }
}

impl Passing {
    fn response_chunk(&mut self, host: &impl Host, size: usize) {
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

    /// Puts an event in the place of a part of a stream of events, and nothing in that of those that follow. Nothing too
    /// in the middle of an event, which a caller would take for a whole one.
    fn put_last_event(&mut self, host: &impl Host, size: usize, event: &[u8]) {
        let event = if self.tail.ends_an_event() { event } else { &[] };
        if !host.replace_response_body(size, event) {
            log::warn!("a part of a response could not be replaced");
            host.reset();
        }
        self.response.update(event);
    }

    fn request_chunk(&mut self, host: &impl Host, size: usize) {
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

fn question<'a>(
    now: Moment,
    standing: &'a Standing,
    connection: &'a Connection,
    token: Option<&'a VerifiedToken>,
) -> Question<'a> {
    Question {
        now: now.seconds(),
        side: connection.side(),
        workload: &standing.workload,
        peer: connection.peer.as_ref(),
        token,
        bundle: &standing.bundle.bundle,
        state: &standing.state.list,
        seconds_since_poll: standing.state.seconds_since_poll(now.monotonic),
    }
}

fn internal(why: &'static str) -> Denial {
    Denial::new(Code::InternalError, why)
}

/// Whether a response comes from the service and not from this proxy.
fn from_upstream(host: &impl Host) -> bool {
    host.property(&["response", "code_details"])
        .is_some_and(|details| details.starts_with(b"via_upstream"))
}

/// The status that went back to the caller, if any did.
fn status(host: &impl Host) -> Option<u64> {
    connection::integer(host, &["response", "code"])
        .and_then(|code| u64::try_from(code).ok())
        .filter(|code| *code > 0)
}

#[cfg(test)]
mod tests;
