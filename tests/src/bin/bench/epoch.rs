//! `epoch`: the same reader on the mount and on a local copy of the same files.
//!
//! Cases: `warm` (everything in the page cache), `store` (pages dropped before each epoch),
//! `forgotten` (dentries and inodes too), `cold` (nothing stored, the origin 15 ms away).

use std::fs;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount};
use epochcache_tests::bed::reader::{Readers, Reading};
use epochcache_tests::bed::s3::Weather;
use epochcache_tests::bed::stats::FUSE_REQUESTS;

use crate::machine::{self, Forget};
use crate::pairs::Pairs;
use crate::{Effort, Results};

const REFERENCE: &str = "local copy";

/// What stands in for the distance to a region's object store.
const DELAY_MS: u64 = 15;

/// Measures all cases.
pub fn run(effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    let shape = Shape { classes: effort.pick(1_000, 50), ..Shape::of(effort.pick(20_000, 1_000)) };
    let bed = Bed::new(&shape, &Weather::default())?;
    let mount = bed.mount_command().cache_size(effort.pick("4GiB", "512MiB")).start()?;
    let mut epochs = Epochs::start(&bed, &mount)?;
    // Fills the store, and checks every byte of both sides.
    epochs.check(&bed, &mount)?;
    for (case, forget) in [("warm", None), ("store", Some(Forget::Pages)), ("forgotten", Some(Forget::All))] {
        epochs.case(case, forget, effort, results)?;
        epochs.check(&bed, &mount)?;
    }
    let rss = machine::rss_mib(mount.pid())?;
    results.absolute("store", "rss", "MiB", &[rss], &format!("{} files", bed.files()));
    drop(epochs);
    mount.unmount()?;
    cold(effort, results)
}

/// Workers on both sides, kept for all epochs.
struct Epochs<'a> {
    mount: &'a Mount,
    ours: Readers,
    local: Readers,
    number: u64,
}

/// What one epoch on the mount cost.
#[derive(Default)]
struct Costs {
    requests_per_file: Vec<f64>,
    by_kind: Vec<(String, f64)>,
    cpu_s_per_gib: Vec<f64>,
}

impl<'a> Epochs<'a> {
    fn start(bed: &Bed, mount: &'a Mount) -> anyhow::Result<Self> {
        let unchecked = |reading: Reading| Readers::start(&Reading { check: false, ..reading });
        let ours = unchecked(bed.reading(mount.path()))?;
        let local = unchecked(bed.reading(&bed.data_set.directory))?;
        Ok(Self { mount, ours, local, number: 0 })
    }

    /// An epoch of each side with every byte checked, outside of what is timed.
    fn check(&mut self, bed: &Bed, mount: &Mount) -> anyhow::Result<()> {
        for root in [mount.path(), &bed.data_set.directory] {
            Readers::start(&bed.reading(root))?.epoch(0)?.must_be_right(bed.files())?;
        }
        mount.wait_until_stored()
    }

    fn case(
        &mut self,
        case: &str,
        forget: Option<Forget>,
        effort: Effort,
        results: &mut Results,
    ) -> anyhow::Result<()> {
        let mut costs = Costs::default();
        let (mount, number) = (self.mount, &mut self.number);
        let (ours, local) = (&mut self.ours, &mut self.local);
        *number += 1;
        let first = *number;
        let mut latencies = (Vec::new(), Vec::new());
        let prepare = || forget.map_or(Ok(()), machine::forget);
        if forget.is_none() {
            // Both sides' pages and entries in memory: the local copy's too.
            (ours.epoch(first)?, local.epoch(first)?);
        }
        let mut ours_epoch = first;
        let mut local_epoch = first;
        let pairs = Pairs::run(
            effort.pairs(),
            || {
                prepare()?;
                ours_epoch += 1;
                let report = costs.measure(mount, || ours.epoch(ours_epoch))?;
                latencies.0.push(report.p50_us as f64);
                latencies.1.push(report.p99_us as f64);
                Ok(report.files_per_s)
            },
            || {
                prepare()?;
                local_epoch += 1;
                Ok(local.epoch(local_epoch)?.files_per_s)
            },
        )?;
        *number = ours_epoch;
        let note = match mount.stats()?.read_ahead_kb() {
            Some(kib) => format!("read_ahead_kb {kib}"),
            None => String::new(),
        };
        results.pairs(case, "files_per_s", "files/s", REFERENCE, &pairs, &note);
        results.absolute(case, "latency_p50", "us", &latencies.0, "");
        results.absolute(case, "latency_p99", "us", &latencies.1, "");
        results.absolute(case, "requests_per_file", "requests", &costs.requests_per_file, &costs.kinds());
        results.absolute(case, "cpu_s_per_gib", "s", &costs.cpu_s_per_gib, "daemon, user and kernel");
        Ok(())
    }
}

impl Costs {
    /// Reads an epoch, and adds what it made the kernel ask and the daemon burn.
    fn measure(
        &mut self,
        mount: &Mount,
        read: impl FnOnce() -> anyhow::Result<epochcache_tests::bed::reader::EpochReport>,
    ) -> anyhow::Result<epochcache_tests::bed::reader::EpochReport> {
        let (before, cpu_before) = (mount.stats()?, machine::cpu_s(mount.pid())?);
        let report = read()?;
        let (after, cpu_after) = (mount.stats()?, machine::cpu_s(mount.pid())?);
        report.must_be_right(report.files as usize)?;
        let files = report.files as f64;
        self.by_kind = FUSE_REQUESTS
            .iter()
            .map(|name| ((*name).to_owned(), after.grown(&before, name) as f64 / files))
            .collect();
        self.requests_per_file.push(self.by_kind.iter().map(|(_, each)| each).sum());
        self.cpu_s_per_gib.push((cpu_after - cpu_before) / (report.bytes as f64 / f64::from(1 << 30)));
        Ok(report)
    }

    /// Requests by kind per file, of the last epoch.
    fn kinds(&self) -> String {
        let some = self.by_kind.iter().filter(|(_, each)| *each > 0.0);
        let texts: Vec<_> =
            some.map(|(name, each)| format!("{} {each:.2}", name.trim_start_matches("fuse_"))).collect();
        if texts.is_empty() { "none of any kind".to_owned() } else { texts.join(", ") }
    }
}

/// An empty store each time; fewer files, because each costs 15 ms.
fn cold(effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    let weather = Weather { delay_ms: DELAY_MS, ..Weather::default() };
    let bed = Bed::new(&Shape::of(effort.pick(4_000, 400)), &weather)?;
    let mut local = Readers::start(&bed.reading(&bed.data_set.directory))?;
    let (mut gets_per_file, mut in_flight) = (Vec::new(), Vec::new());
    let mut epoch = 0;
    let pairs = Pairs::run(
        effort.pairs(),
        || {
            let command = bed.mount_command();
            let _ = fs::remove_dir_all(&command.cache_dir);
            let mount = command.cache_size("1GiB").start()?;
            let mut readers = bed.readers(&mount)?;
            machine::forget(Forget::Pages)?;
            bed.origin.reset()?;
            epoch += 1;
            let report = readers.epoch(epoch)?;
            report.must_be_right(bed.files())?;
            let counters = bed.origin.counters()?;
            gets_per_file.push((counters.get + counters.head) as f64 / bed.files() as f64);
            in_flight.push(counters.gets_in_flight_mean);
            drop(readers);
            mount.unmount()?;
            Ok(report.files_per_s)
        },
        || {
            machine::forget(Forget::Pages)?;
            let report = local.epoch(1)?;
            report.must_be_right(bed.files())?;
            Ok(report.files_per_s)
        },
    )?;
    let note =
        format!("origin {DELAY_MS} ms away: 8 blocking readers can get {:.0}", 8_000.0 / DELAY_MS as f64);
    results.pairs("cold", "files_per_s", "files/s", "local copy, pages dropped", &pairs, &note);
    results.absolute("cold", "requests_per_file", "requests", &gets_per_file, "GET and HEAD at the origin");
    results.absolute("cold", "gets_in_flight", "requests", &in_flight, "mean over the epoch, of 8 readers");
    Ok(())
}
