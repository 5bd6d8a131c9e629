//! A cache that holds half of the data set: every epoch has to fetch the other half, and no more.
//!
//! `half_no_order`: nothing is told. `half_told`: the order is told, and readers take files at 80 % of what the link allows;
//! then none of them should wait. What is fetched for them is staged in the page cache, in a budget of about a
//! hundredth of the data set. Pages are dropped before each epoch, so that memory does not do the work.

use std::time::Duration;

use cache_daemon::store::layout::extent_bytes;
use epochcache_tests::bed::mount::{Bed, Mount};
use epochcache_tests::bed::reader::{EpochReport, Readers};

use super::{LINK_BYTES_PER_S, away, tell, warm};
use crate::machine::{self, Forget};
use crate::{Effort, Results};

const STAGING_BYTES: u64 = 16 << 20;

/// What one epoch cost.
struct Cost {
    over_bound: f64,
    waited_s: f64,
    report: EpochReport,
}

/// Both cases.
pub fn run(bed: &Bed, effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    bed.origin.set_weather(&away(20))?;
    let last = effort.pick(4, 2) as u64;
    for (case, is_told) in [("half_no_order", false), ("half_told", true)] {
        let half = Half::new(bed, is_told)?;
        let costs = (2..=last).map(|epoch| half.epoch(epoch)).collect::<anyhow::Result<Vec<_>>>()?;
        let stats = half.mount.stats()?;
        let each = |of: fn(&Cost) -> f64| costs.iter().map(of).collect::<Vec<_>>();
        let note = format!(
            "GET bytes at the server over (1 - c) x data set, epochs 2 to {last}; c = {:.3} of NVMe + {:.3} of page cache",
            half.stored_bytes()? as f64 / half.data_bytes as f64,
            half.staging_bytes() as f64 / half.data_bytes as f64,
        );
        results.absolute(case, "bytes_over_bound", "", &each(|cost| cost.over_bound), &note);
        let pace = half.pace()?;
        let note = pace.map_or("as fast as it goes".to_owned(), |pace| format!("paced at {pace:.0} files/s"));
        results.absolute(case, "files_per_s", "files/s", &each(|cost| cost.report.files_per_s), &note);
        results.absolute(
            case,
            "waited",
            "s",
            &each(|cost| cost.waited_s),
            "for the origin, eight workers together",
        );
        let p99 = each(|cost| cost.report.p99_us as f64 / 1e3);
        results.absolute(case, "latency_p99", "ms", &p99, "open, fstat, read to the end, close");
        let wasted = stats.figure("planner_prefetched") - stats.figure("planner_prefetch_used");
        results.absolute(case, "unread", "objects", &[wasted as f64], "stored ahead and not read");
        half.mount.unmount()?;
    }
    Ok(())
}

struct Half<'a> {
    bed: &'a Bed,
    mount: Mount,
    is_told: bool,
    data_bytes: u64,
    /// Bytes on disk of all objects.
    extent_bytes: u64,
}

impl<'a> Half<'a> {
    /// A mount whose store has been filled by a first epoch.
    fn new(bed: &'a Bed, is_told: bool) -> anyhow::Result<Self> {
        let files = &bed.data_set.manifest.files;
        let data_bytes = files.iter().map(|file| file.size_bytes).sum();
        let extents = files.iter().map(|file| u64::from(extent_bytes(file.size_bytes as u32))).sum();
        let command = bed.mount_command();
        let _ = std::fs::remove_dir_all(&command.cache_dir);
        let staging = STAGING_BYTES.to_string();
        let page_cache = if is_told { &staging[..] } else { "0" };
        let size = format!("{}", data_bytes / 2);
        let mount = command.cache_size(&size).options(&["--page-cache-size", page_cache]).start()?;
        let half = Self { bed, mount, is_told, data_bytes, extent_bytes: extents };
        warm(bed)?;
        bed.readers(&half.mount)?.epoch(1)?.must_be_right(bed.files())?;
        std::thread::sleep(Duration::from_secs(1));
        Ok(half)
    }

    /// Bytes of objects that are stored: bytes on disk, less what the padding takes.
    fn stored_bytes(&self) -> anyhow::Result<u64> {
        let live = self.mount.stats()?.figure("store_live_bytes") as f64;
        Ok((live * self.data_bytes as f64 / self.extent_bytes as f64) as u64)
    }

    fn staging_bytes(&self) -> u64 {
        if self.is_told { STAGING_BYTES } else { 0 }
    }

    /// Files a second that need 80 % of the link; none if readers are not paced.
    fn pace(&self) -> anyhow::Result<Option<f64>> {
        let missing = self.data_bytes - self.stored_bytes()?;
        let seconds = missing as f64 / LINK_BYTES_PER_S as f64;
        Ok(self.is_told.then_some(0.8 * self.bed.files() as f64 / seconds))
    }

    fn epoch(&self, epoch: u64) -> anyhow::Result<Cost> {
        machine::forget(Forget::Pages)?;
        warm(self.bed)?;
        let mut reading = self.bed.reading(self.mount.path());
        reading.files_per_s = self.pace()?;
        let mut readers = Readers::start(&reading)?;
        let bound = self.data_bytes - self.stored_bytes()? - self.staging_bytes();
        if self.is_told {
            tell(self.bed, &self.mount, epoch)?;
            // A script tells the order while the last epoch is validated or saved.
            std::thread::sleep(Duration::from_millis(500));
        }
        let before = self.mount.stats()?;
        self.bed.origin.reset()?;
        let report = readers.epoch(epoch)?;
        report.must_be_right(self.bed.files())?;
        let fetched = self.bed.origin.counters()?.get_bytes;
        let waited_us = self.mount.stats()?.grown(&before, "cache_origin_wait_us");
        Ok(Cost { over_bound: fetched as f64 / bound as f64, waited_s: waited_us as f64 / 1e6, report })
    }
}
