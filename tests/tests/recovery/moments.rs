//! When something is killed.

use std::time::Duration;

/// The longest time between a start and the kill, in milliseconds.
const LONGEST_LIFE_MS: u64 = 900;

/// Random moments, another sequence in each run; the seed is printed.
pub(crate) struct Moments(u64);

impl Moments {
    pub(crate) fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = now.unwrap().subsec_nanos().into();
        println!("moments from seed {seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> Duration {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.0 >> 33) % (LONGEST_LIFE_MS + 1))
    }
}
