//! Claims: taking a block device or a directory for this daemon alone, and learning what it is.
//!
//! Nothing is written here. Whether a device may be formatted is the store's decision, from
//! [`Contents`]; how much of it is used, too.
//!
//! Exclusive means: a device is opened with O_EXCL, which the kernel refuses while a mount, an array,
//! a device mapper or another O_EXCL opener holds it; a directory holds a locked file. Both end with the
//! process, however it ends.

use std::io;
use std::path::{Path, PathBuf};

use super::ALIGN_BYTES;

mod device;
mod directory;
mod signature;
#[cfg(test)]
mod tests;

pub use device::{ClaimedDevice, claim_device};
pub use directory::{ClaimedDirectory, claim_directory};
pub use signature::{Contents, HEAD_BYTES, Signature, inspect};

/// Why a device or directory cannot be used. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Someone else has it.
    #[error(
        "{0} is in use: it is mounted, part of an array or volume group, or another epochcache runs on it"
    )]
    Busy(PathBuf),
    /// It cannot be written to.
    #[error("{0} is read-only")]
    ReadOnly(PathBuf),
    /// Neither of what can hold a store.
    #[error("{0} is neither a block device nor a directory")]
    Kind(PathBuf),
    /// It is not there.
    #[error("{0} does not exist")]
    Missing(PathBuf),
    /// The process may not open it.
    #[error("no permission to read and write {0} (for a device: group disk, or run as root)")]
    Permission(PathBuf),
    /// Its blocks are larger than our alignment.
    #[error("{path} needs direct I/O in units of {bytes} bytes; at most {ALIGN_BYTES} are supported")]
    Blocks {
        /// Of the device or directory.
        path: PathBuf,
        /// What it asks for.
        bytes: u32,
    },
    /// Any other failure.
    #[error("{path}: cannot {action}")]
    Io {
        /// Of the device or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Names what a failure to `action` on `path` means.
fn claim_error(path: &Path, action: &'static str, source: io::Error) -> ClaimError {
    let path = path.to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY) => ClaimError::Busy(path),
        Some(libc::EROFS) => ClaimError::ReadOnly(path),
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM) => ClaimError::Missing(path),
        Some(libc::EACCES | libc::EPERM) => ClaimError::Permission(path),
        _ => ClaimError::Io { path, action, source },
    }
}

/// Refuses units that our alignment does not cover.
fn check_blocks(path: &Path, bytes: u32) -> Result<(), ClaimError> {
    if bytes as usize > ALIGN_BYTES {
        return Err(ClaimError::Blocks { path: path.to_owned(), bytes });
    }
    Ok(())
}
