//! The checkpoint: the index on disk, with what it may be believed for.

use std::io;
use std::path::Path;

use super::record::StoreUuid;
use super::residents::Residents;
use super::writer::Covered;
use crate::index::ExtentAddr;
use crate::object::ExtentKey;

/// A checkpoint that was read.
pub(super) struct Checkpoint {
    /// For each volume, how far its extents were durable.
    pub(super) covered: Vec<(u8, Covered)>,
    /// The extents.
    pub(super) extents: Vec<(ExtentKey, ExtentAddr)>,
}

/// Writes a checkpoint of at most `bytes_max`, in the place of the last one.
pub(super) fn write(
    _state_dir: &Path,
    _store: StoreUuid,
    _covered: &[(u8, Covered)],
    _residents: &Residents,
    _bytes_max: u64,
) -> io::Result<()> {
    Ok(())
}

/// The last checkpoint, if it is whole and of `store`.
pub(super) fn load(_state_dir: &Path, _store: StoreUuid) -> Option<Checkpoint> {
    None
}

/// Bytes that checkpoints take on disk.
pub(super) fn used_bytes(_state_dir: &Path) -> u64 {
    0
}
