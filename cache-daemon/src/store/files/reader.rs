//! A reader of backing files: a thread that reads chunks past the page cache and believes nothing unchecked.
//!
//! Like the reader of segments (`store/reader`), with files where that has addresses: what the device gives
//! is compared with the checksums of the blocks that are touched, and the answer is given while the bytes
//! are in the buffer that the device filled. A file with damage is removed, all of it: it may be in the
//! hands of the kernel, which checks nothing.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, TryRecvError};

use super::file::BackingFile;
use super::open_files::OpenFiles;
use super::volume_files::VolumeFiles;
use crate::checksum;
use crate::io::{Buffer, BufferPool, Completion, DeviceOffset, Engine, Operation};
use crate::object::CHUNK_BYTES;
use crate::store::answer::ReadAnswer;
use crate::store::config::Clock;
use crate::store::in_flight::{Ended, InFlight};
use crate::store::inbox::Inbox;
use crate::store::layout::PAGE_BYTES;
use crate::store::reader::{Miss, Purpose, count_miss, is_passing};
use crate::store::record::BLOCK_BYTES;

/// A read is made again so many times if the device gives less than was asked for, or is interrupted.
const RETRIES: u8 = 3;

/// A read of a part of a chunk that is there.
pub struct Request {
    /// The file.
    pub file: Arc<BackingFile>,
    /// The chunk of it.
    pub chunk: u32,
    /// Which part of the chunk: not empty, within it.
    pub range: Range<u32>,
    /// When it was asked for.
    pub asked: Instant,
    /// Who reads: reads that nobody waits for are not hits or misses.
    pub purpose: Purpose,
    /// Is given the answer.
    pub done: ReadAnswer,
}

/// See the head of the module.
pub struct Reader {
    volume: Arc<VolumeFiles>,
    engine: Box<dyn Engine>,
    pool: BufferPool,
    deadline: Duration,
    inbox: Inbox<Request>,
    /// Files and what is in flight on them, also when nobody waits any more.
    open: OpenFiles,
    on_files: HashMap<u64, Arc<BackingFile>>,
    in_flight: InFlight<Active>,
    completions: Vec<Completion>,
}

/// A read that is under way: whole blocks, in whole pages.
struct Active {
    request: Request,
    /// From the beginning of the chunk.
    blocks: Range<u32>,
    retries: u8,
}

impl Reader {
    /// A reader that answers within `deadline`; the buffers of `pool` take a chunk each.
    pub fn new(
        volume: Arc<VolumeFiles>,
        (engine, pool): (Box<dyn Engine>, BufferPool),
        deadline: Duration,
        requests: Receiver<Request>,
    ) -> Self {
        assert!(pool.buffer_bytes() as u64 >= CHUNK_BYTES);
        Self {
            volume,
            engine,
            pool,
            deadline,
            inbox: Inbox::new(requests),
            open: OpenFiles::default(),
            on_files: HashMap::new(),
            in_flight: InFlight::new(deadline),
            completions: Vec::new(),
        }
    }

    /// Works until the volume is closed.
    pub fn run(mut self, clock: &Clock) {
        while self.step(clock, Duration::from_secs(1)) {}
        if !self.in_flight.is_empty() {
            // Dropping the engine would wait for a device that does not answer.
            std::mem::forget(self.engine);
        }
    }

    /// Does what there is to do and waits up to `wait` for more; false once nothing is left and nothing can come.
    pub fn step(&mut self, clock: &Clock, wait: Duration) -> bool {
        let now = clock();
        self.open.close_gone(&mut *self.engine);
        let open = self.take_requests(now) && !self.volume.volume.is_closed();
        if !open && self.in_flight.is_idle() && self.inbox.waiting().is_none() {
            return false;
        }
        let wait = self.wait(now).min(wait);
        let mut completions = std::mem::take(&mut self.completions);
        if let Err(error) = self.engine.complete(wait, &mut completions) {
            self.volume.volume.device_failed("the engine", &error, clock());
            std::thread::sleep(Duration::from_millis(10));
        }
        let now = clock();
        completions.drain(..).for_each(|completion| self.complete(completion, now));
        self.completions = completions;
        while let Some((_, active)) = self.in_flight.expire(now) {
            self.count_end();
            self.volume.volume.device_failed("a read of a file", &io::ErrorKind::TimedOut.into(), now);
            self.answer_miss(active.request, Miss::Failed);
        }
        true
    }

    /// Begins what can be begun: whether more can come.
    fn take_requests(&mut self, now: Instant) -> bool {
        loop {
            let queued = &self.volume.volume.figures.reads_queued;
            let request = match self.inbox.take(|_| queued.sub(1)) {
                Ok(request) => request,
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            };
            // Nothing waits for a silent device longer than a read may take.
            let late = now.saturating_duration_since(request.asked) >= self.deadline;
            if late || !self.volume.volume.is_in() {
                self.answer_miss(request, Miss::Failed);
            } else if request.file.is_gone() {
                self.answer_miss(request, Miss::Absent);
            } else if let Err(request) = self.begin(request, now) {
                self.inbox.put_back(request);
                return true;
            }
        }
    }

    /// Begins a read, or gives it back if it has to wait for a buffer.
    fn begin(&mut self, request: Request, now: Instant) -> Result<(), Request> {
        if self.in_flight.len() >= self.engine.depth() {
            return Err(request);
        }
        let Some(buffer) = self.pool.take() else { return Err(request) };
        self.submit(Active::new(request), buffer, now);
        Ok(())
    }

    fn submit(&mut self, active: Active, buffer: Buffer, now: Instant) {
        let file = active.request.file.clone();
        let slot = match self.open.begin(&mut *self.engine, &self.volume.shelf, &file) {
            Ok(slot) => slot,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.volume.revoke(&file, "it is not there any more");
                return self.answer_miss(active.request, Miss::Corrupt);
            }
            Err(error) => {
                self.volume.volume.device_failed("opening a file", &error, now);
                return self.answer_miss(active.request, Miss::Failed);
            }
        };
        let operation = active.operation(buffer);
        let token = self.in_flight.begin(active, now);
        self.on_files.insert(token.0, file);
        self.volume.volume.reads_in_flight.fetch_add(1, Relaxed);
        self.volume.volume.figures.reads_in_flight.add(1);
        self.engine.submit(token, slot, operation);
    }

    fn complete(&mut self, completion: Completion, now: Instant) {
        let file = self.on_files.remove(&completion.token.0).expect("every operation is on a file");
        self.open.end(&file);
        let Ended::InTime(mut active, took) = self.in_flight.end(completion.token, now) else { return };
        self.count_end();
        let figures = &self.volume.volume.figures;
        figures.device_reads.increment();
        figures.device_read_latency.record(took);
        let buffer = completion.buffer.expect("a read gives its buffer back");
        let whole = active.blocks.len();
        match completion.result {
            Ok(bytes) if bytes >= whole => self.answer(active, &buffer[..whole], now),
            Err(error) if !is_passing(&error) => {
                self.volume.volume.device_failed("a read of a file", &error, now);
                self.answer_miss(active.request, Miss::Failed);
            }
            _ if active.retries > 0 => {
                active.retries -= 1;
                self.submit(active, buffer, now);
            }
            Ok(_) => {
                self.volume.revoke(&file, "it is shorter than its object");
                self.answer_miss(active.request, Miss::Corrupt);
            }
            Err(error) => {
                self.volume.volume.device_failed("a read of a file", &error, now);
                self.answer_miss(active.request, Miss::Failed);
            }
        }
    }

    fn answer(&self, active: Active, blocks: &[u8], now: Instant) {
        let figures = &self.volume.volume.figures;
        figures.device_read_bytes.add(blocks.len() as u64);
        let Request { file, chunk, range, asked, .. } = &active.request;
        let first = (u64::from(*chunk) * CHUNK_BYTES) as usize / BLOCK_BYTES
            + active.blocks.start as usize / BLOCK_BYTES;
        let mut checked = blocks.chunks(BLOCK_BYTES).zip(first..);
        if !checked.all(|(block, number)| checksum::crc32c(block) == file.checksum(number)) {
            self.volume.revoke(file, "a checksum is wrong");
            return self.answer_miss(active.request, Miss::Corrupt);
        }
        if active.blocks == (0..file.identity().chunk_bytes(*chunk)) {
            file.seen(*chunk);
        }
        match active.request.purpose {
            Purpose::Scrub => figures.scrubbed_bytes.add(range.len() as u64),
            Purpose::Demand => {
                figures.hits.increment();
                figures.hit_bytes.add(range.len() as u64);
                figures.read_latency.record(now.saturating_duration_since(*asked));
            }
        }
        let start = (range.start - active.blocks.start) as usize;
        let wanted = &blocks[start..start + range.len()];
        active.request.done.give(Ok(wanted));
    }

    fn count_end(&self) {
        self.volume.volume.reads_in_flight.fetch_sub(1, Relaxed);
        self.volume.volume.figures.reads_in_flight.sub(1);
    }

    fn answer_miss(&self, request: Request, miss: Miss) {
        count_miss(&self.volume.volume.figures, request.purpose, miss);
        request.done.give(Err(miss));
    }

    fn wait(&self, now: Instant) -> Duration {
        let refused = self.inbox.waiting().map(|request| request.asked + self.deadline);
        let next = [refused, self.in_flight.deadline()].into_iter().flatten().min();
        next.map_or(Duration::MAX, |at| at.saturating_duration_since(now))
    }
}

impl Active {
    fn new(request: Request) -> Self {
        let block = BLOCK_BYTES as u32;
        let chunk_bytes = request.file.identity().chunk_bytes(request.chunk);
        let start = request.range.start / block * block;
        let end = request.range.end.next_multiple_of(block).min(chunk_bytes);
        Self { request, blocks: start..end, retries: RETRIES }
    }

    fn operation(&self, buffer: Buffer) -> Operation {
        let at = u64::from(self.request.chunk) * CHUNK_BYTES + u64::from(self.blocks.start);
        // The last page of an object is not whole, and the device gives what is there.
        let len = (self.blocks.len()).next_multiple_of(PAGE_BYTES as usize);
        Operation::Read { buffer, len, at: DeviceOffset(at) }
    }
}
