//! Rounds: who goes when, and what the samples of all rounds say together.

use serde::Serialize;

/// The spread over rounds beyond which a value says nothing.
pub(crate) const NOISE_LIMIT: f64 = 0.25;

/// The samples of all rounds in three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// The middle.
    pub(crate) median: f64,
    /// A quarter of the samples is lower.
    pub(crate) low: f64,
    /// A quarter of the samples is higher.
    pub(crate) high: f64,
}

impl Summary {
    /// Sums up; nothing if there is no sample, or one that is no number.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let finite = sorted.iter().all(|sample| sample.is_finite());
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            low: quantile(&sorted, 0.25)?,
            high: quantile(&sorted, 0.75)?,
        })
        .filter(|_| finite)
    }

    /// A value that was not sampled.
    #[cfg(test)]
    pub(crate) fn exactly(value: f64) -> Self {
        Self {
            median: value,
            low: value,
            high: value,
        }
    }

    /// The middle half of the samples as a part of their median.
    pub(crate) fn spread(&self) -> f64 {
        (self.high - self.low) / self.median.abs()
    }

    /// Whether it says nothing.
    pub(crate) fn noisy(&self) -> bool {
        self.high > self.low && (self.median == 0.0 || self.spread() > NOISE_LIMIT)
    }
}

/// What a part of the sorted samples does not exceed; between two samples, the line between them.
pub(crate) fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let place = part * (sorted.len().checked_sub(1)? as f64);
    let (below, above) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(below + (above - below) * place.fract())
}

/// The order of a round: everyone once, each round beginning with the next.
pub(crate) fn rotated(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |step| (step + round) % count)
}

/// Sample by sample, one over the other, both above a base. Nothing if a round lacks a sample, or in one the peer cost
/// nothing: then no ratio can be told.
pub(crate) fn ratios(figures: &[f64], peers: &[f64]) -> Option<Summary> {
    if figures.len() != peers.len() || peers.iter().any(|peer| *peer <= 0.0) {
        return None;
    }
    let ratios: Vec<f64> = figures.iter().zip(peers).map(|(figure, peer)| figure / peer).collect();
    Summary::of(&ratios)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_summary_is_the_median_with_the_quartiles() {
        let summary = Summary::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((summary.low, summary.median, summary.high), (2.0, 3.0, 4.0));
        let even = Summary::of(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((even.low, even.median, even.high), (1.75, 2.5, 3.25));
        assert_eq!(Summary::of(&[7.0]), Some(Summary::exactly(7.0)));
    }

    #[test]
    fn nothing_and_no_number_have_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN, 2.0]), None);
        assert_eq!(Summary::of(&[1.0, f64::INFINITY]), None);
    }

    #[test]
    fn an_outlier_does_not_make_a_row_noisy_and_a_scatter_does() {
        assert!(!Summary::of(&[1.0, 1.02, 0.98, 1.01, 9.0]).unwrap().noisy());
        assert!(Summary::of(&[1.0, 0.5, 1.6, 0.7, 1.4]).unwrap().noisy());
        assert!(Summary::of(&[-1.0, 0.0, 1.0]).unwrap().noisy());
        assert!(!Summary::exactly(0.0).noisy());
    }

    #[test]
    fn every_round_has_everyone_once_and_begins_with_the_next() {
        assert_eq!(rotated(3, 0).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(rotated(3, 1).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(rotated(3, 5).collect::<Vec<_>>(), [2, 0, 1]);
    }

    #[test]
    fn a_ratio_is_taken_in_each_round() {
        // Both are twice as dear in the second round: the ratio does not see it.
        let ratio = ratios(&[2.0, 4.0, 2.0], &[4.0, 8.0, 4.0]).unwrap();
        assert_eq!((ratio.median, ratio.spread()), (0.5, 0.0));
        assert_eq!(ratios(&[1.0, 1.0], &[1.0, 0.0]), None);
        assert_eq!(ratios(&[1.0, 1.0], &[1.0]), None);
    }
}
