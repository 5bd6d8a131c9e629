//! The writer of a volume: the one thread that appends to it, syncs it and reclaims its segments.
//!
//! Appends come through a bounded channel and are packed into batches, each of them one device write.
//! An extent enters the index when its write completed; it is durable when a later sync completed.
//! Nothing is ever written twice to be believed: a write or a sync that fails, or does not complete in
//! time, *poisons* the segments that it was for. Their extents leave the index, and they are used again
//! only when the device has let go of every write to them.
//!
//! [`Writer::step`] does what can be done without waiting, waits once, and handles what completed. The
//! thread calls it in a loop; tests call it on a simulated device, where the same seed gives the same
//! run.

mod batch;
mod unsynced;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam::channel::Receiver;

use self::batch::{Batch, Open, Written};
use self::unsynced::Unsynced;
use super::allocator::Allocator;
use super::answer::AppendAnswer;
use super::in_flight::{Ended, InFlight};
use super::layout::{PAGE_BYTES, SUPERBLOCKS, extent_bytes};
use super::segments::Pin;
use super::superblock::{GENERATIONS_AHEAD, Superblock};
use super::volume::Volume;
use crate::index::SegmentId;
use crate::io::{Buffer, BufferPool, Completion, DeviceFile, Engine, FileSlot, Operation, Token};
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
    /// Too many appends wait already.
    Busy,
}

/// Is told what became of an append, on the writer's thread.
pub type AppendDone = Box<dyn FnOnce(Appended) + Send>;

/// Is told of the end of a sync, on the writer's thread.
pub type SyncDone = Box<dyn FnOnce(Result<Covered, SyncFailed>) + Send>;

/// What a sync made durable: the segments in these incarnations, all of them but the open one whole.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Covered {
    /// By segment number; 0 for one that is not in use.
    pub generations: Vec<u32>,
    /// The segment that is appended to, and how far it is durable.
    pub open: Option<(u32, u32)>,
}

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
}

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

/// Where a writer writes.
pub struct Disk {
    /// Its own engine, with room for two operations more than [`WriterLimits::depth`].
    pub engine: Box<dyn Engine>,
    /// The volume's file there.
    pub slot: FileSlot,
    /// The volume's file, for superblocks.
    pub file: DeviceFile,
    /// Buffers of [`Writer::buffer_bytes`].
    pub pool: BufferPool,
}

/// What an operation in flight is for.
enum Work {
    Write(Written),
    Sync { segments: Vec<u32>, waiters: Vec<(SyncDone, Covered)> },
    Trial,
}

/// See the head of the module.
pub struct Writer {
    volume: Arc<Volume>,
    disk: Disk,
    limits: WriterLimits,
    requests: Receiver<Request>,
    superblock: Superblock,
    allocator: Allocator,
    open: Option<Open>,
    batch: Option<Batch>,
    /// What is packed or in flight. An extent is written once: a second copy, torn by a power cut, would
    /// hide the first from recovery.
    packed: HashSet<ExtentKey>,
    /// Taken from the channel, but there was no buffer for it.
    waiting: Option<Append>,
    /// Syncs asked for: nothing more is taken until they are done.
    syncs: Vec<SyncDone>,
    in_flight: InFlight<Work>,
    /// Pins for writes that were given up and that the device still holds.
    late: HashMap<Token, Pin>,
    unsynced: Unsynced,
    /// When the next byte may be written, if that is capped.
    pace: Instant,
    closing: bool,
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
        assert!(disk.engine.depth() >= limits.depth + 2 && limits.depth > 0);
        let open =
            tail.map(|(segment, end)| Open::resumed(segment, volume.segments.generation(segment), end));
        let mut writer = Self {
            volume,
            disk,
            limits,
            requests,
            superblock,
            allocator,
            open,
            batch: None,
            packed: HashSet::new(),
            waiting: None,
            syncs: Vec::new(),
            in_flight: InFlight::new(limits.deadline),
            late: HashMap::new(),
            unsynced: Unsynced::default(),
            pace: now,
            closing: false,
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
        if self.in_flight.len() > 0 {
            // Dropping the engine would wait for a device that does not answer.
            std::mem::forget(self.disk.engine);
        }
    }

    /// Does what there is to do and waits up to `wait` for more; false once it is closed.
    pub fn step(&mut self, clock: &super::Clock, wait: Duration) -> bool {
        let now = clock();
        self.begin_trial(now);
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

    fn take_requests(&mut self, now: Instant) {
        while self.syncs.is_empty() && !self.closing {
            let Some(request) = self.next_request() else { break };
            match request {
                Request::Append(append) => {
                    if let Err(append) = self.append(append, now) {
                        self.waiting = Some(append);
                        break;
                    }
                }
                Request::Sync(done) => self.syncs.push(done),
                Request::Close(done) => {
                    self.syncs.push(done);
                    self.closing = true;
                }
            }
        }
        // Full batches went out by themselves. A part of one goes out when nothing is there to join it.
        if self.waiting.is_none() {
            self.write_batch(now);
        }
        self.refuse_late(now);
    }

    fn next_request(&mut self) -> Option<Request> {
        if let Some(append) = self.waiting.take() {
            return Some(Request::Append(append));
        }
        let request = self.requests.try_recv().ok()?;
        if matches!(request, Request::Append(_)) {
            self.volume.figures.appends_queued.sub(1);
        }
        Some(request)
    }

    /// Appends that wait longer than a write may take are refused, so that nothing waits for a silent device.
    fn refuse_late(&mut self, now: Instant) {
        while let Some(append) = self.waiting.take() {
            if now.saturating_duration_since(append.asked) < self.limits.deadline {
                self.waiting = Some(append);
                break;
            }
            self.reject(append.done, Rejection::Failed);
            match self.next_request() {
                Some(Request::Append(append)) => self.waiting = Some(append),
                Some(Request::Sync(done)) => self.syncs.push(done),
                Some(Request::Close(done)) => {
                    self.syncs.push(done);
                    self.closing = true;
                }
                None => break,
            }
        }
    }

    /// Packs one extent, or gives it back if it has to wait for a buffer.
    fn append(&mut self, append: Append, now: Instant) -> Result<(), Append> {
        if !self.volume.is_in() {
            self.reject(append.done, Rejection::Failed);
            return Ok(());
        }
        if self.volume.residents.get(&append.key).is_some() {
            append.done.give(Appended::Stored);
            return Ok(());
        }
        if self.packed.contains(&append.key) {
            self.reject(append.done, Rejection::Busy);
            return Ok(());
        }
        let bytes = extent_bytes(append.data.len() as u32);
        if self.batch.as_ref().is_some_and(|batch| !batch.has_room(bytes)) {
            self.write_batch(now);
        }
        let fits = self.open.as_ref().is_some_and(|open| open.has_room(bytes, &self.volume.layout));
        // The open segment stays open if there is no other: what is smaller may still fit.
        if !fits && !self.next_segment(bytes, now) {
            self.reject(append.done, Rejection::Full);
            return Ok(());
        }
        let buffer = match &self.batch {
            Some(_) => None,
            None => match self.free_buffer(now) {
                Some(buffer) => Some(buffer),
                None => return Err(append),
            },
        };
        let open = self.open.as_mut().expect("there is one or was made one above");
        if let Some(buffer) = buffer {
            self.batch = Some(Batch::begin(&self.volume, open, buffer));
        }
        let batch = self.batch.as_mut().expect("there was one or was made one above");
        self.packed.insert(append.key);
        batch.push(&self.volume, open, append);
        Ok(())
    }

    /// A buffer for the next batch, if one may be written now.
    fn free_buffer(&mut self, now: Instant) -> Option<Buffer> {
        let reading = self.volume.reads_in_flight.load(Relaxed) > 0;
        let depth = if reading { self.limits.depth_under_reads } else { self.limits.depth };
        if self.in_flight.len() >= depth.max(1) || now < self.pace {
            return None;
        }
        self.disk.pool.take()
    }

    /// Seals the open segment and begins one that takes an extent of `bytes`: whether there was a free one.
    fn next_segment(&mut self, bytes: u32, now: Instant) -> bool {
        self.reclaim();
        if bytes > self.volume.layout.room_bytes() || !self.have_generations(now) {
            return false;
        }
        let Some((segment, generation)) = self.allocator.take(&self.volume.segments) else { return false };
        self.write_batch(now);
        self.seal();
        self.open = Some(Open::fresh(segment, generation));
        true
    }

    fn reclaim(&mut self) {
        let reclaimed = self.allocator.reclaim(&self.volume.segments);
        self.volume.figures.segments_reclaimed.add(u64::from(reclaimed));
    }

    /// Makes sure that the next generation is below the durable ceiling.
    fn have_generations(&mut self, now: Instant) -> bool {
        let next = self.allocator.next_generation();
        if next < self.superblock.generation_ceiling || self.allocator.free() == 0 {
            return true;
        }
        let Some(raised) = self.superblock.raised(next.saturating_add(GENERATIONS_AHEAD)) else {
            return false;
        };
        match raised.write(&self.disk.file) {
            Ok(()) => {
                self.superblock = raised;
                true
            }
            Err(error) => {
                self.volume.device_failed("writing the superblock", &error, now);
                false
            }
        }
    }

    fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            if self.unsynced.seal(open.segment) {
                return;
            }
            self.allocator.seal(open.segment, &self.volume.segments);
        }
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
        if !asked && !due {
            return;
        }
        let segments = self.unsynced.begin_sync();
        // Taken down now: what is appended from here on is not part of this sync.
        let waiters =
            std::mem::take(&mut self.syncs).into_iter().map(|done| (done, self.covered())).collect();
        let work = Work::Sync { segments, waiters };
        let token = self.in_flight.begin(work, now);
        self.disk.engine.submit(token, self.disk.slot, Operation::Sync);
    }

    fn covered(&self) -> Covered {
        let segments = &self.volume.segments;
        let generations = (0..segments.count()).map(|segment| segments.generation(segment)).collect();
        Covered { generations, open: self.open.as_ref().map(|open| (open.segment, open.end)) }
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

    fn complete(&mut self, completion: Completion, now: Instant) {
        let Completion { token, result, buffer } = completion;
        match self.in_flight.end(token, now) {
            Ended::InTime(Work::Write(written), took) => self.written(written, result, took, now),
            Ended::InTime(Work::Sync { segments, waiters }, took) => {
                self.synced(&segments, waiters, result.map(drop), took, now);
            }
            Ended::InTime(Work::Trial, _) => {
                let whole = matches!(result, Ok(bytes) if bytes >= PAGE_BYTES as usize);
                let ours = whole && buffer.is_some_and(|page| self.superblock.is_of_this_volume(&page));
                self.volume.tried(ours, now);
            }
            Ended::TooLate => drop(self.late.remove(&token)),
        }
    }

    fn written(&mut self, written: Written, result: io::Result<usize>, took: Duration, now: Instant) {
        self.volume.figures.writes_in_flight.sub(1);
        self.volume.figures.device_writes.increment();
        self.volume.figures.device_write_latency.record(took);
        let result = result.and_then(|bytes| match bytes == written.bytes as usize {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::WriteZero, "short write")),
        });
        match result {
            Ok(()) if self.unsynced.end_write(&written, now) => self.admit(written),
            Ok(()) => self.reject_all(written),
            Err(error) => {
                self.volume.device_failed("a write", &error, now);
                self.poison(written.segment, written.generation);
                self.reject_all(written);
            }
        }
    }

    fn admit(&mut self, written: Written) {
        let figures = &self.volume.figures;
        figures.device_write_bytes.add(u64::from(written.bytes));
        for extent in written.extents {
            self.volume.residents.insert(extent.key, extent.addr);
            self.packed.remove(&extent.key);
            figures.appended_extents.increment();
            figures.appended_bytes.add(u64::from(extent.addr.len));
            extent.done.give(Appended::Stored);
        }
    }

    fn synced(
        &mut self,
        segments: &[u32],
        waiters: Vec<(SyncDone, Covered)>,
        result: io::Result<()>,
        took: Duration,
        now: Instant,
    ) {
        self.volume.figures.device_syncs.increment();
        self.volume.figures.device_sync_latency.record(took);
        let outcome = match result {
            Ok(()) => {
                for sealed in self.unsynced.end_sync(segments) {
                    self.allocator.seal(sealed, &self.volume.segments);
                }
                Ok(())
            }
            Err(error) => {
                self.volume.device_failed("a sync", &error, now);
                for segment in self.unsynced.leave_sync(segments) {
                    self.poison(segment, self.volume.segments.generation(segment));
                }
                Err(SyncFailed)
            }
        };
        waiters.into_iter().for_each(|(done, covered)| done(outcome.map(|()| covered)));
    }

    /// Forgets what is in `segment`, if it is still in that incarnation.
    fn poison(&mut self, segment: u32, generation: u32) {
        if !self.unsynced.remove(segment, generation) {
            return;
        }
        let extents = self.volume.residents.forget_segment(SegmentId::new(self.volume.number, segment));
        tracing::warn!(volume = %self.volume.name, segment, extents, "segment dropped after an error");
        self.volume.figures.poisoned_segments.increment();
        if self.open.as_ref().is_some_and(|open| open.segment == segment) {
            self.open = None;
            if let Some(batch) = self.batch.take() {
                self.reject_all(batch.into_operation(&self.volume).1);
            }
        }
        self.allocator.retire(segment, &self.volume.segments);
    }

    /// The deadline of an operation is over.
    fn give_up(&mut self, token: Token, work: Work, now: Instant) {
        let error = io::Error::from(io::ErrorKind::TimedOut);
        match work {
            Work::Write(mut written) => {
                self.volume.figures.writes_in_flight.sub(1);
                self.volume.device_failed("a write", &error, now);
                self.late.extend(written.pin.take().map(|pin| (token, pin)));
                self.poison(written.segment, written.generation);
                self.reject_all(written);
            }
            Work::Sync { segments, waiters } => {
                self.synced(&segments, waiters, Err(error), self.limits.deadline, now)
            }
            Work::Trial => self.volume.tried(false, now),
        }
    }

    fn reject_all(&mut self, written: Written) {
        for extent in written.extents {
            self.packed.remove(&extent.key);
            self.reject(extent.done, Rejection::Failed);
        }
    }

    fn reject(&self, done: AppendAnswer, why: Rejection) {
        let figures = &self.volume.figures;
        match why {
            Rejection::Full => figures.rejected_full.increment(),
            Rejection::Failed => figures.rejected_failed.increment(),
            Rejection::Busy => figures.rejected_busy.increment(),
            Rejection::Closed => figures.rejected_out.increment(),
        }
        done.give(Appended::Rejected(why));
    }

    fn wait(&self, now: Instant) -> Duration {
        // A device write that is packed or requests that can be taken: do not wait at all.
        let can_work =
            self.waiting.is_none() && self.syncs.is_empty() && !self.closing && !self.requests.is_empty();
        if can_work {
            return Duration::ZERO;
        }
        let paced = self.waiting.as_ref().and((self.pace > now).then_some(self.pace));
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
        let free = u64::from(self.allocator.free()) * u64::from(layout.room_bytes());
        self.volume.room_bytes.store(free + u64::from(open), Relaxed);
        self.volume.free_segments.store(u64::from(self.allocator.free()), Relaxed);
    }
}
