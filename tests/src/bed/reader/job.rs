//! A job of its own: its workers descend from a process that a shell has started, as a training script's do.
//!
//! The daemon tells jobs apart by that; [`super::Readers`] are all of one job, the program's that started them.

use std::io::Read;
use std::ops::RangeInclusive;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{EpochReport, Reading};

/// A running job; killed when dropped.
#[derive(Debug)]
pub struct Job {
    /// The shell, which leads a process group.
    child: Child,
}

impl Job {
    /// Starts to read `epochs`, one after the other.
    pub fn start(reading: &Reading, epochs: RangeInclusive<u64>) -> anyhow::Result<Self> {
        let reader = reading.command();
        let mut shell = Command::new("sh");
        // Not the shell's last command: that would take its place.
        shell.args(["-c", "\"$@\"; exit $?", "sh"]).arg(reader.get_program()).args(reader.get_args());
        shell.args(["--first-epoch", &epochs.start().to_string()]);
        shell.args(["--epochs", &epochs.count().to_string(), "--json"]);
        shell.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self { child: shell.spawn().context("sh")? })
    }

    /// Waits for its end; what it read.
    pub fn end(mut self) -> anyhow::Result<Vec<EpochReport>> {
        let mut lines = String::new();
        self.child.stdout.take().expect("it is piped").read_to_string(&mut lines)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "a job ended with {status}: {lines}");
        lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }

    /// kill -9 for all of its processes, in the middle of what they read.
    pub fn kill(self) {}
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let group = i32::try_from(self.child.id()).expect("Linux's process ids are below 2^22");
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
