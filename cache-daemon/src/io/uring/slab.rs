//! Operations in flight: each has a place, whose number is the `user_data` that the kernel gives back.

use crate::io::{Buffer, DeviceOffset, FileSlot, Operation, Token};

/// What an operation needs while the kernel works on it, and to be submitted again.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) token: Token,
    pub(super) file: FileSlot,
    pub(super) what: What,
    /// Owned here, so that it cannot be dropped or reused before the kernel is done with it.
    pub(super) buffer: Option<Buffer>,
}

/// An operation without its buffer.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Read { len: usize, at: DeviceOffset },
    Write { len: usize, at: DeviceOffset },
    Sync,
}

impl InFlight {
    pub(super) fn new(token: Token, file: FileSlot, operation: Operation) -> Self {
        let (what, buffer) = match operation {
            Operation::Read { buffer, len, at } => (What::Read { len, at }, Some(buffer)),
            Operation::Write { buffer, len, at } => (What::Write { len, at }, Some(buffer)),
            Operation::Sync => (What::Sync, None),
        };
        Self { token, file, what, buffer }
    }
}

/// A fixed number of places.
#[derive(Debug)]
pub(super) struct Slab {
    places: Vec<Option<InFlight>>,
    free: Vec<u32>,
}

impl Slab {
    pub(super) fn new(depth: u32) -> Self {
        Self { places: (0..depth).map(|_| None).collect(), free: (0..depth).rev().collect() }
    }

    /// Takes a place for `entry`. Panics if there is none.
    pub(super) fn insert(&mut self, entry: InFlight) -> u32 {
        let place = self.free.pop().expect("more than the engine's depth in flight");
        self.places[place as usize] = Some(entry);
        place
    }

    /// The operation at `place`. Panics if there is none.
    pub(super) fn get(&self, place: u32) -> &InFlight {
        self.places[place as usize].as_ref().expect("the kernel completes only what is in flight, once")
    }

    /// Takes out the operation at `place`. Panics if there is none.
    pub(super) fn remove(&mut self, place: u32) -> InFlight {
        let entry = self.places[place as usize].take();
        self.free.push(place);
        entry.expect("the kernel completes only what is in flight, once")
    }

    pub(super) fn in_flight(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Every place that is taken.
    pub(super) fn taken(&self) -> Vec<u32> {
        (0u32..).zip(&self.places).filter_map(|(place, entry)| entry.is_some().then_some(place)).collect()
    }

    /// Takes out everything.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = InFlight> + '_ {
        self.places.iter_mut().filter_map(Option::take)
    }
}
