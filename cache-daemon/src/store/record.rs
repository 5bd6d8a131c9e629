//! Records: what is written before every segment and every extent, and how it is believed again.
//!
//! A record is believed when its magic, its version and its checksum are right, and it names the
//! generation that its reader expects. Its checksum begins with the [`Position`] that it was written
//! for, which is not stored: a record of another store, a block that the device put in a wrong place
//! and a header copied from elsewhere all fail like a flipped bit.
//!
//! Data is checksummed in blocks of [`BLOCK_BYTES`], so that a read of a part of an extent costs the
//! blocks that it touches and not the whole of it.
//!
//! Layout and reasons: docs/on-disk-format.md.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::layout::DATA_BYTES_MAX;
use crate::checksum;
use crate::object::{ExtentKey, Fingerprint};

/// The format that this code writes. Older ones are read or dropped, newer ones refused.
pub const FORMAT_VERSION: u16 = 1;

/// Bytes of data under one checksum: half of the kernel's usual readahead of 128 KiB.
pub const BLOCK_BYTES: usize = 64 << 10;

/// Bytes of a header in front of an extent's data.
pub const EXTENT_HEADER_BYTES: usize = size_of::<ExtentHeader>();

const BLOCKS_MAX: usize = DATA_BYTES_MAX as usize / BLOCK_BYTES;
const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"ecSG");
const EXTENT_MAGIC: u32 = u32::from_le_bytes(*b"ecEX");

/// Names one store: a random number drawn when it is formatted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StoreUuid(pub [u8; 16]);

impl std::fmt::Display for StoreUuid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Where a record was written: goes into its checksum, not into the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    /// The store.
    pub store: StoreUuid,
    /// Volume in the store.
    pub volume: u8,
    /// Segment in the volume.
    pub segment: u32,
    /// Bytes from the beginning of the segment.
    pub offset: u32,
}

/// Why a record is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There is no record of ours.
    #[error("no record here")]
    Magic,
    /// It was written by another version.
    #[error("format version {0}, this program reads {FORMAT_VERSION}")]
    Version(u16),
    /// It is damaged, or was written for another place.
    #[error("checksum of the record is wrong")]
    Checksum,
    /// It is whole, but of another incarnation of the segment.
    #[error("generation {found}, expected {expected}")]
    Generation {
        /// In the record.
        found: u32,
        /// Of the segment.
        expected: u32,
    },
    /// It is whole, but of another extent.
    #[error("record of another extent")]
    Identity,
    /// Its lengths cannot be.
    #[error("impossible length {0}")]
    Length(u32),
    /// The data is damaged.
    #[error("checksum of data block {0} is wrong")]
    Data(usize),
}

/// The first page of a segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct SegmentHeader {
    magic: U32,
    version: U16,
    reserved_0: U16,
    generation: U64,
    segment: U32,
    reserved_1: [u8; 40],
    checksum: U32,
}

/// In front of the data of an extent.
#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct ExtentHeader {
    magic: U32,
    version: U16,
    reserved_0: U16,
    generation: U64,
    object: [u8; 16],
    chunk: U32,
    data_bytes: U32,
    reserved_1: [u8; 20],
    block_checksums: [U32; BLOCKS_MAX],
    checksum: U32,
}

const _: () = assert!(size_of::<SegmentHeader>() == 64);
const _: () = assert!(size_of::<ExtentHeader>() == 128);

impl SegmentHeader {
    /// The header of incarnation `generation` of the segment at `position`.
    pub fn new(position: Position, generation: u32) -> Self {
        let mut header = Self {
            magic: SEGMENT_MAGIC.into(),
            version: FORMAT_VERSION.into(),
            reserved_0: 0.into(),
            generation: u64::from(generation).into(),
            segment: position.segment.into(),
            reserved_1: [0; 40],
            checksum: 0.into(),
        };
        header.checksum = sealed(position, &header).into();
        header
    }

    /// The generation of the segment at `position`, if `page` begins with a header that belongs there.
    pub fn read(page: &[u8], position: Position) -> Result<u32, RecordError> {
        let (header, _) = Self::read_from_prefix(page).map_err(|_| RecordError::Magic)?;
        check_kind(header.magic, SEGMENT_MAGIC, header.version)?;
        let unsealed = Self { checksum: 0.into(), ..header };
        if header.checksum.get() != sealed(position, &unsealed) || header.segment != position.segment {
            return Err(RecordError::Checksum);
        }
        u32::try_from(header.generation.get()).map_err(|_| RecordError::Checksum)
    }
}

impl ExtentHeader {
    /// The header of `data`, which goes to `position` in incarnation `generation` of its segment.
    pub fn new(position: Position, generation: u32, key: ExtentKey, data: &[u8]) -> Self {
        assert!(
            !data.is_empty() && data.len() <= DATA_BYTES_MAX as usize,
            "{} bytes in an extent",
            data.len()
        );
        let mut block_checksums = [U32::ZERO; BLOCKS_MAX];
        for (checksum, block) in block_checksums.iter_mut().zip(data.chunks(BLOCK_BYTES)) {
            *checksum = checksum::crc32c(block).into();
        }
        let mut header = Self {
            magic: EXTENT_MAGIC.into(),
            version: FORMAT_VERSION.into(),
            reserved_0: 0.into(),
            generation: u64::from(generation).into(),
            object: key.object.0,
            chunk: key.chunk.into(),
            data_bytes: (data.len() as u32).into(),
            reserved_1: [0; 20],
            block_checksums,
            checksum: 0.into(),
        };
        header.checksum = sealed(position, &header).into();
        header
    }

    /// The header at the beginning of `page`, if it is of incarnation `generation` of the segment at `position`.
    pub fn read(page: &[u8], position: Position, generation: u32) -> Result<Self, RecordError> {
        let (header, _) = Self::read_from_prefix(page).map_err(|_| RecordError::Magic)?;
        check_kind(header.magic, EXTENT_MAGIC, header.version)?;
        let unsealed = Self { checksum: 0.into(), ..header };
        if header.checksum.get() != sealed(position, &unsealed) {
            return Err(RecordError::Checksum);
        }
        let found = u32::try_from(header.generation.get()).map_err(|_| RecordError::Checksum)?;
        if found != generation {
            return Err(RecordError::Generation { found, expected: generation });
        }
        match header.data_bytes.get() {
            1..=DATA_BYTES_MAX => Ok(header),
            impossible => Err(RecordError::Length(impossible)),
        }
    }

    /// Whose data follows.
    pub fn key(&self) -> ExtentKey {
        ExtentKey { object: Fingerprint(self.object), chunk: self.chunk.get() }
    }

    /// How much data follows: 1 to [`DATA_BYTES_MAX`].
    pub fn data_bytes(&self) -> u32 {
        self.data_bytes.get()
    }

    /// Checks `blocks`, the data from block `first_block` on: whole blocks, or up to the end of the data.
    pub fn check_data(&self, first_block: usize, blocks: &[u8]) -> Result<(), RecordError> {
        for (index, block) in blocks.chunks(BLOCK_BYTES).enumerate() {
            let number = first_block + index;
            let wanted = self.block_checksums.get(number).ok_or(RecordError::Data(number))?;
            if checksum::crc32c(block) != wanted.get() {
                return Err(RecordError::Data(number));
            }
        }
        Ok(())
    }
}

fn check_kind(magic: U32, wanted: u32, version: U16) -> Result<(), RecordError> {
    if magic != wanted {
        return Err(RecordError::Magic);
    }
    if version != FORMAT_VERSION {
        return Err(RecordError::Version(version.get()));
    }
    Ok(())
}

/// The checksum of `record`, whose own checksum is 0, at `position`.
fn sealed(position: Position, record: &(impl IntoBytes + Immutable)) -> u32 {
    let mut prefix = [0; 28];
    prefix[..16].copy_from_slice(&position.store.0);
    prefix[16..20].copy_from_slice(&u32::from(position.volume).to_le_bytes());
    prefix[20..24].copy_from_slice(&position.segment.to_le_bytes());
    prefix[24..].copy_from_slice(&position.offset.to_le_bytes());
    checksum::crc32c_append(checksum::crc32c(&prefix), record.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position() -> Position {
        Position { store: StoreUuid([7; 16]), volume: 1, segment: 3, offset: 4096 }
    }

    fn key() -> ExtentKey {
        ExtentKey { object: Fingerprint([9; 16]), chunk: 2 }
    }

    #[test]
    fn a_record_of_another_place_store_or_generation_is_not_believed() {
        let header = ExtentHeader::new(position(), 5, key(), b"data");
        let page = header.as_bytes();
        assert_eq!(ExtentHeader::read(page, position(), 5).expect("as written").key(), key());
        let stale = ExtentHeader::read(page, position(), 6).expect_err("another generation");
        assert_eq!(stale, RecordError::Generation { found: 5, expected: 6 });
        let elsewhere = [
            Position { store: StoreUuid([8; 16]), ..position() },
            Position { volume: 2, ..position() },
            Position { segment: 4, ..position() },
            Position { offset: 8192, ..position() },
        ];
        for position in elsewhere {
            assert_eq!(ExtentHeader::read(page, position, 5).expect_err("elsewhere"), RecordError::Checksum);
        }
    }

    #[test]
    fn damaged_data_is_named_by_its_block() {
        let mut data = vec![1; 3 * BLOCK_BYTES + 10];
        let header = ExtentHeader::new(position(), 5, key(), &data);
        assert_eq!(header.check_data(0, &data), Ok(()));
        assert_eq!(header.check_data(2, &data[2 * BLOCK_BYTES..]), Ok(()));
        data[3 * BLOCK_BYTES] ^= 1;
        assert_eq!(header.check_data(1, &data[BLOCK_BYTES..]), Err(RecordError::Data(3)));
    }

    proptest! {
        #[test]
        fn no_flipped_bit_of_a_header_is_believed(bit in 0..8 * EXTENT_HEADER_BYTES) {
            let mut page = ExtentHeader::new(position(), 5, key(), b"data").as_bytes().to_vec();
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(ExtentHeader::read(&page, position(), 5).is_err());
            let mut page = SegmentHeader::new(position(), 5).as_bytes().to_vec();
            let bit = bit % (8 * page.len());
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(SegmentHeader::read(&page, position()).is_err());
        }

        #[test]
        fn decoders_survive_any_bytes(page in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = ExtentHeader::read(&page, position(), 5);
            let _ = SegmentHeader::read(&page, position());
        }
    }
}
