//! An origin with bad days: readers get the right bytes, or EIO after the deadline, and never wait for ever.

use epochcache_tests::bed::count;
use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::Bed;
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

/// Mounts and reads an epoch in this weather: every byte is right, no file fails.
fn an_epoch_in(weather: &Weather, files: usize) -> anyhow::Result<Bed> {
    let bed = Bed::new(&Shape::awkward(files), weather)?;
    let mount = bed.mount(&[])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(files)?;
    mount.unmount()?;
    Ok(bed)
}

#[test]
fn one_request_in_five_fails() -> Outcome {
    needs_fuse!();
    let bed = an_epoch_in(&Weather { fail_share: 0.2, ..Weather::default() }, count(200, 4_000))?;
    assert!(bed.origin.counters()?.injected_503 > 20);
    Ok(())
}

#[test]
fn one_body_in_five_is_truncated() -> Outcome {
    needs_fuse!();
    let bed = an_epoch_in(&Weather { truncate_share: 0.2, ..Weather::default() }, count(200, 4_000))?;
    assert!(bed.origin.counters()?.injected_truncated > 20);
    Ok(())
}

#[test]
fn some_bodies_stall_for_ten_seconds() -> Outcome {
    needs_fuse!();
    let bed = an_epoch_in(&Weather { stall_share: 0.1, stall_ms: 10_000, ..Weather::default() }, 60)?;
    assert!(bed.origin.counters()?.injected_stalled > 1);
    Ok(())
}

#[test]
fn an_origin_that_is_down_gives_eio_after_the_deadline_and_what_is_cached_meanwhile() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(24), &Weather::default())?;
    let mount = bed.mount(&["--origin-deadline", "2s"])?;
    let files = &bed.data_set.manifest.files;
    let read = |number: usize| std::fs::read(mount.path().join(&files[number].path));
    for (number, sample) in files.iter().enumerate().take(8) {
        assert_eq!(sample.wrong_bytes(&read(number)?), 0);
    }

    bed.origin.set_weather(&Weather { fail_share: 1.0, ..Weather::default() })?;
    let error = read(10).expect_err("nobody has these bytes");
    assert_eq!(error.raw_os_error(), Some(nix::libc::EIO), "{error}");
    for (number, sample) in files.iter().enumerate().take(8) {
        assert_eq!(sample.wrong_bytes(&read(number)?), 0);
    }
    let log = mount.log();
    assert!(log.lines().any(|line| line.contains(&files[10].path)), "no line names the object:\n{log}");

    bed.origin.set_weather(&Weather::default())?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())
}
