//! How many pages of a file the page cache holds: by cachestat(2), before Linux 6.5 by mincore(2).

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsRawFd;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// `__NR_cachestat`: the same on every architecture that has one table (include/uapi/asm-generic/unistd.h).
const SYS_CACHESTAT: libc::c_long = 451;

/// What one call of mincore looks at: a byte a page, 256 KiB of them.
const MINCORE_BYTES: u64 = 1 << 30;

/// `struct cachestat_range` of include/uapi/linux/mman.h.
#[repr(C)]
struct CachestatRange {
    off: u64,
    len: u64,
}

/// `struct cachestat`.
#[repr(C)]
#[derive(Default)]
struct Cachestat {
    nr_cache: u64,
    nr_dirty: u64,
    nr_writeback: u64,
    nr_evicted: u64,
    nr_recently_evicted: u64,
}

/// Bytes of the pages that the page cache holds of `file`, which may be a block device.
///
/// # Errors
/// Before Linux 6.5. From 6.13 on for files that are another user's and not writable; of these mincore would say that
/// every page is there.
pub fn resident_bytes(file: &File) -> io::Result<u64> {
    // A length of 0: to the end.
    Ok(by_cachestat(file, &(0..0))? * super::page_bytes())
}

/// Pages of `bytes` of `file` in the page cache, each page that the range touches counted; `page_bytes` is the size of one.
pub(super) fn pages(file: &File, bytes: &Range<u64>, page_bytes: u64) -> io::Result<u64> {
    if bytes.is_empty() {
        return Ok(0);
    }
    match by_cachestat(file, bytes) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            by_mincore(file, bytes, page_bytes)
        }
        counted => counted,
    }
}

fn by_cachestat(file: &File, bytes: &Range<u64>) -> io::Result<u64> {
    let range = CachestatRange { off: bytes.start, len: bytes.end - bytes.start };
    let mut found = Cachestat::default();
    // SAFETY: the descriptor is borrowed and so open; the kernel reads `range` and writes `found` during the call only,
    // and both have the layout of its headers.
    let result = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &range, &mut found, 0) };
    if result == 0 { Ok(found.nr_cache) } else { Err(io::Error::last_os_error()) }
}

fn by_mincore(file: &File, bytes: &Range<u64>, page_bytes: u64) -> io::Result<u64> {
    let mut count = 0;
    let mut at = bytes.start / page_bytes * page_bytes;
    while at < bytes.end {
        let len = MINCORE_BYTES.min(bytes.end - at);
        count += mincore_once(file, at, len, page_bytes)?;
        at += len;
    }
    Ok(count)
}

fn mincore_once(file: &File, at: u64, len: u64, page_bytes: u64) -> io::Result<u64> {
    let length = NonZeroUsize::new(len as usize).ok_or(io::ErrorKind::InvalidInput)?;
    let mut states = vec![0u8; len.div_ceil(page_bytes) as usize];
    // SAFETY: a fresh mapping at an address of the kernel's choice, never read.
    let map = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, file, at as i64) }?;
    // SAFETY: the mapping is `len` bytes long and `states` has a byte for each of its pages.
    let result = unsafe { libc::mincore(map.as_ptr(), length.get(), states.as_mut_ptr()) };
    let error = io::Error::last_os_error();
    // SAFETY: mapped above, and nothing refers to it.
    unsafe { munmap(map, length.get()) }?;
    if result != 0 {
        return Err(error);
    }
    Ok(states.iter().filter(|state| **state & 1 != 0).count() as u64)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn both_ways_count_the_pages_of_a_file_that_was_just_written() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&[1; 3 * 4096 + 5]).expect("there is room");
        for (range, pages) in [(0..3 * 4096 + 5, 4), (0..4096, 1), (4096..8193, 2), (100..200, 1)] {
            assert_eq!(by_mincore(&file, &range, 4096).expect("it is ours"), pages, "{range:?}");
            match by_cachestat(&file, &range) {
                Ok(counted) => assert_eq!(counted, pages, "{range:?}"),
                Err(error) => eprintln!("SKIPPED in part: cachestat: {error}"),
            }
        }
        assert_eq!(super::pages(&file, &(5..5), 4096).expect("nothing is asked"), 0);
    }
}
