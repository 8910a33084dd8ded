//! The policy bundle: what one workload is told about services, agents and issuers.
//!
//! [`RawBundle`] is what came in; only its verification gives a [`Bundle`], which is indexed for the questions that a
//! request asks and holds nothing that was not checked: a signed bundle with one bad route is refused whole. Between the
//! two stands a [`PendingBundle`], whose signature is good and whose pages of agents may still have to come.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    identity::{KeyId, SpiffeId},
    jwks::Jwks,
    jws::{CompactJws, JwsError, MAX_POLICY_BYTES, NoExternal},
    order,
};

mod bundle;
pub(crate) mod check;
pub(crate) mod fault;
mod page;
mod paged;
mod pages;
mod pending;
mod route;
mod service;
mod wire;

pub use bundle::{Bundle, MAX_STATE_AGE_SECONDS, MAX_TOKEN_TTL_SECONDS, PolicyServer};
pub use fault::{ContentError, Fault, MAX_BODY_LIMIT_BYTES};
pub use page::Agent;
pub use paged::{MAX_PAGES_ANSWER_BYTES, MAX_PAGES_ASKED, PageTexts, PagedClaims};
pub use pages::{MAX_AGENTS, MAX_PAGE_BYTES, MAX_PAGES, PageDigest};
pub use pending::PendingBundle;
pub use route::{Captures, PathTemplate, PathTemplateError, QueryCapture, Route};
pub use service::{
    CalledAgent, Exempt, ExpiryMode, HeaderName, Method, Mode, PauseMode, Protocol, RecordMode, ResourceRule, Service,
    ServiceIndex, Tasks, ToolRule,
};
pub(crate) use wire::read;
pub use wire::{
    AgentClaims, BundleClaims, ExemptClaims, IssuerClaims, PolicyServerClaims, RouteClaims, ServiceClaims, ToolClaims,
};

/// The `typ` of a policy bundle.
pub const BUNDLE_TYPE: &str = "policy-bundle+jwt";

/// The format of state lists, and of bundles that hold their agents themselves.
pub const FORMAT: u64 = 1;

/// The format of bundles whose agents come in pages, beside them.
pub const PAGED_FORMAT: u64 = 2;

/// The format of paged bundles that may list prompts, resources and routes with a query, and services whose calls wait for
/// their records.
///
/// A reader of this version takes them from any format; a server sends them in this one only, because filters before it
/// refuse a bundle with members that they do not know.
pub const NAMED_FORMAT: u64 = 3;

/// The format of paged bundles that may list services of agents (`a2a`), which filters before it know no protocol of.
pub const CALLS_FORMAT: u64 = 4;

/// The format of paged bundles that may hold keys of sessions, and pin definitions of tools.
pub const BOUND_FORMAT: u64 = 5;

/// The version of a bundle or a state list: only ever rises, within an epoch that only ever rises.
///
/// Written `EPOCH.COUNTER`. A restored database takes a new epoch, so that it cannot repeat counters that were used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The epoch.
    pub epoch: u64,
    /// The counter within the epoch.
    pub counter: u64,
}

/// The text is not `EPOCH.COUNTER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version of the form `EPOCH.COUNTER`")]
pub struct VersionError;

impl Version {
    /// Reads `EPOCH.COUNTER`, decimal without leading zeros.
    ///
    /// # Errors
    ///
    /// [`VersionError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let (epoch, counter) = text.split_once('.').ok_or(VersionError)?;
        let version = Self {
            epoch: epoch.parse().map_err(|_| VersionError)?,
            counter: counter.parse().map_err(|_| VersionError)?,
        };
        if version.to_string() == text {
            Ok(version)
        } else {
            Err(VersionError)
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.counter)
    }
}

/// The one to three keys that bundles and state lists are signed with: the root of trust of a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleKeys(Jwks);

impl BundleKeys {
    /// Takes one to three Ed25519 keys; more than one only while they rotate.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Keys`] for another number or type of keys.
    pub fn new(keys: Jwks) -> Result<Self, PolicyError> {
        let fit = (1..=3).contains(&keys.keys().len())
            && keys
                .keys()
                .iter()
                .all(|key| key.algorithm() == crate::jwks::Algorithm::Ed25519);
        if fit { Ok(Self(keys)) } else { Err(PolicyError::Keys) }
    }

    /// Takes however many keys have ever signed what is kept: who reads old policy decides nothing by it.
    pub(crate) fn of_log(keys: Jwks) -> Self {
        Self(keys)
    }

    /// Verifies the compact form of a document of type `typ` and gives its payload, and the key that signed it.
    pub(crate) fn open(&self, compact: &str, typ: &str) -> Result<(Vec<u8>, Option<KeyId>), PolicyError> {
        let jws = CompactJws::parse(compact, typ, MAX_POLICY_BYTES)?;
        jws.verify(&self.0, &NoExternal)?;
        let signed_by = self.0.find(jws.key_id()).map(|key| key.kid().clone());
        Ok((jws.into_payload(), signed_by))
    }
}

/// Why a bundle or a state list was refused; the one in use, if any, stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not one to three Ed25519 keys.
    #[error("one to three Ed25519 keys are needed to verify policy")]
    Keys,
    /// The signature or its header.
    #[error("signature: {0}")]
    Jws(#[from] JwsError),
    /// Not strict JSON, or not of the shape of the format.
    #[error("payload: {0}")]
    Json(#[from] crate::json::JsonError),
    /// A format that this version does not read.
    #[error("format {0} is not understood")]
    Format(u64),
    /// For another workload.
    #[error("meant for another workload")]
    Audience,
    /// Older than what is in use: a replay, or a restored database without a new epoch.
    #[error("version {offered} is older than {held}")]
    Older {
        /// What came.
        offered: Version,
        /// What is in use.
        held: Version,
    },
    /// `issued_at` is more than the skew ahead.
    #[error("issued in the future")]
    IssuedInFuture,
    /// `expires_at` has passed, or is not after `issued_at`.
    #[error("expired")]
    Expired,
    /// Not all of its pages are there.
    #[error("a page is missing")]
    PageMissing,
    /// A part of a validly signed document breaks a rule; the whole is refused.
    #[error("`{field}`: {error}")]
    Content {
        /// The field, as a path.
        field: String,
        /// The rule that it breaks.
        error: ContentError,
    },
}

/// A bundle as it came: nothing is known of it.
#[derive(Debug, Clone, Copy)]
pub struct RawBundle<'a>(&'a str);

/// What a signed bundle says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleHead {
    /// The workload that it is for.
    pub aud: SpiffeId,
    /// Its version.
    pub version: Version,
    /// When it was signed, in seconds.
    pub issued_at: u64,
    /// The digests of its pages, ascending and each once; none in format 1.
    pub pages: Vec<PageDigest>,
}

impl<'a> RawBundle<'a> {
    /// Takes the compact form; everything is checked by [`Self::verify`].
    #[must_use]
    pub fn new(compact: &'a str) -> Self {
        Self(compact)
    }

    /// Verifies and indexes the bundle for workload `aud` at `now`, but for pages that are still to come; `held` is the
    /// newest version known, if any.
    ///
    /// The newest version may come again (a filter that asks twice gets the same answer), a lower one may not.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn open(
        self,
        keys: &BundleKeys,
        aud: &SpiffeId,
        held: Option<Version>,
        now: u64,
    ) -> Result<PendingBundle, PolicyError> {
        let (payload, signed_by) = keys.open(self.0, BUNDLE_TYPE)?;
        let bundle = match wire::format(&payload)? {
            FORMAT => PendingBundle::whole(wire::read_checked(&payload)?, aud, held, now),
            PAGED_FORMAT..=BOUND_FORMAT => PendingBundle::paged(wire::read_checked(&payload)?, aud, held, now),
            format => Err(PolicyError::Format(format)),
        };
        Ok(bundle?.signed_by(signed_by))
    }

    /// Verifies the signature of a bundle that is of the past, and gives what it says of itself.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn head(self, keys: &BundleKeys) -> Result<BundleHead, PolicyError> {
        let (payload, _) = keys.open(self.0, BUNDLE_TYPE)?;
        match wire::format(&payload)? {
            FORMAT => Ok(BundleHead::of(wire::read_checked::<BundleClaims>(&payload)?, |_| {
                Vec::new()
            })),
            PAGED_FORMAT..=BOUND_FORMAT => {
                let claims: BundleClaims<Option<PageDigest>> = wire::read_checked(&payload)?;
                Ok(BundleHead::of(claims, |pages| pages.into_iter().flatten().collect()))
            }
            format => Err(PolicyError::Format(format)),
        }
    }

    /// Verifies and indexes a bundle that needs no pages beside it.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn verify(
        self,
        keys: &BundleKeys,
        aud: &SpiffeId,
        held: Option<Version>,
        now: u64,
    ) -> Result<Bundle, PolicyError> {
        self.open(keys, aud, held, now)?.finish()
    }
}

impl BundleHead {
    fn of<A>(claims: BundleClaims<A>, pages: impl FnOnce(Vec<A>) -> Vec<PageDigest>) -> Self {
        let mut pages = pages(claims.agents);
        order::sort(&mut pages);
        pages.dedup();
        Self {
            aud: claims.aud,
            version: Version {
                epoch: claims.epoch,
                counter: claims.version,
            },
            issued_at: claims.issued_at,
            pages,
        }
    }
}

#[cfg(test)]
mod tests;
