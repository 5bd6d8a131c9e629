//! The images behind the emulated NVMe namespaces: made anew for each kernel, sparse, removed afterwards.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::protocol::{Holds, Namespace};
use super::{home, unavailable};
use crate::command::must;

/// With blocks of 512 bytes, as disks are sold, and of 4096, as they should be formatted.
pub const NAMESPACES: [Namespace; 4] = [
    Namespace { nsid: 1, block_bytes: 512, holds: Holds::Ext4 },
    Namespace { nsid: 2, block_bytes: 4096, holds: Holds::Xfs },
    Namespace { nsid: 3, block_bytes: 4096, holds: Holds::Raw },
    Namespace { nsid: 4, block_bytes: 512, holds: Holds::Raw },
];

/// Several caches of the tests' 1 GiB fit, one after the other and two at once.
const BYTES: u64 = 4 << 30;

/// ext4's features by name: what a newer mkfs would add, Linux 5.10 refuses to mount.
const EXT4_FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                             large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// The same for XFS comes with its mkfs.
const XFS_OF_5_10: &str = "/usr/share/xfsprogs/mkfs/lts_5.10.conf";

/// An image and the namespace it is shown as.
#[derive(Debug)]
pub struct Disk {
    /// As the guest sees it.
    pub namespace: Namespace,
    /// The image.
    pub image: PathBuf,
}

/// Makes the images for a guest with this kernel.
pub fn make(release: &str) -> anyhow::Result<Vec<Disk>> {
    let directory = home().join("disks");
    fs::create_dir_all(&directory)?;
    NAMESPACES
        .into_iter()
        .map(|namespace| {
            let image = directory.join(format!("{release}-{}.img", namespace.nsid));
            let _ = fs::remove_file(&image);
            File::create(&image)?.set_len(BYTES).with_context(|| image.display().to_string())?;
            format(&namespace, &image)?;
            Ok(Disk { namespace, image })
        })
        .collect()
}

fn format(namespace: &Namespace, image: &Path) -> anyhow::Result<()> {
    let mut mkfs = match namespace.holds {
        Holds::Ext4 => {
            let mut mkfs = mkfs("mkfs.ext4", "e2fsprogs")?;
            mkfs.args(["-q", "-b", "4096", "-O", EXT4_FEATURES]);
            mkfs
        }
        Holds::Xfs => {
            let size = format!("size={}", namespace.block_bytes);
            let mkfs_xfs = || -> anyhow::Result<Command> {
                let mut mkfs = mkfs("mkfs.xfs", "xfsprogs")?;
                mkfs.args(["-q", "-f", "-s", &size]);
                Ok(mkfs)
            };
            // Debian 12's mkfs does not understand the file it comes with, and needs no restraint either.
            let mut old = mkfs_xfs()?;
            old.arg("-N").arg("-c").arg(format!("options={XFS_OF_5_10}")).arg(image);
            let understood = old.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success();
            let mut mkfs = mkfs_xfs()?;
            if understood {
                mkfs.arg("-c").arg(format!("options={XFS_OF_5_10}"));
            }
            mkfs
        }
        Holds::Raw => return Ok(()),
    };
    must(mkfs.arg(image))
}

/// Fails if this machine cannot make the images.
pub fn check_tools() -> anyhow::Result<()> {
    mkfs("mkfs.ext4", "e2fsprogs")?;
    mkfs("mkfs.xfs", "xfsprogs").map(drop)
}

/// The program, also where an ordinary user's PATH does not have it.
fn mkfs(name: &str, package: &str) -> anyhow::Result<Command> {
    let candidates = [Path::new("/usr/sbin").join(name), Path::new("/sbin").join(name), name.into()];
    let starts = |program: &&PathBuf| Command::new(program).arg("-V").output().is_ok();
    let program = candidates.iter().find(starts);
    Ok(Command::new(
        program.ok_or_else(|| unavailable(format!("{name} is missing (apt-get install {package})")))?,
    ))
}

/// Removes the images.
pub fn remove(disks: &[Disk]) {
    for disk in disks {
        let _ = fs::remove_file(&disk.image);
    }
}
