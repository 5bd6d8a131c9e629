//! FUSE: whether a mount can be made, by whom, and how a mount that is there is set.

use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{Check, read};
use crate::config::{find_program, user_allow_other};
use crate::control::mountinfo::{self, FUSE_TYPE, Mount};

/// Below it the kernel reads a small file in pieces of 128 KiB: 1.35 READs a file instead of 1.
const READ_AHEAD_KB: u32 = 1024;

pub(super) fn look(mountpoint: Option<&Path>) -> Vec<Check> {
    let root = nix::unistd::geteuid().is_root();
    let opened = open("/dev/fuse", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty());
    let conf = read("/etc/fuse.conf").unwrap_or_default();
    let mut checks = vec![
        device(opened.err()),
        fusermount(find_program("fusermount3").as_deref(), root),
        allow_other(&conf, root),
    ];
    if let Some(path) = mountpoint {
        let mounts = mountinfo::mounts().unwrap_or_default();
        let path = mountinfo::resolve(path).unwrap_or_else(|_| path.to_owned());
        let mount = mountinfo::mounted_at(&mounts, &path).filter(|mount| mount.fs_type == FUSE_TYPE);
        checks.push(options(mount));
        if let Some(mount) = mount {
            let text = read(format!("/sys/class/bdi/{}/read_ahead_kb", mount.device));
            checks.push(read_ahead(text.and_then(|text| text.parse().ok()), &mount.device));
        }
    }
    checks
}

fn device(error: Option<nix::errno::Errno>) -> Check {
    use nix::errno::Errno;
    match error {
        None => Check::ok("dev_fuse", "/dev/fuse can be opened"),
        Some(Errno::ENOENT) => Check::bad(
            "dev_fuse",
            "/dev/fuse is missing",
            "nothing can be mounted",
            "modprobe fuse; in a container start it with --device /dev/fuse",
        ),
        Some(errno) => Check::bad(
            "dev_fuse",
            format!("/dev/fuse: {}", errno.desc()),
            "nothing can be mounted",
            "chmod 0666 /dev/fuse (the mode of stock systems); in a container allow the device",
        ),
    }
}

fn fusermount(path: Option<&Path>, root: bool) -> Check {
    match path {
        Some(path) => Check::ok("fusermount3", path.display().to_string()),
        None if root => Check::ok("fusermount3", "not there, and root does not need it"),
        None => {
            Check::bad("fusermount3", "not in PATH", "an ordinary user cannot mount", "apt-get install fuse3")
        }
    }
}

fn allow_other(conf: &str, root: bool) -> Check {
    if root || user_allow_other(conf) {
        return Check::ok("user_allow_other", if root { "root needs no leave" } else { "allowed" });
    }
    Check::off(
        "user_allow_other",
        "not in /etc/fuse.conf",
        "--allow-other is refused: only you (not root, no container of another user) can read the mount",
        "add a line user_allow_other to /etc/fuse.conf",
    )
}

fn options(mount: Option<&Mount>) -> Check {
    match mount {
        None => Check::off(
            "mount",
            "no mount of epochcache there",
            "nothing is served",
            "epochcache mount --help",
        ),
        Some(mount) => Check::ok("mount", mount.options.clone()),
    }
}

fn read_ahead(kb: Option<u32>, device: &str) -> Check {
    match kb {
        Some(kb) if kb >= READ_AHEAD_KB => Check::ok("read_ahead_kb", kb.to_string()),
        _ => Check::warn(
            "read_ahead_kb",
            kb.map_or("unknown".into(), |kb| kb.to_string()),
            "a small file costs 1.35 READs instead of 1",
            &format!(
                "run the daemon as root, or: echo {READ_AHEAD_KB} | sudo tee /sys/class/bdi/{device}/read_ahead_kb"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::super::State;
    use super::*;

    #[test]
    fn a_machine_that_cannot_mount_is_told_the_package_or_the_module() {
        assert_eq!(device(None).state, State::Ok);
        assert!(device(Some(Errno::ENOENT)).do_what.contains("modprobe fuse"));
        assert_eq!(device(Some(Errno::EPERM)).state, State::Bad);
        assert_eq!(fusermount(None, true).state, State::Ok);
        assert!(fusermount(None, false).do_what.contains("fuse3"));
    }

    #[test]
    fn allow_other_is_an_ordinary_users_question() {
        assert_eq!(allow_other("", true).state, State::Ok);
        assert_eq!(allow_other("", false).state, State::Off);
        assert_eq!(allow_other("user_allow_other", false).state, State::Ok);
    }

    #[test]
    fn a_small_readahead_costs_requests() {
        assert_eq!(read_ahead(Some(1024), "0:50").state, State::Ok);
        let check = read_ahead(Some(128), "0:50");
        assert!(check.state == State::Warn && check.do_what.contains("/sys/class/bdi/0:50/"), "{check:?}");
    }
}
