//! The policy among the records.

use std::collections::BTreeSet;

use super::*;
use crate::audit;
use crate::log::policy::{Kind as PolicyKind, keys_text, named};
use crate::policy::{BUNDLE_TYPE, BundleClaims, PageDigest, Version};
use crate::signing::TestKey;
use crate::state::STATE_TYPE;
use crate::testing;

pub(super) const WORKLOAD: &str = testing::WAREHOUSE;

/// Versions that were not kept.
const MISSING_BUNDLE: u64 = 3;
const MISSING_STATE: u64 = 7;

pub(super) fn bundle_of(n: u64) -> u64 {
    1 + n / 200
}

pub(super) fn state_of(n: u64) -> u64 {
    1 + n / 50
}

fn signer() -> TestKey {
    TestKey::new(7)
}

/// The note of the key that signs policy.
pub(super) fn note(key: &LogKey) -> String {
    key.sign_text(&keys_text(key.public.name(), &[signer().jwk()]), 5)
}

/// A bundle for a workload, and its pages.
fn bundle(workload: &str, counter: u64) -> (Vec<String>, String) {
    let mut claims: BundleClaims = serde_json::from_value(testing::bundle(workload)).unwrap();
    (claims.epoch, claims.version) = (1, counter);
    // Its page differs from those before.
    claims.agents[0].reaches.truncate(usize::try_from(counter).unwrap() % 2);
    let paged = claims.calling().unwrap();
    let pages = paged.pages.texts().map(str::to_owned).collect();
    (pages, signer().sign(BUNDLE_TYPE, &paged.head))
}

fn state(counter: u64) -> String {
    let mut claims = testing::state();
    (claims["epoch"], claims["version"]) = (1.into(), counter.into());
    signer().sign(STATE_TYPE, &claims)
}

/// What an export has been told already.
pub(super) struct Kept {
    documents: BTreeSet<(PolicyKind, Version)>,
    pages: BTreeSet<PageDigest>,
}

impl Kept {
    pub(super) fn new() -> Self {
        Self {
            documents: BTreeSet::new(),
            pages: BTreeSet::new(),
        }
    }

    /// The lines before a tile of these records.
    pub(super) fn before<'l>(&mut self, records: impl Iterator<Item = &'l Vec<u8>>) -> Vec<Vec<u8>> {
        let mut new = BTreeSet::new();
        for line in records {
            let record = audit::verify_line(line).unwrap().record;
            new.extend(named(&record).filter(|named| self.documents.insert(*named)));
        }
        let (mut pages, mut kept, mut missing) = (std::collections::BTreeMap::new(), Vec::new(), Vec::new());
        for (kind, version) in new {
            let jws = match (kind, version.counter) {
                (PolicyKind::Bundle, MISSING_BUNDLE) | (PolicyKind::State, MISSING_STATE) => {
                    missing.push(PolicyLine::missing(kind, version));
                    continue;
                }
                (PolicyKind::State, counter) => state(counter),
                (PolicyKind::Bundle, counter) => {
                    let (own, jws) = bundle(WORKLOAD, counter);
                    let own = own.into_iter().map(|page| (PageDigest::of(page.as_bytes()), page));
                    pages.extend(own.filter(|(digest, _)| self.pages.insert(*digest)));
                    jws
                }
            };
            kept.push(PolicyLine::kept(kind, jws));
        }
        let lines = pages.into_values().map(PolicyLine::Page).chain(kept).chain(missing);
        lines.map(|line| line.write()).collect()
    }
}

/// The places of lines that begin so.
fn places(lines: &[Vec<u8>], start: &str) -> Vec<usize> {
    let places = (0..lines.len()).filter(|at| lines[*at].starts_with(start.as_bytes()));
    places.collect()
}

#[test]
fn policy_that_records_name_is_shown_and_what_was_not_kept_is_said() {
    let (key, lines) = good();
    let policy = verify(&lines, &key, None).unwrap().policy.unwrap();
    let expected = PolicyProven {
        bundles: 2,
        states: 11,
        missing: 2,
        records_without: 200 + 50,
        records_of_others: 0,
    };
    assert_eq!(policy, expected);
    assert_eq!(places(&lines, "{\"page\":").len(), 2);
}

#[test]
fn an_export_of_before_holds_no_policy_and_is_proven() {
    let (key, mut lines) = good();
    let keys = std::slice::from_ref(&key.public);
    lines[0] = header_line(keys, key.public.name(), None, RECORDS);
    let at = places(&lines, "{\"page\":")[0];
    assert_eq!(found("policy in an old export", &lines, &key, at), Fault::Line);
    lines.retain(|line| !PolicyLine::is(line));
    let proven = verify(&lines, &key, None).unwrap();
    assert_eq!((proven.records, proven.policy), (RECORDS, None));
}

#[test]
fn the_log_vouches_for_the_keys_that_sign_policy() {
    let (key, good) = good();
    let header = |note: &str| {
        let keys = std::slice::from_ref(&key.public);
        header_line(keys, key.public.name(), Some(note), RECORDS)
    };
    let mut lines = good.clone();
    let impostor = LogKey::new(2);
    lines[0] = header(&note(&impostor));
    let fault = found("another log's note", &lines, &key, 0);
    assert_eq!(fault, Fault::PolicyKeys(NoteError::UnknownKey));
    let others = keys_text("example.com/another", &[signer().jwk()]);
    for text in [others.as_str(), "example.com/log\n5\nroot\n"] {
        lines[0] = header(&key.sign_text(text, 5));
        let fault = found("another text", &lines, &key, 0);
        assert_eq!(fault, Fault::PolicyKeys(NoteError::PolicyKeys));
    }
    // A key that the note does not name.
    let other = keys_text(key.public.name(), &[TestKey::new(8).jwk()]);
    lines[0] = header(&key.sign_text(&other, 5));
    let at = places(&good, "{\"bundle\":")[0];
    let fault = found("another key", &lines, &key, at);
    assert!(matches!(fault, Fault::Policy { .. }), "{fault}");
}

#[test]
fn policy_that_is_taken_out_added_or_moved_is_found() {
    let (key, good) = good();
    let named_from = |counter: u64, first: u64| (counter, record_lines(&good)[usize::try_from(first).unwrap()]);
    // Of the second tile: states 1.7 and on, the last of which is told of after the tile of the record 300.
    for (at, (counter, record)) in [
        (places(&good, "{\"state\":")[0], named_from(1, 0)),
        (places(&good, "{\"state\":")[6], named_from(8, 350)),
    ] {
        let mut lines = good.clone();
        lines.remove(at);
        let version = Version { epoch: 1, counter };
        let kind = PolicyKind::State;
        let fault = found("taken out", &lines, &key, record - 1);
        assert_eq!(fault, Fault::PolicyMissing { kind, version });
    }
    let page = places(&good, "{\"page\":")[0];
    let mut lines = good.clone();
    lines.remove(page);
    let bundle_line = places(&lines, "{\"bundle\":")[0];
    assert_eq!(found("page taken out", &lines, &key, bundle_line), Fault::PolicyPage);

    let state_line = places(&good, "{\"state\":")[2];
    let mut lines = good.clone();
    lines.insert(state_line + 1, good[state_line].clone());
    assert_eq!(found("twice", &lines, &key, state_line + 1), Fault::PolicyPlace);
    let mut lines = good.clone();
    lines.swap(state_line, state_line + 1);
    assert_eq!(found("swapped", &lines, &key, state_line + 1), Fault::PolicyPlace);

    // Signed policy that no record names.
    let last = *places(&good, "{\"state\":").last().unwrap();
    let mut lines = good.clone();
    lines.insert(last + 1, PolicyLine::State(state(99)).write());
    assert_eq!(found("added", &lines, &key, last + 1), Fault::PolicyUnnamed);
    let mut lines = good.clone();
    lines.insert(page, PolicyLine::Page("[]".to_owned()).write());
    let second = lines[page + 1].clone();
    lines[page..=page + 1].sort_by_key(|line| match PolicyLine::read(line).unwrap() {
        PolicyLine::Page(text) => PageDigest::of(text.as_bytes()),
        _ => panic!("no page"),
    });
    let added = if lines[page] == second { page + 1 } else { page };
    assert_eq!(found("page added", &lines, &key, added), Fault::PolicyUnnamed);

    // After its tile, or in the middle of one.
    let tile = places(&good, "{\"tile\":")[0];
    for place in [tile + 1, tile + 10] {
        let mut lines = good.clone();
        let line = lines.remove(page);
        lines.insert(place - 1, line.clone());
        let missed = places(&lines, "{\"bundle\":")[0];
        assert_eq!(found("moved", &lines, &key, missed), Fault::PolicyPage);
        let mut lines = good.clone();
        lines.insert(place, line);
        assert_eq!(found("again", &lines, &key, place), Fault::PolicyPlace);
    }
}

#[test]
fn a_record_that_names_the_bundle_of_another_workload_is_counted() {
    let key = LogKey::new(1);
    for (workload, others) in [(WORKLOAD, 0), (testing::MCP, 1)] {
        let record = Record {
            bundle: Some("1.1".into()),
            workload: Some(workload.into()),
            ..Record::new(Kind::Completion, 1)
        };
        let line = Chain::new(SourceId([1; 16])).seal(&record).line;
        let lines = export_of(&key, &[line], &[1]);
        let policy = verify(&lines, &key, None).unwrap().policy.unwrap();
        assert_eq!((policy.bundles, policy.records_of_others), (1, others), "{workload}");
    }
}
