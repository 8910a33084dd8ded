//! The steps of a filter, in its order.

use super::{Case, Trail};
use crate::decision::{self, Question};
use crate::denial::{Code, Denial};
use crate::identity::{ServiceId, SpiffeId};
use crate::jws::ExternalVerifier;
use crate::policy::{Bundle, Service};
use crate::protocol::tasks::{self, Binding};
use crate::request::{Extraction, Facts, Listener, RequestHead, Side, extract};
use crate::session::{self, Holder, SESSION_HEADER};
use crate::state::StateList;
use crate::token::{TokenError, UnverifiedToken, VerifiedToken};

/// What the steps are taken with.
pub(super) struct Steps<'a> {
    pub(super) case: &'a Case,
    pub(super) bundle: &'a Bundle,
    pub(super) state: &'a StateList,
    pub(super) external: &'a dyn ExternalVerifier,
}

impl Steps<'_> {
    pub(super) fn take(
        &self,
        pairs: &[(Vec<u8>, Vec<u8>)],
        body: &[u8],
        listener: Listener,
        trail: &mut Trail,
    ) -> Result<(), Denial> {
        let peer = self.peer();
        let question = |token| Question {
            now: self.case.now,
            side: self.case.side,
            workload: &self.case.workload,
            peer: peer.as_ref(),
            token,
            bundle: self.bundle,
            state: self.state,
            seconds_since_poll: 0,
        };
        decision::available(&question(None))?;
        let head = RequestHead::parse(pairs)?;
        match extract(&head, listener, self.bundle, body.is_empty())? {
            Extraction::Ready(facts) => {
                trail.right = Some(facts.right.clone());
                let token = self.token(&head, &question(None), &facts, trail)?;
                let permit = decision::decide(&question(token.as_ref()), &facts)?;
                permit.service().map_or(Ok(()), |service| {
                    self.check_session(&head, service, token.as_ref())?;
                    self.check_target(&head, service, token.as_ref())
                })
            }
            Extraction::NeedsBody(pending) => {
                let service = pending.service().clone();
                let token = self.verify(&head, &service, trail)?;
                let question = question(token.as_ref());
                decision::admit(&question, &service)?;
                let service = self.service(&service)?;
                self.check_session(&head, service, token.as_ref())?;
                self.check_target(&head, service, token.as_ref())?;
                let facts = pending.finish(self.bundle, body)?;
                trail.right = Some(facts.right.clone());
                decision::decide(&question, &facts).and_then(|_| {
                    let Some(binding) = self.binding(service, token.as_ref()) else {
                        return Ok(());
                    };
                    tasks::open_body(&facts, body, service, &binding).map(|_| ())
                })
            }
        }
    }

    /// What tasks of the service are bound by, where its file says so.
    fn binding<'t>(&'t self, service: &'t Service, token: Option<&'t VerifiedToken>) -> Option<Binding<'t>> {
        let keys = session::task_binding(self.bundle, service, self.case.side)?;
        let holder = token.map(|token| Holder {
            service: service.id(),
            claims: token.claims(),
        });
        Some(Binding { keys, holder })
    }

    /// Whether the task or context that the target names is its caller's, where they are bound.
    fn check_target(
        &self,
        head: &RequestHead<'_>,
        service: &Service,
        token: Option<&VerifiedToken>,
    ) -> Result<(), Denial> {
        let Some(binding) = self.binding(service, token) else {
            return Ok(());
        };
        tasks::open_target(head.method(), &self.case.request.path, service, &binding).map(|_| ())
    }

    /// A certificate whose identity is no SPIFFE ID gives no peer.
    fn peer(&self) -> Option<SpiffeId> {
        match (&self.case.peer, self.case.side) {
            (Some(peer), _) => SpiffeId::parse(peer).ok(),
            (None, Side::Outbound) => Some(self.bundle.workload().clone()),
            (None, Side::Inbound) => None,
        }
    }

    fn token(
        &self,
        head: &RequestHead<'_>,
        question: &Question<'_>,
        facts: &Facts,
        trail: &mut Trail,
    ) -> Result<Option<VerifiedToken>, Denial> {
        match &facts.service {
            Some(service) if !decision::exempt(question, facts) => self.verify(head, service, trail),
            Some(_) | None => Ok(None),
        }
    }

    /// Whether the session that the request shows is its caller's, where sessions are bound.
    fn check_session(
        &self,
        head: &RequestHead<'_>,
        service: &Service,
        token: Option<&VerifiedToken>,
    ) -> Result<(), Denial> {
        let keys = session::binding(self.bundle, service, self.case.side);
        let holder = token.map(|token| Holder {
            service: service.id(),
            claims: token.claims(),
        });
        session::opened(keys, holder.as_ref(), head.header(SESSION_HEADER)).map(|_| ())
    }

    fn verify(
        &self,
        head: &RequestHead<'_>,
        service: &ServiceId,
        trail: &mut Trail,
    ) -> Result<Option<VerifiedToken>, Denial> {
        let Some(compact) = head.bearer(self.service(service)?)? else {
            return Ok(None);
        };
        let token = self.verify_compact(compact).map_err(|error| Denial::from(&error))?;
        trail.agent_id = Some(token.claims().agent_id.clone());
        Ok(Some(token))
    }

    fn service(&self, id: &ServiceId) -> Result<&Service, Denial> {
        self.bundle
            .service_with_id(id)
            .and_then(|index| self.bundle.service(index))
            .ok_or_else(|| Denial::new(Code::InternalError, "the service has no entry"))
    }

    fn verify_compact(&self, compact: &str) -> Result<VerifiedToken, TokenError> {
        UnverifiedToken::parse(compact)?.verify(
            self.bundle.issuers(),
            self.bundle.token_limits(),
            self.case.now,
            self.external,
        )
    }
}
