//! Backing files: large objects as files of their own, so that the kernel can serve them by itself.
//!
//! An object of [`StoreConfig::file_from`] bytes or more has a file on a volume that is a directory: same
//! offsets, same length, partial or complete. It is read and checked like any extent; once it is
//! complete and verified, [`Files::complete`] gives it out for passthrough.
//!
//! From the bottom: [`map`] (what is beside a file on disk), [`space`] and [`lender`] (one account with
//! the segments), [`mod@file`], [`disk`] and [`shelf`] (a directory of them), [`inventory`] (all of them), [`queue`] and
//! [`filler`] (writing), [`open_files`] and [`reader`] (reading), [`verifier`], [`watch`].
//!
//! Invariants
//! - A file has exactly its object's length from the moment that it exists, and all of its blocks.
//! - What segments and files take together never exceeds the limit (`space.rs`).
//! - A chunk is there after its write completed, and durable when the map that speaks of it is.
//! - A file with damage is removed as a whole: the kernel may be serving it, and checks nothing.

mod disk;
mod file;
mod filler;
mod inventory;
mod lender;
pub mod map;
mod open_files;
mod queue;
mod reader;
mod shelf;
mod space;
mod verifier;
mod volume_files;
mod watch;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use self::disk::Disk;
use self::file::BackingFile;
use self::filler::Filler;
use self::inventory::Inventory;
use self::lender::Lender;
use self::queue::{Append, Queue, QueueMax};
use self::reader::Reader;
use self::shelf::Shelf;
pub(super) use self::shelf::{Inspection, inspect};
use self::space::Space;
use self::verifier::Verifier;
use self::volume_files::VolumeFiles;
use super::answer::{AppendAnswer, ReadAnswer};
use super::config::Clock;
use super::reader::{Purpose, count_miss};
use super::roster::Roster;
use super::writer::SyncFailed;
use super::{Appended, Handle, Miss, Place, Rejection, StoreConfig};
use crate::io::{BufferPool, Remover, engine};
use crate::object::{CHUNK_BYTES, ExtentKey, Fingerprint};
use crate::stats::store::StoreFigures;

/// Threads that fill files of one volume.
const FILLERS: usize = 2;

/// What an open store knows of one volume's files before they can be used.
#[derive(Default)]
pub(super) struct Opened {
    /// The files that were found.
    pub inspection: Inspection,
    /// The segments that have no blocks because of them.
    pub lent: Vec<u32>,
}

/// All backing files of a store.
pub(super) struct Files {
    inventory: Arc<Inventory>,
    volumes: Arc<Roster<Arc<VolumeFiles>>>,
    file_from: u64,
    queue_max: QueueMax,
    figures: Arc<StoreFigures>,
    clock: Clock,
    /// Ends the verifier and the watch.
    stop: Mutex<Option<Sender<()>>>,
    fillers: Mutex<Vec<JoinHandle<()>>>,
    others: Mutex<Vec<JoinHandle<()>>>,
}

/// A file that holds all of an object, seen to be right: for the kernel to serve by itself.
///
/// Its space is counted until this is dropped, even if the store forgets the object: see [`LentFile`].
#[derive(Debug)]
pub struct CompleteFile {
    /// Closed before the space is given back.
    file: File,
    held: LentFile,
}

/// What is left of a [`CompleteFile`] that the kernel has: no descriptor, of which a process has fewer than the kernel takes files.
///
/// Its space is counted until this is dropped. So this is to be kept for as long as the kernel has the file, and dropped
/// soon after [`LentFile::is_revoked`] says so.
#[derive(Debug)]
pub struct LentFile(Arc<BackingFile>);

/// What backing files hold and take on one volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FilesUsage {
    pub files: u64,
    pub chunks: u64,
    pub data_bytes: u64,
    /// Charged, the files that are deleted and still open included.
    pub charged_bytes: u64,
}

impl CompleteFile {
    /// The file, open for reading.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The object's length, and the file's.
    pub fn len_bytes(&self) -> u64 {
        self.held.0.identity().object_bytes
    }

    /// Parts with the descriptor, which is to be closed once the kernel has the file.
    pub fn lend(self) -> (File, LentFile) {
        (self.file, self.held)
    }

    /// [`LentFile::is_revoked`].
    #[cfg(test)]
    pub fn is_revoked(&self) -> bool {
        self.held.is_revoked()
    }
}

impl LentFile {
    /// Whether it is not to be offered any more: it was forgotten, or damage was found.
    pub fn is_revoked(&self) -> bool {
        self.0.is_gone()
    }

    /// Whether its bytes are wrong.
    pub fn is_damaged(&self) -> bool {
        self.0.is_damaged()
    }
}

impl Files {
    /// No files yet, with the threads running that volumes share.
    pub fn start(config: &StoreConfig, figures: &Arc<StoreFigures>) -> io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let files = Self {
            inventory: Arc::default(),
            volumes: Arc::new(Roster::new(config.places.len())),
            file_from: config.file_from,
            queue_max: QueueMax { jobs: config.queue, bytes: config.queue_bytes / FILLERS as u64 },
            figures: figures.clone(),
            clock: config.clock.clone(),
            stop: Mutex::new(Some(stop)),
            fillers: Mutex::default(),
            others: Mutex::default(),
        };
        if config.places.iter().all(|place| matches!(place, Place::Device(_))) {
            return Ok(files);
        }
        let verifier = Verifier {
            volumes: files.volumes.clone(),
            inventory: files.inventory.clone(),
            bytes_per_s: config.verify_bytes_per_s,
            deadline: config.read_deadline,
            clock: config.clock.clone(),
            stop: stopped.clone(),
        };
        let (volumes, deadline, clock) =
            (files.volumes.clone(), config.writer.deadline, config.clock.clone());
        let watch = move || watch::watch(&volumes, deadline, &clock, &stopped);
        *files.others.lock() = vec![
            spawn("store-verify".to_owned(), move || verifier.run())?,
            spawn("store-watch".to_owned(), watch)?,
        ];
        Ok(files)
    }

    /// Adds the files of a volume, if it is a directory.
    pub fn add(&self, config: &StoreConfig, handle: &Handle, opened: Opened) -> io::Result<()> {
        if handle.medium.is_device() {
            return Ok(());
        }
        let (volume, found) = volume_files(config, handle, opened, self.inventory.clone())?;
        self.start_threads(config, &volume)?;
        let volume = self.volumes.add(volume);
        let mut recovered = 0;
        for file in found {
            let path = file.path().to_owned();
            if self.inventory.insert(Arc::new(file)) {
                recovered += 1;
            } else {
                // Another volume has it too.
                let _ = volume.shelf.remove_now(&path);
            }
        }
        volume.volume.figures.files.add(recovered);
        volume.volume.figures.recovered_files.add(recovered);
        self.inventory.ask_to_verify();
        Ok(())
    }

    fn start_threads(&self, config: &StoreConfig, volume: &Arc<VolumeFiles>) -> io::Result<()> {
        let number = volume.volume.number;
        for filler in 0..FILLERS {
            let pool = BufferPool::new(1, CHUNK_BYTES as usize)?;
            let buffer = pool.take().expect("it has one buffer");
            let run = Filler::new(volume.clone(), filler, config.writer, config.clock.clone(), buffer);
            self.fillers.lock().push(spawn(format!("store-f{number}.{filler}"), move || run.run())?);
        }
        let mut readers = Vec::new();
        for reader in 0..config.read_threads {
            // Half of what small objects have: these reads are larger.
            let depth = (config.read_depth / 2).max(2);
            let pool = BufferPool::new(depth as u16, CHUNK_BYTES as usize)?;
            let (engine, _) = engine(config.engine, &pool, &config.engine_options(depth, true))?;
            let waker = engine.waker();
            let (sender, requests) = bounded(config.queue);
            let run = Reader::new(volume.clone(), (engine, pool), config.read_deadline, requests);
            let clock = config.clock.clone();
            self.others.lock().push(spawn(format!("store-g{number}.{reader}"), move || run.run(&clock))?);
            readers.push((sender, waker));
        }
        assert!(volume.readers.set(readers).is_ok(), "readers are started once");
        Ok(())
    }

    /// The length of the chunk's data, if it is in a file.
    pub fn contains(&self, key: &ExtentKey) -> Option<u32> {
        self.inventory.contains(&key.object, key.chunk)
    }

    /// Whether the chunks of an object of `object_bytes` go to a file.
    pub fn takes(&self, object: &Fingerprint, object_bytes: u64) -> bool {
        let is_large = |volume: &&Arc<VolumeFiles>| object_bytes <= volume.object_bytes_max();
        self.inventory.volume_of(object).is_some()
            || (object_bytes >= self.file_from && self.volumes.iter().any(|volume| is_large(&volume)))
    }

    /// Stores a chunk of an object that a file takes.
    pub fn append(&self, key: ExtentKey, object_bytes: u64, data: Bytes, answer: AppendAnswer) {
        let volume = match self.inventory.volume_of(&key.object) {
            Some(number) => self.volumes.iter().find(|volume| volume.volume.number == number),
            None => {
                let able = self
                    .volumes
                    .iter()
                    .filter(|volume| volume.volume.is_in() && object_bytes <= volume.object_bytes_max());
                able.max_by_key(|volume| volume.room_bytes())
            }
        };
        let reject = |answer: AppendAnswer, why| {
            match why {
                Rejection::Busy => self.figures.rejected_busy.increment(),
                _ => self.figures.rejected_out.increment(),
            }
            answer.give(Appended::Rejected(why));
        };
        let Some(volume) = volume.filter(|volume| volume.volume.is_in()) else {
            return reject(answer, Rejection::Failed);
        };
        let append = Append { key, object_bytes, data, asked: (self.clock)() };
        self.figures.appends_queued.add(1);
        if let Err(answer) = volume.queue_of(&key.object).append(append, answer, self.queue_max) {
            self.figures.appends_queued.sub(1);
            reject(answer, Rejection::Busy);
        }
    }

    /// Reads `range` of a chunk, if it is in a file.
    pub fn read(&self, key: ExtentKey, range: Range<u32>, answer: ReadAnswer, purpose: Purpose) {
        let miss = |answer: ReadAnswer, miss| {
            count_miss(&self.figures, purpose, miss);
            answer.give(Err(miss));
        };
        let Some(file) = self.inventory.get(&key.object) else { return miss(answer, Miss::Absent) };
        if file.contains(key.chunk).is_none_or(|len| range.is_empty() || range.end > len) {
            return miss(answer, Miss::Absent);
        }
        let volume = self.volume_of(&file);
        if !volume.volume.is_in() {
            return miss(answer, Miss::Failed);
        }
        let asked = (self.clock)();
        let request = reader::Request { file, chunk: key.chunk, range, asked, purpose, done: answer };
        match volume.read(request) {
            Ok(()) => {}
            Err(TrySendError::Full(request)) => miss(request.done, Miss::Busy),
            Err(TrySendError::Disconnected(request)) => miss(request.done, Miss::Failed),
        }
    }

    /// Forgets the file of `object`; how many chunks that were.
    pub fn forget(&self, object: &Fingerprint) -> usize {
        let file = self.inventory.get(object);
        file.filter(|file| self.volume_of(file).remove(file)).map_or(0, |file| file.chunks() as usize)
    }

    /// Forgets the files of objects that `keep` says no to; how many chunks that were.
    pub fn retain(&self, keep: &dyn Fn(&Fingerprint) -> bool) -> usize {
        let objects = self.inventory.objects();
        objects.iter().filter(|object| !keep(object)).map(|object| self.forget(object)).sum()
    }

    /// Calls `f` with each chunk that is in a file, and its length.
    pub fn for_each(&self, f: &mut dyn FnMut(&ExtentKey, u32)) {
        for object in self.inventory.objects() {
            // `f` may take its time, and the space of a file is counted as long as somebody has it.
            let there = self.inventory.get(&object).map_or_else(Vec::new, |file| file.chunks_there());
            there.iter().for_each(|(chunk, len)| f(&ExtentKey { object, chunk: *chunk }, *len));
        }
    }

    /// The file of `object`, if all of it is there and verified.
    pub fn complete(&self, object: &Fingerprint) -> Option<CompleteFile> {
        let held = self.inventory.get(object).filter(|file| file.is_verified())?;
        let volume = self.volume_of(&held);
        if !volume.volume.is_in() {
            return None;
        }
        let opened = File::open(held.path()).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((len, file)) if len == held.identity().object_bytes && !held.is_gone() => {
                Some(CompleteFile { file, held: LentFile(held) })
            }
            Ok(_) => {
                volume.revoke(&held, "its length has changed");
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                volume.revoke(&held, "it is not there any more");
                None
            }
            Err(error) => {
                tracing::debug!(%error, path = %held.path().display(), "not opened for passthrough");
                None
            }
        }
    }

    /// Asks all fillers to make durable what was stored.
    pub fn ask_sync(&self) -> Vec<Receiver<Result<(), SyncFailed>>> {
        let queues = self.volumes.iter().flat_map(|volume| &volume.queues);
        queues
            .map(|queue| {
                let (done, answer) = bounded(1);
                // Nobody waits any more if it took too long.
                queue.sync(Box::new(move |outcome| _ = done.send(outcome)));
                answer
            })
            .collect()
    }

    /// What there is on the volume with that number.
    pub fn usage(&self, number: u8) -> FilesUsage {
        let Some(volume) = self.volumes.iter().find(|volume| volume.volume.number == number) else {
            return FilesUsage::default();
        };
        let mut usage = FilesUsage { charged_bytes: volume.space.charged_bytes(), ..FilesUsage::default() };
        for file in self.inventory.all().iter().filter(|file| file.identity().volume == number) {
            usage.files += 1;
            usage.chunks += u64::from(file.chunks());
            usage.data_bytes += file.data_bytes();
        }
        usage
    }

    /// Makes everything durable and ends the fillers, and what they have asked to be removed is; one that is
    /// stuck for longer than `wait` is left behind.
    pub fn close_fillers(&self, wait: Duration) {
        self.stop.lock().take();
        self.volumes.iter().flat_map(|volume| &volume.queues).for_each(Queue::close);
        let until = Instant::now() + wait;
        for thread in std::mem::take(&mut *self.fillers.lock()) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        for volume in self.volumes.iter() {
            volume.shelf.close(until.saturating_duration_since(Instant::now()));
        }
    }

    /// Ends the readers, whose volumes are closed.
    pub fn close_readers(&self) {
        self.volumes.iter().for_each(|volume| volume.wake_readers());
        for thread in std::mem::take(&mut *self.others.lock()) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }

    /// The volume that `file` lies on.
    fn volume_of(&self, file: &BackingFile) -> &Arc<VolumeFiles> {
        let volume = self.volumes.iter().find(|volume| volume.volume.number == file.identity().volume);
        volume.expect("only files of these volumes are in the inventory")
    }
}

/// The files of one volume, and those that were found.
fn volume_files(
    config: &StoreConfig,
    handle: &Handle,
    opened: Opened,
    inventory: Arc<Inventory>,
) -> io::Result<(Arc<VolumeFiles>, Vec<BackingFile>)> {
    let Opened { inspection, lent } = opened;
    let volume = handle.volume.clone();
    let space = Space::new(volume.layout.segment_bytes, lent);
    volume.figures.lent_segments.add(u64::from(space.lent()));
    let charge = |bytes| space.charge(bytes).expect("segments were lent for all that was found");
    let directory_charge = charge(inspection.directory_bytes());
    let found = inspection.files.into_iter();
    let found = found.map(|found| BackingFile::found(found.map, found.path, charge(found.bytes))).collect();
    let writer = (handle.writer.clone(), handle.writer_waker.clone());
    let segments = handle.medium.file().clone();
    let lender = Lender::new(space.clone(), volume.clone(), segments, writer, config.writer.deadline);
    let place = handle.medium.place().path();
    let disk = Disk::System(Remover::start(format!("store-x{}", volume.number), config.engine)?);
    let shelf = Shelf::new(place, (volume.store, volume.number), inspection.directories, disk);
    let volume = VolumeFiles {
        shelf,
        volume,
        space,
        lender,
        directory_charge,
        inventory,
        queues: (0..FILLERS).map(|_| Queue::default()).collect(),
        readers: std::sync::OnceLock::new(),
        next_reader: AtomicUsize::new(0),
    };
    Ok((Arc::new(volume), found))
}

fn spawn(name: String, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(run)
}
