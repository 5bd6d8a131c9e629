//! IOPOLL: rings that ask the device for completions instead of being interrupted by it.
//!
//! Such a ring takes nothing but reads and writes of O_DIRECT files whose queue polls (NVMe with
//! `nvme.poll_queues`), so the waker is looked at between two rounds, and a sync blocks. A kernel lets a
//! read "succeed" on a queue that does not poll, by interrupt: hence the check of `queue/io_poll`.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::stat::{major, minor};

use super::UringEngine;
use crate::io::Completion;

/// Whether I/O on `file` can be polled for: its device's queue says so in sysfs.
pub fn queue_polls(file: &File) -> io::Result<bool> {
    let metadata = file.metadata()?;
    let device = if metadata.file_type().is_block_device() { metadata.rdev() } else { metadata.dev() };
    let sysfs = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    Ok(attribute_is_one(Path::new(&sysfs)))
}

fn attribute_is_one(device: &Path) -> bool {
    // A partition has no queue of its own; its parent directory is the disk's.
    ["queue/io_poll", "../queue/io_poll"].iter().any(|attribute| {
        std::fs::read_to_string(device.join(attribute)).is_ok_and(|value| value.trim() == "1")
    })
}

impl UringEngine {
    /// Rounds of submitting and polling until something is over, a wake, or `timeout`.
    pub(super) fn poll_device(&mut self, timeout: Duration, done: &mut Vec<Completion>) -> io::Result<()> {
        let deadline = Instant::now() + timeout.min(super::WAIT_MAX);
        let before = done.len();
        loop {
            self.enter(0, Duration::ZERO)?;
            self.reap(done);
            let now = Instant::now();
            if done.len() > before || self.wakes.take() || now >= deadline {
                return Ok(());
            }
            if self.slab.in_flight() == 0 {
                // Nothing to poll for: only a wake can end the wait.
                return self.wakes.wait(deadline - now);
            }
            std::hint::spin_loop();
        }
    }

    /// fdatasync in this thread: an IOPOLL ring refuses it (`io_prep_fsync`, Linux `io_uring/sync.c`).
    pub(super) fn sync_here(&mut self, place: u32) {
        let synced = self.files.get(self.slab.get(place).file).sync_data();
        let result = match synced {
            Ok(()) => 0,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        let completion = self.finish(place, result);
        self.over.push(completion);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_and_its_partition_poll_if_the_disk_queue_says_one() {
        let sysfs = tempfile::tempdir().unwrap();
        let partition = sysfs.path().join("nvme0n1/nvme0n1p1");
        std::fs::create_dir_all(&partition).unwrap();
        std::fs::create_dir(sysfs.path().join("nvme0n1/queue")).unwrap();
        let attribute = sysfs.path().join("nvme0n1/queue/io_poll");
        for (value, polls) in [("0\n", false), ("1\n", true)] {
            std::fs::write(&attribute, value).unwrap();
            assert_eq!(attribute_is_one(&sysfs.path().join("nvme0n1")), polls);
            assert_eq!(attribute_is_one(&partition), polls);
        }
    }

    #[test]
    fn a_file_without_a_block_device_does_not_poll() {
        let memory = nix::sys::memfd::memfd_create("f", nix::sys::memfd::MFdFlags::empty()).unwrap();
        assert!(!queue_polls(&File::from(memory)).unwrap());
    }
}
