//! /proc/self/mountinfo: what is mounted where, without touching the file systems themselves.
//!
//! Asking the mountpoint itself would do for a healthy mount. A dead FUSE mount answers stat(2) from its cached
//! attributes for as long as their TTL lasts (ours: hours), and one whose daemon hangs does not answer at all.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One line of mountinfo, as far as it matters here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MountLine {
    pub major: u32,
    pub minor: u32,
    pub mountpoint: PathBuf,
    /// With the subtype: `fuse.epochcache`.
    pub fs_type: String,
    /// What was mounted: for a mount of ours the origin.
    pub source: String,
}

impl MountLine {
    /// Whether this is a FUSE mount of any daemon's.
    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type == "fuseblk" || self.fs_type.starts_with("fuse.")
    }

    /// The device number as stat(2) shows it.
    pub fn device(&self) -> u64 {
        libc::makedev(self.major, self.minor)
    }
}

/// The topmost mount at `path`, which is canonical.
pub(super) fn topmost(path: &Path) -> io::Result<Option<MountLine>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&text).rfind(|line| line.mountpoint == path))
}

/// Whether the mount with device number `device` is on top at `path`, and whether it is there at all.
pub(super) fn at(path: &Path, device: u64) -> io::Result<(bool, bool)> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    let here: Vec<_> =
        parse(&text).filter(|line| line.mountpoint == path).map(|line| line.device()).collect();
    Ok((here.last() == Some(&device), here.contains(&device)))
}

/// Lines that are not understood are passed over: a mount that we cannot read is not ours.
fn parse(text: &[u8]) -> impl DoubleEndedIterator<Item = MountLine> + '_ {
    text.split(|&byte| byte == b'\n').filter_map(parse_line)
}

/// `36 35 98:0 /root /mount/point opts [optional...] - type source super-opts`, proc(5).
fn parse_line(line: &[u8]) -> Option<MountLine> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mountpoint = fields.nth(1)?;
    let mut after_dash = fields.skip_while(|field| *field != b"-").skip(1);
    Some(MountLine {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        mountpoint: unescape(mountpoint).into(),
        fs_type: String::from_utf8(after_dash.next()?.to_vec()).ok()?,
        source: unescape(after_dash.next()?).to_string_lossy().into_owned(),
    })
}

/// Blank, tab, newline and backslash are written as `\` and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// `path` without symlinks, asking everything but the last component: the mount there may be dead.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    // Only the link itself is read, never what is mounted on it.
    if std::fs::read_link(&absolute).is_ok() {
        return absolute.canonicalize();
    }
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) if name.as_bytes() != b".." => Ok(parent.canonicalize()?.join(name)),
        _ => absolute.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
40 22 0:51 / /mnt/a\\040b ro,nosuid master:3 shared:9 - fuse.epochcache s3://b/p\\134x ro,user_id=0\n\
41 40 0:52 / /mnt/a\\040b ro - tmpfs none rw\n\
garbage\n";

    #[test]
    fn a_line_is_read_past_its_optional_fields_and_escapes() {
        let lines: Vec<_> = parse(TEXT).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1].mountpoint, Path::new("/mnt/a b"));
        assert_eq!((lines[1].fs_type.as_str(), lines[1].source.as_str()), ("fuse.epochcache", "s3://b/p\\x"));
        assert!(lines[1].is_fuse() && !lines[2].is_fuse());
        assert_eq!((lines[1].major, lines[1].minor), (0, 51));
    }

    #[test]
    fn the_last_mount_at_a_path_is_the_topmost() {
        let top = parse(TEXT).rfind(|line| line.mountpoint == Path::new("/mnt/a b"));
        assert_eq!(top.map(|line| line.fs_type), Some("tmpfs".into()));
    }

    #[test]
    fn a_path_is_resolved_without_asking_its_last_component() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().canonicalize().expect("it exists").join("real");
        std::fs::create_dir(&real).expect("a fresh name");
        std::os::unix::fs::symlink(&real, dir.path().join("link")).expect("a fresh name");
        assert_eq!(resolve(&dir.path().join("link")).expect("a link to a directory"), real);
        assert_eq!(resolve(&dir.path().join("real")).expect("a directory"), real);
    }
}
