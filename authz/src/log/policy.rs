//! The policy that records name: bundles and state lists as sidecars were told them, long after they were in force.
//!
//! Each is signed by a bundle key, and whoever reads the log trusts the log's key alone. So the log's key vouches for the
//! bundle keys, by a signed note that lists them. Its first line is no log's name and its second no number, so that it is
//! never taken for a checkpoint.

use std::fmt::{self, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::note::{self, NoteError, NoteKey};
use crate::identity::KeyId;
use crate::jwks::{Jwk, Jwks, MAX_KEYS, PublicKey};
use crate::policy::{BundleHead, BundleKeys, PolicyError, RawBundle, Version};
use crate::state::{RawStateList, StateList};

/// What the note begins with.
const TITLE: &str = "ostiary.dev/policy-keys/v1";

/// A kind of signed policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A workload's bundle.
    Bundle,
    /// The mesh's state list.
    State,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bundle, Self::State];

    /// The word in exports and paths.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bundle => "bundle",
            Self::State => "state",
        }
    }

    /// Reads what [`Self::as_str`] writes.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bundle => "bundle",
            Self::State => "state list",
        })
    }
}

/// The text of the note: the log's name, and a line a key with its id and its material. Of more than 64 keys, the first.
#[must_use]
pub fn keys_text<'k>(origin: &str, keys: impl IntoIterator<Item = &'k Jwk>) -> String {
    let mut text = format!("{TITLE}\n{origin}\n");
    let lines = keys.into_iter().filter_map(|key| match key.key() {
        PublicKey::Ed25519(material) => Some((key.kid(), URL_SAFE_NO_PAD.encode(material))),
        PublicKey::P256 { .. } | PublicKey::Rsa { .. } => None,
    });
    for (kid, material) in lines.take(MAX_KEYS) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {material}", kid.as_str());
    }
    text
}

/// The keys that may have signed what is kept.
#[derive(Clone, Debug)]
pub struct PolicyKeys(BundleKeys);

impl PolicyKeys {
    /// Reads the note of a log, which one of its keys must have signed.
    ///
    /// # Errors
    ///
    /// [`NoteError`].
    pub fn verify(note: &str, keys: &[NoteKey], origin: &str) -> Result<Self, NoteError> {
        let signed = note::verify(note, keys)?;
        if signed.key.name() != origin {
            return Err(NoteError::Origin);
        }
        read(signed.text, origin).ok_or(NoteError::PolicyKeys)
    }

    /// Reads the note whoever signed it, for somebody who has been told elsewhere that the file is the log's.
    #[must_use]
    pub fn unverified(note: &str, origin: &str) -> Option<Self> {
        let at = note.rfind("\n\n")?;
        read(note.get(..=at)?, origin)
    }

    /// Verifies a bundle's signature, and gives what it says of itself.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn bundle(&self, compact: &str) -> Result<BundleHead, PolicyError> {
        RawBundle::new(compact).head(&self.0)
    }

    /// Verifies a state list.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn state(&self, compact: &str) -> Result<StateList, PolicyError> {
        // It was in force once; how old it was for whom is in no record.
        RawStateList::new(compact).verify(&self.0, None, u64::MAX)
    }

    /// The keys themselves.
    pub(crate) fn keys(&self) -> &BundleKeys {
        &self.0
    }
}

/// Reads what [`keys_text`] writes.
fn read(text: &str, origin: &str) -> Option<PolicyKeys> {
    let lines = text.strip_prefix(TITLE)?.strip_prefix('\n')?;
    let lines = lines.strip_prefix(origin)?.strip_prefix('\n')?;
    let keys = lines.lines().map(|line| {
        let (kid, material) = line.split_once(' ')?;
        let material = URL_SAFE_NO_PAD.decode(material).ok()?.try_into().ok()?;
        Jwk::new(KeyId::parse(kid).ok()?, PublicKey::Ed25519(material)).ok()
    });
    let keys = Jwks::new(keys.collect::<Option<_>>()?).ok()?;
    (keys_text(origin, keys.keys()) == text).then(|| PolicyKeys(BundleKeys::of_log(keys)))
}

/// The versions of bundle and state list that a record names, as far as they can be read: what a record says of itself
/// was never more than its sidecar's word.
pub fn named(record: &crate::audit::Record<'_>) -> impl Iterator<Item = (Kind, Version)> {
    let read = |kind, text: Option<&str>| Some((kind, Version::parse(text?).ok()?));
    let bundle = read(Kind::Bundle, record.bundle.as_deref());
    let state = read(Kind::State, record.state.as_deref());
    bundle.into_iter().chain(state)
}
