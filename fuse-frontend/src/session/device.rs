//! /dev/fuse and the mount itself: by mount(2) where we may, by fusermount3 where not.
//!
//! Ours rather than fuser's for three reasons. fuser mounts as root without a subtype, so that /proc/mounts says `fuse`
//! and a dead mount could not be told to be ours. Its unmount can hit somebody else's mount (see `unmount.rs`). And a
//! session on a descriptor that we hold is the seam where our own loop goes.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::error::MountError;
use super::mountpoint::FS_TYPE;

const DEVICE: &str = "/dev/fuse";

/// The subtype, as fusermount3 takes it.
const SUBTYPE: &str = "epochcache";

/// Who mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MountedBy {
    /// We, by mount(2).
    Ourselves,
    /// fusermount3, which is setuid root.
    Fusermount,
}

/// Mounts at `path` and returns the connection's descriptor; INIT waits on it.
pub(super) fn mount(
    path: &Path,
    fs_name: &str,
    allow_other: bool,
) -> Result<(OwnedFd, MountedBy), MountError> {
    let root = nix::unistd::geteuid().is_root();
    if root {
        let device = open_device()?;
        match mount_directly(&device, path, fs_name, allow_other) {
            Ok(()) => return Ok((device.into(), MountedBy::Ourselves)),
            // Root of a container without CAP_SYS_ADMIN: fusermount3 may still be allowed to.
            Err(Errno::EPERM) => {}
            Err(errno) => return Err(MountError::Mount(io::Error::from(errno).to_string())),
        }
    } else {
        open_device()?;
        if allow_other && !user_allow_other(&std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default()) {
            return Err(MountError::AllowOther);
        }
    }
    let device = mount_by_fusermount(path, fs_name, allow_other).map_err(|error| match error {
        MountError::NoFusermount if root => MountError::NotPermitted("mount(2) gave EPERM".into()),
        error => error,
    })?;
    Ok((device, MountedBy::Fusermount))
}

fn open_device() -> Result<File, MountError> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => MountError::NoDevice,
        _ => MountError::Device(error),
    })
}

fn mount_directly(device: &File, path: &Path, fs_name: &str, allow_other: bool) -> nix::Result<()> {
    let other = if allow_other { ",allow_other" } else { "" };
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{other}",
        device.as_raw_fd(),
        nix::unistd::getuid(),
        nix::unistd::getgid(),
    );
    // Read-only also for speed: on a read-write mount every read makes the kernel's attributes stale (atime), and
    // the next fstat costs a GETATTR.
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    nix::mount::mount(Some(fs_name), path, Some(FS_TYPE), flags, Some(options.as_str()))
}

fn mount_by_fusermount(path: &Path, fs_name: &str, allow_other: bool) -> Result<OwnedFd, MountError> {
    let other = if allow_other { ",allow_other" } else { "" };
    let options =
        format!("ro,nosuid,nodev,default_permissions,subtype={SUBTYPE},fsname={}{other}", escaped(fs_name));
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Device)?;
    // The socket goes in as standard input, which a child inherits without any fcntl between fork and exec.
    let child = Command::new("fusermount3")
        .args(["-o", &options, "--"])
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .env("LC_ALL", "C")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MountError::NoFusermount,
            _ => MountError::Mount(format!("fusermount3: {error}")),
        })?;
    let received = receive_descriptor(&ours);
    let output =
        child.wait_with_output().map_err(|error| MountError::Mount(format!("fusermount3: {error}")))?;
    match received {
        Ok(Some(device)) => Ok(device),
        Ok(None) => Err(fusermount_error(String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(MountError::Mount(format!("fusermount3 sent no descriptor: {error}"))),
    }
}

fn fusermount_error(text: &str) -> MountError {
    if text.contains("user_allow_other") {
        MountError::AllowOther
    } else if text.contains("ermission denied") || text.contains("not permitted") {
        MountError::NotPermitted(text.to_owned())
    } else {
        MountError::Mount(text.to_owned())
    }
}

/// The descriptor that fusermount3 sends beside one byte; None if it closed the socket instead.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = loop {
        let received =
            recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
        match received {
            Ok(message) => break message,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just made these descriptors for us, and nobody else knows their numbers.
            return Ok(descriptors.first().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(None)
}

/// Commas separate fusermount3's options; a backslash takes their meaning.
fn escaped(fs_name: &str) -> String {
    fs_name.replace('\\', "\\\\").replace(',', "\\,")
}

/// Whether /etc/fuse.conf lets ordinary users mount with allow_other.
fn user_allow_other(conf: &str) -> bool {
    conf.lines().any(|line| line.trim() == "user_allow_other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_line_allows_allow_other() {
        assert!(user_allow_other("mount_max = 5\n  user_allow_other \n"));
        assert!(!user_allow_other("#user_allow_other\n# user_allow_other\nuser_allow_other = no\n"));
    }

    #[test]
    fn names_with_commas_and_backslashes_stay_one_option() {
        assert_eq!(escaped("s3://b/a,b\\c"), "s3://b/a\\,b\\\\c");
    }

    #[test]
    fn what_fusermount_says_becomes_advice() {
        let text =
            "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        assert!(matches!(fusermount_error(text), MountError::AllowOther));
        let text = "fusermount3: mount failed: Operation not permitted";
        assert!(matches!(fusermount_error(text), MountError::NotPermitted(_)));
    }
}
