//! When to try again: 0.1 s doubling to 5 s at most, jittered.
//!
//! Without jitter every sidecar of a mesh would ask a restarted policy server in the same instant.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
/// The longest wait that there is.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);
/// `FIRST` doubled this many times is past `LONGEST`.
const MOST_DOUBLINGS: u32 = 6;

/// Counts failures in a row and says how long to wait after each.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: between half of the nominal delay and all of it, as `random` falls, where the
    /// nominal delay grows to `longest`, and never past [`LONGEST`].
    pub(crate) fn next(&mut self, longest: Duration, random: u32) -> Duration {
        let nominal = FIRST
            .saturating_mul(1 << self.failures.min(MOST_DOUBLINGS))
            .min(longest)
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = nominal / 2;
        (half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))).max(FIRST)
    }

    /// Something worked: the next failure starts from the shortest wait again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_from_a_tenth_of_a_second_to_five_and_stays() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..9)
            .map(|_| backoff.next(Duration::MAX, u32::MAX).as_millis())
            .collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.next(LONGEST, 0), FIRST);
    }

    #[test]
    fn jitter_takes_at_most_half_away() {
        let mut low = Backoff { failures: 6 };
        let mut high = Backoff { failures: 6 };
        assert_eq!(low.next(LONGEST, 0), LONGEST / 2);
        assert_eq!(high.next(LONGEST, u32::MAX), LONGEST);
    }

    #[test]
    fn grows_no_further_than_it_may() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff { failures: 6 };
        assert_eq!(backoff.next(second, u32::MAX), second);
        assert_eq!(backoff.next(Duration::ZERO, 0), FIRST);
        assert_eq!(backoff.next(LONGEST, u32::MAX), LONGEST);
    }
}
