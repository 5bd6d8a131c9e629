//! Events: the beginnings and ends of a file's readings and, while somebody traces, its being opened and mapped. Everything
//! else is counted, not reported.

/// One access that began a reading of a file, reached its end, or both; or a file that was opened or mapped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Monotonic clock, ns.
    pub at_ns: u64,
    /// The file.
    pub ino: u64,
    /// First byte of the access; 0 of an opening.
    pub first: u64,
    /// One past its last byte that exists; 0 of an opening.
    pub end: u64,
    /// Process, in the initial pid namespace.
    pub tgid: u32,
    /// Thread, in the initial pid namespace.
    pub tid: u32,
    /// [`EventFlags`].
    pub flags: u32,
    /// Explicit padding.
    pub padding: u32,
}

/// Bits of [`Event::flags`].
pub struct EventFlags;

impl EventFlags {
    /// The thread begins to read the file: at its first byte, in a file it was not in, or after a pause.
    pub const BEGIN: u32 = 1;
    /// The access reaches the file's last byte, for the first time in this reading.
    pub const END: u32 = 2;
    /// A page fault of a mapping, else a read.
    pub const FAULT: u32 = 4;
    /// The file is opened: alone, with no bytes.
    pub const OPEN: u32 = 8;
    /// The file is mapped: alone, with no bytes.
    pub const MMAP: u32 = 16;
}

/// What was seen and not kept, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Events put into the ring.
    pub events: u64,
    /// Beginnings and ends for which the ring had no room.
    pub dropped: u64,
    /// Accesses to inodes above the heat array's end.
    pub beyond: u64,
    /// Openings for which the ring's share for them had no room: [`crate::Settings::openings_bytes`].
    pub openings_dropped: u64,
}

/// Pages of the mount's files that came into the page cache and went out of it, per CPU. Their difference over all CPUs is
/// the sum of [`crate::Heat::resident_pages`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residents {
    /// Pages that came.
    pub added: u64,
    /// Pages that went, of those.
    pub removed: u64,
}

const _: () = assert!(size_of::<Event>() == 48 && size_of::<Losses>() == 32 && size_of::<Residents>() == 16);
