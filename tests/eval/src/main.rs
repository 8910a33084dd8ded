//! How much of a hijack the risk engine sees: trained on honest runs of agents, shown others with attacks in them.
//!
//! * [`traces`] are the runs, [`attacks`] what is spliced into them, [`records`] the calls as records tell of them;
//! * [`scorers`] are the engine and three baselines, [`statistics`] the figures with their intervals;
//! * [`trial`] splits by task, trains and scores; [`table`] prints.
//!
//! Nothing here is timed but the cost of a call: all else is the same on every machine, for one `--seed`.

mod attacks;
mod draw;
mod records;
mod scorers;
mod statistics;
mod table;
mod traces;
mod trial;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;

use crate::trial::Trial;

/// Measures Ostiary's risk engine on traces of agents.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder of the traces; its README says what they are
    #[arg(value_name = "FOLDER")]
    traces: PathBuf,
    /// Other splits, times and splices
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Parts that the tasks are split into; each is scored by what was trained on the others
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(2..=50))]
    folds: u8,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let suites = traces::read(&arguments.traces)?;
    let others = &suites
        .get("workspace")
        .context("the traces hold no suite `workspace`")?
        .goals;
    let mut trials = Vec::new();
    for (number, (name, suite)) in suites.iter().enumerate() {
        let goals = attacks::goals(name, suite, others);
        let seeds = [arguments.seed, number as u64];
        trials.push(Trial::run(name, suite, &goals, usize::from(arguments.folds), &seeds));
    }
    print!("{}", table::of(&trials, arguments.seed));
    Ok(())
}
