//! The memory of a table: zeroed, on huge pages, and given back while somebody may still be reading it.
//!
//! A random lookup in a table of hundreds of MiB misses the TLB with 4 KiB pages, and then pays for
//! the walk as much as for the data: hence MADV_HUGEPAGE on a mapping that starts at 2 MiB. Where
//! transparent huge pages are off the advice is refused and the table is only slower.
//!
//! A table that was outgrown gives back its memory but keeps its addresses until the index is
//! dropped, so readers need no epoch or hazard pointer: announcing oneself costs an atomic
//! read-modify-write, which on x86 waits for all loads before it and so lets no two lookups overlap.
//! What that costs is address space, at most three times that of the live table (`shard.rs`).

use std::alloc::{Layout, handle_alloc_error};
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

use memmap2::{Advice, MmapMut, MmapOptions, UncheckedAdvice};

use super::bucket::{Bucket, Word};

/// Buckets that all read as empty at first.
pub(super) trait Table: Deref<Target = [Bucket<Self::Word>]> + Send + Sync {
    type Word: Word;

    /// A table of `buckets`, all of them zero.
    fn zeroed(buckets: usize) -> Self;

    /// Gives the memory back. From some moment on all words read as zero, those of one bucket together.
    fn release(&self);
}

/// A table in anonymous memory.
pub(super) struct Mapped {
    map: MmapMut,
    start: usize,
    buckets: usize,
}

const HUGE_PAGE: usize = 2 << 20;

impl Table for Mapped {
    type Word = AtomicU64;

    fn zeroed(buckets: usize) -> Self {
        let layout = Layout::array::<Bucket<AtomicU64>>(buckets).expect("a table is below 2^63 bytes");
        // Pages that are never touched cost nothing: the slack before and after the table is one of them.
        let slack = if layout.size() >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let map = MmapOptions::new().len(layout.size() + slack).map_anon();
        let map = map.unwrap_or_else(|_| handle_alloc_error(layout));
        let start = if slack == 0 { 0 } else { map.as_ptr().align_offset(HUGE_PAGE) };
        if slack != 0 {
            // Refused where the kernel has no huge pages: see the head of the file.
            let _ = map.advise_range(Advice::HugePage, start, layout.size());
        }
        Self { map, start, buckets }
    }

    fn release(&self) {
        let len = size_of_val(&**self);
        // SAFETY: the range is inside the mapping and holds only atomics of integers, for which zero
        // is valid. A bucket does not cross a page, and pages are replaced whole, so its words become
        // zero together, as if another thread had stored them. Failing keeps the memory, nothing else.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, self.start, len) };
    }
}

impl Deref for Mapped {
    type Target = [Bucket<AtomicU64>];

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        // SAFETY: the mapping was made `buckets` long beyond `start`, is page aligned (a bucket is
        // 256 bytes), lives as long as `self`, and only this type refers to it, always through atomics;
        // zeroed memory is a valid bucket.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.start).cast(), self.buckets) }
    }
}
