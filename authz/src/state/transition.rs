//! Who may move an agent from one state to another: one table, and what each move does to tokens.
//!
//! Trust is taken away by whoever notices first, and given back by people alone: every row that ends in
//! [`AgentState::Active`] is a person's. Whether a caller is a person, and not an agent, is for the adapter to say.

use std::fmt;
use std::str::FromStr;

use super::AgentState;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// A person has looked at a paused agent and lets it go on.
    Approve,
    /// Nothing until a person has looked.
    Pause,
    /// A person takes back a suspension or a kill.
    Resume,
    /// Nothing, and its tokens are dead.
    Suspend,
    /// The switch.
    Kill,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The score crossed a threshold.
    RiskEngine,
    /// A person who looks at paused agents.
    Reviewer,
    /// A person who runs the mesh.
    Operator,
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state that the agent is in.
    pub from: AgentState,
    /// What is asked for.
    pub change: Change,
    /// The state that it is in then.
    pub to: AgentState,
    /// Who may ask.
    pub by: &'static [Role],
    /// Whether every token that the agent has is dead from then on, whatever becomes of its state.
    pub resets_tokens: bool,
}

/// Why an agent's state stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The table has no such row.
    #[error("an agent that is {from} cannot be {}", .change.done())]
    Impossible {
        /// The state that it is in.
        from: AgentState,
        /// What was asked for.
        change: Change,
    },
    /// It has one, but not for whom it was asked.
    #[error("only {} may {change} an agent that is {from}", Names(.by))]
    NotAllowed {
        /// The state that it is in.
        from: AgentState,
        /// What was asked for.
        change: Change,
        /// Who may.
        by: &'static [Role],
    },
}

/// What becomes of a change that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The agent moves.
    Moves(&'static Transition, Role),
    /// It is in that state already: asking again is no mistake, since an answer may have been lost.
    Already,
}

const ANYBODY: &[Role] = &[Role::RiskEngine, Role::Reviewer, Role::Operator];
const PEOPLE: &[Role] = &[Role::Reviewer, Role::Operator];
const OPERATORS: &[Role] = &[Role::Operator];
/// A reviewer judges what is paused, and takes no agent out of service that nobody has paused.
const ENGINE_OR_OPERATOR: &[Role] = &[Role::RiskEngine, Role::Operator];

const fn row(from: AgentState, change: Change, to: AgentState, by: &'static [Role], resets_tokens: bool) -> Transition {
    Transition {
        from,
        change,
        to,
        by,
        resets_tokens,
    }
}

/// Every move that there is. What is not here does not happen.
pub const TABLE: &[Transition] = {
    use AgentState::{Active, Killed, Paused, Suspended};
    use Change::{Approve, Kill, Pause, Resume, Suspend};
    &[
        row(Active, Pause, Paused, ANYBODY, false),
        row(Active, Suspend, Suspended, ENGINE_OR_OPERATOR, true),
        row(Active, Kill, Killed, OPERATORS, true),
        row(Paused, Approve, Active, PEOPLE, false),
        row(Paused, Suspend, Suspended, ANYBODY, true),
        row(Paused, Kill, Killed, OPERATORS, true),
        row(Suspended, Resume, Active, OPERATORS, true),
        row(Suspended, Kill, Killed, OPERATORS, true),
        row(Killed, Resume, Active, OPERATORS, true),
    ]
};

/// Looks a change up for an agent that is in `from`, asked for by somebody who has `roles`.
///
/// # Errors
///
/// [`TransitionError`]; nothing is to be changed then.
pub fn look_up(from: AgentState, change: Change, roles: &[Role]) -> Result<Outcome, TransitionError> {
    let Some(found) = TABLE.iter().find(|row| row.from == from && row.change == change) else {
        let target = TABLE.iter().find(|row| row.change == change);
        return match target {
            Some(row) if row.to == from && !roles.is_empty() => Ok(Outcome::Already),
            _ => Err(TransitionError::Impossible { from, change }),
        };
    };
    match roles.iter().find(|role| found.by.contains(role)) {
        Some(&role) => Ok(Outcome::Moves(found, role)),
        None => Err(TransitionError::NotAllowed {
            from,
            change,
            by: found.by,
        }),
    }
}

/// The second before which an agent's tokens are dead, if they are reset at `now`: the next one, so that those issued in
/// this very second die with the others.
#[must_use]
pub fn not_before(now: u64) -> u64 {
    now.saturating_add(1)
}

impl Change {
    /// Every change.
    pub const ALL: [Self; 5] = [Self::Approve, Self::Pause, Self::Resume, Self::Suspend, Self::Kill];

    /// The word in paths, commands and the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Suspend => "suspend",
            Self::Kill => "kill",
        }
    }

    /// What the agent then is said to have been.
    #[must_use]
    pub const fn done(self) -> &'static str {
        match self {
            Self::Approve => "approved",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Suspend => "suspended",
            Self::Kill => "killed",
        }
    }

    /// Whether it can only take away: such a change is safe whoever the agent is.
    #[must_use]
    pub const fn takes_away(self) -> bool {
        !matches!(self, Self::Approve | Self::Resume)
    }
}

impl Role {
    /// The word in the database and in messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RiskEngine => "risk-engine",
            Self::Reviewer => "reviewer",
            Self::Operator => "operator",
        }
    }
}

/// A word that names no change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no change: write approve, pause, resume, suspend or kill")]
pub struct UnknownChangeError(String);

impl FromStr for Change {
    type Err = UnknownChangeError;

    fn from_str(word: &str) -> Result<Self, UnknownChangeError> {
        let found = Self::ALL.into_iter().find(|change| change.as_str() == word);
        found.ok_or_else(|| UnknownChangeError(word.to_owned()))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Roles, as a sentence lists them.
struct Names<'a>(&'a [Role]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, role) in self.0.iter().enumerate() {
            match index {
                0 => {}
                _ if index + 1 == self.0.len() => f.write_str(" or ")?,
                _ => f.write_str(", ")?,
            }
            match role {
                Role::RiskEngine => f.write_str("the risk engine")?,
                Role::Reviewer => f.write_str("a reviewer")?,
                Role::Operator => f.write_str("an operator")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
