//! How unlike itself an agent behaves: a score from 0 to 100, moved by every call.
//!
//! # The mathematics
//!
//! Each signal is a tail probability `p` under what this agent usually does: of a thing at least as unusual, a count at
//! least as high. It is kept as bits of surprise, −log2 p. An honest call has a uniform `p`, so its surprise exceeds `b`
//! bits with probability 2^−b, whatever the agent does all day.
//!
//! 1. **What** is done: the step (a tool, or a service and method), the data (the scope), the service, and the step after
//!    the one before it. These four depend on each other, so the most surprising counts, less two bits for having had the
//!    choice of four (Bonferroni). The surprise of one call is capped, less a drift of 3 bits, and added to a running sum
//!    that never falls below zero and decays (a CUSUM). With surprise exponential in bits, the sum exceeds `x` with
//!    probability at most 2^(−0.8 x): 0.8 solves `2^(−3θ) = 1 − θ` from below (Lundberg's bound). Beside it the calls of at
//!    least 6 bits among the last 64 are counted, of which one is expected (Chernoff's bound): usual calls in between wash
//!    out a sum, and not a count. The more surprising of the two counts, less one bit.
//! 2. **How fast**: the calls of ten seconds, against what is usual in ten seconds that have any (a Chernoff bound).
//! 3. **How often denied**: the denials of a minute, against the share that is usual (the same).
//!
//! The three are combined as independent tests (`together`), and the score is a straight line in the bits of the
//! combination: with the default of 30 bits for 100, 70 is a probability of 2^−21 and 90 one of 2^−27. The score falls
//! again by halves, in ten minutes by default; while it is higher than what the signals say, it is what counts.
//!
//! All arithmetic is in whole numbers: the same observations give the same score on every machine.
//!
//! # Against those who know this
//!
//! - What an agent's file declares is where its habits start, so that the first call is judged too.
//! - Only permitted calls teach, and only while the score is low and nobody has paused the agent. Each teaches one use, and
//!   those of at least 6 bits only one a minute: whoever wants to make a thing usual has to do it more often than that, and
//!   is seen doing it.
//! - Denials for the agent's own state do not count: a paused agent that goes on asking proves nothing.
//! - What fails before a token is bound to its peer counts against the workload that sent it ([`reading`]), never against
//!   the agent that the token names: stolen tokens harm nobody but the thief.
//!
//! What it cannot see: an injection that does what the agent does anyway, at its own pace; one call; one that is spread so
//! thin that every use has decayed before the next. The response times and sizes of answers are not looked at.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::state::transition::Change;

mod bits;
mod habit;
pub mod reading;
mod reasons;
mod window;

use bits::{Bits, of_count, together};
use habit::{Habit, Order};
use reasons::Reasons;
use window::Window;

/// How surprising one call may be at most: no call pauses an agent by itself.
const MOST_OF_A_CALL: Bits = Bits::whole(12);
/// What an honest call may be surprising without adding to the sum.
const DRIFT: Bits = Bits::whole(3);
/// From here on a call is odd: with the choice of four, one honest call in 64 is.
const ODD: Bits = Bits::whole(6);
/// Of as many calls as the odd ones are counted among, so many are expected to be, in thousandths.
const EXPECTED_ODD: u64 = 1000;
/// Odd calls teach no more often than this.
const ODD_TEACHES_EVERY_MS: u64 = 60_000;
/// So many of the last calls are forgotten for each half-life that passes.
const FORGOTTEN_A_HALF_LIFE: u64 = 8;
/// How many signals say what is done, as bits: of four the most surprising counts.
const CHOICE_OF_FOUR: Bits = Bits::whole(2);
/// The CUSUM's exponent, as a fraction.
const EXPONENT: (u64, u64) = (4, 5);
/// User requests whose last step is remembered: agents work on several at once.
const MOST_REQUESTS: usize = 32;
/// Denials that one record may count for: one that aggregates a flood says no more than that there is one.
const MOST_OF_A_RECORD: u64 = 32;
/// What is shorter of a name than this is kept of it: names that callers choose may be long.
const MOST_NAME_BYTES: usize = 128;

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
    /// The score from which calls teach nothing.
    pub learn_below: u8,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pause_at: 70,
            suspend_at: 90,
            full_bits: 30,
            half_life_seconds: 600,
            learn_below: 30,
        }
    }
}

/// What an agent's file says that it does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declared {
    /// Steps: tools, and methods of services.
    pub steps: BTreeSet<String>,
    /// Scopes.
    pub data: BTreeSet<String>,
    /// Services.
    pub services: BTreeSet<String>,
}

/// One call, or several denials of one kind, as a record tells of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What was done: none of a failure that never came to be a call of the agent.
    pub call: Option<Call>,
    /// How many calls it stands for.
    pub count: u64,
    /// Whether they were denied.
    pub denied: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// A tool, or a service and a method.
    pub step: String,
    /// The scope that it needed.
    pub data: Option<String>,
    /// The service.
    pub service: Option<String>,
    /// The user request that it belongs to.
    pub request: Option<String>,
}

/// What is known of an agent. It serialises; what it says of itself is nobody's interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    steps: Habit,
    data: Habit,
    services: Habit,
    order: Order,
    /// The last steps of the newest user requests.
    requests: VecDeque<(String, String)>,
    window: Window,
    /// Calls that taught.
    taught: u64,
    /// The CUSUM, in 1/65536 of a bit.
    sum: u64,
    /// Which of the last 64 calls were odd, the newest in the lowest bit.
    odd: u64,
    /// When an odd call last taught, in milliseconds.
    odd_taught_ms: u64,
    /// In thousandths.
    score: u64,
    /// When sum and score were what they are, in milliseconds.
    at_ms: u64,
    reasons: Reasons,
    /// The number of the last change of state that a person made in the agent's favour.
    forgiven: u64,
}

impl Profile {
    /// The score at a time, from 0 to 100.
    #[must_use]
    pub fn score(&self, now_ms: u64, settings: &Settings) -> u8 {
        let score = decayed(self.score, now_ms.saturating_sub(self.at_ms), settings) / 1000;
        u8::try_from(score.min(100)).unwrap_or(100)
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

    /// A person has decided in the agent's favour: its score is 0 again, and its habits stay what they are. Doing so twice
    /// for one change does it once.
    pub fn forgive(&mut self, change: u64) {
        if change > self.forgiven {
            self.forgiven = change;
            self.sum = 0;
            self.odd = 0;
            self.score = 0;
            self.reasons = Reasons::default();
            self.window.forget();
        }
    }

    /// Takes over one observation; with `frozen` nothing is learnt from it.
    ///
    /// Time only advances: an observation that is older than the last counts as of the last's time.
    pub fn observe(&mut self, declared: &Declared, seen: &Observation, settings: &Settings, frozen: bool) {
        let at_ms = seen.at_ms.max(self.at_ms);
        let elapsed = at_ms - self.at_ms;
        let before = decayed(self.score, elapsed, settings);
        self.sum = decayed(self.sum, elapsed, settings);
        self.forget_odd(elapsed, settings);
        self.at_ms = at_ms;
        self.reasons.age(before / 1000);

        let low = !frozen && before / 1000 < u64::from(settings.learn_below);
        let count = seen.count.min(MOST_OF_A_RECORD);
        self.window
            .count(at_ms, count, if seen.denied { count } else { 0 }, low);
        if let Some(call) = &seen.call {
            let surprise = self.surprise_of(declared, &call.shortened());
            let added = Bits::from_raw(self.sum) + surprise.min(MOST_OF_A_CALL);
            self.sum = (added - DRIFT).raw();
            self.odd = (self.odd << 1) | u64::from(surprise >= ODD);
        }
        let sum = Bits::from_raw(self.sum).times(EXPONENT.0, EXPONENT.1);
        let odd = of_count(self.odd.count_ones().into(), EXPECTED_ODD);
        self.reasons.note_odd(odd, self.odd.count_ones());
        let what = sum.max(odd) - Bits::whole(1);
        let (rate, denials) = (self.window.rate_surprise(), self.window.denial_surprise());
        self.reasons
            .note_rate(rate, self.window.calls_in_step(), self.window.usual_calls());
        self.reasons.note_denials(denials, self.window.denials());
        let all = together([what, rate, denials]);
        let full = Bits::whole(u64::from(settings.full_bits.max(1)));
        let score = (all.raw().saturating_mul(100_000) / full.raw()).min(100_000);
        self.score = score.max(before);
        if !frozen && self.score / 1000 < u64::from(settings.learn_below) {
            self.learn(seen);
        }
        if let Some(call) = &seen.call {
            self.remember(&call.shortened());
        }
    }

    fn forget_odd(&mut self, elapsed_ms: u64, settings: &Settings) {
        let half_lives = elapsed_ms / settings.half_life_seconds.max(1).saturating_mul(1000);
        let forgotten = u32::try_from(half_lives.saturating_mul(FORGOTTEN_A_HALF_LIFE)).unwrap_or(u32::MAX);
        self.odd = self.odd.checked_shl(forgotten).unwrap_or(0);
    }

    /// The most surprising of what is done, noted in words.
    fn surprise_of(&mut self, declared: &Declared, call: &Call) -> Bits {
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
        let before = self.step_before(call);
        let order = self.order.surprise(&self.steps, &declared.steps, &before, &call.step);
        if !before.is_empty() {
            let uses = self.order.uses(&before, &call.step);
            self.reasons
                .note_order(order, &before, &call.step, uses, self.order.seen(&before));
        }
        most.max(order) - CHOICE_OF_FOUR
    }

    /// The step before in the same user request; empty at its beginning.
    fn step_before(&self, call: &Call) -> String {
        let request = call.request.as_deref().unwrap_or_default();
        let found = self.requests.iter().find(|(other, _)| other == request);
        found.map_or_else(String::new, |(_, step)| step.clone())
    }

    fn remember(&mut self, call: &Call) {
        let request = call.request.clone().unwrap_or_default();
        self.requests.retain(|(other, _)| *other != request);
        self.requests.push_back((request, call.step.clone()));
        if self.requests.len() > MOST_REQUESTS {
            self.requests.pop_front();
        }
    }

    /// Only what was permitted teaches what is usual; a denial teaches how often there are denials.
    fn learn(&mut self, seen: &Observation) {
        let Some(call) = seen.call.as_ref().map(Call::shortened) else {
            return;
        };
        self.window.learn_outcome(seen.denied);
        if seen.denied {
            return;
        }
        if self.odd & 1 == 1 {
            if self.at_ms - self.odd_taught_ms < ODD_TEACHES_EVERY_MS {
                return;
            }
            self.odd_taught_ms = self.at_ms;
        }
        self.taught += 1;
        self.order.learn(&self.step_before(&call), &call.step);
        self.steps.learn(&call.step);
        if let Some(data) = &call.data {
            self.data.learn(data);
        }
        if let Some(service) = &call.service {
            self.services.learn(service);
        }
    }
}

impl Call {
    /// With no name longer than is kept.
    fn shortened(&self) -> Self {
        Self {
            step: shortened(&self.step),
            data: self.data.as_deref().map(shortened),
            service: self.service.as_deref().map(shortened),
            request: self.request.as_deref().map(shortened),
        }
    }
}

fn shortened(name: &str) -> String {
    let end = (0..=MOST_NAME_BYTES.min(name.len()))
        .rev()
        .find(|end| name.is_char_boundary(*end));
    name.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
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
