//! Mounts as `/proc/self/mountinfo` tells them (proc(5)): what is mounted where, and dead mounts.
//!
//! Read as text and never by stat: a stat of a mount whose daemon hangs would hang too.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// The file system type that our mounts show: FUSE with our subtype.
pub const FUSE_TYPE: &str = "fuse.epochcache";

/// One line of mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// `major:minor` of the device.
    pub device: String,
    /// ext4, xfs, fuse.epochcache.
    pub fs_type: String,
    /// What is mounted: a device, or what a FUSE daemon said.
    pub source: String,
    /// Options of the mount and of the file system, comma-separated.
    pub options: String,
}

impl Mount {
    /// Whether a daemon in user space serves it, of whatever kind.
    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type == "fuseblk" || self.fs_type.starts_with("fuse.")
    }
}

/// The mounts of this process's namespace, in the order in which they were made.
pub fn mounts() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Parses mountinfo; lines that make no sense are left out.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// `36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    // Behind the six fields that each line has, of which the mountpoint may be called anything.
    let dash = 6 + fields.get(6..)?.iter().position(|field| *field == b"-")?;
    let text = |index: usize| Some(String::from_utf8_lossy(fields.get(index)?).into_owned());
    let unescaped = |index: usize| Some(OsString::from_vec(unescape(fields.get(index)?)));
    Some(Mount {
        device: text(2)?,
        mountpoint: unescaped(4)?.into(),
        fs_type: text(dash + 1)?,
        source: unescaped(dash + 2)?.to_string_lossy().into_owned(),
        options: format!("{},{}", text(5)?, text(dash + 3)?),
    })
}

/// Undoes the kernel's `\040` for a blank, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    let is_octal = |digits: &[u8]| digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| first == b'\\' && is_octal(digits));
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    out
}

/// What is mounted at `path` exactly: the last one wins, as for the kernel.
pub fn mounted_at<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().rev().find(|mount| mount.mountpoint == path)
}

/// The mount that `path` lies in.
pub fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let depth = |mount: &&Mount| mount.mountpoint.components().count();
    // max_by_key gives the last of equals, which lies on top.
    mounts.iter().filter(|mount| path.starts_with(&mount.mountpoint)).max_by_key(depth)
}

/// Whether a mount has its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It answers.
    Alive,
    /// Its daemon is gone: "Transport endpoint is not connected".
    Dead,
}

/// Whether the mount at `path` answers. May wait as long as its daemon does.
///
/// Asks with statfs(2), the one call that the kernel never answers from a cache: attributes outlive the daemon.
pub fn life(path: &Path) -> io::Result<Life> {
    match nix::sys::statfs::statfs(path) {
        Ok(_) => Ok(Life::Alive),
        // ECONNABORTED: the connection was aborted by hand (/sys/fs/fuse/connections/N/abort).
        Err(Errno::ENOTCONN | Errno::ECONNABORTED | Errno::ENODEV) => Ok(Life::Dead),
        Err(errno) => Err(errno.into()),
    }
}

/// Detaches the mount at `path` now; what is open there goes on until it is closed.
///
/// Root does it itself, an ordinary user through fusermount3.
pub fn detach(path: &Path) -> io::Result<()> {
    match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Err(Errno::EPERM) => {}
        other => return Ok(other?),
    }
    let output =
        Command::new("fusermount3").arg("-u").arg("-z").arg("--").arg(path).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::other("fusermount3 is missing: install the package fuse3"))
        }
        Err(error) => Err(error),
    }
}

/// The absolute path of `path` without symlinks, also when it is a dead mount itself.
///
/// Only the parent is resolved when the path itself cannot be: the kernel refuses to look into a dead mount.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            let absolute = std::path::absolute(path)?;
            let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
                return Err(error);
            };
            Ok(parent.canonicalize()?.join(name))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p1 rw\n\
        40 22 0:30 / /tmp rw - tmpfs tmpfs rw,size=1024k\n\
        70 22 0:50 / /mnt/my\\040data ro,nosuid,nodev - fuse.epochcache s3://b/p ro,user_id=0\n\
        71 22 259:2 / /nvme rw - xfs /dev/nvme1n1 rw\n\
        72 71 259:3 / /nvme rw - ext4 /dev/nvme2n1 rw\n\
        garbage\n";

    #[test]
    fn blanks_in_a_mountpoint_are_unescaped_and_garbage_is_left_out() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.len(), 5);
        let ours = mounted_at(&mounts, Path::new("/mnt/my data")).expect("it is in the text");
        assert_eq!((ours.fs_type.as_str(), ours.source.as_str()), (FUSE_TYPE, "s3://b/p"));
        assert_eq!(mounted_at(&mounts, Path::new("/mnt")), None);
    }

    #[test]
    fn a_path_lies_in_the_deepest_mount_and_the_topmost_of_two() {
        let mounts = parse(TEXT);
        let source = |path: &str| mount_of(&mounts, Path::new(path)).map(|mount| mount.source.as_str());
        assert_eq!(source("/nvme/cache"), Some("/dev/nvme2n1"));
        assert_eq!(source("/nvmex"), Some("/dev/nvme0n1p1"));
    }

    #[test]
    fn a_mount_called_like_the_separator_is_no_separator() {
        let mounts = parse(b"22 1 0:5 - - rw - tmpfs none rw\n22 1 0:5 / /mnt\n");
        assert_eq!(mounts.len(), 1);
        assert_eq!((mounts[0].mountpoint.as_path(), &*mounts[0].fs_type), (Path::new("-"), "tmpfs"));
    }

    /// As the kernel escapes (fs/proc_namespace.c, show_mountinfo: mangle of blank, tab, newline, backslash, #).
    fn escape(path: &[u8]) -> Vec<u8> {
        let escaped = |&byte: &u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
            other => vec![other],
        };
        path.iter().flat_map(escaped).collect()
    }

    proptest::proptest! {
        #[test]
        fn every_mountpoint_comes_back_as_it_was(name in proptest::collection::vec(1_u8.., 0..40)) {
            let line = [b"1 2 0:3 / /", &escape(&name)[..], b" rw - fuse.epochcache s3://b rw\n"].concat();
            let mountpoint = PathBuf::from(OsString::from_vec([b"/", &name[..]].concat()));
            proptest::prop_assert_eq!(&parse(&line)[0].mountpoint, &mountpoint);
        }

        #[test]
        fn no_text_is_too_strange(text in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            parse(&text);
        }
    }

    /// A mount at `path` whose daemon died before it said a word; `None` where mounting is not allowed.
    fn dead_mount(path: &Path) -> Option<()> {
        use std::os::fd::AsRawFd;
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let flags = nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV;
        nix::mount::mount(Some("s3://gone"), path, Some(FUSE_TYPE), flags, Some(options.as_str())).ok()
    }

    #[test]
    fn a_dead_mount_is_known_as_one_and_is_detached() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().canonicalize().expect("it was just made");
        if dead_mount(&path).is_none() {
            eprintln!("skipped: mounting needs root and /dev/fuse");
            return;
        }
        let is_mounted = || mounted_at(&mounts().expect("/proc is there"), &path).cloned();
        let found = (is_mounted(), life(&path).ok(), resolve(&path).ok());
        let detached = detach(&path);
        // Nothing is asserted before the mount is gone: a failure must not leave it behind.
        detached.expect("root may");
        let mount = found.0.expect("it was mounted");
        assert_eq!((mount.fs_type.as_str(), mount.source.as_str()), (FUSE_TYPE, "s3://gone"));
        assert_eq!((found.1, found.2), (Some(Life::Dead), Some(path.clone())));
        assert_eq!((is_mounted(), life(&path).ok()), (None, Some(Life::Alive)));
    }

    #[test]
    fn a_backslash_that_escapes_nothing_stays() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\+12"), b"\\+12", "an integer may have a sign, an escape not");
        assert_eq!(unescape(b"\\134x\\011"), b"\\x\t");
    }
}
