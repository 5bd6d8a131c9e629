//! PID 1: starts the work, reaps orphans, stops the machine.
//!
//! QEMU's isa-debug-exit makes its own exit status of what is written to a port, so a guest that dies (status 0, or a
//! time-out of the host) cannot be taken for one that succeeded. The port is written with ioperm and `out`: cloud
//! kernels have no /dev/port.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use super::protocol::EXIT_PORT;
use super::system;

/// The work is done and everything passed: QEMU ends with status 1.
const GOOD: u32 = 0;
/// Something failed: status 3.
const BAD: u32 = 1;

/// The kernel gives its init none.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// The argument that makes this program the worker.
pub const WORK: &str = "work";

/// Is PID 1 until the worker is over, then stops the machine.
pub fn be_init(program: &Path) -> ! {
    let code = match system::mount_basics().and_then(|()| start_and_reap(program)) {
        Ok(true) => GOOD,
        Ok(false) => BAD,
        Err(error) => {
            eprintln!("guest-init: {error:#}");
            BAD
        }
    };
    stop(code)
}

/// Runs the worker to its end; whether it succeeded. Daemons that it orphans are reaped beside it.
fn start_and_reap(program: &Path) -> anyhow::Result<bool> {
    let worker = Command::new(program).arg(WORK).env("PATH", PATH).spawn()?;
    let worker = Pid::from_raw(worker.id().cast_signed());
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == worker => return Ok(code == 0),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == worker => {
                eprintln!("guest-init: the worker was killed by {signal}");
                return Ok(false);
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => anyhow::bail!("wait: {errno}"),
        }
    }
}

/// Ends QEMU, and with it the machine.
fn stop(code: u32) -> ! {
    // What the serial ports still hold would be lost.
    for port in ["/dev/ttyS0", "/dev/ttyS1"] {
        if let Ok(port) = File::options().write(true).open(port) {
            // SAFETY: waits for what an open descriptor still has to send; touches no memory of ours.
            unsafe { libc::tcdrain(port.as_raw_fd()) };
        }
    }
    // SAFETY: asks the kernel for access to four ports of a device that only waits to be told to end the machine.
    let allowed = unsafe { libc::ioperm(EXIT_PORT.into(), 4, 1) } == 0;
    if allowed {
        write_port(code);
    }
    // Not reached where the device is there; the host takes the status of a plain power-off for a failure.
    // SAFETY: nothing of this machine is needed any more.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_POWER_OFF) };
    unreachable!("the machine is off")
}

#[cfg(target_arch = "x86_64")]
fn write_port(code: u32) {
    // SAFETY: `ioperm` allowed the port; the instruction touches no memory of ours.
    unsafe {
        std::arch::asm!("out dx, eax", in("dx") EXIT_PORT, in("eax") code, options(nomem, nostack, preserves_flags));
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn write_port(_code: u32) {}
