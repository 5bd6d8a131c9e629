//! A batch: extents packed behind each other in one buffer, for one device write.

use crate::index::ExtentAddr;
use crate::io::{Buffer, DeviceOffset, Operation};
use crate::object::ExtentKey;
use crate::store::answer::AppendAnswer;
use crate::store::layout::{Layout, PAGE_BYTES, extent_bytes};
use crate::store::record::{EXTENT_HEADER_BYTES, ExtentHeader, SegmentHeader};
use crate::store::segments::Pin;
use crate::store::volume::Volume;
use zerocopy::IntoBytes;

/// A write that was interrupted or cut short is given to the device again so many times.
const RETRIES: u8 = 3;

/// The segment that is appended to.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) segment: u32,
    pub(super) generation: u32,
    /// Where the next extent goes: 0 before the segment's header is packed.
    pub(super) end: u32,
}

impl Open {
    /// A segment whose header has to be written.
    pub(super) fn fresh(segment: u32, generation: u32) -> Self {
        Self { segment, generation, end: 0 }
    }

    /// A segment that was appended to by an earlier run, up to `end`.
    pub(super) fn resumed(segment: u32, generation: u32, end: u32) -> Self {
        Self { segment, generation, end }
    }

    /// Whether an extent of `bytes` fits.
    pub(super) fn has_room(&self, bytes: u32, layout: &Layout) -> bool {
        layout.segment_bytes - self.end.max(PAGE_BYTES) >= bytes
    }
}

/// Being packed.
pub(super) struct Batch {
    segment: u32,
    generation: u32,
    /// Where in the segment it goes.
    start: u32,
    buffer: Buffer,
    used: usize,
    extents: Vec<WrittenExtent>,
    pin: Pin,
}

/// Packed and on its way to the device.
pub(super) struct Written {
    pub(super) segment: u32,
    pub(super) generation: u32,
    pub(super) at: DeviceOffset,
    pub(super) bytes: u32,
    /// How often it may be tried again if the device does only a part of it.
    pub(super) retries: u8,
    pub(super) extents: Vec<WrittenExtent>,
    /// The segment cannot be used again while the device may still write this.
    pub(super) pin: Option<Pin>,
}

pub(super) struct WrittenExtent {
    pub(super) key: ExtentKey,
    pub(super) addr: ExtentAddr,
    pub(super) outcome: Outcome,
}

/// What follows when an extent is written.
pub(super) enum Outcome {
    /// Somebody asked for it.
    Appended(AppendAnswer),
    /// It is a copy of the extent there.
    Moved { from: ExtentAddr },
}

impl Batch {
    /// An empty batch at the end of `open`; it begins with the segment's header if that is not written yet.
    pub(super) fn begin(volume: &Volume, open: &mut Open, mut buffer: Buffer) -> Self {
        let start = open.end;
        let mut used = 0;
        if start == 0 {
            let header = SegmentHeader::new(volume.position(open.segment, 0), open.generation);
            let page = &mut buffer[..PAGE_BYTES as usize];
            page.fill(0);
            page[..size_of::<SegmentHeader>()].copy_from_slice(header.as_bytes());
            used = page.len();
            open.end = PAGE_BYTES;
        }
        let pin = volume
            .segments
            .pin(open.segment, open.generation)
            .expect("an open segment is in its incarnation");
        let (segment, generation) = (open.segment, open.generation);
        Self { segment, generation, start, buffer, used, extents: Vec::new(), pin }
    }

    /// Whether an extent of `bytes` fits in the buffer.
    pub(super) fn has_room(&self, bytes: u32) -> bool {
        self.buffer.len() - self.used >= bytes as usize
    }

    /// Packs an extent at the end of `open`. There is room for it.
    pub(super) fn push(
        &mut self,
        volume: &Volume,
        open: &mut Open,
        (key, data): (ExtentKey, &[u8]),
        outcome: Outcome,
    ) {
        let bytes = extent_bytes(data.len() as u32);
        let header = ExtentHeader::new(volume.position(open.segment, open.end), open.generation, key, data);
        let space = &mut self.buffer[self.used..self.used + bytes as usize];
        let (head, rest) = space.split_at_mut(EXTENT_HEADER_BYTES);
        head.copy_from_slice(header.as_bytes());
        rest[..data.len()].copy_from_slice(data);
        // What was in the buffer before must not reach the disk.
        rest[data.len()..].fill(0);
        let addr = volume.addr(open.segment, open.generation, open.end, data.len() as u32);
        self.extents.push(WrittenExtent { key, addr, outcome });
        self.used += bytes as usize;
        open.end += bytes;
    }

    /// The write, and what it is for.
    pub(super) fn into_operation(self, volume: &Volume) -> (Operation, Written) {
        let at = volume.layout.at(self.segment, self.start);
        let operation = Operation::Write { buffer: self.buffer, len: self.used, at };
        let written = Written {
            segment: self.segment,
            generation: self.generation,
            at,
            bytes: self.used as u32,
            retries: RETRIES,
            extents: self.extents,
            pin: Some(self.pin),
        };
        (operation, written)
    }
}
