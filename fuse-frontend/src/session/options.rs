//! What a mount is asked to be.

use std::path::PathBuf;
use std::time::Duration;

use crate::negotiate::ServeMode;

/// How to mount; [`MountOptions::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// What /proc/mounts calls the source: the origin's URL, without credentials.
    pub fs_name: String,
    /// Threads that read /dev/fuse; None: [`MountOptions::threads_for`] the machine's cores.
    pub threads: Option<usize>,
    /// Let users other than the mounting one in. As an ordinary user that needs `user_allow_other` in fuse.conf.
    pub allow_other: bool,
    /// Owner of every node.
    pub uid: u32,
    /// Group of every node.
    pub gid: u32,
    /// Permission bits of files.
    pub file_mode: u16,
    /// Permission bits of directories.
    pub dir_mode: u16,
    /// Whether files are opened; see [`crate::negotiate`].
    pub serve: ServeMode,
    /// No page of a file is kept by the kernel, each read(2) is a READ: files are opened then, and not passed through.
    pub direct_io: bool,
    /// Hand whole local files to the kernel where it takes them; off where every byte is to be checked at every read.
    pub passthrough: bool,
    /// Share, 0 to 1, of the data set's bytes in objects that get a local file: what [`ServeMode::Auto`] goes by.
    pub large_share: f64,
    /// The most local files registered with the kernel at once, each of which keeps
    /// [`crate::transport::passthrough::KERNEL_BYTES_PER_ID`] there; the longest unused give way.
    pub backing_ids_max: usize,
    /// The most bytes that pushed pages may take of the page cache; 0: nothing is pushed. See [`crate::push`].
    pub push_bytes_max: u64,
    /// Readahead window of the mount, KiB; needs root, else the kernel's 128 stay.
    pub read_ahead_kb: u32,
    /// The most bytes of one READ; the kernel's limit is 1 MiB unless `fs.fuse.max_pages_limit` is raised.
    pub max_read_bytes: u32,
    /// Reads ahead that may be under way at once. When so many wait for a slow origin, the kernel holds back every
    /// further one, those of cached files too; so it is well above the number of readers. Each may pin
    /// `max_read_bytes` of page cache.
    pub max_background: u16,
    /// Reads under way from which the kernel stops starting optional ones; None: 3/4 of `max_background`.
    pub congestion_threshold: Option<u16>,
    /// Mount over a directory that is not empty, hiding what is in it.
    pub allow_non_empty: bool,
    /// Target of the symlink `.epochcache` in the root: found by name, never listed.
    pub control_dir: Option<PathBuf>,
    /// How long unmounting waits for readers before it takes the mount away from them.
    pub busy_grace: Duration,
}

impl MountOptions {
    /// A mount of `fs_name` at `mountpoint`, owned by this process's user, readable to all who may come in.
    pub fn new(mountpoint: impl Into<PathBuf>, fs_name: impl Into<String>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            fs_name: fs_name.into(),
            threads: None,
            allow_other: false,
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            file_mode: 0o444,
            dir_mode: 0o555,
            serve: ServeMode::Auto,
            direct_io: false,
            passthrough: true,
            large_share: 0.0,
            backing_ids_max: 100_000,
            push_bytes_max: 1 << 30,
            read_ahead_kb: 1024,
            max_read_bytes: 1 << 20,
            max_background: 256,
            congestion_threshold: None,
            allow_non_empty: false,
            control_dir: None,
            busy_grace: Duration::from_secs(2),
        }
    }

    /// Threads for a machine of `cores`: as many as cores, at least 4, at most 16.
    ///
    /// A thread only translates; reads are answered elsewhere or at once. So more threads than cores have little to do,
    /// except to take over from one that waits for memory or for a source's lock: hence four at least. Above 16 they
    /// contend for the connection's one input queue (`fiq->lock` in fs/fuse/dev.c), which clone_fd does not split. Each
    /// costs 16 MiB of address space (fuser's buffer), of which a few KiB are ever touched.
    ///
    /// Measured by examples/serving_threads.rs, source in memory, 8 readers on 2 shared cores, Linux 6.18, debug build,
    /// thousands of files a second, median of 21 interleaved rounds (single rounds vary by a factor of 2):
    ///
    /// | threads | 1 | 2 | 4 | 8 | 16 | 32 |
    /// |---|---|---|---|---|---|---|
    /// | files/s | 12.5 | 15.5 | 17.8 | 17.2 | 16.8 | 15.7 |
    pub fn threads_for(cores: usize) -> usize {
        cores.clamp(4, 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_follow_the_cores_within_bounds() {
        assert_eq!([1, 2, 4, 9, 16, 192].map(MountOptions::threads_for), [4, 4, 4, 9, 16, 16]);
    }
}
