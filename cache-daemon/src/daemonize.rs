//! Going to the background: the command that was typed returns when the mount serves, or says why not.
//!
//! The process forks before it has any thread, because a thread does not survive a fork(2) but the
//! locks that it holds do. The child goes on; the parent waits at a pipe for one of: a `+` (it serves),
//! a `-` and the reason, or the end of the pipe (it died). Until then the child keeps the terminal, so
//! that the progress of a long listing is seen, and dies with its parent, so that Ctrl-C ends both.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{
    ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, getpid, getppid, gettid, pipe2, setsid,
};

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The one that was typed, after the other has decided: it has nothing left to do but exit.
    Parent(Outcome),
    /// The daemon, which goes on to mount.
    Daemon(Ready),
}

/// What became of the daemon.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It serves: exit with 0.
    Serves,
    /// It does not, for this reason: print it and exit with 2.
    Failed(String),
}

/// The daemon's end of the pipe. Dropped unused, the parent reports a death.
#[derive(Debug)]
pub struct Ready {
    pipe: File,
}

/// Forks. Returns in the parent only when the daemon serves or has failed.
///
/// # Panics
/// If the process has more than one thread.
pub fn fork_daemon() -> io::Result<Side> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    assert_eq!(threads, 1, "a process with threads must not fork: their locks stay taken for ever");
    // SAFETY: this is the only thread, as asserted.
    unsafe { fork_alone() }
}

/// [`fork_daemon`] without its assertion.
///
/// # Safety
/// No other thread of the process may be doing anything but wait: what locks it holds stay taken in the child.
unsafe fn fork_alone() -> io::Result<Side> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    let parent = getpid();
    // SAFETY: no lock is held by another thread (the caller's promise), so the child may do whatever its parent may.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(write);
            Ok(Side::Parent(outcome(File::from(read))))
        }
        ForkResult::Child => {
            drop(read);
            setsid()?;
            set_pdeathsig(Signal::SIGTERM)?;
            if getppid() != parent {
                // It died before the line above, which then comes too late.
                return Err(io::Error::other("the command was interrupted"));
            }
            Ok(Side::Daemon(Ready { pipe: File::from(write) }))
        }
    }
}

/// Waits for the daemon's word.
fn outcome(mut pipe: impl Read) -> Outcome {
    let mut word = Vec::new();
    // What came before an error counts: a word without its end is judged below.
    let _ = pipe.read_to_end(&mut word);
    match word.split_first() {
        Some((b'+', _)) => Outcome::Serves,
        Some((b'-', reason)) => Outcome::Failed(String::from_utf8_lossy(reason).into_owned()),
        _ => Outcome::Failed("the daemon died before it served; its log says why".into()),
    }
}

impl Ready {
    /// The mount serves: lets go of the terminal, and of the parent.
    ///
    /// Standard output and error go to `log` (they carry panics; the log proper is the caller's).
    ///
    /// # Panics
    /// If called from another thread than the one that forked: the death signal belongs to that thread
    /// (prctl(2)), and left set there it would end the daemon together with the command.
    pub fn serves(mut self, log: Option<&Path>) -> io::Result<()> {
        assert_eq!(gettid(), getpid(), "only the first thread can clear its death signal");
        let null = File::open("/dev/null")?;
        let sink = match log {
            Some(path) => OpenOptions::new().create(true).append(true).mode(0o600).open(path)?,
            None => OpenOptions::new().write(true).open("/dev/null")?,
        };
        // A daemon whose working directory is on a disk keeps that disk from being unmounted.
        std::env::set_current_dir("/")?;
        set_pdeathsig(None)?;
        self.pipe.write_all(b"+")?;
        let (null, sink) = (OwnedFd::from(null), OwnedFd::from(sink));
        dup2_stdin(&null)?;
        dup2_stdout(&sink)?;
        dup2_stderr(&sink)?;
        Ok(())
    }

    /// It does not come to serving: the parent prints `reason`, the daemon ends.
    pub fn failed(mut self, reason: &str) {
        // A parent that is gone reads it no more.
        let _ = self.pipe.write_all(format!("-{reason}").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_parent_believes_only_a_whole_word() {
        assert_eq!(outcome(&b"+"[..]), Outcome::Serves);
        assert_eq!(outcome(&b"-no such bucket"[..]), Outcome::Failed("no such bucket".into()));
        assert!(matches!(outcome(&b""[..]), Outcome::Failed(why) if why.contains("died")));
    }

    /// Runs `actor` below in a process of its own: a test's process has threads.
    fn run(act: &str) -> std::process::Output {
        let this = std::env::current_exe().expect("a test is a program");
        let mut command = Command::new(this);
        command.args(["--exact", "daemonize::tests::actor", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env("ACT", act).output().expect("it starts")
    }

    #[test]
    #[ignore = "started by the tests below, in a process of its own"]
    fn actor() {
        let Ok(act) = std::env::var("ACT") else { return };
        // SAFETY: the only other thread is the test harness's, which waits for this one (--test-threads=1).
        match unsafe { fork_alone() }.expect("a fork works") {
            Side::Parent(Outcome::Serves) => std::process::exit(0),
            Side::Parent(Outcome::Failed(why)) => {
                eprintln!("{why}");
                std::process::exit(2);
            }
            Side::Daemon(ready) => {
                match act.as_str() {
                    "serve" => {
                        ready.serves(None).expect("there is a /dev/null");
                        // Lives on: the caller's output() would wait for it if it kept the terminal.
                        std::thread::sleep(std::time::Duration::from_secs(20));
                    }
                    "fail" => ready.failed("no such bucket"),
                    _ => {}
                }
                std::process::exit(0);
            }
        }
    }

    #[test]
    fn the_command_returns_when_the_daemon_serves_and_the_terminal_is_free() {
        let output = run("serve");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }

    #[test]
    fn the_command_says_why_the_daemon_failed() {
        let output = run("fail");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("no such bucket"), "{output:?}");
    }

    #[test]
    fn the_command_notices_a_daemon_that_dies() {
        let output = run("die");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("died before it served"), "{output:?}");
    }
}
