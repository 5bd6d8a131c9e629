//! A reader of a volume: a thread that reads extents and believes nothing unchecked.
//!
//! Requests come through a bounded channel, each with a pin on its segment. Whatever the device gives
//! is compared with what was asked for: magic, identity, length, generation and the checksum of every
//! block that is touched. The answer is given on this thread, while the bytes are still in the buffer
//! that the device filled: whoever wants them copies them once.
//!
//! [`Reader::step`] does what can be done without waiting, waits once, and handles what completed.

mod active;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, TryRecvError};

pub(super) use self::active::is_passing;
use self::active::{Active, Part, Verdict};
use super::answer::ReadAnswer;
use super::in_flight::{Ended, InFlight};
use super::inbox::Inbox;
use super::layout::EXTENT_BYTES_MAX;
use super::segments::Pin;
use super::volume::Volume;
use crate::index::ExtentAddr;
use crate::io::{Buffer, BufferPool, Completion, Engine, FileSlot};
use crate::object::ExtentKey;

/// Why a read is not answered with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Miss {
    /// The store does not have them.
    #[error("not in the store")]
    Absent,
    /// What was on the device was not what had been written. It is forgotten now.
    #[error("damaged on the device")]
    Corrupt,
    /// The device failed or did not answer in time, or is out of use.
    #[error("the device failed")]
    Failed,
    /// Too many reads wait already.
    #[error("too many reads wait")]
    Busy,
}

/// Is given the bytes, on the reader's thread; they are gone when it returns.
pub type ReadDone = Box<dyn FnOnce(Result<&[u8], Miss>) + Send>;

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody who waits for the bytes.
    Demand,
    /// The scrubber.
    Scrub,
}

/// A read of a part of an extent.
pub struct Request {
    /// Whose data.
    pub key: ExtentKey,
    /// Where the index says it is.
    pub addr: ExtentAddr,
    /// Which part of it: not empty, within the extent.
    pub range: Range<u32>,
    /// Keeps the segment.
    pub pin: Pin,
    /// When it was asked for.
    pub asked: Instant,
    /// Is given the answer.
    pub done: ReadAnswer,
    /// Who reads: reads that nobody waits for are not hits or misses.
    pub purpose: Purpose,
}

/// Where a reader reads.
pub struct Disk {
    /// Its own engine.
    pub engine: Box<dyn Engine>,
    /// The volume's file there.
    pub slot: FileSlot,
    /// Buffers of [`Reader::buffer_bytes`], as many as the engine is deep, and at least two.
    pub pool: BufferPool,
}

/// See the head of the module.
pub struct Reader {
    volume: Arc<Volume>,
    disk: Disk,
    deadline: Duration,
    inbox: Inbox<Request>,
    active: HashMap<u64, Active>,
    next: u64,
    in_flight: InFlight<(u64, Part)>,
    completions: Vec<Completion>,
}

impl Reader {
    /// A reader that answers within `deadline`.
    pub fn new(volume: Arc<Volume>, disk: Disk, deadline: Duration, requests: Receiver<Request>) -> Self {
        assert!(disk.engine.depth() >= 2, "a read can take two operations");
        Self {
            volume,
            disk,
            deadline,
            inbox: Inbox::new(requests),
            active: HashMap::new(),
            next: 0,
            in_flight: InFlight::new(deadline),
            completions: Vec::new(),
        }
    }

    /// The buffers that a reader needs: the largest extent fits in one.
    pub fn buffer_bytes(segment_bytes: u32) -> usize {
        EXTENT_BYTES_MAX.min(segment_bytes) as usize
    }

    /// Works until the volume is closed.
    pub fn run(mut self, clock: &super::Clock) {
        while self.step(clock, Duration::from_secs(1)) {}
        self.end();
    }

    /// Ends it.
    pub(super) fn end(self) {
        if !self.in_flight.is_empty() {
            // Dropping the engine would wait for a device that does not answer.
            std::mem::forget(self.disk.engine);
        }
    }

    /// Reads on this thread, and waits until it is answered; gives `request` back if the device still holds on to what was read before.
    pub(super) fn read_now(&mut self, request: Request, clock: &super::Clock) -> Option<Request> {
        if !self.in_flight.is_empty() {
            self.step(clock, Duration::ZERO);
        }
        if let Err(request) = self.begin(request, clock()) {
            return Some(request);
        }
        while !self.active.is_empty() {
            self.step(clock, self.deadline);
        }
        None
    }

    /// Does what there is to do and waits up to `wait` for more; false once nothing is left and nothing can come.
    pub fn step(&mut self, clock: &super::Clock, wait: Duration) -> bool {
        let now = clock();
        let open = self.take_requests(now) && !self.volume.is_closed();
        if !open && self.active.is_empty() && self.inbox.waiting().is_none() {
            return false;
        }
        let wait = self.wait(now).min(wait);
        let mut completions = std::mem::take(&mut self.completions);
        if let Err(error) = self.disk.engine.complete(wait, &mut completions) {
            self.volume.device_failed("the engine", &error, clock());
            std::thread::sleep(Duration::from_millis(10));
        }
        let now = clock();
        completions.drain(..).for_each(|completion| self.complete(completion, now));
        self.completions = completions;
        while let Some((_, (id, _))) = self.in_flight.expire(now) {
            self.volume.reads_in_flight.fetch_sub(1, Relaxed);
            self.volume.figures.reads_in_flight.sub(1);
            self.volume.device_failed("a read", &std::io::ErrorKind::TimedOut.into(), now);
            self.fail(id);
        }
        true
    }

    /// Begins what can be begun: whether more can come.
    fn take_requests(&mut self, now: Instant) -> bool {
        loop {
            let queued = &self.volume.figures.reads_queued;
            let request = match self.inbox.take(|_| queued.sub(1)) {
                Ok(request) => request,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            // Nothing waits for a silent device longer than a read may take.
            let late = now.saturating_duration_since(request.asked) >= self.deadline;
            if late || !self.volume.is_in() {
                self.answer_miss(request, Miss::Failed);
            } else if let Err(request) = self.begin(request, now) {
                self.inbox.put_back(request);
                return true;
            }
        }
    }

    /// Begins a read, or gives it back if it has to wait for buffers.
    fn begin(&mut self, request: Request, now: Instant) -> Result<(), Request> {
        let active = Active::new(request);
        let parts = active.parts();
        if self.in_flight.len() + parts.len() > self.disk.engine.depth() {
            return Err(active.into_request());
        }
        let buffers: Option<Vec<Buffer>> = parts.iter().map(|_| self.disk.pool.take()).collect();
        let Some(buffers) = buffers else { return Err(active.into_request()) };
        let id = self.next;
        self.next += 1;
        for (part, buffer) in parts.iter().zip(buffers) {
            self.submit(id, &active, *part, buffer, now);
        }
        self.active.insert(id, active);
        Ok(())
    }

    fn submit(&mut self, id: u64, active: &Active, part: Part, buffer: Buffer, now: Instant) {
        let operation = active.operation(part, buffer, &self.volume.layout);
        let token = self.in_flight.begin((id, part), now);
        self.volume.reads_in_flight.fetch_add(1, Relaxed);
        self.volume.figures.reads_in_flight.add(1);
        self.disk.engine.submit(token, self.disk.slot, operation);
    }

    fn complete(&mut self, completion: Completion, now: Instant) {
        let Ended::InTime((id, part), took) = self.in_flight.end(completion.token, now) else { return };
        let figures = &self.volume.figures;
        self.volume.reads_in_flight.fetch_sub(1, Relaxed);
        figures.reads_in_flight.sub(1);
        figures.device_reads.increment();
        figures.device_read_latency.record(took);
        // The other part of the same read may have failed already.
        let Some(mut active) = self.active.remove(&id) else { return };
        let buffer = completion.buffer.expect("a read gives its buffer back");
        match active.completed(part, completion.result, buffer) {
            Verdict::Waits => drop(self.active.insert(id, active)),
            Verdict::Again(buffer) => {
                self.submit(id, &active, part, buffer, now);
                self.active.insert(id, active);
            }
            Verdict::Failed(error) => {
                self.volume.device_failed("a read", &error, now);
                self.answer_miss(active.into_request(), Miss::Failed);
            }
            Verdict::Complete => self.answer(active, now),
        }
    }

    fn answer(&self, mut active: Active, now: Instant) {
        let figures = &self.volume.figures;
        figures.device_read_bytes.add(active.device_bytes());
        let outcome = active.checked(&self.volume);
        let request = active.request();
        if let Err(damage) = &outcome {
            tracing::debug!(volume = %self.volume.name, %damage, addr = ?request.addr, "extent forgotten");
            self.volume.forget_damaged(&request.key, request.addr);
            return self.answer_miss(active.into_request(), Miss::Corrupt);
        }
        let bytes = u64::from(request.range.end - request.range.start);
        match request.purpose {
            Purpose::Scrub => figures.scrubbed_bytes.add(bytes),
            Purpose::Demand => {
                figures.hits.increment();
                figures.hit_bytes.add(bytes);
                figures.read_latency.record(now.saturating_duration_since(request.asked));
            }
        }
        active.give();
    }

    fn fail(&mut self, id: u64) {
        if let Some(active) = self.active.remove(&id) {
            self.answer_miss(active.into_request(), Miss::Failed);
        }
    }

    fn answer_miss(&self, request: Request, miss: Miss) {
        count_miss(&self.volume.figures, request.purpose, miss);
        request.done.give(Err(miss));
    }

    fn wait(&self, now: Instant) -> Duration {
        let refused = self.inbox.waiting().map(|request| request.asked + self.deadline);
        let next = [refused, self.in_flight.deadline()].into_iter().flatten().min();
        next.map_or(Duration::MAX, |at| at.saturating_duration_since(now))
    }
}

/// Counts a read that is not answered with bytes.
pub fn count_miss(figures: &crate::stats::store::StoreFigures, purpose: Purpose, miss: Miss) {
    match miss {
        _ if purpose == Purpose::Scrub => {}
        Miss::Absent => figures.misses_absent.increment(),
        Miss::Corrupt => figures.misses_corrupt.increment(),
        Miss::Failed => figures.misses_failed.increment(),
        Miss::Busy => figures.misses_busy.increment(),
    }
}
