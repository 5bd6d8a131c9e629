//! The programs, two of which run only while somebody listens: those that see files being opened and mapped.
//!
//! Every open and every mmap of the host enters them, and nobody but `cachectl trace` wants to know. So the start only finds out
//! whether they attach. Attaching takes 20 to 40 ms, and detaching, which waits for whoever is in them, 40 to 700; on 5.10, which
//! has them loaded anew each time, 180 and 40 (all emulated, the machine busy).

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use aya::programs::fentry::FEntryLink;
use aya::programs::{FEntry, Program, ProgramError};
use aya::{Btf, Ebpf};
use parking_lot::Mutex;

use super::attach::chain;
use super::memory;
use super::programs::{Hook, MAPPED, OPENED, Probe};
use super::report::{Cost, ProbeReport};

/// The programs of a loaded object.
pub(super) struct Loaded {
    programs: Mutex<Programs>,
    /// Openings are wanted. `programs` follow: the last to take the lock looks here.
    watches_openings: AtomicBool,
}

struct Programs {
    ebpf: Ebpf,
    /// Those that see openings here.
    openings: Vec<Probe>,
    /// While these are wanted: those that are attached.
    links: Option<Vec<FEntryLink>>,
}

impl Loaded {
    /// Of an object, and the report of what was attached.
    pub(super) fn new(ebpf: Ebpf, report: &ProbeReport) -> Self {
        let seen = [(report.sees_opens, OPENED), (report.sees_maps, MAPPED)];
        let openings = seen.into_iter().filter_map(|(is_seen, probe)| is_seen.then_some(probe)).collect();
        let programs = Mutex::new(Programs { ebpf, openings, links: None });
        Self { programs, watches_openings: AtomicBool::new(false) }
    }

    /// Attaches what sees openings, or detaches it. Nothing if that was asked last: whoever empties the ring asks often, and is not to
    /// wait for one who attaches.
    pub(super) fn watch_openings(&self, on: bool) {
        if self.watches_openings.swap(on, Relaxed) != on {
            let mut programs = self.programs.lock();
            programs.watch_openings(self.watches_openings.load(Relaxed));
        }
    }

    /// A kernel with preemption (from 7.0 on every one) leaves a tracing program out where it interrupted the same program on
    /// this CPU: `bpf_prog_enter_recur` in kernel/bpf/trampoline.c. Rare, a run takes 70 ns, but to be told.
    pub(super) fn runs_missed(&self) -> u64 {
        let programs = self.programs.lock();
        let infos = programs.ebpf.programs().filter_map(|(_, program)| {
            let fd = program.fd().ok()?.as_fd().as_raw_fd();
            std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()
        });
        infos.filter_map(|info| recursion_misses(&info)).sum()
    }

    /// What each cost, where the kernel measures it.
    pub(super) fn costs(&self) -> Vec<Cost> {
        let programs = self.programs.lock();
        let of = |(name, program): (&str, &Program)| {
            let info = program.info().ok()?;
            Some(Cost { program: name.to_owned(), runs: info.run_count(), time: info.run_time() })
        };
        let mut costs: Vec<_> = programs.ebpf.programs().filter_map(of).collect();
        costs.sort_unstable_by(|a, b| a.program.cmp(&b.program));
        costs
    }
}

/// From the kernel's description of a program (5.12).
fn recursion_misses(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("recursion_misses:"))?.trim().parse().ok()
}

impl Programs {
    fn watch_openings(&mut self, on: bool) {
        if on != self.links.is_some() {
            self.links = on.then(|| self.attached());
        }
    }

    fn attached(&mut self) -> Vec<FEntryLink> {
        let Self { ebpf, openings, .. } = self;
        let mut types = None;
        let links = openings.iter().filter_map(|probe| link(ebpf, probe, &mut types)).collect();
        if types.take().is_some() {
            memory::give_back();
        }
        links
    }
}

/// Attaches one of which the start found that it attaches. `types`: the kernel's, once they were needed.
fn link(ebpf: &mut Ebpf, probe: &Probe, types: &mut Option<Btf>) -> Option<FEntryLink> {
    let (Some(Program::FEntry(program)), Hook::Fentry(function)) = (ebpf.program_mut(probe.name), probe.hook)
    else {
        return None;
    };
    let attached = match program.attach() {
        // Before 5.13 a program can be attached once after it was loaded, and then no more: ENOENT.
        Err(_) => load_again(program, function, types).and_then(|()| program.attach()),
        attached => attached,
    };
    let link = attached.and_then(|id| program.take_link(id));
    link.inspect_err(|error| tracing::warn!(program = probe.name, error = chain(error), "not attached")).ok()
}

/// Its maps are open still: the ring, the losses and .rodata, which is all that these programs use.
fn load_again(program: &mut FEntry, function: &str, types: &mut Option<Btf>) -> Result<(), ProgramError> {
    let types = match types {
        Some(types) => types,
        none => none.insert(Btf::from_sys_fs()?),
    };
    program.unload()?;
    program.load(function, types)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_were_left_out_are_read_where_the_kernel_counts_them() {
        assert_eq!(recursion_misses("prog_type:\t26\nrun_cnt:\t0\nrecursion_misses:\t17\n"), Some(17));
        assert_eq!(recursion_misses("prog_type:\t26\n"), None);
    }
}
