//! A file system on a disk that is memory: what is read there with O_DIRECT costs no device.
//!
//! ext4 on zram, which keeps pages that do not compress as they are: a read is a memcpy by whoever asks. Where there is no zram, on
//! a loop device over a file on tmpfs; its driver reads on a thread of the kernel, so that a read costs a wake-up too.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::ensure;
use epochcache_tests::bed::programs::run_within;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The most that making it takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Ends a zram device when its standard input closes, whatever became of us: it holds gigabytes of memory.
const GUARD: &str = "trap '' INT TERM; cat; umount $1; echo 1 >/sys/block/zram$0/reset; echo $0 >/sys/class/zram-control/hot_remove";

/// See the head of the module. Made in a mount namespace of this process; gone when dropped, or with the process.
pub struct MemoryDisk {
    home: PathBuf,
    device: Device,
}

enum Device {
    Zram(Child),
    /// In use by us, so that it is detached at its last close.
    Loop(#[allow(dead_code, reason = "held open")] File),
}

impl MemoryDisk {
    /// A disk with room for `bytes` of files, mounted below `home`.
    pub fn make(home: &Path, bytes: u64) -> anyhow::Result<Self> {
        // A tenth for ext4's tables and journal, and for what it reserves.
        let bytes = bytes + bytes / 10 + (256 << 20);
        let files = home.join("memory-files");
        fs::create_dir_all(&files)?;
        let (path, device) = match zram(bytes, &files) {
            Ok(made) => made,
            Err(_) => looped(home, bytes)?,
        };
        let made = Self { home: home.to_owned(), device };
        must(Command::new("mkfs.ext4").args(["-q", "-E", "lazy_itable_init=0,nodiscard"]).arg(&path))?;
        mount(Some(&path), &files, Some("ext4"), MsFlags::MS_NOATIME, None::<&str>)?;
        Ok(made)
    }

    /// What it is made of.
    pub fn kind(&self) -> &'static str {
        match self.device {
            Device::Zram(_) => "zram",
            Device::Loop(_) => "loop device over tmpfs",
        }
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
        if let Device::Zram(guard) = &mut self.device {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

/// A zram device that lives as long as its guard is spoken to, and unmounts `files` then.
fn zram(bytes: u64, files: &Path) -> anyhow::Result<(PathBuf, Device)> {
    let number = fs::read_to_string("/sys/class/zram-control/hot_add")?.trim().to_owned();
    let mut guard = Command::new("sh");
    guard
        .args(["-c", GUARD, &number])
        .arg(files)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let device = Device::Zram(guard.spawn()?);
    fs::write(format!("/sys/block/zram{number}/disksize"), bytes.to_string())?;
    Ok((PathBuf::from(format!("/dev/zram{number}")), device))
}

fn looped(home: &Path, bytes: u64) -> anyhow::Result<(PathBuf, Device)> {
    let disk = home.join("memory");
    fs::create_dir_all(&disk)?;
    let size = format!("size={}", bytes + (8 << 20));
    mount(Some("tmpfs"), &disk, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()))?;
    let image = disk.join("image");
    File::create(&image)?.set_len(bytes)?;
    let path = PathBuf::from(must(Command::new("losetup").args(["--find", "--show"]).arg(&image))?.trim());
    let opened = File::open(&path);
    must(Command::new("losetup").arg("--detach").arg(&path))?;
    Ok((path, Device::Loop(opened?)))
}

fn must(command: &mut Command) -> anyhow::Result<String> {
    let said = run_within(LIMIT, command)?;
    ensure!(said.status.success(), "{:?}: {}", command.get_program(), said.err.trim());
    Ok(said.out)
}
