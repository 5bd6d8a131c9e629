//! Shuffled epochs of eight processes: every byte, and what they cost in requests.

use epochcache_tests::bed::count;
use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::Bed;
use epochcache_tests::bed::reader::{Access, Readers};
use epochcache_tests::bed::s3::Weather;

use crate::pushed::undisturbed;
use crate::{Outcome, needs_fuse};

/// Cold and warm, every way of reading, files of every awkward size.
fn every_byte(serve: &str) -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::awkward(count(150, 3_000)), &Weather::default())?;
    for access in Access::OF_FILES {
        let cold = bed.mount_command();
        let _ = std::fs::remove_dir_all(&cold.cache_dir);
        let mount = cold.options(&["--serve", serve]).start()?;
        let mut readers = Readers::start(&bed.reading(mount.path()).with(access))?;
        for epoch in 1..=count(3, 10) {
            readers.epoch(epoch)?.must_be_right(bed.files())?;
        }
        drop(readers);
        mount.unmount()?;
    }
    Ok(())
}

#[test]
fn every_byte_is_right_without_opens() -> Outcome {
    every_byte("noopen")
}

#[test]
fn every_byte_is_right_with_opens() -> Outcome {
    every_byte("open")
}

#[test]
fn a_cold_epoch_sends_one_get_a_file_and_no_head_and_keeps_eight_in_flight() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(400), &Weather { delay_ms: 15, ..Weather::default() })?;
    let mount = bed.mount(&["--serve", "noopen", "--prefetch", "off"])?;
    let listed = bed.origin.counters()?;
    assert_eq!((listed.get, listed.head), (0, 0), "{listed:?}");

    bed.origin.reset()?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    let cold = bed.origin.counters()?;
    assert_eq!((cold.get, cold.head, cold.unconditional), (400, 0, 0), "{cold:?}");
    assert_eq!(cold.get_bytes, bed.data_set.manifest.total_bytes());
    assert_eq!(cold.gets_in_flight_max, 8, "{cold:?}");

    bed.origin.reset()?;
    let mut readers = bed.readers(&mount)?;
    for epoch in 2..=3 {
        readers.epoch(epoch)?.must_be_right(bed.files())?;
    }
    let warm = bed.origin.counters()?;
    assert_eq!((warm.get, warm.head, warm.get_bytes), (0, 0, 0), "{warm:?}");
    Ok(())
}

#[test]
fn after_one_listing_a_warm_epoch_without_opens_asks_the_daemon_nothing() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(300), &Weather::default())?;
    let mount = bed.mount(&["--serve", "noopen"])?;
    walk(mount.path())?;
    let mut readers = bed.readers(&mount)?;
    readers.epoch(1)?.must_be_right(bed.files())?;

    let mut epoch = 1;
    let (before, after) = undisturbed(|| {
        epoch += 1;
        // Warms what another test's drop of all page caches took.
        readers.epoch(epoch)?.must_be_right(bed.files())?;
        let before = mount.stats()?;
        epoch += 1;
        readers.epoch(epoch)?.must_be_right(bed.files())?;
        Ok((before, mount.stats()?))
    })?;
    for request in ["fuse_lookup", "fuse_open", "fuse_getattr", "fuse_release"] {
        assert_eq!(after.grown(&before, request), 0, "{request}");
    }
    // The kernel may drop pages when it needs memory, and then asks again.
    let reads = after.grown(&before, "fuse_read");
    assert!(reads * 20 <= bed.files() as u64, "{reads} READs for {} files in the page cache", bed.files());
    Ok(())
}

/// Lists every directory and stats every file, as `find -ls` does.
fn walk(directory: &std::path::Path) -> anyhow::Result<usize> {
    let mut files = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        files += if entry.metadata()?.is_dir() { walk(&entry.path())? } else { 1 };
    }
    Ok(files)
}

#[test]
fn nothing_can_be_written() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(20), &Weather::default())?;
    let mount = bed.mount(&[])?;
    let file = mount.path().join(&bed.data_set.manifest.files[0].path);
    let attempts: [std::io::Result<()>; 6] = [
        std::fs::write(mount.path().join("new"), b"x"),
        std::fs::write(&file, b"x"),
        std::fs::remove_file(&file),
        std::fs::rename(&file, mount.path().join("moved")),
        std::fs::create_dir(mount.path().join("dir")),
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o777)),
    ];
    for (number, attempt) in attempts.into_iter().enumerate() {
        let error = attempt.expect_err("the mount is read-only").raw_os_error();
        assert_eq!(error, Some(nix::libc::EROFS), "attempt {number}");
    }
    bed.readers(&mount)?.epoch(1)?.must_be_right(20)
}
