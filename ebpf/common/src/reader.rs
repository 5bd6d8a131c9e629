//! Readers: one thread's place in what it reads, and its sums.

/// Places for threads; a thread's place is its id modulo this. Two threads that meet in one place take it from each
/// other at a cost (see [`ReaderTotals`]); ids are handed out in order, so that takes 8 192 threads started between.
pub const READERS: u32 = 8192;

/// A thread that reads, 128 bytes. Zero `tid`: the place is free.
///
/// One thread writes it. Where two threads share a place and read at the same moment, counts of either may be lost.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// Thread id, in the initial pid namespace.
    pub tid: u32,
    /// Process id, in the initial pid namespace.
    pub tgid: u32,
    /// The inode it touched last.
    pub ino: u64,
    /// When, in ticks.
    pub touched_ticks: u64,
    /// First byte of the last access.
    pub first: u64,
    /// One past the last byte that the last access covered so far.
    pub end: u64,
    /// Where the last access was to end, before it was clipped to the file's size.
    pub asked_end: u64,
    /// Number of the system call of the last access.
    pub call: u64,
    /// Cgroup id (v2) when the thread took its place.
    pub cgroup: u64,
    /// Bytes, as in [`crate::Heat`].
    pub bytes: u64,
    /// Read accesses.
    pub reads: u32,
    /// Page faults.
    pub faults: u32,
    /// Readings of files begun.
    pub begins: u32,
    /// [`Reader::FAULT`], [`Reader::ENDED`].
    pub state: u32,
    /// Name of the thread when it took its place.
    pub comm: [u8; 16],
    /// Time of the requests to the daemon that it made, ns: of those that overlap, each counts. Other CPUs add to it.
    pub waited_ns: u64,
    /// Bytes that READs brought it. Other CPUs add to it.
    pub asked_bytes: u64,
    /// Requests to the daemon that it made and that were answered. Other CPUs add to it.
    pub requests: u64,
}

impl Reader {
    /// The last access was a page fault.
    pub const FAULT: u32 = 1;
    /// This reading has reached the file's end.
    pub const ENDED: u32 = 2;
}

/// Sums of a process's threads whose places were taken by others.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderTotals {
    /// Bytes.
    pub bytes: u64,
    /// Read accesses.
    pub reads: u64,
    /// Page faults.
    pub faults: u64,
    /// Readings begun.
    pub begins: u64,
    /// The last access of the last of them, in ticks.
    pub touched_ticks: u64,
    /// Cgroup id of the last of them.
    pub cgroup: u64,
    /// Name of the last of them.
    pub comm: [u8; 16],
    /// As [`Reader::waited_ns`].
    pub waited_ns: u64,
    /// As [`Reader::asked_bytes`].
    pub asked_bytes: u64,
    /// As [`Reader::requests`].
    pub requests: u64,
}

/// Key of the readings that were left before their file's end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadingKey {
    /// The file.
    pub ino: u64,
    /// The thread.
    pub tid: u32,
    /// Explicit padding: a hash covers all bytes of a key.
    pub padding: u32,
}

const _: () =
    assert!(size_of::<Reader>() == 128 && size_of::<ReaderTotals>() == 88 && size_of::<ReadingKey>() == 16);
const _: () = assert!(READERS.is_power_of_two());
