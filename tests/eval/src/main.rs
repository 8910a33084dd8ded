//! How much of a hijack the risk engine sees: trained on honest runs of agents, shown others with attacks in them.
//!
//! * [`traces`] are the runs, [`attacks`] what is spliced into them, [`records`] the calls as records tell of them;
//! * [`scorers`] are the engine and three baselines, [`statistics`] the figures with their intervals;
//! * [`trial`] splits by task, trains and scores; [`circumstances`] does so with sizes, times and hours that are made up;
//! * [`table`] prints.
//!
//! Nothing here is timed but the cost of a call: all else is the same on every machine, for one `--seed`.

mod attacks;
mod circumstances;
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

use crate::circumstances::Circumstances;
use crate::trial::Trial;

/// Measures Ostiary's risk engine on traces of agents.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder of the traces; its README says what they are
    #[arg(value_name = "FOLDER")]
    traces: PathBuf,
    /// Other splits, times and splices; the engine was tuned with 1 to 3
    #[arg(long, default_value_t = 4)]
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
    let (mut trials, mut circumstances) = (Vec::new(), Vec::new());
    for (number, (name, suite)) in suites.iter().enumerate() {
        let goals = attacks::goals(name, suite, others);
        let seeds = [arguments.seed, number as u64];
        let folds = usize::from(arguments.folds);
        let declared = suite.declared();
        trials.push(Trial::run(name, suite, &declared, &goals, folds, &seeds));
        circumstances.push(Circumstances::run(name, suite, &declared, folds, &seeds));
    }
    print!("{}", table::of(&trials, &circumstances, arguments.seed));
    Ok(())
}
