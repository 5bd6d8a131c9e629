//! `ranks_told`: four ranks of one job, each with a mount and a cache of its own, and one origin.
//!
//! Each epoch's permutation is dealt to the ranks in turn, as `DistributedSampler` does, so a rank reads another quarter of the
//! data set each time. Each has a cache of a quarter of the data set, and is told its part of each epoch four epochs ahead.
//! Beside it: the same mounts told the same, which never replace (`--policy none`), and what the simulator says of one rank with
//! Belady's rule told as much. Nothing is pushed, pages are dropped before each epoch.

use std::fs;
use std::time::Duration;

use cache_daemon::policy::eviction::{PolicyKind, Rules};
use cache_daemon::simulate::Trace;
use cache_daemon::simulate::origin::Model;
use cache_daemon::simulate::run::{self, Progress, Settings};
use cache_daemon::simulate::sizes::Sizes;
use cache_daemon::simulate::synthetic::{self, Order, Synthetic};
use epochcache_tests::bed::data_set::Shape;
use epochcache_tests::bed::mount::{Bed, Mount, MountCommand, PATIENCE};
use epochcache_tests::bed::programs::wait_until;
use epochcache_tests::bed::reader::{Readers, Reading, permutation};
use epochcache_tests::bed::s3::Weather;

use super::{LINK_BYTES_PER_S, SMALL_SEGMENTS, stored_bytes};
use crate::machine::{self, Forget};
use crate::pairs::{Pairs, median};
use crate::{Effort, Results};

const CASE: &str = "ranks_told";
const RANKS: usize = 4;
const WORKERS: usize = 2;

/// Epochs after the present one whose orders are told: as many as the daemon keeps (`daemon/numbered.rs`).
const AHEAD: u64 = 4;

/// What the origin does with time matters to nobody here.
const MODEL: Model = Model {
    latency_s: 0.0,
    bandwidth_bytes_per_s: f64::INFINITY,
    requests_per_s: f64::INFINITY,
    files_per_s: f64::INFINITY,
    readers: WORKERS as u32,
    ahead: None,
};

/// One policy's epochs, those that count.
struct Sample {
    /// Bytes at the server for each byte read, an epoch each.
    fetched: Vec<f64>,
    /// The share of the data set that a rank's store holds.
    kept: f64,
}

/// The case.
pub fn run(effort: Effort, results: &mut Results) -> anyhow::Result<()> {
    let files = effort.pick(20_000, 8_000);
    let shape = Shape { classes: files / 20, ..Shape::of(files) };
    let bed = Bed::new(&shape, &Weather { bytes_per_s: LINK_BYTES_PER_S, ..Weather::default() })?;
    // A sample is read again after four epochs on the average: it takes some until what is kept is what is used soon.
    let (from, to) = effort.pick((13, 20), (5, 6));
    let told = epochs(&bed, "epoch", from, to)?;
    let frozen = epochs(&bed, "none", from, to)?;

    let note = format!(
        "at the server, of four ranks, epochs {from} to {to}; c = {:.3}, {:.3} frozen",
        told.kept, frozen.kept
    );
    let both: Vec<(f64, f64)> = told.fetched.iter().copied().zip(frozen.fetched).collect();
    results.pairs(
        CASE,
        "bytes",
        "a byte read",
        "--policy none",
        &Pairs::of(&both, |fetched| *fetched),
        &note,
    );

    let simulated = simulated(&shape, to as u32, from as u32, told.kept)?;
    let hits: Vec<(f64, f64)> = told.fetched.iter().map(|fetched| (1.0 - fetched, simulated)).collect();
    let reference = "simulator, Belady told 4 epochs ahead";
    results.pairs(CASE, "hit_ratio", "", reference, &Pairs::of(&hits, |ratio| *ratio), "bytes at the server");
    Ok(())
}

/// Epochs 1 to `to` under `policy`; those from `from` on count.
fn epochs(bed: &Bed, policy: &str, from: u64, to: u64) -> anyhow::Result<Sample> {
    let mut nodes =
        (0..RANKS).map(|rank| Node::start(bed, rank, policy)).collect::<anyhow::Result<Vec<_>>>()?;
    (1..=AHEAD).try_for_each(|epoch| nodes.iter().try_for_each(|node| node.tell(bed, epoch)))?;
    let mut fetched = Vec::new();
    for epoch in 1..=to {
        // That the epoch before is over is noticed a little late, and a fifth order would be refused until then.
        std::thread::sleep(Duration::from_millis(500));
        nodes.iter().try_for_each(|node| node.tell(bed, epoch + AHEAD))?;
        machine::forget(Forget::Pages)?;
        bed.origin.reset()?;
        let running = nodes.iter_mut().map(|node| node.readers.begin(epoch));
        let running = running.collect::<anyhow::Result<Vec<_>>>()?;
        let mut bytes = 0;
        for rank in running {
            let report = rank.end()?;
            report.must_be_right(bed.files() / RANKS)?;
            bytes += report.bytes;
        }
        fetched.push(bed.origin.counters()?.get_bytes as f64 / bytes as f64);
    }
    let all_bytes: u64 = bed.data_set.manifest.files.iter().map(|file| stored_bytes(file.size_bytes)).sum();
    let kept = |node: &Node| Ok(node.mount.stats()?.figure("store_live_bytes") as f64 / all_bytes as f64);
    let kept = median(&nodes.iter().map(kept).collect::<anyhow::Result<Vec<_>>>()?);
    nodes.into_iter().try_for_each(Node::end)?;
    Ok(Sample { fetched: fetched.split_off(from as usize - 1), kept })
}

/// A rank: its mount and its workers.
struct Node {
    mount: Mount,
    readers: Readers,
    rank: usize,
}

impl Node {
    fn start(bed: &Bed, rank: usize, policy: &str) -> anyhow::Result<Self> {
        let home = bed.home().join(format!("rank{rank}"));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(home.join("mnt"))?;
        let command = MountCommand {
            mountpoint: home.join("mnt"),
            cache_dir: home.join("cache"),
            log: bed.home().join(format!("rank{rank}.log")),
            ..bed.mount_command()
        };
        let size = (bed.data_set.manifest.total_bytes() / RANKS as u64).to_string();
        let mount = command
            .cache_size(&size)
            .options(&["--policy", policy, "--page-cache-size", "0"])
            .options(&SMALL_SEGMENTS)
            .start()?;
        let reading = Reading { rank, ranks: RANKS, workers: WORKERS, ..bed.reading(mount.path()) };
        Ok(Self { mount, readers: Readers::start(&reading)?, rank })
    }

    /// Tells its part of an epoch.
    fn tell(&self, bed: &Bed, epoch: u64) -> anyhow::Result<()> {
        let files = &bed.data_set.manifest.files;
        let part = permutation(files.len(), 1, epoch).skip(self.rank).step_by(RANKS);
        let lines: String = part.map(|at| format!("{}\n", files[at].path)).collect();
        let order = self.mount.path().join(format!(".epochcache/order-rank{}", self.rank));
        fs::write(&order, format!("# epoch {epoch}\n{lines}"))?;
        // Another order of the same name would take its place before it is read.
        wait_until(PATIENCE, "an order is taken", || Ok(!order.exists()))
    }

    fn end(self) -> anyhow::Result<()> {
        drop(self.readers);
        self.mount.unmount()
    }
}

/// What one rank hits with Belady's rule, told as much.
fn simulated(shape: &Shape, epochs: u32, from: u32, kept: f64) -> anyhow::Result<f64> {
    let trace = Synthetic::new(synthetic::Shape {
        files: shape.files as u32,
        sizes: Sizes::Lognormal { mean_bytes: shape.mean_bytes, sigma: shape.sigma },
        epochs,
        order: Order::Shuffle,
        workers: WORKERS as u32,
        batch: 1,
        ranks: RANKS as u32,
        told: Some(AHEAD as u32),
        seed: 1,
    });
    let cache_bytes = (trace.data_set_bytes() as f64 * kept) as u64;
    let settings = Settings { rules: Rules::default(), model: MODEL, from_epoch: from - 1 };
    let case = run::Case { policy: PolicyKind::Belady, cache_bytes };
    let outcome = run::run(&trace, case, &settings, &Progress::default())?;
    // Of all bytes: what it reads for the first time is fetched too.
    Ok(outcome.hit_bytes as f64 / (outcome.hit_bytes + outcome.fetched_bytes) as f64)
}
