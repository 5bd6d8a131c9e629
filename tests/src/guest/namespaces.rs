//! Which block device is which namespace, and its file system.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::protocol::{Holds, Namespace, PROGRAMS};
use super::system::{bind, mount_one};
use crate::bed::programs::wait_until;

/// Where the file system is that tests write on.
pub fn mountpoint(on: Holds) -> &'static Path {
    match on {
        // What tests of a raw device write elsewhere is little.
        Holds::Ext4 | Holds::Raw => Path::new("/disk/ext4"),
        Holds::Xfs => Path::new("/disk/xfs"),
    }
}

/// Waits for `namespace`, checks that it is what was asked for, and mounts its file system. Its device.
pub fn attach(namespace: &Namespace) -> anyhow::Result<PathBuf> {
    let mut found = None;
    wait_until(Duration::from_secs(60), &format!("namespace {} is there", namespace.nsid), || {
        found = find(Path::new("/sys/block"), namespace.nsid);
        Ok(found.as_ref().is_some_and(|name| Path::new("/dev").join(name).exists()))
    })?;
    let name = found.context("it was just found")?;
    let blocks = fs::read_to_string(format!("/sys/block/{name}/queue/logical_block_size"))?;
    ensure!(
        blocks.trim() == namespace.block_bytes.to_string(),
        "namespace {} ({name}) has blocks of {} bytes, not of {}",
        namespace.nsid,
        blocks.trim(),
        namespace.block_bytes
    );
    let device = Path::new("/dev").join(&name);
    let text = device.to_str().context("device names are ASCII")?;
    match namespace.holds {
        Holds::Ext4 => mount_one(text, "ext4", mountpoint(Holds::Ext4))?,
        Holds::Xfs => mount_one(text, "xfs", mountpoint(Holds::Xfs))?,
        Holds::Raw => {}
    }
    Ok(device)
}

/// The name of the block device with this namespace number.
fn find(sys_block: &Path, nsid: u32) -> Option<String> {
    let mut entries = fs::read_dir(sys_block).ok()?.flatten();
    entries.find_map(|entry| {
        let number = fs::read_to_string(entry.path().join("nsid")).ok()?;
        (number.trim() == nsid.to_string()).then(|| entry.file_name().to_string_lossy().into_owned())
    })
}

/// Makes the file system `on` the place where tests write: /tmp, and beside the programs, where some write as they
/// write into cargo's target directory. So the programs are on that file system too.
pub fn write_on(on: Holds, target_tmp: &Path) -> anyhow::Result<()> {
    let home = mountpoint(on);
    bind(&home.join("tmp"), Path::new("/tmp"))?;
    bind(&home.join("target-tmp"), target_tmp)?;
    // As /tmp is everywhere: some tests become an ordinary user.
    fs::set_permissions("/tmp", Permissions::from_mode(0o1777))?;
    let programs = home.join("programs");
    if !programs.exists() {
        copy_all(Path::new(PROGRAMS), &programs).context("copying the programs")?;
    }
    bind(&programs, Path::new(PROGRAMS))
}

/// Takes back what `write_on` did. What a test left mounted goes with it.
pub fn write_nowhere(target_tmp: &Path) {
    for target in [Path::new(PROGRAMS), target_tmp, Path::new("/tmp")] {
        let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Copies a directory with all below it.
fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_all(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_found_by_its_number_whatever_its_name() {
        let sys = tempfile::tempdir().unwrap();
        for (name, nsid) in [("nvme0n1", Some("2\n")), ("nvme0n2", Some("1\n")), ("loop0", None)] {
            fs::create_dir(sys.path().join(name)).unwrap();
            if let Some(nsid) = nsid {
                fs::write(sys.path().join(name).join("nsid"), nsid).unwrap();
            }
        }
        assert_eq!(find(sys.path(), 1).as_deref(), Some("nvme0n2"));
        assert_eq!(find(sys.path(), 2).as_deref(), Some("nvme0n1"));
        assert_eq!(find(sys.path(), 3), None);
    }
}
