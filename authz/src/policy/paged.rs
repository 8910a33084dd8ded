//! From a bundle's claims to what is signed and sent of them in formats 2 to 5.

use crate::order;
use std::collections::BTreeMap;

use super::{
    BOUND_FORMAT, BundleClaims, CALLS_FORMAT, ContentError, MAX_PAGE_BYTES, MAX_PAGES, NAMED_FORMAT, PAGED_FORMAT,
    PageDigest,
    pages::{distribute, page_count},
};

/// The most pages that are asked for at once.
pub const MAX_PAGES_ASKED: usize = 32;

/// The longest answer to a request for pages, in bytes: the longest page and its line feed, or several shorter ones.
pub const MAX_PAGES_ANSWER_BYTES: usize = MAX_PAGE_BYTES + 1;

/// A bundle in format 2, 3, 4 or 5.
#[derive(Debug, Clone)]
pub struct PagedClaims {
    /// What is signed.
    pub head: BundleClaims<Option<PageDigest>>,
    /// What its digests stand for.
    pub pages: PageTexts,
}

/// Pages by their digests.
#[derive(Debug, Clone, Default)]
pub struct PageTexts(BTreeMap<PageDigest, String>);

impl PageTexts {
    /// The answer to a request for some pages: those that there are, in the order in which they were asked for, a line
    /// each (`application/x-ndjson`), as many as fit; None if there is none of them.
    #[must_use]
    pub fn answer(&self, asked: &[PageDigest]) -> Option<String> {
        let mut answer = String::new();
        for page in asked.iter().filter_map(|digest| self.0.get(digest)) {
            if answer.len() + page.len() + 1 > MAX_PAGES_ANSWER_BYTES {
                break;
            }
            answer.push_str(page);
            answer.push('\n');
        }
        (!answer.is_empty()).then_some(answer)
    }

    /// The digests, in order.
    pub fn digests(&self) -> impl Iterator<Item = &PageDigest> {
        self.0.keys()
    }

    /// The texts, by digest.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }
}

impl FromIterator<(PageDigest, String)> for PageTexts {
    fn from_iter<I: IntoIterator<Item = (PageDigest, String)>>(pages: I) -> Self {
        Self(pages.into_iter().collect())
    }
}

impl BundleClaims {
    /// Puts the agents on pages: in [`PAGED_FORMAT`], which has no prompts and resources, nor services of agents.
    ///
    /// The same agents always give the same pages, in whatever order they come.
    ///
    /// # Errors
    ///
    /// [`ContentError::PageTooLong`] if the agents of one page cannot be told within [`MAX_PAGE_BYTES`].
    pub fn paged(self) -> Result<PagedClaims, ContentError> {
        self.without_names().in_pages(PAGED_FORMAT)
    }

    /// Puts the agents on pages: in [`NAMED_FORMAT`], which has no services of agents.
    ///
    /// # Errors
    ///
    /// As for [`Self::paged`].
    pub fn named(self) -> Result<PagedClaims, ContentError> {
        self.without_calls().in_pages(NAMED_FORMAT)
    }

    /// Puts the agents on pages: in [`CALLS_FORMAT`], which binds no sessions and pins no definitions.
    ///
    /// # Errors
    ///
    /// As for [`Self::paged`].
    pub fn calling(self) -> Result<PagedClaims, ContentError> {
        self.without_bindings().in_pages(CALLS_FORMAT)
    }

    /// Puts the agents on pages: in [`BOUND_FORMAT`], which has all.
    ///
    /// # Errors
    ///
    /// As for [`Self::paged`].
    pub fn bound(self) -> Result<PagedClaims, ContentError> {
        self.in_pages(BOUND_FORMAT)
    }

    fn in_pages(mut self, format: u64) -> Result<PagedClaims, ContentError> {
        let mut agents = std::mem::take(&mut self.agents);
        order::sort_by(&mut agents, |one, two| one.id.cmp(&two.id));
        let mut count = page_count(agents.len());
        loop {
            // INVARIANT: lists of names always serialise; that error is never seen.
            let texts: Vec<Option<String>> = distribute(&agents, count)
                .iter()
                .map(|page| (!page.is_empty()).then(|| serde_json::to_string(page)).transpose())
                .collect::<Result<_, _>>()
                .map_err(|_| ContentError::PageTooLong)?;
            if texts.iter().flatten().all(|text| text.len() <= MAX_PAGE_BYTES) {
                return Ok(self.with_pages(format, texts));
            }
            if count >= MAX_PAGES {
                return Err(ContentError::PageTooLong);
            }
            count *= 2;
        }
    }

    fn with_pages(self, format: u64, texts: Vec<Option<String>>) -> PagedClaims {
        let digest = |text: &Option<String>| text.as_ref().map(|text| PageDigest::of(text.as_bytes()));
        let digests: Vec<Option<PageDigest>> = texts.iter().map(digest).collect();
        let pages = digests.iter().copied().zip(texts);
        let pages = pages.filter_map(|(digest, text)| digest.zip(text)).collect();
        let Self {
            format: _,
            iss,
            aud,
            epoch,
            version,
            issued_at,
            expires_at,
            max_state_age_seconds,
            max_token_ttl_seconds,
            issuers,
            policy_server,
            session_keys,
            services,
            agents: _,
        } = self;
        PagedClaims {
            head: BundleClaims {
                format,
                iss,
                aud,
                epoch,
                version,
                issued_at,
                expires_at,
                max_state_age_seconds,
                max_token_ttl_seconds,
                issuers,
                policy_server,
                session_keys,
                services,
                agents: digests,
            },
            pages,
        }
    }
}
