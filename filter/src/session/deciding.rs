//! From what there is of a request to its verdict: the headers, then the body where the right is named in it.

use std::rc::Rc;

use authz::decision::{self, Question};
use authz::denial::{Code, Denial};
use authz::digest::Digest;
use authz::request::{self, Extraction, Facts, Pending, RequestHead};

use super::passage::Permitted;
use super::{DECISION_KEY, Flow, HeldBody, Phase, Session, internal};
use crate::bound;
use crate::connection::{self, Connection};
use crate::headers;
use crate::host::{HeaderPair, Host, Message, Moment};
use crate::response;
use crate::sealing::Sealing;
use crate::slots::Reservation;
use crate::vm::{Standing, Vm};

/// Proxy-wasm hands over at most 1,024 pairs; a request with that many is no request.
pub(super) const MOST_HEADERS: usize = 1000;

/// What access logs find while headers go ahead of the verdict: Envoy's own guard behind the filter, which refuses what the
/// filter has not looked at, finds that it has.
const PENDING: &[u8] = br#"{"kind":"pending"}"#;

const LENGTH: &str = "content-length";

/// A decision and a completion.
const RECORDS_A_REQUEST: usize = 2;

impl Session {
    pub(super) fn decide_on_headers(
        &mut self,
        vm: &mut Vm,
        host: &impl Host,
        count: usize,
        end: bool,
    ) -> Result<Flow, Denial> {
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
                decision::admit(&self.question(&standing, &connection), pending.service())?;
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
                if Sealing::of(&self.known).is_some() {
                    // What goes on is shorter by the seals in it.
                    host.remove_request_header(LENGTH);
                }
                // Where the flag is off, Pause here would keep the body from ever coming (and hang the request).
                host.publish(DECISION_KEY, PENDING);
                // What the body asks for comes too late to change them.
                response::forgo_encoding(host);
                Ok(Flow::Continue)
            }
        }
    }

    pub(super) fn read_connection(
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
    pub(super) fn read_head(
        &mut self,
        vm: &mut Vm,
        host: &impl Host,
        connection: &Connection,
        pairs: &[HeaderPair],
        end: bool,
    ) -> Result<Extraction, Denial> {
        let standing = self.known.standing()?.clone();
        let bundle = &standing.bundle.bundle;
        decision::available(&self.question(&standing, connection))?;
        let head = RequestHead::parse(pairs)?;
        self.known.look_at(host, &head, connection, bundle);
        let extraction = request::extract(&head, connection.listener, bundle, end);
        if !matches!(extraction, Ok(Extraction::Ready(_))) {
            self.known.note_target(&head);
        }
        if let Ok(Extraction::Ready(facts)) = &extraction
            && decision::exempt(&self.question(&standing, connection), facts)
        {
            return extraction;
        }
        if let Some(service) = self.known.service(bundle) {
            let token = match head.bearer(service) {
                Ok(None) => Ok(None),
                Ok(Some(compact)) => vm.verify(host, compact, &standing.bundle, self.now.seconds()).map(Some),
                Err(denial) => Err(denial),
            };
            match token {
                Ok(token) => (self.known.token, self.known.flaw) = (token, None),
                Err(flaw) if decision::may_wait(&flaw, service) => {
                    (self.known.token, self.known.flaw) = (None, Some(flaw));
                }
                // What is wrong with the request comes first; the token only tells whose denial it is.
                Err(denial) if extraction.is_ok() => return Err(denial),
                Err(_) => {}
            }
        }
        extraction
    }

    pub(super) fn decide_on_body(&mut self, vm: &mut Vm, host: &impl Host) -> Flow {
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
    pub(super) fn decide_held(
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
            bound::opened_tasks(&self.known, pairs)?;
            pending
        } else {
            pending
        };
        let facts = pending.finish(&standing.bundle.bundle, &body)?;
        let verdict = self.decide(connection, &facts);
        let rpc_id = facts.rpc_id.clone();
        let facts = Rc::new(facts);
        self.known.facts = Some(Rc::clone(&facts));
        verdict
            .and_then(|permit| self.open_body(host, pairs, &facts, &body).map(|()| permit))
            .map(|permit| (permit, body.len() as u64))
            .map_err(|denial| denial.with_rpc_id(rpc_id.as_deref()))
    }

    /// Puts the ids of tasks that the service gave in the place of sealed ones.
    fn open_body(&self, host: &impl Host, pairs: &[HeaderPair], facts: &Facts, body: &[u8]) -> Result<(), Denial> {
        let Some(opened) = bound::opened_body(&self.known, facts, body)? else {
            return Ok(());
        };
        if !host.replace_request_body(body.len(), opened.as_bytes()) {
            return Err(internal("the body cannot be written"));
        }
        if self.headers_stop_iteration && pairs.iter().any(|(name, _)| name == LENGTH) {
            host.set_request_header(LENGTH, &opened.len().to_string());
        }
        Ok(())
    }

    pub(super) fn decide(&self, connection: &Connection, facts: &Facts) -> Result<Permitted, Denial> {
        let standing = self.known.standing()?;
        let question = self.question(standing, connection);
        let (service, permitted) = match decision::decide(&question, facts) {
            Ok(permit) => (permit.service(), Permitted::from(&permit)),
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

    pub(super) fn reserve(&self, vm: &mut Vm) -> Result<Reservation, Denial> {
        vm.records
            .reserve(self.known.peer.as_ref(), RECORDS_A_REQUEST)
            .ok_or_else(|| {
                Denial::new(
                    Code::RecordsUnavailable,
                    "the audit records of this call cannot be stored",
                )
            })
    }

    /// What is to be decided by, of what is known by now.
    fn question<'a>(&'a self, standing: &'a Standing, connection: &'a Connection) -> Question<'a> {
        Question {
            now: self.now.seconds(),
            side: connection.side(),
            workload: &standing.workload,
            peer: connection.peer.as_ref(),
            token: self.known.token.as_deref().map(|known| &known.token),
            flaw: self.known.flaw.as_ref(),
            bundle: &standing.bundle.bundle,
            state: &standing.state.list,
            seconds_since_poll: standing.state.seconds_since_poll(self.now.monotonic),
        }
    }
}
