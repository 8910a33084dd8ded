//! What an agent usually does: how often it used each of a set of things, and what it did after what.
//!
//! A **habit** is a distribution that starts from what the agent's file declares (one use each) and leaves half a use for
//! all that was never seen. The surprise of a thing is that of its whole tail: of everything that is at most as usual.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::bits::{Bits, of_share};

/// Things that one habit remembers. What comes beyond stays new, and so surprising.
const MOST_THINGS: usize = 256;

/// A habit that has seen so much halves all counts, so that it follows an agent whose work changes.
const MOST_USES: u64 = 8192;

/// Pairs of steps that are remembered.
const MOST_PAIRS: usize = 1024;

/// How many uses the habit as a whole counts for in a row of what follows one step: with few seen, the row says little.
const PRIOR_USES: u64 = 8;

/// How often each of a set of things was used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Habit {
    uses: BTreeMap<String, u64>,
    total: u64,
}

impl Habit {
    /// How often a thing was used, as far as the habit still counts.
    pub(super) fn uses(&self, thing: &str) -> u64 {
        self.uses.get(thing).copied().unwrap_or_default()
    }

    fn whole(&self, declared: &BTreeSet<String>) -> u64 {
        2 * (self.total + declared.len() as u64) + 1
    }

    /// Everything that has a weight, and its weight in halves of a use: one merge of two sorted lists, since this is done for
    /// every call.
    fn weights<'a>(&'a self, declared: &'a BTreeSet<String>) -> impl Iterator<Item = (&'a str, u64)> {
        let mut used = self.uses.iter().peekable();
        let mut named = declared.iter().peekable();
        std::iter::from_fn(move || {
            let order = match (used.peek(), named.peek()) {
                (Some((thing, _)), Some(name)) => thing.as_str().cmp(name.as_str()),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            let uses = if order.is_le() { used.next() } else { None };
            let name = if order.is_ge() { named.next() } else { None };
            let thing = uses.map(|(thing, _)| thing).or(name)?;
            Some((
                thing.as_str(),
                2 * (uses.map_or(0, |(_, uses)| *uses) + u64::from(name.is_some())),
            ))
        })
    }

    /// How surprising a use of a thing is.
    pub(super) fn surprise(&self, declared: &BTreeSet<String>, thing: &str) -> Bits {
        let weight = 2 * (self.uses(thing) + u64::from(declared.contains(thing)));
        let others = self.weights(declared).map(|(_, other)| other);
        let tail: u64 = others.filter(|other| *other <= weight).sum();
        of_share(tail + 1, self.whole(declared))
    }

    /// Counts a use.
    pub(super) fn learn(&mut self, thing: &str) {
        if let Some(uses) = self.uses.get_mut(thing) {
            *uses += 1;
        } else if self.uses.len() < MOST_THINGS {
            self.uses.insert(thing.to_owned(), 1);
        } else {
            return;
        }
        self.total += 1;
        if self.total >= MOST_USES {
            // Rounded up: what was used once is never again something that was never used.
            self.uses.values_mut().for_each(|uses| *uses = uses.div_ceil(2));
            self.total = self.uses.values().sum();
        }
    }
}

/// What comes with each step (after it, or in requests that begin with it): a first-order Markov chain, smoothed by the habit
/// of steps as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    rows: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Order {
    fn row(&self, before: &str) -> Option<&BTreeMap<String, u64>> {
        self.rows.get(before)
    }

    /// How often `before` was followed by anything.
    pub(super) fn seen(&self, before: &str) -> u64 {
        self.row(before).map_or(0, |row| row.values().sum())
    }

    /// How often `before` was followed by `step`.
    pub(super) fn uses(&self, before: &str, step: &str) -> u64 {
        self.row(before)
            .and_then(|row| row.get(step))
            .copied()
            .unwrap_or_default()
    }

    /// How surprising it is that `step` follows `before`.
    pub(super) fn surprise(&self, steps: &Habit, declared: &BTreeSet<String>, before: &str, step: &str) -> Bits {
        let whole = steps.whole(declared);
        let row = self.row(before);
        let uses = |other: &str| row.and_then(|row| row.get(other)).copied().unwrap_or_default();
        let weight = |other: &str, usual: u64| uses(other) * whole + PRIOR_USES * usual;
        let usual = 2 * (steps.uses(step) + u64::from(declared.contains(step)));
        let own = weight(step, usual);
        let others = steps.weights(declared).map(|(other, usual)| weight(other, usual));
        let tail: u64 = others.filter(|other| *other <= own).sum();
        of_share(tail + PRIOR_USES, (self.seen(before) + PRIOR_USES) * whole)
    }

    /// Counts a step.
    pub(super) fn learn(&mut self, before: &str, step: &str) {
        let known = self.uses(before, step) > 0;
        if !known && self.rows.values().map(BTreeMap::len).sum::<usize>() >= MOST_PAIRS {
            return;
        }
        let row = self.rows.entry(before.to_owned()).or_default();
        *row.entry(step.to_owned()).or_default() += 1;
        if row.values().sum::<u64>() >= MOST_USES {
            row.values_mut().for_each(|uses| *uses = uses.div_ceil(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(things: &[&str]) -> BTreeSet<String> {
        things.iter().map(|thing| (*thing).to_owned()).collect()
    }

    fn habit(uses: &[(&str, u64)]) -> Habit {
        let mut habit = Habit::default();
        for (thing, uses) in uses {
            (0..*uses).for_each(|_| habit.learn(thing));
        }
        habit
    }

    #[test]
    fn at_first_what_is_declared_is_no_surprise_and_all_else_is_little() {
        let declared = declared(&["pandas", "matplotlib"]);
        let habit = Habit::default();
        assert_eq!(habit.surprise(&declared, "pandas"), Bits::ZERO);
        assert_eq!(habit.surprise(&declared, "bash"), of_share(1, 5));
    }

    #[test]
    fn surprise_is_that_of_the_tail() {
        let habit = habit(&[("a", 90), ("b", 9), ("c", 1)]);
        let none = declared(&[]);
        assert_eq!(habit.surprise(&none, "a"), Bits::ZERO);
        assert_eq!(habit.surprise(&none, "b"), of_share(18 + 2 + 1, 201));
        assert_eq!(habit.surprise(&none, "c"), of_share(2 + 1, 201));
        assert_eq!(habit.surprise(&none, "d"), of_share(1, 201));
        let tied = self::habit(&[("a", 5), ("b", 5)]);
        assert_eq!(tied.surprise(&none, "a"), tied.surprise(&none, "b"));
        assert_eq!(tied.surprise(&none, "a"), Bits::ZERO, "as usual as the most usual");
    }

    #[test]
    fn a_habit_is_bounded_and_forgets_slowly_and_never_wholly() {
        let mut habit = habit(&[("once", 1)]);
        for _ in 0..100_000 {
            habit.learn("always");
        }
        assert_eq!(habit.uses("once"), 1);
        assert!(habit.total < MOST_USES && habit.uses("always") > MOST_USES / 4);
        for number in 0..1000 {
            habit.learn(&number.to_string());
        }
        assert_eq!(habit.uses.len(), MOST_THINGS);
        assert_eq!(habit.total, habit.uses.values().sum::<u64>());
        assert_eq!(habit.uses("999"), 0, "what found no room stays new");
    }

    #[test]
    fn what_never_followed_is_surprising_though_both_are_usual() {
        let none = declared(&[]);
        let (mut steps, mut order) = (Habit::default(), Order::default());
        for _ in 0..100 {
            for (before, step) in [("", "read"), ("read", "sum"), ("sum", "write")] {
                steps.learn(step);
                order.learn(before, step);
            }
        }
        assert_eq!(order.surprise(&steps, &none, "read", "sum"), Bits::ZERO);
        let odd = order.surprise(&steps, &none, "read", "write");
        assert!(odd > Bits::whole(3), "{odd:?}");
        assert!(order.surprise(&steps, &none, "read", "bash") > odd);
        // After what was never seen the habit as a whole decides.
        let unknown = order.surprise(&steps, &none, "never", "write");
        assert_eq!(unknown, Bits::ZERO);
    }

    #[test]
    fn pairs_are_bounded() {
        let mut order = Order::default();
        for number in 0..5000 {
            order.learn(&(number % 70).to_string(), &(number / 70).to_string());
        }
        let pairs: usize = order.rows.values().map(BTreeMap::len).sum();
        assert_eq!(pairs, MOST_PAIRS);
        order.learn("0", "0");
        assert_eq!(order.uses("0", "0"), 2, "what is known goes on being counted");
    }
}
