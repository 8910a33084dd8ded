//! The state list: which agents are not active, which tokens are dead; and who may move an agent from one state to
//! another ([`transition`]).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    identity::{AgentId, Issuer, Jti, KeyId},
    policy::{self, BundleKeys, PolicyError, Version},
    token::SKEW_SECONDS,
};

pub mod transition;

/// The `typ` of a state list.
pub const STATE_TYPE: &str = "agent-state+jwt";

/// What an agent may do at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentState {
    /// All that its token and policy allow.
    #[default]
    Active,
    /// Nothing until a person has looked.
    Paused,
    /// Nothing: its tokens are dead.
    Suspended,
    /// Nothing, ever, until an operator undoes it.
    Killed,
}

impl AgentState {
    /// The word in state lists, records and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Killed => "killed",
        }
    }

    /// Reads what [`Self::as_str`] writes.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Active, Self::Paused, Self::Suspended, Self::Killed]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

impl fmt::Display for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The payload of a state list (`typ: agent-state+jwt`), format 1; always complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateClaims {
    /// The format.
    pub format: u64,
    /// The policy server that signed it.
    pub iss: Issuer,
    /// The epoch of its version.
    pub epoch: u64,
    /// The counter of its version.
    pub version: u64,
    /// When it was signed, in seconds.
    pub issued_at: u64,
    /// Every agent that is not active.
    pub agents: BTreeMap<AgentId, AgentState>,
    /// Tokens of an agent issued before this time, in seconds, are dead.
    pub not_before: BTreeMap<AgentId, u64>,
    /// Revoked tokens and when they expire anyway.
    pub revoked: BTreeMap<Jti, u64>,
}

/// A state list as it came: nothing is known of it.
#[derive(Debug, Clone, Copy)]
pub struct RawStateList<'a>(&'a str);

/// A verified state list.
#[derive(Debug, Clone)]
pub struct StateList {
    /// None if nobody signed it.
    signed_by: Option<KeyId>,
    version: Version,
    issued_at: u64,
    agents: BTreeMap<AgentId, AgentState>,
    not_before: BTreeMap<AgentId, u64>,
    revoked: BTreeMap<Jti, u64>,
}

impl<'a> RawStateList<'a> {
    /// Takes the compact form; everything is checked by [`Self::verify`].
    #[must_use]
    pub fn new(compact: &'a str) -> Self {
        Self(compact)
    }

    /// Verifies the list at `now`; `held` is the version in use, if any.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn verify(self, keys: &BundleKeys, held: Option<Version>, now: u64) -> Result<StateList, PolicyError> {
        let (payload, signed_by) = keys.open(self.0, STATE_TYPE)?;
        let list = StateList::check(policy::read(&payload)?, held, now)?;
        Ok(StateList { signed_by, ..list })
    }
}

impl StateList {
    /// Indexes claims that this very process made, for decisions made offline; nothing vouches for them otherwise.
    ///
    /// # Errors
    ///
    /// [`PolicyError`], as for a signed list.
    pub fn from_own_claims(claims: StateClaims, now: u64) -> Result<Self, PolicyError> {
        Self::check(claims, None, now)
    }

    fn check(claims: StateClaims, held: Option<Version>, now: u64) -> Result<Self, PolicyError> {
        let version = Version {
            epoch: claims.epoch,
            counter: claims.version,
        };
        if let Some(held) = held.filter(|&held| version < held) {
            return Err(PolicyError::Older { offered: version, held });
        }
        if claims.issued_at > now.saturating_add(SKEW_SECONDS) {
            return Err(PolicyError::IssuedInFuture);
        }
        let StateClaims {
            format: _,
            iss: _,
            epoch: _,
            version: _,
            issued_at,
            agents,
            not_before,
            revoked,
        } = claims;
        Ok(Self {
            signed_by: None,
            version,
            issued_at,
            agents,
            not_before,
            revoked,
        })
    }

    /// The key that signed it; none if it was made by [`Self::from_own_claims`].
    #[must_use]
    pub fn key(&self) -> Option<&KeyId> {
        self.signed_by.as_ref()
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// When it was signed, in seconds.
    #[must_use]
    pub fn issued_at(&self) -> u64 {
        self.issued_at
    }

    /// How old it is: the larger of what the clock says and of the time since the poll that brought it was sent.
    ///
    /// The second is monotonic, so a clock that is set back cannot keep a stale list fresh.
    #[must_use]
    pub fn age_seconds(&self, now: u64, seconds_since_poll_sent: u64) -> u64 {
        now.saturating_sub(self.issued_at).max(seconds_since_poll_sent)
    }

    /// Whether it is at most `max_age` old, in seconds.
    #[must_use]
    pub fn fresh(&self, now: u64, seconds_since_poll_sent: u64, max_age: u64) -> bool {
        self.age_seconds(now, seconds_since_poll_sent) <= max_age
    }

    /// The state of an agent.
    #[must_use]
    pub fn agent_state(&self, agent: &AgentId) -> AgentState {
        self.agents.get(agent).copied().unwrap_or_default()
    }

    /// The time before which an agent's tokens must not have been issued.
    #[must_use]
    pub fn not_before(&self, agent: &AgentId) -> Option<u64> {
        self.not_before.get(agent).copied()
    }

    /// Whether a token was revoked.
    #[must_use]
    pub fn revoked(&self, jti: &Jti) -> bool {
        self.revoked.contains_key(jti)
    }
}

#[cfg(test)]
mod tests;
