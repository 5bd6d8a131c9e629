//! Promotion: objects that are stored as extents and are to have files, because the size that divides was lowered.
//!
//! A file takes all of its object's length, so only objects of which every chunk is stored are promoted: the chunks
//! are read and checked, filled into the file, and forgotten as extents when all of them are there. It happens
//! in the background, slowly, and ends when no segment is free to be lent: what is full is not made emptier for it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Receiver, bounded};

use super::answer::{AppendAnswer, ReadAnswer};
use super::reader::Purpose;
use super::{Appended, Handle, Helper, Miss, Rejection, Shared, Store};
use crate::object::{CHUNK_BYTES, ExtentKey, Fingerprint};

/// A quarter of what verifying may read: this reads and writes.
const RATE_BYTES_PER_S: u64 = 64 << 20;

/// How long a read or an append may take before an object is left as it is.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why an object is not promoted.
enum Stays {
    /// Something of it is missing or cannot be read or written now.
    ThisOne,
    /// No segment is free.
    All,
}

impl Store {
    /// Gives files to those of `objects` (each with its length) that should have one and are all stored without, in
    /// the background.
    pub fn promote(&self, objects: Vec<(Fingerprint, u64)>) {
        let objects: Vec<_> =
            objects.into_iter().filter(|object| self.shared.is_promotable(object)).collect();
        if objects.is_empty() || self.shared.closed.load(Relaxed) {
            return;
        }
        tracing::info!(objects = objects.len(), "large objects stored as extents get files of their own");
        let shared = self.shared.clone();
        let run = move |stopped: &Receiver<()>| shared.promote(&objects, stopped);
        self.helpers.lock().push(Helper::start("store-promote", run));
    }
}

impl Shared {
    fn is_promotable(&self, (object, bytes): &(Fingerprint, u64)) -> bool {
        let mut in_extents = 0;
        let all = chunks(object, *bytes).all(|key| {
            let is_extent = self.residents.get(&key).is_some();
            in_extents += u32::from(is_extent);
            is_extent || self.files.contains(&key).is_some()
        });
        all && in_extents > 0 && self.files.takes(object, *bytes)
    }

    fn promote(self: &Arc<Self>, objects: &[(Fingerprint, u64)], stopped: &Receiver<()>) {
        for (object, bytes) in objects {
            // Its time: whoever closes the store ends the wait.
            let pause = Duration::from_secs_f64(*bytes as f64 / RATE_BYTES_PER_S as f64);
            match self.promote_one(object, *bytes) {
                Ok(()) => self.figures.promoted_objects.increment(),
                Err(Stays::ThisOne) => {}
                Err(Stays::All) => {
                    tracing::info!("no space to give more large objects files: they stay as they are");
                    return;
                }
            }
            if !stopped.recv_timeout(pause).is_err_and(|error| error.is_timeout()) {
                return;
            }
        }
    }

    fn promote_one(self: &Arc<Self>, object: &Fingerprint, bytes: u64) -> Result<(), Stays> {
        for key in chunks(object, bytes).filter(|key| self.files.contains(key).is_none()) {
            let data = self.read_whole(key).map_err(|_| Stays::ThisOne)?;
            let (done, answer) = bounded(1);
            let done = AppendAnswer::to(Box::new(move |appended| _ = done.send(appended)));
            self.files.append(key, bytes, data, done);
            match answer.recv_timeout(PATIENCE) {
                Ok(Appended::Stored) => {}
                Ok(Appended::Rejected(Rejection::Full | Rejection::Closed)) => return Err(Stays::All),
                _ => return Err(Stays::ThisOne),
            }
        }
        chunks(object, bytes).for_each(|key| _ = self.residents.forget(&key));
        self.wake_writers();
        Ok(())
    }

    fn read_whole(self: &Arc<Self>, key: ExtentKey) -> Result<Bytes, Miss> {
        let len = self.residents.get(&key).ok_or(Miss::Absent)?.len;
        let (done, answer) = bounded(1);
        let done = move |bytes: Result<&[u8], Miss>| _ = done.send(bytes.map(Bytes::copy_from_slice));
        self.read(key, 0..len, ReadAnswer::to(Box::new(done)), Purpose::Scrub, Handle::ask);
        answer.recv_timeout(PATIENCE).unwrap_or(Err(Miss::Failed))
    }
}

fn chunks(object: &Fingerprint, bytes: u64) -> impl Iterator<Item = ExtentKey> {
    let chunks = u32::try_from(bytes.div_ceil(CHUNK_BYTES)).unwrap_or(u32::MAX);
    let object = *object;
    (0..chunks).map(move |chunk| ExtentKey { object, chunk })
}
