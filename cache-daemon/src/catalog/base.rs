//! The base: all nodes of one listing, in columns that are the same in memory and in a snapshot.
//!
//! A node is a record of 48 bytes at the place that its number gives, so that an attribute costs one cache
//! line and a number needs no map. Names lie in one arena, texts of ETags in another, and the children of a
//! directory are a run of numbers, sorted by name. That is 52 bytes a file plus its name.
//!
//! The base never changes. What does change while it is served lies over it, see `overlay.rs`.
//!
//! Invariants, kept by `merge.rs` and checked in a snapshot by `check.rs`
//! - Every record in use is the child of one directory, which is its parent; so they are a tree under the root.
//! - Runs of children are strictly ascending by name.
//! - Names are UTF-8 and can be spelled in a path; ranges lie in their arenas.

use std::ops::{Deref, Range};

use fuse_frontend::source::NodeKind;
use memmap2::Mmap;
use zerocopy::little_endian::{I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::version::StoredVersion;

/// The number of the root directory; 0 is never used.
pub(super) const ROOT: u32 = 1;

/// One node.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct NodeRecord {
    /// The directory that it is in; the root's is the root.
    pub parent: U32,
    /// Where its name begins in the arena.
    pub name: U32,
    /// Bytes of a file.
    pub size_bytes: U64,
    /// Nanoseconds since 1970.
    pub modified_ns: I64,
    /// A file's ETag. Of a directory, three numbers: first child, children, subdirectories.
    pub version: StoredVersion,
    pub name_bytes: u8,
    kind: u8,
    reserved: u8,
}

const _: () = assert!(size_of::<NodeRecord>() == 48);

const UNUSED: u8 = 0;
const DIRECTORY: u8 = 1;
const FILE: u8 = 2;

impl NodeRecord {
    pub fn file(parent: u32, size_bytes: u64, modified_ns: i64, version: StoredVersion) -> Self {
        Self {
            parent: parent.into(),
            size_bytes: size_bytes.into(),
            modified_ns: modified_ns.into(),
            version,
            kind: FILE,
            ..Self::default()
        }
    }

    pub fn directory(parent: u32, modified_ns: i64) -> Self {
        Self { parent: parent.into(), modified_ns: modified_ns.into(), kind: DIRECTORY, ..Self::default() }
    }

    /// Whether the number is in use.
    pub fn is_used(&self) -> bool {
        self.kind != UNUSED
    }

    /// `None` for a number that is not in use (and for a damaged record).
    pub fn kind(&self) -> Option<NodeKind> {
        match self.kind {
            DIRECTORY => Some(NodeKind::Directory),
            FILE => Some(NodeKind::File),
            _ => None,
        }
    }

    fn word(&self, place: usize) -> u32 {
        let bytes = &self.version.bytes[4 * place..][..4];
        u32::from_le_bytes(bytes.try_into().expect("a slice of four bytes"))
    }

    fn set_word(&mut self, place: usize, value: u32) {
        self.version.bytes[4 * place..][..4].copy_from_slice(&value.to_le_bytes());
    }

    /// Of a directory: where its children lie.
    pub fn children(&self) -> Range<usize> {
        let first = self.word(0) as usize;
        first..first + self.word(1) as usize
    }

    pub fn set_children(&mut self, first: u32, count: u32) {
        self.set_word(0, first);
        self.set_word(1, count);
    }

    /// Of a directory: how many of its children are directories.
    pub fn subdirectories(&self) -> u32 {
        self.word(2)
    }

    pub fn set_subdirectories(&mut self, count: u32) {
        self.set_word(2, count);
    }
}

/// The columns, as they are built.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub nodes: Vec<NodeRecord>,
    pub children: Vec<U32>,
    pub names: Vec<u8>,
    pub etags: Vec<u8>,
}

impl Columns {
    /// Puts `record` at `number`, which grows the column if it must.
    pub fn put(&mut self, number: u32, record: NodeRecord) {
        let place = number as usize;
        if place >= self.nodes.len() {
            self.nodes.resize(place + 1, NodeRecord::default());
        }
        self.nodes[place] = record;
    }
}

/// The bytes of a snapshot: mapped, or (for tests) in memory.
pub(super) enum SnapshotBytes {
    Mapped(Mmap),
    Memory(Vec<u8>),
}

impl Deref for SnapshotBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

enum Source {
    Built(Columns),
    Snapshot { bytes: SnapshotBytes, ranges: SectionRanges },
}

/// Where the columns lie in a snapshot.
#[derive(Clone, Debug)]
pub(super) struct SectionRanges {
    pub nodes: Range<usize>,
    pub children: Range<usize>,
    pub names: Range<usize>,
    pub etags: Range<usize>,
}

/// What a base holds in sum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Totals {
    pub files: u64,
    /// The root not counted.
    pub directories: u64,
    pub bytes: u64,
}

/// A digest of the listing that a base was made of, to see that another listing is the same.
pub(super) type ListingDigest = [u8; 16];

/// All nodes of one listing.
pub(super) struct Base {
    source: Source,
    pub totals: Totals,
    /// `None` if something newer than the listing is in it: then no listing is known to be the same.
    pub digest: Option<ListingDigest>,
}

impl Base {
    pub fn built(columns: Columns, totals: Totals, digest: Option<ListingDigest>) -> Self {
        Self { source: Source::Built(columns), totals, digest }
    }

    /// A base in a snapshot; `None` unless the sections lie in it and are made of whole records.
    pub fn of_snapshot(
        bytes: SnapshotBytes,
        ranges: SectionRanges,
        digest: Option<ListingDigest>,
    ) -> Option<Self> {
        <[NodeRecord]>::ref_from_bytes(bytes.get(ranges.nodes.clone())?).ok()?;
        <[U32]>::ref_from_bytes(bytes.get(ranges.children.clone())?).ok()?;
        bytes.get(ranges.names.clone())?;
        bytes.get(ranges.etags.clone())?;
        Some(Self { source: Source::Snapshot { bytes, ranges }, totals: Totals::default(), digest })
    }

    pub fn nodes(&self) -> &[NodeRecord] {
        match &self.source {
            Source::Built(columns) => &columns.nodes,
            Source::Snapshot { bytes, ranges } => {
                <[NodeRecord]>::ref_from_bytes(&bytes[ranges.nodes.clone()])
                    .expect("of_snapshot saw whole records")
            }
        }
    }

    pub fn children(&self) -> &[U32] {
        match &self.source {
            Source::Built(columns) => &columns.children,
            Source::Snapshot { bytes, ranges } => <[U32]>::ref_from_bytes(&bytes[ranges.children.clone()])
                .expect("of_snapshot saw whole numbers"),
        }
    }

    pub fn names(&self) -> &[u8] {
        match &self.source {
            Source::Built(columns) => &columns.names,
            Source::Snapshot { bytes, ranges } => &bytes[ranges.names.clone()],
        }
    }

    pub fn etags(&self) -> &[u8] {
        match &self.source {
            Source::Built(columns) => &columns.etags,
            Source::Snapshot { bytes, ranges } => &bytes[ranges.etags.clone()],
        }
    }

    /// The record of a number in use.
    pub fn record(&self, number: u32) -> Option<&NodeRecord> {
        self.nodes().get(number as usize).filter(|record| record.is_used())
    }

    /// The name in `record`, one of this base's.
    pub fn name(&self, record: &NodeRecord) -> &[u8] {
        &self.names()[record.name.get() as usize..][..usize::from(record.name_bytes)]
    }

    /// A copy of the columns, to be changed.
    pub fn to_columns(&self) -> Columns {
        Columns {
            nodes: self.nodes().to_vec(),
            children: self.children().to_vec(),
            names: self.names().to_vec(),
            etags: self.etags().to_vec(),
        }
    }

    /// Bytes of memory or of mapped file.
    pub fn memory_bytes(&self) -> u64 {
        let Source::Built(columns) = &self.source else {
            return (size_of_val(self.nodes())
                + size_of_val(self.children())
                + self.names().len()
                + self.etags().len()) as u64;
        };
        let records = columns.nodes.capacity() * size_of::<NodeRecord>();
        let children = columns.children.capacity() * size_of::<U32>();
        (records + children + columns.names.capacity() + columns.etags.capacity()) as u64
    }
}
