//! The mount's readahead window, which decides how many READs a file costs.
//!
//! The kernel reads ahead at most `min(INIT's max_readahead, what the kernel offered)`, and it offers 128 KiB
//! (`process_init_reply` in fs/fuse/inode.c takes the minimum). A file of 110 KiB mean then costs 1.35 READs; with the
//! window of the mount's backing device info (BDI) raised to 1 MiB it costs one. The BDI file belongs to root.

use std::fs;
use std::io;

/// Sets the window of the mount with this device number; the value now in force, or why it was not set.
pub(super) fn raise(major: u32, minor: u32, read_ahead_kb: u32) -> Result<u32, String> {
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    fs::write(&path, read_ahead_kb.to_string()).map_err(|error| reason(&path, &error))?;
    let text = fs::read_to_string(&path).map_err(|error| reason(&path, &error))?;
    text.trim().parse().map_err(|_| format!("{path} holds {:?}, which is no number", text.trim()))
}

fn reason(path: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("{path} is root's to write: run as root, or as root: echo 1024 > {path}")
        }
        io::ErrorKind::ReadOnlyFilesystem => format!("{path}: /sys is read-only here, as in most containers"),
        _ => format!("{path}: {error}"),
    }
}
