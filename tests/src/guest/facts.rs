//! What this kernel has, asked of the kernel; and what the daemon makes of it.
//!
//! The host knows what each kernel must have and compares (`xtask/src/vm/facts.rs`): a feature that is silently not used
//! fails the run as a wrong byte does.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::Context;

use super::fuse;
use super::protocol::{Daemon, Facts, LargeFiles};
use crate::bed::data_set::Shape;
use crate::bed::mount::{Bed, PATIENCE};
use crate::bed::programs::wait_until;
use crate::bed::s3::Weather;

/// Bits of `io_uring_params::flags` (Linux `include/uapi/linux/io_uring.h`). DEFER_TASKRUN needs SINGLE_ISSUER.
const URING_FLAGS: [(&str, u32); 5] = [
    ("IOPOLL", 1),
    ("SQPOLL", 1 << 1),
    ("COOP_TASKRUN", 1 << 8),
    ("SINGLE_ISSUER", 1 << 12),
    ("DEFER_TASKRUN", 1 << 13 | 1 << 12),
];

/// Asks the kernel.
pub fn look() -> anyhow::Result<Facts> {
    let (fuse_protocol, fuse_flags) = fuse::offer()?;
    let taken = URING_FLAGS.iter().filter(|(_, bits)| takes(*bits)).map(|(name, _)| (*name).to_owned());
    Ok(Facts {
        fuse_protocol,
        fuse_flags,
        uring: takes(0),
        uring_flags: taken.collect(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        module_btf: btf_of_modules(),
    })
}

/// Whether a ring can be made with these flags. It is given back at once.
fn takes(flags: u32) -> bool {
    /// `io_uring_params` is 120 bytes; `flags` is its third word.
    const WORDS: usize = 30;
    let mut params = [0_u32; WORDS];
    params[2] = flags;
    // SAFETY: io_uring_setup(2) reads and writes one `io_uring_params`, as long as `params`.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr()) };
    let Ok(fd) = i32::try_from(fd) else { return false };
    if fd >= 0 {
        // SAFETY: the call succeeded: a new descriptor that nobody else owns.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    fd >= 0
}

fn btf_of_modules() -> bool {
    let Ok(entries) = fs::read_dir("/sys/kernel/btf") else { return false };
    entries.flatten().any(|entry| entry.file_name() != "vmlinux")
}

/// Mounts a small data set, reads it, and asks the daemon what it uses.
pub fn ask_daemon() -> anyhow::Result<Daemon> {
    const FILES: usize = 20;
    let bed = Bed::new(&Shape::of(FILES), &Weather::default())?;
    let mount = bed.mount(&[])?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(FILES)?;
    wait_until(PATIENCE, "the probes are loaded or given up", || Ok(!mount.stats()?.probes_load()))?;
    let stats = mount.stats()?;
    let text = |section: &str, name: &str| -> anyhow::Result<String> {
        let value = stats.0[section][name].as_str();
        Ok(value.with_context(|| format!("stats have no {section}.{name}"))?.to_owned())
    };
    let off = stats.0["degraded"].as_array().context("stats have no list of what is off")?;
    let off = off
        .iter()
        .filter_map(|entry| Some(format!("{}: {}", entry["what"].as_str()?, entry["why"].as_str()?)));
    let programs = stats.0["probes"]["attached"].as_array().context("stats have no list of probes")?;
    let daemon = Daemon {
        serve: text("mount", "serve")?,
        engine: text("store", "engine")?,
        probe_tier: text("probes", "tier")?,
        probe_programs: programs.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        large_files: large_files().context("large files")?,
        read_ahead_kb: stats.read_ahead_kb(),
        off: off.collect(),
    };
    mount.unmount()?;
    Ok(daemon)
}

/// Reads large files that are whole in the cache, with nothing of them in the kernel's.
fn large_files() -> anyhow::Result<LargeFiles> {
    let first_sizes = vec![5 << 20, (12 << 20) + 4097, 20 << 20];
    let files = first_sizes.len();
    let bed = Bed::new(&Shape { first_sizes, ..Shape::of(files) }, &Weather::default())?;
    let mount = bed.mount(&["--serve", "open"])?;
    let epoch = |number| bed.readers(&mount)?.epoch(number)?.must_be_right(files);
    epoch(1)?;
    mount.wait_until_stored()?;
    wait_until(PATIENCE, "the files are complete", || {
        Ok(mount.stats()?.figure("store_files_completed") == files as u64)
    })?;
    fs::write("/proc/sys/vm/drop_caches", "1").context("dropping the page cache")?;
    let before = mount.stats()?;
    epoch(2)?;
    let after = mount.stats()?;
    mount.unmount()?;
    Ok(LargeFiles {
        files: files as u64,
        passthrough: after.grown(&before, "fuse_opened_passthrough"),
        daemon_reads: after.grown(&before, "fuse_read"),
    })
}
