//! The port: what a mount asks of whoever has the data.
//!
//! The daemon implements it over its cache, tests over memory. Nothing of fuser's is in it. Every call
//! may come from several threads at once; none but [`FileSource::read`] may wait for a disk or a network
//! (opening a file whose directory is cached is no waiting).

use std::fs::File;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::errno::Errno;
use crate::ticket::ReadTicket;

/// The number of a node: an inode number to applications, an index of arrays to us. The root is 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ino(pub u64);

impl Ino {
    /// The mountpoint's directory.
    pub const ROOT: Self = Self(1);
}

/// A directory or a file; the mount has nothing else but the symlink that the control directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
}

/// What stat(2) tells of a node, less owner and mode, which are the mount's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attributes {
    /// The node.
    pub ino: Ino,
    /// Its kind.
    pub kind: NodeKind,
    /// Bytes; 0 for a directory.
    pub size_bytes: u64,
    /// When the object was last modified at the origin.
    pub modified: SystemTime,
    /// Links: 1 for a file, 2 + subdirectories for a directory.
    pub links: u32,
}

/// One name in a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    /// The name: neither empty nor `.` nor `..`, no slash, at most 255 bytes.
    pub name: &'a [u8],
    /// The node that it names now.
    pub attributes: Attributes,
    /// Where to go on after this entry: passed back as `from`. Never 0, and below 2^63 - 2: it becomes the offset of
    /// a directory stream, after those of `.` and `..`.
    pub next: u64,
}

/// Whether the walk of a directory goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Walk {
    /// The entry was taken.
    Continue,
    /// The entry had no room: it is asked for again.
    Stop,
}

/// Capacity as statfs(2) shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// Bytes of the data set.
    pub total_bytes: u64,
    /// Files in it.
    pub files: u64,
}

/// An extended attribute of the mount, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Xattr {
    /// `user.etag`: the version's ETag.
    Etag,
    /// `user.origin`: the object's URL.
    Origin,
}

/// A local file with an object's bytes, for the kernel to read by itself.
#[derive(Debug)]
pub struct Backing {
    /// Readable, regular, on a file system that is not stacked on another (ext4, XFS). Closed once it is registered.
    pub file: File,
    /// Bytes of the file, which are the object's: complete, verified, at the object's offsets.
    pub len: u64,
}

/// Where a mount's files come from.
pub trait FileSource: Send + Sync + 'static {
    /// The node that `name` in `dir` names now: `ENOENT`, `ENOTDIR`.
    ///
    /// Success raises the node's lookup count by one, as does each entry that [`FileSource::entries`] yields with `count_lookups`.
    fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attributes, Errno>;

    /// What stat(2) tells of `ino`: `ESTALE` if the number is not in use.
    ///
    /// Asked before every read as well, for the length that the answer has to have: it should cost no more than
    /// looking into an array.
    fn attributes(&self, ino: Ino) -> Result<Attributes, Errno>;

    /// The kernel dropped `lookups` of its references to `ino`; at 0 the number of a replaced version may be freed.
    fn forget(&self, ino: Ino, lookups: u64);

    /// Calls `take` for each entry of `dir` in order, from the one after position `from` (0: the first).
    ///
    /// With `count_lookups`, an entry for which `take` answers [`Walk::Continue`] counts as looked up. `ENOTDIR`, `ESTALE`.
    fn entries(
        &self,
        dir: Ino,
        from: u64,
        count_lookups: bool,
        take: &mut dyn FnMut(Entry<'_>) -> Walk,
    ) -> Result<(), Errno>;

    /// The parent directory of `dir`; the root's is the root.
    fn parent(&self, dir: Ino) -> Result<Ino, Errno>;

    /// The path from the root to `ino`, without a slash before it, or the one that it had: for opening it on the mount
    /// itself. None where it is not known.
    fn path(&self, _ino: Ino) -> Option<Vec<u8>> {
        None
    }

    /// Reads `len` bytes of `ino` at `offset`, and completes `ticket` then or later, on any thread.
    ///
    /// The answer is exactly as long as asked, or to the end of the file: a shorter one would make the kernel shrink
    /// the file, so any other length reaches the reader as `EIO`. `offset` is before the end, `len` is not 0.
    fn read(&self, ino: Ino, offset: u64, len: u32, ticket: ReadTicket);

    /// A local file with the whole of `ino`, if there is one that was verified: its bytes go to readers unseen by us.
    ///
    /// Asked at an OPEN of a file that nobody has open, in `open` mode with passthrough only. An OPEN waits for the
    /// answer: None now is better than a file later. Each file given is taken back by one call of
    /// [`FileSource::released`], or by a revocation that answers `Now`; until then its space is not free, even if
    /// its name is gone. It may be given again meanwhile (to two opens at once, say).
    fn backing(&self, _ino: Ino) -> Option<Backing> {
        None
    }

    /// `asker`, a thread where that is known, opened `ino`; `passed_through`: the kernel reads a file that
    /// [`FileSource::backing`] gave. For whoever watches: in `noopen` mode the kernel asks nobody, and this is never called.
    fn opened(&self, _ino: Ino, _asker: Option<u32>, _passed_through: bool) {}

    /// The kernel lets go of one file that [`FileSource::backing`] gave for `ino`: no open descriptor reads it. A
    /// mapping that outlives its descriptors may, which nobody can tell.
    fn released(&self, _ino: Ino) {}

    /// The value of `xattr` of `ino`: `ENODATA` where it has none.
    fn xattr(&self, ino: Ino, xattr: Xattr) -> Result<Bytes, Errno>;

    /// The size of the data set.
    fn capacity(&self) -> Capacity;

    /// How long the kernel may believe names and attributes.
    fn ttl(&self) -> Duration;
}
