//! The policy in an export: each document before the tile whose records name it first.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{Fault, read, write};
use crate::audit::Record;
use crate::identity::SpiffeId;
use crate::log::policy::{self, Kind, PolicyKeys};
use crate::policy::{PageDigest, Version};

/// A line of policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyLine {
    /// The text of a page of agents.
    Page(String),
    /// A bundle, as it was signed.
    Bundle(String),
    /// A state list, as it was signed.
    State(String),
    /// The version of a bundle that the server had not kept.
    MissingBundle(String),
    /// The version of a state list that the server had not kept.
    MissingState(String),
}

impl PolicyLine {
    const STARTS: [&str; 5] = [
        "{\"page\":",
        "{\"bundle\":",
        "{\"state\":",
        "{\"missing_bundle\":",
        "{\"missing_state\":",
    ];

    /// Whether a line begins as one of policy does.
    pub fn is(line: &[u8]) -> bool {
        Self::STARTS.iter().any(|start| line.starts_with(start.as_bytes()))
    }

    /// Reads a line that is in its one spelling.
    pub fn read(line: &[u8]) -> Option<Self> {
        read(line)
    }

    /// The line, without its line feed.
    pub fn write(&self) -> Vec<u8> {
        write(self)
    }

    /// A document that was kept.
    pub fn kept(kind: Kind, jws: String) -> Self {
        match kind {
            Kind::Bundle => Self::Bundle(jws),
            Kind::State => Self::State(jws),
        }
    }

    /// A document that was not kept.
    pub fn missing(kind: Kind, version: Version) -> Self {
        match kind {
            Kind::Bundle => Self::MissingBundle(version.to_string()),
            Kind::State => Self::MissingState(version.to_string()),
        }
    }
}

/// What an export shows of the policy that its records name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyProven {
    /// Bundles in the file, signed by keys that the log's key vouches for.
    pub bundles: u64,
    /// State lists, likewise.
    pub states: u64,
    /// Bundles and state lists that the file says were not kept.
    pub missing: u64,
    /// Records that name one of those.
    pub records_without: u64,
    /// Records that name the bundle of another workload.
    pub records_of_others: u64,
}

/// Where a line of policy stands among those before one tile: they rise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Page(PageDigest),
    Kept(Kind, Version),
    Missing(Kind, Version),
}

/// A document that was read.
#[derive(Debug)]
enum Held {
    Bundle(SpiffeId),
    State,
    Missing,
}

/// Checks the policy of an export, in memory that grows with the number of documents and not with their size.
#[derive(Debug)]
pub(super) struct PolicyCheck {
    keys: PolicyKeys,
    known: HashMap<(Kind, Version), Held>,
    pages: HashSet<PageDigest>,
    /// The last line since the last tile.
    last: Option<Place>,
    /// Pages since then that no bundle names, and documents that no record names, with their lines.
    unnamed_pages: BTreeMap<PageDigest, u64>,
    unnamed: BTreeMap<(Kind, Version), u64>,
    proven: PolicyProven,
}

impl PolicyCheck {
    pub(super) fn new(keys: PolicyKeys) -> Self {
        Self {
            keys,
            known: HashMap::new(),
            pages: HashSet::new(),
            last: None,
            unnamed_pages: BTreeMap::new(),
            unnamed: BTreeMap::new(),
            proven: PolicyProven::default(),
        }
    }

    pub(super) fn proven(&self) -> PolicyProven {
        self.proven
    }

    /// Whether lines of policy wait for their tile.
    pub(super) fn awaits_tile(&self) -> bool {
        self.last.is_some()
    }

    /// Takes a line of policy.
    pub(super) fn line(&mut self, number: u64, line: &[u8]) -> Result<(), Fault> {
        let line = PolicyLine::read(line).ok_or(Fault::Line)?;
        let (place, held) = self.open(&line)?;
        if self.last.is_some_and(|last| last >= place) {
            return Err(Fault::PolicyPlace);
        }
        self.last = Some(place);
        let (new, held) = match place {
            Place::Page(digest) => {
                self.unnamed_pages.insert(digest, number);
                (self.pages.insert(digest), None)
            }
            Place::Kept(kind, version) | Place::Missing(kind, version) => {
                self.unnamed.insert((kind, version), number);
                (
                    !self.known.contains_key(&(kind, version)),
                    held.map(|held| ((kind, version), held)),
                )
            }
        };
        if !new {
            return Err(Fault::PolicyPlace);
        }
        self.known.extend(held);
        Ok(())
    }

    fn open(&mut self, line: &PolicyLine) -> Result<(Place, Option<Held>), Fault> {
        let missing = |kind, version: &str| {
            let version = Version::parse(version).map_err(|_| Fault::Line)?;
            Ok((Place::Missing(kind, version), Some(Held::Missing)))
        };
        match line {
            PolicyLine::Page(text) => Ok((Place::Page(PageDigest::of(text.as_bytes())), None)),
            PolicyLine::Bundle(jws) => {
                let bundle = self
                    .keys
                    .bundle(jws)
                    .map_err(|error| Fault::policy(Kind::Bundle, error))?;
                for page in &bundle.pages {
                    if !self.pages.contains(page) {
                        return Err(Fault::PolicyPage);
                    }
                    self.unnamed_pages.remove(page);
                }
                self.proven.bundles += 1;
                Ok((
                    Place::Kept(Kind::Bundle, bundle.version),
                    Some(Held::Bundle(bundle.aud)),
                ))
            }
            PolicyLine::State(jws) => {
                let state = self
                    .keys
                    .state(jws)
                    .map_err(|error| Fault::policy(Kind::State, error))?;
                self.proven.states += 1;
                Ok((Place::Kept(Kind::State, state.version()), Some(Held::State)))
            }
            PolicyLine::MissingBundle(version) => {
                self.proven.missing += 1;
                missing(Kind::Bundle, version)
            }
            PolicyLine::MissingState(version) => {
                self.proven.missing += 1;
                missing(Kind::State, version)
            }
        }
    }

    /// The tile of the records that name what has come.
    pub(super) fn tile(&mut self) -> Result<(), (u64, Fault)> {
        self.last = None;
        first(&self.unnamed_pages)
    }

    /// The records of the tile have come: the line of what none of them names, if there is one.
    pub(super) fn tile_ended(&self) -> Result<(), (u64, Fault)> {
        first(&self.unnamed)
    }

    /// Finds what a record names.
    pub(super) fn record(&mut self, record: &Record<'_>) -> Result<(), Fault> {
        let (mut without, mut of_other) = (false, false);
        for (kind, version) in policy::named(record) {
            match self.known.get(&(kind, version)) {
                None => return Err(Fault::PolicyMissing { kind, version }),
                Some(Held::Missing) => without = true,
                Some(Held::Bundle(aud)) => of_other |= record.workload.as_deref() != Some(aud.as_str()),
                Some(Held::State) => {}
            }
            self.unnamed.remove(&(kind, version));
        }
        self.proven.records_without += u64::from(without);
        self.proven.records_of_others += u64::from(of_other);
        Ok(())
    }
}

/// The first line of those that nothing names.
fn first<K>(unnamed: &BTreeMap<K, u64>) -> Result<(), (u64, Fault)> {
    match unnamed.values().min() {
        Some(line) => Err((*line, Fault::PolicyUnnamed)),
        None => Ok(()),
    }
}
