//! The checkpoint: the index on disk, and for which bytes of which segments it may be believed.
//!
//! The codec is `index::checkpoint`; here is what the store makes of it. A checkpoint is written after a
//! sync and speaks of what that sync covered: extents that were appended meanwhile may be in it, and
//! are left out when it is read, because nothing says that they are durable. What was forgotten or
//! reclaimed since is told by the generation of the segment, or does no harm: an extent is content of
//! its own version, whenever it is found.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::record::StoreUuid;
use super::residents::Residents;
use crate::index::checkpoint::{CheckpointError, Scope, SealedSegment, decode, save};
use crate::index::{ExtentAddr, Generation, SegmentId};
use crate::object::ExtentKey;

/// The name of the file in the state directory.
const FILE_NAME: &str = "index.checkpoint";

/// What the codec takes for an extent, its share of a block's checksum included, rounded up.
const EXTENT_BYTES: u64 = 37;

/// A checkpoint that was read.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    /// Counts checkpoints of this store.
    pub(super) epoch: u64,
    reach: HashMap<SegmentId, (Generation, u32)>,
    extents: Vec<(ExtentKey, ExtentAddr)>,
}

impl Checkpoint {
    /// A checkpoint of `extents` that holds for `covered`.
    pub(super) fn new(epoch: u64, covered: &[SealedSegment], extents: Vec<(ExtentKey, ExtentAddr)>) -> Self {
        let reach = covered.iter().map(|sealed| (sealed.segment, (sealed.generation, sealed.sealed_bytes)));
        Self { epoch, reach: reach.collect(), extents }
    }

    /// How far into `segment` the checkpoint holds, if the segment is still in the incarnation that it knew.
    pub(super) fn reach(&self, segment: SegmentId, generation: Generation) -> Option<u32> {
        self.reach.get(&segment).filter(|(known, _)| *known == generation).map(|(_, bytes)| *bytes)
    }

    /// The number of extents in it, believed or not.
    pub(super) fn len(&self) -> usize {
        self.extents.len()
    }

    /// The extents of `volume` that it holds for, if its segments are in the incarnations that `current` says.
    pub(super) fn extents_of<'a>(
        &'a self,
        volume: u8,
        current: &'a dyn Fn(SegmentId) -> Generation,
    ) -> impl Iterator<Item = &'a (ExtentKey, ExtentAddr)> {
        self.extents.iter().filter(move |(_, addr)| {
            addr.segment.volume() == volume
                && addr.generation == current(addr.segment)
                && self.reach(addr.segment, addr.generation).is_some_and(|reach| addr.offset < reach)
        })
    }
}

/// Writes a checkpoint of at most `bytes_max`, in the place of the last one.
pub(super) fn write(
    state_dir: &Path,
    (store, epoch): (StoreUuid, u64),
    covered: Vec<SealedSegment>,
    residents: &Residents,
    bytes_max: u64,
) -> Result<(), CheckpointError> {
    let bytes = residents.index().len() as u64 * EXTENT_BYTES + covered.len() as u64 * 17 + (64 << 10);
    if bytes > bytes_max {
        return Err(io::Error::other(format!(
            "{bytes} bytes are more than its share of the limit, {bytes_max}"
        ))
        .into());
    }
    save(&path(state_dir), residents.index(), &Scope { store: store.0, epoch, segments: covered })
}

/// The last checkpoint, if it is whole and of `store`.
pub(super) fn load(state_dir: &Path, store: StoreUuid) -> Option<Checkpoint> {
    match read(state_dir) {
        Ok((scope, extents)) if scope.store == store.0 => {
            Some(Checkpoint::new(scope.epoch, &scope.segments, extents))
        }
        Ok(_) => {
            tracing::info!("the checkpoint is of another store: reading headers instead");
            None
        }
        Err(CheckpointError::Io(error)) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(%error, "reading headers instead");
            None
        }
    }
}

type Extents = Vec<(ExtentKey, ExtentAddr)>;

fn read(state_dir: &Path) -> Result<(Scope, Extents), CheckpointError> {
    let bytes = std::fs::read(path(state_dir))?;
    let decoder = decode(&bytes)?;
    // Bounded by the length of the file, which the decoder has compared.
    let mut extents = Vec::with_capacity(decoder.extents() as usize);
    decoder.for_each(|key, addr| extents.push((key, addr)))?;
    Ok((decoder.scope().clone(), extents))
}

/// Whether there is a checkpoint: whether this is not the first start.
pub(super) fn exists(state_dir: &Path) -> bool {
    path(state_dir).exists()
}

/// Bytes that checkpoints take on disk.
pub(super) fn used_bytes(state_dir: &Path) -> u64 {
    let metadata = std::fs::metadata(path(state_dir));
    metadata.map_or(0, |metadata| metadata.blocks() * 512)
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join(FILE_NAME)
}
