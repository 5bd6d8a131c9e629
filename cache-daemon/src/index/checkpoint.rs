//! The index on disk: what makes a restart with a million objects take less than a second.
//!
//! A checkpoint is a hint. It says where extents were when it was written and of which incarnations
//! of which segments it speaks; the store compares those with the segments it finds and drops what
//! does not match. So any doubt about the file is an error here and a rebuild from segment headers
//! there, and nothing in it is trusted before its checksum was.
//!
//! ```text
//! header     128 bytes: magic, version, store, epoch, counts, CRC32C of what precedes it
//! segments   blocks of records of 16 bytes: segment, generation, sealed bytes
//! extents    blocks of records of 36 bytes: fingerprint, chunk, segment, generation, offset, length
//! ```
//!
//! All integers are little-endian. A block is up to [`BLOCK_BYTES`] of whole records followed by the
//! CRC32C of the header's checksum and the records: a block of another checkpoint does not fit in.
//! The length of the file follows from the counts, and must be exactly that.
//!
//! The file is written beside its name, made durable and then renamed over it: after a power cut there
//! is the old one or the new one. One version exists: another is [`CheckpointError::Version`].

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapMut};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{ExtentAddr, Generation, Index, SegmentId};
use crate::checksum;
use crate::object::{CHUNK_BYTES, ExtentKey, Fingerprint};

/// The version of the format that is written and read.
pub const VERSION: u32 = 1;
/// The most bytes of records in one block.
pub const BLOCK_BYTES: usize = 64 << 10;

const MAGIC: [u8; 8] = *b"EPCINDEX";
const CRC_BYTES: usize = 4;

/// Why a checkpoint cannot be used. Rebuild the index from the segments then.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error("the index checkpoint cannot be read or written: {0}")]
    Io(#[from] io::Error),
    /// The file is not a checkpoint, or its header is damaged.
    #[error("not an index checkpoint, or its header is damaged")]
    Header,
    /// Written by another version of the format.
    #[error("the index checkpoint has format version {found}, this program reads {VERSION}")]
    Version {
        /// The version in the file.
        found: u32,
    },
    /// The file belongs to another store.
    #[error("the index checkpoint belongs to another store")]
    Foreign,
    /// The file is not as long as its counts say.
    #[error("the index checkpoint is {found} bytes long, its header says {expected}")]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The checksum of a block does not match.
    #[error("block {block} of the index checkpoint is damaged")]
    Block {
        /// Its number, from 0 over segments and extents.
        block: u64,
    },
    /// A record says what cannot be, with a good checksum: a mistake of the writer.
    #[error("record {record} of the index checkpoint is impossible")]
    Record {
        /// Its number, from 0, among those of the extents.
        record: u64,
    },
}

/// One segment that a checkpoint speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SealedSegment {
    /// Which one.
    pub segment: SegmentId,
    /// Which incarnation of it.
    pub generation: Generation,
    /// Bytes of it that the checkpoint covers: extents beyond are found by reading headers.
    pub sealed_bytes: u32,
}

/// What a checkpoint says of the store as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    /// The store that it belongs to.
    pub store: [u8; 16],
    /// The caller's count of checkpoints, or of whatever orders them.
    pub epoch: u64,
    /// The incarnations that the addresses refer to.
    pub segments: Vec<SealedSegment>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    flags: U32,
    store: [u8; 16],
    epoch: U64,
    segments: U64,
    extents: U64,
    reserved: [u8; 68],
    crc: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct SegmentRecord {
    segment: U32,
    generation: U32,
    sealed_bytes: U32,
    reserved: U32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct ExtentRecord {
    object: [u8; 16],
    chunk: U32,
    segment: U32,
    generation: U32,
    offset: U32,
    len: U32,
}

const _: () = assert!(size_of::<Header>() == 128);
const _: () = assert!(size_of::<SegmentRecord>() == 16);
const _: () = assert!(size_of::<ExtentRecord>() == 36);

/// A checkpoint whose header was checked; its blocks are checked as they are read.
pub struct Decoder<'a> {
    scope: Scope,
    extents: u64,
    header_crc: u32,
    first_block: u64,
    blocks: &'a [u8],
}

/// Checks the header, the length and the segments of a checkpoint.
///
/// # Errors
/// Any but [`CheckpointError::Io`] and [`CheckpointError::Foreign`]. Never panics, whatever the bytes.
pub fn decode(bytes: &[u8]) -> Result<Decoder<'_>, CheckpointError> {
    let (header, rest) = Header::read_from_prefix(bytes).map_err(|_| CheckpointError::Header)?;
    if header.magic != MAGIC || header.crc.get() != crc_of_header(&header) {
        return Err(CheckpointError::Header);
    }
    if header.version.get() != VERSION || header.flags.get() != 0 {
        return Err(CheckpointError::Version { found: header.version.get() });
    }
    let (segments, extents) = (header.segments.get(), header.extents.get());
    let segment_bytes = section_bytes::<SegmentRecord>(segments);
    let expected = size_of::<Header>() as u128 + segment_bytes + section_bytes::<ExtentRecord>(extents);
    if expected != bytes.len() as u128 {
        let expected = u64::try_from(expected).unwrap_or(u64::MAX);
        return Err(CheckpointError::Length { found: bytes.len() as u64, expected });
    }
    let (segment_blocks, blocks) = rest.split_at(segment_bytes as usize);
    let mut scope = Scope { store: header.store, epoch: header.epoch.get(), segments: Vec::new() };
    let first_block = read_blocks(segment_blocks, header.crc.get(), 0, |_, record: &SegmentRecord| {
        scope.segments.push(SealedSegment {
            segment: SegmentId(record.segment.get()),
            generation: Generation(record.generation.get()),
            sealed_bytes: record.sealed_bytes.get(),
        });
        Ok(())
    })?;
    Ok(Decoder { scope, extents, header_crc: header.crc.get(), first_block, blocks })
}

impl Decoder<'_> {
    /// What the checkpoint says of the store.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The number of extents that follow.
    pub fn extents(&self) -> u64 {
        self.extents
    }

    /// Calls `f` for every extent, a block at a time after its checksum was found good.
    ///
    /// # Errors
    /// [`CheckpointError::Block`], [`CheckpointError::Record`]: what `f` was told before is to be dropped.
    pub fn for_each(&self, mut f: impl FnMut(ExtentKey, ExtentAddr)) -> Result<(), CheckpointError> {
        read_blocks(self.blocks, self.header_crc, self.first_block, |number, record: &ExtentRecord| {
            let (key, addr) = extent_of(record).ok_or(CheckpointError::Record { record: number })?;
            f(key, addr);
            Ok(())
        })?;
        Ok(())
    }
}

/// Writes a checkpoint of `index` to `path`, whole or not at all. Extents that come or go meanwhile
/// may be in it or not.
///
/// # Errors
/// [`CheckpointError::Io`]; what was at `path` is still there then.
pub fn save(path: &Path, index: &Index, scope: &Scope) -> Result<(), CheckpointError> {
    let temporary = temporary_of(path);
    let written = write(&temporary, index, scope).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(())
}

/// Reads the checkpoint at `path` of the store `store` into an index with room for it.
///
/// # Errors
/// Any [`CheckpointError`].
pub fn load(path: &Path, store: [u8; 16]) -> Result<(Index, Scope), CheckpointError> {
    let file = File::open(path)?;
    // SAFETY: a mapping may change or shrink under us only if another process writes to the file. The
    // store's directory is locked, and a checkpoint is replaced by rename, never written in place.
    let map = unsafe { Mmap::map(&file)? };
    let decoder = decode(&map)?;
    if decoder.scope.store != store {
        return Err(CheckpointError::Foreign);
    }
    // The count is bounded by the length of the file by now.
    let index = Index::with_capacity(decoder.extents as usize);
    decoder.for_each(|key, addr| {
        index.insert(key, addr);
    })?;
    Ok((index, decoder.scope))
}

fn write(path: &Path, index: &Index, scope: &Scope) -> io::Result<()> {
    let mut extents = Vec::with_capacity(index.len());
    index.for_each(&mut |key, addr| extents.push(record_of(key, addr)));
    let segments: Vec<_> = scope.segments.iter().map(segment_record_of).collect();
    let length = size_of::<Header>()
        + section_bytes::<SegmentRecord>(segments.len() as u64) as usize
        + section_bytes::<ExtentRecord>(extents.len() as u64) as usize;

    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    reserve(&file, length as u64)?;
    // SAFETY: the file was just made under a name that only this store uses (its directory is locked),
    // and is as long as the mapping.
    let mut map = unsafe { MmapMut::map_mut(&file)? };
    let header = header_of(scope, extents.len() as u64);
    let (head, rest) = map.split_at_mut(size_of::<Header>());
    head.copy_from_slice(header.as_bytes());
    let rest = write_blocks(rest, header.crc.get(), &segments);
    let rest = write_blocks(rest, header.crc.get(), &extents);
    assert!(rest.is_empty(), "the length was computed from the same counts");
    map.flush()?;
    file.sync_all()
}

/// Blocks for the whole file: writing to a mapping of a hole on a full disk is SIGBUS, not an error.
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = i64::try_from(bytes).map_err(io::Error::other)?;
    Ok(nix::fcntl::posix_fallocate(file, 0, bytes)?)
}

fn temporary_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

const fn records_in_block<R>() -> usize {
    BLOCK_BYTES / size_of::<R>()
}

fn section_bytes<R>(records: u64) -> u128 {
    let blocks = records.div_ceil(records_in_block::<R>() as u64);
    u128::from(records) * size_of::<R>() as u128 + u128::from(blocks) * CRC_BYTES as u128
}

fn crc_of_header(header: &Header) -> u32 {
    let bytes = header.as_bytes();
    checksum::crc32c(&bytes[..bytes.len() - CRC_BYTES])
}

/// Fills the front of `out` with `records` in blocks, and returns what is left of it.
fn write_blocks<'a, R: IntoBytes + Immutable>(
    mut out: &'a mut [u8],
    header_crc: u32,
    records: &[R],
) -> &'a mut [u8] {
    for block in records.chunks(records_in_block::<R>()) {
        let bytes = block.as_bytes();
        let (here, rest) = out.split_at_mut(bytes.len() + CRC_BYTES);
        here[..bytes.len()].copy_from_slice(bytes);
        here[bytes.len()..].copy_from_slice(&checksum::crc32c_append(header_crc, bytes).to_le_bytes());
        out = rest;
    }
    out
}

/// Calls `f` with the number and content of every record. Returns the number of the next block.
fn read_blocks<R: FromBytes + KnownLayout + Immutable + Unaligned>(
    section: &[u8],
    header_crc: u32,
    first: u64,
    mut f: impl FnMut(u64, &R) -> Result<(), CheckpointError>,
) -> Result<u64, CheckpointError> {
    let (mut block, mut number) = (first, 0);
    for bytes in section.chunks(records_in_block::<R>() * size_of::<R>() + CRC_BYTES) {
        let damaged = CheckpointError::Block { block };
        let Some((records, crc)) = bytes.split_last_chunk::<CRC_BYTES>() else { return Err(damaged) };
        if checksum::crc32c_append(header_crc, records) != u32::from_le_bytes(*crc) {
            return Err(damaged);
        }
        let Ok(records) = <[R]>::ref_from_bytes(records) else { return Err(damaged) };
        for record in records {
            f(number, record)?;
            number += 1;
        }
        block += 1;
    }
    Ok(block)
}

fn header_of(scope: &Scope, extents: u64) -> Header {
    let mut header = Header {
        magic: MAGIC,
        version: VERSION.into(),
        flags: 0.into(),
        store: scope.store,
        epoch: scope.epoch.into(),
        segments: (scope.segments.len() as u64).into(),
        extents: extents.into(),
        reserved: [0; 68],
        crc: 0.into(),
    };
    header.crc = crc_of_header(&header).into();
    header
}

fn segment_record_of(sealed: &SealedSegment) -> SegmentRecord {
    SegmentRecord {
        segment: sealed.segment.0.into(),
        generation: sealed.generation.0.into(),
        sealed_bytes: sealed.sealed_bytes.into(),
        reserved: 0.into(),
    }
}

fn record_of(key: &ExtentKey, addr: ExtentAddr) -> ExtentRecord {
    ExtentRecord {
        object: key.object.0,
        chunk: key.chunk.into(),
        segment: addr.segment.0.into(),
        generation: addr.generation.0.into(),
        offset: addr.offset.into(),
        len: addr.len.into(),
    }
}

/// `None` if no extent can be there.
fn extent_of(record: &ExtentRecord) -> Option<(ExtentKey, ExtentAddr)> {
    let (offset, len) = (record.offset.get(), record.len.get());
    let possible = offset % 4096 == 0 && len > 0 && u64::from(len) <= CHUNK_BYTES;
    let key = ExtentKey { object: Fingerprint(record.object), chunk: record.chunk.get() };
    let segment = SegmentId(record.segment.get());
    possible.then_some((
        key,
        ExtentAddr { segment, generation: Generation(record.generation.get()), offset, len },
    ))
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
