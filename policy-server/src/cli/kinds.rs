//! Records that are told by kind: how often each came and when, and what is to be said of it beside.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Value, json};

use super::keys::moment;

/// Kinds that are told apart; what is over is counted.
const MOST_KINDS: usize = 1000;

/// Records by kind.
#[derive(Debug)]
pub(super) struct Kinds<K, D> {
    told: BTreeMap<K, Told<D>>,
    /// Records of kinds that are counted alone.
    over: u64,
}

/// The records of one kind.
#[derive(Debug, Serialize)]
pub(super) struct Told<D> {
    count: u64,
    first_ms: u64,
    last_ms: u64,
    /// What is said beside.
    #[serde(flatten)]
    pub(super) detail: D,
}

impl<K, D> Default for Kinds<K, D> {
    fn default() -> Self {
        Self {
            told: BTreeMap::new(),
            over: 0,
        }
    }
}

impl<K: Ord + Serialize, D: Default + Serialize> Kinds<K, D> {
    /// Counts a record, and gives what is said of its kind to be brought up to date; nothing if it is counted alone.
    pub(super) fn add(&mut self, kind: K, time_ms: u64) -> Option<&mut D> {
        if self.told.len() >= MOST_KINDS && !self.told.contains_key(&kind) {
            self.over += 1;
            return None;
        }
        let told = self.told.entry(kind).or_insert_with(|| Told {
            count: 0,
            first_ms: time_ms,
            last_ms: time_ms,
            detail: D::default(),
        });
        told.count += 1;
        told.first_ms = told.first_ms.min(time_ms);
        told.last_ms = told.last_ms.max(time_ms);
        Some(&mut told.detail)
    }

    /// Each kind in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &Told<D>)> {
        self.told.iter()
    }

    /// How many records are counted alone.
    pub(super) fn over(&self) -> u64 {
        self.over
    }

    /// For people: how many were counted alone, in a line if there are any.
    pub(super) fn describe_over(&self, text: &mut String) {
        if self.over > 0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "and {} of other kinds", self.over);
        }
    }

    /// For programs: one value a kind, of its members and what is told of it.
    pub(super) fn values(&self) -> Vec<Value> {
        let values = self.told.iter().map(|(kind, told)| {
            let mut value = json!(kind);
            if let (Some(value), Value::Object(told)) = (value.as_object_mut(), json!(told)) {
                value.extend(told);
            }
            value
        });
        values.collect()
    }
}

impl<D> Told<D> {
    /// How often and when, in words.
    pub(super) fn times(&self) -> String {
        let (first, last) = (moment(self.first_ms / 1000), moment(self.last_ms / 1000));
        if self.count == 1 {
            format!("once at {last}")
        } else {
            format!("{} times from {first} to {last}", self.count)
        }
    }
}
