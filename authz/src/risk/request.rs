//! What belongs to one user request: the steps so far, and how far requests usually go.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::bits::{Bits, of_share};
use super::calibration::Rising;

/// User requests that are remembered: agents work on several at once.
const MOST_REQUESTS: usize = 32;
/// Different steps of one request whose uses are counted; those beyond are taken for first uses.
const MOST_STEPS: usize = 16;
/// Uses that are told apart: more are as many.
const MOST_USES: usize = 16;
/// Calls of a request that are told apart: more are as many.
const MOST_CALLS: usize = 64;
/// Steps whose repetition is known by themselves.
const MOST_KNOWN_STEPS: usize = 256;
/// How many requests all steps together count for in what is known of one.
const PRIOR_REQUESTS: u64 = 8;
/// As bits: of two the more surprising counts.
const CHOICE_OF_TWO: Bits = Bits::whole(1);
/// Requests after which counts are halved.
const MOST_COUNTED: u64 = 8192;

/// One user request that may go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Open {
    name: String,
    /// The first step: what kind of request it is.
    pub(super) first: String,
    /// The step before.
    pub(super) last: String,
    /// Calls so far.
    pub(super) calls: u64,
    /// How unusual its calls have been.
    pub(super) whole: Rising,
    uses: BTreeMap<String, u64>,
}

impl Open {
    /// How often a step was used in it.
    pub(super) fn uses(&self, step: &str) -> u64 {
        self.uses.get(step).copied().unwrap_or_default()
    }
}

/// The newest requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Requests(VecDeque<Open>);

impl Requests {
    /// A request as it stands; a new one, if it is not known.
    pub(super) fn open(&self, name: &str) -> Open {
        let found = self.0.iter().find(|open| open.name == name);
        found.cloned().unwrap_or_else(|| Open {
            name: name.to_owned(),
            ..Open::default()
        })
    }

    /// Takes over a step of a request.
    pub(super) fn advance(&mut self, mut open: Open, step: &str) {
        if open.calls == 0 {
            step.clone_into(&mut open.first);
        }
        step.clone_into(&mut open.last);
        open.calls = open.calls.saturating_add(1);
        if let Some(uses) = open.uses.get_mut(step) {
            *uses = uses.saturating_add(1);
        } else if open.uses.len() < MOST_STEPS {
            open.uses.insert(step.to_owned(), 1);
        }
        self.0.retain(|other| other.name != open.name);
        self.0.push_back(open);
        if self.0.len() > MOST_REQUESTS {
            self.0.pop_front();
        }
    }

    /// Forgets how unusual they have been, and nothing of what was done in them.
    pub(super) fn forget(&mut self) {
        self.0.iter_mut().for_each(|open| open.whole = Rising::default());
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// How many of all requests came so far: to their n-th call, and to the n-th use of one step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Reach {
    calls: Counts,
    any_step: Counts,
    steps: BTreeMap<String, Counts>,
}

/// At index n − 1 those that came to n.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counts(Vec<u64>);

impl Counts {
    fn at(&self, nth: u64, most: usize) -> u64 {
        let index = usize::try_from(nth.saturating_sub(1)).map_or(most - 1, |index| index.min(most - 1));
        self.0.get(index).copied().unwrap_or_default()
    }

    fn learn(&mut self, nth: u64, most: usize) {
        let Ok(index) = usize::try_from(nth.saturating_sub(1)) else {
            return;
        };
        // What goes beyond the last place was counted there when it came to it.
        if index >= most {
            return;
        }
        if self.0.len() <= index {
            self.0.resize(index + 1, 0);
        }
        if let Some(count) = self.0.get_mut(index) {
            *count += 1;
        }
        if self.0.first().is_some_and(|count| *count >= MOST_COUNTED) {
            self.0.iter_mut().for_each(|count| *count = count.div_ceil(2));
        }
    }
}

impl Reach {
    /// How surprising it is that a request comes to its n-th call, having come to the one before: so that what is long is
    /// counted once, and not again with each call that it goes on.
    pub(super) fn length_surprise(&self, nth: u64) -> Bits {
        let before = before(nth, MOST_CALLS);
        of_share(
            self.calls.at(nth, MOST_CALLS) + 1,
            self.calls.at(before, MOST_CALLS) + 1,
        )
    }

    /// How surprising the extent of a request is as a whole, of all requests: the calls that it has made, or how often it has
    /// used a step; the more surprising of the two.
    pub(super) fn extent_surprise(&self, step: &str, nth: u64, use_nth: u64) -> Bits {
        let length = of_share(self.calls.at(nth, MOST_CALLS) + 1, self.calls.at(1, MOST_CALLS) + 1);
        let all = self.any_step.at(1, MOST_USES) + 1;
        let of_all = self.any_step.at(use_nth, MOST_USES) + 1;
        let (own, once) = self.steps.get(step).map_or((0, 0), |counts| {
            (counts.at(use_nth, MOST_USES), counts.at(1, MOST_USES))
        });
        let repetition = of_share(own * all + PRIOR_REQUESTS * of_all, (once + PRIOR_REQUESTS) * all);
        length.max(repetition) - CHOICE_OF_TWO
    }

    /// How surprising it is that a request uses a step for the n-th time, having used it one time less.
    pub(super) fn repetition_surprise(&self, step: &str, nth: u64) -> Bits {
        let before = before(nth, MOST_USES);
        let all = self.any_step.at(before, MOST_USES) + 1;
        let of_all = self.any_step.at(nth, MOST_USES) + 1;
        let (own, once) = self.steps.get(step).map_or((0, 0), |counts| {
            (counts.at(nth, MOST_USES), counts.at(before, MOST_USES))
        });
        of_share(own * all + PRIOR_REQUESTS * of_all, (once + PRIOR_REQUESTS) * all)
    }

    /// Counts the n-th call of a request, which uses a step for the `use_nth` time.
    pub(super) fn learn(&mut self, step: &str, nth: u64, use_nth: u64) {
        self.calls.learn(nth, MOST_CALLS);
        self.any_step.learn(use_nth, MOST_USES);
        if let Some(counts) = self.steps.get_mut(step) {
            counts.learn(use_nth, MOST_USES);
        } else if self.steps.len() < MOST_KNOWN_STEPS {
            self.steps.entry(step.to_owned()).or_default().learn(use_nth, MOST_USES);
        }
    }
}

/// The place before one; of the last place, which stands for all beyond, none but itself could be.
fn before(nth: u64, most: usize) -> u64 {
    nth.saturating_sub(1).clamp(1, most as u64 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests of four calls, the first and last step twice in every tenth.
    fn usual() -> Reach {
        let mut reach = Reach::default();
        for request in 0..1000 {
            for (index, step) in ["read", "sum", "draw", "write"].iter().enumerate() {
                reach.learn(step, index as u64 + 1, 1);
            }
            if request % 10 == 0 {
                reach.learn("read", 5, 2);
            }
        }
        reach
    }

    #[test]
    fn requests_that_go_further_than_usual_are_surprising() {
        let reach = usual();
        assert_eq!(reach.length_surprise(4), Bits::ZERO);
        assert_eq!(reach.length_surprise(5), of_share(101, 1001));
        assert_eq!(reach.length_surprise(6), of_share(1, 101));
        assert_eq!(reach.length_surprise(7), Bits::ZERO, "counted with the sixth");
        assert_eq!(reach.length_surprise(u64::MAX), Bits::ZERO);
        // As a whole it is one of so many requests.
        let one_in_all = of_share(1, 1001) - CHOICE_OF_TWO;
        assert_eq!(reach.extent_surprise("draw", 6, 1), one_in_all);
        assert_eq!(reach.extent_surprise("draw", 4, 1), Bits::ZERO);
        assert!(reach.extent_surprise("write", 5, 2) > reach.extent_surprise("read", 5, 2));
        assert_eq!(
            Reach::default().length_surprise(9),
            Bits::ZERO,
            "nothing is known at first"
        );
    }

    #[test]
    fn repetition_is_judged_by_the_step_itself_as_far_as_it_is_known() {
        let reach = usual();
        assert_eq!(reach.repetition_surprise("write", 1), Bits::ZERO);
        let usual = reach.repetition_surprise("read", 2);
        assert!(usual < Bits::whole(4), "{usual:?}");
        let odd = reach.repetition_surprise("write", 2);
        assert!(odd > usual + Bits::whole(6), "{odd:?}");
        // One that is not known repeats like all steps together: 101 of 4001.
        assert_eq!(reach.repetition_surprise("new", 2), of_share(101, 4001));
    }

    #[test]
    fn all_is_bounded() {
        let mut reach = Reach::default();
        for number in 1..20_000_u64 {
            reach.learn(&(number % 300).to_string(), number % 500, number % 40 + 1);
        }
        assert!(reach.calls.0.len() <= MOST_CALLS && reach.any_step.0.len() <= MOST_USES);
        assert!(reach.any_step.at(1, MOST_USES) < MOST_COUNTED);
        assert_eq!(reach.steps.len(), MOST_KNOWN_STEPS);
        let mut requests = Requests::default();
        for number in 0..100 {
            for step in 0..100 {
                let open = requests.open(&number.to_string());
                requests.advance(open, &step.to_string());
            }
        }
        assert_eq!(requests.len(), MOST_REQUESTS);
        let open = requests.open("99");
        assert_eq!((open.calls, open.first.as_str(), open.last.as_str()), (100, "0", "99"));
        assert_eq!((open.uses("3"), open.uses("99"), open.uses.len()), (1, 0, MOST_STEPS));
        assert_eq!(requests.open("0").calls, 0, "forgotten, so new again");
    }
}
