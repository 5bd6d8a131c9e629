//! Recovery: which extents a volume holds, found by reading headers and no data.
//!
//! First the header of every segment is read: it tells the incarnation. For a segment that is in the
//! incarnation that the checkpoint knew, the checkpoint's entries hold, up to where they were durable.
//! From there, or from the beginning, the headers of extents are *walked*: each tells where the next
//! one is. A walk ends at the first header that is not believed, which is where writing stopped, or
//! where a power cut tore it. Many segments are walked at the same time.
//!
//! Headers only say that an extent was written; its data is checked when it is read, like always. There
//! is one exception: an extent that is found twice (it was being moved, or was forgotten and fetched
//! again). The later one holds if its data is whole; if a power cut tore it, the earlier one does.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::layout::{EXTENT_BYTES_MAX, PAGE_BYTES, extent_bytes};
use super::record::{EXTENT_HEADER_BYTES, ExtentHeader, SegmentHeader};
use super::volume::Volume;
use crate::index::{ExtentAddr, Generation, SegmentId};
use crate::io::{BufferPool, Completion, DeviceFile, Engine, FileSlot, Operation, Token};
use crate::object::ExtentKey;

/// A device that completes nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A page is read again so often if the device gives only a part of it.
const RETRIES: u32 = 3;

/// Is given segment, offset and content of a page; says which offset of that segment to read next.
type Visit<'a> = dyn FnMut(u32, u32, &[u8]) -> Option<u32> + 'a;

/// Reads headers of one volume.
pub struct Scan<'a> {
    volume: &'a Volume,
    engine: Box<dyn Engine>,
    slot: FileSlot,
    pool: BufferPool,
    file: &'a DeviceFile,
}

/// A segment to be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Which one.
    pub segment: u32,
    /// Its incarnation.
    pub generation: u32,
    /// From where.
    pub from: u32,
}

/// How far the walk of a segment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Which one.
    pub segment: u32,
    /// Its incarnation.
    pub generation: u32,
    /// Behind the last extent that is believed.
    pub end: u32,
}

impl<'a> Scan<'a> {
    /// A scan of `volume`, which is `file`, and file `slot` of `engine`; `pool` has buffers of a page.
    pub fn new(
        volume: &'a Volume,
        (engine, slot, pool): (Box<dyn Engine>, FileSlot, BufferPool),
        file: &'a DeviceFile,
    ) -> Self {
        Self { volume, engine, slot, pool, file }
    }

    /// Puts everything that the volume holds into the index; how far each of its segments goes.
    pub(super) fn recover(&mut self, checkpoint: Option<&Checkpoint>) -> io::Result<Vec<Walked>> {
        let volume = self.volume;
        let generations = self.generations()?;
        let mut walks = Vec::new();
        for (segment, generation) in (0..).zip(&generations).filter(|(_, generation)| **generation > 0) {
            volume.segments.begin(segment, *generation);
            let id = SegmentId::new(volume.number, segment);
            let reach = checkpoint.and_then(|checkpoint| checkpoint.reach(id, Generation(*generation)));
            walks.push(Walk { segment, generation: *generation, from: reach.unwrap_or(PAGE_BYTES) });
        }
        if let Some(checkpoint) = checkpoint {
            let current = |segment: SegmentId| {
                Generation(generations.get(segment.number() as usize).copied().unwrap_or_default())
            };
            for (key, addr) in checkpoint.extents_of(volume.number, &current) {
                volume.residents.insert_found(*key, *addr);
            }
        }
        let mut doubles: HashMap<ExtentKey, Vec<ExtentAddr>> = HashMap::new();
        let walked = self.walk(&walks, &mut |key, addr| {
            if let Some(other) = volume.residents.insert_found(key, addr) {
                doubles.entry(key).or_default().push(other);
            }
        })?;
        for (key, others) in doubles {
            self.choose(key, others)?;
        }
        Ok(walked)
    }

    /// Of an extent that is at several places, keeps the last one whose data is whole.
    fn choose(&self, key: ExtentKey, mut others: Vec<ExtentAddr>) -> io::Result<()> {
        others.sort_unstable_by_key(|addr| (addr.generation, addr.offset));
        let mut buffer = BufferPool::new(1, EXTENT_BYTES_MAX as usize)?.take().expect("it has one buffer");
        while let Some(current) = self.volume.residents.get(&key) {
            // Another volume has it too: that one decides.
            if current.segment.volume() != self.volume.number || self.is_whole(&key, current, &mut buffer) {
                break;
            }
            let Some(earlier) = others.pop() else { break };
            self.volume.residents.insert(key, earlier);
        }
        Ok(())
    }

    fn is_whole(&self, key: &ExtentKey, addr: ExtentAddr, buffer: &mut [u8]) -> bool {
        let segment = addr.segment.number();
        let extent = &mut buffer[..extent_bytes(addr.len) as usize];
        if self.file.read_exact_at(extent, self.volume.layout.at(segment, addr.offset)).is_err() {
            return false;
        }
        let data = &extent[EXTENT_HEADER_BYTES..EXTENT_HEADER_BYTES + addr.len as usize];
        ExtentHeader::read(extent, self.volume.position(segment, addr.offset), addr.generation.0)
            .is_ok_and(|header| header.key() == *key && header.check_data(0, data).is_ok())
    }

    /// The incarnation of every segment; 0 for those without a header that is believed.
    pub fn generations(&mut self) -> io::Result<Vec<u32>> {
        let mut generations = vec![0; self.volume.layout.segments as usize];
        let starts = (0..self.volume.layout.segments).map(|segment| (segment, 0)).collect();
        let volume = self.volume;
        self.pages(starts, &mut |segment, _, page| {
            let generation = SegmentHeader::read(page, volume.position(segment, 0));
            generations[segment as usize] = generation.unwrap_or(0);
            None
        })?;
        Ok(generations)
    }

    /// Walks the extents of `walks`, and tells `found` of each.
    pub fn walk(
        &mut self,
        walks: &[Walk],
        found: &mut dyn FnMut(ExtentKey, ExtentAddr),
    ) -> io::Result<Vec<Walked>> {
        let volume = self.volume;
        let room = volume.layout.segment_bytes;
        let mut ends: HashMap<u32, Walked> = walks
            .iter()
            .map(|walk| {
                let end = walk.from.max(PAGE_BYTES);
                (walk.segment, Walked { segment: walk.segment, generation: walk.generation, end })
            })
            .collect();
        let starts =
            ends.values().filter(|walked| walked.end < room).map(|walked| (walked.segment, walked.end));
        let mut starts: VecDeque<_> = starts.collect();
        // In the order of the device: disks like it, and a run can be repeated.
        starts.make_contiguous().sort_unstable();
        self.pages(starts, &mut |segment, offset, page| {
            let walked = ends.get_mut(&segment).expect("only segments of `walks` are read");
            let header =
                ExtentHeader::read(page, volume.position(segment, offset), walked.generation).ok()?;
            let end = offset + extent_bytes(header.data_bytes());
            if end > room {
                return None;
            }
            found(header.key(), volume.addr(segment, walked.generation, offset, header.data_bytes()));
            walked.end = end;
            (end < room).then_some(end)
        })?;
        Ok(ends.into_values().collect())
    }

    /// Reads the page at each (segment, offset) of `next`; `visit` says which offset of that segment to read then.
    ///
    /// A page that the device cannot read is not visited: what it would have said is lost.
    fn pages(&mut self, mut next: VecDeque<(u32, u32)>, visit: &mut Visit<'_>) -> io::Result<()> {
        let mut in_flight: HashMap<Token, (u32, u32, u32)> = HashMap::new();
        let mut retried = VecDeque::new();
        let mut tokens = 0;
        let mut completions = Vec::new();
        let mut silent = Duration::ZERO;
        loop {
            while in_flight.len() < self.engine.depth() {
                let read = retried
                    .pop_front()
                    .or_else(|| next.pop_front().map(|(segment, at)| (segment, at, RETRIES)));
                let Some(read) = read else { break };
                let Some(buffer) = self.pool.take() else {
                    retried.push_front(read);
                    break;
                };
                let at = self.volume.layout.at(read.0, read.1);
                let operation = Operation::Read { buffer, len: PAGE_BYTES as usize, at };
                self.engine.submit(Token(tokens), self.slot, operation);
                in_flight.insert(Token(tokens), read);
                tokens += 1;
            }
            if in_flight.is_empty() {
                return Ok(());
            }
            let wait = Duration::from_secs(1);
            self.engine.complete(wait, &mut completions)?;
            silent = if completions.is_empty() { silent + wait } else { Duration::ZERO };
            if silent >= SILENCE_MAX {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the device does not answer"));
            }
            for Completion { token, result, buffer } in completions.drain(..) {
                let (segment, offset, retries) = in_flight.remove(&token).expect("completions come once");
                match result {
                    Ok(bytes) if bytes == PAGE_BYTES as usize => {
                        let page = buffer.expect("a read gives its buffer back");
                        next.extend(visit(segment, offset, &page).map(|offset| (segment, offset)));
                    }
                    _ if retries > 0 => retried.push_back((segment, offset, retries - 1)),
                    _ => self.volume.figures.device_errors.increment(),
                }
            }
        }
    }
}
