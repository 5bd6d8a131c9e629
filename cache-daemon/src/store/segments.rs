//! Segments: what readers, the writer and whoever forgets extents share about those of one volume.
//!
//! A segment is *open* (appended to by the volume's writer), then *sealed*, and *reclaimed* when none of
//! its extents is wanted any more: its next incarnation has another generation. Which state it is in
//! is the writer's business (`allocator.rs`); here are the facts that decide, as atomics.
//!
//! Invariants
//! - A pinned segment is never used again: `gate.rs`.
//! - A segment begins anew only without live extents: each is released once, by whoever took it out of
//!   the index, before the segment's memory of it is gone.

#[path = "gate.rs"]
mod gate;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use self::gate::Gate;

/// The atomics of `gate.rs`.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, Ordering, fence};
}

/// The segments of one volume.
#[derive(Debug)]
pub struct Segments {
    states: Box<[State]>,
    /// Segments that lost their last live extent since the writer looked.
    emptied: AtomicU32,
}

#[derive(Debug)]
struct State {
    gate: Gate,
    /// The last one that began: what its header on disk says, unless a crash or an error lost that.
    last_generation: AtomicU32,
    live_extents: AtomicU32,
    live_bytes: AtomicU64,
}

/// Keeps a segment from being used again.
#[derive(Debug)]
pub struct Pin {
    segments: Arc<Segments>,
    segment: u32,
}

impl Segments {
    /// `count` segments, none of them in use.
    pub fn new(count: u32) -> Arc<Self> {
        let states = (0..count).map(|_| State::new()).collect();
        Arc::new(Self { states, emptied: AtomicU32::new(0) })
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.states.len() as u32
    }

    /// Pins `segment` if it is in incarnation `generation`.
    pub fn pin(self: &Arc<Self>, segment: u32, generation: u32) -> Option<Pin> {
        let entered = self.state(segment).gate.enter(generation);
        entered.then(|| Pin { segments: self.clone(), segment })
    }

    /// The incarnation of `segment`; 0 if it is not in use.
    pub fn generation(&self, segment: u32) -> u32 {
        self.state(segment).gate.generation()
    }

    /// The last incarnation of `segment` that began; 0 if none is known.
    pub fn last_generation(&self, segment: u32) -> u32 {
        self.state(segment).last_generation.load(SeqCst)
    }

    /// Begins incarnation `generation` of `segment`.
    pub fn begin(&self, segment: u32, generation: u32) {
        assert!(generation > 0 && self.is_dead(segment) && !self.is_pinned(segment));
        self.state(segment).last_generation.store(generation, SeqCst);
        self.state(segment).gate.open(generation);
    }

    /// Ends the incarnation of `segment`: nobody can pin it any more.
    pub fn retire(&self, segment: u32) {
        self.state(segment).gate.close();
    }

    /// Whether somebody reads from `segment`, or a write to it is out.
    pub fn is_pinned(&self, segment: u32) -> bool {
        !self.state(segment).gate.is_empty()
    }

    /// Whether no extent of `segment` is wanted.
    pub fn is_dead(&self, segment: u32) -> bool {
        self.state(segment).live_extents.load(SeqCst) == 0
    }

    /// Bytes on disk of the wanted extents of `segment`.
    pub fn live_bytes(&self, segment: u32) -> u64 {
        self.state(segment).live_bytes.load(Relaxed)
    }

    /// Wanted extents in all segments.
    pub fn live_extents_total(&self) -> u64 {
        self.states.iter().map(|state| u64::from(state.live_extents.load(Relaxed))).sum()
    }

    /// Bytes on disk of all wanted extents.
    pub fn live_bytes_total(&self) -> u64 {
        self.states.iter().map(|state| state.live_bytes.load(Relaxed)).sum()
    }

    /// An extent that takes `bytes` on disk is about to enter the index.
    pub fn add(&self, segment: u32, bytes: u32) {
        let state = self.state(segment);
        state.live_bytes.fetch_add(u64::from(bytes), Relaxed);
        state.live_extents.fetch_add(1, SeqCst);
    }

    /// An extent that takes `bytes` on disk has left the index.
    pub fn release(&self, segment: u32, bytes: u32) {
        let state = self.state(segment);
        state.live_bytes.fetch_sub(u64::from(bytes), Relaxed);
        if state.live_extents.fetch_sub(1, SeqCst) == 1 {
            self.emptied.fetch_add(1, SeqCst);
        }
    }

    /// Segments that lost their last live extent since [`Segments::take_emptied`].
    pub fn emptied(&self) -> u32 {
        self.emptied.load(SeqCst)
    }

    /// Whether there were any such; from now on they are not counted any more.
    pub fn take_emptied(&self) -> bool {
        self.emptied.swap(0, SeqCst) > 0
    }

    fn state(&self, segment: u32) -> &State {
        &self.states[segment as usize]
    }
}

impl State {
    fn new() -> Self {
        Self {
            gate: Gate::new(),
            last_generation: AtomicU32::new(0),
            live_extents: AtomicU32::new(0),
            live_bytes: AtomicU64::new(0),
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.segments.state(self.segment).gate.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_holds_its_incarnation_and_no_other() {
        let segments = Segments::new(2);
        segments.begin(1, 7);
        assert!(segments.pin(1, 6).is_none() && !segments.is_pinned(1));
        let pin = segments.pin(1, 7).unwrap();
        segments.retire(1);
        assert!(segments.is_pinned(1) && segments.pin(1, 7).is_none());
        drop(pin);
        assert!(!segments.is_pinned(1));
    }

    #[test]
    fn the_last_release_is_noticed() {
        let segments = Segments::new(1);
        segments.add(0, 4096);
        segments.add(0, 8192);
        segments.release(0, 4096);
        assert_eq!((segments.take_emptied(), segments.live_bytes(0)), (false, 8192));
        segments.release(0, 8192);
        assert_eq!(
            (segments.take_emptied(), segments.take_emptied(), segments.is_dead(0)),
            (true, false, true)
        );
    }
}
