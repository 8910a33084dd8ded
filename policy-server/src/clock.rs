//! The time of day, as an input.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Tells the time; tests give their own.
#[derive(Clone)]
pub struct Clock {
    millis: Arc<dyn Fn() -> u64 + Send + Sync>,
    monotonic: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        let start = Instant::now();
        let millis = || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
        };
        Self {
            millis: Arc::new(millis),
            monotonic: Arc::new(move || start.elapsed()),
        }
    }

    /// A clock that asks `millis` for the milliseconds since 1970, and is never set back.
    pub fn from_millis(millis: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let millis = Arc::new(millis);
        Self {
            millis: millis.clone(),
            monotonic: Arc::new(move || Duration::from_millis(millis())),
        }
    }

    /// The time since some moment, which no change of the system's clock moves.
    pub fn monotonic(&self) -> Duration {
        (self.monotonic)()
    }

    /// Milliseconds since 1970.
    pub fn millis(&self) -> u64 {
        (self.millis)()
    }

    /// Seconds since 1970.
    pub fn seconds(&self) -> u64 {
        self.millis() / 1000
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}
