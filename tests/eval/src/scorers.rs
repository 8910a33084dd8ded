//! The engine and the three baselines beside it, each trained on honest runs and then shown one run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use authz::risk::{Declared, Profile, Settings};

use crate::draw::Draw;
use crate::records::{Clock, observation};
use crate::traces::Run;

/// A call at its time.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) tool: String,
    pub(crate) request: String,
    pub(crate) at_ms: u64,
}

/// A request's calls at times that are made up.
pub(crate) fn schedule(tools: &[String], request: &str, clock: &mut Clock) -> Vec<Call> {
    let calls = tools.iter().enumerate().map(|(index, tool)| Call {
        tool: tool.clone(),
        request: request.to_owned(),
        at_ms: if index == 0 { clock.request() } else { clock.call() },
    });
    calls.collect()
}

/// What scores calls. Each score is of the run so far.
pub(crate) trait Scorer {
    fn name(&self) -> &'static str;
    /// The score after each call of a run.
    fn play(&self, calls: &[Call]) -> Vec<f64>;
    /// From here on an agent is paused.
    fn pause_at(&self) -> f64;
}

/// Ostiary's engine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    pub(crate) profile: Profile,
    pub(crate) declared: Declared,
    pub(crate) settings: Settings,
    /// Calls, and the time that they took.
    pub(crate) calls: u64,
    pub(crate) nanoseconds: u128,
}

impl Engine {
    /// An agent of whom nothing is known but its file.
    pub(crate) fn new(declared: Declared) -> Self {
        Self {
            profile: Profile::default(),
            declared,
            settings: Settings::default(),
            calls: 0,
            nanoseconds: 0,
        }
    }

    /// Scores one call, from 0 to 100.
    pub(crate) fn observe(&mut self, call: &Call) -> f64 {
        let Some(seen) = observation(&call.tool, &call.request, call.at_ms) else {
            return 0.0;
        };
        let started = Instant::now();
        self.profile.observe(&self.declared, &seen, &self.settings, false);
        self.nanoseconds += started.elapsed().as_nanos();
        self.calls += 1;
        self.score(call.at_ms)
    }

    pub(crate) fn score(&self, at_ms: u64) -> f64 {
        let thousandths = self.profile.score_thousandths(at_ms, &self.settings);
        f64::from(u32::try_from(thousandths).unwrap_or(u32::MAX)) / 1000.0
    }
}

impl Scorer for Engine {
    fn name(&self) -> &'static str {
        "Ostiary"
    }

    fn play(&self, calls: &[Call]) -> Vec<f64> {
        let mut engine = self.clone();
        calls.iter().map(|call| engine.observe(call)).collect()
    }

    fn pause_at(&self) -> f64 {
        f64::from(self.settings.pause_at)
    }
}

/// Counts the calls of tools that were never used before. One pauses.
#[derive(Debug)]
pub(crate) struct NeverSeen(BTreeSet<String>);

impl Scorer for NeverSeen {
    fn name(&self) -> &'static str {
        "never-seen tool"
    }

    fn play(&self, calls: &[Call]) -> Vec<f64> {
        running(calls, 0.0, |count, index| {
            let new = calls.get(index).is_some_and(|call| !self.0.contains(&call.tool));
            count + f64::from(u8::from(new))
        })
    }

    fn pause_at(&self) -> f64 {
        1.0
    }
}

/// The most calls in ten seconds. More than ever in training pause.
#[derive(Debug)]
pub(crate) struct Rate {
    most: f64,
}

impl Scorer for Rate {
    fn name(&self) -> &'static str {
        "rate"
    }

    fn play(&self, calls: &[Call]) -> Vec<f64> {
        running(calls, 0.0, |most, index| {
            let now = calls.get(index).map_or(0, |call| call.at_ms);
            let recent = calls.iter().take(index + 1).filter(|call| now - call.at_ms < 10_000);
            f64::max(most, f64::from(u32::try_from(recent.count()).unwrap_or(u32::MAX)))
        })
    }

    fn pause_at(&self) -> f64 {
        self.most + 1.0
    }
}

/// The least probable step after another, in bits, smoothed by half a use of every tool. Less probable ones than any in
/// training pause.
#[derive(Debug, Default)]
pub(crate) struct Markov {
    rows: BTreeMap<String, BTreeMap<String, u32>>,
    tools: usize,
    most: f64,
}

impl Markov {
    fn bits(&self, before: &str, tool: &str) -> f64 {
        let row = self.rows.get(before);
        let uses = row.and_then(|row| row.get(tool)).copied().unwrap_or_default();
        let all: u32 = row.map_or(0, |row| row.values().sum());
        let tools = f64::from(u32::try_from(self.tools).unwrap_or(u32::MAX));
        -((f64::from(uses) + 0.5) / (f64::from(all) + 0.5 * tools)).log2()
    }
}

impl Scorer for Markov {
    fn name(&self) -> &'static str {
        "Markov"
    }

    fn play(&self, calls: &[Call]) -> Vec<f64> {
        running(calls, 0.0, |most, index| {
            let before = index.checked_sub(1).and_then(|before| calls.get(before));
            let before = before.map_or("", |call| call.tool.as_str());
            let tool = calls.get(index).map_or("", |call| call.tool.as_str());
            f64::max(most, self.bits(before, tool))
        })
    }

    fn pause_at(&self) -> f64 {
        self.most + 1e-9
    }
}

/// A score of each run so far.
fn running(calls: &[Call], start: f64, mut next: impl FnMut(f64, usize) -> f64) -> Vec<f64> {
    let scores = (0..calls.len()).scan(start, |score, index| {
        *score = next(*score, index);
        Some(*score)
    });
    scores.collect()
}

/// The engine first, then the baselines, all trained on the same runs at the same times; and the clock afterwards.
pub(crate) fn train(declared: &Declared, training: &[&Run], seeds: &[u64]) -> (Engine, Vec<Box<dyn Scorer>>, Clock) {
    let mut order = training.to_vec();
    Draw::new(seeds).shuffle(&mut order);
    let mut clock = Clock::new(seeds);
    let runs: Vec<Vec<Call>> = order
        .iter()
        .enumerate()
        .map(|(number, run)| schedule(&run.tools, &format!("training {number}"), &mut clock))
        .collect();
    let mut engine = Engine::new(declared.clone());
    for call in runs.iter().flatten() {
        engine.observe(call);
    }
    let never_seen = NeverSeen(runs.iter().flatten().map(|call| call.tool.clone()).collect());
    let mut rate = Rate { most: 0.0 };
    let mut markov = Markov {
        tools: declared.steps.len(),
        ..Markov::default()
    };
    for run in &runs {
        let mut before = "";
        for call in run {
            let row = markov.rows.entry(before.to_owned()).or_default();
            *row.entry(call.tool.clone()).or_default() += 1;
            before = &call.tool;
        }
    }
    let most = |scorer: &dyn Scorer| runs.iter().map(|run| peak(&scorer.play(run))).fold(0.0, f64::max);
    rate.most = most(&rate);
    markov.most = most(&markov);
    (
        engine,
        vec![Box::new(never_seen), Box::new(rate), Box::new(markov)],
        clock,
    )
}

/// The highest score of a run.
pub(crate) fn peak(scores: &[f64]) -> f64 {
    scores.iter().copied().fold(0.0, f64::max)
}

/// After how many calls from `begins` on a run is paused, the pausing one among them.
pub(crate) fn calls_until(scores: &[f64], begins: usize, threshold: f64) -> Option<usize> {
    let first = scores.iter().position(|score| *score >= threshold)?;
    // What was paused before the attack began is no merit of anybody.
    first.checked_sub(begins).map(|calls| calls + 1)
}
