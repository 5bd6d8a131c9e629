//! The cache directory: its file system, whether direct I/O works there, its room, and its device.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

use super::{Check, State, read};
use crate::control::mountinfo;
use crate::probe::queues_under;

/// Half full file systems are fast; a full one breaks whatever else lives there.
const FREE_SHARE_MIN: f64 = 0.05;

pub(super) fn look(dir: &Path) -> Vec<Check> {
    let resolved = match dir.canonicalize() {
        Ok(dir) => dir,
        Err(error) => {
            let what = "make it with mkdir -p, on a local disk";
            return vec![Check::bad(
                "cache_dir",
                format!("{}: {error}", dir.display()),
                "nothing can be cached",
                what,
            )];
        }
    };
    let mounts = mountinfo::mounts().unwrap_or_default();
    let fs_type = mountinfo::mount_of(&mounts, &resolved).map_or("unknown", |mount| &mount.fs_type);
    let mut checks = vec![file_system(&resolved, fs_type), direct_io(open_direct(&resolved))];
    if let Ok(fs) = statvfs(&resolved) {
        checks.push(free(fs.blocks_available(), fs.blocks(), fs.fragment_size()));
    }
    let queues = queues_under(&resolved);
    let text = |queue: &PathBuf, name| read(queue.join(name));
    // Of several disks the one that is worst.
    let spins = |queue: &&PathBuf| text(queue, "rotational").as_deref() == Some("1");
    if let Some(queue) = queues.iter().find(spins).or(queues.first()) {
        checks.push(rotational(text(queue, "rotational").as_deref()));
    }
    // On a spinning disk a scheduler earns its cost.
    let schedules = |queue: &PathBuf| scheduler(text(queue, "scheduler").as_deref(), queue);
    let mut schedulers: Vec<Check> = queues.iter().filter(|queue| !spins(queue)).map(schedules).collect();
    schedulers.sort_by_key(|check| check.state == State::Ok);
    checks.extend(schedulers.into_iter().next());
    checks
}

fn file_system(dir: &Path, fs_type: &str) -> Check {
    let found = format!("{} on {fs_type}", dir.display());
    match fs_type {
        "ext4" | "xfs" => Check::ok("cache_dir", found),
        "tmpfs" | "ramfs" => Check::bad(
            "cache_dir",
            found,
            "a cache in memory is refused: the kernel's page cache does that for nothing",
            "use a directory on ext4 or XFS on a local disk",
        ),
        "nfs" | "nfs4" | "cifs" | "ceph" | "fuse" => Check::warn(
            "cache_dir",
            found,
            "a cache on a network is hardly faster than the origin",
            "use a directory on a local disk",
        ),
        other if other.starts_with("fuse.") => {
            Check::warn("cache_dir", found, "a cache behind FUSE is slow", "use a directory on a local disk")
        }
        _ => Check::warn(
            "cache_dir",
            found,
            "this file system is not tested; copy-on-write (btrfs, zfs, overlay) writes twice and fragments",
            "use ext4 or XFS; in a container mount a volume there",
        ),
    }
}

/// Opens a file without a name, so that nothing is left behind.
fn open_direct(dir: &Path) -> io::Result<()> {
    let flags = libc::O_TMPFILE | libc::O_DIRECT;
    fs::OpenOptions::new().read(true).write(true).custom_flags(flags).mode(0o600).open(dir).map(drop)
}

fn direct_io(opened: io::Result<()>) -> Check {
    const NAME: &str = "direct_io";
    let Err(error) = opened else { return Check::ok(NAME, "O_DIRECT works") };
    match error.raw_os_error() {
        Some(libc::EINVAL) => Check::warn(
            NAME,
            "the file system has no O_DIRECT",
            "bytes are cached twice: by the store's file system and by the mount",
            "use ext4 or XFS",
        ),
        Some(libc::EOPNOTSUPP | libc::EISDIR) => Check::warn(
            NAME,
            "not known: the file system has no O_TMPFILE to try it with",
            "if there is no O_DIRECT either, bytes are cached twice",
            "use ext4 or XFS",
        ),
        _ => Check::bad(
            NAME,
            error.to_string(),
            "nothing can be stored there",
            "make the directory writable for the daemon's user",
        ),
    }
}

fn free(available: u64, blocks: u64, block_bytes: u64) -> Check {
    let share = available as f64 / blocks.max(1) as f64;
    let found = format!(
        "{:.1} GiB free ({:.0} %)",
        (available * block_bytes) as f64 / f64::from(1 << 30),
        100.0 * share
    );
    if share >= FREE_SHARE_MIN {
        return Check::ok("free_space", found);
    }
    Check::warn(
        "free_space",
        found,
        "if the cache itself fills it, all is as wanted; if not, its limit cannot be reached",
        "lower --cache-size, or free some space",
    )
}

fn rotational(text: Option<&str>) -> Check {
    match text {
        Some("1") => Check::warn(
            "device",
            "rotational",
            "a spinning disk answers a few hundred reads a second: slower than many object stores",
            "use an NVMe device; if this is one behind a virtual disk, ignore this",
        ),
        Some("0") => Check::ok("device", "not rotational"),
        _ => Check::ok("device", "unknown"),
    }
}

/// `[none] mq-deadline kyber bfq`
fn scheduler(text: Option<&str>, queue: &Path) -> Check {
    let chosen = text.and_then(|text| text.split('[').nth(1)?.split(']').next()).unwrap_or("none");
    if chosen == "none" {
        return Check::ok("scheduler", chosen);
    }
    let disk = queue.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    Check::warn(
        "scheduler",
        chosen,
        "on NVMe a scheduler costs CPU a read and orders nothing",
        &format!("echo none | sudo tee /sys/block/{disk}/queue/scheduler"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_disk_file_systems_are_well() {
        let state = |fs_type| file_system(Path::new("/c"), fs_type).state;
        assert_eq!(["ext4", "xfs"].map(state), [State::Ok; 2]);
        assert_eq!(["nfs4", "fuse.sshfs", "btrfs", "overlay"].map(state), [State::Warn; 4]);
        assert_eq!(state("tmpfs"), State::Bad);
    }

    #[test]
    fn direct_io_is_told_apart_from_no_right_to_write() {
        let state = |errno| direct_io(Err(io::Error::from_raw_os_error(errno))).state;
        assert_eq!([state(libc::EINVAL), state(libc::EOPNOTSUPP)], [State::Warn; 2]);
        assert_eq!(state(libc::EACCES), State::Bad);
        assert_eq!(direct_io(Ok(())).state, State::Ok);
    }

    #[test]
    fn the_scheduler_in_brackets_is_the_one() {
        let queue = Path::new("/sys/devices/pci0000:00/nvme/nvme0/nvme0n1/queue");
        assert_eq!(scheduler(Some("[none] mq-deadline"), queue).state, State::Ok);
        let check = scheduler(Some("none [mq-deadline] bfq"), queue);
        assert!(check.found == "mq-deadline" && check.do_what.contains("/sys/block/nvme0n1/queue/scheduler"));
        assert_eq!(scheduler(None, queue).state, State::Ok);
        assert_eq!(rotational(Some("1")).state, State::Warn);
    }

    #[test]
    fn little_room_is_said() {
        assert_eq!(free(4, 100, 4096).state, State::Warn);
        assert_eq!(free(50, 100, 4096).state, State::Ok);
        assert_eq!(free(0, 0, 4096).state, State::Warn);
    }

    #[test]
    fn a_directory_that_is_not_there_is_one_bad_check() {
        let checks = look(Path::new("/no/such/cache"));
        assert!(checks.len() == 1 && checks[0].state == State::Bad);
    }
}
