//! A backing file as all threads share it: who it belongs to, what is in it, and whether it still counts.
//!
//! Chunks are *there* when their write completed, and *verified* when their bytes were seen: as they were
//! filled, or by a later read of the whole chunk. The kernel may be given the file once all of them are.
//!
//! Invariants
//! - The checksums of a chunk are set before the chunk is there, by the one thread that fills this file.
//! - A file that is *gone* is not in the inventory any more and is never offered or filled again. Its
//!   space is given back when the last descriptor of it is closed: whoever has one holds this too, and
//!   closes first.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed,
    Ordering::Release,
};

use super::map::{Identity, Map};
use super::space::Charge;
use crate::store::record::BLOCK_BYTES;

const CHUNK_BLOCKS: usize = crate::object::CHUNK_BYTES as usize / BLOCK_BYTES;

/// See the head of the module.
#[derive(Debug)]
pub struct BackingFile {
    identity: Identity,
    path: PathBuf,
    there: Bits,
    verified: Bits,
    checksums: Box<[AtomicU32]>,
    /// Of the map that was written last.
    sequence: AtomicU64,
    gone: AtomicBool,
    damaged: AtomicBool,
    /// Last: it is given back after everything else here.
    _charge: Charge,
}

impl BackingFile {
    /// A file without chunks.
    pub fn empty(identity: Identity, path: PathBuf, charge: Charge) -> Self {
        let zeros = (0..identity.blocks()).map(|_| AtomicU32::new(0)).collect();
        Self {
            identity,
            path,
            there: Bits::new(identity.words()),
            verified: Bits::new(identity.words()),
            checksums: zeros,
            sequence: AtomicU64::new(0),
            gone: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            _charge: charge,
        }
    }

    /// The file that `map` speaks of; nothing of it is verified.
    pub fn found(map: Map, path: PathBuf, charge: Charge) -> Self {
        let Map { identity, sequence, chunks, checksums } = map;
        Self {
            there: Bits::of(chunks),
            checksums: checksums.into_iter().map(AtomicU32::new).collect(),
            sequence: AtomicU64::new(sequence),
            ..Self::empty(identity, path, charge)
        }
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length of chunk `chunk`, if it is there.
    pub fn contains(&self, chunk: u32) -> Option<u32> {
        let known = chunk < self.identity.chunks() && self.there.has(chunk);
        known.then(|| self.identity.chunk_bytes(chunk))
    }

    /// The chunks that are there, and their lengths.
    pub fn chunks_there(&self) -> Vec<(u32, u32)> {
        let chunks = 0..self.identity.chunks();
        chunks.filter_map(|chunk| Some((chunk, self.contains(chunk)?))).collect()
    }

    /// How many chunks are there.
    pub fn chunks(&self) -> u32 {
        self.there.count.load(Relaxed)
    }

    /// Bytes of them.
    pub fn data_bytes(&self) -> u64 {
        let last = self.identity.chunks() - 1;
        let short = crate::object::CHUNK_BYTES - u64::from(self.identity.chunk_bytes(last));
        u64::from(self.chunks()) * crate::object::CHUNK_BYTES - if self.there.has(last) { short } else { 0 }
    }

    /// Whether all chunks are there.
    pub fn is_complete(&self) -> bool {
        self.there.count.load(Acquire) == self.identity.chunks()
    }

    /// Whether all chunks are there and verified.
    pub fn is_verified(&self) -> bool {
        self.verified.count.load(Acquire) == self.identity.chunks() && self.is_complete()
    }

    /// Chunk `chunk` has been written; these are the checksums of its blocks.
    pub fn filled(&self, chunk: u32, checksums: &[u32]) {
        for (slot, checksum) in self.checksums[self.blocks_of(chunk)].iter().zip(checksums) {
            slot.store(*checksum, Relaxed);
        }
        self.verified.set(chunk);
        self.there.set(chunk);
    }

    /// All of chunk `chunk` has been read and was right.
    pub fn seen(&self, chunk: u32) {
        self.verified.set(chunk);
    }

    /// The chunks that are there and were not verified.
    pub fn unverified(&self) -> Vec<u32> {
        let chunks = 0..self.identity.chunks();
        chunks.filter(|chunk| self.there.has(*chunk) && !self.verified.has(*chunk)).collect()
    }

    /// The checksum of block `block` of the object.
    pub fn checksum(&self, block: usize) -> u32 {
        self.checksums[block].load(Relaxed)
    }

    /// A map of what is there now, one further than the last.
    pub fn next_map(&self) -> Map {
        // The chunks first: their checksums were set before.
        let chunks = self.there.words.iter().map(|word| word.load(Acquire)).collect();
        let checksums = self.checksums.iter().map(|checksum| checksum.load(Relaxed)).collect();
        let sequence = self.sequence.fetch_add(1, Relaxed) + 1;
        Map { identity: self.identity, sequence, chunks, checksums }
    }

    /// Whether it does not count any more.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Acquire)
    }

    /// Whether it does not count because its bytes are wrong.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Acquire)
    }

    /// Its bytes are wrong.
    pub fn set_damaged(&self) {
        self.damaged.store(true, Release);
    }

    /// From now on it does not count; true for whoever says so first.
    pub fn set_gone(&self) -> bool {
        !self.gone.swap(true, AcqRel)
    }

    fn blocks_of(&self, chunk: u32) -> Range<usize> {
        let start = chunk as usize * CHUNK_BLOCKS;
        start..(start + CHUNK_BLOCKS).min(self.checksums.len())
    }
}

/// Bits that are only ever set, and how many are.
#[derive(Debug)]
struct Bits {
    words: Box<[AtomicU64]>,
    count: AtomicU32,
}

impl Bits {
    fn new(words: usize) -> Self {
        Self::of(vec![0; words])
    }

    fn of(words: Vec<u64>) -> Self {
        let count = words.iter().map(|word| word.count_ones()).sum();
        Self { words: words.into_iter().map(AtomicU64::new).collect(), count: AtomicU32::new(count) }
    }

    fn has(&self, bit: u32) -> bool {
        self.words[(bit / u64::BITS) as usize].load(Acquire) >> (bit % u64::BITS) & 1 == 1
    }

    fn set(&self, bit: u32) {
        let mask = 1 << (bit % u64::BITS);
        if self.words[(bit / u64::BITS) as usize].fetch_or(mask, AcqRel) & mask == 0 {
            self.count.fetch_add(1, AcqRel);
        }
    }
}
