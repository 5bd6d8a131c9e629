//! The index: which extents are cached, and where each of them is.
//!
//! Every read of cached data begins with one lookup here, so a lookup takes no lock, writes to no
//! shared memory and never waits for a writer (not even for one that the kernel has descheduled half
//! way). It touches one bucket, nearly always. An extent costs 50 bytes in a table made for its
//! number, and 64 at most.
//!
//! Sixteen shards, each of them a table of 256-byte buckets with a lock for its writers. From the
//! bottom: [`bucket`] (what a reader may believe), [`probe`] (where to look), [`table`] (memory),
//! [`shard`] (growing). Sixteen, because writers are the completions of fills and a few other
//! threads, and because large tables leave little memory outside of huge pages.
//!
//! The index may be wrong about the device and is never wrong about itself: an address is checked
//! against the extent's header when it is read. An extent is inserted only after its write completed.

mod addr;
mod bucket;
pub mod checkpoint;
mod measure;
mod probe;
mod shard;
mod table;

#[cfg(test)]
mod models;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicU64;

pub use addr::{ExtentAddr, Generation, SegmentId};
use bucket::Key;
pub use measure::{Lookups, measure_lookups};
use shard::{Refused, Shard};
use table::Mapped;

use crate::object::ExtentKey;

const SHARDS: usize = 16;

/// Maps extents to addresses. Shared by reference; see the head of the module.
pub struct Index {
    shards: Box<[Shard<Mapped>]>,
}

impl Index {
    /// An empty index with room for `extents`. It grows beyond that, a shard at a time, while writers
    /// of that shard wait and readers do not.
    pub fn with_capacity(extents: usize) -> Self {
        let each = extents.div_ceil(SHARDS);
        let shards = (0..SHARDS).map(|_| Shard::with_capacity(each, AtomicU64::new(0))).collect();
        Self { shards }
    }

    /// Where the extent is. Lock-free.
    #[inline]
    pub fn get(&self, key: &ExtentKey) -> Option<ExtentAddr> {
        let key = Key::new(key);
        self.shard(&key).get(&key)
    }

    /// Says that the extent is at `addr` now, and returns where it was.
    pub fn insert(&self, key: ExtentKey, addr: ExtentAddr) -> Option<ExtentAddr> {
        self.update(&key, |_| true, Some(addr)).ok().flatten()
    }

    /// Forgets the extent, and returns where it was.
    pub fn remove(&self, key: &ExtentKey) -> Option<ExtentAddr> {
        self.update(key, |_| true, None).ok().flatten()
    }

    /// Forgets the extent if it is at `addr`: whether it was.
    pub fn remove_if(&self, key: &ExtentKey, addr: ExtentAddr) -> bool {
        self.update(key, |now| now == Some(addr), None).is_ok()
    }

    /// Moves the extent to `to` if it is at `from`: whether it was.
    pub fn swap_if(&self, key: &ExtentKey, from: ExtentAddr, to: ExtentAddr) -> bool {
        self.update(key, |now| now == Some(from), Some(to)).is_ok()
    }

    /// Calls `f` for the extents: those of one shard as they were at one moment, one shard after the
    /// other. No lock is held, so `f` may call anything here. Takes 36 bytes for each extent of a
    /// shard meanwhile.
    pub fn for_each(&self, f: &mut dyn FnMut(&ExtentKey, ExtentAddr)) {
        for shard in &self.shards {
            shard.snapshot().iter().for_each(|(key, addr)| f(key, *addr));
        }
    }

    /// Forgets the extents for which `keep` says no, except those that moved meanwhile. Returns how
    /// many. No lock is held while `keep` runs.
    pub fn retain(&self, keep: &mut dyn FnMut(&ExtentKey, ExtentAddr) -> bool) -> usize {
        let mut forgotten = 0;
        self.for_each(&mut |key, addr| {
            forgotten += usize::from(!keep(key, addr) && self.remove_if(key, addr));
        });
        forgotten
    }

    /// The number of extents.
    pub fn len(&self) -> usize {
        self.shards.iter().map(Shard::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory in use, whether or not the kernel has backed all of it yet.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.shards.iter().map(Shard::memory_bytes).sum::<usize>()
    }

    /// Checks the structure of every shard, while its writers wait.
    ///
    /// # Errors
    /// Says what is wrong: a mistake in this module, or broken memory.
    pub fn self_check(&self) -> Result<(), String> {
        self.shards.iter().try_for_each(Shard::self_check)
    }

    fn update(
        &self,
        key: &ExtentKey,
        wanted: impl FnOnce(Option<ExtentAddr>) -> bool,
        addr: Option<ExtentAddr>,
    ) -> Result<Option<ExtentAddr>, Refused> {
        let key = Key::new(key);
        self.shard(&key).update(&key, wanted, addr)
    }

    #[inline(always)]
    fn shard(&self, key: &Key) -> &Shard<Mapped> {
        &self.shards[key.shard(SHARDS)]
    }
}
