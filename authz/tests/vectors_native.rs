//! The vectors on this machine, and the rules that the vectors themselves obey.

#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use authz::decision::is_shadowed;
use serde_json::Value;

mod vectors;

use vectors::{Expect, Placed, Runs, oracle};

/// Some time in 2026: nothing may depend on which.
const NOW: u64 = 1_795_456_800;

#[test]
fn every_vector_is_decided_as_it_says() {
    let failures: Vec<String> = vectors::all()
        .iter()
        .filter(|placed| placed.vector.runs.contains(&Runs::Native))
        .filter_map(wrong)
        .collect();
    assert!(
        failures.is_empty(),
        "{} wrong:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn wrong(placed: &Placed) -> Option<String> {
    let Placed { vector, recipe, .. } = placed;
    let verdict = vectors::decide(&recipe.case(&vector.id, NOW));
    (verdict != vector.expect).then(|| format!("{} ({}): {verdict:?}, not {:?}", vector.id, vector.why, vector.expect))
}

#[test]
fn jwt_simple_agrees_or_the_vector_says_why_not() {
    let mut failures = Vec::new();
    for Placed { vector, recipe, .. } in vectors::all() {
        let (ours, theirs) = (
            oracle::ours(&recipe, NOW).err(),
            oracle::jwt_simple(&recipe, NOW).err().map(|error| error.to_string()),
        );
        if (ours.is_some() != theirs.is_some()) != vector.oracle.is_some() {
            failures.push(format!(
                "{} ({}): ours {ours:?}, jwt-simple {theirs:?}",
                vector.id, vector.why
            ));
        }
    }
    assert!(
        failures.is_empty(),
        "{} differ or say so in vain:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn a_denial_differs_from_its_allow_in_one_fact() {
    let mut allowed = BTreeSet::new();
    for Placed { vector, .. } in vectors::all() {
        let facts = leaves(&Value::Object(vector.change.clone()));
        match (&vector.expect, &vector.twin) {
            (Expect::Permit | Expect::Shadow { .. }, None) => drop(allowed.insert(vector.id)),
            (Expect::Permit | Expect::Shadow { .. }, Some(_)) => {
                panic!("{}: an allow has a base, not a twin", vector.id)
            }
            (Expect::Deny { .. }, None) => panic!("{}: a denial stands beside an allow", vector.id),
            (Expect::Deny { .. }, Some(twin)) => {
                assert!(allowed.contains(twin), "{}: {twin} is no earlier allow", vector.id);
                assert_eq!(vector.facts.is_some(), facts != 1, "{}: {facts} facts", vector.id);
            }
        }
    }
}

fn leaves(value: &Value) -> usize {
    match value {
        Value::Object(members) if !members.is_empty() && !members.contains_key("$letters") => {
            members.values().map(leaves).sum()
        }
        _ => 1,
    }
}

#[test]
fn the_numbers_are_in_order_and_every_skip_has_its_reason() {
    for (number, (name, theme)) in (1..).zip(vectors::themes()) {
        for (place, vector) in (1..).zip(&theme.vectors) {
            assert_eq!(vector.id, format!("{number:02}{place:02}"), "{name}.json");
            assert!(vector.runs.contains(&Runs::Native), "{}", vector.id);
            assert_eq!(
                vector.skip.is_some(),
                !vector.runs.contains(&Runs::Envoy),
                "{}",
                vector.id
            );
        }
    }
}

#[test]
fn every_code_that_a_request_can_earn_has_a_vector() {
    // What these say does not come from a request alone: the filter's own tests have them.
    const ELSEWHERE: [&str; 5] = [
        "tool_drifted",
        "direction_unknown",
        "internal_error",
        "response_withheld",
        "records_unavailable",
    ];
    let seen: BTreeSet<String> = vectors::all()
        .into_iter()
        .filter_map(|placed| code(&placed.vector.expect))
        .collect();
    let unseen: Vec<_> = authz::denial::Code::ALL
        .iter()
        .map(|code| code.as_str())
        .filter(|code| !seen.contains(*code))
        .collect();
    assert_eq!(unseen, ELSEWHERE);
}

#[test]
fn every_code_that_goes_on_in_shadow_has_a_vector_and_no_other_has() {
    let seen: BTreeSet<String> = vectors::all()
        .into_iter()
        .filter_map(|placed| match placed.vector.expect {
            Expect::Shadow { code, .. } => Some(code),
            Expect::Permit | Expect::Deny { .. } => None,
        })
        .collect();
    let shadowed = authz::denial::Code::ALL.iter().filter(|code| is_shadowed(**code));
    assert_eq!(seen, shadowed.map(|code| code.as_str().to_owned()).collect());
}

fn code(expect: &Expect) -> Option<String> {
    match expect {
        Expect::Permit | Expect::Shadow { .. } => None,
        Expect::Deny { code, .. } => Some(code.clone()),
    }
}

#[test]
fn a_code_has_one_status() {
    let mut statuses = BTreeMap::new();
    for Placed { vector, .. } in vectors::all() {
        if let Expect::Deny { code, status, .. } = vector.expect {
            assert_eq!(
                *statuses.entry(code.clone()).or_insert(status),
                status,
                "{}: {code}",
                vector.id
            );
        }
    }
}
