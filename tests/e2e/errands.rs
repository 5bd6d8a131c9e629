//! What `cachectl` sends the daemon to do: verify finds exactly what is damaged, drop forgets exactly what it is told.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use epochcache_tests::bed::data_set::{DataSet, Sample, Shape};
use epochcache_tests::bed::mount::{Bed, Mount, cachectl};
use epochcache_tests::bed::s3::Weather;
use serde_json::Value;

use crate::{Outcome, needs_fuse};

/// A mount with its whole data set stored.
fn filled(files: usize) -> anyhow::Result<(Bed, Mount)> {
    let bed = Bed::new(&Shape::of(files), &Weather::default())?;
    let mount = bed.mount(&[])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    Ok((bed, mount))
}

/// The last object that `cachectl ARGUMENTS --json MOUNTPOINT` prints, and its exit code.
fn said(arguments: &[&str], mount: &Mount) -> anyhow::Result<(Value, Option<i32>)> {
    let said = cachectl(arguments, mount.path())?;
    let last = said.out.lines().last().unwrap_or_default();
    Ok((serde_json::from_str(last)?, said.status.code()))
}

/// Where the first 4 KiB of `sample`'s bytes lie in the cache directory's segments.
fn find(mount: &Mount, sample: &Sample) -> anyhow::Result<u64> {
    let segments = std::fs::read(mount.cache_dir().join("segments"))?;
    let wanted = &sample.bytes()[..64];
    let at = segments.windows(64).position(|window| window == wanted);
    at.map(|at| at as u64).ok_or_else(|| anyhow::anyhow!("{} is not in the segments", sample.path))
}

#[test]
fn verify_finds_nothing_wrong_with_a_store_that_is_right() -> Outcome {
    needs_fuse!();
    let (bed, mount) = filled(60)?;
    let (progress, code) = said(&["verify", "--json"], &mount)?;
    assert_eq!((progress["done"].as_bool(), code), (Some(true), Some(0)), "{progress}");
    assert_eq!(progress["bad_extents"], 0);
    assert_eq!(progress["bytes"].as_u64(), Some(bed.data_set.manifest.total_bytes()));
    Ok(())
}

#[test]
fn verify_finds_every_damaged_object_and_only_those_are_fetched_again() -> Outcome {
    needs_fuse!();
    let (bed, mount) = filled(60)?;
    let samples = &bed.data_set.manifest.files;
    let damaged: Vec<&Sample> = samples.iter().filter(|sample| sample.size_bytes >= 64).take(5).collect();
    for sample in &damaged {
        let at = find(&mount, sample)? + 17;
        let segments = File::options().read(true).write(true).open(mount.cache_dir().join("segments"))?;
        let mut byte = [0];
        segments.read_exact_at(&mut byte, at)?;
        segments.write_all_at(&[byte[0] ^ 1], at)?;
        segments.sync_all()?;
    }
    let (progress, code) = said(&["verify", "--json"], &mount)?;
    assert_eq!((progress["bad_extents"].as_u64(), code), (Some(5), Some(1)), "{progress}");

    bed.origin.reset()?;
    cold_page_cache(&mount)?;
    bed.readers(&mount)?.epoch(2)?.must_be_right(bed.files())?;
    assert_eq!(bed.origin.counters()?.get, 5, "what was damaged, and nothing else");
    Ok(())
}

#[test]
fn verify_reads_backing_files_too_and_the_object_of_a_damaged_one_is_fetched_again() -> Outcome {
    needs_fuse!();
    let shape = Shape { first_sizes: vec![5 << 20, (12 << 20) + 4097], ..Shape::of(10) };
    let bed = Bed::new(&shape, &Weather::default())?;
    // Without passthrough, so that what is asked for is asked of the store.
    let mount = bed.mount(&["--serve", "noopen"])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    let total = bed.data_set.manifest.total_bytes();
    let hits = mount.stats()?.figure("store_hits");
    let (progress, code) = said(&["verify", "--json"], &mount)?;
    assert_eq!((progress["bytes"].as_u64(), code), (Some(total), Some(0)), "{progress}");

    let file = File::options().read(true).write(true).open(backing_file(&mount, (12 << 20) + 4097)?)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 7 << 20)?;
    file.write_all_at(&[byte[0] ^ 1], 7 << 20)?;
    file.sync_all()?;
    let (progress, code) = said(&["verify", "--json"], &mount)?;
    assert_eq!((progress["bad_extents"].as_u64(), code), (Some(1), Some(1)), "{progress}");
    assert_eq!(progress["bytes"], progress["total_bytes"], "what is damaged and gone counts as done");
    assert_eq!(mount.stats()?.figure("store_hits"), hits, "nobody has read");

    bed.origin.reset()?;
    cold_page_cache(&mount)?;
    bed.readers(&mount)?.epoch(2)?.must_be_right(bed.files())?;
    assert_eq!(bed.origin.counters()?.get_bytes, (12 << 20) + 4097, "the damaged object, and nothing else");
    Ok(())
}

/// The backing file of the object of `bytes`.
fn backing_file(mount: &Mount, bytes: u64) -> anyhow::Result<PathBuf> {
    for directory in std::fs::read_dir(mount.cache_dir().join("files"))? {
        for file in std::fs::read_dir(directory?.path())? {
            let file = file?;
            if file.metadata()?.len() == bytes {
                return Ok(file.path());
            }
        }
    }
    anyhow::bail!("no object of {bytes} bytes has a backing file")
}

#[test]
fn what_is_dropped_is_fetched_again_and_the_rest_is_not() -> Outcome {
    needs_fuse!();
    let (bed, mount) = filled(60)?;
    let samples = &bed.data_set.manifest.files;
    let class = samples[0].path.split('/').next().expect("a class directory");
    let below = |sample: &&Sample| sample.path.starts_with(&format!("{class}/")) && sample.size_bytes > 0;
    let dropped = samples.iter().filter(below).count() as u64;
    let target = mount.path().join(class);
    let said = cachectl(&["drop", "--json"], &target)?;
    let answer: Value = serde_json::from_str(said.out.trim())?;
    assert_eq!(answer["objects"].as_u64(), Some(dropped), "{said:?}");

    bed.origin.reset()?;
    cold_page_cache(&mount)?;
    bed.readers(&mount)?.epoch(2)?.must_be_right(bed.files())?;
    assert_eq!(bed.origin.counters()?.get, dropped);

    let said = cachectl(&["drop"], &mount.path().join("no/such/path"))?;
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    assert!(said.err.contains("no such file"), "{said:?}");
    Ok(())
}

/// Makes the kernel forget the mount's pages, file by file: others' page cache is left alone.
fn cold_page_cache(mount: &Mount) -> Outcome {
    use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
    let mut directories = vec![mount.path().to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else {
                let file = File::open(entry.path())?;
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_drop_of_everything_leaves_nothing_stored() -> Outcome {
    needs_fuse!();
    let (bed, mount) = filled(30)?;
    let (answer, code) = said(&["drop", "--json"], &mount)?;
    assert_eq!(code, Some(0), "{answer}");
    assert_eq!(mount.stats()?.figure("store_extents"), 0);
    assert!(bed.origin.counters()?.get >= 30, "of bucket {}", DataSet::BUCKET);
    Ok(())
}
