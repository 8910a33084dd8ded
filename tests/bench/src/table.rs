//! The table for people, and the same for programs.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::plan::Plan;
use crate::report::Report;
use crate::rounds::{NOISE_LIMIT, Summary};
use crate::row::{Bound, Row};

const HEADINGS: [&str; 9] = [
    "row",
    "figure",
    "quartiles",
    "p50 us",
    "p99 us",
    "req/s",
    "over",
    "ratio",
    "bound",
];

/// Columns of words; numbers stand at the right of theirs.
const WORDS: [usize; 4] = [0, 1, 6, 8];

/// Prints what has come since the last time and writes all that there is, so that a run that is cut off shows what it
/// had measured.
///
/// # Errors
///
/// As [`write`].
pub(crate) fn show(report: &mut Report, plan: &Plan) -> Result<()> {
    println!("{}", render(report.unshown(), &[]));
    write(report, plan)
}

/// Rows as a table, and notes under it.
pub(crate) fn render(rows: &[Row], notes: &[String]) -> String {
    let cells: Vec<_> = rows.iter().map(cells).collect();
    let widths: Vec<usize> = HEADINGS
        .iter()
        .enumerate()
        .map(|(column, heading)| {
            let cells = cells.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .chain([heading.len()])
                .max()
                .unwrap_or_default()
        })
        .collect();
    let mut text = line(&HEADINGS.map(ToOwned::to_owned), &widths);
    text.push_str(&"-".repeat(text.trim_end().chars().count()));
    text.push('\n');
    let mut group = "";
    for (row, cells) in rows.iter().zip(&cells) {
        if row.spec.group != group {
            group = row.spec.group;
            text.push_str(&format!("{group}\n"));
        }
        text.push_str(&line(cells, &widths));
    }
    for note in notes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "* {note}");
    }
    text
}

fn line(cells: &[String; 9], widths: &[usize]) -> String {
    let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
        if WORDS.contains(&column) {
            format!("{cell:<width$}")
        } else {
            format!("{cell:>width$}")
        }
    });
    format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
}

fn cells(row: &Row) -> [String; 9] {
    let latency = |pick: fn(&crate::row::Latency) -> f64| row.latency.as_ref().map(pick);
    [
        format!("  {}", row.spec.id),
        format!("{} {}", number(row.figure.median), row.spec.unit),
        quartiles(&row.figure),
        latency(|latency| latency.p50_us).map(number).unwrap_or_default(),
        latency(|latency| latency.p99_us).map(number).unwrap_or_default(),
        row.requests_per_second.map(number).unwrap_or_default(),
        row.spec.peer.unwrap_or_default().to_owned(),
        ratio(row),
        verdict(row),
    ]
}

fn quartiles(summary: &Summary) -> String {
    if summary.high > summary.low {
        format!("{}-{}", number(summary.low), number(summary.high))
    } else {
        String::new()
    }
}

fn ratio(row: &Row) -> String {
    match row.ratio {
        Some(ratio) => format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.low, ratio.high),
        None if row.noisy => "noisy".to_owned(),
        None => String::new(),
    }
}

fn verdict(row: &Row) -> String {
    let Some(bound) = row.spec.bound else {
        return String::new();
    };
    let bound = match bound {
        Bound::AtMost(most) => format!("<= {most}"),
        Bound::AtLeast(least) => format!(">= {least}"),
    };
    match row.met() {
        Some(true) => format!("{bound} met"),
        Some(false) => format!("{bound} MISSED"),
        None => format!("{bound} ?"),
    }
}

/// Three digits that matter.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Writes the results as JSON.
///
/// # Errors
///
/// When the file cannot be written.
pub(crate) fn write(report: &Report, plan: &Plan) -> Result<()> {
    let path = &plan.output;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let rows: Vec<_> = report.rows().iter().map(json).collect();
    let results = json!({
        "machine": Machine::find()?,
        "quick": plan.quick,
        "rounds": plan.rounds(),
        "noise_limit": NOISE_LIMIT,
        "rows": rows,
        "notes": report.notes(),
    });
    let text = serde_json::to_string_pretty(&results)?;
    std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

fn json(row: &Row) -> Value {
    let spec = &row.spec;
    json!({
        "id": spec.id, "group": spec.group, "work": spec.work,
        "figure": row.figure, "unit": spec.unit, "spread": row.figure.spread(),
        "peer": spec.peer, "ratio": row.ratio, "bound": spec.bound, "met": row.met(), "noisy": row.noisy,
        "latency": row.latency, "requests_per_second": row.requests_per_second,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Spec;

    #[test]
    fn a_table_has_its_groups_ratios_and_verdicts() {
        let peer = Spec {
            id: "theirs",
            group: "known tokens",
            work: "",
            unit: "us",
            peer: None,
            bound: None,
        };
        let ours = Spec {
            id: "ours",
            peer: Some("theirs"),
            bound: Some(Bound::AtMost(1.0)),
            ..peer
        };
        let mut report = Report::default();
        report.add(Row::new(&peer, Summary::exactly(4.0)));
        let mut row = Row::new(&ours, Summary::exactly(5.0));
        row.compared(Some(Summary::exactly(1.25)));
        report.add(row);
        report.note("a note");
        let text = render(report.rows(), report.notes());
        let lines: Vec<_> = text
            .lines()
            .skip(2)
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .collect();
        let expected = [
            vec!["known", "tokens"],
            vec!["theirs", "4.00", "us"],
            vec![
                "ours",
                "5.00",
                "us",
                "theirs",
                "1.25",
                "(1.25-1.25)",
                "<=",
                "1",
                "MISSED",
            ],
            vec!["*", "a", "note"],
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn numbers_have_three_digits_that_matter() {
        assert_eq!([0.1234, 12.34, 1234.5].map(number), ["0.12", "12.3", "1234"]);
    }
}
