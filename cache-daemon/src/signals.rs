//! Signals and the end of the daemon.
//!
//! The first SIGINT or SIGTERM asks for a clean end: unmount, let the store sync and close. A second
//! one, meant by somebody who lost patience, ends the process at once. What counts is signals alone:
//! one that arrives while an unmount is already ending the daemon is a first signal, not a second.
//! Treating it as the second lost a sync.
//!
//! SIGHUP is ignored: a daemon outlives its terminal.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// Signals so close are one: Ctrl-C goes to the whole foreground group, and a parent may forward it as well.
const ONE_SIGNAL: Duration = Duration::from_millis(500);

/// Why the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// SIGINT or SIGTERM.
    Signal,
    /// `cachectl umount`.
    Asked,
    /// The kernel says that the mount is gone: umount(8), fusermount3 -u.
    Unmounted,
}

/// The wish to end. Clones are the same one; the first reason stays.
#[derive(Clone, Default)]
pub struct Shutdown(Arc<Inner>);

#[derive(Default)]
struct Inner {
    reason: Mutex<Option<Reason>>,
    begun: Condvar,
}

impl Shutdown {
    /// Asks for the end, from any thread. Asking again changes nothing.
    pub fn begin(&self, reason: Reason) {
        self.0.reason.lock().get_or_insert(reason);
        self.0.begun.notify_all();
    }

    /// Why, if it has begun.
    pub fn begun(&self) -> Option<Reason> {
        *self.0.reason.lock()
    }

    /// Waits until somebody asks for the end.
    pub fn wait(&self) -> Reason {
        let mut reason = self.0.reason.lock();
        loop {
            if let Some(reason) = *reason {
                return reason;
            }
            self.0.begun.wait(&mut reason);
        }
    }
}

/// The thread that takes signals; dropping it ends the thread and leaves the signals ignored.
pub struct Listening {
    handle: Handle,
    thread: Option<thread::JoinHandle<()>>,
}

/// Takes SIGINT, SIGTERM and SIGHUP from now on, and tells `shutdown`.
pub fn listen(shutdown: Shutdown) -> io::Result<Listening> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    let take = move || {
        let mut first = None;
        for signal in signals.forever() {
            match act_on(signal, Instant::now(), &mut first) {
                Act::Nothing => {}
                Act::End => {
                    tracing::info!(
                        signal,
                        "ending: unmounting and closing the store; a second signal ends at once"
                    );
                    shutdown.begin(Reason::Signal);
                }
                Act::Exit => {
                    tracing::warn!(signal, "second signal: ending at once");
                    std::process::exit(1);
                }
            }
        }
    };
    let thread = thread::Builder::new().name("signals".into()).spawn(take)?;
    Ok(Listening { handle, thread: Some(thread) })
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Act {
    Nothing,
    End,
    Exit,
}

/// What a signal at `now` means, given when the `first` one came.
fn act_on(signal: i32, now: Instant, first: &mut Option<Instant>) -> Act {
    match *first {
        _ if signal == SIGHUP => Act::Nothing,
        None => {
            *first = Some(now);
            Act::End
        }
        Some(first) if now.duration_since(first) < ONE_SIGNAL => Act::Nothing,
        Some(_) => Act::Exit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_signal_exits_unless_it_is_the_first_ones_echo() {
        let (start, mut first) = (Instant::now(), None);
        let mut at = |ms, signal| act_on(signal, start + Duration::from_millis(ms), &mut first);
        assert_eq!(at(0, SIGHUP), Act::Nothing);
        assert_eq!(at(10, SIGINT), Act::End);
        assert_eq!(at(20, SIGTERM), Act::Nothing);
        assert_eq!(at(900, SIGHUP), Act::Nothing);
        assert_eq!(at(1000, SIGINT), Act::Exit);
    }

    #[test]
    fn a_signal_during_an_unmount_is_the_first_one() {
        let shutdown = Shutdown::default();
        shutdown.begin(Reason::Asked);
        // The unmount has begun; the count of signals does not know it.
        assert_eq!(act_on(SIGTERM, Instant::now(), &mut None), Act::End);
        shutdown.begin(Reason::Signal);
        assert_eq!(shutdown.begun(), Some(Reason::Asked));
    }

    #[test]
    fn a_real_signal_ends_the_wait() {
        let shutdown = Shutdown::default();
        let listening = listen(shutdown.clone()).expect("signals can be taken");
        signal_hook::low_level::raise(SIGHUP).expect("it can be raised");
        assert_eq!(shutdown.begun(), None);
        signal_hook::low_level::raise(SIGTERM).expect("it can be raised");
        assert_eq!(shutdown.wait(), Reason::Signal);
        drop(listening);
    }
}
