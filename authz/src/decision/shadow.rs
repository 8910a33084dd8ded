//! Shadow mode: which denials do not keep a call from a service that its file puts in shadow, and of whom.
//!
//! Such a call goes on by a [`Permit`] that says what enforcing would have denied it for. What is let go is a right that policy
//! or token lack, once it is known what was asked for and which agent asks, and that it is active. That is asked here
//! anew, because the check that failed first may stand before it: an agent that is killed gains nothing by leaving its token
//! out.

use super::{Basis, Permit, Question, admit_to, available, check_peer, find_agent, find_service, standing};
use crate::claims::Claims;
use crate::decision::Pause;
use crate::denial::{Code, Denial};
use crate::identity::{AgentId, ServiceId};
use crate::policy::Service;
use crate::request::Facts;

/// Whether a service in shadow lets calls go on that meet this denial.
#[must_use]
pub const fn is_shadowed(code: Code) -> bool {
    match code {
        // What a grant, another token or a word with the agent's author would change.
        Code::TokenMissing
        | Code::TokenExpired
        | Code::AudienceMismatch
        | Code::ServiceNotReached
        | Code::ScopeNotGranted
        | Code::ScopeNotInPolicy
        | Code::OwnSegmentMismatch
        | Code::ToolForbidden
        | Code::ToolNotGranted
        | Code::ToolNotInPolicy
        | Code::PromptNotInPolicy
        | Code::ResourceNotInPolicy => true,
        // Two readers could read the request in two ways, or it cannot be read: nobody knows what would go on.
        Code::RequestMalformed
        | Code::HeaderDuplicate
        | Code::PathNotCanonical
        | Code::MethodOverrideRefused
        | Code::UpgradeRefused
        | Code::TokenInQuery
        | Code::McpMalformed
        | Code::McpBatch
        | Code::McpHeaderMismatch
        | Code::A2aMalformed
        | Code::A2aBatch
        | Code::A2aVersionRefused
        | Code::MethodNotAllowed
        | Code::BodyTooLarge
        | Code::MediaTypeRefused
        | Code::BodyEncoded => false,
        // The service's file does not say what the request needs: there are no facts to record.
        Code::ServiceUnknown
        | Code::HostUnknown
        | Code::RouteUnknown
        | Code::ToolNotOffered
        | Code::PromptNotOffered
        | Code::ResourceNotOffered
        | Code::McpMethodRefused
        | Code::A2aMethodRefused
        | Code::EndpointRefused
        | Code::DirectionUnknown => false,
        // A token that is forged, stolen or of a clock or an issuer that is wrong. No agent is without one by oversight.
        Code::TokenMalformed
        | Code::TokenAlgorithmRefused
        | Code::TokenTypeRefused
        | Code::TokenIssuerUnknown
        | Code::TokenKeyUnknown
        | Code::TokenSignatureInvalid
        | Code::TokenClaimsInvalid
        | Code::TokenNotYetValid
        | Code::TokenLifetimeExceeded
        | Code::PeerMismatch
        | Code::AgentIdentityMismatch => false,
        // Nobody knows whose call it is, and so not whether it is of an agent that was stopped.
        Code::PeerMissing | Code::AgentUnknown => false,
        // A person or the score has stopped the agent, or its token.
        Code::AgentPaused | Code::AgentSuspended | Code::AgentKilled | Code::TokenRevoked | Code::TokenSuperseded => {
            false
        }
        // What binds sessions, tasks and definitions protects other callers, and callers from the service.
        Code::SessionMismatch
        | Code::TaskMismatch
        | Code::McpTaskMismatch
        | Code::TaskRefused
        | Code::ToolDrifted
        | Code::ResponseWithheld => false,
        // The sidecar itself cannot decide or record.
        Code::InternalError | Code::PolicyUnavailable | Code::WorkloadMismatch | Code::RecordsUnavailable => false,
    }
}

/// Why a call would have been denied that goes on in shadow, and whose it is.
#[derive(Clone, Debug)]
pub struct Shadowed<'a> {
    pub(super) service: &'a Service,
    /// Of a token that was verified and is the peer's own.
    pub(super) claims: Option<&'a Claims>,
    agent: AgentId,
    denial: Denial,
}

impl Shadowed<'_> {
    /// What enforcing would have said.
    pub fn denial(&self) -> &Denial {
        &self.denial
    }

    /// The agent: that of its token or, without one, the one whose workload calls.
    pub fn agent_id(&self) -> &AgentId {
        &self.agent
    }
}

/// Whether a flaw of the token that was shown may wait for the decision, as [`Question::flaw`]; else it is the verdict.
#[must_use]
pub fn may_wait(flaw: &Denial, service: &Service) -> bool {
    service.is_in_shadow() && is_shadowed(flaw.code())
}

/// Turns a denial of a call into a permit, if the call may go on in shadow. Nothing else does.
pub(super) fn permit<'a>(q: &Question<'a>, facts: &Facts, denial: Denial) -> Result<Permit<'a>, Denial> {
    let service = facts.service.as_ref();
    let service = service.and_then(|id| find_service(q.bundle, id).ok());
    match service.and_then(|service| Some((service, caller(q, service, denial.code())?))) {
        Some((service, agent)) => Ok(Permit {
            basis: Basis::Shadow(Shadowed {
                service,
                claims: q.token.map(super::VerifiedToken::claims),
                agent,
                denial,
            }),
        }),
        None => Err(denial),
    }
}

/// Lets a request be read on to its body whose headers were denied, if the call may go on in shadow.
pub(super) fn admit(q: &Question<'_>, service: &ServiceId, denial: Denial) -> Result<(), Denial> {
    match find_service(q.bundle, service) {
        Ok(service) if caller(q, service, denial.code()).is_some() => Ok(()),
        Ok(_) | Err(_) => Err(denial),
    }
}

/// Whether the caller is told all that a service in shadow offers: as an agent in shadow, or as one that may call it.
pub(super) fn is_told_all(q: &Question<'_>, service: &Service) -> bool {
    match admit_to(q, service, Pause::Waits) {
        Ok(_) => service.is_in_shadow(),
        Err(denial) => caller(q, service, denial.code()).is_some(),
    }
}

/// The active agent whose call goes on; None if there is none, or if the denial stands.
fn caller(q: &Question<'_>, service: &Service, code: Code) -> Option<AgentId> {
    if !service.is_in_shadow() || !is_shadowed(code) {
        return None;
    }
    available(q).ok()?;
    match q.token {
        Some(token) => {
            let claims = token.claims();
            check_peer(q.peer, claims).ok()?;
            find_agent(q.bundle, claims).ok()?;
            standing::may_begin(q.state, claims).ok()?;
            Some(claims.agent_id.clone())
        }
        None => {
            let peer = q.peer?;
            let own = q.bundle.agents().filter(|agent| agent.has_identity(peer));
            let own: Option<Vec<AgentId>> = own.map(|agent| AgentId::parse(agent.id()).ok()).collect();
            let own = own?;
            let is_active = |agent: &AgentId| standing::check_agent(q.state.agent_state(agent)).is_ok();
            own.iter().all(is_active).then(|| own.first().cloned())?
        }
    }
}

#[cfg(test)]
mod tests;
