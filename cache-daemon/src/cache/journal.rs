//! The journal: what the cache does with objects, for whoever traces. Nobody waits for it, and it costs a load while nobody does.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use fuse_frontend::source::Ino;
use parking_lot::Mutex;

/// Entries that wait for one listener; what it has no room for is lost and counted.
const WAITING_MAX: usize = 16 << 10;

/// Who wanted what is fetched, when that began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WantedBy {
    /// A reader, or whoever is answered like one; its thread, where that is known. Others may have joined it since.
    Reader(Option<u32>),
    /// Nobody yet: it is fetched ahead.
    Nobody,
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deed {
    /// A part of an object was asked of the origin.
    Fetched {
        /// From the request to its last byte, retries included.
        latency: Duration,
        /// Who waited for it when it began.
        wanted_by: WantedBy,
        /// It did not come.
        failed: bool,
    },
    /// It was opened. Noted in `open` mode only: without, the kernel asks nobody.
    Opened {
        /// The thread, where that is known.
        by: Option<u32>,
        /// The kernel reads a local file by itself.
        passed_through: bool,
    },
    /// A part of an object was put into the kernel's page cache.
    Pushed,
    /// All that is stored of an object was forgotten.
    Evicted,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// When it was over: monotonic clock, ns.
    pub at_ns: u64,
    /// The object.
    pub ino: Ino,
    /// First byte of the part.
    pub start: u64,
    /// Its bytes.
    pub bytes: u64,
    /// What.
    pub done: Deed,
}

/// Who listens.
#[derive(Debug, Default)]
pub struct Journal {
    listeners: Mutex<Vec<Sender<Entry>>>,
    listening: AtomicUsize,
    lost: AtomicU64,
}

impl Journal {
    /// The entries from now on, until the receiver is dropped.
    pub fn listen(&self) -> Receiver<Entry> {
        let (sender, entries) = bounded(WAITING_MAX);
        let mut listeners = self.listeners.lock();
        listeners.push(sender);
        self.listening.store(listeners.len(), Relaxed);
        entries
    }

    /// Entries that listeners had no room for.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Tells the listeners, if there are any.
    pub fn note(&self, ino: Ino, start: u64, bytes: u64, done: Deed) {
        if self.listening.load(Relaxed) == 0 {
            return;
        }
        let entry = Entry { at_ns: crate::probe::clock_ns(), ino, start, bytes, done };
        let mut listeners = self.listeners.lock();
        listeners.retain(|listener| match listener.try_send(entry.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Relaxed);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        });
        self.listening.store(listeners.len(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_hears_what_is_noted_while_it_listens() {
        let journal = Journal::default();
        journal.note(Ino(1), 0, 1, Deed::Pushed);
        let first = journal.listen();
        journal.note(Ino(2), 0, 2, Deed::Evicted);
        let second = journal.listen();
        let entry = first.try_recv().expect("it was noted");
        assert_eq!((entry.ino, entry.done), (Ino(2), Deed::Evicted));
        drop(first);
        journal.note(Ino(3), 7, 3, Deed::Pushed);
        let entry = second.try_recv().expect("it was noted");
        assert_eq!((entry.ino, entry.start, entry.bytes), (Ino(3), 7, 3));
        assert_eq!(journal.listening.load(Relaxed), 1, "the other has left");
    }

    #[test]
    fn a_listener_that_does_not_listen_loses_entries_and_holds_nobody_up() {
        let journal = Journal::default();
        let entries = journal.listen();
        (0..WAITING_MAX as u64 + 5).for_each(|n| journal.note(Ino(n), 0, 1, Deed::Pushed));
        assert_eq!((entries.len(), journal.lost()), (WAITING_MAX, 5));
    }
}
