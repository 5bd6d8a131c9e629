//! Bad input: each mistake is one line on standard error that says what to do, exit code 2, and nothing mounted.

use std::fs;
use std::path::Path;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, MountCommand, is_mounted};
use epochcache_tests::bed::s3::Weather;

use crate::{Outcome, needs_fuse};

/// A bed that no test reads from.
fn bed() -> anyhow::Result<Bed> {
    Bed::new(&Shape::of(5), &Weather::default())
}

/// Runs `command`, which must be refused with a line that has all of `words`.
fn refused(command: &MountCommand, words: &[&str]) -> Outcome {
    let was_mounted = is_mounted(&command.mountpoint);
    let said = command.run()?;
    let text = format!("{:?}\nstdout: {}\nstderr: {}", command.options, said.out, said.err);
    assert_eq!(said.status.code(), Some(2), "{text}");
    assert_eq!(said.err.trim_end().lines().count(), 1, "one line: {text}");
    for word in words {
        assert!(said.err.to_lowercase().contains(&word.to_lowercase()), "{word:?} is not in {text}");
    }
    assert_eq!(is_mounted(&command.mountpoint), was_mounted, "half-mounted: {text}");
    Ok(())
}

#[test]
fn the_url() -> Outcome {
    needs_fuse!();
    let bed = bed()?;
    let with = |url: &str| MountCommand { url: url.to_owned(), ..bed.mount_command() };
    refused(&with("ftp://host/train"), &["ftp"])?;
    refused(&with("data/train"), &["data/train"])?;
    refused(&with("s3:///train"), &["bucket"])?;
    refused(&with("s3://no-such-bucket/train"), &["no-such-bucket"])?;
    let local = MountCommand { endpoint: None, ..with("file:///no/such/directory") };
    refused(&local, &["/no/such/directory"])
}

#[test]
fn the_credentials() -> Outcome {
    needs_fuse!();
    let bed = bed()?;
    refused(&MountCommand { secret: "wrong".to_owned(), ..bed.mount_command() }, &["credential"])?;
    refused(&bed.mount_command().options(&["--anonymous"]), &["credential"])
}

#[test]
fn the_mountpoint() -> Outcome {
    needs_fuse!();
    let bed = bed()?;
    let at = |mountpoint: &Path| MountCommand { mountpoint: mountpoint.to_path_buf(), ..bed.mount_command() };
    let (missing, full, file) =
        (bed.home().join("missing"), bed.home().join("full"), bed.home().join("file"));
    fs::create_dir_all(full.join("something"))?;
    fs::write(&file, b"")?;
    refused(&at(&missing), &["missing", "mkdir"])?;
    refused(&at(&full), &["full", "not empty"])?;
    refused(&at(&file), &["not a directory"])?;

    let mount = bed.mount(&[])?;
    let other_cache = MountCommand { cache_dir: bed.home().join("cache2"), ..at(mount.path()) };
    refused(&other_cache, &["cachectl umount"])
}

#[test]
fn the_cache_directory() -> Outcome {
    needs_fuse!();
    let bed = bed()?;
    let cached =
        |cache_dir: &Path| MountCommand { cache_dir: cache_dir.to_path_buf(), ..bed.mount_command() };
    let file = bed.home().join("file");
    fs::write(&file, b"")?;
    refused(&cached(&file.join("cache")), &["not a directory"])?;
    refused(&cached(&bed.home().join("mnt/cache")), &["mountpoint"])?;
    if is_tmpfs(Path::new("/dev/shm")) {
        let shm = tempfile::tempdir_in("/dev/shm")?;
        refused(&cached(shm.path()), &["tmpfs"])?;
    } else {
        println!("SKIP: /dev/shm is no tmpfs here: a cache directory on tmpfs was not tried");
    }

    let second = bed.home().join("mnt2");
    fs::create_dir(&second)?;
    let _mount = bed.mount(&[])?;
    refused(&MountCommand { mountpoint: second, ..bed.mount_command() }, &["in use by another"])
}

fn is_tmpfs(path: &Path) -> bool {
    nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC)
}

#[test]
fn the_size() -> Outcome {
    needs_fuse!();
    let bed = bed()?;
    refused(&bed.mount_command().cache_size("lots"), &["lots", "size"])?;
    refused(&bed.mount_command().cache_size("1MiB"), &["1MiB", "at least"])?;
    refused(&bed.mount_command().cache_size("900TiB"), &["free"])
}

#[test]
fn the_command_line_itself() -> Outcome {
    needs_fuse!();
    let bed = bed()?;
    refused(&bed.mount_command().options(&["--no-such-option"]), &["--no-such-option"])?;
    refused(&bed.mount_command().options(&["--serve", "sometimes"]), &["sometimes"])?;
    let https = MountCommand { endpoint: None, ..bed.mount_command() };
    refused(&https.options(&["--endpoint", "http://192.0.2.1:9"]), &["--allow-http"])
}
