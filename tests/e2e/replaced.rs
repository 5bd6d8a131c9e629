//! Objects that change at the origin: bytes of two versions are never mixed.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use anyhow::ensure;
use epochcache_tests::bed::data_set::{DataSet, Sample, Shape};
use epochcache_tests::bed::mount::{Bed, PATIENCE};
use epochcache_tests::bed::programs::wait_until;
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

/// One file of several chunks, its bed, and its next version.
struct Replaced {
    bed: Bed,
    old: Sample,
    new: Sample,
}

impl Replaced {
    fn new(new_bytes: u64) -> anyhow::Result<Self> {
        let shape = Shape { first_sizes: vec![6 << 20], ..Shape::of(10) };
        let bed = Bed::new(&shape, &Weather::default())?;
        let old = bed.data_set.manifest.files[0].clone();
        let new = old.replaced(new_bytes);
        Ok(Self { bed, old, new })
    }

    fn replace(&self) -> anyhow::Result<()> {
        self.bed.origin.put(DataSet::BUCKET, &DataSet::key(&self.new), &self.new.bytes())
    }

    /// Fails if the file's content, read by name, is neither version; says whether it is the new one.
    fn is_new(&self, path: &std::path::Path) -> anyhow::Result<bool> {
        match std::fs::read(path) {
            Ok(bytes) if self.new.wrong_bytes(&bytes) == 0 => Ok(true),
            Ok(bytes) => {
                ensure!(
                    self.old.wrong_bytes(&bytes) == 0,
                    "{} bytes that are neither version's",
                    bytes.len()
                );
                Ok(false)
            }
            // Between the moment of the change and its discovery.
            Err(error) if is_stale(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Whether a read was answered ESTALE. Up to 6.18 the page cache hands that on as it is; a later one may say EIO for every
/// failed read (7.3 does), as docs/kernels.md says.
pub(crate) fn is_stale(error: &io::Error) -> bool {
    match error.raw_os_error() {
        Some(nix::libc::ESTALE) => true,
        Some(nix::libc::EIO) => kernel_release() > (6, 18),
        _ => false,
    }
}

pub(crate) fn kernel_release() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Reads `file` in pieces: each is the old version's, or the answer is ESTALE.
fn old_or_stale(file: &File, old: &[u8]) -> anyhow::Result<()> {
    let mut piece = vec![0; 64 << 10];
    for offset in (0..old.len()).step_by(piece.len()) {
        match file.read_at(&mut piece, offset as u64) {
            Ok(read) => {
                ensure!(read == piece.len().min(old.len() - offset), "{read} bytes at {offset}");
                ensure!(
                    piece[..read] == old[offset..offset + read],
                    "not the old version's bytes at {offset}"
                );
            }
            Err(error) if is_stale(&error) => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("at {offset}: {error}")).into()),
        }
    }
    Ok(())
}

fn under_an_open_file(serve: &str, new_bytes: u64) -> Outcome {
    needs_fuse!();
    let replaced = Replaced::new(new_bytes)?;
    let mount = replaced.bed.mount(&["--serve", serve, "--revalidate", "1s"])?;
    let path = mount.path().join(&replaced.old.path);
    let old = replaced.old.bytes();

    let open = File::open(&path)?;
    let number = open.metadata()?.ino();
    let mut first = vec![0; 64 << 10];
    open.read_exact_at(&mut first, 0)?;
    assert_eq!(first, old[..64 << 10]);

    replaced.replace()?;
    old_or_stale(&open, &old)?;
    wait_until(PATIENCE, "the name shows the new version", || replaced.is_new(&path))?;
    // What was read before is still the old version's, and no new byte has come under the old descriptor.
    old_or_stale(&open, &old)?;
    let metadata = std::fs::metadata(&path)?;
    assert_eq!(metadata.len(), new_bytes);
    assert_ne!(metadata.ino(), number, "a node id names a version");
    assert_eq!(open.metadata()?.len(), old.len() as u64, "a size never changes under a node id");
    Ok(())
}

#[test]
fn an_object_replaced_under_an_open_file_is_never_mixed_without_opens() -> Outcome {
    under_an_open_file("noopen", 6 << 20)
}

#[test]
fn an_object_replaced_under_an_open_file_is_never_mixed_with_opens() -> Outcome {
    under_an_open_file("open", 6 << 20)
}

#[test]
fn an_object_that_shrinks_under_an_open_file_keeps_its_size_there() -> Outcome {
    under_an_open_file("noopen", 100_000)
}

#[test]
fn an_object_replaced_before_it_was_ever_read_is_found_out_by_its_first_reader() -> Outcome {
    needs_fuse!();
    let replaced = Replaced::new((6 << 20) + 77)?;
    // Nobody revalidates in time: only If-Match can tell.
    let mount = replaced.bed.mount(&["--revalidate", "1h"])?;
    let path = mount.path().join(&replaced.old.path);
    replaced.replace()?;
    wait_until(PATIENCE, "the name shows the new version", || replaced.is_new(&path))?;
    assert!(replaced.bed.origin.counters()?.precondition_failed > 0);
    Ok(())
}

#[test]
fn objects_that_come_and_go_are_seen_after_revalidation() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(40), &Weather::default())?;
    let mount = bed.mount(&["--revalidate", "1s"])?;
    let gone = &bed.data_set.manifest.files[3];
    let come = Sample { path: "fresh/one.JPEG".to_owned(), ..gone.replaced(5_000) };
    assert!(mount.path().join(&gone.path).exists());
    assert!(!mount.path().join(&come.path).exists(), "and the kernel may remember that");

    bed.origin.delete(DataSet::BUCKET, &DataSet::key(gone))?;
    bed.origin.put(DataSet::BUCKET, &DataSet::key(&come), &come.bytes())?;
    wait_until(Duration::from_secs(30), "the listing is revalidated", || {
        Ok(mount.path().join(&come.path).exists() && !mount.path().join(&gone.path).exists())
    })?;
    assert_eq!(come.wrong_bytes(&std::fs::read(mount.path().join(&come.path))?), 0);
    Ok(())
}
