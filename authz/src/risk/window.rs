//! Calls, denials and failures of the last minute, in steps of ten seconds, and how many there usually are.

use serde::{Deserialize, Serialize};

use super::bits::{Bits, of_count};

/// One step.
const STEP_MS: u64 = 10_000;
/// Steps that make the window.
const STEPS: usize = 6;

/// In thousandths of a call a step: what is expected of an agent that nobody knows yet.
const UNKNOWN_RATE: u64 = 20_000;
/// Steps with calls until an agent's own rate counts.
const KNOWN_AFTER: u64 = 30;
/// Honest agents work in bursts, which Poisson's tail does not know: so much of the mean is expected.
const OVERDISPERSION: u64 = 2;
/// Never fewer than this are expected in a step, in thousandths: a chatty minute of a quiet agent is no attack.
const LEAST_RATE: u64 = 5_000;
/// Steps after which all counts are halved.
const MOST_STEPS: u64 = 1024;

/// Denials expected of a call, and failures of its end: those of an agent that nobody knows are one in a hundred.
const PRIOR_CALLS: u64 = 100;
/// Never fewer denials than this are expected in the window, in thousandths.
const LEAST_DENIALS: u64 = 200;

/// Failures of an agent come together, since it tries again what has failed: so many times their share is expected.
const FAILURES_COME_TOGETHER: u64 = 2;
/// Never fewer failures than this are expected in the window, in thousandths.
const LEAST_FAILURES: u64 = 1000;
/// Honest agents ask for what is not there, too: failures pause nobody by themselves.
const MOST_OF_FAILURES: Bits = Bits::whole(10);

/// Counts of one step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Step {
    number: u64,
    calls: u64,
    denials: u64,
    /// Calls whose end says whether they failed, and those that did.
    ends: u64,
    failures: u64,
}

/// The last minute, and what is usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Window {
    steps: [Step; STEPS],
    /// Steps that had calls, and the calls in them: what taught the rate.
    taught_steps: u64,
    taught_calls: u64,
    /// Calls that taught how often denials come, and the denials.
    taught_outcomes: u64,
    taught_denials: u64,
    /// Ends of calls that taught how often they fail, and the failures.
    taught_ends: u64,
    taught_failures: u64,
}

impl Window {
    /// Counts calls at `at_ms`; `teaches` says that the step that is over by now may teach the rate.
    pub(super) fn count(&mut self, at_ms: u64, calls: u64, denials: u64, teaches: bool) {
        let newest = self.newest();
        if at_ms / STEP_MS > newest.number && newest.calls > 0 && teaches {
            self.learn_rate(newest.calls);
        }
        if let Some(step) = self.step(at_ms) {
            step.calls = step.calls.saturating_add(calls);
            step.denials = step.denials.saturating_add(denials);
        }
    }

    /// Counts the end of a call at the time that was counted last; one that teaches says how often they fail.
    pub(super) fn end(&mut self, at_ms: u64, failed: bool, teaches: bool) {
        if let Some(step) = self.step(at_ms) {
            step.ends = step.ends.saturating_add(1);
            step.failures = step.failures.saturating_add(u64::from(failed));
        }
        if teaches {
            self.taught_ends += 1;
            self.taught_failures += u64::from(failed);
            if self.taught_ends >= MOST_STEPS * 8 {
                self.taught_ends /= 2;
                self.taught_failures /= 2;
            }
        }
    }

    /// The step of a time, which is not before that of any other.
    fn step(&mut self, at_ms: u64) -> Option<&mut Step> {
        let number = at_ms / STEP_MS;
        let step = self.steps.get_mut((number % STEPS as u64) as usize)?;
        if step.number != number {
            *step = Step {
                number,
                ..Step::default()
            };
        }
        Some(step)
    }

    /// Forgets the last minute, and nothing of what is usual.
    pub(super) fn forget(&mut self) {
        self.steps = [Step::default(); STEPS];
    }

    fn newest(&self) -> Step {
        self.steps
            .iter()
            .copied()
            .max_by_key(|step| step.number)
            .unwrap_or_default()
    }

    /// One step teaches at most twice what is expected: no burst makes the next one usual.
    fn learn_rate(&mut self, calls: u64) {
        self.taught_calls += calls.min(self.expected_calls() * 2 / 1000);
        self.taught_steps += 1;
        if self.taught_steps >= MOST_STEPS {
            self.taught_steps /= 2;
            self.taught_calls /= 2;
        }
    }

    /// Counts the outcome of a call that may teach.
    pub(super) fn learn_outcome(&mut self, denied: bool) {
        self.taught_outcomes += 1;
        self.taught_denials += u64::from(denied);
        if self.taught_outcomes >= MOST_STEPS * 8 {
            self.taught_outcomes /= 2;
            self.taught_denials /= 2;
        }
    }

    /// Calls expected in a step, in thousandths.
    fn expected_calls(&self) -> u64 {
        if self.taught_steps < KNOWN_AFTER {
            return UNKNOWN_RATE;
        }
        (OVERDISPERSION * self.taught_calls * 1000 / self.taught_steps).max(LEAST_RATE)
    }

    /// Calls in the newest step.
    pub(super) fn calls_in_step(&self) -> u64 {
        self.newest().calls
    }

    /// Calls that are usual in a step, rounded up; none while that is not known.
    pub(super) fn usual_calls(&self) -> Option<u64> {
        (self.taught_steps >= KNOWN_AFTER).then(|| self.taught_calls.div_ceil(self.taught_steps))
    }

    /// Steps of the last minute before the newest one's end.
    fn recent(&self) -> impl Iterator<Item = &Step> {
        let oldest = self.newest().number.saturating_sub(STEPS as u64 - 1);
        self.steps.iter().filter(move |step| step.number >= oldest)
    }

    /// Denials in the last minute.
    pub(super) fn denials(&self) -> u64 {
        self.recent().map(|step| step.denials).sum()
    }

    /// Failures in the last minute, and the ends of calls that they are among.
    pub(super) fn failures(&self) -> (u64, u64) {
        self.recent().fold((0, 0), |(failures, ends), step| {
            (failures + step.failures, ends + step.ends)
        })
    }

    /// How surprising the number of failures is among the calls that ended in the last minute.
    pub(super) fn failure_surprise(&self) -> Bits {
        let (failures, ends) = self.failures();
        let usual = 1000 * FAILURES_COME_TOGETHER * (self.taught_failures + 1);
        let expected = ends.saturating_mul(usual) / (self.taught_ends + PRIOR_CALLS);
        of_count(failures, expected.max(LEAST_FAILURES)).min(MOST_OF_FAILURES)
    }

    /// How surprising the number of calls is.
    pub(super) fn rate_surprise(&self) -> Bits {
        of_count(self.calls_in_step(), self.expected_calls())
    }

    /// How surprising the number of denials is among the calls of the last minute.
    pub(super) fn denial_surprise(&self) -> Bits {
        let calls: u64 = self.recent().map(|step| step.calls).sum();
        let share = calls.saturating_mul(1000 * (self.taught_denials + 1)) / (self.taught_outcomes + PRIOR_CALLS);
        of_count(self.denials(), share.max(LEAST_DENIALS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A window that has seen `steps` steps of `calls` calls.
    fn usual(calls: u64, steps: u64) -> Window {
        let mut window = Window::default();
        for step in 0..=steps {
            window.count(step * STEP_MS, calls, 0, true);
        }
        window
    }

    #[test]
    fn a_burst_is_surprising_and_the_usual_is_not() {
        let window = usual(4, 100);
        assert_eq!((window.rate_surprise(), window.usual_calls()), (Bits::ZERO, Some(4)));
        let mut burst = window.clone();
        burst.count(100 * STEP_MS + 1, 8, 0, true);
        assert!(
            burst.rate_surprise() < Bits::whole(3),
            "three times the usual: {burst:?}"
        );
        burst.count(100 * STEP_MS + 2, 48, 0, true);
        assert!(burst.rate_surprise() > Bits::whole(60));
        let mut unknown = Window::default();
        unknown.count(STEP_MS, 20, 0, true);
        assert_eq!((unknown.rate_surprise(), unknown.usual_calls()), (Bits::ZERO, None));
        unknown.count(STEP_MS + 1, 40, 0, true);
        assert!(unknown.rate_surprise() > Bits::whole(30));
    }

    #[test]
    fn one_burst_teaches_little_and_one_that_may_not_teach_nothing() {
        let mut window = usual(4, 100);
        window.count(101 * STEP_MS, 1_000_000, 0, true);
        window.count(102 * STEP_MS, 1, 0, true);
        assert_eq!(window.usual_calls(), Some(5));
        let mut frozen = usual(4, 100);
        let before = frozen.taught_calls;
        frozen.count(101 * STEP_MS, 9, 0, false);
        frozen.count(102 * STEP_MS, 9, 0, false);
        assert_eq!(frozen.taught_calls, before);
    }

    #[test]
    fn denials_of_a_minute_count_and_older_ones_do_not() {
        let mut window = usual(4, 100);
        (0..1000).for_each(|_| window.learn_outcome(false));
        window.count(101 * STEP_MS, 1, 1, true);
        let one = window.denial_surprise();
        window.count(101 * STEP_MS, 2, 2, true);
        let three = window.denial_surprise();
        assert!(one > Bits::ZERO && three > one + one, "{one:?} {three:?}");
        assert_eq!(window.denials(), 3);
        window.count(106 * STEP_MS, 1, 0, true);
        assert_eq!(window.denials(), 3);
        window.count(107 * STEP_MS, 1, 0, true);
        assert_eq!((window.denials(), window.denial_surprise()), (0, Bits::ZERO));
    }

    #[test]
    fn failures_of_a_minute_count_against_the_usual_share() {
        let failing = |usually: u64, failures: u64| {
            let mut window = usual(4, 100);
            for number in 0..1000 {
                window.end(100 * STEP_MS, number % 100 < usually, true);
            }
            window.forget();
            for number in 0..12 {
                window.end(102 * STEP_MS, number < failures, true);
            }
            window
        };
        assert_eq!(failing(1, 1).failure_surprise(), Bits::ZERO);
        assert_eq!(failing(1, 12).failure_surprise(), MOST_OF_FAILURES);
        assert!(
            failing(50, 12).failure_surprise() < Bits::whole(1),
            "it fails every other time"
        );
        let mut window = failing(1, 12);
        assert_eq!(window.failures(), (12, 12));
        window.count(108 * STEP_MS, 1, 0, true);
        assert_eq!((window.failures(), window.failure_surprise()), ((0, 0), Bits::ZERO));
    }

    #[test]
    fn ends_of_calls_are_no_calls() {
        let mut with_ends = usual(4, 100);
        let without = with_ends.clone();
        for _ in 0..500 {
            with_ends.end(100 * STEP_MS, false, true);
        }
        assert_eq!(with_ends.calls_in_step(), without.calls_in_step());
        assert_eq!(with_ends.rate_surprise(), without.rate_surprise());
        assert_eq!(with_ends.denial_surprise(), without.denial_surprise());
    }

    #[test]
    fn an_agent_that_is_often_denied_is_no_surprise() {
        let mut window = usual(4, 100);
        (0..1000).for_each(|number| window.learn_outcome(number % 4 == 0));
        window.count(101 * STEP_MS, 4, 3, true);
        assert!(window.denial_surprise() < Bits::whole(2), "{window:?}");
    }
}
