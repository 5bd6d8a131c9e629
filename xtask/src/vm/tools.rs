//! Programs of the host that tests call, with the libraries that they and ours need: the guest has no distribution.
//!
//! One that the host lacks is left out, and the tests that need it say that they skip, as they do on the host.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What tests run that is not ours.
const TOOLS: &[&str] = &[
    "cat",
    "chmod",
    "cp",
    "env",
    "fusermount3",
    "losetup",
    "mkfs.ext2",
    "mkfs.ext4",
    "mkfs.vfat",
    "mkfs.xfs",
    "mknod",
    "mkswap",
    "mktemp",
    "mount",
    "rm",
    "setpriv",
    "sh",
    "umount",
    "unshare",
];

const DIRECTORIES: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// A file of the host, at the same place in the guest.
pub struct HostFile {
    /// There and here.
    pub path: PathBuf,
    /// With its set-user-id bit, which fusermount3 needs.
    pub mode: u32,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// The tools, and their libraries and those of `ours`, each once.
pub fn collect<'a>(ours: impl Iterator<Item = &'a Path>) -> io::Result<Vec<HostFile>> {
    let mut paths = BTreeSet::new();
    for program in ours {
        paths.extend(libraries(program)?);
    }
    for tool in TOOLS {
        let candidates = DIRECTORIES.iter().map(|directory| Path::new(directory).join(tool));
        if let Some(path) = candidates.into_iter().find(|path| path.is_file()) {
            paths.extend(libraries(&path)?);
            paths.insert(path);
        }
    }
    let file = |path: PathBuf| {
        let mode = 0o100_000 | (fs::metadata(&path)?.permissions().mode() & 0o7777);
        Ok(HostFile { mode, bytes: fs::read(&path)?, path })
    };
    paths.into_iter().map(file).collect()
}

/// The libraries of a program and its loader, as the host's own loader finds them.
fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let said = Command::new("ldd").arg(program).output()?;
    Ok(parse_ldd(&String::from_utf8_lossy(&said.stdout)))
}

/// Lines of ldd: `name => /path (0x...)`, and for the loader `/path (0x...)`.
fn parse_ldd(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_and_what_has_no_file_is_not() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld-linux.so.2 (0x7f)\n";
        assert_eq!(parse_ldd(text), [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld-linux.so.2")]);
        assert!(parse_ldd("\tstatically linked\n").is_empty());
    }
}
