//! One workload's bundle, before and after it is signed.

use std::sync::Arc;

use authz::policy::{
    BOUND_FORMAT, BundleClaims, CALLS_FORMAT, ContentError, NAMED_FORMAT, PAGED_FORMAT, PageDigest, PageTexts,
    PagedClaims, Version,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::keeper::Ticket;
use super::{FeedError, Signed};

/// How a bundle brings its agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// In itself.
    Whole,
    /// In pages beside it.
    Paged,
    /// In pages, with the prompts and resources of MCP.
    Named,
    /// In pages, with the services of agents too.
    Calling,
    /// In pages, with what binds sessions and pins definitions too.
    Bound,
}

impl Format {
    /// All that this server signs, the newest first: the older ones for filters of the version before.
    pub const ALL: [Self; 5] = [Self::Bound, Self::Calling, Self::Named, Self::Paged, Self::Whole];

    /// Those whose bundles have pages.
    pub const PAGED: [Self; 4] = [Self::Bound, Self::Calling, Self::Named, Self::Paged];

    /// The number by which polls name it.
    pub fn number(self) -> u64 {
        match self {
            Self::Whole => authz::policy::FORMAT,
            Self::Paged => PAGED_FORMAT,
            Self::Named => NAMED_FORMAT,
            Self::Calling => CALLS_FORMAT,
            Self::Bound => BOUND_FORMAT,
        }
    }

    /// The newest format in a list of numbers such as `1,2`, if this server signs any of them.
    pub fn newest_of(list: &str) -> Option<Self> {
        let listed = |format: &Self| list.split(',').any(|number| *number == *format.number().to_string());
        Self::ALL.into_iter().find(listed)
    }
}

/// A bundle that is signed, with what tells whether it is still what should be said.
#[derive(Debug, Clone)]
pub(super) struct SignedBundle {
    pub(super) signed: Signed,
    pub(super) renew_at: u64,
    /// Of the policy and of the keys.
    pub(super) generation: (u64, u64),
    pub(super) signed_by: String,
    pub(super) content: [u8; 32],
    pub(super) pages: Arc<PageTexts>,
    /// It is told to nobody before it is kept.
    pub(super) ticket: Ticket,
}

/// A bundle with version and times left zero.
#[derive(Debug)]
pub(super) struct Unsigned {
    pub(super) claims: Claims,
    pub(super) pages: PageTexts,
    /// The digest of all that it says.
    pub(super) content: [u8; 32],
}

/// Puts a bundle's agents on pages, in one of the formats that have them.
type InPages = fn(BundleClaims) -> Result<PagedClaims, ContentError>;

/// What is signed.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum Claims {
    Whole(BundleClaims),
    Paged(BundleClaims<Option<PageDigest>>),
}

impl Unsigned {
    pub(super) fn new(claims: BundleClaims, format: Format) -> Result<Self, FeedError> {
        let in_pages: Option<InPages> = match format {
            Format::Whole => None,
            Format::Paged => Some(BundleClaims::paged),
            Format::Named => Some(BundleClaims::named),
            Format::Calling => Some(BundleClaims::calling),
            Format::Bound => Some(BundleClaims::bound),
        };
        let (claims, pages) = match in_pages {
            None => (Claims::Whole(claims.without_names()), PageTexts::default()),
            Some(in_pages) => {
                let paged = in_pages(claims).map_err(FeedError::Pages)?;
                (Claims::Paged(paged.head), paged.pages)
            }
        };
        Ok(Self {
            content: Sha256::digest(serde_json::to_vec(&claims)?).into(),
            claims,
            pages,
        })
    }
}

impl Claims {
    pub(super) fn stamp(&mut self, version: Version, issued_at: u64, expires_at: u64) {
        match self {
            Self::Whole(claims) => stamp(claims, version, issued_at, expires_at),
            Self::Paged(claims) => stamp(claims, version, issued_at, expires_at),
        }
    }

    /// The same without what nobody but its sidecar may know, for those who read the log; None if it has nothing of the kind.
    pub(super) fn without_secrets(&self) -> Option<Self> {
        match self {
            Self::Paged(claims) if !claims.session_keys.is_empty() => {
                let mut claims = claims.clone();
                claims.session_keys.clear();
                Some(Self::Paged(claims))
            }
            Self::Whole(_) | Self::Paged(_) => None,
        }
    }
}

fn stamp<A>(claims: &mut BundleClaims<A>, version: Version, issued_at: u64, expires_at: u64) {
    claims.epoch = version.epoch;
    claims.version = version.counter;
    claims.issued_at = issued_at;
    claims.expires_at = expires_at;
}

#[cfg(test)]
mod tests {
    use super::Format;

    #[test]
    fn the_newest_common_format_is_signed() {
        for (list, format) in [
            ("1", Some(Format::Whole)),
            ("2", Some(Format::Paged)),
            ("1,2", Some(Format::Paged)),
            ("2,1", Some(Format::Paged)),
            ("1,2,3", Some(Format::Named)),
            ("4,3,2,1", Some(Format::Calling)),
            ("5,4", Some(Format::Bound)),
            ("1,6", Some(Format::Whole)),
            ("6", None),
            ("", None),
            ("12", None),
            ("1 ,2 ", None),
        ] {
            assert_eq!(Format::newest_of(list), format, "{list}");
        }
    }
}
