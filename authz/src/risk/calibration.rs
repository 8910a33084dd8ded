//! How surprising the calls of one agent have been by the same measure: what turns a measure into a probability.
//!
//! The surprise of a call is made of several signals that depend on each other, and an agent whose work varies does something
//! new every day. So nothing is believed of the measure but its order: the probability of a call is the share of the agent's
//! own calls so far that were at least as surprising when they came (a conformal p-value).

use serde::{Deserialize, Serialize};

use super::bits::{Bits, of_share};

/// Half a bit each.
const BINS: usize = 128;
/// Bits of a bin's width below one.
const BIN_SHIFT: u32 = 15;
/// Calls that are taken to have come before the first, spread as the measure promises: the cautious start.
const PRIOR_CALLS: u64 = 32;
/// What the measure promises too much, because it is made of several: less this it is taken for a probability at first.
const PROMISED_TOO_MUCH: Bits = Bits::whole(2);
/// After so many calls all counts are halved, so that the measure follows an agent whose work changes.
const MOST_CALLS: u64 = 8192;

/// Counts of calls by how surprising they were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Calibration {
    counts: Vec<u64>,
    total: u64,
}

impl Calibration {
    /// The surprise of a call that measures `measured`, as a probability.
    pub(super) fn surprise(&self, measured: Bits) -> Bits {
        let as_high: u64 = self.counts.iter().skip(bin(measured)).sum();
        let promised = (measured - PROMISED_TOO_MUCH).raw() >> 16;
        let promised = (PRIOR_CALLS << 16)
            .checked_shr(u32::try_from(promised).unwrap_or(u32::MAX))
            .unwrap_or(0);
        // One for the call itself: it is at least as surprising as itself.
        of_share(
            (as_high << 16) + promised.max(1 << 16),
            (self.total + PRIOR_CALLS) << 16,
        )
    }

    /// Counts a call of an agent that behaves.
    pub(super) fn learn(&mut self, measured: Bits) {
        self.counts.resize(BINS, 0);
        if let Some(count) = self.counts.get_mut(bin(measured)) {
            *count += 1;
        }
        self.total += 1;
        if self.total >= MOST_CALLS {
            // Rounded up: what is rare must not become rarer by being forgotten.
            self.counts.iter_mut().for_each(|count| *count = count.div_ceil(2));
            self.total = self.counts.iter().sum();
        }
    }

    /// What was counted with one measure measures more by now, and counts with that in its place.
    fn rise(&mut self, before: Bits, measured: Bits) {
        if let Some(count) = self.counts.get_mut(bin(before)).filter(|count| **count > 0) {
            *count -= 1;
            self.total -= 1;
        }
        self.learn(measured);
    }
}

/// What the measures of one user request have come to so far: of its agent's requests it is one, however often it rises.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Rising {
    /// In 1/65536 of a bit, and as what of it the request was counted.
    measured: u64,
    counted: Option<u64>,
}

impl Rising {
    pub(super) fn add(&mut self, measured: Bits) {
        self.measured = (self.measured() + measured).raw();
    }

    pub(super) fn measured(&self) -> Bits {
        Bits::from_raw(self.measured)
    }

    /// Counts it among the requests of an agent that behaves.
    pub(super) fn learn(&mut self, requests: &mut Calibration) {
        match self.counted.replace(self.measured) {
            None => requests.learn(self.measured()),
            Some(before) => requests.rise(Bits::from_raw(before), self.measured()),
        }
    }
}

fn bin(measured: Bits) -> usize {
    usize::try_from(measured.raw() >> BIN_SHIFT).map_or(BINS - 1, |bin| bin.min(BINS - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_first_the_measure_is_believed_as_far_as_few_calls_can_say() {
        let calibration = Calibration::default();
        assert_eq!(calibration.surprise(Bits::ZERO), Bits::ZERO);
        assert_eq!(calibration.surprise(Bits::whole(2)), Bits::ZERO);
        assert_eq!(calibration.surprise(Bits::whole(5)), Bits::whole(3));
        assert_eq!(calibration.surprise(Bits::whole(40)), Bits::whole(5));
    }

    #[test]
    fn what_an_agent_does_every_day_is_no_surprise_however_it_measures() {
        let mut calibration = Calibration::default();
        for number in 0..960 {
            calibration.learn(Bits::whole(if number % 10 == 0 { 12 } else { 1 }));
        }
        let often = calibration.surprise(Bits::whole(12));
        assert_eq!(often, of_share(97, 992));
        assert_eq!(calibration.surprise(Bits::whole(13)), of_share(1, 992));
        assert_eq!(calibration.surprise(Bits::whole(1)), Bits::ZERO);
    }

    #[test]
    fn what_rises_counts_once() {
        let (mut risen, mut learnt) = (Calibration::default(), Calibration::default());
        let mut request = Rising::default();
        for bits in [1, 8] {
            request.add(Bits::whole(bits));
            request.learn(&mut risen);
        }
        learnt.learn(Bits::whole(9));
        assert_eq!((&risen, request.measured()), (&learnt, Bits::whole(9)));
        // Of what was forgotten in between there is nothing to take away.
        risen.rise(Bits::whole(3), Bits::whole(9));
        assert_eq!((risen.total, risen.counts.iter().sum::<u64>()), (2, 2));
    }

    #[test]
    fn counts_are_bounded_and_what_is_rare_stays_as_rare() {
        let mut calibration = Calibration::default();
        calibration.learn(Bits::whole(30));
        for _ in 0..100_000 {
            calibration.learn(Bits::ZERO);
        }
        assert!(calibration.total < MOST_CALLS);
        assert_eq!(calibration.total, calibration.counts.iter().sum::<u64>());
        assert!(calibration.surprise(Bits::whole(30)) < of_share(1, MOST_CALLS));
        assert!(calibration.surprise(Bits::whole(30)) > Bits::whole(10));
        calibration.learn(Bits::from_raw(u64::MAX));
        assert_eq!(calibration.counts.len(), BINS);
    }
}
