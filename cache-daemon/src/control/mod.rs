//! The control socket: what `cachectl` asks and the daemon answers.
//!
//! A Unix socket in the cache directory. One connection is one request, a line of JSON; the answer is
//! a stream of lines, of which the last says `end` or `error`:
//!
//! ```text
//! > {"v":1,"ask":"stats"}
//! < {"v":1,"item":{...}}
//! < {"v":1,"end":{}}
//! ```
//!
//! `server` keeps hostile and forgetful clients from costing more than a slot and a few seconds,
//! `client` is the other end, `registry` finds the daemons that run, `mountinfo` the mounts they made.
//!
//! Invariants
//! - Only the daemon's user and root are answered: the socket's mode says so, and the peer is checked again.
//! - The socket belongs to whoever holds the lock beside it; a socket without a lock is a dead daemon's.
//! - No thread of the data path ever waits for a client.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::probe::ReaderRow;

mod client;
mod figures;
pub mod mountinfo;
mod registry;
mod server;

#[cfg(test)]
mod tests;

pub use client::{Client, ClientError};
pub use figures::ControlFigures;
pub use registry::{Registration, Registry, RunningDaemon};
pub(crate) use server::decode_request;
pub use server::{CacheDirLock, Server, ServerError};

/// The version of the protocol: raised when an old `cachectl` would misunderstand a new daemon.
pub const PROTOCOL_VERSION: u32 = 1;

/// The socket's name in the cache directory.
pub const SOCKET_NAME: &str = "control.sock";

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// Whether anybody is there: one [`Pong`].
    Ping,
    /// One [`crate::stats::snapshot::Snapshot`].
    Stats,
    /// Checks every stored extent: a [`VerifyProgress`] a second, the last one with `done`.
    Verify {
        /// Bytes read per second at most; `None`: the daemon's own choice.
        rate_bytes_per_s: Option<u64>,
    },
    /// Forgets what is stored of a path: one [`Dropped`].
    Drop {
        /// A file or directory, relative to the mountpoint; `None`: everything.
        path: Option<String>,
    },
    /// Puts files into the kernel's page cache: a [`PushProgress`] a second, the last one with `done`.
    Push {
        /// Files and directories, relative to the mountpoint; the empty one is everything.
        paths: Vec<String>,
    },
    /// Stores files before they are read: [`WarmProgress`]es, the last one with `done`.
    Warm {
        /// A file or directory, relative to the mountpoint; `None`: everything.
        path: Option<String>,
        /// Instead, a file that names them, a path a line; absolute.
        order: Option<String>,
    },
    /// The order in which an epoch will be read: one [`OrderTold`].
    Order {
        /// A file with a path a line; absolute.
        path: String,
        /// Whose order it is: another of the same name takes its place.
        name: String,
        /// The epoch that it is for, as its job counts; `None`: what the file says, or no matter.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        epoch: Option<u64>,
    },
    /// Who reads: one [`Readers`].
    Top,
    /// What happens to files, as it happens: [`TraceLine`]s until the client leaves.
    Trace,
    /// Unmounts and ends the daemon: one [`Pong`], before it happens.
    Umount,
}

/// The answer to [`Request::Ping`] and [`Request::Umount`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The daemon's process.
    pub pid: u32,
    /// Its release.
    pub release: String,
    /// What it serves where.
    pub mountpoint: std::path::PathBuf,
}

/// How far a verification is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyProgress {
    /// Extents, and chunks of backing files, that were read and compared with their checksums.
    pub extents: u64,
    /// Bytes that it has come to: of those, and of what was dropped before it was read.
    pub bytes: u64,
    /// Bytes that are to be verified in all.
    pub total_bytes: u64,
    /// Extents whose bytes were wrong (dropped, and fetched again when asked for) or could not be read.
    pub bad_extents: u64,
    /// It is over.
    pub done: bool,
}

/// How far a push is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushProgress {
    /// Files that are asked for.
    pub total_files: u64,
    /// Their bytes.
    pub total_bytes: u64,
    /// Files whose every page is in the page cache now.
    pub pushed_files: u64,
    /// Their bytes.
    pub pushed_bytes: u64,
    /// Files that the kernel reads from local files by itself: it was told to read them ahead.
    pub backed_files: u64,
    /// Files that `--page-cache-size` has no room for.
    pub over_budget_files: u64,
    /// Files that the mount does not show so any more, or that the kernel forgot at once.
    pub unknown_files: u64,
    /// Files whose bytes could not be had, or that the kernel refused: the log says why.
    pub failed_files: u64,
    /// What pushed pages may take.
    pub budget_bytes: u64,
    /// What they take now, those of earlier pushes included.
    pub held_bytes: u64,
    /// Time since it began.
    pub elapsed_ms: u64,
    /// It is over.
    pub done: bool,
}

/// What [`Request::Drop`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Objects of which something was stored.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
}

/// How far [`Request::Warm`] is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmProgress {
    /// Files that are to be stored.
    pub files: u64,
    /// Those that were looked at and are stored, on their way, or failed.
    pub passed_files: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Bytes of those passed.
    pub passed_bytes: u64,
    /// Bytes fetched.
    pub fetched_bytes: u64,
    /// Files that could not be fetched.
    pub failed: u64,
    /// It is over.
    pub done: bool,
    /// Why it ended before all was passed, or what holds it up.
    pub why: String,
}

/// An order that was told, as it was understood.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderTold {
    /// Files in it.
    pub files: u64,
    /// Lines that name no file of the data set.
    pub unknown: u64,
    /// Lines that name a file again.
    pub twice: u64,
    /// The epoch that it is for, if it has a number.
    #[serde(default)]
    pub epoch: Option<u64>,
    /// It waits for its epoch to begin.
    #[serde(default)]
    pub waits: bool,
}

/// The answer to [`Request::Top`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readers {
    /// `A`, `B` or `C`: what the probes see (docs/probes.md).
    pub tier: String,
    /// The processes that read, the last to read first.
    pub readers: Vec<ReaderRow>,
    /// Their requests and waits are as the kernel saw them, else as the daemon did, without what woke it.
    #[serde(default)]
    pub waits_by_kernel: bool,
}

/// Who did it. A line that names nobody has none of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// Its name; empty if it was gone before anybody asked.
    #[serde(default)]
    pub command: String,
}

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceLine {
    /// A reading of a file begins, ends, or both.
    Reading {
        /// Monotonic clock, ns.
        at_ns: u64,
        /// The file, from the mountpoint.
        path: String,
        /// By whom, as the host numbers it.
        #[serde(flatten)]
        by: Process,
        /// First byte of the access.
        start: u64,
        /// End of the access.
        end: u64,
        /// It begins here.
        begins: bool,
        /// The end of the file is reached here.
        ends: bool,
        /// By a page fault of a mapping.
        fault: bool,
    },
    /// The first line: which readings are seen.
    Watching {
        /// `A`, `B` or `C`.
        tier: String,
        /// Why.
        why: String,
    },
    /// A file was opened: in `open` mode the daemon was asked, in `noopen` a probe saw it, where there is one.
    Opened {
        /// Monotonic clock, ns.
        at_ns: u64,
        /// The file.
        path: String,
        /// By whom, as the daemon's pid namespace numbers it, a probe as the host does.
        #[serde(flatten)]
        by: Option<Process>,
        /// The kernel reads a local file by itself.
        passed_through: bool,
    },
    /// A file was mapped, as a probe saw it.
    Mapped {
        /// Monotonic clock, ns.
        at_ns: u64,
        /// The file.
        path: String,
        /// By whom, as the host numbers it.
        #[serde(flatten)]
        by: Process,
    },
    /// A part of a file was asked of the origin.
    Fetched {
        /// When it was over: monotonic clock, ns.
        at_ns: u64,
        /// The file.
        path: String,
        /// First byte of the part.
        start: u64,
        /// End of the part.
        end: u64,
        /// Of a miss, whose READ it was, as the daemon's pid namespace numbers it.
        #[serde(flatten)]
        by: Option<Process>,
        /// From the request to the last byte, retries included.
        latency_us: u64,
        /// Fetched ahead: no reader waited when it began. Else a miss.
        ahead: bool,
        /// It did not come.
        failed: bool,
    },
    /// A part of a file was put into the page cache.
    Pushed {
        /// Monotonic clock, ns.
        at_ns: u64,
        /// The file.
        path: String,
        /// First byte of the part.
        start: u64,
        /// End of the part.
        end: u64,
    },
    /// All that is stored of a file was forgotten.
    Evicted {
        /// Monotonic clock, ns.
        at_ns: u64,
        /// The file.
        path: String,
        /// Bytes that were stored.
        bytes: u64,
    },
    /// Told every second: how many lines were lost since the first because the client was slow, or the daemon.
    Quiet {
        /// Lines lost.
        lost: u64,
    },
}

/// Why the daemon does not do what it was asked, for users.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Who answers: the daemon, and in tests a stand-in.
pub trait Answers: Send + Sync + 'static {
    /// Answers `request` by handing each item to `item`, on a thread of its own.
    ///
    /// `item` says whether the client is still there; after a `false` the rest is of no use to anybody.
    fn answer(&self, request: Request, item: &mut dyn FnMut(Value) -> bool) -> Result<(), Refusal>;
}

/// A request as a line.
#[derive(Debug, Serialize, Deserialize)]
struct RequestLine {
    v: u32,
    #[serde(flatten)]
    request: Request,
}

/// The part of a request line that every version has.
#[derive(Debug, Deserialize)]
struct VersionOfLine {
    v: u32,
}

/// One line of an answer.
#[derive(Debug, Serialize, Deserialize)]
struct AnswerLine {
    v: u32,
    #[serde(flatten)]
    answer: Answer,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Item(Value),
    Error(String),
    End {},
}

/// `line` as bytes with its newline.
fn encode(line: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("the protocol's types have string keys only");
    bytes.push(b'\n');
    bytes
}

/// An open cache directory, whose socket has a short name: `sun_path` holds 108 bytes, a cache directory's path more.
struct SocketDir(std::fs::File);

impl SocketDir {
    fn open(cache_dir: &std::path::Path) -> std::io::Result<Self> {
        std::fs::File::open(cache_dir).map(Self)
    }

    fn socket(&self) -> std::path::PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}/{SOCKET_NAME}", self.0.as_raw_fd()).into()
    }
}
