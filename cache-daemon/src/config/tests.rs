//! Each bad command line and its message; what a good one means.

use std::path::Path;

use clap::Parser;
use nix::errno::Errno;

use super::place::{Machine, user_allow_other};
use super::*;
use crate::control::mountinfo;

fn machine() -> Machine {
    Machine {
        uid: 0,
        gid: 0,
        mounts: mountinfo::parse(b"22 1 259:1 / / rw - ext4 /dev/root rw\n"),
        fuse_device: Ok(()),
        fusermount: true,
        fuse_conf: String::new(),
    }
}

/// A mountpoint and a place for a cache on a disk; None where the temporary directory is in memory.
struct Dirs(tempfile::TempDir);

impl Dirs {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).or_else(|_| tempfile::tempdir()).ok()?;
        let fs = nix::sys::statfs::statfs(dir.path()).ok()?;
        if fs.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC {
            eprintln!("skipped: {} is on tmpfs, and a cache there is refused", dir.path().display());
            return None;
        }
        std::fs::create_dir(dir.path().join("mnt")).ok()?;
        Some(Self(dir))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("made of ASCII").to_owned()
    }

    fn config(&self, more: &[&str]) -> Result<Config, ConfigError> {
        self.config_on(&machine(), &self.path("mnt"), &self.path("cache"), more)
    }

    fn config_on(
        &self,
        machine: &Machine,
        mnt: &str,
        cache: &str,
        more: &[&str],
    ) -> Result<Config, ConfigError> {
        Config::on(&parsed(mnt, cache, more), machine)
    }

    fn refusal(&self, more: &[&str]) -> String {
        self.config(more).expect_err("it is bad input").to_string()
    }
}

fn parsed(mnt: &str, cache: &str, more: &[&str]) -> MountArgs {
    let mut line = vec!["epochcache", "mount", "s3://bucket/train", mnt, "--cache-dir", cache];
    if !more.contains(&"--cache-size") {
        line.extend(["--cache-size", "128MiB"]);
    }
    line.extend(more);
    let Command::Mount(args) = Args::try_parse_from(line).expect("clap takes it").command;
    *args
}

#[track_caller]
fn assert_one_line(message: &str, parts: &[&str]) {
    assert!(!message.contains('\n'), "{message:?} is more than one line");
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn a_plain_command_line_means_the_defaults() {
    let Some(dirs) = Dirs::new() else { return };
    let config = dirs.config(&[]).expect("it is good input");
    assert_eq!(config.store.size_bytes, 128 << 20);
    assert_eq!(config.store.places, [Place::Directory(config.store.cache_dir.clone())]);
    assert_eq!((config.mount.file_mode, config.mount.dir_mode), (0o444, 0o555));
    assert_eq!(config.mount.serve, ServeChoice::Auto);
    assert_eq!(config.mount.io_mode, IoMode::AutoCache);
    assert_eq!(config.mount.verify, VerifyChoice::Once);
    assert!(config.mount.page_cache.bytes > 0 && !config.mount.page_cache.is_cut);
    assert_eq!(config.revalidate, Revalidate::Every(Duration::from_secs(300)));
    assert_eq!(config.process.log_file, None);
    assert!(!Path::new(&dirs.path("cache")).exists(), "checking must not make anything");
}

#[test]
fn a_daemon_logs_into_its_cache_directory() {
    let Some(dirs) = Dirs::new() else { return };
    let config = dirs.config(&["--daemon"]).expect("it is good input");
    assert_eq!(config.process.log_file, Some(config.store.cache_dir.join("epochcache.log")));
    let config = dirs.config(&["--daemon", "--log-file", "x.log"]).expect("it is good input");
    assert!(config.process.log_file.expect("it was given").is_absolute());
}

#[test]
fn every_bad_value_is_named_with_what_to_give() {
    let Some(dirs) = Dirs::new() else { return };
    let cases: &[(&[&str], &[&str])] = &[
        (&["--cache-size", "many"], &["--cache-size many", "not a size", "500GiB"]),
        (&["--cache-size", "1MiB"], &["two segments", "128MiB"]),
        (&["--file-from", "large"], &["--file-from large", "not a size", "4MiB"]),
        (&["--cache-size", "2PiB"], &["more than 1PiB"]),
        (&["--cache-size", "999TiB"], &["has room for", "give at most that"]),
        (&["--file-mode", "rw"], &["--file-mode rw", "octal"]),
        (&["--dir-mode", "7777"], &["--dir-mode 7777", "octal"]),
        (&["--threads", "0"], &["--threads 0", "1 to 256"]),
        (&["--origin-requests", "100000"], &["1 to 4096"]),
        (&["--origin-deadline", "soon"], &["--origin-deadline soon", "30s"]),
        (&["--origin-deadline", "1ms"], &["at least 1s"]),
        (&["--revalidate", "0s"], &["at least 1s", "--immutable"]),
        (&["--page-cache-size", "all"], &["--page-cache-size all", "not a size", "16GiB"]),
        (&["--io-mode", "direct_io", "--serve", "noopen"], &["direct_io", "leave out --serve noopen"]),
        (&["--io-mode", "kernel_cache", "--revalidate", "1h"], &["kernel_cache", "leave out --revalidate"]),
        (&["--endpoint", "minio:9000"], &["--endpoint minio:9000", "http(s)://host:port"]),
        (&["--endpoint", "minio"], &["--endpoint minio", "http(s)://host:port"]),
        (&["--endpoint", "s3://minio:9000"], &["s3 is not a protocol", "http(s)://host:port"]),
        (&["--log-level", "loud=x=y"], &["--log-level", "give error, warn"]),
        (&["--sqpoll", "--engine", "psync"], &["--sqpoll needs io_uring"]),
        (&["--iopoll", "--engine", "psync"], &["--iopoll needs io_uring"]),
        (&["--anonymous", "--profile", "p"], &["--anonymous", "--profile"]),
        (&["--cache-dev", "/dev/null"], &["/dev/null", "neither a directory nor a block device"]),
        (&["--cache-dev", "/no/such"], &["/no/such", "existing directory or block device"]),
    ];
    for (line, parts) in cases {
        assert_one_line(&dirs.refusal(line), parts);
    }
}

#[test]
fn an_io_mode_says_when_changes_are_looked_for_and_what_is_pushed() {
    let Some(dirs) = Dirs::new() else { return };
    let config = |more: &[&str]| dirs.config(more).expect("it is good input");
    let kernel_cache = config(&["--io-mode", "kernel_cache"]);
    assert_eq!(kernel_cache.revalidate, Revalidate::AtStart);
    assert_eq!(config(&["--io-mode", "kernel_cache", "--immutable"]).revalidate, Revalidate::Never);
    let direct = config(&["--io-mode", "direct_io", "--page-cache-size", "1GiB"]);
    assert_eq!((direct.mount.page_cache.bytes, direct.revalidate.interval().is_some()), (0, true));
    assert_eq!(config(&["--page-cache-size", "0"]).mount.page_cache.bytes, 0);
    assert!(config(&["--page-cache-size", "900TiB"]).mount.page_cache.is_cut, "more than any machine has");
}

#[test]
fn a_mountpoint_must_be_there_be_a_directory_and_be_empty() {
    let Some(dirs) = Dirs::new() else { return };
    let refusal = |mnt: &str| {
        let args = parsed(mnt, &dirs.path("cache"), &[]);
        Config::on(&args, &machine()).expect_err("it is bad input").to_string()
    };
    assert_one_line(&refusal(&dirs.path("none")), &["does not exist", "mkdir -p"]);
    std::fs::write(dirs.path("file"), "").expect("the directory is ours");
    assert_one_line(&refusal(&dirs.path("file")), &["not a directory"]);
    std::fs::write(dirs.path("mnt/x"), "").expect("the directory is ours");
    assert_one_line(&refusal(&dirs.path("mnt")), &["not empty"]);
}

#[test]
fn what_is_mounted_already_is_refused_by_name() {
    let Some(dirs) = Dirs::new() else { return };
    let mnt = std::fs::canonicalize(dirs.path("mnt")).expect("it was made");
    for (fs_type, part) in
        [("fuse.epochcache", "cachectl umount"), ("fuse.sshfs", "fuse.sshfs s3://b is mounted there")]
    {
        let line = format!("70 22 0:50 / {} rw - {fs_type} s3://b rw\n", mnt.display());
        let machine = Machine { mounts: mountinfo::parse(line.as_bytes()), ..machine() };
        let refusal = dirs.config_on(&machine, &dirs.path("mnt"), &dirs.path("cache"), &[]);
        assert_one_line(&refusal.expect_err("it is mounted").to_string(), &[part]);
    }
}

#[test]
fn an_empty_volume_of_a_container_is_a_mountpoint() {
    let Some(dirs) = Dirs::new() else { return };
    let mnt = std::fs::canonicalize(dirs.path("mnt")).expect("it was made");
    let line = format!(
        "22 1 259:1 / / rw - ext4 /dev/root rw\n70 22 259:1 /v {} rw - ext4 /dev/root rw\n",
        mnt.display()
    );
    let machine = Machine { mounts: mountinfo::parse(line.as_bytes()), ..machine() };
    dirs.config_on(&machine, &dirs.path("mnt"), &dirs.path("cache"), &[]).expect("it is good input");
}

#[test]
fn path_style_is_left_open_unless_it_is_given() {
    let Some(dirs) = Dirs::new() else { return };
    let style = |more: &[&str]| dirs.config(more).expect("it is good input").origin.path_style;
    assert_eq!(style(&[]), None);
    assert_eq!(style(&["--path-style"]), Some(true));
    assert_eq!(style(&["--path-style=false"]), Some(false));
}

#[test]
fn cache_and_mountpoint_must_not_lie_in_each_other() {
    let Some(dirs) = Dirs::new() else { return };
    let refusal = |mnt: &str, cache: &str| {
        let result = dirs.config_on(&machine(), &dirs.path(mnt), &dirs.path(cache), &[]);
        result.expect_err("they overlap").to_string()
    };
    assert_one_line(&refusal("mnt", "mnt"), &["lies in the mountpoint"]);
    assert_one_line(&refusal("mnt", "mnt/cache/deep"), &["lies in the mountpoint"]);
    assert_one_line(&refusal("mnt", "."), &["holds the mountpoint"]);
}

#[test]
fn a_cache_in_memory_or_in_a_file_is_refused() {
    let Some(dirs) = Dirs::new() else { return };
    let refusal = |cache: &str| {
        let result = dirs.config_on(&machine(), &dirs.path("mnt"), cache, &[]);
        result.expect_err("it is bad input").to_string()
    };
    std::fs::write(dirs.path("file"), "").expect("the directory is ours");
    assert_one_line(&refusal(&dirs.path("file")), &["not a directory"]);
    match nix::sys::statfs::statfs("/dev/shm") {
        Ok(fs) if fs.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC => {
            assert_one_line(&refusal("/dev/shm/cache"), &["tmpfs", "local disk"]);
        }
        _ => eprintln!("skipped in part: /dev/shm is no tmpfs here"),
    }
}

#[test]
fn a_cache_in_one_of_our_mounts_is_refused() {
    let Some(dirs) = Dirs::new() else { return };
    let at = std::fs::canonicalize(dirs.0.path()).expect("it was made");
    let line = format!("70 22 0:50 / {} rw - fuse.epochcache s3://b rw\n", at.display());
    let machine = Machine { mounts: mountinfo::parse(line.as_bytes()), ..machine() };
    let refusal = dirs.config_on(&machine, &dirs.path("mnt"), &dirs.path("cache"), &[]);
    assert_one_line(&refusal.expect_err("it is ours").to_string(), &["lies in a mount of epochcache"]);
}

#[test]
fn a_machine_without_fuse_names_the_package() {
    let ordinary = || Machine { uid: 1000, ..machine() };
    let refusal =
        |machine: Machine, allow| machine.can_mount(allow).expect_err("it cannot mount").to_string();
    let device = |errno| Machine { fuse_device: Err(errno), ..machine() };
    assert_one_line(&refusal(device(Errno::ENOENT), false), &["modprobe fuse", "--device"]);
    assert_one_line(&refusal(device(Errno::EACCES), false), &["chmod 0666 /dev/fuse"]);
    assert_one_line(&refusal(Machine { fusermount: false, ..ordinary() }, false), &["package fuse3"]);
    assert_one_line(&refusal(ordinary(), true), &["user_allow_other", "/etc/fuse.conf"]);
    let told = Machine { fuse_conf: "user_allow_other\n".into(), ..ordinary() };
    assert!(told.can_mount(true).is_ok());
}

#[test]
fn a_commented_word_in_fuse_conf_does_not_count() {
    assert!(!user_allow_other("#user_allow_other\n"));
    assert!(user_allow_other("mount_max = 10\n  user_allow_other # yes\n"));
}

#[test]
fn claps_own_refusals_are_one_line_too() {
    for line in [
        &["epochcache", "mount", "s3://b"][..],
        &[
            "epochcache",
            "mount",
            "s3://b",
            "/mnt",
            "--cache-dir",
            "/c",
            "--cache-size",
            "1G",
            "--serve",
            "both",
        ],
        &["epochcache", "mount", "s3://b", "/mnt", "--cache-dri", "/c"],
    ] {
        let error = Args::try_parse_from(line).expect_err("it is bad input");
        assert_one_line(&one_line(&error, "epochcache mount --help"), &["see `epochcache mount --help`"]);
    }
}
