//! Beginnings and ends of mounts, the bad ones above all.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fuse_frontend::memory::MemorySource;
use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::session::{Mount, MountError, MountOptions, MountedBy, Unmounted};

use crate::{Mounted, cannot_mount, is_root};

fn one_file() -> MemorySource {
    let source = MemorySource::new();
    source.add_file("file", vec![3; 3 << 20]);
    source
}

fn is_mounted(path: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(path.to_str().unwrap())
}

#[test]
fn a_mount_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Mount>();
    shared::<fuse_frontend::notifier::Notifier>();
}

#[test]
fn an_unused_mount_ends_cleanly_and_twice_is_once() {
    if cannot_mount() {
        return;
    }
    let mounted = Mounted::new(one_file(), ServeMode::Auto);
    assert_eq!(fs::read(mounted.path("file")).unwrap().len(), 3 << 20);
    assert_eq!(mounted.mount.unmount().unwrap(), Unmounted::Cleanly);
    assert!(!is_mounted(mounted.root()));
    assert_eq!(mounted.mount.unmount().unwrap(), Unmounted::AlreadyGone);
    mounted.mount.wait().unwrap();
}

#[test]
fn dropping_a_mount_unmounts_and_frees_the_source() {
    if cannot_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let source = Arc::new(one_file());
    let mount = Mount::start(MountOptions::new(dir.path(), "memory:"), source.clone()).unwrap();
    assert!(is_mounted(dir.path()));
    drop(mount);
    assert!(!is_mounted(dir.path()));
    assert_eq!(Arc::strong_count(&source), 1, "the threads are gone");
}

#[test]
fn wait_ends_when_somebody_else_unmounts() {
    if cannot_mount() {
        return;
    }
    for program in [["umount", "-i"], ["fusermount3", "-u"]] {
        let mounted = Mounted::new(one_file(), ServeMode::Auto);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| mounted.mount.wait());
            let status = Command::new(program[0]).arg(program[1]).arg(mounted.root()).status().unwrap();
            assert!(status.success(), "{program:?}");
            waiter.join().unwrap().unwrap();
        });
        assert_eq!(mounted.mount.unmount().unwrap(), Unmounted::AlreadyGone);
    }
}

#[test]
fn readers_of_a_mount_that_is_taken_away_get_an_error_and_the_threads_end() {
    if cannot_mount() || !is_root() {
        return;
    }
    let mounted = Mounted::with(one_file(), |options| options.busy_grace = Duration::from_millis(50));
    let held = mounted.hold_reads(|_| true);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| fs::read(mounted.path("file")))).collect();
        while held.lock().is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(mounted.mount.unmount().unwrap(), Unmounted::Forced);
        for reader in readers {
            let error = reader.join().unwrap().unwrap_err();
            let expected = [libc::ECONNABORTED, libc::ENOTCONN, libc::EIO, libc::ENOENT];
            assert!(expected.contains(&error.raw_os_error().unwrap()), "{error}");
        }
    });
    assert!(mounted.mount.is_ended() && !is_mounted(mounted.root()));
    // An answer after the end goes nowhere, and hurts nobody.
    for ticket in held.lock().drain(..) {
        ticket.data(&[]);
    }
}

#[test]
fn an_idle_open_file_loses_its_mount_after_the_grace() {
    if cannot_mount() || !is_root() {
        return;
    }
    let mounted = Mounted::with(one_file(), |options| options.busy_grace = Duration::from_millis(50));
    let file = File::open(mounted.path("file")).unwrap();
    assert_eq!(mounted.mount.unmount().unwrap(), Unmounted::Forced);
    assert!(file.read_at(&mut [0; 10], 2 << 20).is_err());
}

#[test]
fn bad_mountpoints_are_refused_before_anything_is_mounted() {
    if cannot_mount() {
        return;
    }
    let mounted = Mounted::new(one_file(), ServeMode::Auto);
    let start =
        |path: &Path| Mount::start(MountOptions::new(path, "memory:"), Arc::new(one_file())).map(drop);
    let error = start(mounted.root()).unwrap_err();
    assert!(matches!(error, MountError::AlreadyMounted { .. }), "{error}");
    assert!(error.to_string().contains("memory:///test,with a comma"), "{error}");
    assert!(matches!(start(&mounted.path("../no-such-dir")), Err(MountError::Missing { .. })));

    let full = tempfile::tempdir().unwrap();
    fs::write(full.path().join("inside"), "").unwrap();
    assert!(matches!(start(full.path()), Err(MountError::NotEmpty { .. })));
    let options = MountOptions { allow_non_empty: true, ..MountOptions::new(full.path(), "memory:") };
    let mount = Mount::start(options, Arc::new(one_file())).unwrap();
    assert!(full.path().join("file").exists());
    drop(mount);
    assert!(full.path().join("inside").exists());
}

#[test]
fn a_mount_covered_by_another_is_not_confused_with_it() {
    if cannot_mount() || !is_root() {
        return;
    }
    let mounted = Mounted::new(one_file(), ServeMode::Auto);
    let root = mounted.root();
    let none = None::<&str>;
    nix::mount::mount(Some("none"), root, Some("tmpfs"), nix::mount::MsFlags::empty(), none).unwrap();
    assert!(matches!(mounted.mount.unmount(), Err(MountError::Covered { .. })));
    nix::mount::umount(root).unwrap();
    assert_eq!(mounted.mount.unmount().unwrap(), Unmounted::Cleanly);
}

/// This test program again, in a process of its own, running one test that is otherwise ignored.
fn child(program: &mut Command, mountpoint: &Path) -> Child {
    child_running("lifecycle::child_that_mounts", program, mountpoint)
}

/// As [`child`], running `test`.
pub(crate) fn child_running(test: &str, program: &mut Command, mountpoint: &Path) -> Child {
    program.args(["--exact", test, "--ignored", "--nocapture"]);
    program.env("MOUNTPOINT", mountpoint).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Runs this test program as an ordinary user, with a /dev/fuse of mode 0666 as udev makes it. Some containers have
/// it root's only; so a node of our own is put over it, where nobody but the child sees it.
pub(crate) fn as_nobody() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
    command.arg(
        "dir=$(mktemp -d); mknod $dir/fuse c 10 229; chmod 666 $dir/fuse; mount --bind $dir/fuse /dev/fuse
         rm -r $dir
         exec setpriv --reuid=65534 --regid=65534 --clear-groups env PATH=\"${CHILD_PATH-$PATH}\" \"$0\" \"$@\"",
    );
    command.arg(std::env::current_exe().unwrap());
    command
}

/// Reads the child's output up to a line that starts with `word`, and returns that line.
pub(crate) fn await_line(child: &mut Child, word: &str) -> String {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines.map(Result::unwrap).find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("no line {word}"))
}

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn child_that_mounts() {
    let mountpoint = std::env::var_os("MOUNTPOINT").expect("set by the test that runs this one");
    let mut options = MountOptions::new(mountpoint, "memory:///child");
    options.allow_other = std::env::var_os("ALLOW_OTHER").is_some();
    options.busy_grace = Duration::from_millis(100);
    match Mount::start(options, Arc::new(one_file())) {
        Ok(mount) => {
            println!("\nMOUNTED {:?} {:?}", mount.report().mounted_by, mount.report().read_ahead_kb);
            // Until the parent closes the pipe, or kills us.
            let _ = std::io::stdin().read_line(&mut String::new());
            let _held =
                std::env::var_os("HOLD").map(|_| File::open(mount.report().mountpoint.join("file")).unwrap());
            println!("\nUNMOUNTED {:?}", mount.unmount().unwrap());
        }
        Err(error) => println!("\nFAILED {error}"),
    }
}

#[test]
fn a_dead_mount_of_an_earlier_run_is_cleared_away() {
    if cannot_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        // Twice without clearing: the second daemon clears the first's, and dies as well.
        let mut child = child(&mut Command::new("/proc/self/exe"), dir.path());
        await_line(&mut child, "MOUNTED");
        assert!(dir.path().join("file").exists());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(is_mounted(dir.path()), "the kernel keeps a dead mount");
    let mount = Mount::start(MountOptions::new(dir.path(), "memory:"), Arc::new(one_file())).unwrap();
    assert_eq!(mount.report().dead_mounts_cleaned, 1);
    assert_eq!(fs::read(dir.path().join("file")).unwrap().len(), 3 << 20);
    drop(mount);
    assert!(!is_mounted(dir.path()));
}

/// An ordinary user's id for tests: nobody's.
const NOBODY: u32 = 65534;

pub(crate) fn mountpoint_of_nobody() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    dir
}

pub(crate) fn no_fusermount() -> bool {
    let missing = Command::new("fusermount3").arg("--version").stdout(Stdio::null()).status().is_err();
    if missing {
        eprintln!("SKIPPED: fusermount3 is missing (package fuse3)");
    }
    missing
}

#[test]
fn an_ordinary_user_mounts_by_fusermount3() {
    if cannot_mount() || !is_root() || no_fusermount() {
        return;
    }
    let dir = mountpoint_of_nobody();
    let mut child = child(&mut as_nobody(), dir.path());
    let line = await_line(&mut child, "MOUNTED");
    assert!(line.contains(&format!("{:?}", MountedBy::Fusermount)), "{line}");
    assert!(line.contains("Err") && line.contains("read_ahead_kb"), "only root may raise readahead: {line}");
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", child.id())).unwrap();
    let mount = mounts.lines().find(|line| line.contains(dir.path().to_str().unwrap())).unwrap();
    assert!(mount.contains("fuse.epochcache memory:///child"), "{mount}");
    assert!(mount.contains("ro,nosuid,nodev"), "{mount}");
    drop(child.stdin.take());
    let line = await_line(&mut child, "UNMOUNTED");
    assert_eq!(line, "UNMOUNTED Cleanly");
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_ordinary_user_gets_rid_of_a_mount_in_use() {
    if cannot_mount() || !is_root() || no_fusermount() {
        return;
    }
    let dir = mountpoint_of_nobody();
    let mut child = child(as_nobody().env("HOLD", "1"), dir.path());
    await_line(&mut child, "MOUNTED");
    drop(child.stdin.take());
    // Aborting takes fusectl, which is not mounted everywhere.
    let line = await_line(&mut child, "UNMOUNTED");
    assert!(["UNMOUNTED Lazily", "UNMOUNTED Forced"].contains(&line.as_str()), "{line}");
    assert!(child.wait().unwrap().success());
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    if cannot_mount() || !is_root() {
        return;
    }
    let dir = mountpoint_of_nobody();
    let mut command = as_nobody();
    let output = child(command.env("CHILD_PATH", "/nonexistent"), dir.path()).wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("FAILED fusermount3 is missing") && text.contains("apt install fuse3"), "{text}");

    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
    command.arg("mount -t tmpfs none /dev; exec \"$0\" \"$@\"").arg(std::env::current_exe().unwrap());
    let output = child(&mut command, dir.path()).wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("FAILED /dev/fuse is missing") && text.contains("modprobe fuse"), "{text}");
}

#[test]
fn allow_other_without_permission_names_the_line_to_add() {
    if cannot_mount() || !is_root() || no_fusermount() {
        return;
    }
    let conf = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    if conf.lines().any(|line| line.trim() == "user_allow_other") {
        eprintln!("SKIPPED: /etc/fuse.conf allows it here");
        return;
    }
    let dir = mountpoint_of_nobody();
    let mut command = as_nobody();
    let output = child(command.env("ALLOW_OTHER", "1"), dir.path()).wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("FAILED") && text.contains("user_allow_other in /etc/fuse.conf"), "{text}");
}

#[test]
fn serving_threads_leave_inodes_alone_when_they_need_memory_and_others_do_not() {
    if cannot_mount() {
        return;
    }
    /// `PF_MEMALLOC_NOIO` of include/linux/sched.h, the same from Linux 5.6 to 6.18.
    const NOIO: u64 = 0x0008_0000;
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::start(MountOptions::new(dir.path(), "memory:"), Arc::new(one_file())).unwrap();
    if let Err(why) = &mount.report().io_flusher {
        return eprintln!("SKIPPED: {why}");
    }
    let mut seen = [0, 0];
    for task in fs::read_dir("/proc/self/task").unwrap() {
        // A thread of another test may be gone.
        let Ok(stat) = fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        let (name, rest) = stat.split_once('(').unwrap().1.rsplit_once(')').unwrap();
        let flags: u64 = rest.split_whitespace().nth(6).unwrap().parse().unwrap();
        let serves = name.starts_with("fuser-");
        if serves || name.starts_with("fuse-push") || name.starts_with("fuse-drop") {
            // One that has just been started may not have come to it.
            seen[usize::from(serves && flags & NOIO != 0)] += 1;
        }
        assert!(serves || name.starts_with("fuse-session") || flags & NOIO == 0, "{name}: {flags:#x}");
    }
    assert!(seen[0] >= 3 && seen[1] >= 4, "{seen:?}");
}
