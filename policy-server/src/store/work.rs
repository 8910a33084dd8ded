//! What is stored of work that was ended: one operation, or one user request.

use super::IssuedToken;

/// Tokens that the state list may name as revoked before work can no longer be ended one by one: the list goes to every
/// sidecar each time, and one that is too long is refused by all of them.
pub const MOST_LISTED: u64 = 20_000;

/// What a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// A declared operation: a name that may come again tomorrow.
    Operation(String),
    /// One user request.
    Txn(String),
}

impl Work {
    /// The word in the database and in answers.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Operation(_) => "operation",
            Self::Txn(_) => "txn",
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Operation(name) | Self::Txn(name) => name,
        }
    }
}

/// Work that somebody ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndWork {
    /// The work.
    pub work: Work,
    /// Who asks.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, in seconds.
    pub at: u64,
    /// Until when no token is issued for it, in seconds; for ever, if there is no such time.
    pub refused_until: Option<u64>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkEnded {
    /// It is stored, and so many of its tokens were alive; the last would have expired then.
    Ended {
        /// How many.
        tokens: u64,
        /// In seconds.
        last_expires_at: Option<u64>,
    },
    /// Nothing is stored: with its tokens the state list would name more than [`MOST_LISTED`].
    TooMany {
        /// How many of its tokens are alive.
        tokens: u64,
    },
}

/// A token that this server issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownToken {
    /// What was recorded of it.
    pub issued: IssuedToken,
    /// Whether it was revoked.
    pub revoked: bool,
}
