//! What the page cache holds of a place of the store.
//!
//! The store itself reads and writes past the page cache. So this is what the kernel read by itself of backing files, to serve
//! them (passthrough), and what a file system without O_DIRECT keeps: the latter is in memory twice. It costs the daemon
//! nothing until somebody asks, and a probe on these pages would cost every page of the host.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use fuse_frontend::push::resident_bytes;

/// Files that are looked at: a hundred thousand take a second.
const FILES_MAX: usize = 100_000;

/// Pages of a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Their bytes.
    pub bytes: u64,
    /// Files that were looked at; a device is one.
    pub files: usize,
    /// There are more, which were not.
    pub in_part: bool,
}

/// Looks at all files below `place`, or at the device that it is.
///
/// # Errors
/// If it cannot be said: before Linux 6.5, or for want of rights.
pub fn of_place(place: &Path) -> io::Result<Resident> {
    let mut found = Resident::default();
    if fs::metadata(place)?.is_dir() {
        found.add_directory(place)?;
    } else {
        found.add(place)?;
    }
    Ok(found)
}

impl Resident {
    fn add_directory(&mut self, directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let added = match kind.is_dir() {
                true => self.add_directory(&entry.path()),
                false if !kind.is_file() => Ok(()),
                false if self.files == FILES_MAX => {
                    self.in_part = true;
                    return Ok(());
                }
                false => self.add(&entry.path()),
            };
            // What went away meanwhile has no pages.
            added
                .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path) -> io::Result<()> {
        self.bytes += resident_bytes(&File::open(path)?)?;
        self.files += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_all_files_below_a_place_are_summed() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let deep = place.path().join("files/7");
        fs::create_dir_all(&deep).expect("there is room");
        fs::write(place.path().join("segments"), vec![1; 100_000]).expect("there is room");
        fs::write(deep.join("1"), vec![1; 4096]).expect("there is room");
        std::os::unix::fs::symlink("/etc/passwd", deep.join("link")).expect("there is room");
        assert!(of_place(&place.path().join("none")).is_err());
        let found = match of_place(place.path()) {
            Err(error) => return println!("SKIP: no cachestat here: {error}"),
            Ok(found) => found,
        };
        assert_eq!((found.files, found.in_part), (2, false), "links are not followed");
        // Whoever drops the pages of the whole machine drops these too, once they are written.
        assert!(found.bytes <= 26 * 4096, "{found:?}");
        let dirty = deep.join("2");
        fs::write(&dirty, vec![1; 8192]).expect("there is room");
        assert_eq!(
            of_place(&dirty).expect("it could a moment ago"),
            Resident { bytes: 8192, files: 1, in_part: false }
        );
    }
}
