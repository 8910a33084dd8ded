//! The signing keys: one kind for tokens, one for bundles and state lists, and how they take turns.
//!
//! The kinds are kept apart because filters are told different things by them: bundle keys are a filter's root of trust
//! and stand in its configuration; token keys are named inside bundles and can change without touching a sidecar.
//!
//! Private halves are files ([`folder`]); which of them signs is in the database, so that it survives a crash at any
//! moment and no file's name decides it ([`ring`]). A key is `next` while sidecars learn it, then signs, then retires
//! until nothing that it signed can be alive ([`rotation`]). Whether sidecars have learnt it they say themselves
//! ([`sources`]).
//!
//! INVARIANT: at most one key of a kind is next and exactly one signs; the database refuses anything else.

pub mod folder;
pub mod known;
pub mod ring;
pub mod rotation;
pub mod sources;

use std::path::PathBuf;

use authz::identity::KeyId;
use authz::jwks::JwkError;
use serde::{Deserialize, Serialize};

use crate::signer::SignerError;
use crate::store::StoreError;

/// What a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// Capability tokens
    Token,
    /// Bundles and state lists
    Bundle,
}

impl KeyKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Token, Self::Bundle];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Bundle => "bundle",
        }
    }

    /// Reads the word for it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl std::fmt::Display for KeyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a key is for at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// It will sign once sidecars know it; it is published for that.
    Next,
    /// It signs.
    Signing,
    /// It signs no more; it is published while what it signed may be alive.
    Retiring,
    /// Its time is over.
    Retired,
}

impl KeyState {
    const ALL: [Self; 4] = [Self::Next, Self::Signing, Self::Retiring, Self::Retired];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Next => "next",
            Self::Signing => "signing",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
        }
    }

    /// Reads the word for it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether verifiers are told of keys in this state.
    pub fn is_published(self) -> bool {
        self != Self::Retired
    }
}

/// Why keys cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A key file cannot be used.
    #[error(transparent)]
    Signer(#[from] SignerError),
    /// The folder cannot be read.
    #[error("cannot read the folder of keys `{}`: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// There is no key of a kind, and it is not for the server to make one.
    #[error("there is no {kind} key in `{}`: make one with `ostiary keys generate {kind} --out DIR`", path.display())]
    None {
        /// The kind.
        kind: KeyKind,
        /// The folder.
        path: PathBuf,
    },
    /// There are several keys of a kind, and nothing says which one signs.
    #[error("`{}` holds several {kind} keys and the database does not say which one signs: leave that one alone there, and add the others once the server has started", path.display())]
    Ambiguous {
        /// The kind.
        kind: KeyKind,
        /// The folder.
        path: PathBuf,
    },
    /// The key that signs has no file.
    #[error("the {kind} key {kid}, which signs, is not in `{}`: put it back. If it is lost, leave exactly one other {kind} key there: that one signs then", path.display())]
    Lost {
        /// The kind.
        kind: KeyKind,
        /// The key.
        kid: KeyId,
        /// The folder.
        path: PathBuf,
    },
    /// The key that is to sign next has no file.
    #[error("the {kind} key {kid}, which is next, is not in `{}`: put it back, or retire it to take another", path.display())]
    NextLost {
        /// The kind.
        kind: KeyKind,
        /// The key.
        kid: KeyId,
        /// The folder.
        path: PathBuf,
    },
    /// No such key was ever used here.
    #[error("no key has the id `{0}`")]
    Unknown(KeyId),
    /// The keys make no key set.
    #[error("the token keys make no key set: {0}")]
    Jwk(#[from] JwkError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
