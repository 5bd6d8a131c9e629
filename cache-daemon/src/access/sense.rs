//! A sense for order: whether readings follow the listing.
//!
//! `find -exec`, `cp -r`, a checksum run and a DataLoader without shuffling read files in listing order, several of
//! them side by side if there are several workers. A reading is *in order* if its rank lies a little behind one of the
//! last sixteen. How little depends on the set: in a random order it must happen to one reading in sixty at most.

use super::Rank;

/// Ranks that are remembered: as many as workers read side by side.
const RECENT: usize = 16;

/// How far a reading may be ahead of one of those, at most: workers take batches.
const AHEAD_MAX: u32 = 32;

/// Readings that are judged.
pub const JUDGED: u32 = 64;

/// The last readings, and how many of them were in order.
#[derive(Clone, Debug)]
pub struct Sense {
    recent: [u32; RECENT],
    at: usize,
    /// One bit a reading, the newest lowest.
    in_order: u64,
    readings: u32,
}

impl Default for Sense {
    fn default() -> Self {
        Self { recent: [u32::MAX; RECENT], at: 0, in_order: 0, readings: 0 }
    }
}

impl Sense {
    /// A reading of the file at `rank`, in a set of `files`.
    pub fn reading(&mut self, rank: Rank, files: u32) {
        // 16 ranks with n / 1024 behind each: one in 64 by chance.
        let ahead = (files / 1024).clamp(1, AHEAD_MAX);
        let follows = |&before: &u32| rank.0 > before && rank.0 - before <= ahead;
        let is_in_order = self.recent.iter().any(follows);
        self.in_order = self.in_order << 1 | u64::from(is_in_order);
        self.readings = (self.readings + 1).min(JUDGED);
        self.recent[self.at] = rank.0;
        self.at = (self.at + 1) % RECENT;
    }

    /// The share of the last readings that were in order, 0 to 1; `None` before there are enough.
    pub fn share_in_order(&self) -> Option<f64> {
        (self.readings == JUDGED).then(|| f64::from(self.in_order.count_ones()) / f64::from(JUDGED))
    }
}
