//! Several places in one cache: directories and raw devices, and a device that is somebody else's.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, cachectl};
use epochcache_tests::bed::programs::wait_until;
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

/// A loop device over a file; detached when dropped.
struct Loop(PathBuf);

impl Loop {
    /// A device of `bytes` over a new file in `directory`; none where loop devices are not to be had.
    fn new(directory: &Path, bytes: u64) -> anyhow::Result<Option<Self>> {
        let file = directory.join("device");
        File::create(&file)?.set_len(bytes)?;
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        Ok(match made {
            Ok(made) if made.status.success() => {
                Some(Self(PathBuf::from(String::from_utf8(made.stdout)?.trim())))
            }
            _ => {
                println!("SKIP: no loop device can be made here (root and losetup are needed)");
                None
            }
        })
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("losetup prints text")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // What is in use is detached by the kernel at the last close (LO_FLAGS_AUTOCLEAR).
        let _ = Command::new("losetup").arg("-d").arg(&self.0).status();
    }
}

/// An epoch with a mount of `options`; how many GETs it took.
fn epoch(bed: &Bed, options: &[&str], number: u64) -> anyhow::Result<u64> {
    bed.origin.reset()?;
    let mount = bed.mount_command().cache_size("512MiB").options(options).start()?;
    bed.readers(&mount)?.epoch(number)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    mount.unmount()?;
    bed.origin.counters().map(|counters| counters.get)
}

#[test]
fn a_raw_device_and_a_second_directory_hold_a_part_of_the_cache_each_over_a_restart() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(200), &Weather::default())?;
    let Some(device) = Loop::new(bed.home(), 300 << 20)? else { return Ok(()) };
    let directory = bed.home().join("second");
    std::fs::create_dir(&directory)?;
    let directory = directory.to_str().expect("a scratch directory's name is text");
    let options = ["--cache-dev", device.path(), "--cache-dev", directory];
    assert!(epoch(&bed, &options, 1)? > 0);
    assert_eq!(epoch(&bed, &options, 2)?, 0, "warm after a restart");
    Ok(())
}

#[test]
fn a_directory_that_is_missing_at_the_start_is_named_and_used_again_when_it_comes_back() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(200), &Weather::default())?;
    let [directory, away] = ["second", "away"].map(|name| bed.home().join(name));
    std::fs::create_dir(&directory)?;
    let options = ["--cache-dev", directory.to_str().expect("a scratch directory's name is text")];
    assert!(epoch(&bed, &options, 1)? > 0);
    std::fs::rename(&directory, &away)?;

    let mount = bed.mount_command().cache_size("512MiB").options(&options).start()?;
    assert_eq!(mount.stats()?.figure("store_lost_places"), 1);
    for command in ["stats", "doctor"] {
        let said = cachectl(&[command], mount.path())?;
        assert!(said.out.contains("second") && said.out.contains("does not exist"), "{said:?}");
    }
    std::fs::rename(&away, &directory)?;
    wait_until(Duration::from_secs(60), "the directory is in use again", || {
        Ok(mount.stats()?.figure("store_lost_places") == 0)
    })?;
    bed.origin.reset()?;
    bed.readers(&mount)?.epoch(2)?.must_be_right(bed.files())?;
    assert_eq!(bed.origin.counters()?.get, 0, "warm without a restart");
    mount.unmount()
}

#[test]
fn a_device_with_a_file_system_is_refused_until_format_says_that_it_may_go() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::of(20), &Weather::default())?;
    let Some(device) = Loop::new(bed.home(), 300 << 20)? else { return Ok(()) };
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(device.path()).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("SKIP: mkfs.ext4 is not installed (e2fsprogs)");
        return Ok(());
    }
    let options = ["--cache-dev", device.path()];
    let said = bed.mount_command().cache_size("512MiB").options(&options).run()?;
    assert_eq!(said.status.code(), Some(2), "{said:?}");
    assert!(said.err.contains("ext4") && said.err.contains("--format"), "{said:?}");
    assert!(epoch(&bed, &["--cache-dev", device.path(), "--format"], 1)? > 0);
    assert_eq!(epoch(&bed, &options, 2)?, 0, "from now on it is ours");
    Ok(())
}
