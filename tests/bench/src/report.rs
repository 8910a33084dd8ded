//! What has been measured so far.

use crate::rounds::Summary;
use crate::row::Row;

/// The rows in the order of the table.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
    shown: usize,
}

impl Report {
    /// Adds a row.
    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds a line that stands under the table.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// All rows.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The rows that this has not given before.
    pub(crate) fn unshown(&mut self) -> &[Row] {
        let shown = std::mem::replace(&mut self.shown, self.rows.len());
        self.rows.get(shown..).unwrap_or_default()
    }

    /// All notes.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Compares rows with peers of other sections, which no round has seen together: median with median, and as far
    /// apart as both spreads allow.
    pub(crate) fn relate(&mut self) {
        let figures: Vec<_> = self
            .rows
            .iter()
            .map(|row| (row.spec.id, row.figure, row.noisy))
            .collect();
        for row in &mut self.rows {
            let Some(peer) = row.spec.peer.filter(|_| row.ratio.is_none() && !row.noisy) else {
                continue;
            };
            let found = figures.iter().find(|(id, _, noisy)| *id == peer && !noisy);
            if let Some((_, peer, _)) = found {
                row.compared(over(row.figure, *peer));
            }
        }
    }
}

fn over(figure: Summary, peer: Summary) -> Option<Summary> {
    (peer.low > 0.0).then(|| Summary {
        median: figure.median / peer.median,
        low: figure.low / peer.high,
        high: figure.high / peer.low,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Spec;

    fn row(id: &'static str, peer: Option<&'static str>, figure: Summary) -> Row {
        let spec = Spec {
            id,
            group: "g",
            work: "",
            unit: "us",
            peer,
            bound: None,
        };
        Row::new(&spec, figure)
    }

    #[test]
    fn a_row_is_shown_once() {
        let mut report = Report::default();
        report.add(row("first", None, Summary::exactly(1.0)));
        assert_eq!(report.unshown().len(), 1);
        report.add(row("second", None, Summary::exactly(2.0)));
        let shown: Vec<_> = report.unshown().iter().map(|row| row.spec.id).collect();
        assert_eq!(shown, ["second"]);
        assert!(report.unshown().is_empty());
        assert_eq!(report.rows().len(), 2);
    }

    #[test]
    fn a_peer_of_another_section_is_compared_by_medians() {
        let mut report = Report::default();
        report.add(row("ours", Some("theirs"), Summary::exactly(3.0)));
        report.add(row("theirs", None, Summary::exactly(2.0)));
        report.add(row("orphan", Some("missing"), Summary::exactly(3.0)));
        report.relate();
        let ratios: Vec<_> = report.rows().iter().map(|row| row.ratio).collect();
        assert_eq!(ratios, [Some(Summary::exactly(1.5)), None, None]);
        assert!(report.rows().iter().all(|row| !row.noisy));
    }
}
