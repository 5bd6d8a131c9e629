//! How a mount begins and ends.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount, PATIENCE, cachectl, is_mounted};
use epochcache_tests::bed::programs::{program, run_within, wait_until};
use epochcache_tests::bed::s3::Weather;
use nix::sys::signal::Signal;

use crate::{Outcome, needs_fuse};

fn small_bed() -> anyhow::Result<Bed> {
    Bed::new(&Shape::of(40), &Weather::default())
}

#[test]
fn sigterm_and_sigint_unmount_and_end_well() -> Outcome {
    needs_fuse!();
    let bed = small_bed()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut mount = bed.mount(&[])?;
        bed.readers(&mount)?.epoch(1)?.must_be_right(40)?;
        mount.signal(signal)?;
        let status = mount.wait_for_end()?;
        assert!(status.success(), "{signal}: {status}\n{}", mount.log());
        assert!(!is_mounted(mount.path()));
    }
    Ok(())
}

#[test]
fn a_daemon_in_the_background_serves_when_its_command_returns() -> Outcome {
    needs_fuse!();
    let bed = small_bed()?;
    let command = bed.mount_command().options(&["--daemon"]);
    let said = command.run()?;
    assert!(said.status.success(), "{}", said.err);
    let report =
        epochcache_tests::bed::reader::Readers::start(&bed.reading(&command.mountpoint))?.epoch(1)?;
    report.must_be_right(40)?;
    let said = cachectl(&["umount"], &command.mountpoint)?;
    assert!(said.status.success(), "{}", said.err);
    assert!(!is_mounted(&command.mountpoint));
    Ok(())
}

#[test]
fn a_dead_mount_of_a_killed_daemon_is_cleaned_up_by_the_next_and_by_cachectl() -> Outcome {
    needs_fuse!();
    let bed = small_bed()?;
    bed.mount(&[])?.kill()?;
    let mountpoint = bed.home().join("mnt");
    assert!(is_mounted(&mountpoint), "kill -9 leaves the mount behind");
    bed.mount(&[])?.kill()?;

    let said = cachectl(&["umount"], &mountpoint)?;
    assert!(said.status.success(), "{}", said.err);
    assert!(!is_mounted(&mountpoint));
    Ok(())
}

/// Unmounting must not hang, and neither may those who read.
fn ends_under_readers(end: impl FnOnce(&mut Mount) -> anyhow::Result<()>) -> Outcome {
    let bed = Bed::new(&Shape::of(400), &Weather { delay_ms: 60, ..Weather::default() })?;
    let mut mount = bed.mount(&[])?;
    let mut readers = bed.readers(&mount)?;
    let epoch = readers.begin(1)?;
    std::thread::sleep(Duration::from_millis(300));
    end(&mut mount)?;
    let status = mount.wait_for_end()?;
    assert!(status.success(), "{status}\n{}", mount.log());
    let report = epoch.end()?;
    assert_eq!(report.wrong_bytes, 0, "{report:?}");
    drop(readers);
    wait_until(PATIENCE, "the mount is gone", || Ok(!is_mounted(mount.path())))
}

#[test]
fn sigterm_with_readers_active_ends() -> Outcome {
    needs_fuse!();
    ends_under_readers(|mount| mount.signal(Signal::SIGTERM))
}

#[test]
fn cachectl_umount_with_readers_active_ends() -> Outcome {
    needs_fuse!();
    ends_under_readers(|mount| cachectl(&["umount"], mount.path()).map(drop))
}

#[test]
fn a_reader_that_waits_for_a_dead_origin_does_not_hold_up_the_end() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(40), &Weather::default())?;
    let mut mount = bed.mount(&[])?;
    bed.origin.set_weather(&Weather { stall_share: 1.0, stall_ms: 600_000, ..Weather::default() })?;
    let mut readers = bed.readers(&mount)?;
    let epoch = readers.begin(1)?;
    std::thread::sleep(Duration::from_millis(500));
    mount.signal(Signal::SIGTERM)?;
    let status = mount.wait_for_end()?;
    assert!(status.code().is_some() && !mount.log().contains("panicked"), "{status}\n{}", mount.log());
    assert_eq!(epoch.end()?.wrong_bytes, 0);
    Ok(())
}

#[test]
fn an_ordinary_user_mounts_reads_and_unmounts() -> Outcome {
    needs_fuse!();
    /// nobody, and its group.
    const USER: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: not root, so every other test is this one");
        return Ok(());
    }
    if std::fs::metadata("/dev/fuse")?.mode() & 0o006 != 0o006 {
        println!("SKIP: /dev/fuse is root's alone here (chmod 0666 /dev/fuse, as stock systems have it)");
        return Ok(());
    }
    let reachable = run_within(
        PATIENCE,
        std::process::Command::new(program("epochcache")).arg("--version").uid(USER).gid(USER),
    );
    if !reachable.is_ok_and(|said| said.status.success()) {
        println!("SKIP: an ordinary user cannot reach the target directory to run epochcache");
        return Ok(());
    }
    if !Path::new("/usr/bin/fusermount3").exists() {
        println!("SKIP: fusermount3 is missing (apt-get install fuse3)");
        return Ok(());
    }
    let bed = small_bed()?;
    let command = bed.mount_command();
    std::fs::create_dir(&command.cache_dir)?;
    for path in [bed.home(), &command.cache_dir, &command.mountpoint] {
        std::os::unix::fs::chown(path, Some(USER), Some(USER))?;
    }
    let as_user = |mut command: std::process::Command| {
        command.uid(USER).gid(USER).env("HOME", "/").env_remove("XDG_RUNTIME_DIR");
        run_within(PATIENCE, &mut command)
    };
    let said = as_user(command.clone().options(&["--daemon"]).command())?;
    assert!(said.status.success(), "{}", said.err);
    let mut reader = std::process::Command::new(program("reader"));
    reader.arg("--root").arg(&command.mountpoint).arg("--manifest").arg(&bed.data_set.manifest_path);
    let said = as_user(reader)?;
    assert!(said.status.success(), "{} {}", said.out, said.err);
    let mut umount = std::process::Command::new(program("cachectl"));
    umount.arg("umount").arg(&command.mountpoint);
    let said = as_user(umount)?;
    assert!(said.status.success(), "{}", said.err);
    assert!(!is_mounted(&command.mountpoint));
    Ok(())
}
