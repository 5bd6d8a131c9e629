//! One shard: the table in use, those it outgrew, and the lock of its writers.
//!
//! Readers load one word, `state`: the number of the table in use, and a count of the times that an
//! extent moved from one bucket to another. A hit is true by itself (`bucket.rs`). A miss is true if
//! `state` is what it was before the search: otherwise the extent may have gone from a bucket not yet
//! read to one read already, or the table may have been given back, and the search starts again. Each
//! time round some writer has finished something, so readers are lock-free, and writers never wait
//! for them.
//!
//! A shard that is 11/12 full is copied to a table 4/3 as large (twice, while it is small), so an
//! extent never costs more than 64 bytes: 256 / 6 / (11/12 * 3/4) = 62.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::addr::ExtentAddr;
use super::bucket::{Key, SLOTS, Word};
use super::probe;
use super::table::Table;
use crate::object::ExtentKey;

/// From 4 buckets, doubled 6 times and then 57 times 4/3: more than 2^31 buckets.
const TABLES: usize = 64;
const TABLE_BITS: u32 = 8;
const SMALL_TABLE: usize = 1 << 8;
/// The smallest table: 11/12 of it leaves a slot dead, which replacing needs.
const MIN_BUCKETS: usize = 4;

// Two lines, so that the counter of one shard is not in the line that readers of the next one load.
#[repr(align(128))]
pub(super) struct Shard<T: Table> {
    state: T::Word,
    tables: Box<[OnceLock<T>]>,
    len: AtomicUsize,
    writer: Mutex<()>,
}

impl<T: Table> Shard<T> {
    /// A shard with room for `extents`; `state` is a word that is 0.
    pub(super) fn with_capacity(extents: usize, state: T::Word) -> Self {
        let tables: Box<[_]> = (0..TABLES).map(|_| OnceLock::new()).collect();
        let _ = tables[0].set(T::zeroed(buckets_for(extents)));
        Self { state, tables, len: AtomicUsize::new(0), writer: Mutex::new(()) }
    }

    #[inline(always)]
    pub(super) fn get(&self, key: &Key) -> Option<ExtentAddr> {
        let mut state = self.state.load(Ordering::Acquire);
        loop {
            if let Some((_, hit)) = probe::find(self.table(state), key) {
                return Some(hit.addr);
            }
            T::Word::fence(Ordering::Acquire);
            if self.state.load(Ordering::Relaxed) == state {
                return None;
            }
            state = self.state.load(Ordering::Acquire);
        }
    }

    /// If `wanted` agrees to where `key` is, puts it at `addr` or forgets it. Returns where it was.
    pub(super) fn update(
        &self,
        key: &Key,
        wanted: impl FnOnce(Option<ExtentAddr>) -> bool,
        addr: Option<ExtentAddr>,
    ) -> Result<Option<ExtentAddr>, Refused> {
        let _writer = self.writer.lock();
        let old = probe::find(self.current(), key);
        let before = old.map(|(_, hit)| hit.addr);
        if !wanted(before) {
            return Err(Refused);
        }
        match (addr, old) {
            (None, None) => {}
            (None, Some(old)) => {
                probe::take(self.current(), key, old);
                self.len.fetch_sub(1, Ordering::Relaxed);
            }
            (Some(addr), _) => {
                if old.is_none() && self.len() >= most_extents(self.current().len()) {
                    self.grow();
                }
                probe::put(self.current(), key, addr, old, || self.note_move());
                self.len.fetch_add(usize::from(old.is_none()), Ordering::Relaxed);
            }
        }
        Ok(before)
    }

    /// The extents at one moment, for which writers wait.
    pub(super) fn snapshot(&self) -> Vec<(ExtentKey, ExtentAddr)> {
        let _writer = self.writer.lock();
        let mut extents = Vec::with_capacity(self.len());
        extents.extend(self.current().iter().flat_map(|bucket| bucket.entries()));
        extents
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&**self.table(self.state.load(Ordering::Acquire)))
            + size_of_val(&*self.tables)
            + size_of::<Self>()
    }

    /// What is wrong with the shard, if anything: the invariants that searching relies on.
    pub(super) fn self_check(&self) -> Result<(), String> {
        let _writer = self.writer.lock();
        let buckets = self.current();
        let mut passed = vec![0u64; buckets.len()];
        let mut extents = 0;
        for (at, bucket) in buckets.iter().enumerate() {
            for (name, addr) in bucket.entries() {
                let key = Key::new(&name);
                // One that is there twice is found at its first place only.
                match probe::find(buckets, &key) {
                    Some((found_at, hit)) if found_at == at && hit.addr == addr => extents += 1,
                    other => {
                        return Err(format!(
                            "{name:?} in bucket {at} at {addr:?} is found {:?}",
                            other.map(|(at, hit)| (at, hit.addr))
                        ));
                    }
                }
                probe::path(&key, at, buckets.len()).for_each(|on_the_way| passed[on_the_way] += 1);
            }
        }
        for (at, (bucket, expected)) in buckets.iter().zip(passed).enumerate() {
            let (counted, exact) = bucket.passed();
            if exact && counted != expected {
                return Err(format!("bucket {at} counts {counted} extents beyond it, there are {expected}"));
            }
        }
        if extents != self.len() {
            return Err(format!("{extents} extents, counted {}", self.len()));
        }
        Ok(())
    }

    fn current(&self) -> &T {
        self.table(self.state.load(Ordering::Relaxed))
    }

    #[inline(always)]
    fn table(&self, state: u64) -> &T {
        let table = self.tables[state as usize % TABLES].get();
        table.expect("a table is set before its number is published")
    }

    /// An extent is in its new bucket and will next leave the old one.
    fn note_move(&self) {
        let state = self.state.load(Ordering::Relaxed);
        self.state.store(state.wrapping_add(1 << TABLE_BITS), Ordering::Release);
    }

    /// Copies everything to a larger table. The lock is held.
    pub(super) fn grow(&self) {
        let state = self.state.load(Ordering::Relaxed);
        let old = self.table(state);
        let larger = if old.len() < SMALL_TABLE { old.len() * 2 } else { old.len() * 4 / 3 };
        let table = T::zeroed(larger);
        for (name, addr) in old.iter().flat_map(|bucket| bucket.entries()) {
            probe::put(&table, &Key::new(&name), addr, None, || ());
        }
        let number = state as usize % TABLES + 1;
        assert!(self.tables[number].set(table).is_ok(), "each table has its own number");
        self.state.store(state.wrapping_add((1 << TABLE_BITS) + 1), Ordering::Release);
        // Readers that are still there find either what was true when they came, or nothing.
        old.release();
    }
}

/// The key was not where the caller thought.
pub(super) struct Refused;

/// The most extents that a table of `buckets` takes before it grows.
fn most_extents(buckets: usize) -> usize {
    buckets * SLOTS * 11 / 12
}

/// Buckets for `extents` and four standard deviations of what chance adds to one shard.
fn buckets_for(extents: usize) -> usize {
    let extents = extents + 4 * extents.isqrt();
    // At 85 % an extent takes 50 bytes and a lookup 92 ns (10 000 000 extents); at 75 %, 57 and 82; at
    // 90 %, 47 and 101, and one that misses 200. Measured on a virtual EPYC with 165 ns to memory.
    (extents * 100).div_ceil(85 * SLOTS).max(MIN_BUCKETS)
}
