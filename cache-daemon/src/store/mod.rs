//! The store: extents on local disks, within a hard limit, believed only after a check.
//!
//! Extents of objects are appended to *segments*, in a file of a directory or on a raw device; each
//! such place is a *volume* with one writer thread and a few reader threads, each with an engine of its
//! own. The [`Store`] is the facade: it looks an extent up, pins its segment and hands the request to a
//! thread; the answer comes back on that thread.
//!
//! Large objects have a file of their own instead: [`files`].
//!
//! From the bottom: [`layout`] and [`record`] (bytes on disk), [`superblock`], [`medium`] (files and
//! devices), [`segments`] and [`residents`] (what is where, and pinned), [`allocator`], [`in_flight`],
//! [`health`], [`writer`], [`reader`], [`recovery`], `open.rs` and what it calls.
//!
//! Invariants
//! - A cache may always forget: every fault here is a miss or a rejected append, and a counter.
//! - No byte is given out unchecked: identity, generation and checksum are compared after every read.
//! - An extent is in the index only after its write completed, and leaves it before its segment is
//!   used again; a pinned segment is not used again.
//! - Space is reserved when the store is opened; nothing here grows later.

pub mod allocator;
mod answer;
mod checkpoint;
pub mod config;
mod desks;
pub mod error;
pub mod files;
#[cfg(test)]
mod gate_model;
pub mod health;
pub mod in_flight;
mod inbox;
mod known;
pub mod layout;
mod lost;
pub mod medium;
mod open;
mod plan;
mod promote;
pub mod reader;
pub mod record;
pub mod recovery;
pub mod residents;
mod roster;
pub mod scrub;
pub mod segments;
mod settle;
mod share;
pub mod superblock;
mod threads;
pub mod usage;
pub mod volume;
pub mod writer;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use self::answer::{AppendAnswer, ReadAnswer};
pub use self::config::{Clock, StoreConfig};
use self::desks::{Desks, Permits};
pub use self::error::StoreError;
use self::files::Files;
pub use self::files::{CompleteFile, LentFile};
pub use self::layout::{DATA_BYTES_MAX, PAGE_BYTES};
pub use self::lost::LostPlace;
use self::medium::Medium;
pub use self::medium::Place;
pub use self::open::{OpenReport, VolumeReport};
use self::reader::Purpose;
pub use self::reader::{Miss, ReadDone};
pub use self::record::StoreUuid;
use self::residents::Residents;
use self::roster::Roster;
pub use self::scrub::Scrubbed;
pub use self::usage::{Usage, VolumeUsage};
use self::volume::Volume;
use self::writer::Covered;
pub use self::writer::{AppendDone, Appended, Rejection, SyncFailed, WriterLimits};
use crate::index::ExtentAddr;
use crate::io::Waker;
use crate::object::{CHUNK_BYTES, ExtentKey, Fingerprint};
use crate::stats::store::StoreFigures;

/// How long a sync is waited for: the writes before it and the sync itself can each take their deadline.
const SYNC_WAIT: Duration = Duration::from_secs(40);

/// Whether a store that keeps its checkpoints in `state_dir` was opened and closed before.
pub fn was_opened(state_dir: &Path) -> bool {
    checkpoint::exists(state_dir)
}

/// [`writer::Request::Sync`] or [`writer::Request::Close`].
type MakeSync = fn(writer::SyncDone) -> writer::Request;

/// A block store. Dropping it closes it.
pub struct Store {
    shared: Arc<Shared>,
    /// They write checkpoints, try places that are lost, and promote.
    helpers: Mutex<Vec<Helper>>,
}

/// A thread that does what nobody waits for, until it is told to stop.
struct Helper {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

struct Shared {
    uuid: StoreUuid,
    volumes: Roster<Handle>,
    /// Places that could not be opened.
    lost: Mutex<Vec<LostPlace>>,
    residents: Arc<Residents>,
    files: Files,
    permits: Permits,
    figures: Arc<StoreFigures>,
    clock: Clock,
    limit_bytes: u64,
    checkpoint_bytes: u64,
    queue_bytes: u64,
    state_dir: PathBuf,
    /// Counts checkpoints, and is locked while one is made.
    checkpoints: Mutex<u64>,
    closed: AtomicBool,
}

/// A volume and the way to its threads.
struct Handle {
    volume: Arc<Volume>,
    medium: Medium,
    writer: Sender<writer::Request>,
    writer_waker: Waker,
    readers: Vec<(Sender<reader::Request>, Waker)>,
    desks: Desks,
    next_reader: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Opens the store that `config` describes, and makes it if it is not there.
    ///
    /// # Errors
    /// Those that a user has to do something about. Damage is not one: what is damaged is forgotten.
    pub fn open(config: StoreConfig, figures: Arc<StoreFigures>) -> Result<(Self, OpenReport), StoreError> {
        let interval = config.checkpoint_interval;
        let (shared, seeker, report) = open::open(config, figures)?;
        let shared = Arc::new(shared);
        let mut helpers = Vec::new();
        if let Some(interval) = interval {
            let shared = shared.clone();
            helpers.push(Helper::start("store-keeper", move |stopped| keep(&shared, interval, stopped)));
        }
        if let Some(seeker) = seeker {
            let shared = shared.clone();
            helpers.push(Helper::start("store-seeker", move |stopped| seeker.run(&shared, stopped)));
        }
        Ok((Self { shared, helpers: Mutex::new(helpers) }, report))
    }

    /// The length of the extent's data, if the store has it.
    pub fn contains(&self, key: &ExtentKey) -> Option<u32> {
        let extent = self.shared.residents.get(key).map(|addr| addr.len);
        extent.or_else(|| self.shared.files.contains(key))
    }

    /// Reads `range` of the extent's data. `done` is called once: on a reader thread with the bytes, which
    /// are gone when it returns, or, on any thread, with the reason why there are none.
    pub fn read(&self, key: ExtentKey, range: Range<u32>, done: ReadDone) {
        self.shared.read(key, range, ReadAnswer::to(done), Purpose::Demand, Handle::ask);
    }

    /// As [`Store::read`], but where a desk is free this thread reads and waits itself, which spares waking another: the answer
    /// is then given before this returns.
    pub fn read_here(&self, key: ExtentKey, range: Range<u32>, done: ReadDone) {
        self.shared.read(key, range, ReadAnswer::to(done), Purpose::Demand, |handle, request| {
            handle.desks.read(request).map_or(Ok(()), |request| handle.ask(request))
        });
    }

    /// Stores a chunk of an object of `object_bytes`: as an extent, or in the file of the object if that is
    /// large. `done` is called once, on a thread of the store or on this one.
    ///
    /// # Panics
    /// If `data` is empty or longer than [`DATA_BYTES_MAX`], or cannot be that chunk of an object with a file.
    pub fn append(&self, key: ExtentKey, object_bytes: u64, data: Bytes, done: AppendDone) {
        assert!(!data.is_empty() && data.len() <= DATA_BYTES_MAX as usize, "{} bytes of data", data.len());
        self.shared.append(key, object_bytes, data, AppendAnswer::to(done));
    }

    /// The file of an object, if it has one that is complete and verified.
    pub fn complete_file(&self, object: &Fingerprint) -> Option<CompleteFile> {
        self.shared.files.complete(object).filter(|_| !self.shared.closed.load(Relaxed))
    }

    /// Forgets the first `chunks` extents of an object, and its file.
    pub fn forget(&self, object: &Fingerprint, chunks: u32) {
        let keys = (0..chunks).map(|chunk| ExtentKey { object: *object, chunk });
        let forgotten = keys.filter(|key| self.shared.residents.forget(key)).count();
        let forgotten = forgotten + self.shared.files.forget(object);
        self.shared.figures.forgotten_extents.add(forgotten as u64);
        self.shared.wake_writers();
    }

    /// Forgets all objects that `keep` says no to; how many extents that were.
    pub fn retain(&self, keep: &dyn Fn(&Fingerprint) -> bool) -> usize {
        let forgotten = self.shared.residents.retain(&mut |key, _| keep(&key.object));
        let forgotten = forgotten + self.shared.files.retain(keep);
        self.shared.figures.forgotten_extents.add(forgotten as u64);
        self.shared.wake_writers();
        forgotten
    }

    /// Calls `f` with each extent and the length of its data. No lock is held: `f` may call anything here.
    pub fn for_each_extent(&self, f: &mut dyn FnMut(&ExtentKey, u32)) {
        self.shared.residents.index().for_each(&mut |key, addr: ExtentAddr| f(key, addr.len));
        self.shared.files.for_each(f);
    }

    /// Makes every append durable that was answered before, and writes a checkpoint.
    ///
    /// Waits for the writer threads: not to be called in an answer of theirs.
    ///
    /// # Errors
    /// If a volume could not: what it lost is forgotten, the rest is durable.
    pub fn sync(&self) -> Result<(), SyncFailed> {
        self.shared.sync()
    }

    /// What it holds and takes.
    pub fn usage(&self) -> Usage {
        usage::measure(&self.shared)
    }

    /// Makes everything durable, writes a checkpoint and ends the threads. Later reads and appends are refused.
    pub fn close(&self) {
        std::mem::take(&mut *self.helpers.lock()).into_iter().for_each(Helper::stop);
        self.shared.close();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}

impl Helper {
    fn start(name: &str, run: impl FnOnce(&Receiver<()>) + Send + 'static) -> Self {
        let (stop, stopped) = bounded(0);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&stopped));
        Self { stop, thread: thread.expect("the reader threads could be started just before") }
    }

    /// Tells it to stop and waits; if a device holds it up for too long it is left behind.
    fn stop(self) {
        let Self { stop, thread } = self;
        drop(stop);
        let until = Instant::now() + SYNC_WAIT;
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() && thread.join().is_err() {
            tracing::error!("a thread of the store panicked");
        }
    }
}

/// Makes changes durable every `interval`, and writes a checkpoint.
fn keep(shared: &Shared, interval: Duration, stopped: &Receiver<()>) {
    let mut seen = 0;
    while stopped.recv_timeout(interval).is_err_and(|error| error.is_timeout()) {
        let figures = &shared.figures;
        let changes = figures.appended_extents.get() + figures.forgotten_extents.get();
        if changes != seen && shared.sync().is_ok() {
            seen = changes;
        }
    }
}

impl Shared {
    /// Reads what is in extents by `ask`.
    fn read(
        &self,
        key: ExtentKey,
        range: Range<u32>,
        done: ReadAnswer,
        purpose: Purpose,
        ask: impl FnOnce(&Handle, reader::Request) -> Result<(), TrySendError<reader::Request>>,
    ) {
        if purpose == Purpose::Demand {
            self.figures.reads.increment();
        }
        let miss = |done: ReadAnswer, miss| {
            reader::count_miss(&self.figures, purpose, miss);
            done.give(Err(miss));
        };
        let Some(addr) = self.residents.get(&key) else {
            return match self.closed.load(Relaxed) {
                true => miss(done, Miss::Failed),
                false => self.files.read(key, range, done, purpose),
            };
        };
        // One that was lost is not here before all of it is known.
        let handle = self.handle(addr.segment.volume()).filter(|handle| handle.volume.is_in());
        let Some(handle) = handle.filter(|_| !self.closed.load(Relaxed)) else {
            return miss(done, Miss::Failed);
        };
        let pin = self.residents.pin(&addr).filter(|_| !range.is_empty() && range.end <= addr.len);
        let Some(pin) = pin else { return miss(done, Miss::Absent) };
        let request = reader::Request { key, addr, range, pin, asked: (self.clock)(), done, purpose };
        if let Err(refused) = ask(handle, request) {
            let (request, why) = match refused {
                TrySendError::Full(request) => (request, Miss::Busy),
                TrySendError::Disconnected(request) => (request, Miss::Failed),
            };
            self.figures.reads_queued.sub(1);
            miss(request.done, why);
        }
    }

    fn append(&self, key: ExtentKey, object_bytes: u64, data: Bytes, done: AppendAnswer) {
        if self.residents.get(&key).is_some() {
            return done.give(Appended::Stored);
        }
        let reject = |done: AppendAnswer, why| {
            match why {
                Rejection::Busy => self.figures.rejected_busy.increment(),
                _ => self.figures.rejected_out.increment(),
            }
            done.give(Appended::Rejected(why));
        };
        if self.closed.load(Relaxed) {
            return reject(done, Rejection::Closed);
        }
        if self.files.takes(&key.object, object_bytes) {
            let at = u64::from(key.chunk) * CHUNK_BYTES;
            let expected = object_bytes.saturating_sub(at).min(CHUNK_BYTES);
            assert_eq!(data.len() as u64, expected, "chunk {} of {object_bytes} bytes", key.chunk);
            return self.files.append(key, object_bytes, data, done);
        }
        let volumes = self.volumes.iter().filter(|handle| handle.volume.is_in());
        let Some(handle) = volumes.max_by_key(|handle| handle.room_bytes()) else {
            return reject(done, Rejection::Failed);
        };
        let bytes = data.len() as u64;
        if handle.volume.queued_bytes.fetch_add(bytes, Relaxed) + bytes > self.queue_bytes {
            handle.volume.queued_bytes.fetch_sub(bytes, Relaxed);
            return reject(done, Rejection::Busy);
        }
        let append = writer::Append { key, data, asked: (self.clock)(), done };
        self.figures.appends_queued.add(1);
        match handle.writer.try_send(writer::Request::Append(append)) {
            Ok(()) => handle.writer_waker.wake(),
            Err(refused) => {
                self.figures.appends_queued.sub(1);
                handle.volume.queued_bytes.fetch_sub(bytes, Relaxed);
                let why = if refused.is_full() { Rejection::Busy } else { Rejection::Closed };
                if let writer::Request::Append(append) = refused.into_inner() {
                    reject(append.done, why);
                }
            }
        }
    }

    /// The volume with that number.
    fn handle(&self, number: u8) -> Option<&Handle> {
        self.volumes.iter().find(|handle| handle.volume.number == number)
    }

    fn wake_writers(&self) {
        self.volumes.iter().for_each(|handle| handle.writer_waker.wake());
    }

    fn sync(&self) -> Result<(), SyncFailed> {
        let mut checkpoints = self.checkpoints.lock();
        let of_files = self.files.ask_sync();
        let (covered, outcome) = self.sync_volumes(writer::Request::Sync);
        self.checkpoint(covered, &mut checkpoints);
        // A filler that is stuck or gone has made nothing durable.
        let ended = |answer: Receiver<_>| answer.recv_timeout(SYNC_WAIT).unwrap_or(Err(SyncFailed));
        of_files.into_iter().map(ended).fold(outcome, Result::and)
    }

    /// Asks every writer for a sync, all at the same time; what those that could have made durable.
    fn sync_volumes(&self, request: MakeSync) -> (Covered, Result<(), SyncFailed>) {
        let answers: Vec<_> = self.volumes.iter().map(|handle| handle.sync(request)).collect();
        let (mut covered, mut outcome) = (Vec::new(), Ok(()));
        for answer in answers {
            // A writer that is stuck or gone has made nothing durable.
            match answer.recv_timeout(SYNC_WAIT).unwrap_or(Err(SyncFailed)) {
                Ok(synced) => covered.extend(synced),
                Err(failed) => outcome = Err(failed),
            }
        }
        (covered, outcome)
    }

    fn checkpoint(&self, covered: Covered, count: &mut u64) {
        *count += 1;
        let written = checkpoint::write(
            &self.state_dir,
            (self.uuid, *count),
            covered,
            &self.residents,
            self.checkpoint_bytes / 2,
        );
        match written {
            Ok(()) => self.figures.checkpoints.increment(),
            Err(error) => {
                self.figures.checkpoint_failures.increment();
                tracing::warn!(%error, "no checkpoint written: the next start reads headers instead");
            }
        }
    }

    fn close(&self) {
        if self.closed.swap(true, Relaxed) {
            return;
        }
        let mut checkpoints = self.checkpoints.lock();
        self.files.close_fillers(SYNC_WAIT);
        let (covered, _) = self.sync_volumes(writer::Request::Close);
        self.checkpoint(covered, &mut checkpoints);
        for handle in self.volumes.iter() {
            handle.volume.close();
            handle.readers.iter().for_each(|(_, waker)| waker.wake());
            handle.desks.close();
        }
        for thread in self.volumes.iter().flat_map(|handle| std::mem::take(&mut *handle.threads.lock())) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        self.files.close_readers();
    }

    /// Ends the threads of a store that is not opened to the end.
    fn abandon(&self) {
        self.closed.store(true, Relaxed);
        self.volumes.iter().for_each(|handle| handle.volume.close());
        self.files.close_fillers(Duration::from_secs(1));
        self.files.close_readers();
    }
}

impl Handle {
    /// Bytes that appends can take, those in segments included that can be reclaimed.
    fn room_bytes(&self) -> u64 {
        let dead = u64::from(self.volume.segments.emptied()) * u64::from(self.volume.layout.room_bytes());
        self.volume.room_bytes.load(Relaxed) + dead
    }

    /// Hands a read to the next reader thread, or to any that has room in its queue.
    fn ask(&self, request: reader::Request) -> Result<(), TrySendError<reader::Request>> {
        self.volume.figures.reads_queued.add(1);
        let first = self.next_reader.fetch_add(1, Relaxed);
        let mut refused = request;
        for turn in 0..self.readers.len() {
            let (queue, waker) = &self.readers[first.wrapping_add(turn) % self.readers.len()];
            match queue.try_send(refused) {
                Ok(()) => {
                    waker.wake();
                    return Ok(());
                }
                Err(TrySendError::Full(request)) => refused = request,
                Err(disconnected) => return Err(disconnected),
            }
        }
        Err(TrySendError::Full(refused))
    }

    /// Asks the writer for a sync, if the volume is in use.
    fn sync(&self, request: MakeSync) -> Receiver<Result<Covered, SyncFailed>> {
        let (done, answer) = bounded(1);
        let done = Box::new(move |outcome| {
            // Nobody waits any more if the sync took too long.
            let _ = done.send(outcome);
        });
        if self.writer.send_timeout(request(done), SYNC_WAIT).is_ok() {
            self.writer_waker.wake();
        }
        answer
    }
}
