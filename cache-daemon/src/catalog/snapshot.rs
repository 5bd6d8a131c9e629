//! The snapshot: a catalog on disk, so that a remount lists nothing before it serves.
//!
//! The file is a header and then the columns as they are in memory (`base.rs`), little-endian, each on a page
//! boundary and under a CRC32C:
//!
//! | page | what |
//! |---|---|
//! | 0 | magic `EPOCHCAT`, version, CRC32C of the header, digest of the listing, five times offset, length, CRC32C |
//! | 1 | the origin's URL |
//! | | nodes: 48 bytes for each number from 0 |
//! | | children: 4 bytes each, the runs of all directories |
//! | | names, without ends: records know where theirs begin and how long they are |
//! | | ETags that are no MD5s, likewise |
//!
//! It is mapped and used in place: no parsing, and its pages can be dropped and read again, which an
//! allocation's cannot. All of it is read once at load, for the checksums; that is 73 MB for a million files.
//!
//! It is written beside its place, synced, and renamed over it, so that there is one whole snapshot or none.
//! Held numbers are not in it: after a restart no kernel refers to them.
//!
//! What is mapped must not change under us: the file is only ever replaced, never written in place or cut,
//! and the cache directory is locked by one daemon. If its disk fails, reading it is SIGBUS.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Catalog;
use super::base::{Base, Columns, ListingDigest, NodeRecord, SectionRanges, SnapshotBytes};
use super::check::check;
use super::overlay::Numbers;
use super::version::{StoredVersion, Version};
use super::view::View;
use crate::checksum;

const MAGIC: [u8; 8] = *b"EPOCHCAT";
const VERSION: u32 = 1;
const PAGE: usize = 4096;
const SECTIONS: usize = 5;

/// The header. Whatever a later version changes, magic and version stay where they are.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    /// CRC32C of the header with 0 here.
    crc32c: U32,
    /// Of the listing; zeros for none.
    digest: ListingDigest,
    /// Origin's URL, nodes, children, names, ETags.
    sections: [Section; SECTIONS],
}

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Section {
    offset: U64,
    len_bytes: U64,
    crc32c: U32,
    reserved: U32,
}

const _: () = assert!(size_of::<Header>() == 152 && size_of::<Header>() <= PAGE);

/// Why there is no catalog in a file. Each is answered by listing the origin; all but `Missing` with a warning.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// There is no file.
    #[error("there is no catalog snapshot")]
    Missing,
    /// The bytes are not those of a snapshot, or not all of them.
    #[error("the catalog snapshot is corrupt: {0}")]
    Corrupt(&'static str),
    /// It is of another data set.
    #[error("the catalog snapshot is of {0:?}")]
    OtherOrigin(String),
    /// It was written by a later version.
    #[error("the catalog snapshot has format {0}, this program knows {VERSION}")]
    Newer(u32),
    /// The file could not be read.
    #[error("the catalog snapshot cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl Catalog {
    /// Writes a snapshot to `path`, over the one that is there. Its size in bytes.
    pub fn save(&self, path: &Path) -> io::Result<u64> {
        let (base, overlay) = {
            let state = self.state.read_recursive();
            (state.base.clone(), state.overlay.clone())
        };
        let folded;
        let base = if overlay.moved.is_empty() {
            &*base
        } else {
            folded = fold(View { base: &base, overlay: &overlay })?;
            &folded
        };
        let digest = base.digest.unwrap_or_default();
        let sections = [
            self.origin_url.as_bytes(),
            base.nodes().as_bytes(),
            base.children().as_bytes(),
            base.names(),
            base.etags(),
        ];
        replace_file(path, |file| write_sections(file, digest, sections))
    }

    /// The catalog in the snapshot at `path`, of the data set at `origin_url`.
    pub fn load(path: &Path, origin_url: &str) -> Result<Self, SnapshotError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => SnapshotError::Missing,
            _ => SnapshotError::Io(error),
        })?;
        if file.metadata()?.len() < size_of::<Header>() as u64 {
            return Err(SnapshotError::Corrupt("shorter than its header"));
        }
        // SAFETY: the bytes stay as they are while they are mapped: a snapshot is only ever replaced by a
        // rename (`replace_file`), and the lock on the cache directory keeps other daemons out.
        let map = unsafe { Mmap::map(&file)? };
        Self::of_bytes(SnapshotBytes::Mapped(map), Some(origin_url))
    }

    /// What [`Catalog::load`] makes of `bytes`, for whatever origin and with checksums put right, and every
    /// lookup that can be made in it: for fuzzing, which must find neither a panic nor a circle.
    pub fn decode_for_fuzzing(bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        sign(&mut bytes);
        let Ok(catalog) = Self::of_bytes(SnapshotBytes::Memory(bytes), None) else { return };
        let mut files = 0;
        catalog.fingerprints(&mut |ino, _| {
            let path = catalog.path(ino).expect("a live file has a path");
            assert_eq!(catalog.resolve(&path), Some(ino));
            files += 1;
        });
        assert_eq!(files, catalog.files());
    }

    pub(super) fn of_bytes(bytes: SnapshotBytes, origin_url: Option<&str>) -> Result<Self, SnapshotError> {
        let (header, _) = Header::read_from_prefix(&bytes)
            .map_err(|_| SnapshotError::Corrupt("shorter than its header"))?;
        check_header(&header)?;
        let [origin, nodes, children, names, etags] = check_sections(&header, &bytes)?;
        let found = String::from_utf8_lossy(&bytes[origin]).into_owned();
        if origin_url.is_some_and(|wanted| wanted != found) {
            return Err(SnapshotError::OtherOrigin(found));
        }
        let ranges = SectionRanges { nodes, children, names, etags };
        let digest = Some(header.digest).filter(|digest| *digest != ListingDigest::default());
        let mut base = Base::of_snapshot(bytes, ranges, digest)
            .ok_or(SnapshotError::Corrupt("a section that is not whole"))?;
        let checked = check(&base).map_err(SnapshotError::Corrupt)?;
        base.totals = checked.totals;
        let numbers = Numbers::new(base.nodes().len() as u32, checked.free);
        Ok(Self::new(found.into(), base, numbers))
    }
}

fn check_header(header: &Header) -> Result<(), SnapshotError> {
    if header.magic != MAGIC {
        return Err(SnapshotError::Corrupt("it does not begin as one"));
    }
    match header.version.get() {
        VERSION => {}
        newer if newer > VERSION => return Err(SnapshotError::Newer(newer)),
        _ => return Err(SnapshotError::Corrupt("a format that never was")),
    }
    let unsigned = Header { crc32c: U32::ZERO, ..*header };
    if checksum::crc32c(unsigned.as_bytes()) != header.crc32c.get() {
        return Err(SnapshotError::Corrupt("the checksum of its header is wrong"));
    }
    Ok(())
}

/// Where the sections lie, once they lie in `bytes` and their checksums are right.
fn check_sections(header: &Header, bytes: &[u8]) -> Result<[Range<usize>; SECTIONS], SnapshotError> {
    let mut ranges = [const { 0..0 }; SECTIONS];
    for (range, section) in ranges.iter_mut().zip(&header.sections) {
        let start = usize::try_from(section.offset.get()).unwrap_or(usize::MAX);
        let len = usize::try_from(section.len_bytes.get()).unwrap_or(usize::MAX);
        *range = start..start.saturating_add(len);
        let content = bytes.get(range.clone()).ok_or(SnapshotError::Corrupt("a section is cut off"))?;
        if checksum::crc32c(content) != section.crc32c.get() {
            return Err(SnapshotError::Corrupt("the checksum of a section is wrong"));
        }
    }
    Ok(ranges)
}

/// The columns with replaced versions in their new places.
fn fold(view: View<'_>) -> io::Result<Base> {
    let mut columns = view.base.to_columns();
    for (&child, &number) in &view.overlay.moved {
        let node = view.node(number).expect("moved leads to live numbers");
        let version = store_version(node.version, &mut columns)?;
        let old = std::mem::take(&mut columns.nodes[child as usize]);
        let mut record = NodeRecord::file(node.parent, node.size_bytes, node.modified_ns, version);
        // The name is the same, so its place in the arena is.
        record.name = old.name;
        record.name_bytes = old.name_bytes;
        columns.put(number, record);
    }
    for child in &mut columns.children {
        *child = view.current(*child).into();
    }
    Ok(Base::built(columns, view.base.totals, None))
}

fn store_version(version: Version<'_>, columns: &mut Columns) -> io::Result<StoredVersion> {
    StoredVersion::store(version, &mut columns.etags).ok_or_else(|| io::Error::other("4 GiB of ETags"))
}

fn write_sections(file: &mut File, digest: ListingDigest, contents: [&[u8]; SECTIONS]) -> io::Result<u64> {
    let mut sections = [Section::default(); SECTIONS];
    let mut end = PAGE;
    for (section, content) in sections.iter_mut().zip(contents) {
        *section = Section {
            offset: (end as u64).into(),
            len_bytes: (content.len() as u64).into(),
            crc32c: checksum::crc32c(content).into(),
            reserved: U32::ZERO,
        };
        end += content.len().next_multiple_of(PAGE);
    }
    let mut header = Header { magic: MAGIC, version: VERSION.into(), crc32c: U32::ZERO, digest, sections };
    header.crc32c = checksum::crc32c(header.as_bytes()).into();
    for content in std::iter::once(header.as_bytes()).chain(contents) {
        file.write_all(content)?;
        let padding = content.len().next_multiple_of(PAGE) - content.len();
        file.write_all(&[0; PAGE][..padding])?;
    }
    Ok(end as u64)
}

/// Puts the checksums in `bytes` right, and what they stand behind, where there are sections at all.
pub(super) fn sign(bytes: &mut [u8]) {
    let Ok((mut header, _)) = Header::read_from_prefix(bytes) else { return };
    header.magic = MAGIC;
    header.version = VERSION.into();
    for section in &mut header.sections {
        let start = section.offset.get() as usize;
        let content = bytes.get(start..start.saturating_add(section.len_bytes.get() as usize));
        section.crc32c = content.map_or(0, checksum::crc32c).into();
    }
    header.crc32c = U32::ZERO;
    header.crc32c = checksum::crc32c(header.as_bytes()).into();
    bytes[..size_of::<Header>()].copy_from_slice(header.as_bytes());
}

/// Writes a file beside `path`, and once it is on disk, renames it to that.
fn replace_file(path: &Path, write: impl FnOnce(&mut File) -> io::Result<u64>) -> io::Result<u64> {
    let beside = path.with_extension("new");
    let written = File::create(&beside).and_then(|mut file| {
        let len_bytes = write(&mut file)?;
        file.sync_all()?;
        Ok(len_bytes)
    });
    let len_bytes = written.inspect_err(|_| {
        // A full disk is no reason to leave half a file on it.
        let _ = fs::remove_file(&beside);
    })?;
    fs::rename(&beside, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(len_bytes)
}
