//! First epochs of empty caches.
//!
//! `cold_no_order` (20 ms away) and `cold_no_order_100ms`, each against the same mount with `--prefetch off`, where eight
//! blocking readers set the pace; and `cold_told`, where the order is told. Every byte is checked.

use std::fs;
use std::time::Duration;

use epochcache_tests::bed::mount::Bed;
use epochcache_tests::bed::stats::Stats;

use super::{LINK_BYTES_PER_S, away, tell, warm};
use crate::machine::{self, Forget};
use crate::pairs::Pairs;
use crate::{Effort, Results};

const REFERENCE: &str = "--prefetch off";

/// All cases.
pub fn run(bed: &Bed, effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    for (case, delay_ms) in [("cold_no_order", 20), ("cold_no_order_100ms", 100)] {
        bed.origin.set_weather(&away(delay_ms))?;
        let (mut cold, mut paced) = (Cold::new(bed), Cold::new(bed));
        // A paced epoch takes five minutes at 100 ms.
        let count = if delay_ms < 50 { effort.pick(3, 1) } else { 1 };
        let pairs = Pairs::run(count, || cold.epoch("auto"), || paced.epoch("off"))?;
        let note = format!("{delay_ms} ms away: 8 blocking readers can get {} files/s", 8_000 / delay_ms);
        results.pairs(case, "throughput", "MiB/s", REFERENCE, &pairs, &note);
        let link = (LINK_BYTES_PER_S >> 20) as f64;
        let share: Vec<f64> = pairs.ours().iter().map(|mib_per_s| mib_per_s / link).collect();
        results.absolute(case, "of_link", "", &share, "from the first open to the last worker's end");
        cold.report(case, results);
    }
    told(bed, effort, results)
}

/// The same at 20 ms, with the order of the epoch told when it begins.
fn told(bed: &Bed, effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    let case = "cold_told";
    bed.origin.set_weather(&away(20))?;
    let mut cold = Cold { is_told: true, ..Cold::new(bed) };
    let runs = (0..effort.pick(3, 1)).map(|_| cold.epoch("told")).collect::<anyhow::Result<Vec<_>>>()?;
    results.absolute(case, "throughput", "MiB/s", &runs, "20 ms away, no reference");
    let link = (LINK_BYTES_PER_S >> 20) as f64;
    let share: Vec<f64> = runs.iter().map(|mib_per_s| mib_per_s / link).collect();
    results.absolute(case, "of_link", "", &share, "from the first open to the last worker's end");
    let waited: Vec<f64> = cold.seen.iter().map(|seen| seen.waited_s).collect();
    results.absolute(case, "waited", "s", &waited, "for the origin, eight workers together");
    cold.report(case, results);
    Ok(())
}

/// First epochs of empty caches.
struct Cold<'a> {
    bed: &'a Bed,
    epoch: u64,
    /// The order is told before each epoch.
    is_told: bool,
    seen: Vec<Seen>,
}

/// What one of them cost.
struct Seen {
    gets_per_file: f64,
    in_flight: f64,
    depth: f64,
    unread: f64,
    waited_s: f64,
}

impl<'a> Cold<'a> {
    fn new(bed: &'a Bed) -> Self {
        Self { bed, epoch: 0, is_told: false, seen: Vec::new() }
    }

    /// Mounts with nothing stored and reads an epoch; MiB a second.
    fn epoch(&mut self, prefetch: &str) -> anyhow::Result<f64> {
        let command = self.bed.mount_command();
        let _ = fs::remove_dir_all(&command.cache_dir);
        let mount = command.cache_size("4GiB").options(&["--prefetch", prefetch]).start()?;
        let mut readers = self.bed.readers(&mount)?;
        machine::forget(Forget::Pages)?;
        // Back into the page cache: the server's own disk is not what is measured.
        warm(self.bed)?;
        self.bed.origin.reset()?;
        self.epoch += 1;
        if self.is_told {
            tell(self.bed, &mount, self.epoch)?;
        }
        let report = readers.epoch(self.epoch)?;
        report.must_be_right(self.bed.files())?;
        let counters = self.bed.origin.counters()?;
        // The planner learns of the last readings up to half a second late.
        std::thread::sleep(Duration::from_secs(1));
        let stats = mount.stats()?;
        let unread =
            |stats: &Stats| stats.figure("planner_prefetched") - stats.figure("planner_prefetch_used");
        self.seen.push(Seen {
            gets_per_file: counters.get as f64 / self.bed.files() as f64,
            in_flight: counters.gets_in_flight_mean,
            depth: stats.figure("planner_depth") as f64,
            unread: unread(&stats) as f64,
            waited_s: stats.figure("cache_origin_wait_us") as f64 / 1e6,
        });
        drop(readers);
        mount.unmount()?;
        Ok(report.mib_per_s)
    }

    fn report(&self, case: &str, results: &mut Results) {
        let each = |of: fn(&Seen) -> f64| self.seen.iter().map(of).collect::<Vec<_>>();
        results.absolute(
            case,
            "gets_per_file",
            "requests",
            &each(|seen| seen.gets_per_file),
            "at the server",
        );
        results.absolute(
            case,
            "gets_in_flight",
            "requests",
            &each(|seen| seen.in_flight),
            "mean over the epoch",
        );
        results.absolute(case, "depth", "requests", &each(|seen| seen.depth), "as measured at the end");
        results.absolute(case, "unread", "objects", &each(|seen| seen.unread), "fetched ahead and not read");
    }
}
