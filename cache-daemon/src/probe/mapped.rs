//! An array of the kernel, mapped: its values are read and written without system calls.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use memmap2::{MmapOptions, MmapRaw};

/// Types that may lie in a mapped array.
///
/// # Safety
/// Any bit pattern is a value, there is no implicit padding, and the size is a multiple of eight bytes.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: `repr(C)`, integers and arrays of them only, sizes asserted where they are defined.
unsafe impl Plain for ebpf_common::Heat {}
// SAFETY: as above.
unsafe impl Plain for ebpf_common::Reader {}
// SAFETY: as above.
unsafe impl Plain for ebpf_common::Control {}
// SAFETY: as above.
unsafe impl Plain for ebpf_common::Clock {}

// SAFETY: as above.
unsafe impl Plain for ebpf_common::InFlight {}

/// A mapped array of `T`.
pub(super) struct Mapped<T> {
    map: MmapRaw,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Mapped<T> {
    /// Maps the first `len` values of the array behind `map`, which was made with BPF_F_MMAPABLE.
    pub(super) fn new(map: impl AsFd, len: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 8) };
        let map = MmapOptions::new().len(len * size_of::<T>()).map_raw(map.as_fd().as_raw_fd())?;
        Ok(Self { map, len, of: PhantomData })
    }

    /// Values in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value at `index`, each word of it as it was at some moment; `None` beyond the end.
    pub(super) fn read(&self, index: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        let out = value.as_mut_ptr().cast::<u64>();
        for (n, word) in self.words(index)?.iter().enumerate() {
            // SAFETY: `value` has as many words as `words` gives.
            unsafe { out.add(n).write(word.load(Relaxed)) };
        }
        // SAFETY: all words are written, and any bits are a value of a `Plain`.
        Some(unsafe { value.assume_init() })
    }

    /// Writes the value at `index`, word by word.
    pub(super) fn write(&self, index: usize, value: T) {
        let from = (&raw const value).cast::<u64>();
        for (n, word) in self.words(index).into_iter().flatten().enumerate() {
            // SAFETY: `value` has as many words as `words` gives, all of them initialised.
            word.store(unsafe { from.add(n).read_unaligned() }, Relaxed);
        }
    }

    fn words(&self, index: usize) -> Option<&[AtomicU64]> {
        if index >= self.len {
            return None;
        }
        // SAFETY: in the mapping, which is page-aligned and lives as long as `self`; the kernel changes it in aligned
        // words, and nobody makes plain references into it.
        let words = unsafe {
            std::slice::from_raw_parts(
                self.map.as_mut_ptr().cast::<T>().add(index).cast::<AtomicU64>(),
                size_of::<T>() / 8,
            )
        };
        Some(words)
    }
}

impl<T> fmt::Debug for Mapped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapped").field("len", &self.len).finish_non_exhaustive()
    }
}
