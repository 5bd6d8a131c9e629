//! `cachectl simulate`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cache_daemon::policy::eviction::{Objective, PolicyKind, Rules};
use cache_daemon::simulate::Trace;
use cache_daemon::simulate::origin::Model;
use cache_daemon::simulate::plot::{self, Curve};
use cache_daemon::simulate::recording::Recording;
use cache_daemon::simulate::run::{self, Case, Outcome, Progress, Settings};
use cache_daemon::simulate::sizes::Sizes;
use cache_daemon::simulate::synthetic::{FILES_MAX, Order, Shape, Synthetic};
use crossbeam::channel::{self, RecvTimeoutError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::{Verdict, table, units};

#[cfg(test)]
mod tests;

const EXAMPLES: &str = "\
Examples:
  cachectl simulate --files 1000000 --shuffle --cache 10%,25%,50%
  cachectl simulate --files 1000000 --shuffle --sizes lognormal:110K --plot curves.svg
  cachectl simulate --files 100000 --shuffle --ranks 8 --epochs 80 --from-epoch 30
  cachectl trace --record trace.bin; cachectl simulate trace.bin --cache 100GiB,200GiB

No daemon is needed. Hit ratios are of uses of what was read before, from --from-epoch on; what a first use
fetches no policy can avoid. What time means: docs/epoch-model.md.
Exit code: 0, or 2 if it could not be done.";

/// A run that takes longer shows how far it is.
const QUIET: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

/// `cachectl simulate`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A recorded trace (`cachectl trace --record`); made up if there is none.
    trace: Option<PathBuf>,
    /// Files of the made-up set.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(FILES_MAX)))]
    files: u32,
    /// Their sizes: fixed:SIZE or lognormal:MEAN or lognormal:MEAN,SIGMA.
    #[arg(long, value_name = "KIND", default_value = "lognormal:110K")]
    sizes: Sizes,
    /// Epochs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    epochs: u32,
    /// Reads in a fresh random order each epoch; in listing order otherwise.
    #[arg(long)]
    shuffle: bool,
    /// Draws with replacement instead, as many as there are files.
    #[arg(long, conflicts_with = "shuffle")]
    replacement: bool,
    /// Worker processes of the DataLoader.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=4096))]
    workers: u32,
    /// Files of a batch: a worker reads one after the other.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    batch: u32,
    /// Nodes that the sampler deals the set to; what the first of them reads is simulated.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    ranks: u32,
    /// Epochs ahead whose orders are told: belady knows no others then, and with --ranks epoch goes by them too.
    #[arg(long, value_name = "EPOCHS")]
    told: Option<u32>,
    /// What everything random follows from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Sizes of the cache, of a node: 10% of the data set, or 500GiB.
    #[arg(long, value_name = "SIZES", value_delimiter = ',')]
    cache: Vec<CacheSize>,
    /// Policies: epoch, lru, fifo, s3fifo, sieve, 2-random, none, belady.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_values_t = PolicyKind::ALL)]
    policies: Vec<PolicyKind>,
    /// What the policy epoch saves: bytes, or requests where they are what is short.
    #[arg(long, value_enum, default_value_t = Saves::Bytes)]
    save: Saves,
    /// To the first byte of an answer of the origin.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = humantime::parse_duration)]
    latency: Duration,
    /// Bytes a second from the origin.
    #[arg(long, value_name = "SIZE", default_value = "125MiB", value_parser = bandwidth)]
    bandwidth: u64,
    /// Requests a second that the origin allows; any number if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    qps: Option<u32>,
    /// Files a second that the node's readers read when nothing is slow; as many as they can if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// GETs in flight of something that reads ahead; the readers fetch for themselves if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ahead: Option<u32>,
    /// The epoch from which on uses count; 2 if the trace is made up.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    from_epoch: Option<u32>,
    /// Cases that run at a time; as many as there are processors and half of the free memory allows if not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Writes curves over the size of the cache to this file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Saves {
    Bytes,
    Requests,
}

/// A size of the cache as it was written.
#[derive(Clone, Copy, PartialEq, Debug)]
enum CacheSize {
    Percent(f64),
    Bytes(u64),
}

impl std::str::FromStr for CacheSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "give a share such as 25%, or a size such as 500GiB".to_owned();
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent = percent.parse().map_err(|_| wrong())?;
                if (0.0..=100.0).contains(&percent) { Ok(Self::Percent(percent)) } else { Err(wrong()) }
            }
            None => parse_size::parse_size(text).map(Self::Bytes).map_err(|_| wrong()),
        }
    }
}

impl CacheSize {
    fn bytes(self, data_set_bytes: u64) -> u64 {
        match self {
            Self::Percent(percent) => (data_set_bytes as f64 * percent / 100.0) as u64,
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn bandwidth(text: &str) -> Result<u64, String> {
    match parse_size::parse_size(text) {
        Ok(0) | Err(_) => Err("give a size such as 125MiB".into()),
        Ok(bytes) => Ok(bytes),
    }
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    let played = Played::new(args)?;
    let outcomes = played.outcomes(args)?;
    if let Some(path) = &args.plot {
        let svg = plot::curves(&played.curves(&outcomes));
        std::fs::write(path, svg).with_context(|| format!("writing {}", path.display()))?;
    }
    match args.json {
        true => writeln!(out, "{}", played.json(&outcomes))?,
        false => played.print(&outcomes, out)?,
    }
    Ok(Verdict::Well)
}

/// A trace, and what is to be played through it.
struct Played {
    trace: Box<dyn Trace>,
    what: String,
    cases: Vec<Case>,
    settings: Settings,
    /// Belady knows only so much: it is no bound.
    told: Option<u32>,
}

impl Played {
    fn new(args: &Args) -> Result<Self> {
        let (trace, what, readers) = trace(args)?;
        let data_set_bytes = trace.data_set_bytes();
        let policies = &args.policies;
        let of_size = |size: CacheSize| {
            let cache_bytes = size.bytes(data_set_bytes);
            policies.iter().map(move |&policy| Case { policy, cache_bytes })
        };
        let from_epoch = args.from_epoch.unwrap_or(trace.epochs().min(2));
        if from_epoch > trace.epochs() {
            bail!("--from-epoch {from_epoch}: there are {} epochs", trace.epochs());
        }
        let model = Model {
            latency_s: args.latency.as_secs_f64(),
            bandwidth_bytes_per_s: args.bandwidth as f64,
            requests_per_s: args.qps.map_or(f64::INFINITY, f64::from),
            files_per_s: args.rate.map_or(f64::INFINITY, f64::from),
            readers,
            ahead: args.ahead,
        };
        let objective = match args.save {
            Saves::Bytes => Objective::Bytes,
            Saves::Requests => Objective::Requests,
        };
        let settings =
            Settings { rules: Rules { objective, seed: args.seed }, model, from_epoch: from_epoch - 1 };
        let cases = cache_sizes(args).into_iter().flat_map(of_size).collect();
        Ok(Self { trace, what, cases, settings, told: args.told })
    }

    /// Runs all cases, and shows how far they are if that takes long.
    fn outcomes(&self, args: &Args) -> Result<Vec<Outcome>> {
        let jobs = args.jobs.map_or_else(|| jobs(self.trace.objects()), usize::from);
        let (progress, bar) = (Progress::default(), Bar::new(self.cases.len() as u64 * self.trace.uses()));
        let (sender, receiver) = channel::unbounded();
        let mut outcomes = vec![Outcome::default(); self.cases.len()];
        std::thread::scope(|scope| -> Result<()> {
            let (trace, cases, settings, progress) = (&*self.trace, &self.cases, &self.settings, &progress);
            scope.spawn(move || run::run_all(trace, cases, settings, jobs, progress, &sender));
            loop {
                match receiver.recv_timeout(TICK) {
                    Ok((number, Ok(outcome))) => outcomes[number] = outcome,
                    Ok((_, Err(error))) => {
                        progress.stop();
                        return Err(error).context("playing the trace");
                    }
                    Err(RecvTimeoutError::Timeout) => bar.show(progress.uses()),
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        })?;
        Ok(outcomes)
    }

    /// Epochs that count.
    fn epochs(&self) -> u32 {
        self.trace.epochs() - self.settings.from_epoch
    }

    /// The least bytes that can be fetched again with the cache of a case: by the theorem, or by what Belady did.
    fn bound_bytes(&self, case: &Case, outcomes: &[Outcome]) -> Option<u64> {
        if self.trace.is_exactly_once() && self.settings.from_epoch > 0 {
            return Some(run::bound_bytes(self.trace.data_set_bytes(), case.cache_bytes, self.epochs()));
        }
        if self.told.is_some() {
            return None;
        }
        let best = |other: &Case| other.policy == PolicyKind::Belady && other.cache_bytes == case.cache_bytes;
        let number = self.cases.iter().position(best)?;
        Some(outcomes[number].fetched_again_bytes())
    }

    fn share(&self, case: &Case) -> f64 {
        case.cache_bytes as f64 / self.trace.data_set_bytes().max(1) as f64
    }

    fn print(&self, outcomes: &[Outcome], out: &mut dyn Write) -> Result<()> {
        writeln!(out, "{}", self.what)?;
        let epochs = f64::from(self.epochs());
        let per = if self.trace.epochs() > 1 { " an epoch" } else { "" };
        let header = [
            "cache",
            "policy",
            "hit files",
            "hit bytes",
            &format!("fetched{per}"),
            "over bound",
            &format!("GETs{per}"),
            "waiting",
        ];
        let mut shown = table::plain(&header);
        for (case, outcome) in self.cases.iter().zip(outcomes) {
            let over = match self.bound_bytes(case, outcomes) {
                Some(bound) if bound > 0 => {
                    format!("{:.3}", outcome.fetched_again_bytes() as f64 / bound as f64)
                }
                _ => "-".to_owned(),
            };
            let waiting = match outcome.elapsed_s > 0.0 {
                true => format!(
                    "{:.0} s ({:.0} %)",
                    outcome.waited_s / epochs,
                    100.0 * outcome.waited_s / outcome.elapsed_s
                ),
                false => "-".to_owned(),
            };
            shown.add_row([
                format!("{:.1} %", 100.0 * self.share(case)),
                case.policy.to_string(),
                format!("{:.3}", outcome.hit_ratio()),
                format!("{:.3}", outcome.byte_hit_ratio()),
                units::bytes(outcome.fetched_bytes as f64 / epochs),
                over,
                units::human((outcome.requests as f64 / epochs) as u64, ""),
                waiting,
            ]);
        }
        table::right_align(&mut shown, 2..8);
        Ok(table::print(out, &shown)?)
    }

    fn json(&self, outcomes: &[Outcome]) -> serde_json::Value {
        let case = |(case, outcome): (&Case, &Outcome)| {
            json!({
                "policy": case.policy.name(),
                "cache_bytes": case.cache_bytes,
                "cache_share": self.share(case),
                "hit_ratio": outcome.hit_ratio(),
                "byte_hit_ratio": outcome.byte_hit_ratio(),
                "bound_bytes": self.bound_bytes(case, outcomes),
                "counts": outcome,
            })
        };
        json!({
            "trace": self.what,
            "files": self.trace.objects(),
            "data_set_bytes": self.trace.data_set_bytes(),
            "uses": self.trace.uses(),
            "epochs_counted": self.epochs(),
            "cases": self.cases.iter().zip(outcomes).map(case).collect::<Vec<_>>(),
        })
    }

    fn curves(&self, outcomes: &[Outcome]) -> Vec<Curve> {
        let mut curves: Vec<Curve> = Vec::new();
        for (case, outcome) in self.cases.iter().zip(outcomes) {
            let point = (self.share(case), outcome.byte_hit_ratio());
            match curves.iter_mut().find(|curve| curve.name == case.policy.name()) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Curve { name: case.policy.name().to_owned(), points: vec![point] }),
            }
        }
        curves.iter_mut().for_each(|curve| curve.points.sort_by(|one, other| one.0.total_cmp(&other.0)));
        curves
    }
}

/// The trace, what it is in words, and its readers.
fn trace(args: &Args) -> Result<(Box<dyn Trace>, String, u32)> {
    if let Some(path) = &args.trace {
        let recording = Recording::open(path).with_context(|| format!("reading {}", path.display()))?;
        let what = format!(
            "{}: {} uses of {} files, {}, by {} readers{}",
            path.display(),
            units::human(recording.uses(), ""),
            units::human(recording.objects().into(), ""),
            units::bytes(recording.data_set_bytes() as f64),
            recording.readers(),
            if recording.was_cut_off() { "; its end was cut off" } else { "" }
        );
        let readers = recording.readers().max(1);
        return Ok((Box::new(recording), what, readers));
    }
    if args.ranks > args.files {
        bail!("--ranks {}: there are {} files", args.ranks, args.files);
    }
    let order = match (args.shuffle, args.replacement) {
        (true, _) => Order::Shuffle,
        (_, true) => Order::Replacement,
        _ => Order::Listing,
    };
    let synthetic = Synthetic::new(Shape {
        files: args.files,
        sizes: args.sizes,
        epochs: args.epochs,
        order,
        workers: args.workers,
        batch: args.batch,
        ranks: args.ranks,
        told: args.told,
        seed: args.seed,
    });
    let what = format!(
        "{} files, {}, {} epochs {}{}",
        units::human(args.files.into(), ""),
        units::bytes(synthetic.data_set_bytes() as f64),
        args.epochs,
        match order {
            Order::Shuffle => "in random order",
            Order::Listing => "in listing order",
            Order::Replacement => "with replacement",
        },
        if args.ranks > 1 { format!(", one of {} ranks", args.ranks) } else { String::new() }
    );
    Ok((Box::new(synthetic), what, args.workers))
}

fn cache_sizes(args: &Args) -> Vec<CacheSize> {
    match (args.cache.is_empty(), args.plot.is_some()) {
        (false, _) => args.cache.clone(),
        (true, false) => [10.0, 25.0, 50.0].map(CacheSize::Percent).to_vec(),
        (true, true) => (1..=10).map(|tenth| CacheSize::Percent(10.0 * f64::from(tenth))).collect(),
    }
}

/// As many as there are processors, as long as what the largest policies take stays within half of the free memory.
fn jobs(objects: u32) -> usize {
    // `policy::eviction`'s table: Belady's 24 and a bit, rounded up for vectors that double.
    let case_bytes = u64::from(objects) * 48;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let free_bytes = free_memory_bytes().unwrap_or(u64::MAX);
    processors.min((free_bytes / 2 / case_bytes.max(1)) as usize).max(1)
}

fn free_memory_bytes() -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib << 10)
}

/// Shown on a terminal once the runs have taken [`QUIET`].
struct Bar {
    bar: ProgressBar,
    began: Instant,
}

impl Bar {
    fn new(uses: u64) -> Self {
        Self {
            bar: ProgressBar::with_draw_target(Some(uses), ProgressDrawTarget::hidden()),
            began: Instant::now(),
        }
    }

    fn show(&self, uses: u64) {
        if self.bar.is_hidden() && self.began.elapsed() > QUIET && std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{wide_bar} {percent} %, {per_sec} uses, {eta} left");
            self.bar.set_style(style.expect("the template is fixed"));
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(uses);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
