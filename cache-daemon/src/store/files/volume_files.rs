//! The backing files of one volume, as its fillers, its readers and the facade share them.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crossbeam::channel::{Sender, TrySendError};

use super::file::BackingFile;
use super::inventory::Inventory;
use super::lender::Lender;
use super::queue::Queue;
use super::reader;
use super::shelf::Shelf;
use super::space::{Charge, Space};
use crate::io::Waker;
use crate::object::Fingerprint;
use crate::store::volume::Volume;
use crate::store::writer::{Appended, Rejection};

/// See the head of the module.
pub struct VolumeFiles {
    /// The volume.
    pub volume: Arc<Volume>,
    /// Where the files lie.
    pub shelf: Shelf,
    /// What they may take.
    pub space: Arc<Space>,
    /// Where more space comes from.
    pub lender: Lender,
    /// What the directories take.
    pub directory_charge: Charge,
    /// The files of all volumes.
    pub inventory: Arc<Inventory>,
    /// One for each filler.
    pub queues: Vec<Queue>,
    /// Set once they run.
    pub readers: OnceLock<Vec<(Sender<reader::Request>, Waker)>>,
    /// Turns of the readers.
    pub next_reader: AtomicUsize,
}

impl VolumeFiles {
    /// The queue of filler `number`.
    pub fn queue(&self, number: usize) -> &Queue {
        &self.queues[number]
    }

    /// The queue of the filler that `object` belongs to.
    pub fn queue_of(&self, object: &Fingerprint) -> &Queue {
        // Not the byte that directories go by: a filler has files in all of them.
        &self.queues[usize::from(object.0[1]) % self.queues.len()]
    }

    /// Bytes that files can take, if the pool gives what it has.
    pub fn room_bytes(&self) -> u64 {
        self.volume.room_bytes.load(Relaxed) + self.space.room_bytes()
    }

    /// The longest object that an empty volume would have a file for: two segments stay with the pool.
    pub fn object_bytes_max(&self) -> u64 {
        let layout = &self.volume.layout;
        let bytes = u64::from(layout.segments.saturating_sub(2)) * u64::from(layout.segment_bytes);
        // A file takes a quarter of a promille more than its object, and names: 1/64 is more than that.
        bytes - bytes / 64
    }

    /// `file` does not count any more and gives its space back when nobody has it open. Whether it did count.
    pub fn remove(&self, file: &Arc<BackingFile>) -> bool {
        let removed = self.inventory.remove(file);
        if removed {
            self.volume.figures.files.sub(1);
            self.queue_of(&file.identity().object).remove(file.clone());
            // They may have it open.
            self.wake_readers();
        }
        removed
    }

    /// `file` turned out to be damaged.
    pub fn revoke(&self, file: &Arc<BackingFile>, why: &str) {
        self.volume.figures.checksum_failures.increment();
        // First: who sees it gone sees why.
        file.set_damaged();
        if self.remove(file) {
            self.volume.figures.revoked_files.increment();
            tracing::warn!(volume = %self.volume.name, path = %file.path().display(), "{why}: file removed");
        }
    }

    /// A system call failed. What that means for whoever asked.
    pub fn failed(&self, what: &str, error: &io::Error, now: Instant) -> Rejection {
        if error.raw_os_error() == Some(libc::ENOSPC) {
            self.volume.figures.out_of_space.increment();
            tracing::warn!(volume = %self.volume.name, "{what} found no space though it was reserved");
            return Rejection::Full;
        }
        self.volume.device_failed(what, error, now);
        Rejection::Failed
    }

    /// Counts what became of an append.
    pub fn count(&self, appended: Appended) {
        let figures = &self.volume.figures;
        match appended {
            Appended::Stored => {}
            Appended::Rejected(Rejection::Full) => figures.rejected_full.increment(),
            Appended::Rejected(Rejection::Failed) => figures.rejected_failed.increment(),
            Appended::Rejected(Rejection::Busy) => figures.rejected_busy.increment(),
            Appended::Rejected(Rejection::Closed) => figures.rejected_out.increment(),
        }
    }

    /// Hands a read to the next reader, or to any that has room in its queue.
    pub fn read(&self, request: reader::Request) -> Result<(), TrySendError<reader::Request>> {
        let readers = self.readers.get().expect("readers run before anybody can ask");
        self.volume.figures.reads_queued.add(1);
        let first = self.next_reader.fetch_add(1, Relaxed);
        let mut refused = request;
        for turn in 0..readers.len() {
            let (queue, waker) = &readers[first.wrapping_add(turn) % readers.len()];
            match queue.try_send(refused) {
                Ok(()) => {
                    waker.wake();
                    return Ok(());
                }
                Err(TrySendError::Full(request)) => refused = request,
                Err(disconnected) => {
                    self.volume.figures.reads_queued.sub(1);
                    return Err(disconnected);
                }
            }
        }
        self.volume.figures.reads_queued.sub(1);
        Err(TrySendError::Full(refused))
    }

    /// Makes the readers look around.
    pub fn wake_readers(&self) {
        self.readers.get().into_iter().flatten().for_each(|(_, waker)| waker.wake());
    }
}
