//! From facts, token, policy, state and peer to a permit or a denial.
//!
//! A right must be granted by all of them: token ∩ policy ∩ state ∩ peer. The order of the checks is fixed, because the
//! first that fails names the denial, and because nothing is told to a caller that has not shown who it is.
//!
//! Every adapter takes the same steps, so that the same request meets the same code everywhere:
//!
//! 1. [`available`]: policy and state are current;
//! 2. [`crate::request::RequestHead::parse`], then [`crate::request::extract`];
//! 3. unless [`exempt`] says that no token is needed: [`crate::request::RequestHead::bearer`], and verification of the
//!    token (cached or not);
//! 4. [`admit`], where the right is named in the body, before the body is held; then
//!    [`crate::request::Pending::finish`];
//! 5. [`decide`], which repeats what [`admit`] checks.
//!
//! Both let a call go on that a rule denies where its service is in shadow, within the limits of [`is_shadowed`].

use crate::claims::Claims;
use crate::denial::{Code, Denial, Needed};
use crate::identity::{AgentId, ServiceId, SpiffeId};
use crate::policy::{Agent, Bundle, Service};
use crate::protocol::http;
use crate::request::{Facts, Right, Side};
use crate::state::StateList;
use crate::token::VerifiedToken;

/// All that a decision rests on beside the facts of the request.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Unix time in seconds.
    pub now: u64,
    /// The side that the filter stands on.
    pub side: Side,
    /// The workload that the filter stands before, by its own certificate or node metadata.
    pub workload: &'a SpiffeId,
    /// The mTLS identity of the caller; on the outbound side the workload itself.
    pub peer: Option<&'a SpiffeId>,
    /// The token, verified now or before.
    pub token: Option<&'a VerifiedToken>,
    /// Why a token that was shown is none, where that [`may_wait`].
    pub flaw: Option<&'a Denial>,
    /// The policy.
    pub bundle: &'a Bundle,
    /// The agents' states.
    pub state: &'a StateList,
    /// Monotonic seconds since the poll that brought the state was sent.
    pub seconds_since_poll: u64,
}

/// A caller whose headers have passed every check: its token is its own, for this service, of an agent that may call it.
#[derive(Clone, Copy, Debug)]
pub struct Admitted<'a> {
    claims: &'a Claims,
    agent: Agent<'a>,
    service: &'a Service,
}

impl<'a> Admitted<'a> {
    /// The agent.
    pub fn agent_id(&self) -> &'a AgentId {
        &self.claims.agent_id
    }

    /// The claims of its token.
    pub fn claims(&self) -> &'a Claims {
        self.claims
    }
}

/// Why a call may go on without a capability, or the capability by which it does.
#[derive(Clone, Debug)]
enum Basis<'a> {
    Capability(Admitted<'a>),
    Exempt(&'a Service),
    ControlPlane,
    Shadow(Shadowed<'a>),
}

/// The proof that a call may go on. Only [`decide`] makes one.
#[derive(Clone, Debug)]
#[must_use = "a permit is the only reason to let a request go on"]
pub struct Permit<'a> {
    basis: Basis<'a>,
}

impl<'a> Permit<'a> {
    /// The claims that the call rests on; None for exempt callers, the policy server's own endpoints, and in shadow where no
    /// good token was shown.
    pub fn claims(&self) -> Option<&'a Claims> {
        match &self.basis {
            Basis::Capability(admitted) => Some(admitted.claims),
            Basis::Shadow(shadowed) => shadowed.claims,
            Basis::Exempt(_) | Basis::ControlPlane => None,
        }
    }

    /// What would have denied the call, if it goes on in shadow.
    pub fn shadowed(&self) -> Option<&Shadowed<'a>> {
        match &self.basis {
            Basis::Shadow(shadowed) => Some(shadowed),
            Basis::Capability(_) | Basis::Exempt(_) | Basis::ControlPlane => None,
        }
    }

    /// The agent, where there is one.
    pub fn agent_id(&self) -> Option<&'a AgentId> {
        self.claims().map(|claims| &claims.agent_id)
    }

    /// The service; None for the policy server.
    pub fn service(&self) -> Option<&'a Service> {
        match &self.basis {
            Basis::Capability(admitted) => Some(admitted.service),
            Basis::Shadow(shadowed) => Some(shadowed.service),
            Basis::Exempt(service) => Some(service),
            Basis::ControlPlane => None,
        }
    }

    /// Whether the application may be shown the token. Without a service to say so it may not.
    pub fn forward_token(&self) -> bool {
        self.service().is_some_and(Service::forward_token)
    }

    /// Whether the application is to be told the verified claims.
    pub fn forward_claims(&self) -> bool {
        self.claims().is_some() && self.service().is_some_and(Service::forward_claims)
    }
}

/// Checks that policy and state are current.
///
/// # Errors
///
/// `policy_unavailable`, or `workload_mismatch` if the policy was made for another workload.
pub fn available(q: &Question<'_>) -> Result<(), Denial> {
    if q.bundle.expired(q.now) {
        return Err(Denial::new(Code::PolicyUnavailable, "the policy has expired"));
    }
    if !q
        .state
        .fresh(q.now, q.seconds_since_poll, q.bundle.max_state_age_seconds())
    {
        return Err(Denial::new(
            Code::PolicyUnavailable,
            "the list of agents' states is too old",
        ));
    }
    if q.workload != q.bundle.workload() {
        return Err(Denial::new(
            Code::WorkloadMismatch,
            "the policy was made for another workload",
        ));
    }
    Ok(())
}

/// Whether the caller may make this request without a capability: its token, if it shows one, is not looked at.
pub fn exempt(q: &Question<'_>, facts: &Facts) -> bool {
    match facts.right {
        Right::ControlPlane => q.side == Side::Outbound,
        Right::Exempt | Right::Scope(_) | Right::Call { .. } => facts
            .service
            .as_ref()
            .and_then(|service| find_service(q.bundle, service).ok())
            .is_some_and(|service| exempts(service, q.peer, facts)),
        Right::Tool { .. } | Right::Prompt { .. } | Right::Resources(_) | Right::Session => false,
    }
}

/// Decides what headers alone can decide, for the service named. A pause stops nothing here where the service holds calls.
///
/// # Errors
///
/// The first check that fails, in the order of the module's page.
pub fn admit(q: &Question<'_>, service: &ServiceId) -> Result<(), Denial> {
    available(q)?;
    let admitted = admit_to(q, find_service(q.bundle, service)?, Pause::Waits);
    admitted.map(drop).or_else(|denial| shadow::admit(q, service, denial))
}

/// What a pause means for a call to a service that holds calls; to others it is a denial in any case.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    Denies,
    Waits,
}

fn admit_to<'a>(q: &Question<'a>, service: &'a Service, pause: Pause) -> Result<Admitted<'a>, Denial> {
    let missing = || Denial::new(Code::TokenMissing, "send a capability token as `Bearer`");
    let token = q.token.ok_or_else(|| q.flaw.cloned().unwrap_or_else(missing))?;
    let claims = token.claims();
    token.check_time(q.now).map_err(|error| Denial::from(&error))?;
    check_peer(q.peer, claims)?;
    if !claims.is_for(service.identity()) {
        let needed = Needed {
            audience: Some(service.identity().to_string()),
            ..Needed::default()
        };
        return Err(Denial::new(Code::AudienceMismatch, "`aud` does not name this service").with_needed(needed));
    }
    let agent = find_agent(q.bundle, claims)?;
    if pause == Pause::Waits && service.holds_on_pause() {
        standing::outlives(q.state, claims)?;
    } else {
        standing::may_begin(q.state, claims)?;
    }
    if !agent.reaches(service.id()) {
        return Err(Denial::new(
            Code::ServiceNotReached,
            "the agent's policy does not list this service",
        ));
    }
    Ok(Admitted { claims, agent, service })
}

/// Decides. The caller's side lets calls of a paused agent go on to a service that holds them: the service's is the boundary
/// that counts.
///
/// # Errors
///
/// The first check that fails, in the order of the module's page.
pub fn decide<'a>(q: &Question<'a>, facts: &Facts) -> Result<Permit<'a>, Denial> {
    let pause = match q.side {
        Side::Inbound => Pause::Denies,
        Side::Outbound => Pause::Waits,
    };
    decide_with(q, facts, pause).or_else(|denial| shadow::permit(q, facts, denial))
}

/// A call of a paused agent that would be permitted if it were active, to a service that holds such calls. It may go on only
/// with a [`Permit`] of its own.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    service: &'a Service,
}

impl<'a> Held<'a> {
    /// The service.
    pub fn service(&self) -> &'a Service {
        self.service
    }
}

/// Whether a call that [`decide`] denied for a pause is to be held; None if it is to be denied.
pub fn hold<'a>(q: &Question<'a>, facts: &Facts) -> Option<Held<'a>> {
    let permit = decide_with(q, facts, Pause::Waits).ok()?;
    let service = permit.service().filter(|service| service.holds_on_pause())?;
    Some(Held { service })
}

fn decide_with<'a>(q: &Question<'a>, facts: &Facts, pause: Pause) -> Result<Permit<'a>, Denial> {
    available(q)?;
    if q.side == Side::Outbound && matches!(facts.right, Right::ControlPlane) {
        return Ok(Permit {
            basis: Basis::ControlPlane,
        });
    }
    let id = facts.service.as_ref().ok_or_else(|| {
        Denial::new(
            Code::EndpointRefused,
            "the policy server is called from the outbound side",
        )
    })?;
    let service = find_service(q.bundle, id)?;
    if exempts(service, q.peer, facts) {
        return Ok(Permit {
            basis: Basis::Exempt(service),
        });
    }
    let admitted = admit_to(q, service, pause).map_err(|denial| right::name(denial, &facts.right))?;
    right::check(&admitted, facts)?;
    Ok(Permit {
        basis: Basis::Capability(admitted),
    })
}

fn find_service<'a>(bundle: &'a Bundle, id: &ServiceId) -> Result<&'a Service, Denial> {
    bundle
        .service_with_id(id)
        .and_then(|index| bundle.service(index))
        .ok_or_else(|| Denial::new(Code::ServiceUnknown, "the service is not known here"))
}

/// Whether the service lets this very peer make this request without a capability.
fn exempts(service: &Service, peer: Option<&SpiffeId>, facts: &Facts) -> bool {
    match facts.right {
        Right::Exempt | Right::Scope(_) | Right::Call { .. } => {}
        Right::Tool { .. } | Right::Prompt { .. } | Right::Resources(_) | Right::Session | Right::ControlPlane => {
            return false;
        }
    }
    !http::has_destination(&facts.method)
        && service.exempt().iter().any(|exempt| {
            peer == Some(&exempt.peer)
                && exempt.method.as_str() == facts.method
                && exempt.path.captures(&facts.path).is_some()
        })
}

/// A token shown by another workload than the one that it was made for was stolen.
fn check_peer(peer: Option<&SpiffeId>, claims: &Claims) -> Result<(), Denial> {
    match peer {
        None => Err(Denial::new(Code::PeerMissing, "a capability counts only over mTLS")),
        Some(peer) if *peer == claims.sub => Ok(()),
        Some(_) => Err(Denial::new(Code::PeerMismatch, "`sub` is not the caller's identity")),
    }
}

fn find_agent<'a>(bundle: &'a Bundle, claims: &Claims) -> Result<Agent<'a>, Denial> {
    let agent = bundle
        .agent(claims.agent_id.as_str())
        .ok_or_else(|| Denial::new(Code::AgentUnknown, "the token's agent has no policy here"))?;
    if !agent.has_identity(&claims.sub) {
        return Err(Denial::new(
            Code::AgentIdentityMismatch,
            "the token's agent has another identity by policy",
        ));
    }
    Ok(agent)
}

/// Whether a call that was permitted may go on by another token once its own has expired: one of the same agent for the same
/// operation, that would permit this very call now. `claims` are what the policy server says of a token that it issued.
///
/// # Errors
///
/// The denial that the call would now meet by that token; `token_expired` if it is no successor of the call's own.
pub fn goes_on_by(q: &Question<'_>, claims: &Claims, facts: &Facts) -> Result<(), Denial> {
    let own = q.token.map(VerifiedToken::claims);
    let succeeds = own.is_some_and(|own| {
        (&own.sub, &own.agent_id, &own.operation_id) == (&claims.sub, &claims.agent_id, &claims.operation_id)
    });
    if !succeeds {
        return Err(Denial::new(
            Code::TokenExpired,
            "the other token is of another operation",
        ));
    }
    let successor = VerifiedToken::recorded(claims.clone());
    let q = Question {
        token: Some(&successor),
        ..*q
    };
    decide(&q, facts).map(drop)
}

mod right;
mod shadow;
mod standing;
mod told;

pub use shadow::{Shadowed, is_shadowed, may_wait};
pub use standing::{may_begin, may_begin_by, may_begin_tokenless, outlives, outlives_tokenless};
pub use told::{Told, tell};

#[cfg(test)]
mod tests;
