//! Ending a mount: unmount(2) if we may, fusermount3 if not, by force if readers hold on.
//!
//! A file system with open files cannot be unmounted, only *detached* (it leaves the tree, its readers go on until
//! they close). Readers that wait for an answer which never comes would wait for ever, so a forced end also
//! *aborts* the connection: every pending and every later request fails (ECONNABORTED, ENOTCONN) and the serving
//! threads end. Not left to fuser, which asks for the wrong answer of poll(2) whether it is still mounted and so
//! can unmount whatever was mounted in our place since.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// Why an orderly unmount did not happen.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Files are open, or a process works in there.
    Busy,
    /// Nothing is mounted there.
    NotMounted,
    /// Anything else.
    Other(io::Error),
}

/// Unmounts what is on top at `path`, if nobody uses it.
pub(super) fn orderly(path: &Path) -> Result<(), Refusal> {
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(Refusal::Busy),
        Err(Errno::EINVAL) => Err(Refusal::NotMounted),
        Err(Errno::EPERM) => fusermount(path, &["-u"]).map_err(|error| match error.to_string() {
            text if text.contains("busy") => Refusal::Busy,
            text if text.contains("not found") || text.contains("not mounted") => Refusal::NotMounted,
            _ => Refusal::Other(error),
        }),
        Err(errno) => Err(Refusal::Other(errno.into())),
    }
}

/// Takes what is on top at `path` out of the tree, used or not.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => fusermount(path, &["-u", "-z"]),
        Err(errno) => Err(errno.into()),
    }
}

/// As [`detach`], and aborts the connection where that is permitted; whether it was.
pub(super) fn force(path: &Path, minor: u32) -> io::Result<bool> {
    let aborted = abort(minor);
    // MNT_FORCE aborts a FUSE connection as well, and needs no fusectl mount.
    match umount2(path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_FORCE | MntFlags::MNT_DETACH) {
        Ok(()) => Ok(true),
        Err(Errno::EPERM) => fusermount(path, &["-u", "-z"]).map(|()| aborted),
        Err(errno) => Err(errno.into()),
    }
}

/// Aborts the connection of the mount with this minor device number, by fusectl: the file belongs to the user
/// who mounted. False where fusectl is not mounted.
pub(super) fn abort(minor: u32) -> bool {
    std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1").is_ok()
}

fn fusermount(path: &Path, arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("fusermount3")
        .args(arguments)
        .arg("--")
        .arg(path)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}
