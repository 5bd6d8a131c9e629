//! The disks that a directory or a device is on, as /sys tells: the ones that get the requests.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, makedev, minor};

use crate::control::mountinfo;

/// Volumes stacked higher than this are a loop.
const STACKED_MAX: u32 = 8;

/// The whole disks under `place`, as stat(2) shows device numbers: a partition's disk, the members of a RAID or logical
/// volume. Empty for a file system without a disk (tmpfs, overlay, network).
pub fn disks_under(place: &Path) -> Vec<u64> {
    let Ok(found) = fs::metadata(place) else { return Vec::new() };
    let device = match found.file_type().is_block_device() {
        true => found.rdev(),
        // btrfs and the like show a number of their own: the mount's source is a device.
        false if major(found.dev()) == 0 => source_device(place).unwrap_or(0),
        false => found.dev(),
    };
    let mut disks = Vec::new();
    descend(Path::new("/sys/dev/block"), device, STACKED_MAX, &mut disks);
    disks
}

/// The queue directory of each disk under `place`, in /sys.
pub fn queues_under(place: &Path) -> Vec<PathBuf> {
    let node = |device: u64| format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let queues = disks_under(place).into_iter().filter_map(|disk| fs::canonicalize(node(disk)).ok());
    queues.map(|disk| disk.join("queue")).filter(|queue| queue.is_dir()).collect()
}

fn source_device(place: &Path) -> Option<u64> {
    let mounts = mountinfo::mounts().ok()?;
    let source = fs::metadata(&mountinfo::mount_of(&mounts, &place.canonicalize().ok()?)?.source).ok()?;
    source.file_type().is_block_device().then(|| source.rdev())
}

fn descend(by_number: &Path, device: u64, levels: u32, disks: &mut Vec<u64>) {
    let Ok(node) = fs::canonicalize(by_number.join(format!("{}:{}", major(device), minor(device)))) else {
        return;
    };
    let disk = match node.parent() {
        Some(disk) if node.join("partition").exists() => disk,
        _ => &node,
    };
    let slaves = fs::read_dir(disk.join("slaves")).into_iter().flatten().filter_map(Result::ok);
    let below: Vec<u64> = slaves.filter_map(|slave| number(&slave.path())).collect();
    if below.is_empty() {
        disks.extend(number(disk).filter(|disk| !disks.contains(disk)));
    } else if levels > 0 {
        below.into_iter().for_each(|device| descend(by_number, device, levels - 1, disks));
    }
}

/// The device number of a disk or partition, from its directory in /sys: `259:1`.
fn number(node: &Path) -> Option<u64> {
    let text = fs::read_to_string(node.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory like /sys: two disks, a partition of each, a mirror of the partitions, a volume on the mirror.
    fn sys() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let add = |path: &str, number: &str, slaves: &[&str]| {
            let node = dir.path().join("devices").join(path);
            fs::create_dir_all(node.join("slaves")).expect("a directory");
            fs::write(node.join("dev"), format!("{number}\n")).expect("a file");
            fs::create_dir_all(dir.path().join("dev/block")).expect("a directory");
            symlink(&node, dir.path().join("dev/block").join(number)).expect("a link");
            for slave in slaves {
                let name = slave.rsplit('/').next().expect("a name");
                symlink(dir.path().join("devices").join(slave), node.join("slaves").join(name))
                    .expect("a link");
            }
        };
        add("nvme0n1", "259:0", &[]);
        add("nvme1n1", "259:1", &[]);
        for (path, number) in [("nvme0n1/nvme0n1p1", "259:2"), ("nvme1n1/nvme1n1p1", "259:3")] {
            add(path, number, &[]);
            fs::write(dir.path().join("devices").join(path).join("partition"), "1\n").expect("a file");
        }
        add("md0", "9:0", &["nvme0n1/nvme0n1p1", "nvme1n1/nvme1n1p1"]);
        add("dm-0", "253:0", &["md0"]);
        dir
    }

    #[test]
    fn partitions_and_volumes_lead_to_the_disks_that_get_the_requests() {
        let sys = sys();
        let under = |major, minor| {
            let mut disks = Vec::new();
            descend(&sys.path().join("dev/block"), makedev(major, minor), STACKED_MAX, &mut disks);
            disks.sort_unstable();
            disks
        };
        let (first, second) = (makedev(259, 0), makedev(259, 1));
        assert_eq!(under(259, 0), [first]);
        assert_eq!(under(259, 3), [second]);
        assert_eq!(under(9, 0), [first, second]);
        assert_eq!(under(253, 0), [first, second]);
        assert!(under(0, 45).is_empty());
    }

    #[test]
    fn a_file_system_without_a_disk_has_none() {
        assert!(disks_under(Path::new("/proc")).is_empty());
        assert!(disks_under(Path::new("/no/such/place")).is_empty());
    }
}
