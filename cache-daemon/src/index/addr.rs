//! Where an extent is: the words that the index, the store and the checkpoint share.
//!
//! An address is only a claim. What makes it safe to be wrong is the generation: a segment that is
//! reused gets the next one, so an address from before names an incarnation that no longer exists,
//! and whoever follows it can tell.

use std::fmt;

/// Names a segment: the volume in the high 8 bits, its number on that volume in the low 24.
///
/// 2^24 segments of 64 MiB are 1 PiB a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId(pub u32);

impl SegmentId {
    /// One more than the largest segment number.
    pub const NUMBERS: u32 = 1 << 24;

    /// Segment `number` of `volume`.
    ///
    /// # Panics
    /// If `number` does not fit in 24 bits: volumes are refused at open when they are that large.
    pub fn new(volume: u8, number: u32) -> Self {
        assert!(number < Self::NUMBERS, "segment number {number} does not fit in 24 bits");
        Self(u32::from(volume) << 24 | number)
    }

    /// The volume that holds the segment.
    pub const fn volume(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// The segment's number on its volume.
    pub const fn number(self) -> u32 {
        self.0 & (Self::NUMBERS - 1)
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.volume(), self.number())
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One incarnation of a segment: goes up by one each time the segment is reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Generation(pub u32);

/// Where the data of one extent is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ExtentAddr {
    /// The segment that holds it.
    pub segment: SegmentId,
    /// The incarnation of the segment that it was written to.
    pub generation: Generation,
    /// Start of the extent in the segment, in bytes; a multiple of 4096.
    pub offset: u32,
    /// Bytes of object data: 1 to 1 MiB.
    pub len: u32,
}
