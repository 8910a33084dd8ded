//! The bench of Ostiary: what it costs beside what a user would run instead, measured in one run.
//!
//! Peers and Ostiary take turns in rounds, so that what the machine does meanwhile happens to both. Every figure is the
//! median over the rounds with its spread; a row that is too noisy says so and shows no ratio.
//!
//! * [`plan`] says what of it all is wanted, [`row`] what a row is, [`report`] gathers rows, [`table`] prints them;
//! * [`rounds`] turns samples into medians, [`cpu`] reads what a process has used, [`drive`] generates load;
//! * [`chains`] are real Envoys, one a filter chain; [`memory`] is what the filter adds to one; [`micro`] are functions
//!   one by one; [`server`] is the policy server, with the agents of [`population`]; [`kills`] are agents killed under load.
//!
//! A section is a module with `ROWS`, which are known before anything runs, and `run`.

mod chains;
mod cpu;
mod drive;
mod kills;
mod machine;
mod memory;
mod micro;
mod plan;
mod population;
mod report;
mod rounds;
mod row;
mod server;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use crate::machine::Machine;
use crate::plan::Plan;
use crate::report::Report;
use crate::row::Spec;

/// Measures Ostiary beside its peers and prints one table.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Measures these sections, groups or rows only (and what they are compared with)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Does everything once with tiny counts: shows that the tool works, and nothing else
    #[arg(long)]
    quick: bool,
    /// Prints the ids of all rows and measures nothing
    #[arg(long)]
    list: bool,
    /// Where the results go as JSON, by default target/bench/results.json
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What the bench starts as processes of their own, to know what they cost.
#[derive(Debug, Subcommand)]
enum Part {
    /// Plays an external authorizer that always says yes
    #[command(hide = true)]
    Authorizer { address: SocketAddr },
}

/// Every section, in the order of the table.
const SECTIONS: [(&str, &[Spec]); 5] = [
    ("chains", chains::ROWS),
    ("micro", micro::ROWS),
    ("memory", memory::ROWS),
    ("server", server::ROWS),
    ("kills", kills::ROWS),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    if let Some(Part::Authorizer { address }) = arguments.part {
        return chains::authorizer::serve(address).await;
    }
    if arguments.list {
        for row in SECTIONS.iter().flat_map(|(_, rows)| *rows) {
            println!("{}", row.id);
        }
        return Ok(());
    }
    let name = if arguments.quick {
        "bench/quick.json"
    } else {
        "bench/results.json"
    };
    let output = arguments.output.unwrap_or_else(|| ::tests::built::target().join(name));
    let plan = Plan::new(arguments.only, arguments.quick, output, &SECTIONS)?;
    let mut report = Report::default();
    println!("{}\n", Machine::find()?);
    if plan.wants_any("chains", chains::ROWS) {
        chains::run(&plan, &mut report).await?;
    }
    if plan.wants_any("micro", micro::ROWS) {
        micro::run(&plan, &mut report).await?;
    }
    if plan.wants_any("memory", memory::ROWS) {
        memory::run(&plan, &mut report).await?;
    }
    if plan.wants_any("server", server::ROWS) {
        server::run(&plan, &mut report).await?;
    }
    if plan.wants_any("kills", kills::ROWS) {
        kills::run(&plan, &mut report).await?;
    }
    for (section, rows) in SECTIONS {
        let mut wanted = rows.iter().filter(|row| plan.wants(section, row));
        let missing = wanted.find(|row| !report.rows().iter().any(|done| done.spec.id == row.id));
        if let Some(row) = missing {
            bail!("`{}` was not measured", row.id);
        }
    }
    if plan.quick {
        report.note("a quick run: the tool works; the figures and verdicts mean nothing");
    }
    report.relate();
    println!("\nall of it");
    print!("{}", table::render(report.rows(), report.notes()));
    table::write(&report, &plan)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeSet;

    use super::SECTIONS;

    /// The rows of the last full table: they stand indented in a block of text, the groups do not.
    #[test]
    fn the_page_has_the_rows_of_the_bench_in_their_order() {
        let page = ::tests::built::workspace().join("docs/performance.md");
        let page = std::fs::read_to_string(page).unwrap();
        let table = page.split("<!-- the last full table -->").nth(1).unwrap();
        let table = table.split("```").nth(1).unwrap();
        let documented: Vec<_> = table
            .lines()
            .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
            .collect();
        let rows = SECTIONS.iter().flat_map(|(_, rows)| *rows);
        assert_eq!(documented, rows.map(|row| row.id).collect::<Vec<_>>());
    }

    #[test]
    fn every_row_has_an_id_of_its_own_and_a_peer_that_exists() {
        let rows = || SECTIONS.iter().flat_map(|(_, rows)| *rows);
        let ids: BTreeSet<_> = rows().map(|row| row.id).collect();
        assert_eq!(ids.len(), rows().count());
        for row in rows() {
            assert!(row.peer.is_none_or(|peer| ids.contains(peer)), "{}", row.id);
            assert!(!ids.contains(row.group), "the group `{}` is named as a row", row.group);
        }
    }

    #[test]
    fn the_rows_of_a_section_stand_by_their_groups() {
        for (_, rows) in SECTIONS {
            let mut groups: Vec<_> = rows.iter().map(|row| row.group).collect();
            groups.dedup();
            let different: BTreeSet<_> = groups.iter().collect();
            assert_eq!(different.len(), groups.len());
            assert!(!groups.first().unwrap().is_empty());
        }
    }
}
