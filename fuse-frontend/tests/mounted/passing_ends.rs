//! How the kernel lets go of a local file: revoked, forgotten, unmounted, orphaned.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use fuse_frontend::notifier::Notified;
use fuse_frontend::session::{Mount, MountOptions, Unmounted};
use fuse_frontend::source::Ino;
use fuse_frontend::transport::passthrough::{Revoke, Revoked};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::backed::{Backed, COPIED, backing_dir, source_of};
use crate::lifecycle::{await_line, child_running};
use crate::{cannot_mount, is_root, until};

#[test]
fn a_file_that_leaves_the_store_while_it_is_open_is_read_to_its_end() {
    let Some(backed) = Backed::new(&[1 << 20]) else { return };
    let source = &backed.mounted.source;
    let file = backed.open(0);
    fs::remove_file(backed.backing(0)).unwrap();
    assert_eq!(backed.mounted.mount.revoke(backed.ino(0), Revoke::Gone), Revoked::Deferred(1));
    let mut read = vec![0; 1 << 20];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == backed.bytes(0));
    // The kernel takes no other way of opening it now, and the bytes are right.
    assert!(backed.is_passed(0));
    assert_eq!(source.lent(backed.ino(0)), 1, "its space is not free yet");
    drop(file);
    until("the kernel's letting go", || source.lent(backed.ino(0)) == 0);
    assert!(!backed.is_passed(0), "the next first open is served by copy");
    assert_eq!(backed.figure("fuse_backing_ids"), 0);
}

#[test]
fn an_idle_file_is_let_go_at_once() {
    let Some(backed) = Backed::new(&[50_000]) else { return };
    assert_eq!(backed.mounted.mount.revoke(backed.ino(0), Revoke::Gone), Revoked::NotRegistered);
    assert!(backed.is_passed(0));
    fs::remove_file(backed.backing(0)).unwrap();
    until("the last RELEASE", || match backed.mounted.mount.revoke(backed.ino(0), Revoke::Gone) {
        Revoked::NotRegistered => true,
        Revoked::Now => {
            backed.mounted.source.take_back(backed.ino(0));
            true
        }
        Revoked::Deferred(_) => false,
    });
    until("the kernel's letting go", || backed.mounted.source.lent_in_all() == 0);
    assert!(!backed.is_passed(0));
}

#[test]
fn a_damaged_file_gets_no_new_readers_and_a_moved_name_serves_them_unnoticed() {
    let Some(backed) = Backed::new(&[50_000]) else { return };
    let held = backed.open(0);
    fs::remove_file(backed.backing(0)).unwrap();
    assert_eq!(backed.mounted.mount.revoke(backed.ino(0), Revoke::Damaged), Revoked::Deferred(1));
    let error = File::open(backed.path(0)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "the name still names the node");
    // The kernel looks the name up again by itself when an open is answered ESTALE.
    let replaced = backed.mounted.source.replace("f0", vec![COPIED; 50_000]);
    let file = File::open(backed.path(0)).unwrap();
    assert_eq!(file.metadata().unwrap().ino(), replaced.new.0);
    assert!(!backed.is_passed(0));
    drop(held);
    until("the kernel's letting go", || backed.mounted.source.lent_in_all() == 0);
}

#[test]
fn an_inode_that_the_kernel_forgets_gives_its_id_back() {
    let Some(backed) = Backed::new(&[50_000]) else { return };
    assert!(backed.is_passed(0));
    let notifier = backed.mounted.mount.notifier();
    // The name gone from the kernel's cache, nothing holds the inode once its RELEASE is answered.
    assert_eq!(notifier.entry_changed(Ino::ROOT, b"f0").unwrap(), Notified::Done);
    until("FORGET", || backed.figure("fuse_backing_ids") == 0);
    until("the kernel's letting go", || backed.mounted.source.lent_in_all() == 0);
    assert!(backed.is_passed(0), "and gets one again");
}

#[test]
fn readers_and_revocations_at_once_never_see_an_error_or_a_wrong_byte() {
    const FILES: usize = 4;
    let Some(backed) = Backed::with(&[30_000; FILES], |options| options.backing_ids_max = 3) else { return };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = StdRng::seed_from_u64(1);
            while !done.load(Relaxed) {
                let n = random.random_range(0..FILES);
                let hidden = backed.dir.path().join(format!("hidden-{n}"));
                fs::rename(backed.backing(n), &hidden).unwrap();
                if backed.mounted.mount.revoke(backed.ino(n), Revoke::Gone) == Revoked::Now {
                    backed.mounted.source.take_back(backed.ino(n));
                }
                std::thread::yield_now();
                fs::rename(&hidden, backed.backing(n)).unwrap();
            }
        });
        let readers: Vec<_> = (0..6)
            .map(|seed| {
                let backed = &backed;
                scope.spawn(move || {
                    let mut random = StdRng::seed_from_u64(100 + seed);
                    let mut passed = 0;
                    for _ in 0..1500 {
                        let n = random.random_range(0..FILES);
                        let held = random.random_bool(0.3).then(|| backed.open(n));
                        passed += usize::from(backed.is_passed(n));
                        drop(held);
                    }
                    passed
                })
            })
            .collect();
        let passed: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
        done.store(true, Relaxed);
        assert!(passed > 0 && passed < 9000, "{passed} of 9000 passed through: the test tests nothing");
    });
    let ids = || backed.figure("fuse_backing_registered") - backed.figure("fuse_backing_closed");
    until("balance", || backed.mounted.source.lent_in_all() as u64 == backed.figure("fuse_backing_ids"));
    assert_eq!(ids(), backed.figure("fuse_backing_ids"));
}

#[test]
fn open_files_read_on_after_the_mount_is_gone() {
    let Some(backed) = Backed::with(&[1 << 20], |options| {
        options.busy_grace = std::time::Duration::from_millis(50);
    }) else {
        return;
    };
    let file = backed.open(0);
    let path = backed.path(0);
    assert_eq!(backed.mounted.mount.unmount().unwrap(), Unmounted::Forced);
    let mut read = vec![0; 1 << 20];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == backed.bytes(0));
    assert!(File::open(&path).is_err());
    assert_eq!(backed.mounted.source.lent_in_all(), 0, "the source is told at the end");
    assert_eq!(backed.mounted.mount.revoke(backed.ino(0), Revoke::Gone), Revoked::NotRegistered);
}

/// Mounts two files with local files of `BACKING`; takes every descriptor when told so, and gives them back.
#[test]
#[ignore = "run by other tests, in a process of its own"]
fn child_that_passes_through() {
    let mountpoint = std::env::var_os("MOUNTPOINT").expect("set by the test that runs this one");
    let dir = std::path::PathBuf::from(std::env::var_os("BACKING").expect("set as well"));
    let (source, _) = source_of(&[100_000, 100_000], &dir);
    source.on_backing(move |ino| File::open(dir.join(ino.0.to_string())).ok());
    let mut options = MountOptions::new(mountpoint, "memory:///child");
    options.serve = fuse_frontend::negotiate::ServeMode::Open;
    let mount = Mount::start(options, Arc::new(source)).unwrap();
    println!("\nMOUNTED {:?}", mount.report().passthrough);
    let told = || std::io::stdin().read_line(&mut String::new()).is_ok_and(|bytes| bytes > 0);
    if told() {
        let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
        nix::sys::resource::setrlimit(limit, 256, 256).unwrap();
        let taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        println!("\nTAKEN {}", taken.len());
        told();
        drop(taken);
        println!("\nGIVEN");
        told();
    }
}

fn no_passthrough(line: &str) -> bool {
    let missing = line.contains("Err");
    if missing {
        eprintln!("SKIPPED: no passthrough here: {line}");
    }
    missing
}

#[test]
fn open_files_read_on_after_the_daemon_was_killed_and_new_opens_fail() {
    if cannot_mount() || !is_root() {
        return;
    }
    let (mountpoint, backing) = (LeftBehind(tempfile::tempdir().unwrap()), backing_dir());
    let dir = &mountpoint.0;
    let mut command = Command::new("/proc/self/exe");
    command.env("BACKING", backing.path());
    let mut child = child_running("passing_ends::child_that_passes_through", &mut command, dir.path());
    let skip = no_passthrough(&await_line(&mut child, "MOUNTED"));
    let path = dir.path().join("f1");
    let file = File::open(&path).unwrap();
    // The first statx of a mount asks for more than the kernel has (the birth time), and is answered ENOSYS.
    file.metadata().unwrap();
    let length = std::num::NonZeroUsize::new(100_000).unwrap();
    let (read_only, shared) = (ProtFlags::PROT_READ, MapFlags::MAP_SHARED);
    // SAFETY: a fresh mapping at an address of the kernel's choice; the file's size never changes.
    let map = unsafe { mmap(None, length, read_only, shared, &file, 0) }.unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    if !skip {
        // SAFETY: the mapping is `length` bytes long and lives until munmap below.
        let mapped = unsafe { std::slice::from_raw_parts(map.as_ptr().cast::<u8>(), 100_000) };
        assert!(mapped == crate::backed::bytes(100_000, 1), "its pages were never touched before");
        let mut read = vec![0; 100_000];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read == crate::backed::bytes(100_000, 1));
        assert_eq!(
            file.metadata().unwrap().len(),
            100_000,
            "attributes are the kernel's, while they are valid"
        );
        assert_eq!(File::open(&path).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    }
    // SAFETY: mapped above; the slice is not used any more.
    unsafe { munmap(map, 100_000) }.unwrap();
}

/// A mount that its daemon leaves behind, detached when dropped.
struct LeftBehind(tempfile::TempDir);

impl Drop for LeftBehind {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn without_a_descriptor_to_spare_files_are_copied_and_later_passed_through() {
    use std::io::Write;
    if cannot_mount() || !is_root() {
        return;
    }
    let (dir, backing) = (tempfile::tempdir().unwrap(), backing_dir());
    let mut command = Command::new("/proc/self/exe");
    command.env("BACKING", backing.path());
    let mut child = child_running("passing_ends::child_that_passes_through", &mut command, dir.path());
    let skip = no_passthrough(&await_line(&mut child, "MOUNTED"));
    let mut tell = child.stdin.take().unwrap();
    if !skip {
        let passed = |name: &str, seed| {
            let read = fs::read(dir.path().join(name)).unwrap();
            assert_eq!(read.len(), 100_000);
            read == crate::backed::bytes(100_000, seed)
        };
        assert!(passed("f0", 0));
        tell.write_all(b"take\n").unwrap();
        await_line(&mut child, "TAKEN");
        assert!(passed("f0", 0), "its id needs no descriptor");
        assert!(!passed("f1", 1));
        tell.write_all(b"give\n").unwrap();
        await_line(&mut child, "GIVEN");
        until("the next first open", || passed("f1", 1));
    }
    drop(tell);
    child.wait().unwrap();
}

#[test]
fn an_open_waits_for_no_other_open() {
    let Some(backed) = Backed::new(&[10_000, 10_000]) else { return };
    let gate = Arc::new(Mutex::new(()));
    let shut = gate.lock();
    let (dir, slow, waits) = (backed.dir.clone(), backed.ino(0), gate.clone());
    backed.mounted.source.on_backing(move |ino| {
        if ino == slow {
            drop(waits.lock());
        }
        File::open(dir.path().join(ino.0.to_string())).ok()
    });
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| backed.is_passed(0));
        let others: HashMap<_, _> = (0..5).map(|round| (round, backed.is_passed(1))).collect();
        assert!(others.values().all(|&passed| passed));
        assert!(!opening.is_finished());
        drop(shut);
        assert!(opening.join().unwrap());
    });
}
