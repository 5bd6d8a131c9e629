//! Recovery: which extents a volume holds, found by reading headers and no data.
//!
//! First the header of every segment is read: it tells the incarnation. For a segment that is in the
//! incarnation that the checkpoint knew, the checkpoint's entries hold, up to where they were durable.
//! From there, or from the beginning, the headers of extents are *walked*: each tells where the next
//! one is. A walk ends at the first header that is not believed, which is where writing stopped, or
//! where a power cut tore it. Many segments are walked at the same time.
//!
//! Headers only say that an extent was written; its data is checked when it is read, like always.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::Duration;

use super::layout::{PAGE_BYTES, extent_bytes};
use super::record::{ExtentHeader, SegmentHeader};
use super::volume::Volume;
use crate::index::ExtentAddr;
use crate::io::{BufferPool, Completion, Engine, FileSlot, Operation, Token};
use crate::object::ExtentKey;

/// A device that completes nothing for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A page is read again so often if the device gives only a part of it.
const RETRIES: u32 = 3;

/// Reads headers of one volume.
pub struct Scan<'a> {
    volume: &'a Volume,
    engine: Box<dyn Engine>,
    slot: FileSlot,
    pool: BufferPool,
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
    /// A scan of `volume`, which is file `slot` of `engine`; `pool` has buffers of a page.
    pub fn new(volume: &'a Volume, engine: Box<dyn Engine>, slot: FileSlot, pool: BufferPool) -> Self {
        Self { volume, engine, slot, pool }
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
    fn pages(
        &mut self,
        mut next: VecDeque<(u32, u32)>,
        visit: &mut dyn FnMut(u32, u32, &[u8]) -> Option<u32>,
    ) -> io::Result<()> {
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
