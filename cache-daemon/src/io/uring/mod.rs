//! io_uring: one ring for one thread, with registered files and buffers.
//!
//! `submit` only writes an entry into the shared queue; `complete` enters the kernel once for the whole
//! batch, with the wait and its timeout in the same call. Not registering costs 36 instead of 23 us of
//! CPU for an object of 110 KiB at a depth of 16 (two shared cores, Linux 6.18).
//!
//! Invariants
//! - What the kernel may write to outlives its writing: buffers are owned by [`slab::Slab`] until their
//!   completion, and if cancellation fails when the engine is dropped, they are leaked, not freed.
//! - The submission queue never overflows: it has room for the depth and for everything internal.
//! - The thread that first calls `complete` owns the ring from then on (SINGLE_ISSUER), unless it is passed on; the
//!   kernel refuses others with EEXIST, which `complete` returns.
//!
//! Where a ring polls its device (IOPOLL), nothing can be waited for but I/O: `polled` has that half.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, Fixed, FsyncFlags, SubmitArgs, TimeoutFlags, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};

use super::file::os_file;
use super::slots::Slots;
use super::{BufferPool, Completion, DeviceFile, Engine, EngineOptions, FileSlot, Operation, Token, Waker};

mod polled;
mod setup;
mod slab;
#[cfg(test)]
mod tests;

pub use polled::queue_polls;
pub use setup::UringReport;
use slab::{InFlight, Slab, What};

/// `user_data` of our own entries; operations have their place in the slab.
const WAKE: u64 = u64::MAX;
const TIMEOUT: u64 = u64::MAX - 1;
const CANCEL: u64 = u64::MAX - 2;

/// One wait at most: a timeout of years does not fit the kernel's clock.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// How long a drop waits for what was cancelled, before it leaks.
const DROP_WAIT: Duration = Duration::from_secs(5);

/// The engine on io_uring.
pub struct UringEngine {
    /// First, so that the ring is closed before what it uses is freed.
    ring: IoUring,
    slab: Slab,
    files: Slots<Arc<File>>,
    pool: BufferPool,
    wakes: Waker,
    options: EngineOptions,
    report: UringReport,
    /// The ring was made disabled and waits for its thread.
    disabled: bool,
    /// A poll of the waker's eventfd is in the ring.
    wake_armed: bool,
    /// It stays there and tells of every write, so that the eventfd need not be read: from Linux 5.13 on.
    wake_stays: bool,
    /// A timeout operation is in the ring (kernels whose waits carry none).
    timeout_armed: bool,
    /// Where the kernel reads that timeout from, when it takes the entry.
    timespec: Box<Timespec>,
    /// Being dropped: nothing is submitted again.
    closing: bool,
    /// Room for what the kernel has completed, kept between calls.
    reaped: Vec<(u64, i32, u32)>,
    /// Over already: what an IOPOLL ring cannot do and `submit` did itself.
    over: Vec<Completion>,
}

impl UringEngine {
    /// A ring of its own, with the buffers of `pool` registered if that can be.
    ///
    /// Fails with ENOSYS, EPERM or EACCES where the kernel or a seccomp profile forbids io_uring.
    pub fn new(pool: &BufferPool, options: &EngineOptions) -> io::Result<Self> {
        Self::build(pool, options, false)
    }

    /// A ring as the oldest kernels give it: no setup flags, no timeout in the wait.
    #[cfg(test)]
    pub(super) fn oldest(pool: &BufferPool, options: &EngineOptions) -> io::Result<Self> {
        Self::build(pool, options, true)
    }

    /// As [`UringEngine::new`], or as on the oldest kernel: no setup flags, no timeout in the wait.
    fn build(pool: &BufferPool, options: &EngineOptions, oldest: bool) -> io::Result<Self> {
        assert!(options.depth > 0, "an engine has a depth");
        let made = setup::ring(options, oldest)?;
        let mut report = setup::register(&made, pool);
        let setup::Made { ring, flags, options, .. } = made;
        report.timeout_in_wait &= !oldest;
        let depth = u32::try_from(options.depth).expect("the ring has room for the depth");
        Ok(Self {
            ring,
            slab: Slab::new(depth),
            files: Slots::new(),
            pool: pool.clone(),
            wakes: Waker::new()?,
            options,
            report,
            disabled: flags.single_issuer,
            wake_armed: false,
            wake_stays: !oldest && !options.iopoll,
            timeout_armed: false,
            timespec: Box::default(),
            closing: false,
            reaped: Vec::new(),
            over: Vec::new(),
        })
    }

    /// What this ring got from the kernel.
    pub fn report(&self) -> &UringReport {
        &self.report
    }

    /// Makes the calling thread the ring's own, once.
    fn enable(&mut self) -> io::Result<()> {
        if self.disabled {
            self.ring.submitter().register_enable_rings()?;
            self.disabled = false;
        }
        Ok(())
    }

    fn entry(&self, place: u32) -> squeue::Entry {
        let InFlight { file, what, buffer, .. } = self.slab.get(place);
        // Every arm of a macro: the two kinds of file are different types to the io-uring crate.
        macro_rules! build {
            ($file:expr) => {
                match (what, buffer) {
                    (What::Read { len, at }, Some(buffer)) if self.is_registered(buffer) => {
                        let to = buffer.as_ptr().cast_mut();
                        opcode::ReadFixed::new($file, to, *len as u32, buffer.slot()).offset(at.0).build()
                    }
                    (What::Read { len, at }, Some(buffer)) => {
                        opcode::Read::new($file, buffer.as_ptr().cast_mut(), *len as u32).offset(at.0).build()
                    }
                    (What::Write { len, at }, Some(buffer)) if self.is_registered(buffer) => {
                        let from = buffer.as_ptr();
                        opcode::WriteFixed::new($file, from, *len as u32, buffer.slot()).offset(at.0).build()
                    }
                    (What::Write { len, at }, Some(buffer)) => {
                        opcode::Write::new($file, buffer.as_ptr(), *len as u32).offset(at.0).build()
                    }
                    (_, None) => opcode::Fsync::new($file).flags(FsyncFlags::DATASYNC).build(),
                    (What::Sync, Some(_)) => unreachable!("a sync has no buffer"),
                }
            };
        }
        let entry = if self.is_fixed(*file) {
            build!(Fixed(file.0))
        } else {
            build!(Fd(self.files.get(*file).as_raw_fd()))
        };
        entry.user_data(u64::from(place))
    }

    fn is_registered(&self, buffer: &super::Buffer) -> bool {
        self.report.registered_buffers && self.pool.owns(buffer)
    }

    fn is_fixed(&self, file: FileSlot) -> bool {
        self.report.registered_files && file.0 < setup::FILES_MAX
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to stays valid until its completion: buffers are in the slab,
        // files in `files`, the timespec and the waker's eventfd in `self`; `drop` waits or leaks.
        unsafe { self.ring.submission().push(entry) }.expect("the queue has room for the whole depth");
    }

    /// Watches the waker's eventfd from inside the ring, unless it does already.
    fn arm_wake(&mut self) {
        if !self.wake_armed {
            let poll = opcode::PollAdd::new(Fd(self.wakes.raw_fd()), libc::POLLIN as u32);
            self.push(&poll.multi(self.wake_stays).build().user_data(WAKE));
            self.wake_armed = true;
        }
    }

    /// Ends the next wait after `timeout`, or with the first completion, so that it seldom lingers. One that
    /// does (a signal ended its wait) is replaced, for it may be a longer one.
    fn arm_timeout(&mut self, timeout: Duration) {
        if self.timeout_armed {
            self.push(&opcode::TimeoutRemove::new(TIMEOUT).build().user_data(CANCEL));
        }
        *self.timespec = timeout.into();
        let entry = opcode::Timeout::new(&raw const *self.timespec).count(1).flags(TimeoutFlags::empty());
        self.push(&entry.build().user_data(TIMEOUT));
        self.timeout_armed = true;
    }

    /// Submits everything and waits for `want` completions, or until `timeout`.
    fn enter(&mut self, want: u32, timeout: Duration) -> io::Result<()> {
        let timeout = timeout.min(WAIT_MAX);
        if want > 0 && !self.report.timeout_in_wait {
            self.arm_timeout(timeout);
        }
        let (queued, asleep) = {
            let queue = self.ring.submission();
            (queue.len() as u32, self.options.sqpoll && queue.need_wakeup())
        };
        // Always with GETEVENTS: deferred completion work runs only then.
        let mut flags = EnterFlags::GETEVENTS;
        if asleep {
            flags |= EnterFlags::SQ_WAKEUP;
        }
        let submitter = self.ring.submitter();
        let entered = if want > 0 && self.report.timeout_in_wait {
            let timespec = Timespec::from(timeout);
            let args = SubmitArgs::new().timespec(&timespec);
            flags |= EnterFlags::EXT_ARG;
            // SAFETY: the flags say that the argument is the extended one, and it lives across the call.
            unsafe { submitter.enter(queued, want, flags.bits(), Some(&args)) }
        } else {
            // SAFETY: no argument, which the flags do not promise either.
            unsafe { submitter.enter::<libc::sigset_t>(queued, want, flags.bits(), None) }
        };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) => Ok(()),
            // The timeout; a signal; completions to be taken first; no memory for a request just now:
            // what was not submitted stays in the queue for the next call.
            Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    /// Takes what the kernel has completed; tells whether a wake was among it.
    fn reap(&mut self, done: &mut Vec<Completion>) -> bool {
        done.append(&mut self.over);
        let mut woken = false;
        let mut again = Vec::new();
        let mut reaped = std::mem::take(&mut self.reaped);
        reaped.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())));
        for (user_data, result, flags) in reaped.drain(..) {
            match user_data {
                WAKE => {
                    self.wake_armed = self.wake_stays && cqueue::more(flags);
                    // EINVAL from a kernel that does not know it.
                    self.wake_stays &= result >= 0;
                    woken |= self.take_wakes(true);
                }
                TIMEOUT => self.timeout_armed = false,
                CANCEL => {}
                place if self.is_transient(place as u32, result) => again.push(place as u32),
                place => done.push(self.finish(place as u32, result)),
            }
        }
        self.reaped = reaped;
        for place in again {
            let entry = self.entry(place);
            self.push(&entry);
        }
        woken
    }

    /// Whether there were wakes since the last time; `seen` if the ring has told of the eventfd.
    fn take_wakes(&self, seen: bool) -> bool {
        match self.wake_stays {
            true => self.wakes.hear(),
            false if seen => self.wakes.drain(),
            false => self.wakes.take(),
        }
    }

    /// Whether nothing was done and the same may be asked again.
    ///
    /// A polled queue without a free request says EAGAIN. So does a full queue under a file system that
    /// completes its requests on a worker, where the ring does not ask again by itself (XFS, Linux 5.10 to
    /// 6.12). From a pipe or a socket it means that it does not block, which is the caller's business.
    fn is_transient(&self, place: u32, result: i32) -> bool {
        let nothing_done = match -result {
            libc::EINTR => true,
            libc::EAGAIN => self.options.iopoll || self.is_storage(self.slab.get(place).file),
            _ => false,
        };
        nothing_done && !self.closing
    }

    /// Whether `file` is a regular file or a block device.
    fn is_storage(&self, file: FileSlot) -> bool {
        let kind = self.files.get(file).metadata().map(|metadata| metadata.file_type());
        kind.is_ok_and(|kind| kind.is_file() || kind.is_block_device())
    }

    fn finish(&mut self, place: u32, result: i32) -> Completion {
        let InFlight { token, file, buffer, .. } = self.slab.remove(place);
        self.files.end(file);
        let result = match u32::try_from(result) {
            Ok(bytes) => Ok(bytes as usize),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        Completion { token, result, buffer }
    }
}

impl Engine for UringEngine {
    fn register(&mut self, file: DeviceFile) -> io::Result<FileSlot> {
        let file = os_file(file)?;
        if self.options.iopoll && !queue_polls(&file)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file's queue does not poll"));
        }
        let fd = file.as_raw_fd();
        let slot = self.files.insert(file);
        if self.is_fixed(slot)
            && let Err(error) = self.ring.submitter().register_files_update(slot.0, &[fd])
        {
            self.files.remove(slot);
            return Err(error);
        }
        Ok(slot)
    }

    fn forget(&mut self, slot: FileSlot) {
        self.files.remove(slot);
        if self.is_fixed(slot) {
            // Fails only in a thread that is not the ring's; the place is overwritten when used again.
            let _ = self.ring.submitter().register_files_update(slot.0, &[-1]);
        }
    }

    fn submit(&mut self, token: Token, file: FileSlot, operation: Operation) {
        operation.check();
        assert!(self.in_flight() < self.options.depth, "more than the engine's depth in flight");
        self.files.begin(file);
        let place = self.slab.insert(InFlight::new(token, file, operation));
        if self.options.iopoll && matches!(self.slab.get(place).what, What::Sync) {
            self.sync_here(place);
            return;
        }
        let entry = self.entry(place);
        self.push(&entry);
    }

    fn complete(&mut self, timeout: Duration, done: &mut Vec<Completion>) -> io::Result<()> {
        self.enable()?;
        let before = done.len();
        let woken = self.reap(done) | self.take_wakes(false);
        let timeout = if woken || done.len() > before { Duration::ZERO } else { timeout };
        if self.options.iopoll {
            return self.poll_device(timeout, done);
        }
        if !timeout.is_zero() {
            self.arm_wake();
            self.enter(1, timeout)?;
        } else if self.slab.in_flight() > 0 {
            self.enter(0, timeout)?;
        }
        self.reap(done);
        Ok(())
    }

    fn depth(&self) -> usize {
        self.options.depth
    }

    fn waker(&self) -> Waker {
        self.wakes.clone()
    }

    fn name(&self) -> &'static str {
        "io_uring"
    }
}

impl UringEngine {
    fn in_flight(&self) -> usize {
        self.slab.in_flight() + self.over.len()
    }

    /// Cancels everything and waits for it: whether the kernel has let go.
    fn settle(&mut self) -> io::Result<bool> {
        self.closing = true;
        self.enable()?;
        let deadline = Instant::now() + DROP_WAIT;
        let mut done = Vec::new();
        for place in self.slab.taken() {
            // A submission thread takes entries in its own time.
            while self.ring.submission().is_full() && Instant::now() < deadline {
                self.enter(0, Duration::ZERO)?;
                self.reap(&mut done);
            }
            if self.ring.submission().is_full() {
                return Ok(false);
            }
            self.push(&opcode::AsyncCancel::new(u64::from(place)).build().user_data(CANCEL));
        }
        while self.slab.in_flight() > 0 && Instant::now() < deadline {
            self.enter(u32::from(!self.options.iopoll), Duration::from_millis(50))?;
            self.reap(&mut done);
        }
        Ok(self.slab.in_flight() == 0)
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        if self.slab.in_flight() == 0 || self.settle().unwrap_or(false) {
            return;
        }
        // The kernel holds on (a dead device), or we are not in the ring's thread. Closing the ring
        // cancels too, but later and out of our sight; a buffered read may until then write to the
        // buffer's address. So these buffers, and with them the pool's mapping, are never freed.
        let leaked = self.slab.drain().map(std::mem::forget).count();
        tracing::warn!(leaked, "buffers left to the kernel: its I/O did not end");
    }
}
