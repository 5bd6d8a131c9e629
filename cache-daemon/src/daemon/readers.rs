//! `cachectl top`: who reads, from the probes, and from the daemon's own requests where these see less.

use std::fs;
use std::os::unix::fs::MetadataExt;

use fuse_frontend::askers::Asker;
use fuse_frontend::session::Mount;

use crate::control::Readers;
use crate::probe::{Probes, ReaderRow, Tier};

/// All readers. Waits are the kernel's where it tells them; else the daemon's, by the threads whose requests came.
pub(super) fn readers(mount: &Mount, probes: Option<&Probes>) -> Readers {
    let report = probes.map(Probes::report);
    let tier = report.as_ref().map_or(Tier::C, |report| report.tier);
    let sees_waits = report.is_some_and(|report| report.sees_waits);
    let mut readers = probes.map_or_else(Vec::new, Probes::readers);
    if !sees_waits {
        for asker in mount.counts().askers().all() {
            add(&mut readers, &asker, tier == Tier::C);
        }
    }
    Readers { tier: tier.to_string(), readers, waits_by_kernel: sees_waits }
}

/// Adds what the daemon knows of a thread to its process. `alone`: nobody else knows of its reads.
fn add(readers: &mut Vec<ReaderRow>, asker: &Asker, alone: bool) {
    let tgid = process_of(asker.tid);
    let at = readers.iter().position(|row| row.tgid == tgid).unwrap_or_else(|| {
        readers.push(from_proc(tgid));
        readers.len() - 1
    });
    let row = &mut readers[at];
    row.requests += asker.reads;
    row.asked_bytes += asker.bytes;
    row.waited_us += asker.waited_us;
    if alone {
        row.threads += 1;
        row.reads += asker.reads;
        row.bytes += asker.bytes;
    }
}

/// The process of a thread; itself if it is gone, which is right for a process of one thread.
pub(super) fn process_of(tid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|tgid| tgid.trim().parse().ok()).unwrap_or(tid)
}

/// The name of a process; empty if it is gone.
pub(super) fn command_of(tgid: u32) -> String {
    fs::read_to_string(format!("/proc/{tgid}/comm")).unwrap_or_default().trim_end_matches('\n').to_owned()
}

/// A row of nothing but what /proc tells of a process.
fn from_proc(tgid: u32) -> ReaderRow {
    let groups = fs::read_to_string(format!("/proc/{tgid}/cgroup")).unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let cgroup = group.and_then(|group| fs::metadata(format!("/sys/fs/cgroup/{group}")).ok());
    ReaderRow {
        tgid,
        command: command_of(tgid),
        cgroup: cgroup.map_or(0, |group| group.ino()),
        ..ReaderRow::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_requests_count_for_its_process() {
        let mut readers = vec![ReaderRow { bytes: 500, ..from_proc(std::process::id()) }];
        let tid = nix::unistd::gettid().as_raw() as u32;
        let asker = Asker { tid, reads: 3, bytes: 100, waited_us: 40 };
        add(&mut readers, &asker, false);
        // Beyond pid_max: no such thread.
        add(&mut readers, &Asker { tid: u32::MAX, ..asker }, true);
        let [ours, gone] = &readers[..] else { panic!("{readers:?}") };
        assert_eq!((ours.requests, ours.asked_bytes, ours.waited_us, ours.bytes), (3, 100, 40, 500));
        assert_eq!((gone.tgid, gone.bytes, gone.reads, gone.command.as_str()), (u32::MAX, 100, 3, ""));
        assert!(!ours.command.is_empty());
    }
}
