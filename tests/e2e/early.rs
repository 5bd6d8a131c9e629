//! `--mount-early`, and the ways to drive a device: the same bytes.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, is_mounted};
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

#[test]
fn a_mount_before_its_listing_lets_readers_wait_and_then_shows_everything() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(50), &Weather { delay_ms: 800, ..Weather::default() })?;
    let seen_early = AtomicBool::new(false);
    let started = AtomicBool::new(false);
    let mountpoint = bed.home().join("mnt");
    let mount = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !started.load(Relaxed) {
                seen_early.fetch_or(is_mounted(&mountpoint), Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let mount = bed.mount(&["--mount-early"]);
        started.store(true, Relaxed);
        mount
    })?;
    bed.origin.set_weather(&Weather::default())?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    assert!(seen_early.load(Relaxed), "it was mounted before it was listed");
    mount.unmount()
}

#[test]
fn every_way_to_drive_the_disk_gives_the_same_bytes() -> Outcome {
    needs_fuse!();
    for options in [&["--engine", "psync"][..], &["--engine", "io_uring"], &["--sqpoll"]] {
        let bed = Bed::new(&Shape::awkward(60), &Weather::default())?;
        for epoch in 1..=2 {
            let mount = bed.mount(options)?;
            bed.readers(&mount)?.epoch(epoch)?.must_be_right(bed.files())?;
            mount.unmount()?;
        }
        assert!(bed.origin.counters()?.get <= 60, "{options:?}: the second epoch came from the store");
    }
    Ok(())
}
