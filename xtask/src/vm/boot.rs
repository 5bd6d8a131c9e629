//! One boot: QEMU with an emulated NVMe controller, its console in a file, its events as they come.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::disks::Disk;
use super::protocol::{EXIT_PORT, Event};
use super::qemu::Qemu;
use super::{Accel, home};

/// Kernel command line.
/// - `loglevel=5`: warnings are shown on the console, where `verdict` looks for them.
/// - `nvme_core.multipath=N`: else the disks are heads of multipath devices.
/// - `fuse.enable_uring=1`: FUSE over io_uring, from 6.14 on; unknown parameters are ignored.
/// - `rcu_expedited`, `tsc`, `mitigations`: an emulated machine has no time to lose, and nothing to protect.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 oops=panic loglevel=5 mitigations=off tsc=reliable \
                            rcupdate.rcu_expedited=1 nvme_core.multipath=N fuse.enable_uring=1";

/// A machine to be booted.
pub struct Machine<'a> {
    /// The emulator.
    pub qemu: &'a Qemu,
    /// What runs the instructions.
    pub accel: Accel,
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The userland.
    pub initramfs: &'a Path,
    /// The namespaces of its NVMe controller.
    pub disks: &'a [Disk],
    /// After which it is taken to hang.
    pub limit: Duration,
    /// Where the console goes.
    pub log: &'a Path,
}

/// What came of a machine.
#[derive(Debug)]
pub struct Ended {
    /// QEMU's exit status; none if it was killed, by us or else.
    pub status: Option<i32>,
    /// It was killed because it did not end.
    pub hung: bool,
    /// All events.
    pub events: Vec<Event>,
    /// All that was printed on the console.
    pub console: String,
    /// From the start of QEMU to its end.
    pub took: Duration,
}

/// Where the logs are kept.
pub fn logs() -> PathBuf {
    home().join("logs")
}

/// The log of a guest with this kernel.
pub fn log_of(release: &str) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(logs())?;
    Ok(logs().join(format!("{release}.log")))
}

impl Machine<'_> {
    /// Runs it to its end; `progress` hears of each event.
    pub fn run(&self, progress: &dyn Fn(&Event)) -> anyhow::Result<Ended> {
        let began = Instant::now();
        let _ = fs::remove_file(self.log);
        let mut child = Running(self.command().spawn().context("QEMU does not start")?);
        let stdout = child.0.stdout.take().expect("it is piped");
        let mut events = Vec::new();
        let hung = !read_events(stdout, began + self.limit, |event| {
            progress(&event);
            events.push(event);
        });
        if hung {
            let _ = child.0.kill();
        }
        let status = child.0.wait().context("waiting for QEMU")?.code();
        // A guest prints what it likes.
        let console = fs::read(self.log).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        Ok(Ended { status, hung, events, console, took: began.elapsed() })
    }

    fn command(&self) -> Command {
        let mut qemu = self.qemu.command();
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "q35"]);
        match self.accel {
            Accel::Tcg => qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
            Accel::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
        };
        qemu.args(["-smp", "2", "-m", "2048", "-device", "virtio-rng-pci"]);
        // The first serial port is the console, the second is for events.
        qemu.arg("-serial").arg(format!("file:{}", self.log.display())).args(["-serial", "stdio"]);
        qemu.arg("-device").arg(format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=4"));
        qemu.args(["-device", "nvme,id=nvme,serial=epochcache,max_ioqpairs=4"]);
        for disk in self.disks {
            let namespace = &disk.namespace;
            let id = format!("disk{}", namespace.nsid);
            let image = disk.image.display();
            qemu.arg("-drive");
            qemu.arg(format!("if=none,id={id},file={image},format=raw,cache=unsafe,discard=unmap"));
            qemu.arg("-device").arg(format!(
                "nvme-ns,bus=nvme,drive={id},nsid={},logical_block_size={size},physical_block_size={size}",
                namespace.nsid,
                size = namespace.block_bytes
            ));
        }
        qemu.arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", COMMAND_LINE]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
        unsafe { qemu.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?)) };
        qemu
    }
}

/// Hands out events until the guest's port is closed; false if it is still open at `deadline`.
fn read_events(from: std::process::ChildStdout, deadline: Instant, mut each: impl FnMut(Event)) -> bool {
    let (lines, received) = mpsc::sync_channel(64);
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        match received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            // Firmware and boot loader print on serial ports too: what is no event is not ours.
            Ok(line) => serde_json::from_slice(&line).into_iter().for_each(&mut each),
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

/// QEMU does not outlive us, be it by an error or (the signal above) by Ctrl-C and kill.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
