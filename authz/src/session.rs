//! Ids of MCP sessions, sealed to whoever opened them.
//!
//! Before 2026-07-28 a server knows its session by an id alone (`Mcp-Session-Id`): whoever shows the id goes on with the
//! session, reads its streams and ends it. So the service's sidecar puts a seal before each id that the service gives, and
//! takes it off again only for the same caller: the same workload, agent and operation. An id without the caller's seal
//! opens nothing, be it another's, guessed or known from a log.
//!
//! Nothing is remembered. Any worker, VM or replica opens what another has sealed, by keys that the policy server tells
//! the service's workload alone, in its signed bundle. An answer of the policy server to the record of the call that opened
//! the session would not do: a client goes on with an id as soon as it has it, on another replica perhaps and before that
//! record is stored; and no session would outlive an outage.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::claims::Claims;
use crate::identity::ServiceId;

/// The header that carries the id of a session.
pub const SESSION_HEADER: &str = "mcp-session-id";

/// The longest id of a session that is sealed, in bytes.
pub const MAX_SESSION_ID_BYTES: usize = 1024;

/// The most keys that a bundle may hold.
pub const MAX_SESSION_KEYS: usize = 8;

/// Keeps these seals apart from all else that is made with a key.
const DOMAIN: &[u8] = b"ostiary mcp session 1";

/// Half of HMAC-SHA-256, the least that RFC 2104, section 5, lets stand for the whole.
const SEAL_BYTES: usize = 16;

/// [`SEAL_BYTES`] in base64url.
const SEAL_CHARS: usize = 22;

/// A key that seals ids of sessions: 32 bytes, written as base64url without padding. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionKey([u8; 32]);

/// Not 32 bytes in base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key of sessions is 32 bytes in base64url")]
pub struct SessionKeyError;

impl SessionKey {
    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn mac(&self, holder: &Holder<'_>, id: &str) -> Option<Hmac<Sha256>> {
        // INVARIANT: HMAC takes a key of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(DOMAIN);
        let Holder { service, claims } = holder;
        for part in [
            service.as_str(),
            claims.sub.as_str(),
            claims.agent_id.as_str(),
            claims.operation_id.as_str(),
            id,
        ] {
            // Lengths keep a part from lending letters to the next.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part.as_bytes());
        }
        Some(mac)
    }
}

impl TryFrom<String> for SessionKey {
    type Error = SessionKeyError;

    fn try_from(text: String) -> Result<Self, SessionKeyError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SessionKeyError)?;
        bytes.try_into().map(Self).map_err(|_| SessionKeyError)
    }
}

impl From<SessionKey> for String {
    fn from(key: SessionKey) -> Self {
        URL_SAFE_NO_PAD.encode(key.0)
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// Whose a session is: a service's, with the agent that the claims name, in the operation that they name.
///
/// INVARIANT: the claims are of a verified token, and a decision has found `sub` to be the mTLS peer.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The service that gave the id.
    pub service: &'a ServiceId,
    /// The caller.
    pub claims: &'a Claims,
}

/// The keys of one workload's sessions: the first seals, every one opens, so that they change with overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionKeys(Box<[SessionKey]>);

impl SessionKeys {
    /// Takes the keys of a bundle, at most [`MAX_SESSION_KEYS`]; none are the keys of a server that knows of no sessions.
    #[must_use]
    pub fn new(keys: &[SessionKey]) -> Option<Self> {
        (keys.len() <= MAX_SESSION_KEYS).then(|| Self(keys.into()))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The id as its holder is to know it: visible ASCII, 23 bytes longer. None if it is no id of a session, which is 1 to
    /// [`MAX_SESSION_ID_BYTES`] bytes of visible ASCII (MCP 2025-11-25, session management).
    #[must_use]
    pub fn seal(&self, holder: &Holder<'_>, id: &[u8]) -> Option<String> {
        let id = session_id(id)?;
        let seal = self.0.first()?.mac(holder, id)?.finalize().into_bytes();
        Some(format!("{}.{id}", URL_SAFE_NO_PAD.encode(seal.get(..SEAL_BYTES)?)))
    }

    /// The id as the service gave it; None unless it was sealed for this very holder.
    #[must_use]
    pub fn open<'i>(&self, holder: &Holder<'_>, sealed: &'i [u8]) -> Option<&'i str> {
        let (seal, rest) = sealed.split_at_checked(SEAL_CHARS)?;
        let id = session_id(rest.strip_prefix(b".")?)?;
        let mut seal_bytes = [0; SEAL_BYTES];
        let read = URL_SAFE_NO_PAD.decode_slice(seal, &mut seal_bytes).ok()?;
        let mut keys = self.0.iter();
        let is_of = |key: &SessionKey| {
            key.mac(holder, id)
                .is_some_and(|mac| mac.verify_truncated_left(&seal_bytes).is_ok())
        };
        (read == SEAL_BYTES && keys.any(is_of)).then_some(id)
    }
}

fn session_id(id: &[u8]) -> Option<&str> {
    let fits = (1..=MAX_SESSION_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    std::str::from_utf8(id).ok().filter(|_| fits)
}

#[cfg(test)]
mod tests;
