//! Who reads: the current thread, and its place among the readers.

use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_task,
    bpf_get_current_task_btf, bpf_jiffies64,
};
use ebpf_common::{Reader, ReaderTotals, SettingsFlags};

use crate::maps;
use crate::settings::is_set;
use crate::structs::Task;

/// The thread that runs.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    pub(crate) tid: u32,
    pub(crate) tgid: u32,
    /// Tells one read system call from the next: the kernel counts them when they end. 0 where it cannot be read.
    pub(crate) call: u64,
}

impl Thread {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        if is_set(SettingsFlags::TASK) {
            // SAFETY: a helper without preconditions.
            let task = Task(unsafe { bpf_get_current_task_btf() }.cast());
            let call = if is_set(SettingsFlags::SYSCR) { task.read_calls() } else { 0 };
            Self { tid: task.tid(), tgid: task.tgid(), call }
        } else {
            let both = bpf_get_current_pid_tgid();
            let call = if is_set(SettingsFlags::SYSCR) {
                // SAFETY: a helper without preconditions.
                Task(unsafe { bpf_get_current_task() } as *const u8).read_calls_copied()
            } else {
                0
            };
            Self { tid: both as u32, tgid: (both >> 32) as u32, call }
        }
    }

    /// Its place among the readers, taken from another thread if need be.
    #[inline(always)]
    pub(crate) fn reader(self) -> Option<&'static mut Reader> {
        // SAFETY: a value of an array lives as long as the map. One thread writes it at a time, but for the collisions that
        // `Reader` describes, which garble counts and nothing else.
        let reader = unsafe { &mut *maps::reader(self.tid)? };
        // The process too: ids are used again.
        if reader.tid != self.tid || reader.tgid != self.tgid {
            self.take(reader);
        }
        Some(reader)
    }

    /// Not inlined: it happens once for each thread.
    #[inline(never)]
    fn take(self, reader: &mut Reader) {
        if reader.tid != 0 {
            if reader.state & Reader::ENDED == 0 {
                maps::leave(reader.tid, reader.ino, reader.touched_ticks);
            }
            maps::retire(reader.tgid, &totals(reader));
        }
        // SAFETY: a helper without preconditions.
        let cgroup = unsafe { bpf_get_current_cgroup_id() };
        let comm = bpf_get_current_comm().unwrap_or_default();
        *reader = Reader {
            tid: self.tid,
            tgid: self.tgid,
            ino: 0,
            touched_ticks: 0,
            first: 0,
            end: 0,
            asked_end: 0,
            call: 0,
            cgroup,
            bytes: 0,
            reads: 0,
            faults: 0,
            begins: 0,
            state: Reader::ENDED,
            comm,
            waited_ns: 0,
            asked_bytes: 0,
            requests: 0,
        };
    }
}

#[inline(always)]
fn totals(reader: &Reader) -> ReaderTotals {
    ReaderTotals {
        bytes: reader.bytes,
        reads: u64::from(reader.reads),
        faults: u64::from(reader.faults),
        begins: u64::from(reader.begins),
        touched_ticks: reader.touched_ticks,
        cgroup: reader.cgroup,
        comm: reader.comm,
        waited_ns: reader.waited_ns,
        asked_bytes: reader.asked_bytes,
        requests: reader.requests,
    }
}

/// The kernel's ticks: the verifier makes one load of it. (`bpf_ktime_get_coarse_ns` is not for tracing programs.)
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    // SAFETY: a helper without preconditions.
    unsafe { bpf_jiffies64() }
}
