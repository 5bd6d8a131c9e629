//! `--io-mode` and `--verify`: what the kernel may keep of a file, for how long, and when stored bytes are checked.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use epochcache_tests::bed::data_set::{DataSet, Sample, Shape};
use epochcache_tests::bed::mount::{Bed, Mount, PATIENCE, cachectl};
use epochcache_tests::bed::programs::wait_until;
use epochcache_tests::bed::reader::{Access, Readers};
use epochcache_tests::bed::s3::Weather;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::replaced::{is_stale, kernel_release};
use crate::{Outcome, needs_fuse};

/// Files of several chunks and small ones, the first of which are replaced.
struct Changing {
    bed: Bed,
    old: Vec<Sample>,
    new: Vec<Sample>,
}

impl Changing {
    fn new() -> anyhow::Result<Self> {
        let bed =
            Bed::new(&Shape { first_sizes: vec![5 << 20, 100_000], ..Shape::of(20) }, &Weather::default())?;
        let old = bed.data_set.manifest.files[..2].to_vec();
        let new = vec![old[0].replaced((3 << 20) + 5), old[1].replaced(120_000)];
        Ok(Self { bed, old, new })
    }

    fn replace(&self) -> Outcome {
        self.new
            .iter()
            .try_for_each(|new| self.bed.origin.put(DataSet::BUCKET, &DataSet::key(new), &new.bytes()))
    }

    /// A second daemon that looks for changes every second, with a mountpoint and a cache of its own.
    fn witness(&self) -> anyhow::Result<Mount> {
        let mut command = self.bed.mount_command().options(&["--revalidate", "1s"]);
        command.mountpoint = self.bed.home().join("witness");
        command.cache_dir = self.bed.home().join("witness-cache");
        fs::create_dir(&command.mountpoint)?;
        command.start()
    }

    /// Whether the mount shows the new version of every file by its name; fails if one shows neither.
    fn shows_new(&self, mount: &Mount) -> anyhow::Result<bool> {
        let mut all = true;
        for (old, new) in self.old.iter().zip(&self.new) {
            match fs::read(mount.path().join(&old.path)) {
                Ok(bytes) if new.wrong_bytes(&bytes) == 0 => {}
                Ok(bytes) => {
                    ensure!(old.wrong_bytes(&bytes) == 0, "{} mixes versions", old.path);
                    all = false;
                }
                Err(error) if is_stale(&error) => all = false,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all)
    }

    /// Reads the files, so that the kernel has them as far as it keeps anything.
    fn read_old(&self, mount: &Mount) -> Outcome {
        for old in &self.old {
            ensure!(old.wrong_bytes(&fs::read(mount.path().join(&old.path))?) == 0);
        }
        Ok(())
    }

    /// What was opened before the change shows the old version's bytes or ESTALE, and never the new one's.
    fn never_mixes(&self, open: &[File]) -> Outcome {
        for (file, old) in open.iter().zip(&self.old) {
            let (expected, mut piece) = (old.bytes(), vec![0; 64 << 10]);
            for offset in (0..expected.len()).step_by(piece.len()) {
                match file.read_at(&mut piece, offset as u64) {
                    Ok(read) => {
                        ensure!(piece[..read] == expected[offset..offset + read], "{} at {offset}", old.path)
                    }
                    Err(error) => ensure!(is_stale(&error), "{error}"),
                }
            }
            ensure!(file.metadata()?.len() == old.size_bytes);
        }
        Ok(())
    }
}

fn is_visible_after_revalidation(options: &[&str]) -> Outcome {
    needs_fuse!();
    let changing = Changing::new()?;
    let mount = changing.bed.mount(&[&["--revalidate", "1s"], options].concat())?;
    changing.read_old(&mount)?;
    if options.contains(&"--file-from") {
        wait_until(PATIENCE, "the files are complete", || {
            Ok(mount.stats()?.figure("store_files_completed") == 2)
        })?;
    }
    let open = changing.old.iter().map(|old| File::open(mount.path().join(&old.path)));
    let open = open.collect::<Result<Vec<_>, _>>()?;
    changing.never_mixes(&open)?;
    let passed = mount.stats()?.figure("fuse_opened_passthrough");
    if options.contains(&"--file-from") && passed < 2 {
        println!("SKIP in part: no passthrough here: {}", mount.log());
    }
    changing.replace()?;
    changing.never_mixes(&open)?;
    wait_until(PATIENCE, "the new versions are shown", || changing.shows_new(&mount))?;
    changing.never_mixes(&open)?;
    drop(open);
    mount.unmount()
}

#[test]
fn auto_cache_shows_a_replaced_object_after_revalidation_without_opens() -> Outcome {
    is_visible_after_revalidation(&["--io-mode", "auto_cache", "--serve", "noopen"])
}

#[test]
fn auto_cache_shows_a_replaced_object_after_revalidation_with_opens() -> Outcome {
    is_visible_after_revalidation(&["--io-mode", "auto_cache", "--serve", "open"])
}

#[test]
fn auto_cache_shows_a_replaced_object_after_revalidation_with_passthrough_of_every_file() -> Outcome {
    is_visible_after_revalidation(&["--io-mode", "auto_cache", "--serve", "open", "--file-from", "0"])
}

#[test]
fn direct_io_shows_a_replaced_object_after_revalidation() -> Outcome {
    is_visible_after_revalidation(&["--io-mode", "direct_io"])
}

/// Shows the old version for as long as it is mounted, and the new one from the next mount on.
fn is_kept_until_the_next_mount(serve: &str) -> Outcome {
    needs_fuse!();
    let changing = Changing::new()?;
    let options = ["--io-mode", "kernel_cache", "--serve", serve];
    let mount = changing.bed.mount(&options)?;
    changing.read_old(&mount)?;
    let witness = changing.witness()?;
    changing.read_old(&witness)?;
    changing.replace()?;
    wait_until(PATIENCE, "the witness shows the new versions", || changing.shows_new(&witness))?;
    // The witness listed and was told; this mount looked for nothing.
    changing.read_old(&mount)?;
    assert_eq!(mount.stats()?.figure("fuse_error_estale"), 0);
    mount.unmount()?;

    let mount = changing.bed.mount(&options)?;
    wait_until(PATIENCE, "the next mount shows the new versions", || changing.shows_new(&mount))?;
    mount.unmount()?;
    witness.unmount()
}

#[test]
fn kernel_cache_shows_what_was_read_until_the_next_mount_without_opens() -> Outcome {
    is_kept_until_the_next_mount("noopen")
}

#[test]
fn kernel_cache_shows_what_was_read_until_the_next_mount_with_opens() -> Outcome {
    is_kept_until_the_next_mount("open")
}

#[test]
fn kernel_cache_shows_the_new_version_of_what_nobody_has_read_once_a_reader_runs_into_it() -> Outcome {
    needs_fuse!();
    let changing = Changing::new()?;
    let mount = changing.bed.mount(&["--io-mode", "kernel_cache"])?;
    for old in &changing.old {
        assert_eq!(fs::metadata(mount.path().join(&old.path))?.len(), old.size_bytes);
    }
    changing.replace()?;
    // Its first reader gets ESTALE, and the name leads to the new version.
    wait_until(PATIENCE, "the new versions are shown", || changing.shows_new(&mount))?;
    mount.unmount()
}

#[test]
fn direct_io_keeps_no_page_and_every_way_of_reading_is_right() -> Outcome {
    needs_fuse!();
    let bed = Bed::new(&Shape::awkward(60), &Weather::default())?;
    let mount = bed.mount(&["--io-mode", "direct_io"])?;
    let stats = mount.stats()?;
    assert_eq!((stats.serve(), stats.0["mount"]["io_mode"].as_str()), ("open", Some("direct_io")));
    for access in Access::OF_FILES {
        // A shared mapping takes FUSE_DIRECT_IO_ALLOW_MMAP (Linux 6.6).
        if access == Access::Mmap && kernel_release() < (6, 6) {
            println!("SKIP in part: no shared mappings with direct I/O before Linux 6.6");
            continue;
        }
        let mut readers = Readers::start(&bed.reading(mount.path()).with(access))?;
        readers.epoch(1)?.must_be_right(bed.files())?;
    }
    let sample = &bed.data_set.manifest.files[9];
    let file = File::open(mount.path().join(&sample.path))?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let reads_of = |_| -> anyhow::Result<u64> {
        let before = mount.stats()?;
        let mut bytes = vec![0; sample.size_bytes as usize];
        file.read_exact_at(&mut bytes, 0)?;
        ensure!(sample.wrong_bytes(&bytes) == 0);
        Ok(mount.stats()?.grown(&before, "fuse_read"))
    };
    let (first, second) = (reads_of(1)?, reads_of(2)?);
    assert!(first > 0 && first == second, "{first} READs, then {second}");
    drop(file);

    let said = cachectl(&["push"], mount.path())?;
    assert!(said.status.code() == Some(2) && said.err.contains("direct_io"), "{said:?}");
    mount.unmount()
}

/// Shards and small files, all stored, in a mount with these options.
fn stored(options: &[&str]) -> anyhow::Result<(Bed, Mount)> {
    let bed = Bed::new(
        &Shape { first_sizes: vec![(5 << 20) + 77, 12 << 20], ..Shape::of(10) },
        &Weather::default(),
    )?;
    let mount = bed.mount(options)?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    wait_until(PATIENCE, "the shards are complete", || {
        Ok(mount.stats()?.figure("store_files_completed") == 2)
    })?;
    Ok((bed, mount))
}

#[test]
fn neither_direct_io_nor_verify_always_hands_a_file_to_the_kernel() -> Outcome {
    needs_fuse!();
    for options in [&["--io-mode", "direct_io"][..], &["--serve", "open", "--verify", "always"]] {
        let (bed, mount) = stored(options)?;
        bed.readers(&mount)?.epoch(2)?.must_be_right(bed.files())?;
        let stats = mount.stats()?;
        assert_eq!(stats.serve(), "open", "{options:?}");
        assert_eq!(stats.figure("fuse_opened_passthrough"), 0, "{options:?}");
        assert!(stats.figure("fuse_opened_copy") >= 2 * bed.files() as u64, "{options:?}");
        mount.unmount()?;
    }
    // Left to choose, it does not open files that it cannot hand over.
    let (_bed, mount) = stored(&["--verify", "always"])?;
    assert_eq!(mount.stats()?.serve(), "noopen");
    mount.unmount()
}

#[test]
fn with_verify_always_a_damaged_local_file_is_found_by_its_next_reader() -> Outcome {
    needs_fuse!();
    let (bed, mount) = stored(&["--serve", "open", "--verify", "always"])?;
    let sample = &bed.data_set.manifest.files[0];
    let backing =
        File::options().read(true).write(true).open(file_of(mount.cache_dir(), sample.size_bytes)?)?;
    let mut byte = [0];
    backing.read_exact_at(&mut byte, 3_000_000)?;
    backing.write_all_at(&[byte[0] ^ 4], 3_000_000)?;
    backing.sync_all()?;
    posix_fadvise(&backing, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;

    let file = File::open(mount.path().join(&sample.path))?;
    posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut bytes = vec![0; sample.size_bytes as usize];
    file.read_exact_at(&mut bytes, 0)?;
    assert_eq!(sample.wrong_bytes(&bytes), 0);
    assert!(mount.stats()?.figure("store_checksum_failures") > 0);
    drop(file);
    mount.unmount()
}

/// The file below `directory` that is exactly so long: an object's own.
fn file_of(directory: &Path, size_bytes: u64) -> anyhow::Result<PathBuf> {
    let mut directories = vec![directory.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            match metadata.is_dir() {
                true => directories.push(path),
                false if metadata.size() == size_bytes => return Ok(path),
                false => {}
            }
        }
    }
    None.with_context(|| format!("no file of {size_bytes} bytes"))
}
