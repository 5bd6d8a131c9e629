//! The writer of a volume: the one thread that appends to it, syncs it and reclaims its segments.
//!
//! Appends come through a bounded channel and are packed into batches, each of them one device write.
//! An extent enters the index when its write completed; it is durable when a later sync completed.
//! Nothing is ever written twice to be believed: a write or a sync that fails, or does not complete in
//! time, *poisons* the segments that it was for. Their extents leave the index, and they are used again
//! only when the device has let go of every write to them.
//!
//! `admission.rs` is the way in, `completion.rs` what follows, `moving.rs` how space is gathered,
//! `ceiling.rs` where generations come from.
//!
//! [`Writer::step`] does what can be done without waiting, waits once, and handles what completed. The
//! thread calls it in a loop; tests call it on a simulated device, where the same seed gives the same
//! run.

mod admission;
mod batch;
mod ceiling;
mod completion;
mod moving;
mod unsynced;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::Receiver;

use self::batch::{Batch, Open, Written};
use self::ceiling::{Ceiling, Step};
use self::moving::{Moved, Moves};
use self::unsynced::Unsynced;
use super::allocator::Allocator;
use super::answer::AppendAnswer;
use super::in_flight::InFlight;
use super::layout::{PAGE_BYTES, SUPERBLOCKS};
use super::segments::Pin;
use super::superblock::Superblock;
use super::volume::Volume;
use crate::index::checkpoint::SealedSegment;
use crate::index::{Generation, SegmentId};
use crate::io::{BufferPool, Completion, Engine, FileSlot, Operation, Token};
use crate::object::ExtentKey;

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// Written and indexed; durable after the next sync.
    Stored,
    /// Not stored. The cache goes on without.
    Rejected(Rejection),
}

/// Why an append was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// No segment is free.
    Full,
    /// The device failed or did not answer in time, or is out of use.
    Failed,
    /// The store is closed.
    Closed,
    /// Not now: too many appends wait already, or a segment is being emptied.
    Busy,
}

/// Is told what became of an append, on the writer's thread.
pub type AppendDone = Box<dyn FnOnce(Appended) + Send>;

/// Is told of the end of a sync, on the writer's thread.
pub type SyncDone = Box<dyn FnOnce(Result<Covered, SyncFailed>) + Send>;

/// What a sync made durable: for each segment that was ever begun, its incarnation and how much of it.
pub type Covered = Vec<SealedSegment>;

/// A sync failed; the segments that it was for are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device failed to make writes durable")]
pub struct SyncFailed;

/// What a writer is asked to do.
pub enum Request {
    /// Store an extent.
    Append(Append),
    /// Make everything asked for before durable.
    Sync(SyncDone),
    /// Make everything durable and stop.
    Close(SyncDone),
    /// Give up free segments, so that backing files can have their space: as many as are asked for, or none.
    Lend {
        /// How many.
        count: u32,
        /// Is told which.
        done: LendDone,
    },
    /// A segment that was given up is free again, with its space.
    TakeBack(u32),
}

/// Is told which segments were given up, on the writer's thread.
pub type LendDone = Box<dyn FnOnce(Vec<u32>) + Send>;

/// An extent to be stored.
pub struct Append {
    /// Whose data.
    pub key: ExtentKey,
    /// The data: 1 byte to 1 MiB.
    pub data: Bytes,
    /// When it was asked for.
    pub asked: Instant,
    /// Is told the outcome.
    pub done: AppendAnswer,
}

/// How a writer works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriterLimits {
    /// Device writes in flight.
    pub depth: usize,
    /// Device writes in flight while reads are in flight too: fills yield.
    pub depth_under_reads: usize,
    /// Bytes per second on the device, if capped.
    pub bytes_per_s: Option<u64>,
    /// Until a write or sync counts as failed.
    pub deadline: Duration,
    /// The longest that a completed write waits for a sync...
    pub sync_interval: Duration,
    /// ...and the most bytes that do.
    pub sync_bytes: u64,
}

impl Default for WriterLimits {
    fn default() -> Self {
        Self {
            depth: 16,
            depth_under_reads: 4,
            bytes_per_s: None,
            deadline: Duration::from_secs(10),
            sync_interval: Duration::from_secs(1),
            sync_bytes: 64 << 20,
        }
    }
}

/// Operations besides writes of batches: a sync, a trial, and a step of raising the ceiling.
pub const SPARE_DEPTH: usize = 3;

/// Where a writer writes.
pub struct Disk {
    /// Its own engine, with room for [`SPARE_DEPTH`] operations more than [`WriterLimits::depth`].
    pub engine: Box<dyn Engine>,
    /// The volume's file there.
    pub slot: FileSlot,
    /// Buffers of [`Writer::buffer_bytes`].
    pub pool: BufferPool,
}

/// What an operation in flight is for.
enum Work {
    Write(Written),
    Sync(SyncWork),
    /// A part of a segment is read that is being emptied.
    Move {
        start: u32,
        len: u32,
    },
    Raise(Step),
    Trial,
}

/// What depends on a sync.
struct SyncWork {
    segments: Vec<u32>,
    copied: Vec<Moved>,
    waiters: Vec<(SyncDone, Covered)>,
}

/// See the head of the module.
pub struct Writer {
    volume: Arc<Volume>,
    disk: Disk,
    limits: WriterLimits,
    requests: Receiver<Request>,
    ceiling: Ceiling,
    allocator: Allocator,
    open: Option<Open>,
    batch: Option<Batch>,
    /// What is packed or in flight. An extent is written once: a second copy, torn by a power cut, would
    /// hide the first from recovery.
    packed: HashSet<ExtentKey>,
    /// Taken from the channel, but there was no buffer for it, or a segment is being emptied.
    waiting: Option<Append>,
    /// Syncs asked for: nothing more is taken until they are done.
    syncs: Vec<SyncDone>,
    in_flight: InFlight<Work>,
    /// Pins for writes that were given up and that the device still holds.
    late: HashMap<Token, Pin>,
    unsynced: Unsynced,
    moves: Moves,
    /// When the next byte may be written, if that is capped.
    pace: Instant,
    closing: bool,
    /// Free and sealed segments as the figures have them.
    counted: (u64, u64),
    completions: Vec<Completion>,
}

impl Writer {
    /// A writer that goes on at `tail` (segment and offset), if there is one.
    pub fn new(
        volume: Arc<Volume>,
        disk: Disk,
        limits: WriterLimits,
        requests: Receiver<Request>,
        (superblock, allocator, tail): (Superblock, Allocator, Option<(u32, u32)>),
        now: Instant,
    ) -> Self {
        assert!(disk.engine.depth() >= limits.depth + SPARE_DEPTH && limits.depth > 0);
        let open =
            tail.map(|(segment, end)| Open::resumed(segment, volume.segments.generation(segment), end));
        let mut writer = Self {
            volume,
            disk,
            limits,
            requests,
            ceiling: Ceiling::new(superblock),
            allocator,
            open,
            batch: None,
            packed: HashSet::new(),
            waiting: None,
            syncs: Vec::new(),
            in_flight: InFlight::new(limits.deadline),
            late: HashMap::new(),
            unsynced: Unsynced::default(),
            moves: Moves::default(),
            pace: now,
            closing: false,
            counted: (0, 0),
            completions: Vec::new(),
        };
        writer.publish_room();
        writer
    }

    /// The buffers that a writer needs: the header of a segment and the largest extent fit in one.
    pub fn buffer_bytes(segment_bytes: u32) -> usize {
        (PAGE_BYTES + super::layout::EXTENT_BYTES_MAX).min(segment_bytes) as usize
    }

    /// Works until it is closed.
    pub fn run(mut self, clock: &super::Clock) {
        while self.step(clock, Duration::from_secs(1)) {}
        if !self.in_flight.is_empty() {
            // Dropping the engine would wait for a device that does not answer.
            std::mem::forget(self.disk.engine);
        }
    }

    /// Does what there is to do and waits up to `wait` for more; false once it is closed.
    pub fn step(&mut self, clock: &super::Clock, wait: Duration) -> bool {
        let now = clock();
        self.begin_trial(now);
        self.begin_raise(now);
        self.move_some(now);
        self.take_requests(now);
        self.begin_sync(now);
        let wait = self.wait(now).min(wait);
        let mut completions = std::mem::take(&mut self.completions);
        if let Err(error) = self.disk.engine.complete(wait, &mut completions) {
            self.volume.device_failed("the engine", &error, clock());
            std::thread::sleep(Duration::from_millis(10));
        }
        let now = clock();
        completions.drain(..).for_each(|completion| self.complete(completion, now));
        self.completions = completions;
        while let Some((token, work)) = self.in_flight.expire(now) {
            self.give_up(token, work, now);
        }
        self.reclaim();
        self.publish_room();
        !(self.closing && self.syncs.is_empty() && self.in_flight.is_idle())
    }

    fn write_batch(&mut self, now: Instant) {
        let Some(batch) = self.batch.take() else { return };
        let (operation, written) = batch.into_operation(&self.volume);
        self.unsynced.begin_write(&written);
        if let Some(rate) = self.limits.bytes_per_s {
            let cost = Duration::from_secs_f64(f64::from(written.bytes) / rate.max(1) as f64);
            self.pace = self.pace.max(now) + cost;
        }
        self.volume.figures.writes_in_flight.add(1);
        let token = self.in_flight.begin(Work::Write(written), now);
        self.disk.engine.submit(token, self.disk.slot, operation);
    }

    fn begin_sync(&mut self, now: Instant) {
        if self.unsynced.is_syncing() {
            return;
        }
        let asked = !self.syncs.is_empty();
        if asked && (self.batch.is_some() || self.unsynced.is_writing()) {
            return;
        }
        if asked && !self.unsynced.is_dirty() {
            return std::mem::take(&mut self.syncs).into_iter().for_each(|done| done(Ok(self.covered())));
        }
        let due = self.unsynced.is_due(now, self.limits.sync_interval, self.limits.sync_bytes);
        if !asked && !due && !self.moves_want_sync() {
            return;
        }
        let segments = self.unsynced.begin_sync();
        // Taken down now: what is appended from here on is not part of this sync.
        let waiters =
            std::mem::take(&mut self.syncs).into_iter().map(|done| (done, self.covered())).collect();
        let work = Work::Sync(SyncWork { segments, copied: std::mem::take(&mut self.moves.copied), waiters });
        let token = self.in_flight.begin(work, now);
        self.disk.engine.submit(token, self.disk.slot, Operation::Sync);
    }

    fn covered(&self) -> Covered {
        let segments = &self.volume.segments;
        // Those that are not in use too: a checkpoint that says that nothing of them is wanted keeps what
        // was forgotten from coming back with the headers.
        let begun = (0..segments.count()).map(|segment| (segment, segments.last_generation(segment)));
        begun
            .filter(|(_, generation)| *generation > 0)
            .map(|(segment, generation)| {
                let open = self.open.as_ref().filter(|open| open.segment == segment);
                SealedSegment {
                    segment: SegmentId::new(self.volume.number, segment),
                    generation: Generation(generation),
                    sealed_bytes: open.map_or(self.volume.layout.segment_bytes, |open| open.end),
                }
            })
            .collect()
    }

    fn begin_raise(&mut self, now: Instant) {
        if self.volume.is_in()
            && let Some(step) = self.ceiling.begin(self.allocator.next_generation())
        {
            self.raise(step, now);
        }
    }

    /// Does a step of a raise of the ceiling.
    fn raise(&mut self, step: Step, now: Instant) {
        let operation = match step {
            Step::Sync { .. } => Operation::Sync,
            Step::Write { second } => {
                let Some(mut buffer) = self.disk.pool.take() else {
                    self.ceiling.ended(step, false);
                    return;
                };
                let (superblock, copy) = self.ceiling.write(second);
                buffer[..PAGE_BYTES as usize].copy_from_slice(&superblock.page());
                Operation::Write { buffer, len: PAGE_BYTES as usize, at: SUPERBLOCKS[copy] }
            }
        };
        let token = self.in_flight.begin(Work::Raise(step), now);
        self.disk.engine.submit(token, self.disk.slot, operation);
    }

    fn begin_trial(&mut self, now: Instant) {
        if self.volume.is_in() || !self.volume.begin_trial(now) {
            return;
        }
        let Some(buffer) = self.disk.pool.take().filter(|_| self.in_flight.len() < self.disk.engine.depth())
        else {
            return self.volume.tried(false, now);
        };
        let token = self.in_flight.begin(Work::Trial, now);
        let operation = Operation::Read { buffer, len: PAGE_BYTES as usize, at: SUPERBLOCKS[0] };
        self.disk.engine.submit(token, self.disk.slot, operation);
    }

    fn wait(&self, now: Instant) -> Duration {
        // A device write that is packed or requests that can be taken: do not wait at all.
        let can_work =
            self.waiting.is_none() && self.syncs.is_empty() && !self.closing && !self.requests.is_empty();
        if can_work || self.will_move() {
            return Duration::ZERO;
        }
        let held_back = self.waiting.is_some() || self.is_moving();
        let paced = (held_back && self.pace > now).then_some(self.pace);
        let refused = self.waiting.as_ref().map(|append| append.asked + self.limits.deadline);
        let due = self.unsynced.due_at(self.limits.sync_interval);
        [paced, refused, due, self.in_flight.deadline(), self.volume.next_trial()]
            .into_iter()
            .flatten()
            .map(|at| at.saturating_duration_since(now))
            .min()
            .unwrap_or(Duration::MAX)
    }

    fn publish_room(&mut self) {
        let layout = &self.volume.layout;
        let open = self.open.as_ref().map_or(0, |open| layout.segment_bytes - open.end);
        let free = self.allocator.free().saturating_sub(self.reserve());
        let free = u64::from(free) * u64::from(layout.room_bytes());
        self.volume.room_bytes.store(free + u64::from(open), Relaxed);
        self.volume.free_segments.store(u64::from(self.allocator.free()), Relaxed);
        // Gauges are the sum over all volumes.
        let counts = (u64::from(self.allocator.free()), u64::from(self.allocator.sealed()));
        if counts != self.counted {
            let (figures, counted) = (&self.volume.figures, std::mem::replace(&mut self.counted, counts));
            figures.segments_free.add(counts.0);
            figures.segments_free.sub(counted.0);
            figures.segments_sealed.add(counts.1);
            figures.segments_sealed.sub(counted.1);
        }
    }
}
