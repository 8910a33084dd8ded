//! Which live sources know a key, and why the others do not.

use std::collections::BTreeMap;

use authz::identity::SpiffeId;
use serde::Serialize;

use super::ring::InForce;
use super::sources::Source;
use super::{KeyKind, KeyState};
use crate::app::App;
use crate::store::StoredKey;

/// How long verifiers other than sidecars may keep the published key set.
pub const JWKS_MAX_AGE_SECONDS: u64 = 5;

/// Why a source cannot verify what a key signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It does not yet decide by a bundle that names the token key.
    BundleNotInUse,
    /// The bundle key is not in its plugin configuration.
    KeyNotConfigured,
    /// Its filter is too old to say which bundle keys it trusts, and has shown only that it trusts another.
    KeyNotReported,
    /// Its workload has more sources than the server notes.
    TooManySources,
}

/// Sources of one workload that lack a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lacking {
    /// The workload.
    pub workload: SpiffeId,
    /// Why.
    pub reason: Reason,
    /// How many of its sources.
    pub sources: usize,
}

/// Which live sources know a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Known {
    /// How many there are.
    pub live: usize,
    /// How many of them know it.
    pub have: usize,
    /// The others.
    pub lacking: Vec<Lacking>,
    /// How long it takes until this can be relied on.
    pub wait_seconds: u64,
}

impl Known {
    pub(super) fn by_all(&self) -> bool {
        self.lacking.is_empty() && self.wait_seconds == 0
    }
}

/// Who knows the keys that sign, by kind.
pub fn signing_known(app: &App, in_force: &InForce) -> BTreeMap<KeyKind, Known> {
    let known = |kind| (kind, known(app, in_force, kind, in_force.key(kind, KeyState::Signing)));
    KeyKind::ALL.into_iter().map(known).collect()
}

/// Whether a source cannot verify what a key signs, and why.
pub fn lacks(source: &Source, key: &StoredKey, in_force: &InForce) -> Option<Reason> {
    let report = &source.report;
    match key.kind {
        KeyKind::Token => {
            let names_it = report.bundle.is_some_and(|bundle| bundle >= key.from);
            (!names_it).then_some(Reason::BundleNotInUse)
        }
        KeyKind::Bundle if report.vm.is_some() => {
            (!report.keys.contains(key.kid())).then_some(Reason::KeyNotConfigured)
        }
        KeyKind::Bundle => {
            let signer = report.bundle.and_then(|bundle| in_force.signer_of(bundle));
            let shown = signer.is_some_and(|signer| signer.kid() == key.kid());
            (!shown).then_some(Reason::KeyNotReported)
        }
    }
}

/// Sources that decide by a bundle which the bundle key that signs has not signed.
pub(super) fn deciding_by_older(app: &App, in_force: &InForce) -> Vec<Lacking> {
    let from = in_force.key(KeyKind::Bundle, KeyState::Signing).map(|key| key.from);
    let (living, _) = app.sources.living();
    let older = living.iter().filter(|source| source.report.bundle < from);
    counted(older.map(|source| (source.workload.clone(), Reason::BundleNotInUse)))
}

/// Who knows a key; nobody knows one that is not there yet.
pub(super) fn known(app: &App, in_force: &InForce, kind: KeyKind, key: Option<&StoredKey>) -> Known {
    let (living, crowded) = app.sources.living();
    let lacking = living.iter().filter_map(|source| {
        let reason = match key {
            Some(key) => lacks(source, key, in_force)?,
            None if kind == KeyKind::Token => Reason::BundleNotInUse,
            None => Reason::KeyNotConfigured,
        };
        Some((source.workload.clone(), reason))
    });
    let lacking: Vec<_> = lacking.collect();
    let have = living.len() - lacking.len();
    let crowded = crowded.into_iter().map(|workload| (workload, Reason::TooManySources));
    let published = key.filter(|key| kind == KeyKind::Token && key.state == KeyState::Next);
    let cached_until = published.map_or(0, |key| key.since.saturating_add(JWKS_MAX_AGE_SECONDS));
    let silent = app.sources.all_known_in().as_millis().div_ceil(1000);
    let wait_seconds = cached_until
        .saturating_sub(app.clock.seconds())
        .max(u64::try_from(silent).unwrap_or(u64::MAX));
    Known {
        live: living.len(),
        have,
        lacking: counted(lacking.into_iter().chain(crowded)),
        wait_seconds,
    }
}

fn counted(lacking: impl Iterator<Item = (SpiffeId, Reason)>) -> Vec<Lacking> {
    let mut counts: BTreeMap<(SpiffeId, Reason), usize> = BTreeMap::new();
    for workload_and_reason in lacking {
        *counts.entry(workload_and_reason).or_default() += 1;
    }
    let counts = counts.into_iter();
    counts
        .map(|((workload, reason), sources)| Lacking {
            workload,
            reason,
            sources,
        })
        .collect()
}
