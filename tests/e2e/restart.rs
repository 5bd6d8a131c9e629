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
