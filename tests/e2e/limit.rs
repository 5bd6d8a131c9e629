//! `--cache-size` is a hard limit, and a cache that is too small is still worth its share.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::Bed;
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

const CACHE_BYTES: u64 = 256 << 20;

/// Bytes that `directory` takes on its disk, by blocks.
fn disk_bytes(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        // Removed meanwhile.
        Err(_) => 0,
    });
    sizes.sum()
}

#[test]
fn a_data_set_three_times_the_cache_stays_within_the_limit_and_hits_a_third() -> Outcome {
    needs_fuse!();
    // Larger files than ImageNet's: the same bytes in a third of the requests.
    let shape = Shape { files: 2_300, classes: 50, mean_bytes: 340 << 10, sigma: 0.3, ..Shape::default() };
    let bed = Bed::new(&shape, &Weather::default())?;
    let total_bytes = bed.data_set.manifest.total_bytes();
    assert!(total_bytes > 3 * CACHE_BYTES - (40 << 20));
    let mount = bed.mount_command().cache_size("256MiB").start()?;

    let most = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let hits = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Relaxed) {
                most.fetch_max(disk_bytes(mount.cache_dir()), Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        let hits = shares_from_cache(&bed, &mount, total_bytes);
        over.store(true, Relaxed);
        hits
    })?;
    assert!(most.load(Relaxed) <= CACHE_BYTES, "{} bytes on disk", most.load(Relaxed));
    // Segments that are being written and headers take their part; replacing would drop to .06 (LRU).
    let share = CACHE_BYTES as f64 / total_bytes as f64;
    assert!(hits.iter().all(|hit| *hit > 0.6 * share && *hit <= 1.05 * share), "{hits:?} of {share}");
    Ok(())
}

/// Of epochs 2 and 3, the share of bytes that did not come from the origin.
fn shares_from_cache(
    bed: &Bed,
    mount: &epochcache_tests::bed::mount::Mount,
    total_bytes: u64,
) -> anyhow::Result<Vec<f64>> {
    let mut readers = bed.readers(mount)?;
    readers.epoch(1)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    let mut shares = Vec::new();
    for epoch in 2..=3 {
        drop_page_cache(mount)?;
        bed.origin.reset()?;
        readers.epoch(epoch)?.must_be_right(bed.files())?;
        shares.push(1.0 - bed.origin.counters()?.get_bytes as f64 / total_bytes as f64);
    }
    Ok(shares)
}

/// Drops the mount's pages (and only those): the page cache of a test machine would hold the whole data set.
fn drop_page_cache(mount: &epochcache_tests::bed::mount::Mount) -> anyhow::Result<()> {
    let mut directories = vec![mount.path().to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let file = std::fs::File::open(path)?;
                nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            }
        }
    }
    Ok(())
}
