//! What survives the daemon's end, and how it ends.

use epochcache_tests::bed::count;
use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::Bed;
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

/// Reads an epoch; nothing may come from the origin.
fn warm_epoch(bed: &Bed, options: &[&str]) -> Outcome {
    bed.origin.reset()?;
    let mount = bed.mount(options)?;
    bed.readers(&mount)?.epoch(7)?.must_be_right(bed.files())?;
    let counters = bed.origin.counters()?;
    assert_eq!((counters.get, counters.get_bytes, counters.head), (0, 0, 0), "{counters:?}\n{}", mount.log());
    mount.unmount()
}

#[test]
fn a_killed_daemon_is_warm_and_right_when_it_comes_back() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::awkward(300), &Weather::default())?;
    let mount = bed.mount(&[])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    mount.kill()?;
    warm_epoch(&bed, &[])
}

#[test]
fn an_unmounted_daemon_is_warm_when_it_comes_back() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(300), &Weather::default())?;
    let mount = bed.mount(&[])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    mount.unmount()?;
    warm_epoch(&bed, &["--immutable"])?;
    warm_epoch(&bed, &[])
}

#[test]
fn a_daemon_killed_in_the_middle_of_an_epoch_never_serves_a_wrong_byte() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::awkward(300), &Weather { delay_ms: 10, ..Weather::default() })?;
    for round in 1..=count(3, 30) {
        let mount = bed.mount(&[])?;
        let mut readers = bed.readers(&mount)?;
        let epoch = readers.begin(round)?;
        std::thread::sleep(std::time::Duration::from_millis(150 * (round % 5 + 1)));
        mount.kill()?;
        // Files fail with ENOTCONN from here on; those that were read were right.
        let report = epoch.end()?;
        assert_eq!(report.wrong_bytes, 0, "{report:?}");
    }
    let mount = bed.mount(&[])?;
    bed.readers(&mount)?.epoch(9)?.must_be_right(bed.files())
}

#[test]
fn inode_numbers_stay_over_a_restart() -> Outcome {
    needs_fuse!();
    use std::os::unix::fs::MetadataExt;
    let bed = Bed::new(&Shape::of(60), &Weather::default())?;
    let numbers = |mount: &std::path::Path| -> anyhow::Result<Vec<u64>> {
        let files = bed.data_set.manifest.files.iter();
        files.map(|sample| Ok(std::fs::metadata(mount.join(&sample.path))?.ino())).collect()
    };
    let mount = bed.mount(&[])?;
    let before = numbers(mount.path())?;
    mount.unmount()?;
    let mount = bed.mount(&[])?;
    assert_eq!(before, numbers(mount.path())?);
    Ok(())
}

/// Files in and below `directory`, and the bytes that they take on disk.
fn files_and_bytes(directory: &std::path::Path) -> anyhow::Result<(Vec<std::path::PathBuf>, u64)> {
    use std::os::unix::fs::MetadataExt;
    let (mut files, mut bytes, mut waiting) = (Vec::new(), 0, vec![directory.to_path_buf()]);
    while let Some(next) = waiting.pop() {
        for entry in std::fs::read_dir(next)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            match metadata.is_dir() {
                true => waiting.push(entry.path()),
                false => {
                    bytes += metadata.blocks() * 512;
                    files.push(entry.path());
                }
            }
        }
    }
    files.sort();
    Ok((files, bytes))
}

#[test]
fn kill_after_kill_the_cache_stays_right_warm_and_within_its_size() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::awkward(200), &Weather { delay_ms: 2, ..Weather::default() })?;
    let sized = || bed.mount_command().cache_size("256MiB").start();
    let mut first = None;
    for round in 1..=count(8, 100) {
        let mount = sized()?;
        let mut readers = bed.readers(&mount)?;
        let epoch = readers.begin(round)?;
        std::thread::sleep(std::time::Duration::from_millis(40 + 37 * (round % 9)));
        let cache_dir = mount.cache_dir().to_path_buf();
        mount.kill()?;
        assert_eq!(epoch.end()?.wrong_bytes, 0);
        let (files, bytes) = files_and_bytes(&cache_dir)?;
        assert!(bytes <= 256 << 20, "{bytes} bytes on disk after {round} kills");
        // The checkpoint and the catalog appear in the first rounds; after that nothing may come.
        if round > 3 {
            let known = first.get_or_insert(files.len());
            assert!(files.len() <= *known + 2, "files are left behind: {files:?}");
        }
    }
    let mount = sized()?;
    bed.readers(&mount)?.epoch(1_000)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    mount.kill()?;
    bed.origin.reset()?;
    let mount = sized()?;
    bed.readers(&mount)?.epoch(1_001)?.must_be_right(bed.files())?;
    assert_eq!(bed.origin.counters()?.get, 0, "warm after the last restart");
    Ok(())
}
