//! `cachectl warm`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use cache_daemon::control::{Request, WarmProgress};

use super::find::{self, Target};
use super::progress::follow;
use super::{Verdict, units};

const EXAMPLES: &str = "\
Examples:
  cachectl warm                            all of the data set
  cachectl warm /mnt/data/train            what is below this directory
  cachectl warm --order first-epoch.txt    these files, in this order, a path a line

What is stored already is passed by, so a warm that was interrupted goes on where it was. A store that
is full ends it: nothing that is stored gives way.
Exit code: 0 all is stored, 1 not all of it, 2 it could not be done.";

/// `cachectl warm`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A file or directory: absolute, or relative to the mount. Everything if left out.
    path: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// The files that this file names, in this order.
    #[arg(long, value_name = "FILE", conflicts_with = "path")]
    order: Option<PathBuf>,
    /// Prints one JSON object a line: progress, the last one with "done".
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    let (client, path) = find::connect_about(args.path.as_deref(), &args.target)?;
    let order = args.order.as_deref().map(find::absolute).transpose()?;
    let began = Instant::now();
    let line = |progress: &WarmProgress| line(progress, began.elapsed().as_secs_f64());
    let last = follow(client, &Request::Warm { path, order }, args.json, out, &line)?;
    let is_all = last.failed == 0 && last.passed_files == last.files;
    Ok(if is_all { Verdict::Well } else { Verdict::Problems })
}

fn line(progress: &WarmProgress, seconds: f64) -> String {
    let WarmProgress { files, passed_files, bytes, passed_bytes, fetched_bytes, failed, .. } = progress;
    let share = 100.0 * *passed_bytes as f64 / (*bytes).max(1) as f64;
    let per_s = *fetched_bytes as f64 / seconds.max(0.001);
    let mut text = format!(
        "{} of {} files, {} of {} ({share:.0} %), {}/s",
        units::human(*passed_files, ""),
        units::human(*files, ""),
        units::bytes(*passed_bytes as f64),
        units::bytes(*bytes as f64),
        units::bytes(per_s),
    );
    if *failed > 0 {
        text += &format!(", {} failed", units::human(*failed, ""));
    }
    if progress.done {
        let why = if progress.why.is_empty() { String::new() } else { format!(": {}", progress.why) };
        return format!("{text}, {} fetched{why}", units::bytes(*fetched_bytes as f64));
    }
    if per_s > 0.0 {
        let left = bytes.saturating_sub(*passed_bytes) as f64 / per_s;
        text += &format!(", {} left", units::uptime(left as u64));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rate_and_time_left_and_at_the_end_the_reason() {
        let mut progress = WarmProgress {
            files: 2_000,
            passed_files: 500,
            bytes: 400 << 20,
            passed_bytes: 100 << 20,
            fetched_bytes: 100 << 20,
            ..WarmProgress::default()
        };
        let text = line(&progress, 10.0);
        assert!(text.contains("(25 %), 10 MiB/s, 00:00:30") && text.ends_with("left"), "{text}");
        (progress.done, progress.why) = (true, "the store is full".into());
        assert!(
            line(&progress, 10.0).ends_with("100 MiB fetched: the store is full"),
            "{}",
            line(&progress, 10.0)
        );
    }
}
