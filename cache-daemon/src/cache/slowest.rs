//! The slowest: the files that readers waited for longest, and why, until somebody takes them.
//!
//! A file stands here with its longest wait. Whoever waited less than all that are there is turned away by one load, and
//! reads below a millisecond always are: what the store answers in time pays nothing else.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fuse_frontend::source::Ino;
use parking_lot::Mutex;

use crate::origin::Delay;

/// Files that are kept.
const FILES_MAX: usize = 10;

/// Whoever waited for less did not wait.
const WAIT_MIN_US: u64 = 1_000;

/// Why a reader waited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// For memory of fills, before the origin was asked.
    Memory,
    /// For the origin.
    Origin(Delay),
    /// For nothing: the origin did not give it.
    Failed,
    /// For the store's device.
    Device,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("waited for memory of fills"),
            Self::Origin(delay) => delay.fmt(f),
            Self::Failed => f.write_str("failed"),
            Self::Device => f.write_str("slow device"),
        }
    }
}

/// One file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slow {
    /// The file.
    pub ino: Ino,
    /// The longest that a reader waited for a part of it.
    pub waited: Duration,
    /// Why.
    pub why: Why,
}

/// The slowest files.
#[derive(Debug)]
pub struct Slowest {
    /// Waits up to this are of no interest.
    floor_us: AtomicU64,
    slow: Mutex<Vec<Slow>>,
}

impl Default for Slowest {
    fn default() -> Self {
        Self { floor_us: AtomicU64::new(WAIT_MIN_US), slow: Mutex::default() }
    }
}

impl Slowest {
    /// A reader `waited` for a part of `ino`; `why` is asked only if that is among the longest.
    pub(super) fn offer(&self, ino: Ino, waited: Duration, why: impl FnOnce() -> Why) {
        if waited.as_micros() as u64 <= self.floor_us.load(Relaxed) {
            return;
        }
        let mut slow = self.slow.lock();
        let place = slow.iter().position(|known| known.ino == ino);
        let place = place.or_else(|| (slow.len() == FILES_MAX).then(|| least(&slow)));
        match place {
            None => slow.push(Slow { ino, waited, why: why() }),
            Some(place) if slow[place].waited < waited => slow[place] = Slow { ino, waited, why: why() },
            Some(_) => {}
        }
        if slow.len() == FILES_MAX {
            self.floor_us.store(slow[least(&slow)].waited.as_micros() as u64, Relaxed);
        }
    }

    /// Takes out what was kept, the longest wait first.
    pub fn take(&self) -> Vec<Slow> {
        let mut slow = self.slow.lock();
        self.floor_us.store(WAIT_MIN_US, Relaxed);
        let mut taken = std::mem::take(&mut *slow);
        taken.sort_unstable_by_key(|slow| std::cmp::Reverse(slow.waited));
        taken
    }
}

/// The place of the one that waited least; there is one.
fn least(slow: &[Slow]) -> usize {
    let least = slow.iter().enumerate().min_by_key(|(_, slow)| slow.waited);
    least.map_or(0, |(place, _)| place)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_longest_waits_are_kept_each_file_once(
            waits in prop::collection::vec((0_u64..30, 0_u64..200_000), 0..300), taken_at: prop::sample::Index,
        ) {
            let slowest = Slowest::default();
            let mut oracle: HashMap<u64, u64> = HashMap::new();
            let check = |oracle: &HashMap<u64, u64>| {
                let mut longest: Vec<u64> = oracle.values().copied().filter(|&us| us > WAIT_MIN_US).collect();
                longest.sort_unstable_by(|a, b| b.cmp(a));
                longest.truncate(FILES_MAX);
                let taken = slowest.take();
                let waited: Vec<u64> = taken.iter().map(|slow| slow.waited.as_micros() as u64).collect();
                assert_eq!(waited, longest);
                for slow in taken {
                    assert_eq!(oracle[&slow.ino.0], slow.waited.as_micros() as u64);
                }
            };
            let taken_at = if waits.is_empty() { 0 } else { taken_at.index(waits.len()) };
            for (at, &(ino, us)) in waits.iter().enumerate() {
                if at == taken_at {
                    check(&oracle);
                    oracle.clear();
                }
                slowest.offer(Ino(ino), Duration::from_micros(us), || Why::Device);
                let known = oracle.entry(ino).or_default();
                *known = us.max(*known);
            }
            check(&oracle);
        }
    }

    #[test]
    fn whoever_waited_less_is_turned_away_without_being_asked_why() {
        let slowest = Slowest::default();
        let never = || -> Why { unreachable!("it is not among the longest") };
        slowest.offer(Ino(1), Duration::from_micros(900), never);
        (0..10).for_each(|ino| slowest.offer(Ino(ino), Duration::from_millis(50), || Why::Failed));
        slowest.offer(Ino(11), Duration::from_millis(50), never);
        assert_eq!(slowest.take().len(), 10);
        slowest.offer(Ino(11), Duration::from_millis(2), || Why::Memory);
        assert_eq!(slowest.take()[0].why.to_string(), "waited for memory of fills");
    }
}
