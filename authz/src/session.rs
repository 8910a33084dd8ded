//! Ids of MCP's sessions and tasks, and of A2A's tasks and contexts, sealed to whoever opened them.
//!
//! Before 2026-07-28 a server knows its session by an id alone (`Mcp-Session-Id`): whoever shows the id goes on with the
//! session, reads its streams and ends it. So the service's sidecar puts a seal before each id that the service gives, and
//! takes it off again only for the same caller: the same workload, agent and operation. An id without the caller's seal
//! opens nothing, be it another's, guessed or known from a log.
//!
//! Nothing is remembered. Any worker, VM or replica opens what another has sealed, by keys that the policy server tells
//! the service's workload alone, in its signed bundle. An answer of the policy server to the record of the call that opened
//! the session would not do: a client goes on with an id as soon as it has it, on another replica perhaps and before that
//! record is stored; and no session would outlive an outage. It is the same with tasks ([`crate::protocol::tasks`]).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::claims::Claims;
use crate::denial::{Code, Denial};
use crate::identity::ServiceId;
use crate::policy::{Bundle, Protocol, Service, Tasks};
use crate::request::Side;

/// The header that carries the id of a session.
pub const SESSION_HEADER: &str = "mcp-session-id";

/// The longest id of a session that is sealed, in bytes.
pub const MAX_SESSION_ID_BYTES: usize = 1024;

/// The longest id of a task or context that is sealed, in bytes; real ones are UUIDs.
pub const MAX_TASK_ID_BYTES: usize = 200;

/// The most keys that a bundle may hold.
pub const MAX_SESSION_KEYS: usize = 8;

/// What an id names. One that was sealed for one thing opens no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealed {
    /// A session of MCP.
    Session,
    /// A task of MCP.
    McpTask,
    /// A task of A2A.
    Task,
    /// A context of A2A, which holds several tasks.
    Context,
}

impl Sealed {
    /// Keeps these seals apart from each other, and from all else that is made with a key.
    const fn domain(self) -> &'static [u8] {
        match self {
            Self::Session => b"ostiary mcp session 1",
            Self::McpTask => b"ostiary mcp task 1",
            Self::Task => b"ostiary a2a task 1",
            Self::Context => b"ostiary a2a context 1",
        }
    }

    /// Whether it is an id that is sealed and opened: of a session 1 to [`MAX_SESSION_ID_BYTES`] bytes of visible ASCII (MCP
    /// 2025-11-25, session management); of the others fewer, of the letters that stand for themselves in a path (RFC 3986), a header and JSON.
    fn is_id(self, id: &[u8]) -> bool {
        let (longest, letter): (_, fn(&u8) -> bool) = match self {
            Self::Session => (MAX_SESSION_ID_BYTES, u8::is_ascii_graphic),
            Self::McpTask | Self::Task | Self::Context => (MAX_TASK_ID_BYTES, is_unreserved),
        };
        (1..=longest).contains(&id.len()) && id.iter().all(letter)
    }
}

fn is_unreserved(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

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

    fn mac(&self, what: Sealed, holder: &Holder<'_>, id: &str) -> Option<Hmac<Sha256>> {
        // INVARIANT: HMAC takes a key of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(what.domain());
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

/// Whose a session, task or context is: a service's, with the agent that the claims name, in the operation that they name.
///
/// INVARIANT: the claims are of a verified token, and a decision has found `sub` to be the mTLS peer.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The service that gave the id.
    pub service: &'a ServiceId,
    /// The caller.
    pub claims: &'a Claims,
}

/// The keys of one workload's sessions, tasks and contexts: the first seals, every one opens, so that they change with overlap.
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

    /// The id as its holder is to know it: visible ASCII, 23 bytes longer. None if it is no id of what is sealed.
    #[must_use]
    pub fn seal(&self, what: Sealed, holder: &Holder<'_>, id: &[u8]) -> Option<String> {
        let id = text(what, id)?;
        let seal = self.0.first()?.mac(what, holder, id)?.finalize().into_bytes();
        Some(format!("{}.{id}", URL_SAFE_NO_PAD.encode(seal.get(..SEAL_BYTES)?)))
    }

    /// The id as the service gave it; None unless it was sealed for this very holder.
    #[must_use]
    pub fn open<'i>(&self, what: Sealed, holder: &Holder<'_>, sealed: &'i [u8]) -> Option<&'i str> {
        let (seal, rest) = sealed.split_at_checked(SEAL_CHARS)?;
        let id = text(what, rest.strip_prefix(b".")?)?;
        let mut seal_bytes = [0; SEAL_BYTES];
        let read = URL_SAFE_NO_PAD.decode_slice(seal, &mut seal_bytes).ok()?;
        let mut keys = self.0.iter();
        let is_of = |key: &SessionKey| {
            key.mac(what, holder, id)
                .is_some_and(|mac| mac.verify_truncated_left(&seal_bytes).is_ok())
        };
        (read == SEAL_BYTES && keys.any(is_of)).then_some(id)
    }
}

/// The keys by which a service's sessions are bound on this side. None where ids go on as they come: at the caller, which
/// has no key, under a policy server that tells none, and where there are no sessions.
#[must_use]
pub fn binding<'b>(bundle: &'b Bundle, service: &Service, side: Side) -> Option<&'b SessionKeys> {
    let keys = bundle.session_keys();
    (side == Side::Inbound && service.protocol() == Protocol::Mcp && !keys.is_empty()).then_some(keys)
}

/// The same for tasks and contexts, which are bound where the service's file says so. There may be no key, which opens none.
#[must_use]
pub fn task_binding<'b>(bundle: &'b Bundle, service: &Service, side: Side) -> Option<&'b SessionKeys> {
    (side == Side::Inbound && service.tasks() == Tasks::Bound).then(|| bundle.session_keys())
}

/// The id as the service gave it, which is what goes on, if the caller shows one and it is bound here.
///
/// # Errors
///
/// `session_mismatch` unless it was sealed for this holder; without a capability there is none.
pub fn opened<'i>(
    keys: Option<&SessionKeys>,
    holder: Option<&Holder<'_>>,
    shown: Option<&'i [u8]>,
) -> Result<Option<&'i str>, Denial> {
    let (Some(keys), Some(sealed)) = (keys, shown) else {
        return Ok(None);
    };
    let id = holder.and_then(|holder| keys.open(Sealed::Session, holder, sealed));
    id.map(Some).ok_or_else(|| {
        Denial::new(
            Code::SessionMismatch,
            "this caller has no session of this id in this operation: open one",
        )
    })
}

fn text(what: Sealed, id: &[u8]) -> Option<&str> {
    std::str::from_utf8(id).ok().filter(|_| what.is_id(id))
}

#[cfg(test)]
mod tests;
