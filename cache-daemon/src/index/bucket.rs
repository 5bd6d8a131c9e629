//! One bucket: six extents and the header word that says which of them are true.
//!
//! A writer (one at a time, it holds the shard's lock) only ever writes to a slot that the header
//! calls dead, then stores a new header that makes it live. So replacing an extent is one store, and
//! a writer that is descheduled half way holds up nobody: this is why it is not a plain sequence
//! lock, under which readers spin while a writer sleeps.
//!
//! A bucket is 256 bytes: the header, a word of tags (8 bits of each slot's hash), six slots of five
//! words. Six, because a lookup that must go on to a second bucket is a branch that the processor
//! mispredicts and so waits for memory: at the same load that is one in three with buckets of three.
//!
//! ```text
//! header   63          32 31        24 23        6 5    0
//!         |    version   |  overflow  |     0     | live |
//! tags     slot 0 in the lowest byte
//! slot     fingerprint[0..8] | fingerprint[8..16] | chunk, segment | generation, offset | len, 0
//! ```
//!
//! Invariants:
//! - The words and the tag of a live slot do not change. Every change of the header raises the version; a
//!   reader is fooled only if a bucket changes a multiple of 2^32 times while it reads six words.
//! - Memory order. *Publish*: slot words are stored before the header (Release), and read after it
//!   (Acquire). *Reuse*: the header that killed a slot is stored before the slot is written again
//!   (fence Release in `write`); a reader that saw any such word sees at its second look (fence
//!   Acquire) that the header changed, and looks again. `models.rs` checks both.
//! - `overflow` counts the extents that would live here or earlier but were put further on because
//!   this bucket was full: where it is 0, a search ends. At 255 it stays until the table is rebuilt.

use std::sync::atomic::{AtomicU64, Ordering};

use super::addr::{ExtentAddr, Generation, SegmentId};
use crate::object::{ExtentKey, Fingerprint};

/// Extents in a bucket.
pub(super) const SLOTS: usize = 6;
const SLOT_WORDS: usize = 5;

const TAG_BITS: usize = 8;
const TAG_MASK: u64 = (1 << TAG_BITS) - 1;
/// The lowest bit of every tag.
const TAG_ONES: u64 = 0x0101_0101_0101;
const OVERFLOW_SHIFT: u32 = 24;
const OVERFLOW_MAX: u64 = 0xff;
const VERSION_SHIFT: u32 = 32;
const LOW: u64 = (1 << VERSION_SHIFT) - 1;

/// A 64-bit atomic: the standard library's, or the model checker's.
pub(super) trait Word: Send + Sync {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn fence(order: Ordering);
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    #[inline(always)]
    fn fence(order: Ordering) {
        std::sync::atomic::fence(order);
    }
}

/// A key as the table sees it: its words, and the hash that places it.
#[derive(Clone, Copy)]
pub(super) struct Key {
    fingerprint: [u64; 2],
    chunk: u32,
    hash: u64,
}

impl Key {
    #[inline(always)]
    pub(super) fn new(key: &ExtentKey) -> Self {
        let whole = u128::from_le_bytes(key.object.0);
        let fingerprint = [whole as u64, (whole >> 64) as u64];
        // A fingerprint is uniform already. The multiplication spreads the chunks of one object
        // (2^64 / golden ratio) and costs three cycles; only its upper bits are well mixed.
        let hash = (fingerprint[0] ^ fingerprint[1].rotate_left(32))
            .wrapping_add(u64::from(key.chunk))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { fingerprint, chunk: key.chunk, hash }
    }

    /// The bucket of a table of `buckets` where the search begins: the top bits, scaled.
    #[inline(always)]
    pub(super) fn home(&self, buckets: usize) -> usize {
        ((u128::from(self.hash) * buckets as u128) >> 64) as usize
    }

    /// Which of `shards` (a power of two, at most 16) holds the key: bits 28 and up.
    #[inline(always)]
    pub(super) fn shard(&self, shards: usize) -> usize {
        (self.hash >> 28) as usize & (shards - 1)
    }

    /// Bits 32 to 39: apart from the shard's, and from the home's below 2^24 buckets.
    #[inline(always)]
    fn tag(&self) -> u64 {
        self.hash >> 32 & TAG_MASK
    }
}

/// One extent, found.
#[derive(Clone, Copy)]
pub(super) struct Hit {
    pub(super) slot: usize,
    pub(super) addr: ExtentAddr,
}

/// See the head of the file.
#[repr(C, align(256))]
pub(super) struct Bucket<W> {
    header: W,
    tags: W,
    slots: [[W; SLOT_WORDS]; SLOTS],
}

const _: () = assert!(size_of::<Bucket<AtomicU64>>() == 256);

impl<W: Word> Bucket<W> {
    /// A bucket of words that `zero` makes; one of the standard library's may as well be zeroed memory.
    #[cfg(test)]
    pub(super) fn of(zero: impl Fn() -> W) -> Self {
        Self { header: zero(), tags: zero(), slots: std::array::from_fn(|_| std::array::from_fn(|_| zero())) }
    }

    /// What the kernel does to a bucket whose memory is given back, as far as its first slot.
    #[cfg(test)]
    pub(super) fn erase(&self) {
        let words = [&self.header, &self.tags].into_iter().chain(&self.slots[0]);
        words.for_each(|word| word.store(0, Ordering::Release));
    }

    /// The extent of `key`, if it is here, and whether the search goes on in the next bucket if not.
    #[inline(always)]
    pub(super) fn find(&self, key: &Key) -> (Option<Hit>, bool) {
        self.fetch();
        let mut header = self.header.load(Ordering::Acquire);
        let mut candidates = self.candidates(key);
        while candidates != 0 {
            let slot = candidates.trailing_zeros() as usize / TAG_BITS;
            let found = self.matching(slot, key);
            W::fence(Ordering::Acquire);
            let now = self.header.load(Ordering::Relaxed);
            if now != header {
                // Somebody finished a change meanwhile, so this loop is lock-free.
                header = self.header.load(Ordering::Acquire);
                candidates = self.candidates(key);
                continue;
            }
            if let (Some(addr), true) = (found, is_live(header, slot)) {
                return (Some(Hit { slot, addr }), false);
            }
            candidates &= candidates - 1;
        }
        // Tags of live slots were there before the header was, so none was overlooked.
        (None, overflow(header) != 0)
    }

    /// The slots whose tag may be that of `key`: the top bit of each one's byte. Without branches: one
    /// on what a load from memory brings is mispredicted half of the time, and then the next lookup
    /// cannot begin before this one's data is there. The borrow may add a slot above a true one.
    #[inline(always)]
    fn candidates(&self, key: &Key) -> u64 {
        let differences = self.tags.load(Ordering::Relaxed) ^ (key.tag() * TAG_ONES);
        differences.wrapping_sub(TAG_ONES) & !differences & TAG_ONES << (TAG_BITS - 1)
    }

    /// Asks for the other lines: which slot to read is known only when the first has come, and waiting
    /// for one after the other was measured to take twice as long.
    #[inline(always)]
    fn fetch(&self) {
        #[cfg(target_arch = "x86_64")]
        for slot in [2, 3, 5] {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch has no effect but on the cache, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>((&raw const self.slots[slot]).cast()) };
        }
    }

    #[inline(always)]
    fn matching(&self, slot: usize, key: &Key) -> Option<ExtentAddr> {
        let words = &self.slots[slot];
        let place = words[2].load(Ordering::Relaxed);
        let different = words[0].load(Ordering::Relaxed) ^ key.fingerprint[0]
            | words[1].load(Ordering::Relaxed) ^ key.fingerprint[1]
            | u64::from(place as u32 ^ key.chunk);
        (different == 0)
            .then(|| addr(place, words[3].load(Ordering::Relaxed), words[4].load(Ordering::Relaxed)))
    }

    /// The live extents. For writers: the shard's lock is held.
    pub(super) fn entries(&self) -> impl Iterator<Item = (ExtentKey, ExtentAddr)> {
        let header = self.header.load(Ordering::Relaxed);
        (0..SLOTS).filter(move |slot| is_live(header, *slot)).map(|slot| {
            let [low, high, place, when, len] =
                std::array::from_fn(|word| self.slots[slot][word].load(Ordering::Relaxed));
            let fingerprint = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
            let key = ExtentKey { object: Fingerprint(fingerprint), chunk: place as u32 };
            (key, addr(place, when, len))
        })
    }

    /// A dead slot, if there is one. For writers.
    pub(super) fn spare(&self) -> Option<usize> {
        let header = self.header.load(Ordering::Relaxed);
        (0..SLOTS).find(|slot| !is_live(header, *slot))
    }

    /// Puts an extent into the dead `slot`, in the place of the one in `replaced`. For writers.
    pub(super) fn publish(&self, slot: usize, key: &Key, addr: ExtentAddr, replaced: Option<usize>) {
        let header = self.header.load(Ordering::Relaxed);
        debug_assert!(!is_live(header, slot), "the words of a live slot do not change");
        self.write(slot, key, addr);
        let dead = replaced.map_or(header, |old| header & !(1 << old));
        self.advance(dead | 1 << slot);
    }

    /// Forgets the extent in `slot`. For writers.
    pub(super) fn clear(&self, slot: usize) {
        self.advance(self.header.load(Ordering::Relaxed) & !(1 << slot));
    }

    /// One more extent was put beyond this bucket. For writers.
    pub(super) fn pass(&self) {
        let header = self.header.load(Ordering::Relaxed);
        if overflow(header) < OVERFLOW_MAX {
            self.advance(header + (1 << OVERFLOW_SHIFT));
        }
    }

    /// One extent less is beyond this bucket. For writers.
    pub(super) fn unpass(&self) {
        let header = self.header.load(Ordering::Relaxed);
        debug_assert!(overflow(header) > 0, "an extent beyond this bucket was counted when it came");
        if overflow(header) < OVERFLOW_MAX {
            self.advance(header - (1 << OVERFLOW_SHIFT));
        }
    }

    /// Extents counted as beyond this bucket, and whether the count is still exact. For writers.
    pub(super) fn passed(&self) -> (u64, bool) {
        let count = overflow(self.header.load(Ordering::Relaxed));
        (count, count < OVERFLOW_MAX)
    }

    fn write(&self, slot: usize, key: &Key, addr: ExtentAddr) {
        W::fence(Ordering::Release);
        let words = [
            key.fingerprint[0],
            key.fingerprint[1],
            u64::from(addr.segment.0) << 32 | u64::from(key.chunk),
            u64::from(addr.offset) << 32 | u64::from(addr.generation.0),
            u64::from(addr.len),
        ];
        let tags = self.tags.load(Ordering::Relaxed) & !(TAG_MASK << (slot * TAG_BITS));
        self.tags.store(tags | key.tag() << (slot * TAG_BITS), Ordering::Relaxed);
        for (word, value) in self.slots[slot].iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn advance(&self, header: u64) {
        let version = (header >> VERSION_SHIFT).wrapping_add(1) << VERSION_SHIFT;
        self.header.store(version | header & LOW, Ordering::Release);
    }
}

#[inline(always)]
fn is_live(header: u64, slot: usize) -> bool {
    header & 1 << slot != 0
}

#[inline(always)]
fn overflow(header: u64) -> u64 {
    header >> OVERFLOW_SHIFT & OVERFLOW_MAX
}

#[inline(always)]
fn addr(place: u64, when: u64, len: u64) -> ExtentAddr {
    ExtentAddr {
        segment: SegmentId((place >> 32) as u32),
        generation: Generation(when as u32),
        offset: (when >> 32) as u32,
        len: len as u32,
    }
}
