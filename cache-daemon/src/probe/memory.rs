//! Giving memory back: loading takes some 100 MiB for a moment, most of it aya's parsed form of the kernel's types.

use std::alloc::{Layout, alloc, dealloc};

const BLOCK_BYTES: usize = 1 << 20;
const BLOCKS: usize = 64;
const PAGE_BYTES: usize = 4096;

/// Gives what this thread freed back to the kernel.
///
/// glibc keeps it otherwise. malloc_trim alone leaves the unused end of a thread's arena, 14 MiB here, because only the
/// main arena's end is trimmed (mtrim in malloc/malloc.c). So that end is taken once more, block by block, its pages are
/// dropped, and it is freed again.
pub(super) fn give_back() {
    // SAFETY: trims free memory; no preconditions.
    unsafe { libc::malloc_trim(0) };
    let layout = Layout::from_size_align(BLOCK_BYTES, 16).expect("a power of two");
    // SAFETY: the layout is not empty; each block is used within its size and freed once, with the same layout.
    unsafe {
        let blocks: [*mut u8; BLOCKS] = std::array::from_fn(|_| alloc(layout));
        for block in blocks.into_iter().filter(|block| !block.is_null()) {
            drop_pages(block);
            dealloc(block, layout);
        }
    }
}

/// Drops the whole pages of a block.
///
/// # Safety
/// `block` is an allocation of `BLOCK_BYTES` that nothing is in.
unsafe fn drop_pages(block: *mut u8) {
    let skip = block.align_offset(PAGE_BYTES);
    let len = (BLOCK_BYTES - skip) / PAGE_BYTES * PAGE_BYTES;
    // SAFETY: within the block, whose content nobody needs; a failure only keeps the memory.
    unsafe { libc::madvise(block.add(skip).cast(), len, libc::MADV_DONTNEED) };
}
