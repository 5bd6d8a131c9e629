//! Loading and attaching: which programs, with which constants, and what to do without.
//!
//! Reads are seen by the first of `read_verified`, on old kernels `read_entered` (both tier A), and `pages_got` (tier B) that
//! attaches; faults by the two tracepoints where they are, else by fentry. Two that see the same access never run
//! together: it would count twice.

use std::error::Error;
use std::fmt::{self, Write};

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::Program;
use aya::programs::fentry::FEntryLinkId;
use aya::programs::tp_btf::BtfTracePointLinkId;
use aya::{Btf, Ebpf, EbpfLoader};
use ebpf_common::{
    Clock, Control, Heat as Record, Losses, READERS, Reader, ReaderTotals, SETTINGS_SYMBOL, Settings,
    SettingsFlags, TOUCHED_SHIFT,
};
use fuse_frontend::source::Ino;
use parking_lot::Mutex;

use super::event::Event;
use super::gauges::Gauges;
use super::loaded::Loaded;
use super::mapped::Mapped;
use super::offsets::Kernel;
use super::programs::{self, Hook, Probe};
use super::readers::{self, ReaderRow};
use super::report::{Heat, LeftOut, ProbeOptions, ProbeReport, Tier};
use super::{PAGE_BYTES, rights};
use crate::stats::probe::ProbeFigures;

/// Later, a splice of a FUSE file does not pass `generic_file_read_iter`, and then a passthrough read does not either.
const READS_ALL_ENTER: (u32, u32) = (6, 5);

/// What runs in the kernel, and the maps that it shares with us. Dropping it detaches.
pub(super) struct Attached {
    heat: Mapped<Record>,
    readers: Mapped<Reader>,
    control: Mapped<Control>,
    clock: Mapped<Clock>,
    tick_ns: u64,
    retired: HashMap<MapData, u32, Shared<ReaderTotals>>,
    losses: PerCpuArray<MapData, Shared<Losses>>,
    ring: Mutex<RingBuf<MapData>>,
    gauges: Gauges,
    map_bytes: u64,
    pub(super) programs: Loaded,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("map_bytes", &self.map_bytes).finish_non_exhaustive()
    }
}

/// A type that both sides know, for aya.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Shared<T>(pub(super) T);

// SAFETY: `repr(C)`, integers only, no implicit padding.
unsafe impl aya::Pod for Shared<Settings> {}
// SAFETY: as above.
unsafe impl aya::Pod for Shared<ReaderTotals> {}
// SAFETY: as above.
unsafe impl aya::Pod for Shared<Losses> {}

/// Loads and attaches as much as works; tier C's report if that does not suffice.
pub(super) fn attach(options: &ProbeOptions) -> Result<(ProbeReport, Attached), ProbeReport> {
    if options.best == Tier::C {
        return Err(ProbeReport::nothing("probes are turned off"));
    }
    if let Some(missing) = rights::missing() {
        return Err(ProbeReport::nothing(missing));
    }
    let kernel = Kernel::running().map_err(ProbeReport::nothing)?;
    let mut ebpf = load(options, &kernel).map_err(ProbeReport::nothing)?;
    let btf = Btf::from_sys_fs().map_err(|error| ProbeReport::nothing(chain(&error)))?;
    let mut report =
        Attaching { ebpf: &mut ebpf, kernel: &kernel, btf: &btf, report: ProbeReport::nothing("") }
            .all(options);
    if report.attached.is_empty() {
        return Err(report);
    }
    match Attached::new(options, ebpf, &report) {
        Ok(attached) => {
            report.map_bytes = attached.map_bytes;
            Ok((report, attached))
        }
        Err(why) => Err(ProbeReport { left_out: report.left_out, ..ProbeReport::nothing(why) }),
    }
}

fn load(options: &ProbeOptions, kernel: &Kernel) -> Result<Ebpf, String> {
    let mut settings = kernel.settings();
    settings.device = kernel_device(options.device);
    settings.pause_ticks = u64::try_from(options.pause.as_nanos()).unwrap_or(u64::MAX) / tick_ns();
    settings.openings_bytes = options.ring_bytes / 2;
    let release = kernel_release();
    for (flag, on) in [
        (SettingsFlags::VERIFIED_TWICE, release < (6, 8)),
        (SettingsFlags::REQUEST_SECOND, release < (5, 11)),
        (SettingsFlags::INITIAL_PIDS, in_initial_pid_namespace()),
    ] {
        settings.flags |= if on { flag } else { 0 };
    }
    for (watched, disk) in settings.disks.iter_mut().zip(&options.disks) {
        *watched = kernel_device(*disk);
    }
    EbpfLoader::new()
        .btf(None)
        .override_global(SETTINGS_SYMBOL, &Shared(settings), true)
        .map_max_entries("HEAT", options.heat_entries())
        .map_max_entries("EVENTS", options.ring_bytes)
        .load(options.object)
        .map_err(|error| chain(&error))
}

/// Attaching, one program after the other.
struct Attaching<'a> {
    ebpf: &'a mut Ebpf,
    kernel: &'a Kernel,
    btf: &'a Btf,
    report: ProbeReport,
}

impl Attaching<'_> {
    fn all(mut self, options: &ProbeOptions) -> ProbeReport {
        let best = options.best;
        let (tier, why) = if best == Tier::A && self.add(&programs::READ_CALLS) {
            (Tier::A, "every read of the VFS is seen, to the byte".to_owned())
        } else if best == Tier::A && kernel_release() < READS_ALL_ENTER && self.add(&programs::READ_ENTERED) {
            (Tier::A, "every read of the mount's files is seen, to the byte".to_owned())
        } else if self.add(&programs::READ_PAGES) {
            (Tier::B, self.only_pages())
        } else {
            (Tier::C, self.nothing())
        };
        (self.report.tier, self.report.why) = (tier, why);
        if tier != Tier::C && !self.group(&programs::FAULTS_TRACED) {
            self.group(&programs::FAULTS_ENTERED);
        }
        self.report.sees_residents = options.residents && self.group(&programs::RESIDENTS);
        if !options.disks.is_empty() {
            self.group(&programs::DISKS);
        }
        self.report.sees_waits = self.group(&programs::ROUND_TRIPS) && in_initial_pid_namespace();
        if best == Tier::A {
            self.report.sees_opens = options.opens && self.try_out(&programs::OPENED);
            self.report.sees_maps = self.try_out(&programs::MAPPED);
        }
        self.report
    }

    /// Whether one attaches that is to run only now and then.
    fn try_out(&mut self, probe: &Probe) -> bool {
        let Some(link) = self.link(probe) else { return false };
        self.detach(probe, link);
        if let Some(program) = self.report.attached.last_mut() {
            program.push_str(" while somebody traces");
        }
        true
    }

    fn only_pages(&self) -> String {
        let why = match self.report.left_out.first() {
            Some(left_out) => format!("fentry is refused ({})", left_out.why),
            None => "tier A is turned off".to_owned(),
        };
        format!("{why}: only what reads take from the page cache is seen, in pages")
    }

    fn nothing(&self) -> String {
        let mut why = "no program that sees reads could be attached".to_owned();
        for LeftOut { program, why: reason } in &self.report.left_out {
            let _ = write!(why, "; {program}: {reason}");
        }
        why
    }

    /// Adds all of them, or none: some alone would see a part and not the rest.
    fn group(&mut self, probes: &[Probe]) -> bool {
        let mut links = Vec::with_capacity(probes.len());
        for probe in probes {
            match self.link(probe) {
                Some(link) => links.push((probe, link)),
                None => {
                    self.report.attached.truncate(self.report.attached.len() - links.len());
                    links.into_iter().for_each(|(probe, link)| self.detach(probe, link));
                    return false;
                }
            }
        }
        true
    }

    fn add(&mut self, probe: &Probe) -> bool {
        self.link(probe).is_some()
    }

    /// Loads and attaches one program, and writes down how that went.
    fn link(&mut self, probe: &Probe) -> Option<Link> {
        let result = match self.kernel.lacks(probe.needs) {
            Some(lacking) => Err(lacking),
            None => self.attach(probe),
        };
        let (Hook::Fentry(hook) | Hook::Tracepoint(hook)) = probe.hook;
        let program = format!("{} ({hook})", probe.name);
        match result {
            Ok(link) => {
                self.report.attached.push(program);
                Some(link)
            }
            Err(why) => {
                self.report.left_out.push(LeftOut { program, why });
                None
            }
        }
    }

    fn attach(&mut self, probe: &Probe) -> Result<Link, String> {
        let program = self.ebpf.program_mut(probe.name).ok_or("the object has no such program")?;
        let attached = match (probe.hook, program) {
            (Hook::Fentry(function), Program::FEntry(program)) => {
                program.load(function, self.btf).and_then(|()| program.attach()).map(Link::Fentry)
            }
            (Hook::Tracepoint(name), Program::BtfTracePoint(program)) => {
                program.load(name, self.btf).and_then(|()| program.attach()).map(Link::Tracepoint)
            }
            _ => return Err("the object has a program of another kind".to_owned()),
        };
        attached.map_err(|error| {
            tracing::debug!(program = probe.name, %error, "not attached");
            chain(&error)
        })
    }

    fn detach(&mut self, probe: &Probe, link: Link) {
        // Fails only for a link that is not there.
        let _ = match (link, self.ebpf.program_mut(probe.name)) {
            (Link::Fentry(link), Some(Program::FEntry(program))) => program.detach(link),
            (Link::Tracepoint(link), Some(Program::BtfTracePoint(program))) => program.detach(link),
            _ => Ok(()),
        };
    }
}

/// A program that runs.
enum Link {
    Fentry(FEntryLinkId),
    Tracepoint(BtfTracePointLinkId),
}

impl Attached {
    fn new(options: &ProbeOptions, mut ebpf: Ebpf, report: &ProbeReport) -> Result<Self, String> {
        let heat_entries = options.heat_entries();
        let mut take = |name: &str| {
            let map = ebpf.take_map(name).ok_or_else(|| format!("the object has no map {name}"))?;
            Ok::<_, String>(map)
        };
        let array = |map: aya::maps::Map| match map {
            aya::maps::Map::Array(data) => Ok(data),
            _ => Err("a map of the object is of another kind".to_owned()),
        };
        let heat =
            Mapped::new(array(take("HEAT")?)?.fd(), heat_entries as usize).map_err(|error| chain(&error))?;
        let readers =
            Mapped::new(array(take("READING")?)?.fd(), READERS as usize).map_err(|error| chain(&error))?;
        let control = Mapped::new(array(take("CONTROL")?)?.fd(), 1).map_err(|error| chain(&error))?;
        let clock = Mapped::new(array(take("CLOCK")?)?.fd(), 1).map_err(|error| chain(&error))?;
        let retired = take("RETIRED")?.try_into().map_err(|error| chain(&error))?;
        let losses = take("LOSSES")?.try_into().map_err(|error| chain(&error))?;
        let ring = RingBuf::try_from(take("EVENTS")?).map_err(|error| chain(&error))?;
        let gauges = Gauges::new(&mut ebpf)?;
        let map_bytes = u64::from(heat_entries) * size_of::<Record>() as u64
            + u64::from(READERS) * size_of::<Reader>() as u64
            + u64::from(options.ring_bytes)
            + gauges.map_bytes();
        Ok(Self {
            heat,
            readers,
            control,
            clock,
            tick_ns: tick_ns(),
            retired,
            losses,
            ring: Mutex::new(ring),
            gauges,
            map_bytes,
            programs: Loaded::new(ebpf, report),
        })
    }

    pub(super) fn heat(&self, ino: Ino) -> Option<Heat> {
        let record = self.heat.read(usize::try_from(ino.0).ok()?)?;
        Some(Heat {
            bytes: record.bytes,
            reads: record.reads,
            faults: record.faults,
            begins: record.begins,
            epoch: record.epoch,
            touched_ns: self.ns_of_touched(record.touched),
            resident_bytes: u64::from(record.resident_pages) * PAGE_BYTES,
        })
    }

    /// The moment of a tick on the monotonic clock; 0 for tick 0, which means never.
    fn ns(&self, ticks: u64) -> u64 {
        match self.clock.read(0) {
            Some(clock) if ticks != 0 => {
                let since = (ticks.wrapping_sub(clock.ticks) as i64).saturating_mul(self.tick_ns as i64);
                clock.ns.saturating_add_signed(since)
            }
            _ => 0,
        }
    }

    /// As [`Self::ns`], for what [`Record`] keeps: right for a year around the first event.
    fn ns_of_touched(&self, touched: u32) -> u64 {
        match self.clock.read(0) {
            Some(clock) if touched != 0 => {
                let since = touched.wrapping_sub((clock.ticks >> TOUCHED_SHIFT) as u32) as i32;
                let ticks = i64::from(since) << TOUCHED_SHIFT;
                clock.ns.saturating_add_signed(ticks.saturating_mul(self.tick_ns as i64))
            }
            _ => 0,
        }
    }

    pub(super) fn drain(&self, take: &mut dyn FnMut(Event)) -> usize {
        let mut ring = self.ring.lock();
        let mut taken = 0;
        while let Some(record) = ring.next() {
            if let Some(event) = Event::decode(&record) {
                take(event);
                taken += 1;
            }
        }
        taken
    }

    pub(super) fn readers(&self) -> Vec<ReaderRow> {
        let retired = self.retired.iter().filter_map(Result::ok).map(|(tgid, totals)| (tgid, totals.0));
        readers::by_process(self.threads(), retired, |ticks| self.ns(ticks))
    }

    fn threads(&self) -> impl Iterator<Item = Reader> {
        (0..self.readers.len()).filter_map(|place| self.readers.read(place))
    }

    pub(super) fn set_epoch(&self, epoch: u32) {
        self.control.write(0, Control { epoch, padding: 0 });
    }

    /// Over all CPUs; zeros where the kernel does not say.
    pub(super) fn losses(&self) -> Losses {
        let of_cpus = self.losses.get(&0, 0).ok();
        let add = |sum: Losses, of_cpu: &Shared<Losses>| Losses {
            events: sum.events + of_cpu.0.events,
            dropped: sum.dropped + of_cpu.0.dropped,
            beyond: sum.beyond + of_cpu.0.beyond,
            openings_dropped: sum.openings_dropped + of_cpu.0.openings_dropped,
        };
        of_cpus.iter().flat_map(|of_cpus| of_cpus.iter()).fold(Losses::default(), add)
    }

    pub(super) fn observe(&self, figures: &ProbeFigures) {
        let rows = self.readers();
        let sum = |of: fn(&ReaderRow) -> u64| rows.iter().map(of).sum();
        figures.reads.set(sum(|row| row.reads));
        figures.read_bytes.set(sum(|row| row.bytes));
        figures.faults.set(sum(|row| row.faults));
        figures.readings.set(sum(|row| row.files));
        figures.map_bytes.set(self.map_bytes);
        figures.runs_missed.set(self.programs.runs_missed());
        self.gauges.observe(figures);
        let losses = self.losses();
        figures.events.set(losses.events);
        figures.events_dropped.set(losses.dropped);
        figures.openings_dropped.set(losses.openings_dropped);
        figures.inodes_beyond.set(losses.beyond);
    }
}

/// The kernel's own form of a device number, from stat(2)'s.
fn kernel_device(st_dev: u64) -> u32 {
    let (major, minor) = (nix::sys::stat::major(st_dev), nix::sys::stat::minor(st_dev));
    // 12 bits and 20 bits: MKDEV of include/linux/kdev_t.h.
    u32::try_from(major << 20 | minor).unwrap_or(0)
}

/// The length of a kernel tick, ns: 1/HZ.
fn tick_ns() -> u64 {
    let mut tick = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to `tick`.
    let done = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut tick) };
    // 4 ms, HZ = 250, is what most distributions build with.
    if done == 0 { u64::try_from(tick.tv_nsec).unwrap_or(0).max(1) } else { 4_000_000 }
}

/// Whether process ids here are the host's. The namespaces of the start have fixed inode numbers (include/linux/proc_ns.h).
pub(crate) fn in_initial_pid_namespace() -> bool {
    const PROC_PID_INIT_INO: &str = "pid:[4026531836]";
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == PROC_PID_INIT_INO)
}

/// Major and minor of the running kernel; (0, 0) if it does not say.
fn kernel_release() -> (u32, u32) {
    let Ok(name) = nix::sys::utsname::uname() else { return (0, 0) };
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// What an error and its causes say, on one line; of a verifier's log its last line, which has the verdict.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        let line = one_line(&text).trim_end_matches(" Verifier output:").trim_end_matches('.').to_owned();
        if !said.iter().any(|earlier| earlier.contains(&line)) {
            said.push(line);
        }
        next = error.source();
    }
    said.join(": ")
}

fn one_line(text: &str) -> String {
    let is_count = |line: &&str| !line.starts_with("processed ") && !line.starts_with("verification time");
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).filter(is_count);
    let first = lines.next().unwrap_or_default();
    match lines.next_back() {
        Some(last) => format!("{first} ... {last}"),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_as_the_kernel_keeps_them() {
        assert_eq!(kernel_device(nix::sys::stat::makedev(0, 0x1_2345)), 0x1_2345);
        assert_eq!(kernel_device(nix::sys::stat::makedev(8, 17)), 8 << 20 | 17);
    }

    #[test]
    fn a_verifiers_log_becomes_its_verdict() {
        let log = "refused: Permission denied. Verifier output: 0: R1=ctx()\n1: r1 = r2\nR2 !read_ok\nprocessed 2 insns\n";
        assert_eq!(one_line(log), "refused: Permission denied. Verifier output: 0: R1=ctx() ... R2 !read_ok");
    }
}
