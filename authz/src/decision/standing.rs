//! How agent and token stand: whether a call may begin, and whether one that was permitted may go on.

use crate::audit::AgentStanding;
use crate::claims::Claims;
use crate::denial::{Code, Denial};
use crate::identity::AgentId;
use crate::state::{AgentState, StateList};

/// Whether a call that was permitted may go on when the state list has changed meanwhile. A suspension, a kill or the
/// death of its token ends it; a pause does not: that is for a person to judge, and new calls wait for it.
///
/// # Errors
///
/// The denial that it would now meet.
pub fn outlives(state: &StateList, claims: &Claims) -> Result<(), Denial> {
    match state.agent_state(&claims.agent_id) {
        AgentState::Paused => check_token_alive(state, claims),
        AgentState::Active | AgentState::Suspended | AgentState::Killed => may_begin(state, claims),
    }
}

/// Whether a call that waited for its record may begin now, by the list that is in force now. A pause stops it too: it has not
/// begun.
///
/// # Errors
///
/// The denial that it would now meet.
pub fn may_begin(state: &StateList, claims: &Claims) -> Result<(), Denial> {
    check_agent(state.agent_state(&claims.agent_id))?;
    check_token_alive(state, claims)
}

/// The same by what the policy server answered to the call's own record, which may be newer than any list.
///
/// # Errors
///
/// The denial that it would now meet; `records_unavailable` if the answer is of another agent or cannot be read.
pub fn may_begin_by(answer: &AgentStanding, claims: &Claims) -> Result<(), Denial> {
    let unreadable = || {
        Denial::new(
            Code::RecordsUnavailable,
            "the answer to the audit record cannot be read",
        )
    };
    if answer.id != claims.agent_id.as_str() {
        return Err(unreadable());
    }
    check_agent(AgentState::parse(&answer.state).ok_or_else(unreadable)?)?;
    check_not_before(answer.not_before, claims)
}

/// As [`outlives`], of a call that goes on without a token.
///
/// # Errors
///
/// The denial that it would now meet.
pub fn outlives_tokenless(state: &StateList, agent: &AgentId) -> Result<(), Denial> {
    match state.agent_state(agent) {
        AgentState::Paused => Ok(()),
        state @ (AgentState::Active | AgentState::Suspended | AgentState::Killed) => check_agent(state),
    }
}

/// As [`may_begin`], of a call that goes on without a token.
///
/// # Errors
///
/// The denial that it would now meet.
pub fn may_begin_tokenless(state: &StateList, agent: &AgentId) -> Result<(), Denial> {
    check_agent(state.agent_state(agent))
}

pub(super) fn check_agent(state: AgentState) -> Result<(), Denial> {
    match state {
        AgentState::Active => Ok(()),
        AgentState::Paused => Err(Denial::new(Code::AgentPaused, "a person must review the agent first")),
        AgentState::Suspended => Err(Denial::new(Code::AgentSuspended, "the agent's tokens are dead")),
        AgentState::Killed => Err(Denial::new(Code::AgentKilled, "the agent's tokens are dead")),
    }
}

fn check_not_before(not_before: Option<u64>, claims: &Claims) -> Result<(), Denial> {
    if not_before.is_some_and(|not_before| claims.iat < not_before) {
        return Err(Denial::new(Code::TokenSuperseded, "ask for a new token"));
    }
    Ok(())
}

fn check_token_alive(state: &StateList, claims: &Claims) -> Result<(), Denial> {
    check_not_before(state.not_before(&claims.agent_id), claims)?;
    if state.revoked(&claims.jti) {
        return Err(Denial::new(Code::TokenRevoked, "ask for a new token"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
