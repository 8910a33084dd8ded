//! A bundle on its way: signed and read, but for pages of agents that have not come yet.

use super::{AgentClaims, Bundle, BundleClaims, PageDigest, PolicyError, Version, pages::Pages};
use crate::identity::{KeyId, SpiffeId};

/// A bundle whose signature is good, and which nothing is decided by until all of its pages are there.
#[derive(Debug, Clone)]
pub struct PendingBundle(Bundle);

impl PendingBundle {
    /// Format 1.
    pub(super) fn whole(
        claims: BundleClaims<AgentClaims>,
        aud: &SpiffeId,
        held: Option<Version>,
        now: u64,
    ) -> Result<Self, PolicyError> {
        let (bundle, agents) = Bundle::without_agents(claims, aud, held, now)?;
        Self::with_pages(bundle, Pages::pack(agents))
    }

    /// Format 2.
    pub(super) fn paged(
        claims: BundleClaims<Option<PageDigest>>,
        aud: &SpiffeId,
        held: Option<Version>,
        now: u64,
    ) -> Result<Self, PolicyError> {
        let (bundle, digests) = Bundle::without_agents(claims, aud, held, now)?;
        Self::with_pages(bundle, Pages::expect(digests))
    }

    fn with_pages(mut bundle: Bundle, pages: Result<Pages, super::ContentError>) -> Result<Self, PolicyError> {
        bundle.pages = pages.map_err(|error| PolicyError::Content {
            field: "agents".to_owned(),
            error,
        })?;
        Ok(Self(bundle))
    }

    /// Notes the key whose signature was good.
    pub(super) fn signed_by(mut self, key: Option<KeyId>) -> Self {
        self.0.signed_by = key;
        self
    }

    /// The key that signed it.
    #[must_use]
    pub fn key(&self) -> Option<&KeyId> {
        self.0.key()
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.version()
    }

    /// Takes over the pages that a bundle in use has under the same digests.
    pub fn share(&mut self, held: &Bundle) {
        self.0.pages.share(&held.pages);
    }

    /// Takes over the pages that have come for another version.
    pub fn share_pending(&mut self, held: &Self) {
        self.share(&held.0);
    }

    /// The digests of the pages that have not come yet.
    pub fn missing(&self) -> impl Iterator<Item = &PageDigest> {
        self.0.pages.missing()
    }

    /// Takes a page, if it is one of the missing; says whether it was.
    ///
    /// # Errors
    ///
    /// [`PolicyError`]: the digest that was signed is of something that is no page, or does not belong there, so that the
    /// bundle can never be used.
    pub fn fill(&mut self, page: &[u8]) -> Result<bool, PolicyError> {
        self.0.pages.fill(page)
    }

    /// Checks the agents as a whole.
    ///
    /// # Errors
    ///
    /// [`PolicyError::PageMissing`], or [`PolicyError::Content`].
    pub fn finish(self) -> Result<Bundle, PolicyError> {
        if self.missing().next().is_some() {
            return Err(PolicyError::PageMissing);
        }
        self.0.check_agents()?;
        Ok(self.0)
    }
}
