//! A file system on a disk that is memory: what is read there with O_DIRECT costs no device.
//!
//! ext4 on a loop device over a file on tmpfs. The loop driver reads tmpfs on a thread of the kernel, so a read costs a wake-up and
//! a memcpy more than one of the page cache does: the least that is to be had without a module for RAM disks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use epochcache_tests::bed::programs::run_within;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The most that making it takes.
const LIMIT: Duration = Duration::from_secs(60);

/// See the head of the module. Made in a mount namespace of this process; gone when dropped, or with the process.
pub struct MemoryDisk {
    home: PathBuf,
    /// In use by us, so that it is detached at its last close.
    _device: File,
}

impl MemoryDisk {
    /// A disk with room for `bytes` of files, mounted below `home`.
    pub fn make(home: &Path, bytes: u64) -> anyhow::Result<Self> {
        // A tenth for ext4's tables and journal, and for what it reserves.
        let bytes = bytes + bytes / 10 + (256 << 20);
        let disk = home.join("memory");
        let files = home.join("memory-files");
        fs::create_dir_all(&disk)?;
        fs::create_dir_all(&files)?;
        mount(
            Some("tmpfs"),
            &disk,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(format!("size={}", bytes + (8 << 20)).as_str()),
        )?;
        let image = disk.join("image");
        File::create(&image)?.set_len(bytes)?;
        let device =
            PathBuf::from(must(Command::new("losetup").args(["--find", "--show"]).arg(&image))?.trim());
        let opened = File::open(&device);
        must(Command::new("losetup").arg("--detach").arg(&device))?;
        let made = Self { home: home.to_owned(), _device: opened? };
        must(Command::new("mkfs.ext4").args(["-q", "-E", "lazy_itable_init=0,nodiscard"]).arg(&device))?;
        mount(Some(&device), &files, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>)?;
        Ok(made)
    }

    /// A directory on it.
    pub fn path(&self) -> PathBuf {
        self.home.join("memory-files")
    }
}

impl Drop for MemoryDisk {
    fn drop(&mut self) {
        for mounted in ["memory-files", "memory"] {
            let _ = umount2(&self.home.join(mounted), MntFlags::MNT_DETACH);
        }
    }
}

fn must(command: &mut Command) -> anyhow::Result<String> {
    let said = run_within(LIMIT, command)?;
    ensure!(said.status.success(), "{:?}: {}", command.get_program(), said.err.trim());
    Ok(said.out)
}
