//! The policy that an export holds: each record is decided again by the very bundle and state list that it names.

use std::collections::{BTreeMap, HashMap};

use super::{Facts, Replayed, Unplayed, decide, identity, outcome};
use crate::audit::Record;
use crate::log::export::PolicyLine;
use crate::log::policy::{self, Kind, PolicyKeys};
use crate::policy::{Bundle, PageDigest, PolicyError, RawBundle, Version};
use crate::state::StateList;

/// Bundles, and state lists, that are kept: the oldest goes.
const MOST_VERSIONS: usize = 1 << 14;

/// The policy of an export, as far as it has been read.
#[derive(Debug)]
pub struct KeptPolicy {
    keys: PolicyKeys,
    pages: HashMap<PageDigest, String>,
    bundles: BTreeMap<Version, Bundle>,
    states: BTreeMap<Version, StateList>,
}

impl KeptPolicy {
    /// Nothing has been read yet; what will be must be signed by one of these keys.
    pub fn new(keys: PolicyKeys) -> Self {
        Self {
            keys,
            pages: HashMap::new(),
            bundles: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    /// Takes the next line of policy.
    ///
    /// # Errors
    ///
    /// [`PolicyError`].
    pub fn take(&mut self, line: PolicyLine) -> Result<(), PolicyError> {
        match line {
            PolicyLine::Page(text) => {
                self.pages.insert(PageDigest::of(text.as_bytes()), text);
            }
            PolicyLine::Bundle(jws) => {
                let bundle = self.bundle(&jws)?;
                keep(&mut self.bundles, bundle.version(), bundle);
            }
            PolicyLine::State(jws) => {
                let state = self.keys.state(&jws)?;
                keep(&mut self.states, state.version(), state);
            }
            PolicyLine::MissingBundle(_) | PolicyLine::MissingState(_) => {}
        }
        Ok(())
    }

    fn bundle(&self, jws: &str) -> Result<Bundle, PolicyError> {
        let head = self.keys.bundle(jws)?;
        let mut pending = RawBundle::new(jws).open(self.keys.keys(), &head.aud, None, head.issued_at)?;
        // The last one is most like this one.
        if let Some((_, before)) = self.bundles.last_key_value() {
            pending.share(before);
        }
        let missing: Vec<PageDigest> = pending.missing().copied().collect();
        for page in missing.iter().filter_map(|digest| self.pages.get(digest)) {
            pending.fill(page.as_bytes())?;
        }
        pending.finish()
    }

    /// Decides a record again.
    ///
    /// # Errors
    ///
    /// [`Unplayed`] where it cannot be.
    pub fn replay(&self, record: &Record<'_>) -> Result<Replayed, Unplayed> {
        let recorded = outcome(record)?;
        let workload = identity(record.workload.as_deref())?;
        let (mut bundle, mut state) = (None, None);
        for (kind, version) in policy::named(record) {
            match kind {
                Kind::Bundle => bundle = self.bundles.get(&version),
                Kind::State => state = self.states.get(&version),
            }
        }
        let (Some(bundle), Some(state)) = (bundle, state) else {
            return Err(Unplayed::NotKept);
        };
        if *bundle.workload() != workload {
            return Err(Unplayed::Policy);
        }
        let again = decide(record, &workload, bundle, state, Facts::Recorded)?;
        Ok(Replayed { recorded, again })
    }
}

fn keep<T>(kept: &mut BTreeMap<Version, T>, version: Version, new: T) {
    kept.insert(version, new);
    if kept.len() > MOST_VERSIONS {
        kept.pop_first();
    }
}
