//! What `ostiary check --live` saw, for people.

use std::fmt::Write as _;

use super::count;
use crate::cli::output::{Printer, printable};
use crate::live::report::{ChainReport, Finding, PodReport, Report};

/// The pods with their listeners, then what is wrong, then how much of it there is.
pub(super) fn render(report: &Report, printer: &Printer) -> String {
    let mut text = String::new();
    let rows: Vec<_> = report.pods.iter().map(|pod| rows(&pod.chains)).collect();
    let widths = widths(rows.iter().flatten());
    for (pod, rows) in report.pods.iter().zip(&rows) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}{}", printer.strong(name(pod)), aside(pod));
        for row in rows {
            let _ = writeln!(text, "  {}", line(row, widths, printer));
        }
    }
    for finding in &report.findings {
        let _ = writeln!(text, "{}", told(finding, printer));
    }
    let pods = count(report.pods.len(), "pod");
    let _ = match report.ok {
        true => write!(text, "{} {pods}, {}", printer.good("ok:"), guarded(report)),
        false => write!(
            text,
            "{} in {pods}",
            printer.bad(count(report.findings.len(), "finding"))
        ),
    };
    text
}

fn guarded(report: &Report) -> String {
    let chains = report.pods.iter().flat_map(|pod| &pod.chains);
    let number = chains.filter(|chain| chain.module.is_some()).count();
    format!("the filter is in all {} that read requests", count(number, "chain"))
}

fn name(pod: &PodReport) -> String {
    printable(&format!("{}/{}", pod.namespace, pod.pod))
}

fn aside(pod: &PodReport) -> String {
    let label = pod.label.as_ref().map(|label| format!(" ({})", printable(label)));
    let excuse = pod.excuse.as_ref().map(|excuse| format!(": {}", printable(excuse)));
    label.unwrap_or_default() + &excuse.unwrap_or_default()
}

/// Chains of one listener of which the same is to be told.
struct Row<'a> {
    chain: &'a ChainReport,
    chains: usize,
}

impl Row<'_> {
    fn cells(&self) -> [String; 4] {
        let ChainReport {
            direction,
            listener,
            carries,
            module,
            ..
        } = self.chain;
        let chains = match self.chains {
            1 => (*carries).to_owned(),
            several => format!("{carries} ×{several}"),
        };
        let module = module.as_ref().map(ToString::to_string).unwrap_or_default();
        [direction.to_string(), printable(listener), chains, printable(&module)]
    }

    fn is_like(&self, other: &ChainReport) -> bool {
        let ChainReport {
            direction,
            listener,
            carries,
            module,
            excuse,
            faults,
            ..
        } = self.chain;
        (direction, listener, carries, module, excuse, faults)
            == (
                &other.direction,
                &other.listener,
                &other.carries,
                &other.module,
                &other.excuse,
                &other.faults,
            )
    }
}

fn rows(chains: &[ChainReport]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for chain in chains {
        match rows.iter_mut().find(|row| row.is_like(chain)) {
            Some(row) => row.chains += 1,
            None => rows.push(Row { chain, chains: 1 }),
        }
    }
    rows
}

fn widths<'a>(rows: impl Iterator<Item = &'a Row<'a>>) -> [usize; 4] {
    rows.fold([0; 4], |widths, row| {
        let mut cells = row.cells().into_iter().map(|cell| cell.chars().count());
        widths.map(|width| width.max(cells.next().unwrap_or_default()))
    })
}

fn line(row: &Row<'_>, widths: [usize; 4], printer: &Printer) -> String {
    let mut line = String::new();
    for (cell, width) in row.cells().into_iter().zip(widths) {
        let _ = write!(line, "{cell:width$}  ");
    }
    let codes: Vec<_> = row.chain.faults.iter().map(|fault| fault.code()).collect();
    let _ = match (row.chain.excuse, codes.is_empty()) {
        (Some(excuse), _) => write!(line, "{excuse}"),
        (None, true) => write!(line, "{}", printer.good("ok")),
        (None, false) => write!(line, "{}", printer.bad(codes.join(", "))),
    };
    line
}

fn told(finding: &Finding, printer: &Printer) -> String {
    let pod = finding
        .pod
        .as_ref()
        .map(|pod| format!("{}: ", printer.strong(printable(pod))));
    let listeners = match finding.listeners.is_empty() {
        true => String::new(),
        false => format!("{}: ", printable(&finding.listeners.join(", "))),
    };
    let message = printable(&finding.message);
    format!("{}{listeners}{message}; {}", pod.unwrap_or_default(), finding.advice)
}
