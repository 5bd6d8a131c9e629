//! The allocator: which segment is written next. Owned by the writer of a volume.
//!
//! A segment goes round: free > open > sealed > (all extents forgotten) retired > (no pins) free. What
//! the writer holds open is not in here.
//!
//! Free segments are taken in the order in which they became free, so that one that was just dropped
//! after an error is tried again last.

use std::collections::{BTreeSet, VecDeque};

use super::segments::Segments;

/// The segments of one volume that are not open, by state, and the next generation.
#[derive(Debug)]
pub struct Allocator {
    free: VecDeque<u32>,
    sealed: BTreeSet<u32>,
    /// Dead, but a read or a write is still out.
    retired: Vec<u32>,
    next_generation: u32,
}

impl Allocator {
    /// `free` and `sealed` segments; generations from `next_generation` on have never been used.
    pub fn new(free: Vec<u32>, sealed: BTreeSet<u32>, next_generation: u32) -> Self {
        assert!(next_generation > 0, "0 stands for no generation");
        Self { free: free.into(), sealed, retired: Vec::new(), next_generation }
    }

    /// The generation that the next segment will have.
    pub fn next_generation(&self) -> u32 {
        self.next_generation
    }

    /// Segments that can be taken at once.
    pub fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Whether no segment is free, or will be without anything being forgotten.
    pub fn is_spent(&self) -> bool {
        self.free.is_empty() && self.retired.is_empty()
    }

    /// Segments that are full.
    pub fn sealed(&self) -> u32 {
        self.sealed.len() as u32
    }

    /// A free segment and the generation of its next incarnation, which has begun.
    pub fn take(&mut self, segments: &Segments) -> Option<(u32, u32)> {
        // The last generation is never given out, so that "one more than all" can be written down.
        if self.next_generation == u32::MAX {
            return None;
        }
        let segment = self.free.pop_front()?;
        let generation = self.next_generation;
        self.next_generation += 1;
        segments.begin(segment, generation);
        Some((segment, generation))
    }

    /// Takes `count` free segments out, or none if there are not that many and `reserve` more. They come back
    /// by [`Allocator::take_back`].
    pub fn lend(&mut self, count: u32, reserve: u32) -> Vec<u32> {
        if u64::from(self.free()) < u64::from(count) + u64::from(reserve) {
            return Vec::new();
        }
        self.free.drain(..count as usize).collect()
    }

    /// A segment that was lent is free again.
    pub fn take_back(&mut self, segment: u32) {
        self.free.push_back(segment);
    }

    /// A full segment.
    pub fn seal(&mut self, segment: u32, segments: &Segments) {
        if segments.is_dead(segment) {
            self.retire(segment, segments);
        } else {
            self.sealed.insert(segment);
        }
    }

    /// A segment that must not be believed. Its extents have left the index.
    pub fn retire(&mut self, segment: u32, segments: &Segments) {
        segments.retire(segment);
        self.sealed.remove(&segment);
        self.retired.push(segment);
    }

    /// Frees what is dead and not pinned; how many segments became free.
    pub fn reclaim(&mut self, segments: &Segments) -> u32 {
        if segments.take_emptied() {
            let dead: Vec<u32> =
                self.sealed.iter().copied().filter(|segment| segments.is_dead(*segment)).collect();
            dead.into_iter().for_each(|segment| self.retire(segment, segments));
        }
        let free_before = self.free.len();
        self.retired.retain(|segment| {
            let busy = segments.is_pinned(*segment) || !segments.is_dead(*segment);
            if !busy {
                self.free.push_back(*segment);
            }
            busy
        });
        (self.free.len() - free_before) as u32
    }

    /// The sealed segments.
    pub fn sealed_segments(&self) -> impl Iterator<Item = u32> {
        self.sealed.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::segments::Pin;

    #[test]
    fn a_dead_segment_comes_back_with_another_generation_when_nobody_reads_it() {
        let segments = Segments::new(1);
        let mut allocator = Allocator::new(vec![0], BTreeSet::new(), 5);
        assert_eq!(allocator.take(&segments), Some((0, 5)));
        segments.add(0, 4096);
        let pin = segments.pin(0, 5);
        allocator.seal(0, &segments);
        assert_eq!(allocator.reclaim(&segments), 0);
        segments.release(0, 4096);
        assert_eq!((allocator.reclaim(&segments), allocator.take(&segments)), (0, None));
        drop(pin);
        assert_eq!((allocator.reclaim(&segments), allocator.take(&segments)), (1, Some((0, 6))));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take,
        Seal,
        Poison,
        Add(u32),
        Release(u32),
        Pin(u32),
        Unpin,
        Reclaim,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Take),
            2 => Just(Step::Seal),
            1 => Just(Step::Poison),
            3 => (0..4u32).prop_map(Step::Add),
            3 => (0..4u32).prop_map(Step::Release),
            1 => (0..4u32).prop_map(Step::Pin),
            2 => Just(Step::Unpin),
            3 => Just(Step::Reclaim),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn no_segment_is_lost_or_taken_while_it_is_live_or_pinned(steps in steps()) {
            let segments = Segments::new(4);
            let mut allocator = Allocator::new((0..4).collect(), BTreeSet::new(), 1);
            let (mut open, mut pins, mut live) = (None::<u32>, Vec::<(u32, Pin)>::new(), [0u32; 4]);
            for step in steps {
                match step {
                    Step::Take if open.is_none() => {
                        let before = allocator.next_generation();
                        if let Some((segment, generation)) = allocator.take(&segments) {
                            prop_assert_eq!(generation, before);
                            prop_assert_eq!(live[segment as usize], 0);
                            prop_assert!(pins.iter().all(|(pinned, _)| *pinned != segment));
                            open = Some(segment);
                        }
                    }
                    Step::Seal => if let Some(segment) = open.take() {
                        allocator.seal(segment, &segments);
                    },
                    Step::Poison => if let Some(segment) = open.take() {
                        (0..std::mem::take(&mut live[segment as usize])).for_each(|_| segments.release(segment, 1));
                        allocator.retire(segment, &segments);
                    },
                    Step::Add(segment) if open == Some(segment) => {
                        segments.add(segment, 1);
                        live[segment as usize] += 1;
                    }
                    Step::Release(segment) if live[segment as usize] > 0 => {
                        live[segment as usize] -= 1;
                        segments.release(segment, 1);
                    }
                    Step::Pin(segment) => {
                        let generation = segments.generation(segment);
                        if generation > 0 {
                            pins.extend(segments.pin(segment, generation).map(|pin| (segment, pin)));
                        }
                    }
                    Step::Unpin => drop(pins.pop()),
                    Step::Reclaim => _ = allocator.reclaim(&segments),
                    _ => {}
                }
                let held = allocator.free.len() + allocator.sealed.len() + allocator.retired.len();
                prop_assert_eq!(held + usize::from(open.is_some()), 4);
            }
            pins.clear();
            for segment in 0..4u32 {
                (0..live[segment as usize]).for_each(|_| segments.release(segment, 1));
            }
            open.into_iter().for_each(|segment| allocator.seal(segment, &segments));
            allocator.reclaim(&segments);
            prop_assert_eq!(allocator.free(), 4);
        }
    }
}
