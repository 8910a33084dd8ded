//! Draws that are the same on every machine.

/// Knuth's linear congruential generator, of which the high bits are used.
#[derive(Debug, Clone)]
pub(crate) struct Draw(u64);

impl Draw {
    /// Draws that depend on all of `seeds`.
    pub(crate) fn new(seeds: &[u64]) -> Self {
        let mut draw = Self(0x5DEE_CE66);
        for seed in seeds {
            draw.0 ^= seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            draw.next();
        }
        draw
    }

    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % (end.max(1) as u64)) as usize
    }

    /// A number from `from` to `to`.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    /// Another order (Fisher and Yates).
    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.below(last + 1));
        }
    }
}
