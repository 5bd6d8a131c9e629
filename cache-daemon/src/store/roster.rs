//! A roster: things that are added while others look, and never taken away. Read without a lock.

use std::sync::OnceLock;

/// Up to so many as it was made for, in the order in which they came.
pub(super) struct Roster<T> {
    slots: Box<[OnceLock<T>]>,
}

impl<T> Roster<T> {
    /// An empty one with room for `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { slots: (0..most).map(|_| OnceLock::new()).collect() }
    }

    /// Adds `item`.
    ///
    /// # Panics
    /// If there is no room.
    pub(super) fn add(&self, mut item: T) -> &T {
        for slot in &self.slots {
            match slot.set(item) {
                Ok(()) => return slot.get().expect("it was set one line ago"),
                Err(taken) => item = taken,
            }
        }
        panic!("more than {} in a roster", self.slots.len());
    }

    /// Those that are there now.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map_while(OnceLock::get)
    }
}
