//! Touches: one access of one reader to one file.

/// The number of a file in the catalog.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FileNo(pub u32);

/// An access to a file, seen by a probe or by the daemon that serves it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touch {
    /// Monotonic clock, ns.
    pub at_ns: u64,
    /// The file.
    pub file: FileNo,
    /// The process; 0 where that is not known.
    pub reader: u32,
    /// What tells jobs apart: the process that all readers of a job descend from; 0 where that is not known.
    pub group: u32,
    /// First byte of the access.
    pub first: u64,
    /// One past its last byte.
    pub end: u64,
    /// The reader begins to read the file.
    pub begins: bool,
    /// The reader has reached the file's end.
    pub ends: bool,
}
