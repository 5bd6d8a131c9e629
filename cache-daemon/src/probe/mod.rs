//! Probes: who reads what, seen by the kernel.
//!
//! Reads that the kernel serves from its page cache never reach the daemon; eBPF programs are their only witness. They
//! count in arrays that are mapped here ([`Probes::heat`], [`Probes::readers`]: no system call), and report only where a
//! reading of a file begins or ends ([`Probes::drain`]) and, while it is asked for, where one is opened or mapped. The programs are in `ebpf/`; what is seen in which tier and mode
//! of serving, and what it costs, is in docs/probes.md.
//!
//! Life: [`Probes::start`] returns at once, and a thread of its own loads and attaches (0.1 to 0.4 s, most of it reading
//! the kernel's type information, whose memory is given back). Nothing is ever pinned: the kernel detaches all when the
//! [`Probes`] are dropped or the process dies.
//!
//! Invariants
//! - Probes never fail a mount. What cannot be had is left out, with the reason in the [`ProbeReport`].
//! - Nothing here touches the mount, so no reply can depend on it.
//! - aya is used in this module only.

mod attach;
mod disks;
mod event;
mod gauges;
mod loaded;
mod mapped;
mod memory;
mod offsets;
mod programs;
mod readers;
mod report;
mod rights;

use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use fuse_frontend::source::Ino;

use crate::stats::probe::ProbeFigures;
use attach::Attached;
pub(crate) use attach::in_initial_pid_namespace;
pub use disks::{disks_under, queues_under};
pub use event::{Event, clock_ns};
pub use readers::ReaderRow;
pub use report::{Cost, Heat, LeftOut, ProbeOptions, ProbeReport, Tier};

/// The kernel's page, as the probes count.
const PAGE_BYTES: u64 = 4096;

/// The probes of one mount. Dropping them detaches all.
#[derive(Debug)]
pub struct Probes {
    started: Arc<OnceLock<Started>>,
    thread: Option<JoinHandle<()>>,
    figures: Arc<ProbeFigures>,
}

#[derive(Debug)]
struct Started {
    report: ProbeReport,
    attached: Option<Attached>,
}

impl Probes {
    /// Begins to load the probes for a mount, and returns. Mount first: the probes filter by the mount's device.
    pub fn start(options: ProbeOptions) -> Self {
        let started = Arc::new(OnceLock::new());
        let cell = started.clone();
        let work = move || {
            // Set once, here.
            let _ = cell.set(Started::new(&options));
            memory::give_back();
        };
        let thread = std::thread::Builder::new().name("probe-start".into()).spawn(work).ok();
        Self { started, thread, figures: Arc::default() }
    }

    /// The tier, and what was left out and why. Tier C until loading is done.
    pub fn report(&self) -> ProbeReport {
        match (self.started.get(), &self.thread) {
            (Some(started), _) => started.report.clone(),
            (None, Some(_)) => ProbeReport::nothing("the probes are being loaded"),
            (None, None) => ProbeReport::nothing("no thread could be started to load the probes"),
        }
    }

    /// Waits until loading is done, for at most `patience`; whether it is.
    pub fn wait(&self, patience: Duration) -> bool {
        let until = std::time::Instant::now() + patience;
        while self.started.get().is_none() && self.thread.is_some() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.started.get().is_some()
    }

    /// What was read of `ino`; zeros for what is not seen. A few loads from memory.
    pub fn heat(&self, ino: Ino) -> Heat {
        self.attached().and_then(|attached| attached.heat(ino)).unwrap_or_default()
    }

    /// Takes the events that came since, in the order in which they happened on each thread; how many.
    ///
    /// Nobody is woken for events: call it several times a second. The ring of [`ProbeOptions::ring_bytes`] holds one for
    /// each 56 bytes; what it had no room for is counted in [`ProbeFigures`], and no reader ever waits.
    pub fn drain(&self, take: &mut dyn FnMut(Event)) -> usize {
        self.attached().map_or(0, |attached| attached.drain(take))
    }

    /// Whether events are to tell of files that are opened and mapped, too, as far as the report says that it is seen. It costs
    /// every open and mmap of the host something, so leave it off while nobody listens.
    pub fn watch_openings(&self, on: bool) {
        if let Some(attached) = self.attached() {
            attached.programs.watch_openings(on);
        }
    }

    /// Events that the ring had no room for so far.
    pub fn events_lost(&self) -> u64 {
        let losses = self.attached().map(Attached::losses).unwrap_or_default();
        losses.dropped + losses.openings_dropped
    }

    /// Who read so far, one row a process, the last to read first.
    pub fn readers(&self) -> Vec<ReaderRow> {
        self.attached().map_or_else(Vec::new, Attached::readers)
    }

    /// Sets what [`Heat::epoch`] becomes where a reading begins from now on.
    pub fn set_epoch(&self, epoch: u32) {
        if let Some(attached) = self.attached() {
            attached.set_epoch(epoch);
        }
    }

    /// The figures, brought up to date: reads the places of all readers, about 1 MiB.
    pub fn figures(&self) -> Arc<ProbeFigures> {
        if let Some(attached) = self.attached() {
            attached.observe(&self.figures);
        }
        self.figures.clone()
    }

    /// Runs that a preemptible kernel left out so far, of all programs, from readers of this mount and of others; their accesses
    /// are not counted.
    pub fn runs_missed(&self) -> u64 {
        self.attached().map_or(0, |attached| attached.programs.runs_missed())
    }

    /// How often each program ran and for how long, while the kernel measures that: as long as somebody holds what
    /// [`Probes::measure`] gave, or with the sysctl `kernel.bpf_stats_enabled`.
    pub fn costs(&self) -> Vec<Cost> {
        self.attached().map_or_else(Vec::new, |attached| attached.programs.costs())
    }

    /// Lets the kernel measure every BPF program of the host until the result is dropped; each run costs more then.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN, or before 5.8.
    pub fn measure() -> Result<Measuring, std::io::Error> {
        let stats = aya::sys::enable_stats(aya::sys::Stats::RunTime);
        stats.map(Measuring).map_err(|error| error.io_error)
    }

    fn attached(&self) -> Option<&Attached> {
        self.started.get()?.attached.as_ref()
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        // The thread holds the other reference: once it is gone, nothing outlives this.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Started {
    fn new(options: &ProbeOptions) -> Self {
        match attach::attach(options) {
            Ok((report, attached)) => Self { report, attached: Some(attached) },
            Err(report) => Self { report, attached: None },
        }
    }
}

/// While this lives, the kernel measures BPF programs.
#[derive(Debug)]
pub struct Measuring(#[expect(dead_code, reason = "held, not used")] std::os::fd::OwnedFd);
