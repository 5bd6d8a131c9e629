//! What lies on the disk is not what was written: damaged, or of a newer release.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::Bed;
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

/// A bed whose cache holds its whole data set, unmounted.
fn filled() -> anyhow::Result<Bed> {
    let bed = Bed::new(&Shape::of(200), &Weather::default())?;
    let mount = bed.mount(&[])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    mount.unmount()?;
    Ok(bed)
}

/// The file of the cache directory whose name begins with `name`.
fn file_of(bed: &Bed, name: &str) -> anyhow::Result<PathBuf> {
    let mut directories = vec![bed.home().join("cache")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)) {
                return Ok(path);
            }
        }
    }
    Err(anyhow::anyhow!("the cache directory has no file {name}"))
}

/// The beginning of `path`: a store's file is as large as its limit, and this much of it was written.
fn beginning(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(64 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn put_back(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    File::options().write(true).open(path)?.write_all_at(bytes, 0).context("writing the damage")
}

/// Flips a bit in every `step`-th byte of `path`, from `from` on.
fn flip_bits(path: &Path, from: usize, step: usize) -> anyhow::Result<()> {
    let mut bytes = beginning(path)?;
    for byte in bytes.iter_mut().skip(from).step_by(step) {
        *byte ^= 0x10;
    }
    put_back(path, &bytes)
}

#[test]
fn a_damaged_catalog_is_listed_again_with_a_warning() -> Outcome {
    needs_fuse!();
    for step in [1, 4099] {
        let bed = filled()?;
        flip_bits(&file_of(&bed, "catalog")?, step / 2, step)?;
        bed.origin.reset()?;
        let mount = bed.mount(&["--immutable"])?;
        bed.readers(&mount)?.epoch(2)?.must_be_right(bed.files())?;
        assert!(bed.origin.counters()?.list > 0, "a catalog that cannot be believed is listed again");
        let log = mount.log();
        assert!(
            log.lines().any(|line| line.contains("WARN") && line.contains("catalog")),
            "no warning:\n{log}"
        );
    }
    Ok(())
}

#[test]
fn bits_that_flipped_on_the_disk_are_fetched_again_and_never_served() -> Outcome {
    needs_fuse!();
    let bed = filled()?;
    // One bit in each 300 000 bytes, behind the superblocks and the segment's header: every third file or so.
    flip_bits(&file_of(&bed, "segments")?, 1_200_000, 300_000)?;
    bed.origin.reset()?;
    let mount = bed.mount(&[])?;
    bed.readers(&mount)?.epoch(2)?.must_be_right(bed.files())?;
    let gets = bed.origin.counters()?.get;
    assert!(gets > 0 && gets < bed.files() as u64, "{gets} of {} files fetched again", bed.files());
    assert!(mount.stats()?.figure("store_checksum_failures") > 0);
    Ok(())
}

#[test]
fn a_cache_of_a_newer_release_is_refused_and_left_alone() -> Outcome {
    needs_fuse!();
    let bed = filled()?;
    let path = file_of(&bed, "segments")?;
    let mut bytes = beginning(&path)?;
    let magic = b"epochst\n";
    let copies: Vec<_> = (0..bytes.len()).step_by(512).filter(|at| bytes[*at..].starts_with(magic)).collect();
    ensure!(!copies.is_empty(), "no superblock in {}", path.display());
    for at in copies {
        bytes[at + magic.len()] += 1;
    }
    put_back(&path, &bytes)?;

    let said = bed.mount_command().run()?;
    assert_eq!(said.status.code(), Some(2), "{}", said.err);
    assert_eq!(said.err.trim_end().lines().count(), 1, "{}", said.err);
    assert!(said.err.contains("version") || said.err.contains("newer"), "{}", said.err);
    assert!(beginning(&path)? == bytes, "a cache that is refused is not touched");
    Ok(())
}
