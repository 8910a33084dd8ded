//! The agents of a bundle, in pages that are signed by their digests.
//!
//! An agent belongs to the page that its id hashes to, so a change of one agent changes one page, and a filter that has
//! the others need not be sent them again.

use std::borrow::Borrow;
use std::iter;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    Agent, AgentClaims, ContentError, PolicyError, Service,
    bundle::{has_repeats, service_of_id},
    fault::Faults,
    page::Page,
};
use crate::{
    digest::{Digest, DigestError},
    json::{self, Limits},
    order,
};

/// The most pages of a bundle.
pub const MAX_PAGES: usize = 4096;

/// The longest page, in bytes.
pub const MAX_PAGE_BYTES: usize = 256 << 10;

/// The most agents of a bundle.
pub const MAX_AGENTS: usize = 1 << 16;

const PAGE_LIMITS: Limits = Limits {
    max_bytes: MAX_PAGE_BYTES,
    // The page, an agent, a list.
    max_depth: 3,
    max_nodes: 1 << 17,
};

/// The SHA-256 digest of a page, in base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PageDigest(Digest);

impl PageDigest {
    /// The digest of a page's text.
    #[must_use]
    pub fn of(page: &[u8]) -> Self {
        Self(Digest::of(page))
    }

    /// Reads what is displayed.
    ///
    /// # Errors
    ///
    /// [`DigestError`] if `text` is anything but the one canonical encoding of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        Digest::from_base64url(text).map(Self)
    }
}

impl std::fmt::Display for PageDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.to_base64url())
    }
}

impl TryFrom<String> for PageDigest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

impl From<PageDigest> for String {
    fn from(digest: PageDigest) -> Self {
        digest.to_string()
    }
}

/// The place of an agent's page among `count`, a power of two: the low bits of the FNV-1a hash (RFC 9923, 64 bits) of its
/// id.
///
/// The hash only spreads agents, and every request asks for it; whoever could choose ids that fall on one page writes
/// the agents' files anyway.
pub(super) fn place(agent: &str, count: usize) -> usize {
    let low = fnv_1a(agent.bytes()) & u64::try_from(count.saturating_sub(1)).unwrap_or_default();
    usize::try_from(low).unwrap_or_default()
}

fn fnv_1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// How many pages hold so many agents best: what one change sends, the digests of all pages and one page, is then the
/// least.
pub(super) fn page_count(agents: usize) -> usize {
    // A page costs some 60 bytes a digest and 500 an agent: they balance at the root of eight times the agents.
    let best = agents.saturating_mul(8).isqrt().clamp(1, MAX_PAGES);
    if agents <= 64 { 1 } else { 1 << best.ilog2() }
}

/// The pages of a bundle, of which some may not have come yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages(Box<[Slot]>);

/// The place of one page.
#[derive(Debug, Clone, Default)]
struct Slot {
    /// None where no agent falls, and in format 1, which has no digests.
    digest: Option<PageDigest>,
    page: Option<Arc<Page>>,
}

impl Slot {
    /// The digest of the page if it has not come yet.
    fn missing(&self) -> Option<&PageDigest> {
        self.digest.as_ref().filter(|_| self.page.is_none())
    }
}

impl Pages {
    /// Pages that are all still to come.
    ///
    /// # Errors
    ///
    /// [`ContentError::PageCount`].
    pub(super) fn expect(digests: Vec<Option<PageDigest>>) -> Result<Self, ContentError> {
        if !digests.len().is_power_of_two() || digests.len() > MAX_PAGES {
            return Err(ContentError::PageCount);
        }
        let slot = |digest| Slot { digest, page: None };
        Ok(Self(digests.into_iter().map(slot).collect()))
    }

    /// Pages of agents that came with their bundle.
    ///
    /// # Errors
    ///
    /// As for [`Page::pack`].
    pub(super) fn pack(agents: Vec<AgentClaims>) -> Result<Self, ContentError> {
        let slot = |agents: Vec<AgentClaims>| {
            let page = if agents.is_empty() {
                None
            } else {
                Some(Arc::new(Page::pack(agents)?))
            };
            Ok(Slot { digest: None, page })
        };
        let count = page_count(agents.len());
        distribute(agents, count)
            .into_iter()
            .map(slot)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Takes over the pages that `held` has under the same digests.
    pub(super) fn share(&mut self, held: &Self) {
        // A page was found to hold what belongs in its place among so many.
        if self.0.len() != held.0.len() {
            return;
        }
        for (slot, held) in self.0.iter_mut().zip(&held.0) {
            if slot.missing().is_some() && slot.digest == held.digest {
                slot.page.clone_from(&held.page);
            }
        }
    }

    /// The digests of the pages that have not come yet.
    pub(super) fn missing(&self) -> impl Iterator<Item = &PageDigest> {
        self.0.iter().filter_map(Slot::missing)
    }

    /// Takes a page, if it is one of the missing; says whether it was.
    ///
    /// # Errors
    ///
    /// [`PolicyError::Json`] or [`PolicyError::Content`]: what was signed is no page that belongs there.
    pub(super) fn fill(&mut self, text: &[u8]) -> Result<bool, PolicyError> {
        let count = self.0.len();
        let digest = PageDigest::of(text);
        let mut slots = self.0.iter_mut().enumerate();
        let Some((at, slot)) = slots.find(|(_, slot)| slot.missing() == Some(&digest)) else {
            return Ok(false);
        };
        let agents: Vec<AgentClaims> = json::strict(text, &PAGE_LIMITS)?;
        let refused = |error| PolicyError::Content {
            field: format!("pages/{at}"),
            error,
        };
        if agents.iter().any(|agent| place(agent.id.as_str(), count) != at) {
            return Err(refused(ContentError::Misplaced));
        }
        slot.page = Some(Arc::new(Page::pack(agents).map_err(refused)?));
        Ok(true)
    }

    /// Notes what is wrong with the agents as a whole.
    pub(super) fn check(&self, services: &[Service], faults: &mut Faults) {
        if self.agents().nth(MAX_AGENTS).is_some() {
            faults.add("agents", ContentError::TooMany);
        }
        let mut reached: Vec<&str> = self.pages().flat_map(Page::services).collect();
        order::sort(&mut reached);
        reached.dedup();
        for service in reached {
            if service_of_id(services, service).is_none() {
                faults.add(format!("agents/reaches/{service}"), ContentError::Dangling);
            }
        }
        if self.shares_identity() {
            faults.add("agents", ContentError::Twice);
        }
    }

    /// Whether two agents have one identity.
    fn shares_identity(&self) -> bool {
        // Hashes are compared first: this is done anew for all agents at each change of one, on a proxy's worker.
        let identities = self.agents().map(Agent::identity);
        let hash = |(namespace, account): (&str, &str)| fnv_1a(namespace.bytes().chain([b'/']).chain(account.bytes()));
        let mut hashes: Vec<u64> = identities.clone().map(hash).collect();
        hashes.sort_unstable();
        if !has_repeats(hashes.iter()) {
            return false;
        }
        let mut identities: Vec<_> = identities.collect();
        order::sort(&mut identities);
        has_repeats(identities.iter())
    }

    /// The agent of this id.
    pub(super) fn agent(&self, id: &str) -> Option<Agent<'_>> {
        self.0.get(place(id, self.0.len()))?.page.as_ref()?.agent(id)
    }

    /// The agents, page by page.
    pub(super) fn agents(&self) -> impl Iterator<Item = Agent<'_>> + Clone {
        self.pages().flat_map(Page::agents)
    }

    fn pages(&self) -> impl Iterator<Item = &Page> + Clone {
        self.0.iter().filter_map(|slot| slot.page.as_deref())
    }

    /// What the pages hold on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.0)
            + self
                .pages()
                .map(|page| size_of::<Page>() + page.heap_bytes())
                .sum::<usize>()
    }
}

/// Agents by the places of their pages.
pub(super) fn distribute<A: Borrow<AgentClaims>>(agents: impl IntoIterator<Item = A>, count: usize) -> Vec<Vec<A>> {
    let mut pages: Vec<Vec<A>> = iter::repeat_with(Vec::new).take(count).collect();
    for agent in agents {
        if let Some(page) = pages.get_mut(place(agent.borrow().id.as_str(), count)) {
            page.push(agent);
        }
    }
    pages
}

#[cfg(test)]
mod tests;
