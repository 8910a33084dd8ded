//! What is stored of agents' states: the changes, who made them, and why.

use authz::identity::{AgentId, Jti};
use authz::state::AgentState;
use authz::state::transition::{Change, Role};

/// A change that somebody asks for; whether it happens, the table of `authz` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AskedChange {
    /// The agent.
    pub agent: AgentId,
    /// What is asked for.
    pub change: Change,
    /// What the asker may be.
    pub roles: Vec<Role>,
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, in seconds.
    pub at: u64,
}

/// A change that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentChange {
    /// Its place among all changes, rising.
    pub number: u64,
    /// The agent.
    pub agent: AgentId,
    /// What was asked for.
    pub change: Change,
    /// The state before.
    pub from: AgentState,
    /// The state from then on.
    pub to: AgentState,
    /// The role that allowed it.
    pub role: String,
    /// Who asked.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, in seconds.
    pub at: u64,
    /// Tokens of the agent that were issued before this second died with it.
    pub not_before: Option<u64>,
}

/// What became of a change that the table allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// It is stored, and in force with the next state list.
    Changed(AgentChange),
    /// The agent was in that state already; nothing was stored.
    Already(AgentState),
}

/// A token that somebody revokes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The token.
    pub jti: Jti,
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, in seconds.
    pub at: u64,
    /// When a token expires at the latest that this server did not issue, in seconds.
    pub latest_expiry: u64,
}

/// A token that is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Whose it is, if this server issued it.
    pub agent_id: Option<String>,
    /// Until when it is listed, in seconds: then it is dead by itself.
    pub expires_at: u64,
}
