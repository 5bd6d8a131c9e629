//! The archive of an initramfs: cpio in the format "newc" (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! A member is a header of ASCII hex numbers, its name and its bytes, both padded to four bytes.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
/// The mode of a file that may be run and read by all.
pub const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;
const DEVICE: u32 = 0o020_600;
const HEADER_BYTES: usize = 110;

/// An archive that is being written.
pub struct Archive<W> {
    to: W,
    inode: u32,
    directories: BTreeSet<String>,
}

/// What is not the same for all members.
#[derive(Default)]
struct Member<'a> {
    mode: u32,
    device: (u32, u32),
    bytes: &'a [u8],
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub fn new(to: W) -> Self {
        Self { to, inode: 0, directories: BTreeSet::new() }
    }

    /// A file. Directories above it are added with it.
    pub fn file(&mut self, path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.directories_above(path)?;
        self.member(&name(path), &Member { mode, bytes, ..Member::default() })
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &Path, to: &Path) -> io::Result<()> {
        self.directories_above(path)?;
        self.member(&name(path), &Member { mode: SYMLINK, bytes: name_bytes(to), ..Member::default() })
    }

    /// A character device.
    pub fn device(&mut self, path: &Path, major: u32, minor: u32) -> io::Result<()> {
        self.directories_above(path)?;
        self.member(&name(path), &Member { mode: DEVICE, device: (major, minor), ..Member::default() })
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.member("TRAILER!!!", &Member::default())?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn directories_above(&mut self, path: &Path) -> io::Result<()> {
        let mut above: Vec<_> = path.ancestors().skip(1).map(name).filter(|name| !name.is_empty()).collect();
        above.reverse();
        for directory in above {
            if self.directories.insert(directory.clone()) {
                self.member(&directory, &Member { mode: DIRECTORY, ..Member::default() })?;
            }
        }
        Ok(())
    }

    fn member(&mut self, name: &str, member: &Member<'_>) -> io::Result<()> {
        self.inode += 1;
        let len = u32::try_from(member.bytes.len()).map_err(io::Error::other)?;
        let name_len = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let (major, minor) = member.device;
        write!(self.to, "070701")?;
        // Inode, mode, owner, group, links, time, length, device, device it is, length of the name, no checksum.
        for number in [self.inode, member.mode, 0, 0, 1, 0, len, 0, 0, major, minor, name_len, 0] {
            write!(self.to, "{number:08x}")?;
        }
        self.to.write_all(name.as_bytes())?;
        self.to.write_all(&b"\0\0\0\0"[..1 + padding(HEADER_BYTES + name.len() + 1)])?;
        self.to.write_all(member.bytes)?;
        self.to.write_all(&b"\0\0\0"[..padding(member.bytes.len())])
    }
}

fn padding(len: usize) -> usize {
    len.next_multiple_of(4) - len
}

/// A member's name: no slash at its beginning.
fn name(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

fn name_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, modes and bytes of an archive, read back by the format's description.
    fn members(mut archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut members = Vec::new();
        loop {
            let number = |at: usize| {
                u32::from_str_radix(std::str::from_utf8(&archive[at..at + 8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&archive[..6], b"070701");
            let (mode, len, name_len) = (number(14), number(54) as usize, number(94) as usize);
            let name = String::from_utf8(archive[110..110 + name_len - 1].to_vec()).unwrap();
            let start = (110 + name_len).next_multiple_of(4);
            let bytes = archive[start..start + len].to_vec();
            archive = &archive[(start + len).next_multiple_of(4)..];
            if name == "TRAILER!!!" {
                assert!(archive.is_empty());
                return members;
            }
            members.push((name, mode, bytes));
        }
    }

    #[test]
    fn an_archive_is_read_back_with_each_directory_once_and_before_what_is_in_it() {
        let mut archive = Archive::new(Vec::new());
        for len in 0..5 {
            archive.file(Path::new(&format!("/a/b/f{}", "x".repeat(len))), PROGRAM, &vec![7; len]).unwrap();
        }
        archive.symlink(Path::new("/init"), Path::new("/a/b/f")).unwrap();
        archive.device(Path::new("/dev/console"), 5, 1).unwrap();
        let members = members(&archive.finish().unwrap());
        let names: Vec<_> = members.iter().map(|(name, ..)| name.as_str()).collect();
        let all =
            ["a", "a/b", "a/b/f", "a/b/fx", "a/b/fxx", "a/b/fxxx", "a/b/fxxxx", "init", "dev", "dev/console"];
        assert_eq!(names, all);
        assert_eq!(members[4].2, [7, 7]);
        assert_eq!((members[7].1, members[7].2.as_slice()), (SYMLINK, b"/a/b/f".as_slice()));
    }
}
