//! Signed policy that is kept for those who read the log later.

use std::sync::Arc;

use authz::log::policy::Kind;
use authz::policy::{PageTexts, Version};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A bundle or a state list as it was signed.
#[derive(Debug, Clone)]
pub struct SignedPolicy {
    /// Which of both.
    pub kind: Kind,
    /// Its version.
    pub version: Version,
    /// When it was signed, in seconds.
    pub signed_at: u64,
    /// The compact JWS.
    pub jws: Arc<str>,
    /// The pages that a bundle names.
    pub pages: Arc<PageTexts>,
    /// A record may name it already, so that it is never deleted.
    pub may_be_named: bool,
}

/// A compact JWS in parts, of which the `body` is the same in renewals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) header: String,
    pub(super) head: String,
    pub(super) body: String,
    pub(super) signature: String,
}

impl Parts {
    /// Takes a compact JWS apart; None if it is none whose payload is text.
    pub(super) fn of(kind: Kind, jws: &str) -> Option<Self> {
        let (signed, signature) = jws.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        // What comes after the versions and times. Within a string its quotes would be escaped.
        let rest = match kind {
            Kind::Bundle => ",\"max_state_age_seconds\":",
            Kind::State => ",\"agents\":",
        };
        let at = payload.find(rest).unwrap_or(payload.len());
        let (head, body) = payload.split_at_checked(at)?;
        let parts = Self {
            header: header.to_owned(),
            head: head.to_owned(),
            body: body.to_owned(),
            signature: signature.to_owned(),
        };
        (parts.join() == jws).then_some(parts)
    }

    /// Puts it together again.
    pub(super) fn join(&self) -> String {
        let payload = URL_SAFE_NO_PAD.encode([self.head.as_bytes(), self.body.as_bytes()].concat());
        format!("{}.{payload}.{}", self.header, self.signature)
    }
}
