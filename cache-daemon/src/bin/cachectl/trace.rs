//! `cachectl trace`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result};
use cache_daemon::control::{Request, TraceLine};
use cache_daemon::simulate::recording::Recorder;

use super::find::{self, Target};
use super::{Verdict, units};

const EXAMPLES: &str = "\
Examples:
  cachectl trace                          every reading of a file that begins or ends, until Ctrl-C
  cachectl trace --file train/n01440764   only paths that contain this
  cachectl trace --pid 4242 --json        one process, one JSON object a line
  cachectl trace --record trace.bin       for cachectl simulate, until Ctrl-C

Reads that the page cache serves are seen too. A small file read at once is one line: begin+end.
Exit code: 0, or 2 if the daemon cannot trace (docs/probes.md says what it takes).";

/// `cachectl trace`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The mount; not needed if only one daemon runs.
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Only files whose path contains this.
    #[arg(long, value_name = "TEXT")]
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

/// What was printed, or recorded.
#[derive(Default)]
struct Summary {
    recorder: Option<Recorder<BufWriter<File>>>,
    lines: u64,
    lost: u64,
    first_ns: Option<u64>,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    let client = find::connect(args.mountpoint.as_deref(), &args.target)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, interrupted.clone()).context("taking Ctrl-C")?;
    let mut summary = Summary { recorder: recorder(args)?, ..Summary::default() };
    let mut failed = None;
    client.stream(&Request::Trace, |item| {
        let shown = serde_json::from_value(item)
            .context("the daemon's answer makes no sense")
            .and_then(|line: TraceLine| summary.show(args, out, &line));
        failed = shown.err();
        failed.is_none() && !interrupted.load(Relaxed) && args.lines.is_none_or(|lines| summary.lines < lines)
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    if let Some(mut recorder) = summary.recorder {
        recorder.flush().context("writing the recording")?;
        writeln!(out, "{} readings of {} files, {} lost", summary.lines, recorder.objects(), summary.lost)?;
    } else if !args.json {
        writeln!(out, "{} lines, {} lost", summary.lines, summary.lost)?;
    }
    Ok(Verdict::Well)
}

fn recorder(args: &Args) -> Result<Option<Recorder<BufWriter<File>>>> {
    let Some(path) = &args.record else { return Ok(None) };
    let file = File::create(path).and_then(|file| Recorder::new(BufWriter::new(file)));
    Ok(Some(file.with_context(|| format!("writing {}", path.display()))?))
}

impl Summary {
    fn show(&mut self, args: &Args, out: &mut dyn Write, line: &TraceLine) -> Result<()> {
        let &TraceLine::Reading { at_ns, ref path, pid, start, end, begins, ends, fault, .. } = line else {
            if let TraceLine::Quiet { lost } = line {
                self.lost = *lost;
            }
            // What follows a silence may be a long time off.
            return Ok(self.recorder.as_mut().map_or_else(|| out.flush(), Recorder::flush)?);
        };
        let other_file = args.file.as_ref().is_some_and(|text| !path.contains(text.as_str()));
        if other_file || args.pid.is_some_and(|wanted| wanted != pid) {
            return Ok(());
        }
        if let Some(recorder) = &mut self.recorder {
            // Where a reading ends, the file does: only there its size is known.
            self.lines += u64::from(ends);
            if ends {
                recorder.record(at_ns / 1000, pid, path.as_bytes(), end)?;
            }
            return Ok(());
        }
        let first_ns = *self.first_ns.get_or_insert(at_ns);
        if self.lines == 0 && !args.json {
            writeln!(
                out,
                "{:>12}  {:>8}  {:<10} {:<6} {:>10} {:>10}  FILE",
                "SECONDS", "PID", "EVENT", "BY", "FROM", "BYTES"
            )?;
        }
        self.lines += 1;
        if args.json {
            return Ok(writeln!(out, "{}", serde_json::to_string(line)?)?);
        }
        let event = match (begins, ends) {
            (true, true) => "begin+end",
            (true, false) => "begin",
            _ => "end",
        };
        let seconds = at_ns.saturating_sub(first_ns) as f64 / 1e9;
        let by = if fault { "fault" } else { "read" };
        let (from, bytes) = (units::bytes(start as f64), units::bytes((end - start) as f64));
        Ok(writeln!(out, "{seconds:>12.6}  {pid:>8}  {event:<10} {by:<6} {from:>10} {bytes:>10}  {path}")?)
    }
}
