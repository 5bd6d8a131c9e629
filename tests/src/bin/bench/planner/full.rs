//! A cache that holds all of the data set, the page cache dropped, the order told: files are pushed ahead of their readers.
//!
//! `full_told_paced`: readers take files at 80 % of the rate at which they get them without an order. `full_told`: as fast
//! as it goes, beside a local copy on ext4 whose pages are dropped too.

use std::time::Duration;

use epochcache_tests::bed::mount::{Bed, Mount};
use epochcache_tests::bed::reader::{EpochReport, Readers, Reading};
use epochcache_tests::bed::s3::Weather;

use super::{tell, warm};
use crate::machine::{self, Forget};
use crate::pairs::{Pairs, alternate, median};
use crate::{Effort, Results};

/// Both cases.
pub fn run(bed: &Bed, effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    bed.origin.set_weather(&Weather::default())?;
    let command = bed.mount_command();
    let _ = std::fs::remove_dir_all(&command.cache_dir);
    let mount = command.cache_size("4GiB").start()?;
    warm(bed)?;
    bed.readers(&mount)?.epoch(1)?.must_be_right(bed.files())?;
    mount.wait_until_stored()?;
    let mut full = Full { bed, mount: &mount, epoch: 1 };
    paced(&mut full, effort, results)?;
    let pairs = alternate(effort.pick(5, 1), || full.told(None), || local(bed))?;
    let case = "full_told";
    let rates = Pairs::of(&pairs, |sample| sample.report.files_per_s);
    results.pairs(case, "files_per_s", "files/s", "local copy", &rates, "pages dropped on both sides");
    let reads: Vec<f64> = pairs.iter().map(|(ours, _)| ours.reads_per_file).collect();
    results.absolute(case, "reads_per_file", "requests", &reads, "READs that reached the daemon");
    mount.unmount()
}

fn paced(full: &mut Full<'_>, effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    let case = "full_told_paced";
    let count = effort.pick(3, 1);
    let untold = (0..count).map(|_| full.untold()).collect::<anyhow::Result<Vec<_>>>()?;
    let rates: Vec<f64> = untold.iter().map(|sample| sample.report.files_per_s).collect();
    results.absolute(case, "store_files_per_s", "files/s", &rates, "no order, as fast as it goes");
    let pace = 0.8 * median(&rates);
    let paced = (0..count).map(|_| full.told(Some(pace))).collect::<anyhow::Result<Vec<_>>>()?;
    let each = |of: fn(&Sample) -> f64| paced.iter().map(of).collect::<Vec<_>>();
    let note = format!("paced at {pace:.0} files/s");
    results.absolute(case, "files_per_s", "files/s", &each(|sample| sample.report.files_per_s), &note);
    let reads = each(|sample| sample.reads_per_file);
    results.absolute(case, "reads_per_file", "requests", &reads, "READs that reached the daemon");
    let p99 = each(|sample| sample.report.p99_us as f64);
    results.absolute(case, "latency_p99", "us", &p99, "open, fstat, read to the end, close");
    let untold: Vec<f64> = untold.iter().map(|sample| sample.report.p99_us as f64).collect();
    results.absolute(case, "latency_p99_store", "us", &untold, "the same without an order");
    Ok(())
}

/// An epoch, and what it asked the daemon.
struct Sample {
    report: EpochReport,
    reads_per_file: f64,
}

struct Full<'a> {
    bed: &'a Bed,
    mount: &'a Mount,
    epoch: u64,
}

impl Full<'_> {
    /// An epoch of which nothing is told.
    fn untold(&mut self) -> anyhow::Result<Sample> {
        self.read(None, false)
    }

    /// An epoch whose order is told, so many files a second.
    fn told(&mut self, files_per_s: Option<f64>) -> anyhow::Result<Sample> {
        self.read(files_per_s, true)
    }

    fn read(&mut self, files_per_s: Option<f64>, is_told: bool) -> anyhow::Result<Sample> {
        self.epoch += 1;
        machine::forget(Forget::Pages)?;
        let reading = Reading { check: false, files_per_s, ..self.bed.reading(self.mount.path()) };
        let mut readers = Readers::start(&reading)?;
        if is_told {
            tell(self.bed, self.mount, self.epoch)?;
            // A script tells the order while the last epoch is validated or saved.
            std::thread::sleep(Duration::from_millis(500));
        }
        let before = self.mount.stats()?;
        let report = readers.epoch(self.epoch)?;
        report.must_be_right(self.bed.files())?;
        let reads = self.mount.stats()?.grown(&before, "fuse_read");
        Ok(Sample { report, reads_per_file: reads as f64 / self.bed.files() as f64 })
    }
}

/// An epoch of the local copy.
fn local(bed: &Bed) -> anyhow::Result<Sample> {
    machine::forget(Forget::Pages)?;
    let reading = Reading { check: false, ..bed.reading(&bed.data_set.directory) };
    let report = Readers::start(&reading)?.epoch(1)?;
    report.must_be_right(bed.files())?;
    Ok(Sample { report, reads_per_file: 0.0 })
}
