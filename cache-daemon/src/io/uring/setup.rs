//! Setup of a ring: the best flags that this kernel takes, and what could be registered.
//!
//! Kernels refuse setup flags that they do not know with EINVAL, all of them together, so sets are tried
//! from the best down:
//! - 6.1: DEFER_TASKRUN: completion work runs only inside our own wait, never as an interruption;
//! - 6.0: SINGLE_ISSUER: one thread submits, the kernel drops locks for it;
//! - 5.19: COOP_TASKRUN: no inter-processor interrupt to run completion work.

use std::io;
use std::os::fd::RawFd;

use io_uring::IoUring;
use serde::Serialize;

use crate::io::{BufferPool, EngineOptions};

/// Registered files that a ring has room for. More files than that work, by their descriptors.
pub(super) const FILES_MAX: u32 = 256;

/// Entries of the submission queue beside the operations: poll of the waker, timeout, cancellations.
const EXTRA_ENTRIES: u32 = 8;

/// After how long without work the kernel's submission thread goes to sleep.
const SQPOLL_IDLE_MS: u32 = 50;

/// What a ring got, for `cachectl stats` and `doctor`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct UringReport {
    /// Setup flags that the kernel took.
    pub flags: Vec<&'static str>,
    /// The pool's buffers are registered: their pages are pinned once and not at each operation.
    pub registered_buffers: bool,
    /// Files are registered, which saves looking up and counting the file at each operation.
    pub registered_files: bool,
    /// Waits carry their timeout (kernel 5.11), or need an operation of their own for it.
    pub timeout_in_wait: bool,
    /// What could not be had and why, one sentence each.
    pub reasons: Vec<String>,
}

/// A set of setup flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Flags {
    pub(super) coop_taskrun: bool,
    pub(super) single_issuer: bool,
    pub(super) defer_taskrun: bool,
}

/// The sets to try, best first. Task work flags make no sense to a submission thread, and the kernel
/// refuses them with it (`io_uring_create`, Linux `io_uring/io_uring.c`). A ring with a single issuer is that thread's for good.
fn attempts(options: &EngineOptions) -> &'static [Flags] {
    const NONE: Flags = Flags { coop_taskrun: false, single_issuer: false, defer_taskrun: false };
    const SINGLE: Flags = Flags { single_issuer: true, ..NONE };
    const COOP: Flags = Flags { coop_taskrun: true, ..NONE };
    const COOP_SINGLE: Flags = Flags { single_issuer: true, ..COOP };
    const ALL: Flags = Flags { defer_taskrun: true, ..COOP_SINGLE };
    match (options.sqpoll, options.passed_on) {
        (true, true) => &[NONE],
        (true, false) => &[SINGLE, NONE],
        (false, true) => &[COOP, NONE],
        (false, false) => &[ALL, COOP_SINGLE, COOP, NONE],
    }
}

/// A ring, and what became of the wishes for it.
pub(super) struct Made {
    pub(super) ring: IoUring,
    pub(super) flags: Flags,
    /// As asked for, without what could not be had.
    pub(super) options: EngineOptions,
    pub(super) reasons: Vec<String>,
}

/// A ring of its own for `options`, nothing registered yet; `worst` as the oldest kernel would give it.
pub(super) fn ring(options: &EngineOptions, worst: bool) -> io::Result<Made> {
    let refused = match best(options, worst) {
        // Without this feature (5.11) a submission thread knows only registered files, and the waker's is none.
        Ok((ring, _)) if options.sqpoll && !ring.params().is_feature_sqpoll_nonfixed() => {
            "this kernel's can use registered files only".to_owned()
        }
        Ok((ring, flags)) => return Ok(Made { ring, flags, options: *options, reasons: Vec::new() }),
        // Before 5.13 it takes CAP_SYS_NICE.
        Err(error) if options.sqpoll && error.raw_os_error() == Some(libc::EPERM) => error.to_string(),
        Err(error) => return Err(error),
    };
    let options = EngineOptions { sqpoll: false, ..*options };
    let (ring, flags) = best(&options, worst)?;
    Ok(Made { ring, flags, options, reasons: vec![format!("no submission thread: {refused}")] })
}

fn best(options: &EngineOptions, worst: bool) -> io::Result<(IoUring, Flags)> {
    let attempts = attempts(options);
    let attempts = if worst { &attempts[attempts.len() - 1..] } else { attempts };
    let mut refused = io::Error::from_raw_os_error(libc::EINVAL);
    for flags in attempts {
        match build(options, *flags) {
            Ok(ring) => return Ok((ring, *flags)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = error,
            Err(error) => return Err(error),
        }
    }
    Err(refused)
}

fn build(options: &EngineOptions, flags: Flags) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.dontfork();
    if options.sqpoll {
        builder.setup_sqpoll(SQPOLL_IDLE_MS);
    }
    if options.iopoll {
        builder.setup_iopoll();
    }
    if flags.coop_taskrun {
        builder.setup_coop_taskrun();
    }
    if flags.single_issuer {
        // The single issuer is the thread that enables the ring: the one that first waits, not the one
        // that happens to build the engine.
        builder.setup_single_issuer().setup_r_disabled();
    }
    if flags.defer_taskrun {
        builder.setup_defer_taskrun();
    }
    let depth = u32::try_from(options.depth).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    builder.build(depth + EXTRA_ENTRIES)
}

/// Registers the pool's buffers and an empty table of files; what fails is told in the report.
pub(super) fn register(made: &Made, pool: &BufferPool) -> UringReport {
    let Made { ring, flags, options, reasons } = made;
    let mut reasons = reasons.clone();
    let registered_buffers = match register_buffers(ring, pool) {
        Ok(()) => true,
        Err(error) => {
            reasons.push(buffers_reason(&error, pool));
            false
        }
    };
    // -1 makes an empty place, in every kernel with registered files (the sparse call needs 5.19).
    let registered_files = match ring.submitter().register_files(&[-1 as RawFd; FILES_MAX as usize]) {
        Ok(()) => true,
        Err(error) => {
            reasons.push(format!("files are not registered: {error}"));
            false
        }
    };
    UringReport {
        flags: names(*flags, options),
        registered_buffers,
        registered_files,
        timeout_in_wait: ring.params().is_feature_ext_arg(),
        reasons,
    }
}

fn register_buffers(ring: &IoUring, pool: &BufferPool) -> io::Result<()> {
    let (start, bytes) = pool.region();
    let each = pool.buffer_bytes();
    let buffers: Vec<libc::iovec> = (0..bytes / each)
        .map(|slot| libc::iovec {
            iov_base: start.wrapping_add(slot * each).cast_mut().cast(),
            iov_len: each,
        })
        .collect();
    // SAFETY: every vector lies in the pool's mapping, which the engine keeps alive (it holds a clone of
    // the pool) until after the ring is closed.
    unsafe { ring.submitter().register_buffers(&buffers) }
}

fn buffers_reason(error: &io::Error, pool: &BufferPool) -> String {
    let (_, bytes) = pool.region();
    match error.raw_os_error() {
        // Linux `__io_account_mem` in io_uring/rsrc.c.
        Some(libc::ENOMEM) => format!(
            "buffers are not registered: {} KiB do not fit in RLIMIT_MEMLOCK (raise LimitMEMLOCK=, or give CAP_IPC_LOCK)",
            bytes / 1024
        ),
        _ => format!("buffers are not registered: {error}"),
    }
}

fn names(flags: Flags, options: &EngineOptions) -> Vec<&'static str> {
    [
        (flags.coop_taskrun, "COOP_TASKRUN"),
        (flags.single_issuer, "SINGLE_ISSUER"),
        (flags.defer_taskrun, "DEFER_TASKRUN"),
        (options.sqpoll, "SQPOLL"),
        (options.iopoll, "IOPOLL"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect()
}
