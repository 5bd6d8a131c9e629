//! Known places: where the store was opened before, so that a place that is gone is told from one that was mistyped.
//!
//! The paths as they were given, each ended by a zero byte.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::medium::Place;

/// The name of the file in the state directory.
const FILE_NAME: &str = "places";

/// The paths of the places that the store was opened at; `None` if nothing can be said.
pub(super) fn load(state_dir: &Path) -> Option<Vec<PathBuf>> {
    let bytes = std::fs::read(state_dir.join(FILE_NAME)).ok()?;
    let paths = bytes.strip_suffix(&[0])?.split(|byte| *byte == 0);
    Some(paths.map(|path| OsStr::from_bytes(path).into()).collect())
}

/// Notes that the store was opened at `places`.
///
/// # Errors
/// Of the file system; then what was noted before stays.
pub(super) fn save(state_dir: &Path, places: &[Place]) -> io::Result<()> {
    let paths = places.iter().map(Place::path);
    if load(state_dir).is_some_and(|known| known.iter().map(PathBuf::as_path).eq(paths.clone())) {
        return Ok(());
    }
    let bytes: Vec<u8> =
        paths.flat_map(|path| path.as_os_str().as_bytes().iter().copied().chain([0])).collect();
    let beside = state_dir.join(format!("{FILE_NAME}.new"));
    std::fs::write(&beside, bytes)?;
    std::fs::rename(beside, state_dir.join(FILE_NAME))
}
