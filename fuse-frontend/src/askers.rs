//! Askers: whose READs came here, how many bytes they were answered with, and how long that took.
//!
//! A table of fixed size, by thread id: two threads that meet in one place take it from each other, and the sums of the one
//! that loses it are gone. Threads are told by the id that the kernel gives with each request, in this process's pid
//! namespace; those outside of it, and the kernel itself, have none.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Threads that are told apart: 32 KiB.
const PLACES: usize = 1024;

/// The thread that a request's header names; none if it is the kernel itself, or outside of our pid namespace.
pub(crate) fn known(tid: u32) -> Option<u32> {
    (tid != 0).then_some(tid)
}

/// A thread that asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asker {
    /// The thread.
    pub tid: u32,
    /// Its READs that were answered.
    pub reads: u64,
    /// Bytes of the answers.
    pub bytes: u64,
    /// From their arrivals to their answers; of those that overlap each counts.
    pub waited_us: u64,
}

#[derive(Debug, Default)]
struct Place {
    tid: AtomicU32,
    reads: AtomicU64,
    bytes: AtomicU64,
    waited_us: AtomicU64,
}

/// All of them; every method may be called from any thread.
#[derive(Debug)]
pub struct Askers {
    places: Vec<Place>,
}

impl Default for Askers {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| Place::default()).collect() }
    }
}

impl Askers {
    /// A READ of `tid` was answered with `bytes`.
    pub(crate) fn answered(&self, tid: u32, bytes: usize, elapsed: Duration) {
        let Some(tid) = known(tid) else { return };
        let place = &self.places[tid as usize % PLACES];
        if place.tid.swap(tid, Relaxed) != tid {
            [&place.reads, &place.bytes, &place.waited_us].iter().for_each(|sum| sum.store(0, Relaxed));
        }
        place.reads.fetch_add(1, Relaxed);
        place.bytes.fetch_add(bytes as u64, Relaxed);
        place.waited_us.fetch_add(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Those that have a place.
    pub fn all(&self) -> Vec<Asker> {
        let used = self.places.iter().filter(|place| place.tid.load(Relaxed) != 0);
        let read = |place: &Place| Asker {
            tid: place.tid.load(Relaxed),
            reads: place.reads.load(Relaxed),
            bytes: place.bytes.load(Relaxed),
            waited_us: place.waited_us.load(Relaxed),
        };
        used.map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_summed_and_one_that_takes_anothers_place_begins_at_nothing() {
        let askers = Askers::default();
        let answered = |tid| askers.answered(tid, 100, Duration::from_micros(7));
        [5, 5, 6, 0].into_iter().for_each(answered);
        let asker = |tid, reads| Asker { tid, reads, bytes: reads * 100, waited_us: reads * 7 };
        assert_eq!(askers.all(), [asker(5, 2), asker(6, 1)]);
        answered(5 + PLACES as u32);
        assert_eq!(askers.all(), [asker(5 + PLACES as u32, 1), asker(6, 1)]);
    }
}
