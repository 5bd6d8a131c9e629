//! Lookup counts: how many references the kernel holds to each number.
//!
//! The kernel counts a reference for each LOOKUP and each entry of READDIRPLUS that we answer, and gives
//! them back with FORGET. We must count for every node, not only for replaced ones, because the references
//! are taken while the version is still current. Four bytes a node, in blocks made when first needed, so
//! that counting takes no lock and numbers found later have room.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::AcqRel, Ordering::Acquire};

/// Counters in a block: 1 MiB of them.
const BLOCK: usize = 1 << 18;
const BLOCKS: usize = (1 << 32) / BLOCK;

type Block = Box<[AtomicU32]>;

/// A count for each number.
pub(super) struct LookupCounts(Box<[OnceLock<Block>]>);

impl Default for LookupCounts {
    fn default() -> Self {
        Self((0..BLOCKS).map(|_| OnceLock::new()).collect())
    }
}

impl LookupCounts {
    /// References to `number` that the kernel holds.
    pub fn get(&self, number: u32) -> u32 {
        let block = self.0[number as usize / BLOCK].get();
        block.map_or(0, |block| block[number as usize % BLOCK].load(Acquire))
    }

    /// Adds `lookups`. A count that reaches `u32::MAX` stays there: such a number is held for ever, which is safe.
    pub fn add(&self, number: u32, lookups: u64) {
        let block =
            self.0[number as usize / BLOCK].get_or_init(|| (0..BLOCK).map(|_| AtomicU32::new(0)).collect());
        let lookups = u32::try_from(lookups).unwrap_or(u32::MAX);
        update(&block[number as usize % BLOCK], |count| count.saturating_add(lookups));
    }

    /// Takes `lookups` away; whether none is left.
    pub fn subtract(&self, number: u32, lookups: u64) -> bool {
        let Some(block) = self.0[number as usize / BLOCK].get() else { return true };
        let lookups = u32::try_from(lookups).unwrap_or(u32::MAX);
        update(&block[number as usize % BLOCK], |count| match count {
            u32::MAX => count,
            _ => count.saturating_sub(lookups),
        }) == 0
    }

    /// Bytes of memory.
    pub fn memory_bytes(&self) -> u64 {
        let blocks = self.0.iter().filter(|block| block.get().is_some()).count();
        (size_of_val(&*self.0) + blocks * BLOCK * size_of::<AtomicU32>()) as u64
    }
}

/// Changes `count` by `change`; the new value.
fn update(count: &AtomicU32, change: impl Fn(u32) -> u32) -> u32 {
    let old = count.fetch_update(AcqRel, Acquire, |count| Some(change(count)));
    change(old.unwrap_or_else(|old| old))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_rise_and_fall_and_an_overflow_holds_for_ever() {
        let counts = LookupCounts::default();
        assert!(counts.subtract(7, 1), "nothing was counted");
        counts.add(7, 3);
        assert!(!counts.subtract(7, 2));
        assert!(counts.subtract(7, 1));
        counts.add(u32::MAX, u64::MAX);
        assert!(!counts.subtract(u32::MAX, u64::MAX));
        assert_eq!((counts.get(7), counts.get(8), counts.get(u32::MAX)), (0, 0, u32::MAX));
    }
}
