//! Requests: which parts of which files readers ask the daemon for, noted for whoever plans.
//!
//! Where probes see all readings these are needed only within large objects; without probes they are all that is
//! known. A reader never waits for it: what the queue has no room for is lost.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use fuse_frontend::source::Ino;

use super::UNIT_BYTES;

/// Requests that wait: a fifth of a second of 80 000 a second.
const WAITING_MAX: usize = 16 << 10;

/// Files of which the last request is remembered, for [`Requests::was_asked_since`]; a power of two.
const LAST_MAX: usize = 64 << 10;

/// Which requests are noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Noted {
    /// None.
    None,
    /// Those of objects of more than one unit.
    Large,
    /// All.
    All,
}

/// One READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The file.
    pub ino: Ino,
    /// Its bytes.
    pub size_bytes: u64,
    /// The first byte that was asked for.
    pub offset: u64,
    /// How many.
    pub len: u32,
    /// The thread that waits, as this process numbers it; 0 if that is not known.
    pub by: u32,
}

/// The last requests.
#[derive(Debug)]
pub struct Requests {
    queue: ArrayQueue<Asked>,
    noted: AtomicU8,
    lost: AtomicU64,
    /// By the file's number modulo their own: the number, and in which turn it was asked for.
    last: Box<[AtomicU64]>,
    turn: AtomicU32,
}

/// A span of time, between one look of the planner and the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn(u32);

impl Default for Requests {
    fn default() -> Self {
        Self {
            queue: ArrayQueue::new(WAITING_MAX),
            noted: AtomicU8::new(Noted::None as u8),
            lost: AtomicU64::new(0),
            last: (0..LAST_MAX).map(|_| AtomicU64::new(0)).collect(),
            // The places say turn 0 of no file.
            turn: AtomicU32::new(1),
        }
    }
}

impl Requests {
    /// From now on, these are noted.
    pub fn set(&self, noted: Noted) {
        self.noted.store(noted as u8, Relaxed);
    }

    /// Begins a turn: requests from now on are of it.
    pub fn begin_turn(&self) -> Turn {
        Turn(self.turn.fetch_add(1, Relaxed).wrapping_add(1))
    }

    /// Whether `ino` was asked for in `turn` or later. May miss one, of which another file has taken the place; never makes one up.
    pub fn was_asked_since(&self, ino: Ino, turn: Turn) -> bool {
        let last = self.last[ino.0 as usize % LAST_MAX].load(Relaxed);
        last >> 32 == ino.0 && (last as u32).wrapping_sub(turn.0) < u32::MAX / 2
    }

    pub(super) fn note(&self, ino: Ino, size_bytes: u64, (offset, len): (u64, u32), by: Option<u32>) {
        let turn = u64::from(self.turn.load(Relaxed));
        // Numbers are 32 bits: see catalog/mod.rs.
        self.last[ino.0 as usize % LAST_MAX].store(ino.0 << 32 | turn, Relaxed);
        let noted = self.noted.load(Relaxed);
        let is_wanted = noted == Noted::All as u8 || noted == Noted::Large as u8 && size_bytes > UNIT_BYTES;
        let by = by.unwrap_or(0);
        if is_wanted && self.queue.push(Asked { ino, size_bytes, offset, len, by }).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Takes out the oldest.
    pub fn take(&self) -> Option<Asked> {
        self.queue.pop()
    }

    /// How many were lost.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_known_from_its_turn_on_and_of_its_file_only() {
        let requests = Requests::default();
        let before = requests.begin_turn();
        assert!(!requests.was_asked_since(Ino(0), before) && !requests.was_asked_since(Ino(7), before));
        requests.note(Ino(7), 10, (0, 10), None);
        let after = requests.begin_turn();
        assert!(requests.was_asked_since(Ino(7), before));
        assert!(!requests.was_asked_since(Ino(7), after));
        assert!(!requests.was_asked_since(Ino(8), before));
        let same_place = Ino(7 + LAST_MAX as u64);
        assert!(!requests.was_asked_since(same_place, before));
        requests.note(same_place, 10, (0, 10), None);
        assert!(requests.was_asked_since(same_place, after) && !requests.was_asked_since(Ino(7), before));
    }
}
