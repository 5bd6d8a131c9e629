//! Layout: where things are on a volume. Arithmetic only.
//!
//! ```text
//! 0           512 KiB     1 MiB                1 MiB + S            1 MiB + 2 S
//! | super-    | super-    | segment 0          | segment 1          | ...
//! | block     | block     | header | extents.. | header | extents.. |
//! ```
//!
//! Everything begins at a multiple of [`ALIGN_BYTES`], so that it can be read and written with O_DIRECT
//! on devices with logical blocks of 512 or 4096 bytes.

use super::record::{BLOCK_BYTES, EXTENT_HEADER_BYTES};
use crate::io::{ALIGN_BYTES, DeviceOffset};
use crate::object::CHUNK_BYTES;

/// The page size of the format: the unit of positions in a segment.
pub const PAGE_BYTES: u32 = ALIGN_BYTES as u32;

/// The most data in one extent.
pub const DATA_BYTES_MAX: u32 = CHUNK_BYTES as u32;

/// The most that one extent takes on disk.
pub const EXTENT_BYTES_MAX: u32 = extent_bytes(DATA_BYTES_MAX);

/// Where the two copies of the superblock are: apart, so that one write to a wrong place cannot take both.
pub const SUPERBLOCKS: [DeviceOffset; 2] = [DeviceOffset(0), DeviceOffset(LEAD_BYTES / 2)];

/// Where the first segment begins: 1 MiB, as partitions do, so that segments are aligned to whatever
/// the device erases or stripes in.
pub const LEAD_BYTES: u64 = 1 << 20;

/// The segments of a store if nothing else is asked for.
pub const SEGMENT_BYTES_DEFAULT: u32 = 64 << 20;

/// The smallest segments: a header and one page of data. For tests.
pub const SEGMENT_BYTES_MIN: u32 = 2 * PAGE_BYTES;

/// The largest: positions in a segment are `u32`.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// The size of a volume's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a segment, header included; a multiple of [`PAGE_BYTES`].
    pub segment_bytes: u32,
    /// How many there are.
    pub segments: u32,
}

impl Layout {
    /// Where `segment` begins.
    pub fn segment_at(&self, segment: u32) -> DeviceOffset {
        assert!(segment < self.segments, "segment {segment} of {}", self.segments);
        DeviceOffset(LEAD_BYTES + u64::from(segment) * u64::from(self.segment_bytes))
    }

    /// The position `offset` bytes into `segment`.
    pub fn at(&self, segment: u32, offset: u32) -> DeviceOffset {
        assert!(offset < self.segment_bytes, "offset {offset} in a segment of {}", self.segment_bytes);
        DeviceOffset(self.segment_at(segment).0 + u64::from(offset))
    }

    /// Bytes of the whole volume.
    pub fn volume_bytes(&self) -> u64 {
        LEAD_BYTES + u64::from(self.segments) * u64::from(self.segment_bytes)
    }

    /// The number of segments of `segment_bytes` that fit in `volume_bytes`.
    pub fn segments_in(volume_bytes: u64, segment_bytes: u32) -> u32 {
        let segments = volume_bytes.saturating_sub(LEAD_BYTES) / u64::from(segment_bytes);
        u32::try_from(segments).unwrap_or(u32::MAX)
    }

    /// The bytes of a segment that extents can use.
    pub fn room_bytes(&self) -> u32 {
        self.segment_bytes - PAGE_BYTES
    }
}

/// What an extent with `data_bytes` of data takes on disk: header and data, padded to a page.
pub const fn extent_bytes(data_bytes: u32) -> u32 {
    (EXTENT_HEADER_BYTES as u32 + data_bytes).next_multiple_of(PAGE_BYTES)
}

/// The part of an extent that has to be read to answer a read of a range of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first block that is needed.
    pub first_block: usize,
    /// The data of whole blocks that is needed, in data space.
    pub data_start: u32,
    /// Its end: a multiple of [`BLOCK_BYTES`], or the end of the data.
    pub data_end: u32,
    /// Where in the extent the read begins, a multiple of [`PAGE_BYTES`]: 0 if it begins with the header.
    pub start: u32,
    /// How long it is, a multiple of [`PAGE_BYTES`].
    pub bytes: u32,
}

impl Span {
    /// What to read for `range` of an extent with `data_bytes` of data. The range is not empty and within the data.
    pub fn of(range: std::ops::Range<u32>, data_bytes: u32) -> Self {
        assert!(range.start < range.end && range.end <= data_bytes, "{range:?} of {data_bytes}");
        let block = BLOCK_BYTES as u32;
        let first_block = range.start / block;
        let data_start = first_block * block;
        let data_end = range.end.next_multiple_of(block).min(data_bytes);
        let header = EXTENT_HEADER_BYTES as u32;
        // The first block lies right behind the header, so one read brings both.
        let start = if first_block == 0 { 0 } else { (header + data_start) / PAGE_BYTES * PAGE_BYTES };
        let bytes = (header + data_end).next_multiple_of(PAGE_BYTES) - start;
        Self { first_block: first_block as usize, data_start, data_end, start, bytes }
    }

    /// Whether the header must be read by itself.
    pub fn lacks_header(&self) -> bool {
        self.start > 0
    }

    /// The needed blocks in what was read.
    pub fn blocks<'a>(&self, read: &'a [u8]) -> &'a [u8] {
        let skip = EXTENT_HEADER_BYTES + self.data_start as usize - self.start as usize;
        &read[skip..skip + (self.data_end - self.data_start) as usize]
    }

    /// `range` of the data in what was read.
    pub fn range<'a>(&self, read: &'a [u8], range: &std::ops::Range<u32>) -> &'a [u8] {
        &self.blocks(read)[(range.start - self.data_start) as usize..(range.end - self.data_start) as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn extents_are_padded_to_pages() {
        assert_eq!([1, 3968, 3969].map(extent_bytes), [4096, 4096, 8192]);
        assert_eq!(EXTENT_BYTES_MAX, (1 << 20) + 4096);
    }

    proptest! {
        #[test]
        fn a_span_brings_the_range_in_whole_blocks(
            data_bytes in 1..=DATA_BYTES_MAX, a in 0..DATA_BYTES_MAX, b in 0..DATA_BYTES_MAX,
        ) {
            let start = a.min(b) % data_bytes;
            let range = start..(a.max(b).min(data_bytes - 1).max(start) + 1);
            let span = Span::of(range.clone(), data_bytes);
            prop_assert!(span.start.is_multiple_of(PAGE_BYTES) && span.bytes.is_multiple_of(PAGE_BYTES));
            prop_assert!(span.start + span.bytes <= extent_bytes(data_bytes));
            prop_assert!(span.data_start <= range.start && range.end <= span.data_end);
            let disk: Vec<u8> = (0..extent_bytes(data_bytes)).map(|at| (at % 251) as u8).collect();
            let read = &disk[span.start as usize..(span.start + span.bytes) as usize];
            let data = &disk[EXTENT_HEADER_BYTES..EXTENT_HEADER_BYTES + data_bytes as usize];
            prop_assert_eq!(span.range(read, &range), &data[range.start as usize..range.end as usize]);
            prop_assert_eq!(span.blocks(read), &data[span.data_start as usize..span.data_end as usize]);
        }
    }
}
