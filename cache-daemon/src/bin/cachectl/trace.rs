//! `cachectl trace`.

use std::ffi::CString;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result};
use cache_daemon::control::{Process, Request, TraceLine};
use cache_daemon::simulate::recording::Recorder;
use cache_daemon::stats::Latency;

use super::find::{self, Target};
use super::{Verdict, units};

const EXAMPLES: &str = "\
Examples:
  cachectl trace                          what happens to files, until Ctrl-C
  cachectl trace --file '*/n01440764/*'   only files whose path matches
  cachectl trace --pid 4242 --json        one process, one JSON object a line
  cachectl trace --record trace.bin       for cachectl simulate, until Ctrl-C

EVENT   begin, end: a reading of a file begins, reaches its end; begin+end: a small file, read at
        once. Reads that the page cache serves too, as far as probes see them (docs/probes.md).
        open: a file was opened. mmap: it was mapped. Probes see that, where `cachectl stats` lists
        file_opened and file_mapped, while somebody traces; in the serve mode `open` the daemon
        tells of opens itself.
        miss, ahead: a part of a file came from the origin, for a reader or ahead of one; LATENCY
        is the origin's. push: a part was put into the page cache. evict: what is stored of a file
        was forgotten.
BY      begin, end: read or fault. miss, ahead: nothing, or failed. open: who answers the reads,
        the daemon, or the kernel by itself (passthrough). mmap: nothing.
PID     of a miss, the first that waited for it; `-`: nobody, or not known.
With --pid there are open, mmap, begin, end and miss: the others are nobody's.

Exit code: 0, or 2 if no daemon answers.";

/// `cachectl trace`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The mount; not needed if only one daemon runs.
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Only files whose path from the mountpoint matches: * is any text, slashes too, ? a letter, [a-z] one of these.
    #[arg(long, value_name = "GLOB")]
    file: Option<String>,
    /// Only this process.
    #[arg(long)]
    pid: Option<u32>,
    /// Ends after so many lines.
    #[arg(long, value_name = "N")]
    lines: Option<u64>,
    /// Prints one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Records the readings that reach the end of their file in this one, and prints none.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    record: Option<PathBuf>,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    let mut trace = Trace::new(args)?;
    let client = find::connect(args.mountpoint.as_deref(), &args.target)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted.clone()).context("taking Ctrl-C")?;
    let mut failed = None;
    client.stream(&Request::Trace, |item| {
        let shown = serde_json::from_value(item)
            .context("the daemon's answer makes no sense")
            .and_then(|line: TraceLine| trace.take(out, &line));
        failed = shown.err();
        failed.is_none() && !interrupted.load(Relaxed) && args.lines.is_none_or(|lines| trace.lines < lines)
    })?;
    match failed {
        Some(error) => Err(error),
        None => {
            if !args.json {
                trace.summary(out)?;
            }
            Ok(Verdict::Well)
        }
    }
}

/// What a line is about, for all kinds alike.
struct Seen<'a> {
    at_ns: u64,
    path: &'a str,
    process: Option<&'a Process>,
    event: &'static str,
    by: &'static str,
    start: Option<u64>,
    bytes: Option<u64>,
    latency_us: Option<u64>,
}

impl<'a> Seen<'a> {
    fn of(line: &'a TraceLine) -> Option<Self> {
        let of = |at_ns, path, event| {
            let (process, by, start, bytes, latency_us) = (None, "", None, None, None);
            Seen { at_ns, path, process, event, by, start, bytes, latency_us }
        };
        let of_part = |at_ns, path, event, start, end: u64| Seen {
            start: Some(start),
            bytes: Some(end.saturating_sub(start)),
            ..of(at_ns, path, event)
        };
        Some(match line {
            TraceLine::Watching { .. } | TraceLine::Quiet { .. } => return None,
            &TraceLine::Reading { at_ns, ref path, ref by, start, end, begins, ends, fault } => Seen {
                process: Some(by),
                by: if fault { "fault" } else { "read" },
                ..of_part(at_ns, path, reading(begins, ends), start, end)
            },
            &TraceLine::Opened { at_ns, ref path, ref by, passed_through } => Seen {
                process: by.as_ref(),
                by: if passed_through { "kernel" } else { "daemon" },
                ..of(at_ns, path, "open")
            },
            TraceLine::Mapped { at_ns, path, by } => Seen { process: Some(by), ..of(*at_ns, path, "mmap") },
            &TraceLine::Fetched { at_ns, ref path, start, end, ref by, latency_us, ahead, failed } => Seen {
                process: by.as_ref(),
                latency_us: Some(latency_us),
                by: if failed { "failed" } else { "" },
                ..of_part(at_ns, path, if ahead { "ahead" } else { "miss" }, start, end)
            },
            TraceLine::Pushed { at_ns, path, start, end } => of_part(*at_ns, path, "push", *start, *end),
            TraceLine::Evicted { at_ns, path, bytes } => {
                Seen { bytes: Some(*bytes), ..of(*at_ns, path, "evict") }
            }
        })
    }
}

fn reading(begins: bool, ends: bool) -> &'static str {
    match (begins, ends) {
        (true, true) => "begin+end",
        (true, false) => "begin",
        _ => "end",
    }
}

/// How many lines there were of an event, in the order in which events first came.
type Counts = Vec<(&'static str, u64)>;

/// What is wanted, and what was printed.
struct Trace {
    file: Option<Glob>,
    pid: Option<u32>,
    json: bool,
    lines: u64,
    lost: u64,
    span_ns: Option<(u64, u64)>,
    counts: Counts,
    origin: Latency,
    recorder: Option<Recorder<BufWriter<File>>>,
}

impl Trace {
    fn new(args: &Args) -> Result<Self> {
        Ok(Self {
            file: args.file.as_deref().map(Glob::new).transpose()?,
            pid: args.pid,
            json: args.json,
            lines: 0,
            lost: 0,
            span_ns: None,
            counts: Counts::new(),
            origin: Latency::default(),
            recorder: args.record.as_deref().map(recorder).transpose()?,
        })
    }

    fn take(&mut self, out: &mut dyn Write, line: &TraceLine) -> Result<()> {
        match line {
            TraceLine::Quiet { lost } => self.lost = *lost,
            TraceLine::Watching { tier, why } if tier == "C" => {
                eprintln!("reads that the page cache serves are not seen: {why}");
            }
            _ => {}
        }
        let Some(seen) = Seen::of(line).filter(|seen| self.wants(seen)) else { return self.flush(out) };
        if self.recorder.is_some() {
            return self.record(line, &seen);
        }
        self.count(&seen);
        if self.json {
            return Ok(writeln!(out, "{}", serde_json::to_string(line)?)?);
        }
        self.print(out, &seen)
    }

    /// Notes the end of a reading: only there the file's size is known.
    fn record(&mut self, line: &TraceLine, seen: &Seen<'_>) -> Result<()> {
        let &TraceLine::Reading { at_ns, ref path, ref by, end, ends: true, .. } = line else {
            return Ok(());
        };
        self.count(seen);
        let Some(recorder) = &mut self.recorder else { return Ok(()) };
        recorder.record(at_ns / 1000, by.pid, path.as_bytes(), end).context("writing the recording")
    }

    /// What follows may be a long time off.
    fn flush(&mut self, out: &mut dyn Write) -> Result<()> {
        if let Some(recorder) = &mut self.recorder {
            recorder.flush().context("writing the recording")?;
        }
        Ok(out.flush()?)
    }

    fn wants(&self, seen: &Seen<'_>) -> bool {
        self.file.as_ref().is_none_or(|glob| glob.matches(seen.path))
            && self.pid.is_none_or(|pid| seen.process.is_some_and(|process| process.pid == pid))
    }

    fn count(&mut self, seen: &Seen<'_>) {
        self.lines += 1;
        let (first, last) = self.span_ns.unwrap_or((seen.at_ns, seen.at_ns));
        self.span_ns = Some((first, last.max(seen.at_ns)));
        match self.counts.iter_mut().find(|(event, _)| *event == seen.event) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((seen.event, 1)),
        }
        if let Some(us) = seen.latency_us {
            self.origin.record(std::time::Duration::from_micros(us));
        }
    }

    fn print(&self, out: &mut dyn Write, seen: &Seen<'_>) -> Result<()> {
        if self.lines == 1 {
            let [seconds, pid, event, by] = ["SECONDS", "PID", "EVENT", "BY"];
            writeln!(
                out,
                "{seconds:>12}  {pid:>8}  {event:<10} {by:<6} {:>10} {:>10} {:>9}  {:<15}  FILE",
                "FROM", "BYTES", "LATENCY", "COMMAND"
            )?;
        }
        let Seen { at_ns, path, event, by, .. } = *seen;
        let first_ns = self.span_ns.map_or(at_ns, |(first, _)| first);
        // Kinds are in order each, and not with each other: a line may be older than the first.
        let seconds = (at_ns as i64).wrapping_sub(first_ns as i64) as f64 / 1e9;
        let known = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
        let pid = known(seen.process.map(|process| process.pid.to_string()));
        let command = seen.process.map_or("", |process| process.command.as_str());
        let command = if command.is_empty() { "-" } else { command };
        let [from, bytes] = [seen.start, seen.bytes].map(|n| known(n.map(|n| units::bytes(n as f64))));
        let latency = known(seen.latency_us.map(units::duration));
        Ok(writeln!(
            out,
            "{seconds:>12.6}  {pid:>8}  {event:<10} {by:<6} {from:>10} {bytes:>10} {latency:>9}  {command:<15}  {path}"
        )?)
    }

    fn summary(&mut self, out: &mut dyn Write) -> Result<()> {
        self.flush(out)?;
        if let Some(recorder) = &self.recorder {
            let (readings, files, lost) = (self.lines, recorder.objects(), self.lost);
            return Ok(writeln!(out, "{readings} readings of {files} files recorded, {lost} lost")?);
        }
        let seconds = self.span_ns.map_or(0.0, |(first, last)| (last - first) as f64 / 1e9);
        let counts = self.counts.iter().map(|(event, count)| format!(", {count} {event}"));
        let counts: String = counts.collect();
        writeln!(out, "{} lines in {seconds:.1} s{counts}; {} lost", self.lines, self.lost)?;
        let origin = self.origin.get();
        if origin.count > 0 {
            let [p50, p99, max] = [origin.p50_us, origin.p99_us, origin.max_us].map(units::duration);
            writeln!(out, "origin: p50 {p50}, p99 {p99}, max {max}")?;
        }
        Ok(())
    }
}

/// A recording in a new file at `path`.
fn recorder(path: &Path) -> Result<Recorder<BufWriter<File>>> {
    let recorder = File::create(path).and_then(|file| Recorder::new(BufWriter::new(file)));
    recorder.with_context(|| format!("writing {}", path.display()))
}

/// A pattern of fnmatch(3), without its special rules for slashes and dots.
struct Glob(CString);

impl Glob {
    fn new(pattern: &str) -> Result<Self> {
        Ok(Self(CString::new(pattern).context("--file: a zero byte")?))
    }

    fn matches(&self, path: &str) -> bool {
        let Ok(path) = CString::new(path) else { return false };
        // SAFETY: two strings that end with a zero byte.
        unsafe { libc::fnmatch(self.0.as_ptr(), path.as_ptr(), 0) == 0 }
    }
}

#[cfg(test)]
mod tests {
    use cache_daemon::simulate::Trace as _;
    use cache_daemon::simulate::recording::Recording;

    use super::*;

    fn trace(file: Option<&str>, pid: Option<u32>) -> Trace {
        recording(file, pid, None)
    }

    fn recording(file: Option<&str>, pid: Option<u32>, record: Option<PathBuf>) -> Trace {
        let (mountpoint, target, lines, json) = (None, Target::default(), None, false);
        let args = Args { mountpoint, target, file: file.map(str::to_owned), pid, lines, json, record };
        Trace::new(&args).expect("a pattern")
    }

    fn by(pid: u32) -> Process {
        Process { pid, tid: pid, command: "reader".to_owned() }
    }

    fn lines() -> [TraceLine; 7] {
        let path = || "train/a.jpg".to_owned();
        let reading = |path, pid, at_ns| {
            let (by, start, end, begins, ends, fault) = (by(pid), 0, 2048, true, true, false);
            TraceLine::Reading { at_ns, path, by, start, end, begins, ends, fault }
        };
        [
            TraceLine::Watching { tier: "B".into(), why: "so".into() },
            reading(path(), 7, 2_000_000_000),
            TraceLine::Fetched {
                at_ns: 1_500_000_000,
                path: path(),
                start: 0,
                end: 4096,
                by: Some(by(8)),
                latency_us: 12_000,
                ahead: false,
                failed: false,
            },
            reading("val/b.jpg".to_owned(), 8, 3_000_000_000),
            TraceLine::Opened { at_ns: 3_000_000_000, path: path(), by: None, passed_through: true },
            TraceLine::Mapped { at_ns: 3_000_000_000, path: path(), by: by(8) },
            TraceLine::Quiet { lost: 3 },
        ]
    }

    fn shown(mut trace: Trace) -> Vec<String> {
        let mut out = Vec::new();
        lines().iter().for_each(|line| trace.take(&mut out, line).expect("a vector takes all"));
        trace.summary(&mut out).expect("a vector takes all");
        String::from_utf8(out).expect("text").lines().map(str::to_owned).collect()
    }

    #[test]
    fn lines_stand_in_columns_under_a_header_and_end_in_a_summary() {
        let shown = shown(trace(None, None));
        let ends = |line: &str, word: &str| line.find(word).map(|at| at + word.len());
        assert_eq!(ends(&shown[0], "LATENCY"), ends(&shown[2], "12 ms"), "{shown:#?}");
        assert_eq!(shown[0].find("FILE"), shown[1].find("train/a.jpg"));
        assert!(shown[2].trim_start().starts_with("-0.500000"), "{}", shown[2]);
        assert_eq!(shown[0].find("COMMAND"), shown[2].find("reader"), "{shown:#?}");
        let cells: Vec<_> = shown[4].split_whitespace().skip(1).collect();
        assert_eq!(cells, ["-", "open", "kernel", "-", "-", "-", "-", "train/a.jpg"]);
        let cells: Vec<_> = shown[5].split_whitespace().skip(1).collect();
        assert_eq!(cells, ["8", "mmap", "-", "-", "-", "reader", "train/a.jpg"]);
        assert_eq!(shown[6], "5 lines in 1.0 s, 2 begin+end, 1 miss, 1 open, 1 mmap; 3 lost");
        assert!(shown[7].starts_with("origin: p50 ") && shown[7].ends_with("max 12 ms"), "{}", shown[7]);
    }

    #[test]
    fn ends_of_readings_are_recorded_for_the_simulator_and_nothing_is_printed() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("trace.bin");
        assert_eq!(
            shown(recording(None, None, Some(file.clone()))),
            ["2 readings of 2 files recorded, 3 lost"]
        );
        let recorded = Recording::open(&file).expect("it was just written");
        assert_eq!((recorded.uses(), recorded.readers(), recorded.data_set_bytes()), (2, 2, 4096));
        assert!(!recorded.was_cut_off());
        // Somebody who kills it loses nothing that was seen a second ago.
        let mut killed = recording(None, Some(8), Some(file.clone()));
        lines().iter().for_each(|line| killed.take(&mut Vec::new(), line).expect("it can be written"));
        drop(killed);
        assert_eq!(Recording::open(&file).expect("it was written").uses(), 1);
    }

    #[test]
    fn a_glob_and_a_process_choose_lines() {
        assert_eq!(shown(trace(Some("val/*"), None)).len(), 3);
        assert_eq!(shown(trace(Some("*.jpg"), None)).len(), 8, "a star takes slashes too");
        assert_eq!(shown(trace(Some("val"), None)), ["0 lines in 0.0 s; 3 lost"]);
        let of_one = shown(trace(None, Some(8)));
        assert_eq!(of_one.len(), 6, "its reading, its mapping and its miss: {of_one:#?}");
        assert_eq!(shown(trace(None, Some(7))).len(), 3, "its reading: {:#?}", lines());
    }

    #[test]
    fn a_line_of_nobodys_has_no_process_and_says_so_in_json_by_leaving_it_out() {
        let [.., opened, mapped, _] = lines();
        let text = serde_json::to_string(&opened).expect("it is plain");
        assert!(!text.contains("pid"), "{text}");
        assert_eq!(serde_json::from_str::<TraceLine>(&text).expect("what was written"), opened);
        let [_, reading, fetched, ..] = lines();
        for line in [reading, fetched, mapped] {
            let text = serde_json::to_string(&line).expect("it is plain");
            assert!(text.contains(r#""pid":"#) && text.contains(r#""command":"reader""#), "{text}");
            assert_eq!(serde_json::from_str::<TraceLine>(&text).expect("what was written"), line);
        }
    }
}
