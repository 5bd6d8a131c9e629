//! Directories: locked for us alone, with what their file system can do.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use memmap2::MmapMut;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statvfs::fstatvfs;

use super::{ClaimError, check_blocks, claim_error};
use crate::io::{ALIGN_BYTES, DeviceFile, DeviceOffset, open_direct};

/// The file in the directory whose lock makes it ours.
const LOCK_NAME: &str = "lock";

/// A directory that no other epochcache can use while this lives.
#[derive(Debug)]
pub struct ClaimedDirectory {
    /// Where it is, symbolic links resolved.
    pub path: PathBuf,
    /// Whether files in it can be read and written past the page cache.
    pub direct: bool,
    /// Size of its file system in bytes.
    pub size_bytes: u64,
    /// What an ordinary user may still take of that, in bytes.
    pub available_bytes: u64,
    /// Held, not used: the lock ends when it closes.
    _lock: Flock<File>,
}

/// Makes the directory at `path` ours, creating it (mode 0700) if its parent exists.
pub fn claim_directory(path: &Path) -> Result<ClaimedDirectory, ClaimError> {
    let failed = |action| move |error| claim_error(path, action, error);
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed("create it")(error)),
        _ => {}
    }
    let path = &path.canonicalize().map_err(failed("resolve it"))?;
    if !path.is_dir() {
        return Err(ClaimError::Kind(path.clone()));
    }
    let lock = lock(path)?;
    let space = fstatvfs(&*lock).map_err(|error| failed("ask for its free space")(error.into()))?;
    let probe = probe(path).map_err(failed("create a file in it"))?;
    let direct = is_direct(&probe).map_err(failed("try direct I/O in it"))?;
    if let Some(bytes) = direct_unit_bytes(&probe) {
        check_blocks(path, bytes)?;
    }
    Ok(ClaimedDirectory {
        path: path.clone(),
        direct,
        size_bytes: space.blocks() * space.fragment_size(),
        available_bytes: space.blocks_available() * space.fragment_size(),
        _lock: lock,
    })
}

fn lock(path: &Path) -> Result<Flock<File>, ClaimError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK_NAME))
        .map_err(|error| claim_error(path, "create its lock", error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::Error::EWOULDBLOCK)) => Err(ClaimError::Busy(path.to_owned())),
        Err((_, error)) => Err(claim_error(path, "lock it", error.into())),
    }
}

/// A file without a name, gone when closed; where there is no such thing, one that loses its name at once.
fn probe(path: &Path) -> io::Result<DeviceFile> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match open_direct(path, options.clone().custom_flags(libc::O_TMPFILE)) {
        // Linux `do_tmpfile` (fs/namei.c); EISDIR is how kernels that know no O_TMPFILE see it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let name = path.join("probe");
            let file = open_direct(&name, options.create(true))?;
            std::fs::remove_file(name)?;
            Ok(file)
        }
        other => other,
    }
}

/// Some file systems take O_DIRECT and refuse the I/O: only a write tells. No space is no refusal.
fn is_direct(probe: &DeviceFile) -> io::Result<bool> {
    let block = MmapMut::map_anon(ALIGN_BYTES)?;
    match probe.write_all_at(&block, DeviceOffset(0)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) if error.raw_os_error() != Some(libc::ENOSPC) => Err(error),
        _ => Ok(probe.is_direct()),
    }
}

/// The unit of direct I/O on `probe` in memory or on the device, whichever is larger, if the kernel
/// tells (6.1 does).
fn direct_unit_bytes(probe: &DeviceFile) -> Option<u32> {
    let file = probe.as_file()?;
    let mut statx = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty C string, and the kernel writes a statx.
    let got = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            statx.as_mut_ptr(),
        )
    };
    // SAFETY: all zeros is a valid statx, whether or not the kernel wrote to it.
    let statx = unsafe { statx.assume_init() };
    let told = got == 0 && statx.stx_mask & libc::STATX_DIOALIGN != 0;
    told.then(|| statx.stx_dio_offset_align.max(statx.stx_dio_mem_align))
}
