//! What several calls say together: one call proves nothing, four of them may.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Settings;
use super::bits::{Bits, of_count, of_sum};

/// Calls that are looked at together, and what the choice among all tests costs this one, in bits: their weights and those in
/// [`together`] add up to one.
const WINDOWS: [(usize, u64); 5] = [(1, 4), (2, 3), (4, 3), (8, 4), (16, 4)];
const WHOLE_COSTS: Bits = Bits::whole(3);
const EXTENT_COSTS: Bits = Bits::whole(5);
const ODD_COSTS: Bits = Bits::whole(4);
const RATE_COSTS: Bits = Bits::whole(5);
const DENIALS_COST: Bits = Bits::whole(3);
const SIZES_COST: Bits = Bits::whole(5);
const FAILURES_COST: Bits = Bits::whole(5);
const HOUR_COSTS: Bits = Bits::whole(5);
const ALL_COSTS: Bits = Bits::whole(5);
const CALLS_AND_SIZES_COST: Bits = Bits::whole(4);

/// As many as the longest window.
const MOST_CALLS: usize = 16;
/// From here on a call is odd: one honest call in 64 is.
pub(super) const ODD: Bits = Bits::whole(6);
/// Of the 64 calls that the odd ones are counted among, so many are expected to be, in thousandths.
const EXPECTED_ODD: u64 = 1000;
/// So many of the last calls are forgotten for each half-life that passes.
const FORGOTTEN_A_HALF_LIFE: u64 = 8;

/// How surprising it is what there is beside the last calls.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beside {
    /// What the calls of the request measure together.
    pub(super) whole: Bits,
    /// How far the request has come.
    pub(super) extent: Bits,
    pub(super) rate: Bits,
    pub(super) denials: Bits,
    /// Sizes and times of what the request has been answered.
    pub(super) sizes: Bits,
    pub(super) failures: Bits,
    pub(super) hour: Bits,
}

/// How surprising the last calls were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Evidence {
    /// The newest last: when, and how surprising in 1/65536 of a bit.
    calls: VecDeque<(u64, u64)>,
    /// Which of the last 64 calls were odd, the newest in the lowest bit.
    odd: u64,
    /// When a call came last, in milliseconds.
    at_ms: u64,
}

impl Evidence {
    /// Forgets what is too long ago to belong to what happens now.
    pub(super) fn age(&mut self, at_ms: u64, settings: &Settings) {
        let half_life = settings.half_life_seconds.max(1).saturating_mul(1000);
        self.calls.retain(|(then, _)| at_ms.saturating_sub(*then) <= half_life);
        let half_lives = at_ms.saturating_sub(self.at_ms) / half_life;
        let forgotten = u32::try_from(half_lives.saturating_mul(FORGOTTEN_A_HALF_LIFE)).unwrap_or(u32::MAX);
        self.odd = self.odd.checked_shl(forgotten).unwrap_or(0);
        self.at_ms = at_ms;
    }

    /// Takes over a call.
    pub(super) fn add(&mut self, surprise: Bits) {
        self.calls.push_back((self.at_ms, surprise.raw()));
        if self.calls.len() > MOST_CALLS {
            self.calls.pop_front();
        }
        self.odd = (self.odd << 1) | u64::from(surprise >= ODD);
    }

    /// Whether the newest call was odd.
    pub(super) fn newest_is_odd(&self) -> bool {
        self.odd & 1 == 1
    }

    /// How many of the last 64 calls were odd, and how surprising that is.
    pub(super) fn odd(&self) -> (u32, Bits) {
        let odd = self.odd.count_ones();
        (odd, of_count(odd.into(), EXPECTED_ODD))
    }

    /// How surprising the last calls are together, less what the choice of tests costs.
    fn of_calls(&self) -> Bits {
        let windows = WINDOWS.iter().filter(|(length, _)| self.calls.len() >= *length);
        let surprises = windows.map(|(length, costs)| {
            let newest = self.calls.iter().rev().take(*length);
            let sum = newest.fold(Bits::ZERO, |sum, (_, raw)| sum + Bits::from_raw(*raw));
            of_sum(sum, *length as u64) - Bits::whole(*costs)
        });
        surprises.fold(self.odd().1 - ODD_COSTS, Bits::max)
    }

    /// All that there is: the smallest probability of any test, each for its share of the whole (a weighted Bonferroni). Two of
    /// the tests are that several are a little surprising (Fisher's): calls, rate and denials; and calls, together with what they
    /// were answered.
    pub(super) fn together(&self, beside: &Beside) -> Bits {
        let request = (beside.whole - WHOLE_COSTS).max(beside.extent - EXTENT_COSTS);
        let calls = self.of_calls().max(request);
        let all = of_sum(calls + beside.rate + beside.denials, 3);
        let tests = [
            (beside.rate, RATE_COSTS),
            (beside.denials, DENIALS_COST),
            (beside.sizes, SIZES_COST),
            (beside.failures, FAILURES_COST),
            (beside.hour, HOUR_COSTS),
            (all, ALL_COSTS),
            (of_sum(calls + beside.sizes, 2), CALLS_AND_SIZES_COST),
        ];
        let tests = tests.into_iter().map(|(surprise, costs)| surprise - costs);
        tests.fold(calls, Bits::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Beside = Beside {
        whole: Bits::ZERO,
        extent: Bits::ZERO,
        rate: Bits::ZERO,
        denials: Bits::ZERO,
        sizes: Bits::ZERO,
        failures: Bits::ZERO,
        hour: Bits::ZERO,
    };

    #[test]
    fn the_weights_of_all_tests_are_one() {
        let costs = WINDOWS.iter().map(|(_, costs)| Bits::whole(*costs));
        let others = [
            WHOLE_COSTS,
            EXTENT_COSTS,
            ODD_COSTS,
            RATE_COSTS,
            DENIALS_COST,
            SIZES_COST,
            FAILURES_COST,
            HOUR_COSTS,
            ALL_COSTS,
            CALLS_AND_SIZES_COST,
        ];
        let weights = costs
            .chain(others)
            .map(|costs| 0.5_f64.powi((costs.raw() >> 16) as i32));
        assert!((weights.sum::<f64>() - 1.0).abs() < 1e-9);
    }

    fn after(surprises: impl IntoIterator<Item = u64>) -> Evidence {
        let mut evidence = Evidence::default();
        for bits in surprises {
            evidence.age(evidence.at_ms + 1000, &Settings::default());
            evidence.add(Bits::whole(bits));
        }
        evidence
    }

    #[test]
    fn several_surprises_in_a_row_say_more_than_one() {
        let one = after([10]).together(&NONE);
        assert_eq!(one, Bits::whole(6));
        let two = after([10, 10]).together(&NONE);
        assert!(two > one + Bits::whole(4), "{two:?}");
        let diluted = after([10, 0, 0, 10]).together(&NONE);
        assert!(diluted > Bits::whole(4) && diluted < two, "{diluted:?}");
        assert_eq!(after([0; 40]).together(&NONE), Bits::ZERO);
    }

    #[test]
    fn usual_calls_in_between_do_not_wash_out_a_count() {
        let evidence = after((0..60).map(|number| if number % 6 == 5 { 7 } else { 0 }));
        assert_eq!(evidence.odd().0, 10);
        let together = evidence.together(&NONE);
        assert!(together > Bits::whole(14), "{together:?}");
    }

    #[test]
    fn three_kinds_together_say_more_than_the_greatest() {
        let evidence = after([12, 12]);
        let calls = evidence.together(&NONE);
        let busy = Beside {
            rate: Bits::whole(15),
            denials: Bits::whole(15),
            ..NONE
        };
        let all = evidence.together(&busy);
        assert!(all > calls + Bits::whole(8), "{calls:?} {all:?}");
    }

    /// Beside calls that are usual, each kind is worth what it says less what the choice costs.
    #[test]
    fn a_kind_alone_is_worth_its_share() {
        let twenty = Bits::whole(20);
        for (beside, worth) in [
            (Beside { whole: twenty, ..NONE }, 17),
            (Beside { extent: twenty, ..NONE }, 15),
            (Beside { rate: twenty, ..NONE }, 15),
            (
                Beside {
                    denials: twenty,
                    ..NONE
                },
                17,
            ),
            (Beside { sizes: twenty, ..NONE }, 15),
            (
                Beside {
                    failures: twenty,
                    ..NONE
                },
                15,
            ),
            (Beside { hour: twenty, ..NONE }, 15),
        ] {
            assert_eq!(after([]).together(&beside), Bits::whole(worth), "{beside:?}");
        }
    }

    #[test]
    fn sizes_make_odd_calls_odder() {
        let evidence = after([9, 9]);
        let sizes = Beside {
            sizes: Bits::whole(9),
            ..NONE
        };
        let (calls, both) = (evidence.together(&NONE), evidence.together(&sizes));
        assert!(both > calls + Bits::whole(1), "{calls:?} {both:?}");
        assert!(after([0, 0]).together(&sizes) < calls);
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let mut evidence = after([10; 20]);
        assert_eq!(evidence.calls.len(), MOST_CALLS);
        evidence.age(evidence.at_ms + 601_000, &Settings::default());
        assert!(evidence.calls.is_empty());
        assert_eq!(evidence.odd().0, 20, "they are pushed out, eight a half-life");
        evidence.age(evidence.at_ms + 6_000_000, &Settings::default());
        assert_eq!(evidence.odd().0, 0);
    }

    /// What is said to have a probability has at most that: 100,000 calls of an agent whose surprises are what they claim.
    #[test]
    fn together_is_calibrated() {
        let mut seed = 1_u64;
        let mut uniform = || {
            // Knuth's; only to draw test values.
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            super::super::bits::of_share((seed >> 33).max(1), 1 << 31)
        };
        let (calls, mut evidence) = (100_000_u32, Evidence::default());
        let mut exceed = [0_u32; 13];
        for call in 0..calls {
            evidence.age(u64::from(call) * 1000, &Settings::default());
            evidence.add(uniform());
            let beside = Beside {
                whole: uniform(),
                extent: uniform(),
                rate: uniform(),
                denials: uniform(),
                sizes: uniform(),
                failures: uniform(),
                hour: uniform(),
            };
            let together = evidence.together(&beside).raw() >> 16;
            for (bits, count) in exceed.iter_mut().enumerate() {
                *count += u32::from(together >= bits as u64);
            }
        }
        for (bits, count) in exceed.iter().enumerate().skip(1) {
            let allowed = f64::from(calls) / f64::from(1_u32 << bits);
            // Windows overlap: what is exceeded once is exceeded several times in a row, sixteen at most.
            assert!(
                f64::from(*count) <= allowed + 4.0 * (16.0 * allowed).sqrt(),
                "{count} of {calls} at {bits} bits, where {allowed} may be"
            );
        }
        assert!(exceed.get(4).is_some_and(|count| *count > 0), "the test sees something");
    }
}
