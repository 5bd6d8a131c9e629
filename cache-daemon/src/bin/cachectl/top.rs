//! `cachectl top`.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cache_daemon::control::{Client, Readers, Request};
use cache_daemon::probe::ReaderRow;

use super::find::{self, Target};
use super::jobs::Jobs;
use super::{Verdict, table, units};

const EXAMPLES: &str = "\
Examples:
  cachectl top                     who reads, every 2 seconds, until Ctrl-C
  cachectl top --once              totals since the mount, and the rate over one second
  cachectl top --once --json       one JSON object

DataLoader workers are rows of their own; jobs are told apart by their cgroup, and summed if there are several.
CACHED: the share of the bytes that the page cache had. WAITING: the share of the time that requests to the daemon took,
of those that overlap each, so it may exceed 100 %. WAITED: all of it, since the mount.
Exit code: 0, or 2 if no daemon answers.";

/// `cachectl top`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The mount; not needed if only one daemon runs.
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECS", default_value_t = 2.0)]
    interval: f64,
    /// Looks twice, a second apart, and ends.
    #[arg(long)]
    once: bool,
    /// Prints one JSON object a look, totals only.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    ensure!(
        (0.1..=86_400.0).contains(&args.interval),
        "--interval {}: give 0.1 to 86400 seconds",
        args.interval
    );
    let cache_dir = find::cache_dir(args.mountpoint.as_deref(), &args.target)?;
    let ask = || -> Result<Readers> { Ok(Client::connect(&cache_dir)?.ask(&Request::Top)?) };
    let redraw = !args.json && !args.once && std::io::stdout().is_terminal();
    let interval = Duration::from_secs_f64(if args.once { 1.0 } else { args.interval });
    let mut jobs = Jobs::default();
    let (mut before, mut at) = (ask()?, Instant::now());
    loop {
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&before)?)?;
            if args.once {
                return Ok(Verdict::Well);
            }
        }
        thread::sleep(interval);
        let (now, seconds) = (ask()?, at.elapsed().as_secs_f64());
        at = Instant::now();
        if redraw {
            write!(out, "\x1b[H\x1b[J")?;
        }
        if !args.json {
            show(out, &now, &before, seconds, &mut jobs)?;
        }
        out.flush()?;
        if args.once {
            return Ok(Verdict::Well);
        }
        before = now;
    }
}

/// What a reader, or a job of several, did between two looks.
#[derive(Clone, Copy, Default)]
struct Span {
    files: u64,
    bytes: u64,
    asked_bytes: u64,
    waited_us: u64,
}

impl Span {
    fn between(now: &ReaderRow, before: Option<&ReaderRow>) -> Self {
        let since = |of: fn(&ReaderRow) -> u64| of(now).saturating_sub(before.map_or(0, of));
        Self {
            files: since(|row| row.files),
            bytes: since(|row| row.bytes),
            asked_bytes: since(|row| row.asked_bytes),
            waited_us: since(|row| row.waited_us),
        }
    }

    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.asked_bytes += other.asked_bytes;
        self.waited_us += other.waited_us;
    }

    /// Files and bytes a second, the share that the page cache had, the time spent waiting for the rest.
    fn cells(self, sees_hits: bool, seconds: f64) -> [String; 4] {
        let cached = self.bytes.saturating_sub(self.asked_bytes) as f64 / self.bytes as f64;
        let hits = sees_hits && self.bytes > 0;
        let waited = self.waited_us as f64 / 1e6 / seconds;
        [
            format!("{:.0}", self.files as f64 / seconds),
            format!("{}/s", units::bytes(self.bytes as f64 / seconds)),
            if hits { format!("{:.0} %", 100.0 * cached) } else { "-".to_owned() },
            format!("{:.0} %", 100.0 * waited),
        ]
    }
}

/// Prints the readers, with what they did since `before`.
fn show(out: &mut dyn Write, now: &Readers, before: &Readers, seconds: f64, jobs: &mut Jobs) -> Result<()> {
    let sees_hits = !matches!(now.tier.as_str(), "" | "C");
    head(out, now, sees_hits)?;
    jobs.learn(now.readers.iter().map(|row| row.cgroup));
    let earlier: HashMap<u32, &ReaderRow> = before.readers.iter().map(|row| (row.tgid, row)).collect();
    let mut of_jobs: BTreeMap<u64, (u64, Span)> = BTreeMap::new();
    let mut readers = table::plain(&[
        "PID", "COMMAND", "JOB", "THREADS", "FILES/S", "READ/S", "CACHED", "WAITING", "FILES", "READ",
        "FAULTS", "WAITED",
    ]);
    for row in &now.readers {
        let span = Span::between(row, earlier.get(&row.tgid).copied());
        let job = of_jobs.entry(row.cgroup).or_default();
        job.0 += 1;
        job.1.add(span);
        let [files, bytes, cached, waiting] = span.cells(sees_hits, seconds);
        readers.add_row([
            row.tgid.to_string(),
            row.command.clone(),
            jobs.name(row.cgroup),
            row.threads.to_string(),
            files,
            bytes,
            cached,
            waiting,
            units::human(row.files, ""),
            units::bytes(row.bytes as f64),
            units::human(row.faults, ""),
            units::duration(row.waited_us),
        ]);
    }
    table::print(out, &readers)?;
    if of_jobs.len() < 2 {
        return Ok(());
    }
    let mut table = table::plain(&["JOB", "READERS", "FILES/S", "READ/S", "CACHED", "WAITING"]);
    for (id, (readers, span)) in of_jobs {
        let cells = [jobs.name(id), readers.to_string()].into_iter();
        table.add_row(cells.chain(span.cells(sees_hits, seconds)));
    }
    writeln!(out)?;
    Ok(table::print(out, &table)?)
}

/// Which readers are seen, and what the columns are.
fn head(out: &mut dyn Write, now: &Readers, sees_hits: bool) -> Result<()> {
    let (count, waits) = (now.readers.len(), if now.waits_by_kernel { "the kernel" } else { "the daemon" });
    match sees_hits {
        true => writeln!(out, "{count} readers, tier {}; waits as {waits} sees them", now.tier)?,
        // `cachectl stats` says why.
        false => writeln!(
            out,
            "{count} readers whose requests came; what the page cache serves is not seen (tier C)"
        )?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_the_bytes_that_were_not_asked_for_and_waits_a_share_of_the_time() {
        let span = Span { files: 20, bytes: 1000, asked_bytes: 250, waited_us: 500_000 };
        assert_eq!(span.cells(true, 2.0), ["10", "500 B/s", "75 %", "25 %"]);
        assert_eq!(span.cells(false, 2.0)[2], "-");
        assert_eq!(Span::default().cells(true, 2.0), ["0", "0 B/s", "-", "0 %"]);
        // Read ahead: more was asked for than read.
        assert_eq!(Span { asked_bytes: 2000, ..span }.cells(true, 1.0)[2], "0 %");
    }

    #[test]
    fn jobs_are_told_apart_and_summed() {
        let row = |tgid, cgroup, bytes| -> ReaderRow {
            serde_json::from_value(serde_json::json!({
                "pid": tgid, "command": "pt_data", "cgroup": cgroup, "threads": 1, "files": 4, "reads": 4,
                "faults": 0, "bytes": bytes, "requests": 1, "asked_bytes": 0, "waited_us": 0, "touched_ns": 1,
            }))
            .expect("a row")
        };
        let now = Readers {
            tier: "B".into(),
            readers: vec![
                row(1, u64::MAX, 1 << 20),
                row(2, u64::MAX, 1 << 20),
                row(3, u64::MAX - 1, 1 << 20),
            ],
            waits_by_kernel: true,
        };
        let mut out = Vec::new();
        show(&mut out, &now, &Readers::default(), 1.0, &mut Jobs::default()).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        assert!(text.starts_with("3 readers, tier B; waits as the kernel sees them\n"), "{text}");
        let squeezed = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = text.lines().map(squeezed).find(|line| line.starts_with(&u64::MAX.to_string()));
        assert_eq!(line.as_deref(), Some(&*format!("{} 2 8 2 MiB/s 100 % 0 %", u64::MAX)), "{text}");
    }
}
