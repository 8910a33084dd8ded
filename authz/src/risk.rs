//! How unlike itself an agent behaves: a score from 0 to 100, moved by every call.
//!
//! # The mathematics
//!
//! Each signal is a tail probability `p` under what this agent usually does: of a thing at least as unusual, a count at
//! least as high. It is kept as bits of surprise, −log2 p. An honest call has a uniform `p`, so its surprise exceeds `b`
//! bits with probability 2^−b, whatever the agent does all day.
//!
//! 1. **What** is done ([`habit`], [`request`]): the step (a tool, or a service and a method), the data (the scope), the
//!    service; the step after the one before it, and in a request that began as this one did; how often the request uses
//!    the step, and how many calls it has made. These depend on each other, and what varies for one agent does not for
//!    another: so they only measure, and the probability of a call is the share of the agent's own calls that measured as
//!    much ([`calibration`]: a conformal p-value).
//!    What the calls of the request measure together, and how far it has come, each of all the agent's requests, are tests of
//!    their own beside.
//! 2. **How fast** ([`window`]): the calls of ten seconds, against what is usual in ten seconds that have any (a Chernoff
//!    bound).
//! 3. **How often denied**: the denials of a minute, against the share that is usual (the same).
//! 4. **In what circumstances**: the sizes of requests and answers and the times of answers, each against its step's, as the share
//!    of the agent's requests that measured as much ([`outcomes`]); the calls of a minute that the service refused, against the
//!    usual share; the hour of the day, against the hours in which the agent works ([`hours`]).
//!
//! One call proves little, so the last 1, 2, 4, 8 and 16 calls are taken together (Fisher's method), and the calls of at least
//! 6 bits among the last 64 are counted, of which one is expected: usual calls in between wash out a sum, and not a count.
//! All these tests and the other kinds are combined by their weights ([`evidence`]: a weighted Bonferroni bound), and
//! the score is a straight line in the bits of the combination: with the default of 15 bits for 100, 70 is a probability of
//! 2^−10.5 and 90 one of 2^−13.5. The score falls again by halves, in ten minutes by default; while it is higher than what the
//! signals say, it is what counts. No circumstance is worth a pause by itself, however surprising: answers grow with the data,
//! services are slow or changed for everybody, and honest work is done at night.
//!
//! All arithmetic is in whole numbers: the same observations give the same score on every machine.
//!
//! # Against those who know this
//!
//! - What an agent's file declares is where its habits start, so that the first call is judged too.
//! - Only permitted calls teach, and only while the score is low and nobody has paused the agent. Each teaches one use, and
//!   those of at least 6 bits only one a minute: whoever wants to make a thing usual has to do it more often than that, and
//!   is seen doing it.
//! - The end of a call is told by a record of its own and counts as no call. It teaches as calls do; one hour of the day is
//!   taught once a day.
//! - Denials for the agent's own state do not count: a paused agent that goes on asking proves nothing.
//! - What fails before a token is bound to its peer counts against the workload that sent it ([`reading`]), never against
//!   the agent that the token names: stolen tokens harm nobody but the thief.
//!
//! What it cannot see: an injection that does what the agent does anyway, at its own pace; one call; one that is spread so
//! thin that every use has decayed before the next. How much of this it sees on traces of agents, `make eval` measures.

use serde::{Deserialize, Serialize};

use crate::state::transition::Change;

mod bits;
mod calibration;
mod evidence;
mod habit;
mod hours;
mod observation;
mod outcomes;
pub mod reading;
mod reasons;
mod request;
mod window;

use bits::Bits;
use calibration::Calibration;
use evidence::{Beside, Evidence};
use habit::{Habit, Order};
use hours::Hours;
pub use observation::{Call, Declared, End, Observation};
use outcomes::Outcomes;
use reasons::Reasons;
use request::{Open, Reach, Requests};
use window::Window;

/// How surprising one call may be at most: no call pauses an agent by itself.
const MOST_OF_A_CALL: Bits = Bits::whole(12);
/// Odd calls teach no more often than this.
const ODD_TEACHES_EVERY_MS: u64 = 60_000;
/// Calls that must have taught before what was never used is left out of a token.
const KNOWN_AFTER: u64 = 64;
/// Denials that one record may count for: one that aggregates a flood says no more than that there is one.
const MOST_OF_A_RECORD: u64 = 32;

/// What is tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The score at which an agent is paused.
    pub pause_at: u8,
    /// The score at which it is suspended.
    pub suspend_at: u8,
    /// The bits of surprise that are a score of 100.
    pub full_bits: u32,
    /// In how many seconds a score falls to its half.
    pub half_life_seconds: u64,
    /// The score from which calls teach nothing, and tokens are short and narrow.
    pub learn_below: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pause_at: 70,
            suspend_at: 90,
            full_bits: 15,
            half_life_seconds: 600,
            learn_below: 50,
        }
    }
}

/// What is known of an agent. It serialises; what it says of itself is nobody's interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    steps: Habit,
    data: Habit,
    services: Habit,
    /// What follows a step.
    order: Order,
    /// What comes in requests that begin with a step.
    kinds: Order,
    reach: Reach,
    calibration: Calibration,
    /// What the calls of requests measured together.
    requests: Calibration,
    /// The newest user requests.
    open: Requests,
    evidence: Evidence,
    window: Window,
    hours: Hours,
    outcomes: Outcomes,
    /// Calls that taught.
    taught: u64,
    /// When an odd call last taught, in milliseconds.
    odd_taught_ms: u64,
    /// In thousandths.
    score: u64,
    /// When the score was what it is, in milliseconds.
    at_ms: u64,
    reasons: Reasons,
    /// The number of the last change of state that a person made in the agent's favour.
    forgiven: u64,
}

/// One call as it is judged, and what it would teach.
#[derive(Debug)]
struct Judged {
    call: Call,
    open: Open,
    measured: Bits,
    whole: Bits,
    extent: Bits,
}

impl Profile {
    /// The score at a time, from 0 to 100.
    #[must_use]
    pub fn score(&self, now_ms: u64, settings: &Settings) -> u8 {
        u8::try_from(self.score_thousandths(now_ms, settings) / 1000).unwrap_or(100)
    }

    /// The same, from 0 to 100,000: for whoever compares agents that are all far from any threshold.
    #[must_use]
    pub fn score_thousandths(&self, now_ms: u64, settings: &Settings) -> u64 {
        decayed(self.score, now_ms.saturating_sub(self.at_ms), settings).min(100_000)
    }

    /// Why the score is what it is, the weightiest first; in words for people.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        self.reasons.words()
    }

    /// What the score asks for, if it asks for anything.
    #[must_use]
    pub fn verdict(&self, now_ms: u64, settings: &Settings) -> Option<Change> {
        let score = self.score(now_ms, settings);
        if score >= settings.suspend_at {
            Some(Change::Suspend)
        } else if score >= settings.pause_at {
            Some(Change::Pause)
        } else {
            None
        }
    }

    /// Whether a token of this agent is to be short and narrow: its score is high, and does not pause it yet.
    #[must_use]
    pub fn is_elevated(&self, now_ms: u64, settings: &Settings) -> bool {
        self.score(now_ms, settings) >= settings.learn_below
    }

    /// Whether enough is known of the agent that what it never used says something.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.taught >= KNOWN_AFTER
    }

    /// Whether it has used a tool, or made a step of another name.
    #[must_use]
    pub fn has_used(&self, step: &str) -> bool {
        self.steps.uses(step) > 0
    }

    /// Whether it has used a scope.
    #[must_use]
    pub fn has_used_data(&self, scope: &str) -> bool {
        self.data.uses(scope) > 0
    }

    /// A person has decided in the agent's favour: its score is 0 again, and its habits stay what they are. Doing so twice
    /// for one change does it once; says whether it had not been done.
    pub fn forgive(&mut self, change: u64) -> bool {
        let is_new = change > self.forgiven;
        if is_new {
            self.forgiven = change;
            self.evidence = Evidence::default();
            self.score = 0;
            self.reasons = Reasons::default();
            self.window.forget();
            self.open.forget();
            self.hours.forget();
            self.outcomes.forget();
        }
        is_new
    }

    /// Takes over one observation; with `frozen` nothing is learnt from it.
    ///
    /// Time only advances: an observation that is older than the last counts as of the last's time.
    pub fn observe(&mut self, declared: &Declared, seen: &Observation, settings: &Settings, frozen: bool) {
        let at_ms = seen.at_ms.max(self.at_ms);
        let before = decayed(self.score, at_ms - self.at_ms, settings);
        self.at_ms = at_ms;
        self.evidence.age(at_ms, settings);
        self.reasons.age(before / 1000);

        let low = !frozen && before / 1000 < u64::from(settings.learn_below);
        let count = seen.count.min(MOST_OF_A_RECORD);
        self.window
            .count(at_ms, count, if seen.denied { count } else { 0 }, low);
        let judged = seen.call.as_ref().map(|call| self.judge(declared, call.shortened()));
        if let Some(judged) = &judged {
            let surprise = self.calibration.surprise(judged.measured);
            self.evidence.add(surprise.min(MOST_OF_A_CALL));
            self.hours.visit(at_ms);
        }
        let ended = seen.end.as_ref().map(|end| self.end(end, low));
        let sizes = match (&judged, &ended) {
            (_, Some((_, surprise))) => *surprise,
            (Some(judged), None) => {
                let request = judged.call.request.as_deref();
                self.outcomes.surprise(request, at_ms, settings)
            }
            (None, None) => Bits::ZERO,
        };
        let request = judged.as_ref().map(|judged| (judged.whole, judged.extent));
        let full = Bits::whole(u64::from(settings.full_bits.max(1)));
        let score = (self
            .weigh(request.unwrap_or_default(), sizes)
            .raw()
            .saturating_mul(100_000)
            / full.raw())
        .min(100_000);
        self.score = score.max(before);
        // A single odd call of an agent that behaves teaches too, or what is new to it would stay so.
        let teaches = low && self.score / 1000 < u64::from(settings.pause_at);
        if let Some(mut judged) = judged {
            if teaches {
                self.learn(&mut judged, seen.denied);
            }
            if !seen.denied {
                self.outcomes.begin(&judged.call);
            }
            if judged.call.request.is_some() {
                self.open.advance(judged.open, &judged.call.step);
            }
        }
        if let Some((ended, _)) = ended {
            self.outcomes.note_lateness(&ended);
            if teaches {
                self.outcomes.learn(&ended, at_ms);
            }
        }
    }

    /// All signals together, noted in words.
    fn weigh(&mut self, (whole, extent): (Bits, Bits), sizes: Bits) -> Bits {
        let (number, odd) = self.evidence.odd();
        self.reasons.note_odd(odd, number);
        let beside = Beside {
            whole,
            extent,
            rate: self.window.rate_surprise(),
            denials: self.window.denial_surprise(),
            sizes,
            failures: self.window.failure_surprise(),
            hour: self.hours.surprise(),
        };
        let (calls, usual) = (self.window.calls_in_step(), self.window.usual_calls());
        self.reasons.note_rate(beside.rate, calls, usual);
        self.reasons.note_denials(beside.denials, self.window.denials());
        let (failures, ends) = self.window.failures();
        self.reasons.note_failures(beside.failures, failures, ends);
        self.reasons.note_hour(beside.hour, self.hours.usual(), self.taught);
        self.evidence.together(&beside)
    }

    /// Measures how unusual what came of a call is, notes why, and says how surprising its request is by now.
    fn end(&mut self, end: &End, teaches: bool) -> (outcomes::Judged, Bits) {
        if let Some(failed) = end.failed {
            self.window.end(self.at_ms, failed, teaches);
        }
        let judged = self.outcomes.judge(end.shortened());
        for measure in &judged.measures {
            self.reasons.note_outcome(&judged.step, measure);
        }
        let surprise = self.outcomes.add(&judged, self.at_ms);
        (judged, surprise)
    }

    /// Measures how unusual a call is, and notes why.
    fn judge(&mut self, declared: &Declared, call: Call) -> Judged {
        let mut open = match &call.request {
            Some(request) => self.open.open(request),
            // What belongs to no request is one of its own.
            None => Open::default(),
        };
        let measured = self.use_surprise(declared, &call)
            + self.order_surprise(declared, &call.step, &open)
            + self.reach_surprise(&call.step, &open);
        open.whole.add(measured);
        let (mut whole, mut extent) = (Bits::ZERO, Bits::ZERO);
        if call.request.is_some() {
            let (calls, uses) = (open.calls + 1, open.uses(&call.step) + 1);
            extent = self.reach.extent_surprise(&call.step, calls, uses);
            whole = self.requests.surprise(open.whole.measured()).min(MOST_OF_A_CALL);
            self.reasons.note_whole(whole, calls);
        }
        Judged {
            call,
            open,
            measured,
            whole,
            extent,
        }
    }

    /// How unusual it is to use this at all: the most unusual of step, data and service.
    fn use_surprise(&mut self, declared: &Declared, call: &Call) -> Bits {
        let step = self.steps.surprise(&declared.steps, &call.step);
        self.reasons
            .note_use(step, &call.step, self.steps.uses(&call.step), self.taught);
        let mut most = step;
        if let Some(data) = &call.data {
            let surprise = self.data.surprise(&declared.data, data);
            self.reasons.note_use(surprise, data, self.data.uses(data), self.taught);
            most = most.max(surprise);
        }
        if let Some(service) = &call.service {
            let surprise = self.services.surprise(&declared.services, service);
            if self.services.uses(service) == 0 {
                self.reasons.note_contact(surprise, service);
            }
            most = most.max(surprise);
        }
        most
    }

    /// How unusual it is to do this now: after the step before, and in a request that began as this one did.
    fn order_surprise(&mut self, declared: &Declared, step: &str, open: &Open) -> Bits {
        let Open { first, last, .. } = open;
        let order = self.order.surprise(&self.steps, &declared.steps, last, step);
        if open.calls == 0 {
            return order;
        }
        let kind = self.kinds.surprise(&self.steps, &declared.steps, first, step);
        // Of what was never used at all its place says nothing more.
        if self.steps.uses(step) > 0 {
            let uses = self.order.uses(last, step);
            self.reasons.note_order(order, last, step, uses, self.order.seen(last));
            let uses = self.kinds.uses(first, step);
            self.reasons.note_kind(kind, first, step, uses, self.kinds.seen(first));
        }
        order.max(kind)
    }

    /// How unusual it is to go on with a request so far.
    fn reach_surprise(&mut self, step: &str, open: &Open) -> Bits {
        let (uses, calls) = (open.uses(step) + 1, open.calls + 1);
        let repetition = self.reach.repetition_surprise(step, uses);
        self.reasons.note_repetition(repetition, step, uses);
        let length = self.reach.length_surprise(calls);
        self.reasons.note_length(length, calls);
        repetition.max(length)
    }

    /// Only what was permitted teaches what is usual; a denial teaches how often there are denials.
    fn learn(&mut self, judged: &mut Judged, denied: bool) {
        self.window.learn_outcome(denied);
        if denied {
            return;
        }
        self.hours.learn();
        if self.evidence.newest_is_odd() {
            if self.at_ms - self.odd_taught_ms < ODD_TEACHES_EVERY_MS {
                return;
            }
            self.odd_taught_ms = self.at_ms;
        }
        let Judged {
            call, open, measured, ..
        } = judged;
        self.taught += 1;
        self.calibration.learn(*measured);
        if call.request.is_some() {
            open.whole.learn(&mut self.requests);
        }
        self.order.learn(&open.last, &call.step);
        if open.calls > 0 {
            self.kinds.learn(&open.first, &call.step);
        }
        self.reach.learn(&call.step, open.calls + 1, open.uses(&call.step) + 1);
        self.steps.learn(&call.step);
        if let Some(data) = &call.data {
            self.data.learn(data);
        }
        if let Some(service) = &call.service {
            self.services.learn(service);
        }
    }
}

/// Halves a value for each half-life, and in between along a straight line: whole numbers, and never too little.
fn decayed(value: u64, elapsed_ms: u64, settings: &Settings) -> u64 {
    let half_life = settings.half_life_seconds.max(1).saturating_mul(1000);
    let halved = u32::try_from(elapsed_ms / half_life)
        .ok()
        .and_then(|times| value.checked_shr(times))
        .unwrap_or(0);
    let rest = elapsed_ms % half_life;
    let kept = u128::from(halved) * u128::from(2 * half_life - rest) / u128::from(2 * half_life);
    u64::try_from(kept).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
