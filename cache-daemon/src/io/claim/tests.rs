//! Claims of real things: loop devices, tmpfs, and images made by the mkfs programs of this machine.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::*;
use crate::io::DeviceOffset;

const OWN: &[u8] = b"OURSTORE";

fn image(bytes: u64) -> tempfile::NamedTempFile {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(bytes).unwrap();
    image
}

/// A loop device on a file; detached at the end.
struct Loop {
    path: PathBuf,
    /// Held, not used.
    _image: tempfile::NamedTempFile,
}

impl Loop {
    /// `None`, with a printed reason, where there are no loop devices to be had.
    fn new(bytes: u64, options: &[&str]) -> Option<Self> {
        let image = image(bytes);
        let made =
            Command::new("losetup").args(["--find", "--show"]).args(options).arg(image.path()).output();
        match made {
            Ok(made) if made.status.success() => {
                let path = String::from_utf8(made.stdout).unwrap().trim().into();
                Some(Self { path, _image: image })
            }
            made => {
                eprintln!("skipped: no loop device here: {made:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let detached = Command::new("losetup").arg("--detach").arg(&self.path).status();
        assert!(detached.is_ok_and(|status| status.success()));
    }
}

/// Claims a device that nobody has. Tests beside this one start programs, and between fork and exec their
/// processes hold our descriptors too: for that moment a device that we closed is still busy.
fn claim_free(path: &Path) -> ClaimedDevice {
    for _ in 0..1000 {
        match claim_device(path, OWN) {
            Err(ClaimError::Busy(_)) => std::thread::sleep(std::time::Duration::from_millis(5)),
            other => return other.unwrap(),
        }
    }
    panic!("{} stays busy", path.display())
}

/// Runs a program of this machine; false, with a printed reason, where it is not installed.
fn run(program: &str, args: &[&str], image: &Path) -> bool {
    match Command::new(program).args(args).arg(image).output() {
        Ok(made) => {
            assert!(made.status.success(), "{program}: {}", String::from_utf8_lossy(&made.stderr));
            true
        }
        Err(error) => {
            eprintln!("skipped: {program}: {error}");
            false
        }
    }
}

#[test]
fn what_mkfs_makes_is_recognised() {
    let programs: [(&str, &[&str], Signature); 6] = [
        ("mkfs.ext4", &["-q", "-F"], Signature::Ext),
        ("mkfs.ext2", &["-q", "-F", "-b", "1024"], Signature::Ext),
        ("mkfs.xfs", &["-q", "-f"], Signature::Xfs),
        ("mkswap", &[], Signature::Swap),
        ("mkfs.btrfs", &["-q", "-f"], Signature::Btrfs),
        ("mkfs.vfat", &[], Signature::Fat),
    ];
    for (program, args, signature) in programs {
        // mkfs.xfs refuses less than 300 MiB.
        let image = image(320 << 20);
        if run(program, args, image.path()) {
            let mut head = vec![0; HEAD_BYTES];
            image.as_file().read_exact_at(&mut head, 0).unwrap();
            assert_eq!(inspect(&head, OWN), Contents::Foreign(signature), "{program}");
        }
    }
}

#[test]
fn a_device_tells_its_size_its_blocks_and_what_is_on_it() {
    for sector in ["512", "4096"] {
        let Some(device) = Loop::new(8 << 20, &["--sector-size", sector]) else { return };
        let claimed = claim_free(&device.path);
        assert_eq!(claimed.size_bytes, 8 << 20);
        assert_eq!(claimed.file.size_bytes().unwrap(), 8 << 20);
        assert_eq!(claimed.logical_block_bytes.to_string(), sector);
        assert_eq!(claimed.contents, Contents::Blank);
        assert!(claimed.file.is_direct());
        // What we write there is ours the next time.
        let mut block = memmap2::MmapMut::map_anon(4096).unwrap();
        block[..OWN.len()].copy_from_slice(OWN);
        claimed.file.write_all_at(&block, DeviceOffset(0)).unwrap();
        drop(claimed);
        assert_eq!(claim_free(&device.path).contents, Contents::Own);
    }
}

#[test]
fn a_device_belongs_to_one_daemon_at_a_time() {
    let Some(device) = Loop::new(8 << 20, &[]) else { return };
    let first = claim_free(&device.path);
    assert!(matches!(claim_device(&device.path, OWN), Err(ClaimError::Busy(_))));
    drop(first);
    claim_free(&device.path);
}

#[test]
fn a_mounted_device_is_refused_and_a_file_system_on_one_is_told() {
    let Some(device) = Loop::new(32 << 20, &[]) else { return };
    if !run("mkfs.ext4", &["-q", "-F"], &device.path) {
        return;
    }
    let claimed = claim_free(&device.path);
    assert_eq!(claimed.contents, Contents::Foreign(Signature::Ext));
    drop(claimed);
    // Also waits until a mount can have it.
    drop(claim_free(&device.path));
    let mountpoint = tempfile::tempdir().unwrap();
    let none: Option<&str> = None;
    let flags = nix::mount::MsFlags::empty();
    if let Err(error) = nix::mount::mount(Some(&device.path), mountpoint.path(), Some("ext4"), flags, none) {
        eprintln!("skipped: cannot mount here: {error}");
        return;
    }
    let refused = claim_device(&device.path, OWN);
    nix::mount::umount(mountpoint.path()).unwrap();
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("in use"), "{message}");
}

#[test]
fn a_read_only_device_is_refused() {
    let Some(device) = Loop::new(8 << 20, &["--read-only"]) else { return };
    let refused = claim_device(&device.path, OWN);
    assert!(matches!(refused, Err(ClaimError::ReadOnly(_))), "{refused:?}");
}

#[test]
fn what_is_no_device_or_not_there_is_refused_by_name() {
    let file = image(4096);
    assert!(matches!(claim_device(file.path(), OWN), Err(ClaimError::Kind(_))));
    assert!(matches!(claim_device(Path::new("/dev/none"), OWN), Err(ClaimError::Missing(_))));
    assert!(matches!(claim_directory(file.path()), Err(ClaimError::Kind(_))));
    assert!(matches!(claim_directory(Path::new("/none/none")), Err(ClaimError::Missing(_))));
}

#[test]
fn a_directory_belongs_to_one_daemon_at_a_time_under_any_name() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("cache");
    let first = claim_directory(&path).unwrap();
    assert!(first.size_bytes >= first.available_bytes && first.available_bytes > 0);
    let other_name = parent.path().join("link");
    std::os::unix::fs::symlink(&path, &other_name).unwrap();
    assert!(matches!(claim_directory(&other_name), Err(ClaimError::Busy(_))));
    drop(first);
    let second = claim_directory(&other_name).unwrap();
    assert_eq!(second.path, path.canonicalize().unwrap());
    let names: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["lock"], "nothing else is left behind");
}

#[test]
fn a_directory_without_direct_io_can_be_claimed() {
    // tmpfs takes O_DIRECT from 6.6 on and refuses it before: both are fine here.
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        eprintln!("skipped: no /dev/shm");
        return;
    };
    claim_directory(dir.path()).unwrap();
}

#[test]
fn a_read_only_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let none: Option<&str> = None;
    let flags = nix::mount::MsFlags::MS_RDONLY;
    if let Err(error) = nix::mount::mount(Some("none"), dir.path(), Some("tmpfs"), flags, none) {
        eprintln!("skipped: cannot mount here: {error}");
        return;
    }
    let refused = claim_directory(dir.path());
    nix::mount::umount(dir.path()).unwrap();
    assert!(matches!(refused, Err(ClaimError::ReadOnly(_))), "{refused:?}");
}

#[test]
fn blocks_beyond_our_alignment_are_refused() {
    let path = Path::new("/dev/x");
    check_blocks(path, 4096).unwrap();
    assert!(check_blocks(path, 16384).unwrap_err().to_string().contains("16384"));
}

#[test]
fn ext4_gives_direct_io() {
    let dir = tempfile::tempdir().unwrap();
    let probe = File::open(dir.path()).unwrap();
    let kind = nix::sys::statfs::fstatfs(&probe).unwrap().filesystem_type();
    if kind != nix::sys::statfs::EXT4_SUPER_MAGIC {
        eprintln!("skipped: the temporary directory is not on ext4");
        return;
    }
    assert!(claim_directory(dir.path()).unwrap().direct);
}
