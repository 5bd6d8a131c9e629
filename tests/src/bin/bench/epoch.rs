//! `epoch`: the same reader on the mount and on a local copy of the same files.
//!
//! Cases: `warm` (everything in the page cache), `store` (pages dropped before each epoch),
//! `forgotten` (dentries and inodes too), `cold` (nothing stored, the origin 15 ms away).

use std::fs;
use std::path::Path;

use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount};
use epochcache_tests::bed::reader::{EpochReport, Readers, Reading};
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
    epochs.check()?;
    for (case, forget) in [("warm", None), ("store", Some(Forget::Pages)), ("forgotten", Some(Forget::All))] {
        epochs.case(case, forget, effort, results)?;
        epochs.check()?;
    }
    let rss = machine::rss_mib(mount.pid())?;
    results.absolute("store", "rss", "MiB", &[rss], &format!("{} files", bed.files()));
    drop(epochs);
    mount.unmount()?;
    cold(effort, results)
}

/// Workers on both sides, kept for all epochs.
struct Epochs<'a> {
    bed: &'a Bed,
    mount: &'a Mount,
    ours: Side,
    local: Side,
}

/// The workers of one side, and how often they have read.
struct Side {
    readers: Readers,
    epochs: u64,
}

/// What the epochs of one case on the mount cost.
#[derive(Default)]
struct Costs {
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
    requests_per_file: Vec<f64>,
    /// Requests by kind per file, of the last epoch.
    by_kind: Vec<(&'static str, f64)>,
    cpu_s_per_gib: Vec<f64>,
}

impl Side {
    fn start(bed: &Bed, root: &Path) -> anyhow::Result<Self> {
        let readers = Readers::start(&Reading { check: false, ..bed.reading(root) })?;
        Ok(Self { readers, epochs: 0 })
    }

    fn epoch(&mut self) -> anyhow::Result<EpochReport> {
        self.epochs += 1;
        self.readers.epoch(self.epochs)
    }
}

impl<'a> Epochs<'a> {
    fn start(bed: &'a Bed, mount: &'a Mount) -> anyhow::Result<Self> {
        let (ours, local) = (Side::start(bed, mount.path())?, Side::start(bed, &bed.data_set.directory)?);
        Ok(Self { bed, mount, ours, local })
    }

    /// An epoch of each side with every byte checked, outside of what is timed. Leaves the page cache warm.
    fn check(&self) -> anyhow::Result<()> {
        for root in [self.mount.path(), &self.bed.data_set.directory] {
            Readers::start(&self.bed.reading(root))?.epoch(0)?.must_be_right(self.bed.files())?;
        }
        self.mount.wait_until_stored()
    }

    fn case(
        &mut self,
        case: &str,
        forget: Option<Forget>,
        effort: Effort,
        results: &mut Results,
    ) -> anyhow::Result<()> {
        let mut costs = Costs::default();
        let (mount, ours, local) = (self.mount, &mut self.ours, &mut self.local);
        let prepare = || forget.map_or(Ok(()), machine::forget);
        let pairs = Pairs::run(
            effort.pairs(),
            || {
                prepare()?;
                costs.measure(mount, || ours.epoch())
            },
            || {
                prepare()?;
                Ok(local.epoch()?.files_per_s)
            },
        )?;
        let read_ahead = mount.stats()?.read_ahead_kb().map(|kib| format!("read_ahead_kb {kib}"));
        results.pairs(case, "files_per_s", "files/s", REFERENCE, &pairs, &read_ahead.unwrap_or_default());
        results.absolute(case, "latency_p50", "us", &costs.p50_us, "open, fstat, read to the end, close");
        results.absolute(case, "latency_p99", "us", &costs.p99_us, "");
        results.absolute(case, "requests_per_file", "requests", &costs.requests_per_file, &costs.kinds());
        results.absolute(case, "cpu_s_per_gib", "s", &costs.cpu_s_per_gib, "daemon, user and kernel");
        Ok(())
    }
}

impl Costs {
    /// Reads an epoch, and adds what it made the kernel ask and the daemon burn; answers its files a second.
    fn measure(
        &mut self,
        mount: &Mount,
        read: impl FnOnce() -> anyhow::Result<EpochReport>,
    ) -> anyhow::Result<f64> {
        let (before, cpu_before) = (mount.stats()?, machine::cpu_s(mount.pid())?);
        let report = read()?;
        let (after, cpu_after) = (mount.stats()?, machine::cpu_s(mount.pid())?);
        let files = report.files as f64;
        let each = |name: &&'static str| (*name, after.grown(&before, name) as f64 / files);
        self.by_kind = FUSE_REQUESTS.iter().map(each).collect();
        self.requests_per_file.push(self.by_kind.iter().map(|(_, each)| each).sum());
        self.cpu_s_per_gib.push((cpu_after - cpu_before) / (report.bytes as f64 / f64::from(1 << 30)));
        self.p50_us.push(report.p50_us as f64);
        self.p99_us.push(report.p99_us as f64);
        Ok(report.files_per_s)
    }

    fn kinds(&self) -> String {
        let some = self.by_kind.iter().filter(|(_, each)| *each > 0.0);
        let texts = some.map(|(name, each)| format!("{} {each:.2}", name.trim_start_matches("fuse_")));
        let text = texts.collect::<Vec<_>>().join(", ");
        if text.is_empty() { "none of any kind".to_owned() } else { text }
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
