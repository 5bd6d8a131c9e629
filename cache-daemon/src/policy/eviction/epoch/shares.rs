//! Who may have how much: room in proportion to the bytes that were read lately.
//!
//! *Lately* fades with a half-life of ten minutes: longer than a validation pass or a checkpoint between epochs, so
//! that a set keeps its room meanwhile, and an hour after the last read of a set 1/64 of its claim is left.
//!
//! Fading by growth: instead of shrinking every sum at every read, what is added grows with the time, and sums are
//! compared with each other only.

use super::Class;

const HALF_LIFE_MS: f64 = 600_000.0;
/// The growth is worked out again after so long: a thousandth of the half-life.
const STEP_MS: u64 = 600;
/// Sums are scaled down before they leave the range in which a `f64` is exact enough: 200 half-lives.
const GROWTH_MAX: f64 = 1e60;

/// A class grows until it holds this much of its share, and only what is beyond the whole share is taken from it:
/// between the two nobody gives or takes, so that sums which waver do not push objects in and out.
const GROWS_TO: f64 = 7.0 / 8.0;

#[derive(Debug)]
pub(super) struct Shares {
    sums: [f64; Class::COUNT],
    total: f64,
    growth: f64,
    growth_ms: u64,
    start_ms: u64,
}

impl Default for Shares {
    fn default() -> Self {
        Self { sums: [0.0; Class::COUNT], total: 0.0, growth: 1.0, growth_ms: 0, start_ms: 0 }
    }
}

impl Shares {
    /// Notes that `bytes` of `class` were read.
    pub fn read(&mut self, class: Class, bytes: u64, now_ms: u64) {
        if now_ms >= self.growth_ms.saturating_add(STEP_MS) {
            self.grow(now_ms);
        }
        let grown = bytes as f64 * self.growth;
        self.sums[usize::from(class.0)] += grown;
        self.total += grown;
    }

    fn grow(&mut self, now_ms: u64) {
        let since_start_ms = now_ms.saturating_sub(self.start_ms) as f64;
        self.growth_ms = now_ms;
        self.growth = (since_start_ms / HALF_LIFE_MS).exp2();
        if self.growth > GROWTH_MAX {
            // An idle night is longer than that too: what was read before it is nothing then.
            self.sums.iter_mut().for_each(|sum| *sum /= self.growth);
            self.total = self.sums.iter().sum();
            (self.start_ms, self.growth) = (now_ms, 1.0);
        }
    }

    /// Nothing of `class` was read lately, whatever was.
    pub fn clear(&mut self, class: Class) {
        self.sums[usize::from(class.0)] = 0.0;
        self.total = self.sums.iter().sum();
    }

    fn share(&self, class: Class, capacity_bytes: u64) -> f64 {
        match self.total > 0.0 {
            true => capacity_bytes as f64 * self.sums[usize::from(class.0)] / self.total,
            false => 0.0,
        }
    }

    /// Whether others give room to `class` until it holds `bytes`.
    pub fn may_grow(&self, class: Class, bytes: u64, capacity_bytes: u64) -> bool {
        bytes as f64 <= GROWS_TO * self.share(class, capacity_bytes)
    }

    /// How much more than its share `class` has if it holds `bytes`; negative if less.
    pub fn above(&self, class: Class, bytes: u64, capacity_bytes: u64) -> f64 {
        bytes as f64 - self.share(class, capacity_bytes)
    }
}
