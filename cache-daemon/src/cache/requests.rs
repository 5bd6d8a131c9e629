//! Requests: which parts of which files readers ask the daemon for, noted for whoever plans.
//!
//! Where probes see all readings these are needed only within large objects; without probes they are all that is
//! known. A reader never waits for it: what the queue has no room for is lost.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use fuse_frontend::source::Ino;

use super::UNIT_BYTES;

/// Requests that wait: a fifth of a second of 80 000 a second.
const WAITING_MAX: usize = 16 << 10;

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
}

/// The last requests.
#[derive(Debug)]
pub struct Requests {
    queue: ArrayQueue<Asked>,
    noted: AtomicU8,
    lost: AtomicU64,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            queue: ArrayQueue::new(WAITING_MAX),
            noted: AtomicU8::new(Noted::None as u8),
            lost: AtomicU64::new(0),
        }
    }
}

impl Requests {
    /// From now on, these are noted.
    pub fn set(&self, noted: Noted) {
        self.noted.store(noted as u8, Relaxed);
    }

    pub(super) fn note(&self, ino: Ino, size_bytes: u64, offset: u64, len: u32) {
        let noted = self.noted.load(Relaxed);
        let is_wanted = noted == Noted::All as u8 || noted == Noted::Large as u8 && size_bytes > UNIT_BYTES;
        if is_wanted && self.queue.push(Asked { ino, size_bytes, offset, len }).is_err() {
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
