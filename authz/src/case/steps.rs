//! The steps of a filter, in its order.

use super::{Case, Trail};
use crate::decision::{self, Question};
use crate::denial::{Code, Denial};
use crate::identity::{ServiceId, SpiffeId};
use crate::jws::ExternalVerifier;
use crate::policy::{Bundle, Service};
use crate::protocol::tasks::{self, Binding};
use crate::request::{Extraction, Listener, RequestHead, Side, extract};
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

/// What the caller shows of who it is.
#[derive(Default)]
struct Shown {
    token: Option<VerifiedToken>,
    /// Why what it shows is no token, where that may wait for the decision.
    flaw: Option<Denial>,
}

impl Steps<'_> {
    /// The denial of a permit is what would have been said if the service were not in shadow.
    pub(super) fn take(
        &self,
        pairs: &[(Vec<u8>, Vec<u8>)],
        body: &[u8],
        listener: Listener,
        trail: &mut Trail,
    ) -> Result<Option<Denial>, Denial> {
        let peer = self.peer();
        let nothing = Shown::default();
        decision::available(&self.question(peer.as_ref(), &nothing))?;
        let head = RequestHead::parse(pairs)?;
        let (facts, shown, body) = match extract(&head, listener, self.bundle, body.is_empty())? {
            Extraction::Ready(facts) => {
                trail.right = Some(facts.right.clone());
                let question = self.question(peer.as_ref(), &nothing);
                let shown = match &facts.service {
                    Some(service) if !decision::exempt(&question, &facts) => {
                        self.verify(&head, self.service(service)?, trail)?
                    }
                    Some(_) | None => nothing,
                };
                (facts, shown, None)
            }
            Extraction::NeedsBody(pending) => {
                let service = self.service(pending.service())?;
                let shown = self.verify(&head, service, trail)?;
                decision::admit(&self.question(peer.as_ref(), &shown), pending.service())?;
                self.check_head(&head, service, &shown)?;
                let facts = pending.finish(self.bundle, body)?;
                trail.right = Some(facts.right.clone());
                (facts, shown, Some(body))
            }
        };
        let question = self.question(peer.as_ref(), &shown);
        let permit = decision::decide(&question, &facts)?;
        if let Some(service) = permit.service() {
            self.check_head(&head, service, &shown)?;
            if let Some((body, binding)) = body.zip(self.binding(service, shown.token.as_ref())) {
                tasks::open_body(&facts, body, service, &binding)?;
            }
        }
        Ok(permit.shadowed().map(|shadowed| shadowed.denial().clone()))
    }

    fn question<'q>(&'q self, peer: Option<&'q SpiffeId>, shown: &'q Shown) -> Question<'q> {
        Question {
            now: self.case.now,
            side: self.case.side,
            workload: &self.case.workload,
            peer,
            token: shown.token.as_ref(),
            flaw: shown.flaw.as_ref(),
            bundle: self.bundle,
            state: self.state,
            seconds_since_poll: 0,
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

    /// A certificate whose identity is no SPIFFE ID gives no peer.
    fn peer(&self) -> Option<SpiffeId> {
        match (&self.case.peer, self.case.side) {
            (Some(peer), _) => SpiffeId::parse(peer).ok(),
            (None, Side::Outbound) => Some(self.bundle.workload().clone()),
            (None, Side::Inbound) => None,
        }
    }

    /// Whether the session that the headers show, and the task or context that the target or `Mcp-Name` names, are their caller's, where
    /// they are bound.
    fn check_head(&self, head: &RequestHead<'_>, service: &Service, shown: &Shown) -> Result<(), Denial> {
        let token = shown.token.as_ref();
        let keys = session::binding(self.bundle, service, self.case.side);
        let holder = token.map(|token| Holder {
            service: service.id(),
            claims: token.claims(),
        });
        session::opened(keys, holder.as_ref(), head.header(SESSION_HEADER))?;
        let Some(binding) = self.binding(service, token) else {
            return Ok(());
        };
        tasks::open_target(head.method(), &self.case.request.path, service, &binding)?;
        let headers = head.mcp_headers();
        tasks::open_name(headers.method, headers.name, service, &binding)?;
        Ok(())
    }

    fn verify(&self, head: &RequestHead<'_>, service: &Service, trail: &mut Trail) -> Result<Shown, Denial> {
        let Some(compact) = head.bearer(service)? else {
            return Ok(Shown::default());
        };
        let mut shown = Shown::default();
        match self.verify_compact(compact).map_err(|error| Denial::from(&error)) {
            Ok(token) => {
                trail.agent_id = Some(token.claims().agent_id.clone());
                shown.token = Some(token);
            }
            Err(flaw) if decision::may_wait(&flaw, service) => shown.flaw = Some(flaw),
            Err(flaw) => return Err(flaw),
        }
        Ok(shown)
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
