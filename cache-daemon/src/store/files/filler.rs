//! A filler: a thread that makes, fills, syncs and removes the backing files of some objects.
//!
//! Every object belongs to one filler, so a file has one writer and its life has an order. A filler makes
//! blocking calls: fills come from a network, in pieces of a MiB, and two threads at a depth of one
//! write as fast as any of them sends. What a silent device would hold up is answered by whoever watches
//! the queue (`queue.rs`).
//!
//! The order that makes a map true: chunks are written, the file is synced, then the map that speaks of them
//! is written and synced. A sync that fails drops the file: what the kernel could not write is lost, and a
//! second try would succeed without it.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::file::BackingFile;
use super::queue::{Append, Next};
use super::shelf::{Handles, file_bytes};
use super::space::Charge;
use super::volume_files::VolumeFiles;
use crate::checksum;
use crate::io::{Buffer, DeviceOffset};
use crate::object::CHUNK_BYTES;
use crate::store::config::Clock;
use crate::store::layout::PAGE_BYTES;
use crate::store::record::BLOCK_BYTES;
use crate::store::writer::{Appended, Rejection, SyncFailed, WriterLimits};

/// Files that a filler keeps open between two chunks: more than objects are filled at a time.
const OPEN_MAX: usize = 32;

/// How often what is not needed any more goes back to the segments.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(1);

/// A file costs a page or two of names at most, the first in a directory and the root included.
const NAMES_BYTES: u64 = 3 * PAGE_BYTES as u64;

/// See the head of the module.
pub struct Filler {
    volume: Arc<VolumeFiles>,
    number: usize,
    limits: WriterLimits,
    clock: Clock,
    buffer: Buffer,
    /// The last one was used last.
    open: Vec<Open>,
    dirty: Vec<Arc<BackingFile>>,
    dirty_bytes: u64,
    dirty_since: Option<Instant>,
    gave_back: Instant,
    /// Files whose names are not durable.
    named: Vec<Arc<BackingFile>>,
}

struct Open {
    /// Closed before the file's space is given back.
    handles: Handles,
    file: Arc<BackingFile>,
}

impl Filler {
    /// The filler of queue `number`; `buffer` takes a chunk.
    pub fn new(
        volume: Arc<VolumeFiles>,
        number: usize,
        limits: WriterLimits,
        clock: Clock,
        buffer: Buffer,
    ) -> Self {
        assert!(buffer.len() as u64 >= CHUNK_BYTES);
        Self {
            volume,
            number,
            limits,
            buffer,
            open: Vec::new(),
            dirty: Vec::new(),
            dirty_bytes: 0,
            dirty_since: None,
            gave_back: clock(),
            clock,
            named: Vec::new(),
        }
    }

    /// Works until the queue is closed.
    pub fn run(mut self) {
        while self.step(GIVE_BACK_EVERY) {}
        let _ = self.sync();
    }

    /// Does what there is to do, or waits up to `wait` for it; false once the queue is closed.
    pub fn step(&mut self, wait: Duration) -> bool {
        let wait = self.until_sync().map_or(wait, |until_sync| until_sync.min(wait));
        match self.volume.queue(self.number).next(wait) {
            Next::Remove(files) => files.into_iter().for_each(|file| self.remove(file)),
            Next::Append(append) => self.append(&append),
            Next::Sync(done) => done(self.sync()),
            Next::Idle => {}
            Next::Closed => return false,
        }
        if self.until_sync() == Some(Duration::ZERO) || self.dirty_bytes >= self.limits.sync_bytes {
            // Whoever needs to know of a failure asks for a sync; what failed is forgotten.
            let _ = self.sync();
        }
        self.give_back();
        true
    }

    /// Gives back what files do not need, now and then: a file that follows another uses what that had.
    fn give_back(&mut self) {
        let now = (self.clock)();
        if now.saturating_duration_since(self.gave_back) >= GIVE_BACK_EVERY {
            self.gave_back = now;
            self.volume.lender.give_back();
        }
    }

    fn until_sync(&self) -> Option<Duration> {
        let due = self.dirty_since? + self.limits.sync_interval;
        Some(due.saturating_duration_since((self.clock)()))
    }

    fn append(&mut self, append: &Append) {
        let figures = self.volume.volume.figures.clone();
        figures.appends_queued.sub(1);
        figures.writes_in_flight.add(1);
        let appended = match self.store(append) {
            Ok(()) => Appended::Stored,
            Err(why) => Appended::Rejected(why),
        };
        // Nobody is there if it took too long.
        if let Some(answer) = self.volume.queue(self.number).take_answer() {
            self.volume.count(appended);
            answer.give(appended);
        }
        // The last chunk makes it durable at once: it would be synced once in any case.
        let complete = self.dirty.iter().position(|file| file.is_complete());
        if let Some(file) = complete.map(|found| self.dirty.remove(found)) {
            let _ = self.sync_file(&file);
        }
        figures.writes_in_flight.sub(1);
    }

    fn store(&mut self, append: &Append) -> Result<(), Rejection> {
        let Append { key, object_bytes, data, asked } = append;
        let began = (self.clock)();
        if !self.volume.volume.is_in() || began.saturating_duration_since(*asked) >= self.limits.deadline {
            return Err(Rejection::Failed);
        }
        let file = match self.volume.inventory.get(&key.object) {
            Some(file) if file.identity().volume != self.volume.volume.number => return Err(Rejection::Busy),
            Some(file) => file,
            None => self.create(append)?,
        };
        if file.contains(key.chunk).is_some() {
            return Ok(());
        }
        if file.identity().object_bytes != *object_bytes {
            return Err(Rejection::Failed);
        }
        self.write(&file, u64::from(key.chunk) * CHUNK_BYTES, data)
            .map_err(|error| self.failed("a write to a file", &error))?;
        let figures = &self.volume.volume.figures;
        let took = (self.clock)().saturating_duration_since(began);
        figures.device_writes.increment();
        figures.device_write_bytes.add((data.len() as u64).next_multiple_of(u64::from(PAGE_BYTES)));
        figures.device_write_latency.record(took);
        if let Some(rate) = self.limits.bytes_per_s {
            let cost = Duration::from_secs_f64(data.len() as f64 / rate.max(1) as f64);
            std::thread::sleep(cost.saturating_sub(took));
        }
        if file.is_gone() {
            return Err(Rejection::Failed);
        }
        let checksums: Vec<u32> = data.chunks(BLOCK_BYTES).map(checksum::crc32c).collect();
        file.filled(key.chunk, &checksums);
        figures.appended_extents.increment();
        figures.appended_bytes.add(data.len() as u64);
        if file.is_complete() {
            self.completed(&file);
        }
        self.dirtied(file, data.len() as u64);
        Ok(())
    }

    fn completed(&self, file: &BackingFile) {
        self.volume.volume.figures.files_completed.increment();
        if !file.is_verified() {
            self.volume.inventory.ask_to_verify();
        }
    }

    fn dirtied(&mut self, file: Arc<BackingFile>, bytes: u64) {
        self.dirty_since.get_or_insert((self.clock)());
        self.dirty_bytes += bytes;
        self.volume.volume.figures.unsynced_file_bytes.add(bytes);
        if !self.dirty.iter().any(|dirty| Arc::ptr_eq(dirty, &file)) {
            self.dirty.push(file);
        }
    }

    /// Makes a file with its space, which counts from then on.
    fn create(&mut self, append: &Append) -> Result<Arc<BackingFile>, Rejection> {
        let VolumeFiles { shelf, inventory, directory_charge, .. } = &*self.volume;
        let identity = shelf.identity(append.key.object, append.object_bytes);
        let most = file_bytes(identity.object_bytes);
        let charge = self.charge(most + NAMES_BYTES)?;
        let handles = shelf.create(&identity).map_err(|error| self.failed("making a file", &error))?;
        let path = shelf.path(&identity.object);
        let measured =
            || io::Result::Ok((handles.blocks_bytes()?, shelf.measure_directory(&identity.object)?));
        let fits = measured()
            .is_ok_and(|(blocks, names)| charge.set(blocks.max(most)) && directory_charge.set(names));
        let file = Arc::new(BackingFile::empty(identity, path.clone(), charge));
        if !fits || !inventory.insert(file.clone()) {
            drop(handles);
            // What cannot be removed is found at the next start.
            let _ = shelf.remove_now(&path);
            return Err(if fits { Rejection::Busy } else { Rejection::Full });
        }
        self.named.push(file.clone());
        self.volume.volume.figures.files_created.increment();
        self.volume.volume.figures.files.add(1);
        self.keep_open(Open { handles, file: file.clone() });
        Ok(file)
    }

    /// Space of so many bytes: what files that are being removed have, if there is no other.
    fn charge(&self, bytes: u64) -> Result<Charge, Rejection> {
        loop {
            match self.volume.lender.charge(bytes) {
                Err(Rejection::Full) if self.volume.shelf.wait_for_removal(self.limits.deadline) => {}
                charged => return charged,
            }
        }
    }

    fn write(&mut self, file: &Arc<BackingFile>, at: u64, data: &[u8]) -> io::Result<()> {
        // Direct I/O writes whole pages; what is left at the end of the object must not make the file longer.
        let (pages, rest) = data.split_at(data.len() - data.len() % PAGE_BYTES as usize);
        self.open(file)?;
        let Open { handles, .. } = self.open.last().expect("it was opened one line ago");
        if !pages.is_empty() {
            self.buffer[..pages.len()].copy_from_slice(pages);
            handles.direct.write_all_at(&self.buffer[..pages.len()], DeviceOffset(at))?;
        }
        handles.plain.write_all_at(rest, DeviceOffset(at) + pages.len())
    }

    /// Makes `file` the last of those that are open.
    fn open(&mut self, file: &Arc<BackingFile>) -> io::Result<()> {
        match self.open.iter().position(|open| Arc::ptr_eq(&open.file, file)) {
            Some(found) => self.open[found..].rotate_left(1),
            None => {
                let handles = self.volume.shelf.open(file.path())?;
                self.keep_open(Open { handles, file: file.clone() });
            }
        }
        Ok(())
    }

    fn keep_open(&mut self, open: Open) {
        if self.open.len() >= OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push(open);
    }

    fn remove(&mut self, file: Arc<BackingFile>) {
        self.open.retain(|open| !Arc::ptr_eq(&open.file, &file));
        self.dirty.retain(|dirty| !Arc::ptr_eq(dirty, &file));
        self.named.retain(|named| !Arc::ptr_eq(named, &file));
        let object = file.identity().object;
        let now_there = self.volume.inventory.get(&object);
        if now_there.is_some_and(|now| now.identity().volume == file.identity().volume) {
            // It has the name now, and the old file has lost it.
            return;
        }
        let (volume, clock) = (self.volume.clone(), self.clock.clone());
        let done = move |removed: io::Result<()>| match removed {
            // With its space, unless somebody has it open.
            Ok(()) => drop(file),
            Err(error) => {
                volume.failed("removing a file", &error, clock());
                // Its space stays counted.
                std::mem::forget(file);
            }
        };
        self.volume.shelf.remove(object, Box::new(done));
    }

    /// Makes everything durable that was stored.
    fn sync(&mut self) -> Result<(), SyncFailed> {
        let figures = self.volume.volume.figures.clone();
        figures.unsynced_file_bytes.sub(std::mem::take(&mut self.dirty_bytes));
        self.dirty_since = None;
        let mut outcome = Ok(());
        for file in std::mem::take(&mut self.dirty) {
            outcome = outcome.and(self.sync_file(&file));
        }
        outcome.and(self.sync_names())
    }

    /// Makes the names of new files durable, or drops those whose directory fails.
    fn sync_names(&mut self) -> Result<(), SyncFailed> {
        let mut named = std::mem::take(&mut self.named);
        named.retain(|file| !file.is_gone());
        let shelf = &self.volume.shelf;
        let directory = |file: &BackingFile| shelf.directory(&file.identity().object);
        let mut directories: BTreeSet<PathBuf> = named.iter().map(|file| directory(file)).collect();
        directories.extend((!named.is_empty()).then(|| shelf.root().to_owned()));
        directories.retain(|directory| match shelf.sync_directory(directory) {
            Ok(()) => false,
            Err(error) => {
                self.failed("a sync of a directory", &error);
                true
            }
        });
        if directories.is_empty() {
            return Ok(());
        }
        named.retain(|file| directories.contains(shelf.root()) || directories.contains(&directory(file)));
        named.iter().for_each(|file| self.poison(file));
        Err(SyncFailed)
    }

    /// Drops a file of which nobody knows what is durable.
    fn poison(&self, file: &Arc<BackingFile>) {
        self.volume.volume.figures.poisoned_files.increment();
        self.volume.remove(file);
    }

    /// Makes durable what is in `file`, or drops it.
    fn sync_file(&mut self, file: &Arc<BackingFile>) -> Result<(), SyncFailed> {
        if file.is_gone() {
            return Ok(());
        }
        let began = (self.clock)();
        let synced = self.write_map(file);
        let figures = &self.volume.volume.figures;
        figures.device_syncs.increment();
        figures.device_sync_latency.record((self.clock)().saturating_duration_since(began));
        synced.map_err(|error| {
            self.failed("a sync of a file", &error);
            self.poison(file);
            SyncFailed
        })
    }

    fn write_map(&mut self, file: &Arc<BackingFile>) -> io::Result<()> {
        self.open(file)?;
        let Open { handles, .. } = self.open.last().expect("it was opened one line ago");
        handles.direct.sync()?;
        // Nothing is filled meanwhile: this thread is the one that fills it.
        handles.write_map(&file.next_map())
    }

    fn failed(&self, what: &str, error: &io::Error) -> Rejection {
        self.volume.failed(what, error, (self.clock)())
    }
}
