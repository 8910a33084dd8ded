//! When to ask the policy server for news.
//!
//! One long-poll is in flight a VM. The server holds it until something changes, so an answer is followed by the next
//! question at once, unless the answer came at once and brought nothing: then, as after a failure, the wait grows.

use std::time::Duration;

use crate::backoff::Backoff;

/// How long after its own timeout a callout counts as lost: its root context may have gone.
const GRACE: Duration = Duration::from_secs(5);

/// An empty answer that took less than this was not held.
const HELD: Duration = Duration::from_secs(1);

/// What became of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It brought something that was accepted.
    News,
    /// It brought nothing.
    Unchanged,
    /// No answer, or none that could be used.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting { until: Duration },
    InFlight { token: u32, sent: Duration },
}

/// The state of one VM's long-poll. All times are of the monotonic clock.
#[derive(Debug)]
pub(crate) struct Poller {
    phase: Phase,
    backoff: Backoff,
}

impl Default for Poller {
    fn default() -> Self {
        Self {
            phase: Phase::Waiting { until: Duration::ZERO },
            backoff: Backoff::default(),
        }
    }
}

impl Poller {
    /// Whether to ask now.
    pub(crate) fn due(&self, now: Duration, timeout: Duration) -> bool {
        match self.phase {
            Phase::Waiting { until } => now >= until,
            Phase::InFlight { sent, .. } => now.saturating_sub(sent) > timeout + GRACE,
        }
    }

    /// The question went out.
    pub(crate) fn sent(&mut self, token: u32, now: Duration) {
        self.phase = Phase::InFlight { token, sent: now };
    }

    /// When the question that this callout answers was sent, if it is the one in flight.
    pub(crate) fn sent_at(&self, token: u32) -> Option<Duration> {
        match self.phase {
            Phase::InFlight { token: in_flight, sent } if in_flight == token => Some(sent),
            _ => None,
        }
    }

    /// Settles when to ask next: after a failure, or an answer without news, no later than in `longest`.
    pub(crate) fn settle(&mut self, outcome: Outcome, now: Duration, longest: Duration, random: u32) {
        let held = match self.phase {
            Phase::InFlight { sent, .. } => now.saturating_sub(sent) >= HELD,
            Phase::Waiting { .. } => false,
        };
        let wait = match outcome {
            Outcome::News => Duration::ZERO,
            Outcome::Unchanged if held => Duration::ZERO,
            Outcome::Unchanged | Outcome::Failed => self.backoff.next(longest, random),
        };
        if wait.is_zero() {
            self.backoff.reset();
        }
        self.phase = Phase::Waiting { until: now + wait };
    }

    /// Asks again at once: what was asked for has changed.
    pub(crate) fn hurry(&mut self) {
        self.phase = Phase::Waiting { until: Duration::ZERO };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::LONGEST;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn due(poller: &Poller, now: Duration) -> bool {
        poller.due(now, TIMEOUT)
    }

    #[test]
    fn asks_at_once_at_the_start_and_after_news() {
        let mut poller = Poller::default();
        assert!(due(&poller, at(0)));
        poller.sent(1, at(0));
        assert!(!due(&poller, at(10)));
        poller.settle(Outcome::News, at(10), LONGEST, 0);
        assert!(due(&poller, at(10)));
    }

    #[test]
    fn a_held_answer_without_news_is_followed_at_once_but_a_hasty_one_is_not() {
        let mut poller = Poller::default();
        poller.sent(1, at(0));
        poller.settle(Outcome::Unchanged, at(20), LONGEST, 0);
        assert!(due(&poller, at(20)));
        poller.sent(2, at(20));
        poller.settle(Outcome::Unchanged, at(20), LONGEST, 0);
        assert!(!due(&poller, at(20)));
        assert!(due(&poller, at(21)));
    }

    #[test]
    fn failures_space_out_and_success_resets() {
        let mut poller = Poller::default();
        for _ in 0..8 {
            poller.settle(Outcome::Failed, at(0), LONGEST, u32::MAX);
        }
        assert!(!due(&poller, at(4)));
        assert!(due(&poller, at(5)));
        poller.settle(Outcome::News, at(5), LONGEST, u32::MAX);
        poller.settle(Outcome::Failed, at(5), LONGEST, u32::MAX);
        assert!(due(&poller, Duration::from_millis(5100)));
    }

    #[test]
    fn a_lost_callout_is_given_up_and_its_late_answer_ignored() {
        let mut poller = Poller::default();
        poller.sent(1, at(0));
        assert!(!due(&poller, at(35)));
        assert!(due(&poller, at(36)));
        poller.sent(2, at(36));
        assert_eq!(poller.sent_at(1), None);
        assert_eq!(poller.sent_at(2), Some(at(36)));
    }
}
