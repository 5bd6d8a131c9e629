//! Reads: from a range of an object to the chunk and the tier that has it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use fuse_frontend::errno::Errno;
use fuse_frontend::source::Ino;
use fuse_frontend::ticket::ReadTicket;

use super::flight::{Boarded, Waiter};
use super::parts::{Sink, gathered, whole};
use super::slowest::Why;
use super::{Cache, UNIT_CHUNKS, UnitKey, WantedBy};
use crate::object::{CHUNK_BYTES, ExtentKey, Object};
use crate::store::{Miss, ReadDone, Store};

/// A range within one chunk of an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ChunkRange {
    pub chunk: u32,
    pub range: Range<u32>,
}

/// The part of a read that lies in one chunk, and where its bytes go.
struct Part {
    ino: Ino,
    object: Arc<Object>,
    wanted_by: WantedBy,
    range: ChunkRange,
    sink: Sink,
}

/// A part that the store is asked for, and since when.
pub(super) struct Rider {
    part: Part,
    since: Instant,
}

/// `len` bytes at `offset` of an object of `size_bytes`, cut at its end and at its chunks.
pub(super) fn chunk_ranges(size_bytes: u64, offset: u64, len: u32) -> Vec<ChunkRange> {
    let end = offset.saturating_add(u64::from(len)).min(size_bytes);
    let mut at = offset;
    let mut ranges = Vec::with_capacity(1);
    while at < end {
        let chunk = at / CHUNK_BYTES;
        let stop = end.min((chunk + 1) * CHUNK_BYTES);
        let base = chunk * CHUNK_BYTES;
        // Within a chunk, so below 2^20; chunks of sizes below 2^52 fit 32 bits.
        ranges.push(ChunkRange { chunk: chunk as u32, range: (at - base) as u32..(stop - base) as u32 });
        at = stop;
    }
    ranges
}

impl Cache {
    /// Reads `len` bytes of node `ino` at `offset` and answers `ticket`, then or later.
    pub fn read(self: &Arc<Self>, ino: Ino, offset: u64, len: u32, ticket: ReadTicket) {
        let Some(object) = self.catalog.object(ino) else {
            return ticket.error(Errno::STALE);
        };
        self.figures.reads.increment();
        let asker = ticket.asker();
        self.requests.note(ino, object.size_bytes, (offset, len), asker);
        let wanted_by = WantedBy::Reader(asker);
        self.give(ino, &Arc::new(object), (offset, len), wanted_by, ticket);
    }

    /// Answers `ticket` with `len` bytes at `offset` of node `ino`, which is `object`, then or later; nobody takes note of it as of
    /// a reader's wish. What nobody waits for goes behind what readers want, and its waiting is not counted.
    pub(super) fn give(
        self: &Arc<Self>,
        ino: Ino,
        object: &Arc<Object>,
        (offset, len): (u64, u32),
        wanted_by: WantedBy,
        ticket: ReadTicket,
    ) {
        let ranges = chunk_ranges(object.size_bytes, offset, len);
        let sinks = match &ranges[..] {
            [] => return ticket.data(&[]),
            [_] => vec![whole(ticket)],
            several => gathered(ticket, &several.iter().map(ChunkRange::len).collect::<Vec<_>>()),
        };
        for (range, sink) in ranges.into_iter().zip(sinks) {
            self.read_part(Part { ino, object: object.clone(), wanted_by, range, sink });
        }
    }

    fn read_part(self: &Arc<Self>, part: Part) {
        let Some(len) = self.store.contains(&part.key()) else { return self.read_absent(part) };
        let (key, rider) = (part.key(), Rider { part, since: Instant::now() });
        if !rider.part.is_readers() {
            return self.read_to_push(rider, len);
        }
        match self.rides.join(&key, rider) {
            Ok(()) => self.figures.push_joined.increment(),
            Err(rider) => self.read_stored(rider, Store::read_here),
        }
    }

    /// The index has the chunk: has it read from the store, and fetches it if the store cannot give it.
    fn read_stored(self: &Arc<Self>, rider: Rider, read: fn(&Store, ExtentKey, Range<u32>, ReadDone)) {
        let (key, range) = (rider.part.key(), rider.part.range.range.clone());
        let cache = self.clone();
        let done = move |result: Result<&[u8], Miss>| match result {
            Ok(bytes) => cache.serve(rider, bytes),
            Err(miss) => cache.refused(rider.part, miss),
        };
        read(&self.store, key, range, Box::new(done));
    }

    /// The same for a push; readers who ask for the chunk meanwhile go along, if it is all of its `len` bytes.
    fn read_to_push(self: &Arc<Self>, rider: Rider, len: u32) {
        let (key, range) = (rider.part.key(), rider.part.range.range.clone());
        if range != (0..len) || !self.rides.begin(key) {
            return self.read_stored(rider, Store::read);
        }
        let cache = self.clone();
        let done = move |result: Result<&[u8], Miss>| {
            // The readers first: the push sees then that it comes too late.
            for rider in cache.rides.end(&key).into_iter().chain([rider]) {
                match result {
                    Ok(bytes) => {
                        let range = rider.part.range.range.clone();
                        cache.serve(rider, &bytes[range.start as usize..range.end as usize]);
                    }
                    Err(miss) => cache.refused(rider.part, miss),
                }
            }
        };
        self.store.read(key, range, Box::new(done));
    }

    /// Hands on what the store gave.
    fn serve(&self, rider: Rider, bytes: &[u8]) {
        let Rider { part, since } = rider;
        let is_readers = part.is_readers();
        (part.sink)(Ok(bytes));
        self.eviction.used(part.ino, &part.object);
        self.figures.store_hits.increment();
        self.figures.store_hit_bytes.add(bytes.len() as u64);
        let took = since.elapsed();
        self.figures.store_latency.record(took);
        if is_readers {
            self.slowest.offer(part.ino, took, || Why::Device);
        }
    }

    /// The store did not give what its index has: a fault of ours is a miss. Past the index: what it still says may be what
    /// just failed.
    fn refused(self: &Arc<Self>, part: Part, miss: Miss) {
        tracing::debug!(key = %part.object.key, ?miss, "the store did not give what its index has");
        self.figures.store_refusals.increment();
        self.board(part, || false);
    }

    /// The index has not the chunk: joins the flight of its unit, or begins it.
    fn read_absent(self: &Arc<Self>, part: Part) {
        let key = part.key();
        self.board(part, || self.store.contains(&key).is_some());
    }

    fn board(self: &Arc<Self>, part: Part, stored: impl FnOnce() -> bool) {
        let key = UnitKey { object: part.object.fingerprint, unit: part.range.chunk / UNIT_CHUNKS };
        let since = part.is_readers().then(Instant::now);
        let sink = match since {
            Some(since) => self.timed(part.sink, since),
            None => part.sink,
        };
        let waiter = Waiter { range: part.range.in_unit(), sink, since };
        match self.flights.board(key, waiter, stored) {
            Boarded::First => {
                self.figures.misses.increment();
                self.fetch(part.ino, part.object, key, part.wanted_by);
            }
            Boarded::Joined => self.figures.joined.increment(),
            Boarded::Landed(bytes, Waiter { range, sink, .. }) => {
                self.figures.landed_hits.increment();
                sink(Ok(&bytes[range]));
            }
            Boarded::NotNeeded(Waiter { sink, .. }) => {
                self.read_stored(Rider { part: Part { sink, ..part }, since: Instant::now() }, Store::read);
            }
        }
    }

    /// `sink`, which also counts how long the origin's bytes took to come.
    fn timed(self: &Arc<Self>, sink: Sink, started: Instant) -> Sink {
        let figures = self.figures.clone();
        Box::new(move |result| {
            if let Ok(bytes) = result {
                figures.origin_read_bytes.add(bytes.len() as u64);
            }
            sink(result);
            let waited = started.elapsed();
            figures.origin_wait_us.add(waited.as_micros() as u64);
            figures.origin_latency.record(waited);
        })
    }
}

impl Part {
    fn is_readers(&self) -> bool {
        self.wanted_by != WantedBy::Nobody
    }

    fn key(&self) -> ExtentKey {
        ExtentKey { object: self.object.fingerprint, chunk: self.range.chunk }
    }
}

impl ChunkRange {
    fn len(&self) -> u32 {
        self.range.end - self.range.start
    }

    /// The same bytes, counted from the start of the unit that holds the chunk.
    fn in_unit(&self) -> Range<usize> {
        let base = (self.chunk % UNIT_CHUNKS) as usize * CHUNK_BYTES as usize;
        base + self.range.start as usize..base + self.range.end as usize
    }
}
