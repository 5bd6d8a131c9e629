//! The map of a backing file: which chunks are in it, and the checksum of each block. The codec.
//!
//! It lies beside the file and not in it, because the kernel serves the file as it is: same offsets,
//! same length as the object. A map file has two *slots*, written in turn: a write that is torn takes
//! the one that did not hold anyway. Of two whole slots the higher sequence holds.
//!
//! ```text
//! header      96 bytes: magic, version, volume, store, object, its length, sequence, CRC32C of the slot
//! chunks      1 bit each, in words of 8 bytes: set when the chunk was durable before this was written
//! checksums   4 bytes each: CRC32C of each 64 KiB of the object; 0 where the chunk is not there
//! zeros       up to a multiple of 4096
//! ```
//!
//! A map may be wrong about the file (a device that lies about a sync); what is read is compared with
//! the checksums, always. So damage of a map costs the file, and never a wrong byte.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::checksum;
use crate::object::{CHUNK_BYTES, Fingerprint};
use crate::store::layout::PAGE_BYTES;
use crate::store::record::{BLOCK_BYTES, StoreUuid};

/// The format that this code writes and reads.
pub const MAP_VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"epocmap\n";

/// Longer objects have more chunks than 32 bits can count.
const OBJECT_BYTES_MAX: u64 = CHUNK_BYTES << 32;

#[repr(C)]
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    magic: [u8; 8],
    version: U16,
    volume: u8,
    reserved_0: [u8; 5],
    store: [u8; 16],
    object: [u8; 16],
    object_bytes: U64,
    sequence: U64,
    reserved_1: [u8; 28],
    checksum: U32,
}

const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(HEADER_BYTES == 96);

/// Whose file it is, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The store.
    pub store: StoreUuid,
    /// The number of the volume that the file lies on.
    pub volume: u8,
    /// The object's version.
    pub object: Fingerprint,
    /// The object's length, which is the file's.
    pub object_bytes: u64,
}

/// What one slot says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Map {
    /// Whose file it is.
    pub identity: Identity,
    /// Rises with every write.
    pub sequence: u64,
    /// The chunks that are there, 64 to a word.
    pub chunks: Vec<u64>,
    /// The checksum of each block.
    pub checksums: Vec<u32>,
}

/// Why a slot is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// There is no map.
    #[error("no map here")]
    Magic,
    /// It was written by another version.
    #[error("format version {0} of a map, this program reads {MAP_VERSION}")]
    Version(u16),
    /// It is damaged.
    #[error("checksum of the map is wrong")]
    Checksum,
    /// The object's length does not go with the slot's.
    #[error("impossible length {0} of an object")]
    Length(u64),
    /// It names chunks that the object does not have.
    #[error("a chunk past the end of the object")]
    Chunks,
}

impl Identity {
    /// How many chunks the object has.
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.object_bytes.div_ceil(CHUNK_BYTES)).expect("objects have at most 2^32 chunks")
    }

    /// Bytes of chunk `chunk`; 0 past the end.
    pub fn chunk_bytes(&self, chunk: u32) -> u32 {
        self.object_bytes.saturating_sub(u64::from(chunk) * CHUNK_BYTES).min(CHUNK_BYTES) as u32
    }

    /// Words of the bits of the chunks.
    pub fn words(&self) -> usize {
        self.chunks().div_ceil(u64::BITS) as usize
    }

    /// How many blocks the object has.
    pub fn blocks(&self) -> usize {
        self.object_bytes.div_ceil(BLOCK_BYTES as u64) as usize
    }
}

/// Bytes of one slot of the map of an object of `object_bytes`.
pub fn slot_bytes(object_bytes: u64) -> u64 {
    let words = object_bytes.div_ceil(CHUNK_BYTES).div_ceil(u64::from(u64::BITS));
    let blocks = object_bytes.div_ceil(BLOCK_BYTES as u64);
    (HEADER_BYTES as u64 + 8 * words + 4 * blocks).next_multiple_of(u64::from(PAGE_BYTES))
}

impl Map {
    /// The slot that says so.
    pub fn encode(&self) -> Vec<u8> {
        let Identity { store, volume, object, object_bytes } = self.identity;
        assert_eq!(
            (self.chunks.len(), self.checksums.len()),
            (self.identity.words(), self.identity.blocks())
        );
        let header = Header {
            magic: MAGIC,
            version: MAP_VERSION.into(),
            volume,
            reserved_0: [0; 5],
            store: store.0,
            object: object.0,
            object_bytes: object_bytes.into(),
            sequence: self.sequence.into(),
            reserved_1: [0; 28],
            checksum: 0.into(),
        };
        let mut slot = Vec::with_capacity(slot_bytes(object_bytes) as usize);
        slot.extend_from_slice(header.as_bytes());
        slot.extend(self.chunks.iter().flat_map(|word| word.to_le_bytes()));
        slot.extend(self.checksums.iter().flat_map(|checksum| checksum.to_le_bytes()));
        slot.resize(slot_bytes(object_bytes) as usize, 0);
        let checksum = checksum::crc32c(&slot);
        slot[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
        slot
    }

    /// What `slot` says, if it can be believed. Takes no more memory than `slot` has bytes.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn decode(slot: &[u8]) -> Result<Self, MapError> {
        let (header, body) = Header::read_from_prefix(slot).map_err(|_| MapError::Magic)?;
        if header.magic != MAGIC {
            return Err(MapError::Magic);
        }
        if header.version.get() != MAP_VERSION {
            return Err(MapError::Version(header.version.get()));
        }
        let object_bytes = header.object_bytes.get();
        if object_bytes == 0
            || object_bytes > OBJECT_BYTES_MAX - CHUNK_BYTES
            || slot_bytes(object_bytes) != slot.len() as u64
        {
            return Err(MapError::Length(object_bytes));
        }
        let unsealed = Header { checksum: 0.into(), ..header };
        if checksum::crc32c_append(checksum::crc32c(unsealed.as_bytes()), body) != header.checksum.get() {
            return Err(MapError::Checksum);
        }
        let identity = Identity {
            store: StoreUuid(header.store),
            volume: header.volume,
            object: Fingerprint(header.object),
            object_bytes,
        };
        let (words, rest) = body.split_at(8 * identity.words());
        let (words, _) = words.as_chunks::<8>();
        let (checksums, _) = rest[..4 * identity.blocks()].as_chunks::<4>();
        let chunks: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let last = chunks.last().copied().unwrap_or(0);
        let used = identity.chunks() % u64::BITS;
        if used > 0 && last >> used != 0 {
            return Err(MapError::Chunks);
        }
        let checksums = checksums.iter().map(|checksum| u32::from_le_bytes(*checksum)).collect();
        Ok(Self { identity, sequence: header.sequence.get(), chunks, checksums })
    }

    /// Whether all chunks are there.
    pub fn is_complete(&self) -> bool {
        self.chunks.iter().map(|word| word.count_ones()).sum::<u32>() == self.identity.chunks()
    }

    /// The slot that holds, of a map file's two.
    pub fn newest(file: &[u8]) -> Option<Self> {
        let (first, second) = file.split_at(file.len() / 2);
        [first, second].into_iter().filter_map(|slot| Self::decode(slot).ok()).max_by_key(|map| map.sequence)
    }

    /// Where in the map file the slot with `sequence` belongs.
    pub fn slot_at(object_bytes: u64, sequence: u64) -> u64 {
        slot_bytes(object_bytes) * (sequence % 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(object_bytes: u64, sequence: u64, seed: u64) -> Map {
        let identity = Identity {
            store: StoreUuid([seed as u8; 16]),
            volume: (seed >> 8) as u8,
            object: Fingerprint([(seed >> 16) as u8; 16]),
            object_bytes,
        };
        let mut chunks: Vec<u64> =
            (0..identity.words() as u64).map(|word| seed.wrapping_mul(word | 3)).collect();
        let used = identity.chunks() % u64::BITS;
        if let Some(last) = chunks.last_mut().filter(|_| used > 0) {
            *last &= (1 << used) - 1;
        }
        let checksums = (0..identity.blocks() as u32).map(|block| block.wrapping_mul(seed as u32)).collect();
        Map { identity, sequence, chunks, checksums }
    }

    #[test]
    fn a_slot_has_whole_pages() {
        assert_eq!([1, 4 << 20, 64 << 20, 1 << 30].map(slot_bytes), [4096, 4096, 8192, 69_632]);
    }

    proptest! {
        #[test]
        fn a_slot_says_what_was_written(bytes in 1..300u64 << 20, sequence: u64, seed: u64) {
            let map = map(bytes, sequence, seed);
            let slot = map.encode();
            prop_assert_eq!(slot.len() as u64, slot_bytes(bytes));
            prop_assert_eq!(Map::decode(&slot), Ok(map));
        }

        #[test]
        fn a_slot_with_a_flipped_bit_or_cut_short_is_not_believed(
            bytes in 1..300u64 << 20, seed: u64, flip: u64, cut: u64,
        ) {
            let mut slot = map(bytes, 7, seed).encode();
            prop_assert!(Map::decode(&slot[..(cut % slot.len() as u64) as usize]).is_err());
            let flip = flip % (8 * slot.len() as u64);
            slot[(flip / 8) as usize] ^= 1 << (flip % 8);
            prop_assert!(Map::decode(&slot).is_err());
        }

        #[test]
        fn no_bytes_are_too_odd_for_the_decoder(
            mut slot in proptest::collection::vec(any::<u8>(), 0..9000), genuine: bool, object_bytes: u64,
        ) {
            if genuine && slot.len() >= HEADER_BYTES {
                slot[..10].copy_from_slice(b"epocmap\n\x01\0");
                slot[48..56].copy_from_slice(&object_bytes.to_le_bytes());
            }
            let _ = Map::decode(&slot);
            let _ = Map::newest(&slot);
        }

        #[test]
        fn a_torn_write_leaves_the_slot_that_held(
            bytes in 1..100u64 << 20, sequence in 1..1000u64, seed: u64, torn: u64,
        ) {
            let (old, new) = (map(bytes, sequence, seed), map(bytes, sequence + 1, !seed));
            let mut file = vec![0; 2 * slot_bytes(bytes) as usize];
            for (map, part) in [(&old, u64::MAX), (&new, torn % slot_bytes(bytes))] {
                let at = Map::slot_at(bytes, map.sequence) as usize;
                let slot = map.encode();
                let part = (part.min(slot.len() as u64)) as usize;
                file[at..at + part].copy_from_slice(&slot[..part]);
            }
            let newest = Map::newest(&file);
            // A part that ends in the padding is all of it.
            prop_assert!(newest == Some(old) || newest == Some(new));
        }
    }
}
