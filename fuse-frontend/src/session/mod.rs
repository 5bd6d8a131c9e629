//! A mount: from the checks before it to the threads' end.
//!
//! Life: check the mountpoint (`mountpoint`), mount (`device`), agree with the kernel and serve (fuser, on the
//! descriptor that `device` got), raise the readahead window (`readahead`). The session ends when the file system is
//! gone: by [`Mount::unmount`], by dropping the [`Mount`], or because somebody called umount or fusermount3 -u.
//!
//! Threads: `fuse-session` joins fuser's `fuser-N`, which each read their own clone of the descriptor (clone_fd):
//! requests come from one queue, but the list of those being answered, and its lock, are per clone.
//!
//! Invariants
//! - After mount(2) no call touches the mount from a thread that has to start the session: it would wait for itself.
//! - The session's thread alone holds the last strong reference to the descriptor: when serving ends for whatever
//!   reason the connection is closed with it, and readers get an error instead of waiting.
//! - Only a mount that mountinfo shows on top at our path with our device number is unmounted.

mod device;
mod ended;
mod error;
mod io_flusher;
mod mountinfo;
mod mountpoint;
mod options;
mod readahead;
mod unmount;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use device::MountedBy;
pub use error::MountError;
pub use io_flusher::become_io_flusher;
pub use options::MountOptions;

use crate::figures::RequestCounts;
use crate::fs::{Fs, Wanted};
use crate::inode::Look;
use crate::negotiate::{Agreement, Mode};
use crate::notifier::Notifier;
use crate::push::{MountPlace, Pusher};
use crate::source::{FileSource, Ino};
use crate::transport::passthrough::{Passthrough, Revoke, Revoked};
use ended::Ended;
use mountinfo::MountLine;
use unmount::Refusal;

/// How often an unmount is tried again while readers hold on.
const BUSY_RETRY: Duration = Duration::from_millis(20);

/// How long the threads may take to end once the connection is gone: the translation of one request.
const ENDING_PATIENCE: Duration = Duration::from_secs(5);

/// How a mount came out, for `stats` and for a person.
#[derive(Clone, Debug)]
pub struct MountReport {
    /// Canonical.
    pub mountpoint: PathBuf,
    /// Who mounted.
    pub mounted_by: MountedBy,
    /// Whether OPEN is sent.
    pub mode: Mode,
    /// Why.
    pub mode_reason: String,
    /// Whether whole local files are handed to the kernel, or why not; [`Mount::passthrough`] knows what came of it.
    pub passthrough: Result<(), String>,
    /// The readahead window in KiB, or why it stayed the kernel's 128: then a file of 110 KiB costs 1.35 READs.
    pub read_ahead_kb: Result<u32, String>,
    /// Whether the serving threads leave the mount's inodes alone when they need memory, or why not.
    pub io_flusher: Result<(), String>,
    /// The kernel's FUSE protocol, major and minor.
    pub protocol: (u32, u32),
    /// Threads that read /dev/fuse.
    pub threads: usize,
    /// The most bytes of one READ.
    pub max_read_bytes: u32,
    /// Reads ahead that may be under way at once.
    pub max_background: u16,
    /// INIT flags that we would have used and this kernel does not know.
    pub missing_flags: Vec<&'static str>,
    /// `st_dev` of every file of the mount, as stat(2) shows it.
    pub device: u64,
    /// Dead mounts of earlier runs that were cleared away.
    pub dead_mounts_cleaned: u32,
}

/// How a mount ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unmounted {
    /// Nobody used it.
    Cleanly,
    /// Somebody else had unmounted it.
    AlreadyGone,
    /// It was in use: detached, and its readers got an error.
    Forced,
    /// It was in use, or is still mounted in another mount namespace: detached here, and served until the last user
    /// closes, because aborting it was not permitted.
    Lazily,
}

/// A mounted, served file system. Dropping it unmounts.
///
/// No method may be called on a thread that a reply depends on.
#[derive(Debug)]
pub struct Mount {
    report: MountReport,
    minor: u32,
    busy_grace: Duration,
    counts: Arc<RequestCounts>,
    passthrough: Arc<Passthrough>,
    pusher: Arc<Pusher>,
    notifier: Notifier,
    ended: Arc<Ended>,
    session: Mutex<Option<JoinHandle<()>>>,
}

impl Mount {
    /// Mounts and serves; returns once the mount answers, for which the source was asked for its capacity.
    pub fn start(options: MountOptions, source: Arc<dyn FileSource>) -> Result<Self, MountError> {
        let prepared = mountpoint::prepare(&options.mountpoint, options.allow_non_empty)?;
        let path = prepared.path;
        let (device, mounted_by) = device::mount(&path, &options.fs_name, options.allow_other)?;
        let line = match mountinfo::topmost(&path) {
            Ok(Some(line)) if line.is_fuse() => line,
            _ => return Err(MountError::Mount("/proc/self/mountinfo does not show the new mount".into())),
        };
        let counts = Arc::new(RequestCounts::default());
        let threads = options.threads.unwrap_or_else(|| {
            MountOptions::threads_for(std::thread::available_parallelism().map_or(1, usize::from))
        });
        let place = Place { path, line };
        let Begun { agreement, io_flusher, passthrough, pusher, notifier, ended, session } =
            begin(&options, source, device, threads, counts.clone(), place.clone())
                .inspect_err(|_| place.take_away())?;
        let report = MountReport {
            mounted_by,
            mode: agreement.mode,
            mode_reason: agreement.mode_reason,
            passthrough: agreement.passthrough.map_err(|why| why.to_string()),
            read_ahead_kb: readahead::raise(place.line.major, place.line.minor, options.read_ahead_kb),
            io_flusher,
            protocol: agreement.protocol,
            threads,
            max_read_bytes: agreement.max_read_bytes,
            max_background: agreement.max_background,
            missing_flags: agreement.missing,
            device: place.line.device(),
            dead_mounts_cleaned: prepared.dead_mounts_cleaned,
            mountpoint: place.path,
        };
        Ok(Self {
            report,
            minor: place.line.minor,
            busy_grace: options.busy_grace,
            counts,
            passthrough,
            pusher,
            notifier,
            ended,
            session: Mutex::new(Some(session)),
        })
    }

    /// How the mount came out.
    pub fn report(&self) -> &MountReport {
        &self.report
    }

    /// What the kernel asked so far.
    pub fn counts(&self) -> &Arc<RequestCounts> {
        &self.counts
    }

    /// The local files that the kernel reads itself: figures, and for whoever takes files away, a handle that keeps neither
    /// mount nor source alive.
    pub fn passthrough(&self) -> &Arc<Passthrough> {
        &self.passthrough
    }

    /// The page cache of the mount's files, for whoever puts bytes in and takes them out: a handle that keeps neither mount
    /// nor source alive.
    pub fn pusher(&self) -> &Arc<Pusher> {
        &self.pusher
    }

    /// Takes back the local file of `ino`: [`Passthrough::revoke`].
    pub fn revoke(&self, ino: Ino, why: Revoke) -> Revoked {
        self.passthrough.revoke(ino, why)
    }

    /// Sends the kernel what changed; mind the rule in [`crate::notifier`].
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Waits until the mount is gone, whoever ended it; the error, if serving failed.
    pub fn wait(&self) -> Result<(), MountError> {
        self.ended.wait().map_err(|error| MountError::Unmount { path: self.report.mountpoint.clone(), error })
    }

    /// Whether the mount is gone.
    pub fn is_ended(&self) -> bool {
        self.ended.is_set()
    }

    /// Unmounts: at once if nobody uses it, by force after the options' `busy_grace` if somebody does.
    pub fn unmount(&self) -> Result<Unmounted, MountError> {
        self.unmount_within(self.busy_grace)
    }

    fn unmount_within(&self, grace: Duration) -> Result<Unmounted, MountError> {
        // Held throughout: two that unmount at once would hit what lies below.
        let mut session = self.session.lock();
        if self.ended.is_set() {
            join(session.take());
            return Ok(Unmounted::AlreadyGone);
        }
        let how = self.take_down(&self.report.mountpoint, grace)?;
        if !self.settle(how, grace) {
            return Ok(Unmounted::Lazily);
        }
        join(session.take());
        Ok(if how == Unmounted::Lazily { Unmounted::Forced } else { how })
    }

    /// Waits for the session's end once the mount is out of the tree; aborts it if it does not end by itself, because
    /// it is still mounted in another namespace or detached with readers. Whether it ended.
    fn settle(&self, how: Unmounted, grace: Duration) -> bool {
        let patience = match how {
            Unmounted::Cleanly | Unmounted::Forced => ENDING_PATIENCE,
            Unmounted::AlreadyGone | Unmounted::Lazily => grace,
        };
        // While the session lives its connection does, and the minor number is nobody else's.
        self.ended.wait_for(patience) || (unmount::abort(self.minor) && self.ended.wait_for(ENDING_PATIENCE))
    }

    /// Takes the mount out of the tree.
    fn take_down(&self, path: &Path, grace: Duration) -> Result<Unmounted, MountError> {
        let failed = |error: String| MountError::Unmount { path: path.into(), error };
        let deadline = Instant::now() + grace;
        loop {
            let (topmost, listed) =
                mountinfo::at(path, self.report.device).map_err(|error| failed(error.to_string()))?;
            match (topmost, listed) {
                (true, _) => {}
                (false, true) => return Err(MountError::Covered { path: path.into() }),
                (false, false) => return Ok(Unmounted::AlreadyGone),
            }
            match unmount::orderly(path) {
                Ok(()) => return Ok(Unmounted::Cleanly),
                Err(Refusal::NotMounted) => return Ok(Unmounted::AlreadyGone),
                Err(Refusal::Busy) if Instant::now() < deadline => std::thread::sleep(BUSY_RETRY),
                Err(Refusal::Busy) => break,
                Err(Refusal::Other(error)) => return Err(failed(error.to_string())),
            }
        }
        tracing::warn!(mountpoint = %path.display(), "still in use: taking the mount away from its readers");
        match unmount::force(path, self.minor) {
            Ok(true) => Ok(Unmounted::Forced),
            Ok(false) => Ok(Unmounted::Lazily),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.unmount_within(Duration::ZERO) {
            tracing::warn!(%error, "a mount stays behind");
        }
    }
}

/// Where a mount of ours is.
#[derive(Clone)]
struct Place {
    path: PathBuf,
    line: MountLine,
}

impl Place {
    /// Takes away a mount that nobody will serve, if it is still the one on top.
    fn take_away(&self) {
        if mountinfo::at(&self.path, self.line.device()).is_ok_and(|(on_top, _)| on_top) {
            let _ = unmount::force(&self.path, self.line.minor);
        }
    }
}

struct Begun {
    agreement: Agreement,
    io_flusher: Result<(), String>,
    passthrough: Arc<Passthrough>,
    pusher: Arc<Pusher>,
    notifier: Notifier,
    ended: Arc<Ended>,
    session: JoinHandle<()>,
}

/// Answers INIT, starts the threads, and waits for a first answer of theirs.
fn begin(
    options: &MountOptions,
    source: Arc<dyn FileSource>,
    device: OwnedFd,
    threads: usize,
    counts: Arc<RequestCounts>,
    place: Place,
) -> Result<Begun, MountError> {
    let look = Look {
        uid: options.uid,
        gid: options.gid,
        file_mode: options.file_mode & 0o7777,
        dir_mode: options.dir_mode & 0o7777,
        control_dir: options.control_dir.clone(),
    };
    let wanted = Wanted {
        serve: options.serve,
        direct_io: options.direct_io,
        max_read_bytes: options.max_read_bytes,
        max_background: options.max_background,
        congestion_threshold: options.congestion_threshold,
        passthrough: options.passthrough,
        large_share: options.large_share,
    };
    let agreed = Arc::new(OnceLock::new());
    let ours = Arc::new(device.as_fd().try_clone_to_owned().map_err(MountError::Threads)?);
    let passthrough = Arc::new(Passthrough::new(Arc::downgrade(&ours), options.backing_ids_max));
    let notifier = Notifier::new(Arc::downgrade(&ours));
    let pusher = Pusher::start(
        notifier.clone(),
        Arc::downgrade(&source),
        MountPlace { mountpoint: place.path.clone(), device: place.line.device() },
        agreed.clone(),
        if options.direct_io { 0 } else { options.push_bytes_max },
    );
    let pusher = Arc::new(pusher.map_err(MountError::Threads)?);
    let fs =
        Fs::new(source.clone(), look, wanted, counts, passthrough.clone(), pusher.clone(), agreed.clone());
    let mut config = fuser::Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = true;
    // Who may come in is decided by the kernel (allow_other) and the modes (default_permissions); fuser's own
    // check would repeat it for each request.
    let session =
        fuser::Session::from_fd(fs, device, fuser::SessionACL::All, config).map_err(MountError::Handshake)?;
    let agreement = agreed.get().cloned().expect("from_fd returns after INIT, which sets it");
    let ended = Arc::new(Ended::default());
    let io_flusher = Arc::new(OnceLock::new());
    let session = {
        let io_flusher = io_flusher.clone();
        let ended = ended.clone();
        let place = place.clone();
        let passthrough = passthrough.clone();
        let pusher = pusher.clone();
        let serve = move || {
            // fuser's threads inherit it from this one.
            let _ = io_flusher.set(become_io_flusher());
            let outcome = session.run().map_err(|error| error.to_string());
            if let Err(error) = &outcome {
                tracing::error!(error, "serving ended with an error");
                // Some threads may have started and serve on.
                place.take_away();
            }
            drop(ours);
            pusher.end();
            passthrough.end(&*source);
            drop(source);
            ended.set(outcome);
        };
        std::thread::Builder::new().name("fuse-session".into()).spawn(serve).map_err(MountError::Threads)?
    };
    // From here on the threads answer; if they could not start, the connection is closed and this fails.
    nix::sys::statfs::statfs(&place.path).map_err(|errno| MountError::Threads(errno.into()))?;
    let io_flusher =
        io_flusher.get().cloned().expect("set before the threads that have just answered were started");
    Ok(Begun { agreement, io_flusher, passthrough, pusher, notifier, ended, session })
}

fn join(session: Option<JoinHandle<()>>) {
    if session.is_some_and(|session| session.join().is_err()) {
        tracing::error!("the session's thread panicked");
    }
}
