//! What a row of the table is.

use serde::Serialize;

use crate::rounds::Summary;

/// What is known of a row before anything runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spec {
    /// A stable word by which it is asked for and found again.
    pub(crate) id: &'static str,
    /// The rows that it stands with.
    pub(crate) group: &'static str,
    /// What is measured.
    pub(crate) work: &'static str,
    /// Of the figure.
    pub(crate) unit: &'static str,
    /// The row that it is compared with.
    pub(crate) peer: Option<&'static str>,
    /// What it must reach.
    pub(crate) bound: Option<Bound>,
}

/// What a row must reach: of its ratio to its peer, or of its figure where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bound {
    /// No more.
    AtMost(f64),
    /// No less.
    AtLeast(f64),
}

/// The group of rows that take so long that they are measured only where they are named, or in a quick run.
pub(crate) const ENDURANCE: &str = "endurance";

impl Bound {
    /// Whether a value reaches it.
    pub(crate) fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// Time from a request's due moment to the end of its answer, at a rate below saturation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// Half of all requests took no longer.
    pub(crate) p50_us: f64,
    /// Of a hundred requests, one took longer.
    pub(crate) p99_us: f64,
    /// Requests a second.
    pub(crate) rate: f64,
}

/// A row with what was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// What it is.
    pub(crate) spec: Spec,
    /// What was measured, in the unit of the row.
    pub(crate) figure: Summary,
    /// The figure over the peer's, round by round.
    pub(crate) ratio: Option<Summary>,
    /// Too noisy to be compared.
    pub(crate) noisy: bool,
    /// Where requests were timed.
    pub(crate) latency: Option<Latency>,
    /// Where the process was saturated.
    pub(crate) requests_per_second: Option<f64>,
}

impl Row {
    /// A row with its figure; it is noisy if the figure is.
    pub(crate) fn new(spec: &Spec, figure: Summary) -> Self {
        Self {
            spec: *spec,
            figure,
            ratio: None,
            noisy: figure.noisy(),
            latency: None,
            requests_per_second: None,
        }
    }

    /// Compares it with its peer; a noisy ratio is not kept. What matters is how steady the ratio was: a figure may
    /// wander if its peer's wanders with it.
    pub(crate) fn compared(&mut self, ratio: Option<Summary>) {
        self.noisy = ratio.is_none_or(|ratio| ratio.noisy());
        self.ratio = ratio.filter(|_| !self.noisy);
    }

    /// Whether the bound is met, if there is one and it can be told.
    pub(crate) fn met(&self) -> Option<bool> {
        let value = match self.spec.peer {
            Some(_) => self.ratio?.median,
            None if self.noisy => return None,
            None => self.figure.median,
        };
        Some(self.spec.bound?.met(value))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const SPEC: Spec = Spec {
        id: "a",
        group: "g",
        work: "w",
        unit: "us",
        peer: Some("b"),
        bound: Some(Bound::AtMost(1.0)),
    };

    fn summary(samples: &[f64]) -> Summary {
        Summary::of(samples).unwrap()
    }

    #[test]
    fn a_bound_is_on_the_ratio_where_there_is_a_peer_and_on_the_figure_elsewhere() {
        let mut row = Row::new(&SPEC, summary(&[4.0]));
        row.compared(Some(summary(&[1.0])));
        assert_eq!(row.met(), Some(true));
        row.compared(Some(summary(&[1.01])));
        assert_eq!(row.met(), Some(false));
        let alone = Spec { peer: None, ..SPEC };
        assert_eq!(Row::new(&alone, summary(&[4.0])).met(), Some(false));
        assert_eq!(Row::new(&alone, summary(&[0.5])).met(), Some(true));
    }

    #[test]
    fn a_noisy_ratio_is_not_shown_and_meets_nothing() {
        let mut row = Row::new(&SPEC, summary(&[4.0]));
        row.compared(Some(summary(&[0.1, 0.5, 0.9])));
        assert_eq!((row.noisy, row.ratio, row.met()), (true, None, None));
    }

    #[test]
    fn a_figure_may_wander_with_its_peers() {
        let mut row = Row::new(&SPEC, summary(&[4.0, 8.0, 12.0]));
        assert!(row.noisy);
        row.compared(Some(summary(&[0.5, 0.5, 0.52])));
        assert_eq!((row.noisy, row.met()), (false, Some(true)));
    }
}
