//! The command line as typed: clap's view, before anything is checked.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use super::prefetch::PrefetchArgs;
use crate::policy::eviction::PolicyKind;

const EXAMPLES: &str = "\
Examples:
  A bucket, with credentials from the environment, ~/.aws or the instance's role:
    epochcache mount s3://bucket/imagenet /mnt/data --cache-dir /nvme/cache --cache-size 500GiB

  An S3-compatible server:
    epochcache mount s3://bucket/train /mnt/data --cache-dir /nvme/cache --cache-size 1TiB \\
        --endpoint http://minio:9000 --path-style --allow-http

  In the background; the command returns when the mount serves:
    epochcache mount s3://bucket/train /mnt/data --cache-dir /nvme/cache --cache-size 1TiB --daemon

  Then:  cachectl stats --watch      and at the end:  cachectl umount /mnt/data

Exit code: 0 after a clean unmount, 1 if it ended on an error, 2 if it could not start.";

/// Serves an object store's data set as a directory, from local NVMe after the first read.
#[derive(Debug, Parser)]
#[command(name = "epochcache", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the daemon's program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mounts URL at MOUNTPOINT and serves it until it is unmounted.
    #[command(after_help = EXAMPLES)]
    Mount(Box<MountArgs>),
}

/// The options of `epochcache mount`.
#[derive(Debug, ClapArgs)]
pub struct MountArgs {
    /// The data set: s3://, gs://, az://, oss://, http(s):// or file:///, with a prefix.
    pub url: String,
    /// An existing, empty directory.
    pub mountpoint: PathBuf,

    /// Directory for cached bytes, the catalog and the control socket: on local ext4 or XFS. Made if missing.
    #[arg(long, value_name = "DIR", help_heading = "Cache")]
    pub cache_dir: PathBuf,
    /// Hard limit of what is stored, on all places together: 500GiB, 1.5TiB, or bytes.
    #[arg(long, value_name = "SIZE", help_heading = "Cache")]
    pub cache_size: String,
    /// A further place for bytes: a block device, a partition, or a directory. Repeatable.
    #[arg(long, value_name = "PATH", help_heading = "Cache")]
    pub cache_dev: Vec<PathBuf>,
    /// Objects of SIZE and more get a file of their own, which the kernel can serve by itself; 0: all of them.
    #[arg(long, value_name = "SIZE", default_value = "4MiB", help_heading = "Cache")]
    pub file_from: String,
    /// Bytes of a segment of a store that is made now: smaller ones let benchmarks fill a small store as a large one is.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", hide = true)]
    pub segment_size: String,
    /// When stored bytes are checked: before the kernel may read a file by itself, or at every read that reaches the daemon.
    #[arg(long, value_enum, default_value_t, help_heading = "Cache")]
    pub verify: VerifyChoice,
    /// Takes places that hold something else (a file system, a newer format): what is on them is lost.
    #[arg(long, help_heading = "Cache")]
    pub format: bool,
    /// How devices are driven.
    #[arg(long, value_enum, default_value_t, help_heading = "Cache")]
    pub engine: EngineChoice,
    /// Lets kernel threads submit (io_uring SQPOLL): spends a core for each busy thread of the store, saves system calls.
    #[arg(long, help_heading = "Cache")]
    pub sqpoll: bool,
    /// Polls for completions (io_uring IOPOLL): the device needs poll queues (nvme.poll_queues).
    #[arg(long, help_heading = "Cache")]
    pub iopoll: bool,
    /// What goes when the store is full: epoch, lru, fifo, s3fifo, sieve, 2-random, none.
    #[arg(long, value_name = "NAME", default_value = "epoch", value_parser = online, help_heading = "Cache")]
    pub policy: PolicyKind,
    /// What the policy epoch saves when the store is full: bytes, or requests, where the origin limits or bills these.
    #[arg(long, value_enum, default_value_t, help_heading = "Cache")]
    pub save: SaveChoice,
    /// What is fetched ahead.
    #[command(flatten)]
    pub prefetch: PrefetchArgs,

    /// What an OPEN is answered with: noopen for small files, open for large ones.
    #[arg(long, value_enum, default_value_t, help_heading = "Mount")]
    pub serve: ServeChoice,
    /// What the kernel caches of files: auto_cache and kernel_cache all that is read, direct_io nothing (docs/semantics.md).
    #[arg(long, value_enum, default_value_t, help_heading = "Mount")]
    pub io_mode: IoMode,
    /// The most that pages put into the page cache ahead of readers may take; 0: none are [default: half of what is free].
    #[arg(long, value_name = "SIZE", help_heading = "Mount")]
    pub page_cache_size: Option<String>,
    /// Threads that answer the kernel [default: one a core, 4 to 16].
    #[arg(long, value_name = "N", help_heading = "Mount")]
    pub threads: Option<usize>,
    /// Lets other users in; an ordinary user needs user_allow_other in /etc/fuse.conf.
    #[arg(long, help_heading = "Mount")]
    pub allow_other: bool,
    /// Owner of every file [default: who mounts].
    #[arg(long, value_name = "UID", help_heading = "Mount")]
    pub uid: Option<u32>,
    /// Group of every file [default: who mounts].
    #[arg(long, value_name = "GID", help_heading = "Mount")]
    pub gid: Option<u32>,
    /// Permissions of files, octal.
    #[arg(long, value_name = "MODE", default_value = "0444", help_heading = "Mount")]
    pub file_mode: String,
    /// Permissions of directories, octal.
    #[arg(long, value_name = "MODE", default_value = "0555", help_heading = "Mount")]
    pub dir_mode: String,
    /// Mounts before the listing is done; a directory waits until its part is there.
    #[arg(long, help_heading = "Mount")]
    pub mount_early: bool,

    /// Another server than the scheme's own: http(s)://host:port.
    #[arg(long, value_name = "URL", help_heading = "Origin")]
    pub endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, value_name = "REGION", help_heading = "Origin")]
    pub region: Option<String>,
    /// Puts the bucket in the path (endpoint/bucket/key), or with =false in the host name [default: by the endpoint].
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Origin"
    )]
    pub path_style: Option<bool>,
    /// Sends no credentials: for public buckets.
    #[arg(long, help_heading = "Origin")]
    pub anonymous: bool,
    /// Profile in ~/.aws/credentials and ~/.aws/config [default: AWS_PROFILE].
    #[arg(long, value_name = "NAME", help_heading = "Origin")]
    pub profile: Option<String>,
    /// Accepts an endpoint without TLS on another machine.
    #[arg(long, help_heading = "Origin")]
    pub allow_http: bool,
    /// Requests in flight at once [default: 256].
    #[arg(long, value_name = "N", help_heading = "Origin")]
    pub origin_requests: Option<usize>,
    /// Retries a request for so long, then answers EIO: 60s, 2min.
    #[arg(long, value_name = "DURATION", default_value = "60s", help_heading = "Origin")]
    pub origin_deadline: String,
    /// Looks for changed objects so often, in the background: 1h, 30s [default: 5min].
    #[arg(long, value_name = "DURATION", help_heading = "Origin")]
    pub revalidate: Option<String>,
    /// Never looks for changed objects: the data set does not change.
    #[arg(long, help_heading = "Origin")]
    pub immutable: bool,

    /// eBPF probes: auto attaches what this kernel and these capabilities allow.
    #[arg(long, value_enum, default_value_t, help_heading = "Process")]
    pub probes: ProbeChoice,
    /// Goes to the background once the mount serves; the log goes to CACHE_DIR/epochcache.log.
    #[arg(long, help_heading = "Process")]
    pub daemon: bool,
    /// Appends the log to a file instead of standard error.
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub log_file: Option<PathBuf>,
    /// error, warn, info, debug, trace, or any filter of RUST_LOG.
    #[arg(long, value_name = "FILTER", env = "RUST_LOG", default_value = "info", help_heading = "Process")]
    pub log_level: String,
}

/// A policy that needs no future.
fn online(name: &str) -> Result<PolicyKind, String> {
    match name.parse::<PolicyKind>() {
        Ok(policy) if !policy.is_offline() => Ok(policy),
        _ => Err("give epoch, lru, fifo, s3fifo, sieve, 2-random or none".to_owned()),
    }
}

macro_rules! choice {
    ($(#[$attribute:meta])* $name:ident { $($(#[doc = $doc:literal])* $variant:ident = $text:literal,)* }) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
        pub enum $name {
            #[default]
            $($(#[doc = $doc])* #[value(name = $text)] $variant,)*
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }
    };
}

choice! {
    /// `--serve`.
    ServeChoice {
        /// From the sizes in the catalog and from the kernel.
        Auto = "auto",
        /// OPEN is answered ENOSYS once: a file costs one READ.
        NoOpen = "noopen",
        /// Every OPEN comes to the daemon, as passthrough needs it.
        Open = "open",
    }
}

choice! {
    /// `--save`.
    SaveChoice {
        /// Every byte of a set is worth the same.
        Bytes = "bytes",
        /// Small objects are kept first: a byte of theirs saves more requests.
        Requests = "requests",
    }
}

choice! {
    /// `--io-mode`.
    IoMode {
        /// Pages are kept for as long as ETag, size and time of the object stay; changes are looked for.
        AutoCache = "auto_cache",
        /// Pages and names are kept, and changes are not looked for.
        KernelCache = "kernel_cache",
        /// No pages are kept: each read(2) comes to the daemon.
        DirectIo = "direct_io",
    }
}

choice! {
    /// `--verify`.
    VerifyChoice {
        /// When they are stored, after a restart, when they are read through the daemon, and by the scrubber.
        Once = "once",
        /// No file is handed to the kernel, so that each of its reads is checked.
        Always = "always",
    }
}

choice! {
    /// `--engine`.
    EngineChoice {
        /// io_uring where it works, psync elsewhere.
        Auto = "auto",
        /// io_uring or nothing.
        IoUring = "io_uring",
        /// Threads that call pread and pwrite.
        Psync = "psync",
    }
}

choice! {
    /// `--probes`.
    ProbeChoice {
        /// The best tier that attaches.
        Auto = "auto",
        /// None: the daemon sees only the requests it serves.
        Off = "off",
    }
}

/// clap's refusal on one line: the message without the usage block, and where to read more.
pub fn one_line(error: &clap::Error, help: &str) -> String {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = message.split_whitespace().collect();
    format!("{}; see `{help}`", words.join(" ").trim_start_matches("error: "))
}
