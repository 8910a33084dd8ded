//! What is known of one request, gathered as far as it got, and the records that tell it.

use std::borrow::Cow;
use std::rc::Rc;

use authz::audit::{Kind, Record, RecordedFacts};
use authz::denial::{Code, Denial, Form};
use authz::digest::Digest;
use authz::identity::{ServiceId, SpiffeId};
use authz::policy::{Bundle, Protocol, Service, ServiceIndex};
use authz::request::{self, Facts, RequestHead, Side};
use authz::session::Holder;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::cache::Verified;
use crate::connection::Connection;
use crate::headers::CALL_HEADER;
use crate::host::{Host, Moment};
use crate::records::Records;
use crate::trace;
use crate::vm::Standing;

/// 128 bits in base64url.
const CALL_ID_CHARS: usize = 22;

/// What is known of a request, gathered as far as it got.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) side: Option<Side>,
    pub(crate) peer: Option<SpiffeId>,
    /// The place of the service in the bundle of `standing`.
    index: Option<ServiceIndex>,
    service_id: Option<ServiceId>,
    protocol: Option<Protocol>,
    /// How the caller understands a denial; nothing is known of it before a service is.
    form: Option<Form>,
    method: String,
    path: String,
    pub(crate) call: Option<String>,
    pub(crate) trace_id: Option<String>,
    pub(crate) token: Option<Rc<Verified>>,
    /// Why what was shown is no token, where that waits for the decision.
    pub(crate) flaw: Option<Denial>,
    /// What would have denied the call, if it goes on in shadow.
    pub(crate) shadowed: Option<Code>,
    pub(crate) standing: Option<Standing>,
    pub(crate) facts: Option<Rc<Facts>>,
    pub(crate) request_digest: Option<Digest>,
}

impl Known {
    /// Notes who calls what, as far as the head tells, for the answer and the records.
    pub(crate) fn look_at(
        &mut self,
        host: &impl Host,
        head: &RequestHead<'_>,
        connection: &Connection,
        bundle: &Bundle,
    ) {
        self.trace_id = head.header("traceparent").and_then(trace::trace_id).map(str::to_owned);
        if self.call.is_none() {
            self.call = call_id(host, connection.side(), head);
        }
        self.index = match connection.side() {
            Side::Inbound => bundle.service_exposed_on(connection.listener.local_port),
            Side::Outbound => bundle.service_named(head.authority()),
        };
        let service = self.service(bundle);
        let (id, protocol) = (
            service.map(|service| service.id().clone()),
            service.map(Service::protocol),
        );
        self.form = service.map(|service| request::denial_form(head, service));
        (self.service_id, self.protocol) = (id, protocol);
    }

    /// How the caller understands a denial.
    pub(crate) fn form(&self) -> Form {
        self.form.unwrap_or(Form::Problem)
    }

    /// Notes what is asked for, of a request that gives no facts yet.
    pub(crate) fn note_target(&mut self, head: &RequestHead<'_>) {
        (self.method, self.path) = (head.method().to_owned(), head.path().to_owned());
    }

    pub(crate) fn service<'a>(&self, bundle: &'a Bundle) -> Option<&'a Service> {
        self.index.and_then(|index| bundle.service(index))
    }

    /// The facts decided on; of a request that gave none, its method and path.
    fn recorded_facts(&self) -> RecordedFacts<'_> {
        match &self.facts {
            Some(facts) => RecordedFacts::from(&**facts),
            None => RecordedFacts {
                method: Some(self.method.as_str().into()),
                path: Some(self.path.as_str().into()),
                ..RecordedFacts::default()
            },
        }
    }

    pub(crate) fn standing(&self) -> Result<&Standing, Denial> {
        self.standing
            .as_ref()
            .ok_or_else(|| Denial::new(Code::InternalError, "nothing to decide on"))
    }

    /// Whether the service speaks MCP.
    pub(crate) fn is_mcp(&self) -> bool {
        self.protocol == Some(Protocol::Mcp)
    }

    /// Whose a session is that this request opens or goes on with; none without a capability.
    pub(crate) fn holder(&self) -> Option<Holder<'_>> {
        Some(Holder {
            service: self.service_id.as_ref()?,
            claims: self.token.as_deref()?.claims(),
        })
    }

    /// Whether the token was verified and belongs to the peer.
    pub(crate) fn bound(&self) -> bool {
        match (&self.token, &self.peer) {
            (Some(token), Some(peer)) => token.claims().sub == *peer,
            _ => false,
        }
    }

    /// The record of a decision, but for its verdict.
    pub(crate) fn decision(&self, now: Moment) -> Record<'_> {
        Record {
            claims: self.token.as_deref().map(|token| token.recorded.borrowed()),
            facts: Some(self.recorded_facts()),
            bundle: self
                .standing
                .as_ref()
                .map(|standing| standing.bundle.version.as_str().into()),
            state: self
                .standing
                .as_ref()
                .map(|standing| standing.state.version.as_str().into()),
            request_digest: self.request_digest,
            ..self.record(Kind::Decision, now)
        }
    }

    /// What every record of this request says.
    pub(crate) fn record(&self, kind: Kind, now: Moment) -> Record<'_> {
        let claims = self.token.as_deref().map(Verified::claims);
        Record {
            agent_id: claims.map(|claims| claims.agent_id.as_str().into()),
            jti: claims.map(|claims| claims.jti.as_str().into()),
            operation_id: claims.map(|claims| claims.operation_id.as_str().into()),
            txn: claims
                .and_then(|claims| claims.txn.as_ref())
                .map(|txn| txn.as_str().into()),
            call: self.call.as_deref().map(Cow::Borrowed),
            peer: self.peer.as_ref().map(|peer| peer.as_str().into()),
            protocol: self.protocol.map(|protocol| protocol.as_str().into()),
            service: self.service_id.as_ref().map(|service| service.as_str().into()),
            side: self.side,
            trace_id: self.trace_id.as_deref().map(Cow::Borrowed),
            workload: self.standing.as_ref().map(|standing| standing.workload.as_str().into()),
            ..Record::new(kind, now.millis())
        }
    }

    /// Counts a denial that gets no record of its own.
    pub(crate) fn count(&self, records: &mut Records, code: Code, now: Moment) {
        records.count(
            now.seconds(),
            self.side,
            self.peer.as_ref(),
            self.service_id.as_ref(),
            code,
        );
    }

    /// What the access log shows of a denial that is only counted.
    pub(crate) fn counted(&self, code: Code) -> String {
        let mut text = format!("{{\"code\":\"{code}\",\"kind\":\"aggregate\"");
        // INVARIANT: identities and service names hold nothing that JSON escapes.
        for (name, value) in [
            ("peer", self.peer.as_ref().map(SpiffeId::as_str)),
            ("service", self.service_id.as_ref().map(ServiceId::as_str)),
            ("side", self.side.map(Side::as_str)),
            ("trace_id", self.trace_id.as_deref()),
        ] {
            if let Some(value) = value {
                text.push_str(&format!(",\"{name}\":\"{value}\""));
            }
        }
        text.push_str(",\"verdict\":\"deny\"}");
        text
    }
}

/// The id that joins the two sides' records: made where the call leaves, taken over where it arrives.
fn call_id(host: &impl Host, side: Side, head: &RequestHead<'_>) -> Option<String> {
    match side {
        Side::Outbound => {
            let mut bits = [0; 16];
            host.random(&mut bits).then(|| URL_SAFE_NO_PAD.encode(bits))
        }
        Side::Inbound => {
            let id = std::str::from_utf8(head.header(CALL_HEADER)?).ok()?;
            let valid = id.len() == CALL_ID_CHARS
                && id
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            valid.then(|| id.to_owned())
        }
    }
}
