//! `serve`: files through the mount against the same files on ext4, by what the kernel has of them and by the way that
//! they take.
//!
//! Files of ImageNet's kind (`small`) and shards of 128 MiB (`shards`), read by 1, 4 and 8 processes that the page
//! cache serves, or the daemon, or the local file system by passthrough. Beside the speed: CPU of readers and daemon, context
//! switches, FUSE requests. `worker` is a reading process, `readers` runs several, `memory` is a disk in memory.
//!
//! Every byte of each case is compared once on both sides, in a run that is not timed. Mounts of file systems are in a
//! mount namespace of this process, mounts of ours end with it, and Ctrl-C is looked at between runs: nothing is left behind.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use epochcache_tests::bed::data_set::Manifest;
use epochcache_tests::bed::mount::{Bed, Mount, MountCommand};
use epochcache_tests::bed::stats::FUSE_REQUESTS;
use fuse_frontend::figures::{RequestCounts, RowValue};

mod memory;
mod readers;
mod shards;
mod small;
mod worker;

use self::readers::{Readers, Run, used};
use self::worker::Work;
use crate::machine::{self, Forget};
use crate::pairs::Pairs;
use crate::store::Stop;
use crate::store::progress::Progress;
use crate::{Effort, Results};

pub use self::worker::NAME as WORKER;

const REFERENCE: &str = "ext4";

/// Numbers of readers for which latencies, switches and requests are told too: they hardly depend on it.
const DETAILED: [usize; 3] = [2, 4, 20];

/// What the kernel forgets before a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Before {
    /// Nothing: what it has of the files stays.
    Nothing,
    /// The pages of the mount's files; the local copy's stay.
    OurPages,
    /// All pages of all files.
    AllPages,
    /// Names and inodes without pages, of all files.
    Names,
    /// As [`Before::OurPages`], and then everything is pushed.
    Pushed,
}

/// One row of the table of goals.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    work: Work,
    before: Before,
    note: &'static str,
}

/// A mounted data set, and the same files elsewhere.
struct Sides<'a> {
    ours: &'a Path,
    local: PathBuf,
    manifest: &'a Manifest,
    manifest_path: &'a Path,
    daemon: Daemon<'a>,
}

impl<'a> Sides<'a> {
    /// The data set of `bed`, mounted by a daemon.
    fn of(bed: &'a Bed, mount: &'a Mount) -> Self {
        Self {
            ours: mount.path(),
            local: bed.data_set.directory.clone(),
            manifest: &bed.data_set.manifest,
            manifest_path: &bed.data_set.manifest_path,
            daemon: Daemon::Process(mount),
        }
    }
}

/// Who serves a mount.
enum Daemon<'a> {
    Process(&'a Mount),
    /// The frontend alone, in this process.
    Ourselves(&'a RequestCounts),
}

/// What every case needs.
struct Bench<'a> {
    cases: &'a [String],
    effort: Effort,
    results: &'a mut Results,
    stop: Stop,
    progress: Progress,
    /// Why file systems cannot be mounted here.
    no_mounts: Option<String>,
    seed: u64,
    /// What the store lies on, if that is not the disk.
    store_on: Option<&'static str>,
}

/// Is a reading process of this benchmark.
pub fn work() -> anyhow::Result<()> {
    let manifest = std::env::var_os(worker::NAME).context("only the benchmark starts this")?;
    worker::serve(Path::new(&manifest))
}

/// Measures all cases, or those whose names begin with one of `cases`.
pub fn run(cases: &[String], effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    let names = [&small::NAMES[..], &shards::NAMES[..]].concat();
    if let Some(unknown) =
        cases.iter().find(|wanted| !names.iter().any(|name| name.starts_with(wanted.as_str())))
    {
        bail!("no case begins with {unknown}: {}", names.join(", "));
    }
    let stop = Stop::on_signals()?;
    let no_mounts = crate::store::media::own_mounts().err();
    let mut bench = Bench {
        cases,
        effort,
        results,
        stop,
        progress: Progress::default(),
        no_mounts,
        seed: 0,
        store_on: None,
    };
    let done = small::run(&mut bench).and_then(|()| shards::run(&mut bench));
    bench.progress.clear();
    // What a signal did to a reader is not what went wrong.
    bench.stop.check()?;
    done
}

impl Bench<'_> {
    fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|wanted| case.starts_with(wanted.as_str()))
    }

    fn wants_some(&self, cases: &[Case]) -> bool {
        cases.iter().any(|case| self.wants(case.name))
    }

    fn say(&mut self, what: &str) -> anyhow::Result<()> {
        self.progress.say(what);
        self.stop.check()
    }

    fn skip(&mut self, what: &str, reason: &str) {
        self.progress.clear();
        eprintln!("SKIP: {what}: {reason}");
    }

    /// Mounts with `options`, reads everything once, every byte checked, and waits until all is stored.
    fn filled(&mut self, bed: &Bed, command: MountCommand) -> anyhow::Result<Mount> {
        self.say("filling the cache")?;
        let mut command = command;
        command.own_group = true;
        let mount = command.start()?;
        bed.readers(&mount)?.epoch(0)?.must_be_right(bed.files())?;
        mount.wait_until_stored()?;
        Ok(mount)
    }

    /// Measures those of `cases` that are wanted.
    fn cases(&mut self, cases: &[Case], sides: &Sides<'_>, readers: &[usize]) -> anyhow::Result<()> {
        for case in cases {
            if !self.wants(case.name) {
                continue;
            }
            self.say(&format!("{}: comparing every byte", case.name))?;
            let mut checking = Readers::start(sides.manifest_path, 1)?;
            let of_shards = !matches!(case.work, Work::Files | Work::Opens(_));
            if of_shards && case.before == Before::Nothing {
                machine::forget(Forget::Pages)?;
            }
            for root in [sides.ours, &sides.local] {
                worker::walk(root, sides.manifest)?;
                if of_shards {
                    // Brought in the same way on both sides: the size of the folios decides how fast they are read.
                    checking.run(root, Work::Sequential, 0, false)?;
                }
                checking.run(root, case.work, 0, true)?;
            }
            drop(checking);
            for &count in readers {
                self.case(case, sides, count)?;
            }
        }
        Ok(())
    }

    fn case(&mut self, case: &Case, sides: &Sides<'_>, count: usize) -> anyhow::Result<()> {
        let mut readers = Readers::start(sides.manifest_path, count)?;
        let mut runs = Vec::new();
        for round in 0..=self.effort.pairs() {
            self.say(&format!("{}, {count} readers, round {round}", case.name))?;
            self.seed += 1;
            let seed = self.seed;
            let mut side = |ours: bool| {
                before(case.before, ours.then_some(sides))?;
                let root = if ours { sides.ours } else { &sides.local };
                let mut read = || readers.run(root, case.work, seed, false);
                if ours { sides.daemon.measure(read) } else { read() }
            };
            // Whoever reads second finds a warmer machine.
            let (first, second) = (side(round % 2 == 0)?, side(round % 2 == 1)?);
            let pair = if round % 2 == 0 { (first, second) } else { (second, first) };
            // The first is not counted: readers fault their buffers in.
            runs.extend(Some(pair).filter(|_| round > 0));
        }
        self.rows(case, REFERENCE, count, &runs);
        Ok(())
    }

    fn rows(&mut self, case: &Case, reference: &str, count: usize, runs: &[(Run, Run)]) {
        self.progress.clear();
        let name = case.name;
        let note = &self.store_on.map_or(case.note.to_owned(), |medium| format!("{} ({medium})", case.note));
        let results = &mut *self.results;
        results.on(&format!("{count} reader{}", if count > 1 { "s" } else { "" }));
        let per_file = matches!(case.work, Work::Files | Work::Opens(_));
        let per = |run: &Run, what: f64| what / if per_file { run.read.operations as f64 } else { run.mib() };
        match case.work {
            Work::Opens(_) => {}
            Work::Files => {
                let rate = Pairs::of(runs, Run::operations_per_s);
                results.pairs(name, "files_per_s", "files/s", reference, &rate, note);
            }
            _ => {
                let rate = Pairs::of(runs, Run::mib_per_s);
                results.pairs(name, "throughput", "MiB/s", reference, &rate, note);
            }
        }
        if !matches!(case.work, Work::Opens(_)) {
            let cpu = Pairs::of(runs, Run::cpu_s_per_gib);
            results.pairs(name, "cpu_s_per_gib", "s", reference, &cpu, "readers and daemon");
        }
        if !DETAILED.contains(&count) {
            return;
        }
        if per_file {
            for (metric, share) in [("latency_p50", 0.5), ("latency_p99", 0.99)] {
                let latency = Pairs::of(runs, |run| run.latency_us(share));
                results.pairs(name, metric, "us", reference, &latency, "");
            }
        }
        let unit = if per_file { "file" } else { "mib" };
        let switches = Pairs::of(runs, |run| per(run, run.switches()));
        results.pairs(
            name,
            &format!("switches_per_{unit}"),
            "switches",
            reference,
            &switches,
            "readers and daemon",
        );
        let requests: Vec<_> = runs.iter().map(|(ours, _)| per(ours, ours.requests)).collect();
        results.absolute(name, &format!("requests_per_{unit}"), "requests", &requests, "");
    }
}

/// Prepares a run, of ours if there are `sides`.
fn before(what: Before, ours: Option<&Sides<'_>>) -> anyhow::Result<()> {
    match (what, ours) {
        (Before::Nothing, _) | (Before::OurPages | Before::Pushed, None) => Ok(()),
        (Before::OurPages, Some(sides)) => worker::forget_pages(sides.ours, sides.manifest),
        (Before::Pushed, Some(sides)) => {
            worker::forget_pages(sides.ours, sides.manifest)?;
            small::push(&[sides.ours.to_owned()])
        }
        (Before::AllPages, _) => machine::forget(Forget::Pages),
        (Before::Names, _) => fs::write("/proc/sys/vm/drop_caches", "2").context("/proc/sys/vm/drop_caches"),
    }
}

impl Daemon<'_> {
    /// Runs `read`, and adds what it took of the daemon.
    fn measure(&self, read: impl FnOnce() -> anyhow::Result<Run>) -> anyhow::Result<Run> {
        let pid = match self {
            Self::Process(mount) => mount.pid(),
            Self::Ourselves(_) => std::process::id(),
        };
        let (requests, used_before) = (self.requests()?, used(pid)?);
        let mut run = read()?;
        let used_after = used(pid)?;
        run.daemon_cpu_s = used_after.cpu_s - used_before.cpu_s;
        run.daemon_switches = used_after.switches - used_before.switches;
        run.requests = self.requests()? - requests;
        Ok(run)
    }

    fn requests(&self) -> anyhow::Result<f64> {
        let sum = match self {
            Self::Process(mount) => mount.stats()?.fuse_requests().iter().map(|(_, count)| count).sum(),
            Self::Ourselves(counts) => counts
                .snapshot()
                .iter()
                .filter(|row| FUSE_REQUESTS.contains(&row.name))
                .map(|row| if let RowValue::Count(count) = row.value { count } else { 0 })
                .sum::<u64>(),
        };
        Ok(sum as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_that_can_be_asked_for() {
        let names = [&small::NAMES[..], &shards::NAMES[..]].concat();
        let cases = [small::all(), shards::all()].concat();
        for case in cases {
            assert!(names.contains(&case.name), "{}", case.name);
        }
    }
}
