//! Local files that are not what they should be, where they should not be, or not allowed.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use fuse_frontend::errno::Errno;
use fuse_frontend::transport::passthrough::{Revoke, Revoked};

use crate::backed::{Backed, backing_dir};
use crate::lifecycle::{as_nobody, await_line, child_running, mountpoint_of_nobody, no_fusermount};
use crate::{cannot_mount, is_root};

#[test]
fn a_file_of_another_length_and_a_directory_are_not_used() {
    let Some(backed) = Backed::new(&[5000, 5000, 5000]) else { return };
    File::options().append(true).open(backed.backing(0)).unwrap().write_all(b"more").unwrap();
    File::options().write(true).open(backed.backing(1)).unwrap().set_len(4999).unwrap();
    fs::remove_file(backed.backing(2)).unwrap();
    fs::create_dir(backed.backing(2)).unwrap();
    assert!((0..3).all(|n| !backed.is_passed(n)));
    assert_eq!(backed.figure("fuse_backing_mismatches"), 3);
    assert_eq!(backed.figure("fuse_backing_registered"), 0);
    assert_eq!(backed.mounted.source.lent_in_all(), 0, "given back at once");
}

#[test]
fn a_file_deleted_behind_our_back_is_read_on_and_a_truncated_one_ends_early() {
    let Some(backed) = Backed::new(&[50_000, 50_000]) else { return };
    drop((backed.open(0), backed.open(1)));
    fs::remove_file(backed.backing(0)).unwrap();
    assert!(backed.is_passed(0), "the id holds the file");

    // Nobody can notice: the kernel asks nobody. Readers get an early end, not other bytes, until the file is revoked.
    let local = File::options().write(true).open(backed.backing(1)).unwrap();
    local.set_len(10_000).unwrap();
    let file = backed.open(1);
    let mut read = vec![0; 50_000];
    assert_eq!(file.read_at(&mut read, 0).unwrap(), 10_000);
    assert!(read[..10_000] == backed.bytes(1)[..10_000]);
    // Whoever repairs the file in place repairs it for those who have it open.
    local.write_all_at(&backed.bytes(1)[10_000..], 10_000).unwrap();
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == backed.bytes(1));
    local.set_len(10_000).unwrap();
    assert!(matches!(backed.mounted.mount.revoke(backed.ino(1), Revoke::Damaged), Revoked::Deferred(_)));
    drop(file);
    crate::until("a copy", || File::open(backed.path(1)).is_ok());
    assert!(!backed.is_passed(1));
    assert!(backed.figure("fuse_backing_mismatches") >= 1);
}

/// An overlay over directories of `dir`, unmounted when dropped.
struct Overlay(PathBuf);

impl Overlay {
    fn over(dir: &Path) -> Option<Self> {
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let options = format!("lowerdir={},upperdir={},workdir={}", at("lower"), at("upper"), at("work"));
        let flags = nix::mount::MsFlags::empty();
        let merged = dir.join("merged");
        match nix::mount::mount(Some("overlay"), &merged, Some("overlay"), flags, Some(options.as_str())) {
            Ok(()) => Some(Self(merged)),
            Err(errno) => {
                eprintln!("SKIPPED: no overlayfs here: {errno}");
                None
            }
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn files_on_overlayfs_are_refused_by_the_kernel_and_copied() {
    if !is_root() {
        return;
    }
    let base = backing_dir();
    let Some(overlay) = Overlay::over(base.path()) else { return };
    let dir = tempfile::tempdir_in(&overlay.0).unwrap();
    let Some(backed) = Backed::within(dir, &[50_000, 4096], |_| {}) else { return };
    for _ in 0..2 {
        assert!(!backed.is_passed(0) && !backed.is_passed(1));
    }
    assert!(backed.figure("fuse_backing_error_eloop") >= 2);
    assert_eq!(backed.mounted.source.lent_in_all(), 0);
    assert_eq!(backed.mounted.counts().errors(Errno::IO), 0);
    assert_eq!(backed.mounted.mount.passthrough().state(), Ok(()), "other directories may do");
}

#[test]
fn an_open_that_fails_in_the_kernel_after_our_answer_is_released_as_well() {
    // Regular, 4096 bytes by its attributes, and nothing that O_DIRECT may open.
    let refusing = Path::new("/sys/kernel/uevent_seqnum");
    if fs::metadata(refusing).map_or(0, |found| found.len()) != 4096 {
        return eprintln!("SKIPPED: no {} here", refusing.display());
    }
    let Some(backed) = Backed::new(&[4096]) else { return };
    backed.mounted.source.on_backing(move |_| File::open(refusing).ok());
    let direct = || File::options().read(true).custom_flags(libc::O_DIRECT).open(backed.path(0));
    assert_eq!(direct().unwrap_err().raw_os_error(), Some(libc::EIO));
    assert_eq!(backed.figure("fuse_opened_passthrough"), 1);
    let mount = &backed.mounted.mount;
    crate::until("RELEASE", || mount.revoke(backed.ino(0), Revoke::Gone) != Revoked::Deferred(1));
    assert_eq!(backed.figure("fuse_backing_ids"), 0);
}

#[test]
fn files_on_tmpfs_are_passed_through_as_well() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
        return eprintln!("SKIPPED: no /dev/shm here");
    };
    let Some(backed) = Backed::within(dir, &[50_000], |_| {}) else { return };
    assert!(backed.is_passed(0), "tmpfs is stacked on nothing, and the kernel takes it");
}

#[test]
fn an_overlay_can_be_stacked_on_a_mount_that_passes_through() {
    if !is_root() {
        return;
    }
    let Some(backed) = Backed::new(&[50_000]) else { return };
    let base = backing_dir();
    for name in ["upper", "work", "merged"] {
        fs::create_dir(base.path().join(name)).unwrap();
    }
    let at = |name: &str| base.path().join(name).to_str().unwrap().to_owned();
    let lower = backed.mounted.root().to_str().unwrap();
    let options = format!("lowerdir={lower},upperdir={},workdir={}", at("upper"), at("work"));
    let merged = base.path().join("merged");
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("overlay"), &merged, Some("overlay"), flags, Some(options.as_str())).unwrap();
    let overlay = Overlay(merged);
    assert!(fs::read(overlay.0.join("f0")).unwrap() == backed.bytes(0));
    assert_eq!(backed.reads(), 0);
}

#[test]
fn an_ordinary_user_gets_copies_and_the_reason() {
    if cannot_mount() || !is_root() || no_fusermount() {
        return;
    }
    let (dir, backing) = (mountpoint_of_nobody(), backing_dir());
    std::os::unix::fs::chown(backing.path(), Some(65534), Some(65534)).unwrap();
    let mut command: Command = as_nobody();
    command.env("BACKING", backing.path());
    let mut child = child_running("passing_ends::child_that_passes_through", &mut command, dir.path());
    let line = await_line(&mut child, "MOUNTED");
    assert!(line.contains("CAP_SYS_ADMIN is missing") || line.contains("FUSE_PASSTHROUGH"), "{line}");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}
