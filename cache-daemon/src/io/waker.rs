//! Waker: gets an engine's thread out of its wait, from any other thread.
//!
//! An eventfd, because a ring can poll one beside its I/O, and a flag before it, because most wakes hit
//! a thread that is awake or already woken: those cost one atomic and no system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel, Ordering::Acquire};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Wakes one engine's thread out of [`super::Engine::complete`]; clones wake the same one.
///
/// A wake is never lost: used while the engine is not waiting, it ends its next wait at once. Any number
/// of wakes before that count as one.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    event: EventFd,
    /// A wake that [`Waker::take`] has not seen yet; the eventfd is, or is about to be, readable.
    pending: AtomicBool,
}

impl Waker {
    /// A waker that wakes nobody yet.
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(Arc::new(Shared { event, pending: AtomicBool::new(false) })))
    }

    /// Wakes the engine's thread. What was written before this is seen by that thread after it woke.
    pub fn wake(&self) {
        if !self.0.pending.swap(true, AcqRel) {
            // EAGAIN means that the counter is full, so the eventfd is readable: that is what we want.
            let _ = self.0.event.write(1);
        }
    }

    /// Takes the wakes so far: whether there were any. For the engine's own thread, before each wait.
    pub(super) fn take(&self) -> bool {
        self.0.pending.load(Acquire) && self.drain()
    }

    /// [`Waker::take`] after the eventfd was seen readable: empties it too.
    ///
    /// A wake between the read and the clearing finds the flag set and writes nothing, but this very return
    /// tells of it. One that has set the flag before and writes only after this leaves the eventfd
    /// readable once too often, which ends one wait for nothing.
    pub(super) fn drain(&self) -> bool {
        // EAGAIN: nothing written yet.
        let _ = self.0.event.read();
        self.0.pending.swap(false, AcqRel)
    }

    /// [`Waker::take`] for whoever is told of each write to the eventfd, and so need not empty it.
    pub(super) fn hear(&self) -> bool {
        self.0.pending.load(Acquire) && self.0.pending.swap(false, AcqRel)
    }

    /// Waits in poll(2) for a wake, a signal or `timeout`, and takes the wakes. For engines that have
    /// nothing else to wait for in the kernel.
    pub(super) fn wait(&self, timeout: Duration) -> io::Result<()> {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        let timeout_ms = timeout.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
        match poll(&mut fds, PollTimeout::try_from(timeout_ms).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(nix::Error::EINTR) => {
                self.drain();
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.0.event.as_raw_fd()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_before_the_take_count_as_one() {
        let waker = Waker::new().unwrap();
        assert!(!waker.take());
        waker.wake();
        waker.clone().wake();
        assert!(waker.take());
        assert!(!waker.take());
    }

    #[test]
    fn every_wake_ends_a_wait_under_contention() {
        // One thread wakes and waits to be heard, 20 000 times: a lost wake hangs the test.
        let waker = Waker::new().unwrap();
        let (heard, hear) = crossbeam::channel::bounded(0);
        let other = std::thread::spawn({
            let waker = waker.clone();
            move || {
                for _ in 0..20_000 {
                    waker.wake();
                    waker.wake();
                    hear.recv().unwrap();
                }
            }
        });
        for _ in 0..20_000 {
            wait(&waker);
            heard.send(()).unwrap();
        }
        other.join().unwrap();
    }

    fn wait(waker: &Waker) {
        let mut woken = waker.take();
        while !woken {
            let mut fds = [nix::poll::PollFd::new(waker.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).unwrap();
            woken = waker.drain();
        }
    }
}
