//! The superblock: what a volume is, written twice in front of its segments.
//!
//! It changes when the volume is formatted or resized and when the store needs more generations: it
//! holds the first generation that was never given to a segment. Generations must not repeat, or an
//! extent of an earlier incarnation could be believed again, and the headers on disk do not remember
//! those of segments whose header was torn. So they are taken from this number, which is made durable
//! [`GENERATIONS_AHEAD`] at a time before any of them is used.
//!
//! Invariants
//! - The copies are written one after the other with a sync between: one of them is always whole.
//! - Of two whole copies the one with the higher sequence number holds.

use std::io;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::layout::{Layout, PAGE_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SUPERBLOCKS};
use super::record::{FORMAT_VERSION, StoreUuid};
use crate::checksum;
use crate::index::SegmentId;
use crate::io::{BufferPool, DeviceFile};

/// What a volume begins with.
pub const MAGIC: [u8; 8] = *b"epochst\n";

/// How many generations one write of the superblock makes available. At most so many are lost by an
/// open and close without use: 2^32 of them last for 16 million opens.
pub const GENERATIONS_AHEAD: u32 = 256;

/// What a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The store that the volume belongs to.
    pub store: StoreUuid,
    /// Its number in the store.
    pub volume: u8,
    /// Its parts.
    pub layout: Layout,
    /// No segment has had this generation or a later one.
    pub generation_ceiling: u32,
    /// Rises with every write.
    pub sequence: u64,
}

/// What is where the superblocks of a volume are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A volume of ours.
    Ours(Superblock),
    /// One of another version.
    Version(u16),
    /// Neither copy is a whole superblock.
    Nothing,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Record {
    magic: [u8; 8],
    version: U16,
    volume: u8,
    reserved_0: [u8; 5],
    store: [u8; 16],
    sequence: U64,
    segment_bytes: U32,
    segments: U32,
    generation_ceiling: U64,
    reserved_1: [u8; 36],
    checksum: U32,
}

const _: () = assert!(size_of::<Record>() == 96);

impl Superblock {
    /// The superblock as a page of a volume.
    pub fn page(&self) -> [u8; PAGE_BYTES as usize] {
        let mut record = Record {
            magic: MAGIC,
            version: FORMAT_VERSION.into(),
            volume: self.volume,
            reserved_0: [0; 5],
            store: self.store.0,
            sequence: self.sequence.into(),
            segment_bytes: self.layout.segment_bytes.into(),
            segments: self.layout.segments.into(),
            generation_ceiling: u64::from(self.generation_ceiling).into(),
            reserved_1: [0; 36],
            checksum: 0.into(),
        };
        record.checksum = checksum::crc32c(record.as_bytes()).into();
        let mut page = [0; PAGE_BYTES as usize];
        page[..size_of::<Record>()].copy_from_slice(record.as_bytes());
        page
    }

    /// The next superblock, with a higher ceiling; none if there are no more generations.
    pub fn raised(&self, generation_ceiling: u32) -> Option<Self> {
        let higher = generation_ceiling > self.generation_ceiling;
        higher.then_some(Self { generation_ceiling, sequence: self.sequence + 1, ..*self })
    }

    /// Which of the two copies is written first.
    ///
    /// It alternates with the sequence number: if an earlier write stopped half way it is the stale copy
    /// that is at risk now, and never the only one that holds.
    pub fn first_copy(&self) -> usize {
        (self.sequence % 2) as usize
    }

    /// Makes this the durable superblock of `file`, blocking.
    pub fn write(&self, file: &DeviceFile) -> io::Result<()> {
        let mut page = BufferPool::new(1, PAGE_BYTES as usize)?.take().expect("it has one buffer");
        page.copy_from_slice(&self.page());
        let first = self.first_copy();
        for copy in [first, 1 - first] {
            file.write_all_at(&page, SUPERBLOCKS[copy])?;
            file.sync()?;
        }
        Ok(())
    }

    /// What the two copies in `file` say, blocking.
    pub fn load(file: &DeviceFile) -> io::Result<Found> {
        let pool = BufferPool::new(2, PAGE_BYTES as usize)?;
        let mut pages = [(); 2].map(|()| pool.take().expect("it has two buffers"));
        let mut failed = None;
        for (page, at) in pages.iter_mut().zip(SUPERBLOCKS) {
            if let Err(error) = file.read_exact_at(page, at) {
                // The other copy may do.
                page.fill(0);
                failed = Some(error);
            }
        }
        let found = Self::find([&pages[0], &pages[1]]);
        match failed {
            Some(error) if found == Found::Nothing => Err(error),
            _ => Ok(found),
        }
    }

    /// Whether `page` holds a superblock of this volume.
    pub fn is_of_this_volume(&self, page: &[u8]) -> bool {
        matches!(Self::read(page), Found::Ours(found) if (found.store, found.volume) == (self.store, self.volume))
    }

    /// What the two copies of a volume say.
    pub fn find(copies: [&[u8]; 2]) -> Found {
        let copies = copies.map(Self::read);
        let ours = copies.iter().filter_map(|copy| match copy {
            Found::Ours(superblock) => Some(superblock),
            _ => None,
        });
        if let Some(newest) = ours.max_by_key(|superblock| superblock.sequence) {
            return Found::Ours(*newest);
        }
        let other = copies.into_iter().find(|copy| matches!(copy, Found::Version(_)));
        other.unwrap_or(Found::Nothing)
    }

    fn read(page: &[u8]) -> Found {
        let Ok((record, _)) = Record::read_from_prefix(page) else { return Found::Nothing };
        if record.magic != MAGIC {
            return Found::Nothing;
        }
        // Before the checksum: another version may have put its own elsewhere.
        if record.version != FORMAT_VERSION {
            return Found::Version(record.version.get());
        }
        let unsealed = Record { checksum: 0.into(), ..record };
        if checksum::crc32c(unsealed.as_bytes()) != record.checksum.get() {
            return Found::Nothing;
        }
        let segment_bytes = record.segment_bytes.get();
        let possible = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
            && segment_bytes.is_multiple_of(PAGE_BYTES)
            && record.segments.get() <= SegmentId::NUMBERS;
        let Ok(generation_ceiling) = u32::try_from(record.generation_ceiling.get()) else {
            return Found::Nothing;
        };
        if !possible {
            return Found::Nothing;
        }
        Found::Ours(Self {
            store: StoreUuid(record.store),
            volume: record.volume,
            layout: Layout { segment_bytes, segments: record.segments.get() },
            generation_ceiling,
            sequence: record.sequence.get(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn superblock(sequence: u64) -> Superblock {
        Superblock {
            store: StoreUuid([5; 16]),
            volume: 3,
            layout: Layout { segment_bytes: 64 << 20, segments: 100 },
            generation_ceiling: 257,
            sequence,
        }
    }

    #[test]
    fn the_newer_whole_copy_holds() {
        let (old, new) = (superblock(1).page(), superblock(2).page());
        assert_eq!(Superblock::find([&old, &new]), Found::Ours(superblock(2)));
        assert_eq!(Superblock::find([&new, &old]), Found::Ours(superblock(2)));
        let mut torn = new;
        torn[40] ^= 1;
        assert_eq!(Superblock::find([&torn, &old]), Found::Ours(superblock(1)));
        assert_eq!(Superblock::find([&torn, &[0; 4096]]), Found::Nothing);
    }

    #[test]
    fn another_version_is_told_from_nothing() {
        let mut page = superblock(1).page();
        page[8] = 2;
        assert_eq!(Superblock::find([&page, &page]), Found::Version(2));
    }

    proptest! {
        #[test]
        fn decoding_survives_any_bytes(mut page in proptest::collection::vec(any::<u8>(), 0..200), ours: bool) {
            if ours && page.len() >= 8 {
                page[..8].copy_from_slice(&MAGIC);
            }
            let _ = Superblock::find([&page, &page]);
        }
    }
}
