//! The daemon's configuration: what the command line means once it has been checked.
//!
//! `args` is the command line as typed, `check` turns it into a [`Config`] that holds no contradiction,
//! and `place` looks at the machine (directories, mounts, FUSE) without changing anything. Whatever is
//! refused is one [`ConfigError`]: one line that says what is wrong and what to do. All of it runs
//! before a request is sent or a thread is started, so a refusal leaves nothing half-mounted.

use std::path::PathBuf;
use std::time::Duration;

use crate::policy::eviction::PolicyKind;

mod args;
mod check;
mod memory;
mod place;
mod prefetch;

#[cfg(test)]
mod tests;

pub use args::{
    Args, Command, EngineChoice, IoMode, MountArgs, ProbeChoice, SaveChoice, ServeChoice, VerifyChoice,
    one_line,
};
pub use memory::PageCacheSize;
pub(crate) use memory::group_limit;
pub use place::{Place, create_cache_dir};
pub(crate) use place::{find_program, user_allow_other};
pub use prefetch::{PrefetchArgs, PrefetchChoice, PrefetchOptions};

/// Everything that `epochcache mount` was told, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the data set comes from.
    pub origin: OriginOptions,
    /// Where and how it appears.
    pub mount: MountOptions,
    /// Where its bytes are kept.
    pub store: StoreOptions,
    /// What is fetched ahead of the readers.
    pub prefetch: PrefetchOptions,
    /// When the data set is listed again in the background.
    pub revalidate: Revalidate,
    /// Whether eBPF probes are tried.
    pub probes: ProbeChoice,
    /// The process itself.
    pub process: ProcessOptions,
    /// Every bound that the daemon keeps.
    pub limits: Limits,
}

/// When changed objects are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revalidate {
    /// So often, and at the start if the catalog came from a snapshot.
    Every(Duration),
    /// At the start only (`--io-mode kernel_cache`).
    AtStart,
    /// Never (`--immutable`).
    Never,
}

impl Revalidate {
    /// The interval, if there is one.
    pub fn interval(self) -> Option<Duration> {
        match self {
            Self::Every(interval) => Some(interval),
            Self::AtStart | Self::Never => None,
        }
    }
}

/// The origin's URL and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginOptions {
    /// `s3://bucket/prefix` and the like, as typed: the origin module knows the schemes.
    pub url: String,
    /// Another server that speaks the scheme's protocol.
    pub endpoint: Option<String>,
    /// The bucket's region.
    pub region: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`; `None`: as the endpoint suggests.
    pub path_style: Option<bool>,
    /// Requests are not signed.
    pub anonymous: bool,
    /// The profile in `~/.aws` to take credentials from.
    pub profile: Option<String>,
    /// Plain `http://` endpoints on other machines are accepted.
    pub allow_http: bool,
    /// A request is retried for so long, then the reader gets EIO.
    pub deadline: Duration,
}

/// The mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// An existing, empty directory; absolute, without symlinks.
    pub mountpoint: PathBuf,
    /// What OPEN is answered with.
    pub serve: ServeChoice,
    /// What the kernel may cache, and for how long.
    pub io_mode: IoMode,
    /// When stored bytes are checked.
    pub verify: VerifyChoice,
    /// What pushed pages may take of the page cache.
    pub page_cache: PageCacheSize,
    /// Other users may enter.
    pub allow_other: bool,
    /// Owner of every node.
    pub uid: u32,
    /// Group of every node.
    pub gid: u32,
    /// Permission bits of files.
    pub file_mode: u16,
    /// Permission bits of directories.
    pub dir_mode: u16,
    /// The mount appears at once, and directories wait for their part of the listing.
    pub early: bool,
}

/// The block store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// State, the control socket and, unless `places` says otherwise, the bytes; absolute.
    pub cache_dir: PathBuf,
    /// Where the bytes are: the cache directory first, then each `--cache-dev`.
    pub places: Vec<Place>,
    /// All bytes on all places together.
    pub size_bytes: u64,
    /// Objects of so many bytes and more get a backing file of their own.
    pub file_from: u64,
    /// Bytes of a segment of a store that is made now.
    pub segment_bytes: u32,
    /// Who goes when it is full.
    pub policy: PolicyKind,
    /// What the policy epoch saves.
    pub save: SaveChoice,
    /// Places that hold something else, or a newer format, are taken over.
    pub format: bool,
    /// How the devices are driven.
    pub engine: EngineChoice,
    /// A kernel thread polls the submission queue (IORING_SETUP_SQPOLL): a core for fewer system calls.
    pub sqpoll: bool,
    /// Completions are polled (IORING_SETUP_IOPOLL); needs a device with poll queues.
    pub iopoll: bool,
}

/// The process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessOptions {
    /// Go to the background once the mount serves.
    pub daemon: bool,
    /// Where the log goes; `None`: standard error.
    pub log_file: Option<PathBuf>,
    /// What is logged, in the syntax of `RUST_LOG`.
    pub log_filter: String,
}

/// Every bound of the daemon, in one place. A queue without a field here is a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads that answer the kernel's requests.
    pub fuse_threads: usize,
    /// Requests to the origin in flight, listings and fills together.
    pub origin_requests_max: usize,
    /// Bytes of objects in memory between the origin and the store.
    pub fill_bytes_max: u64,
    /// Extents that wait to be appended, and reads that wait for a device; beyond it they are refused.
    pub store_appends_max: usize,
    /// Operations in flight on one engine.
    pub store_depth: usize,
    /// Clients of the control socket at once.
    pub control_clients_max: usize,
    /// Bytes of one request on the control socket.
    pub control_request_bytes_max: usize,
    /// How long a client of the control socket may take to send its request, or to take a line of the answer.
    pub control_patience: Duration,
}

impl Limits {
    /// The bounds on a machine with `cores` CPUs.
    pub fn on(cores: usize) -> Self {
        Self {
            // Four at least, because one may wait for memory; above 16 they only fight for the connection's queue.
            fuse_threads: cores.clamp(4, 16),
            // 1 786 samples/s (ResNet-50 on one H100) x 0.15 s to the first byte = 270.
            origin_requests_max: 256,
            fill_bytes_max: 256 << 20,
            // As many as fills of `fill_bytes_max` can be: a cache that refuses what it has room for is no cache.
            store_appends_max: 16 << 10,
            store_depth: 64,
            control_clients_max: 16,
            control_request_bytes_max: 64 << 10,
            control_patience: Duration::from_secs(5),
        }
    }
}

/// Why a command line is refused. Each message is one line: what is wrong, then what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A number, size or pattern that cannot be.
    #[error("{option} {given}: {why}")]
    Value {
        /// The option as typed.
        option: &'static str,
        /// Its value as typed.
        given: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// Two options that contradict each other.
    #[error("{0}")]
    Conflict(&'static str),
    /// The mountpoint cannot be mounted on.
    #[error("mountpoint {path}: {why}", path = path.display())]
    Mountpoint {
        /// The mountpoint.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The cache directory or a cache device cannot be used.
    #[error("cache directory {path}: {why}", path = path.display())]
    CacheDir {
        /// The directory or device.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// The machine cannot mount, or not so.
    #[error("{0}")]
    Fuse(&'static str),
}
