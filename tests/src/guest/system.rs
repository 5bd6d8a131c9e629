//! What a distribution's init would have set up before our programs start.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::protocol::Module;

/// Pseudo file systems: source and type, where, and whether the guest is no use without.
const MOUNTS: [(&str, &str, bool); 9] = [
    ("proc", "/proc", true),
    ("sysfs", "/sys", true),
    ("devtmpfs", "/dev", true),
    ("tmpfs", "/dev/shm", true),
    ("tmpfs", "/run", true),
    // For the probes.
    ("tracefs", "/sys/kernel/tracing", false),
    ("bpf", "/sys/fs/bpf", false),
    ("cgroup2", "/sys/fs/cgroup", false),
    ("fusectl", "/sys/fs/fuse/connections", false),
];

/// Files without which libc and our programs are at a loss.
const FILES: [(&str, &str); 3] = [
    ("/etc/passwd", "root:x:0:0:root:/root:/none\nnobody:x:65534:65534:nobody:/:/none\n"),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
];

/// Mounts what every program expects, and writes the few files of /etc.
pub fn mount_basics() -> anyhow::Result<()> {
    for (kind, target, needed) in MOUNTS {
        let mounted = mount_one(kind, kind, Path::new(target));
        if needed {
            mounted?;
        }
    }
    for directory in ["/etc", "/root", "/tmp"] {
        fs::create_dir_all(directory)?;
    }
    for (path, text) in FILES {
        fs::write(path, text).with_context(|| path.to_owned())?;
    }
    // fusermount3 reads it before it unmounts.
    std::os::unix::fs::symlink("../proc/self/mounts", "/etc/mtab").context("/etc/mtab")
}

/// Mounts `source` on `target`, which is made.
pub fn mount_one(source: &str, kind: &str, target: &Path) -> anyhow::Result<()> {
    // Directories of sysfs are the kernel's to make: the mount says what is missing.
    let _ = fs::create_dir_all(target);
    mount(Some(source), target, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mounting {source} ({kind}) on {}", target.display()))
}

/// Shows `directory` at `target` too.
pub fn bind(directory: &Path, target: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(directory)?;
    fs::create_dir_all(target)?;
    mount(Some(directory), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("binding {} to {}", directory.display(), target.display()))
}

/// Loads modules in their order; one that is there already is fine. /dev/fuse is there afterwards.
pub fn load_modules(modules: &[Module]) -> anyhow::Result<()> {
    for module in modules {
        load_module(module).with_context(|| format!("loading {}", module.path.display()))?;
    }
    // udev's work elsewhere: anybody may mount FUSE.
    fs::set_permissions("/dev/fuse", Permissions::from_mode(0o666)).context("/dev/fuse")
}

fn load_module(module: &Module) -> anyhow::Result<()> {
    let file = File::open(&module.path)?;
    let parameters = std::ffi::CString::new(module.parameters.as_str())?;
    // SAFETY: finit_module(2) takes a descriptor, a string that ends with NUL, and flags.
    let done = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), parameters.as_ptr(), 0) };
    match Errno::result(done) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Brings up the loopback interface: the tests' servers listen on it.
pub fn loopback_up() -> anyhow::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: an `ifreq` of zeros is a valid one: an empty name, a union of plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which `request` is and stays for the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(done).context("bringing up the loopback interface")?;
    Ok(())
}
