//! The gate of a segment: readers enter an incarnation, and the writer waits until they have left.
//!
//! A reader counts itself in and looks at the incarnation then; the writer ends the incarnation and looks
//! at the count then. The fences between make one of them see the other (store buffering; without
//! them both could read the old value), so nobody is inside when the next incarnation begins.
//!
//! The atomics come from the parent module: std's, or loom's in the model (`segments.rs`).

use super::sync::{
    AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst, fence,
};

/// An incarnation that can be entered, and those inside.
#[derive(Debug)]
pub(super) struct Gate {
    /// 0 while nobody may enter.
    generation: AtomicU32,
    inside: AtomicU32,
}

impl Gate {
    /// A closed gate with nobody inside.
    pub(super) fn new() -> Self {
        Self { generation: AtomicU32::new(0), inside: AtomicU32::new(0) }
    }

    /// Enters incarnation `generation`, if that is open. Who entered must leave.
    pub(super) fn enter(&self, generation: u32) -> bool {
        self.inside.fetch_add(1, Relaxed);
        fence(SeqCst);
        let entered = self.generation.load(Acquire) == generation;
        if !entered {
            self.leave();
        }
        entered
    }

    /// Leaves.
    pub(super) fn leave(&self) {
        self.inside.fetch_sub(1, Release);
    }

    /// Opens for `generation`. Nobody is inside.
    pub(super) fn open(&self, generation: u32) {
        self.generation.store(generation, Release);
    }

    /// Closes: nobody enters any more.
    pub(super) fn close(&self) {
        self.generation.store(0, Relaxed);
    }

    /// Whether nobody is inside, and nobody will be until the gate is opened again. After [`Gate::close`].
    pub(super) fn is_empty(&self) -> bool {
        fence(SeqCst);
        self.inside.load(Acquire) == 0
    }

    /// The open incarnation; 0 if it is closed.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Acquire)
    }
}
