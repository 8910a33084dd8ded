//! The figures as tables.

use std::fmt::Write;

use crate::attacks::Kind;
use crate::circumstances::{Change, Circumstances};
use crate::statistics::{Figure, Item, auroc, median_calls, stopped, upper_bound};
use crate::trial::{Tally, Trial};

/// In the order of the columns; the engine first.
const SCORERS: [&str; 4] = ["Ostiary", "never-seen tool", "rate", "Markov"];

/// Everything.
pub(crate) fn of(trials: &[Trial], circumstances: &[Circumstances], seed: u64) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = detection(&mut text, trials, seed);
    let _ = honest(&mut text, trials);
    let _ = streams(&mut text, trials);
    let _ = calibration(&mut text, trials);
    let _ = made_up(&mut text, circumstances, seed);
    let costs = trials.iter().map(|trial| (trial.observed, trial.nanoseconds));
    let with_ends = circumstances.iter().map(|trial| (trial.observed, trial.nanoseconds));
    let _ = writeln!(text, "A call costs {} on this machine;", cost(costs));
    let _ = writeln!(text, "with what comes of it, {}.", cost(with_ends));
    text
}

fn cost(costs: impl Iterator<Item = (u64, u128)>) -> String {
    let (calls, nanoseconds) = costs.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    format!("{:.1} us, the mean of {calls} calls", micros(nanoseconds, calls))
}

fn made_up(text: &mut String, trials: &[Circumstances], seed: u64) -> std::fmt::Result {
    writeln!(text, "## Sizes, times and hours, all made up\n")?;
    writeln!(
        text,
        "| what is unlike the run | suite | runs | AUROC (95 %) | stopped (95 %) | median calls |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|")?;
    let changed = |trial: &Circumstances, change| -> Vec<Item> {
        let changed = trial.changed.get(&change).into_iter().flatten();
        changed.chain(&trial.honest).cloned().collect()
    };
    for change in Change::ALL {
        for trial in trials {
            made_up_row(text, change, &trial.name, &changed(trial, change), seed)?;
        }
        let all: Vec<Vec<Item>> = trials.iter().map(|trial| changed(trial, change)).collect();
        made_up_row(text, change, "all", &numbered_apart(&all), seed)?;
    }
    let (mut paused, mut runs) = (0, 0);
    for trial in trials {
        paused += trial.honest.iter().filter(|item| item.stopped.is_some()).count();
        runs += trial.honest.len();
    }
    writeln!(text, "\nOf these honest runs {} were paused.\n", bounded(paused, runs))
}

fn made_up_row(text: &mut String, change: Change, suite: &str, items: &[Item], seed: u64) -> std::fmt::Result {
    let calls = median_calls(items).map_or_else(|| "-".to_owned(), |calls| calls.to_string());
    writeln!(
        text,
        "| {} | {suite} | {} | {} | {} | {calls} |",
        change.name(),
        items.len() / 2,
        plain(auroc(items, &[seed, 9])),
        percent(stopped(items, &[seed, 10])),
    )
}

fn detection(text: &mut String, trials: &[Trial], seed: u64) -> std::fmt::Result {
    for kind in Kind::ALL {
        writeln!(text, "## Attacks: {}\n", kind.name())?;
        writeln!(
            text,
            "| suite | attacks × runs | scorer | AUROC (95 %) | stopped (95 %) | median calls |"
        )?;
        writeln!(text, "|---|---|---|---|---|---|")?;
        for trial in trials {
            for scorer in SCORERS {
                row(text, &trial.name, scorer, kind, &trial.items(scorer, kind), seed)?;
            }
        }
        for scorer in SCORERS {
            row(text, "all", scorer, kind, &pooled(trials, scorer, kind), seed)?;
        }
        writeln!(text)?;
    }
    Ok(())
}

/// The items of all suites.
fn pooled(trials: &[Trial], scorer: &'static str, kind: Kind) -> Vec<Item> {
    let items: Vec<Vec<Item>> = trials.iter().map(|trial| trial.items(scorer, kind)).collect();
    numbered_apart(&items)
}

/// All items together: tasks and attacks of different suites are different ones.
fn numbered_apart(suites: &[Vec<Item>]) -> Vec<Item> {
    let (mut all, mut tasks, mut attacks) = (Vec::new(), 0, 0);
    for items in suites {
        all.extend(items.iter().map(|item| Item {
            task: item.task + tasks,
            attack: item.attack.map(|attack| attack + attacks),
            ..item.clone()
        }));
        tasks += items.iter().map(|item| item.task + 1).max().unwrap_or_default();
        attacks += items
            .iter()
            .filter_map(|item| item.attack)
            .map(|attack| attack + 1)
            .max()
            .unwrap_or_default();
    }
    all
}

fn row(text: &mut String, suite: &str, scorer: &str, kind: Kind, items: &[Item], seed: u64) -> std::fmt::Result {
    let mut attacks: Vec<usize> = items.iter().filter_map(|item| item.attack).collect();
    let pairs = attacks.len();
    attacks.sort_unstable();
    attacks.dedup();
    if pairs == 0 {
        return Ok(());
    }
    let calls = median_calls(items).map_or_else(|| "-".to_owned(), |calls| calls.to_string());
    writeln!(
        text,
        "| {suite} | {} × {}, {pairs} | {scorer} | {} | {} | {calls} |",
        attacks.len(),
        if kind == Kind::Control { "honest" } else { "each" },
        plain(auroc(items, &[seed, 7])),
        percent(stopped(items, &[seed, 8])),
    )
}

fn honest(text: &mut String, trials: &[Trial]) -> std::fmt::Result {
    writeln!(text, "## Honest runs\n")?;
    writeln!(
        text,
        "| suite | runs, tasks, calls | paused (at most, 95 %) | suspended | in a row: paused | never-seen tool | rate | Markov |"
    )?;
    writeln!(text, "|---|---|---|---|---|---|---|---|")?;
    let mut all = ([0; 4], 0, 0, Tally::default(), 0, 0);
    for trial in trials {
        let paused = SCORERS.map(|scorer| {
            let items = trial.honest.get(scorer).into_iter().flatten();
            items.filter(|item| item.stopped.is_some()).count()
        });
        honest_row(
            text,
            &trial.name,
            (trial.runs, trial.tasks, trial.calls),
            paused,
            trial.suspended,
            &trial.in_a_row,
        )?;
        for (sum, paused) in all.0.iter_mut().zip(paused) {
            *sum += paused;
        }
        all.1 += trial.runs;
        all.2 += trial.suspended;
        all.3.of += trial.in_a_row.of;
        all.3.paused_after.extend(&trial.in_a_row.paused_after);
        all.4 += trial.tasks;
        all.5 += trial.calls;
    }
    let (paused, runs, suspended, in_a_row, tasks, calls) = all;
    honest_row(text, "all", (runs, tasks, calls), paused, suspended, &in_a_row)?;
    writeln!(text)
}

fn honest_row(
    text: &mut String,
    suite: &str,
    (runs, tasks, calls): (usize, usize, usize),
    [ours, never_seen, rate, markov]: [usize; 4],
    suspended: usize,
    in_a_row: &Tally,
) -> std::fmt::Result {
    writeln!(
        text,
        "| {suite} | {runs}, {tasks}, {calls} | {} | {suspended} | {} | {never_seen} | {rate} | {markov} |",
        bounded(ours, runs),
        bounded(in_a_row.paused_after.len(), in_a_row.of),
    )
}

fn streams(text: &mut String, trials: &[Trial]) -> std::fmt::Result {
    writeln!(text, "## Poisoning and bursts\n")?;
    writeln!(
        text,
        "| suite | poisoning, a call in 4 s: paused, after calls | a call a minute: paused, after calls | burst: paused, after calls |"
    )?;
    writeln!(text, "|---|---|---|---|")?;
    for trial in trials {
        writeln!(
            text,
            "| {} | {} | {} | {} |",
            trial.name,
            after(&trial.poisoning),
            after(&trial.slow_poisoning),
            after(&trial.burst)
        )?;
    }
    writeln!(text)
}

fn calibration(text: &mut String, trials: &[Trial]) -> std::fmt::Result {
    writeln!(text, "## Honest calls, one after another: how many scored at least\n")?;
    writeln!(text, "| suite | calls | 10 | 20 | 30 | 40 | 50 | 60 | 70 |")?;
    writeln!(text, "|---|---|---|---|---|---|---|---|---|")?;
    for trial in trials {
        write!(text, "| {} | {} |", trial.name, trial.scores_in_a_row.len())?;
        for least in [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0] {
            let scores = trial.scores_in_a_row.iter();
            write!(text, " {} |", scores.filter(|score| **score >= least).count())?;
        }
        writeln!(text)?;
    }
    writeln!(text)
}

fn after(tally: &Tally) -> String {
    let mut calls = tally.paused_after.clone();
    calls.sort_unstable();
    let median = calls
        .get(calls.len() / 2)
        .map_or_else(|| "-".to_owned(), ToString::to_string);
    format!("{} of {}, {median}", calls.len(), tally.of)
}

fn bounded(k: usize, n: usize) -> String {
    format!("{k} of {n} ({:.2} %)", 100.0 * upper_bound(k, n))
}

fn plain(figure: Figure) -> String {
    format!("{:.3} ({:.3}-{:.3})", figure.value, figure.from, figure.to)
}

fn percent(figure: Figure) -> String {
    format!(
        "{:.0} % ({:.0}-{:.0})",
        100.0 * figure.value,
        100.0 * figure.from,
        100.0 * figure.to
    )
}

fn micros(nanoseconds: u128, calls: u64) -> f64 {
    let nanoseconds = u32::try_from(nanoseconds / u128::from(calls.max(1))).unwrap_or(u32::MAX);
    f64::from(nanoseconds) / 1000.0
}
