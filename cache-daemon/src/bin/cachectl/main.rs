//! cachectl: shows and steers the daemons of epochcache.
//!
//! A thin client. Every command finds its daemon (`find`), asks it over the control socket, and prints.
//! Exit codes: 0 all is well, 1 it worked and found problems, 2 it could not be done.

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod doctor;
mod drop;
mod epochs;
mod find;
mod jobs;
mod list;
mod order;
mod progress;
mod push;
mod simulate;
mod stats;
mod table;
mod top;
mod trace;
mod umount;
mod units;
mod verify;
mod warm;

#[cfg(test)]
mod tests;

const EXAMPLES: &str = "\
Examples:
  cachectl stats --watch             what the one daemon that runs is doing, every 2 seconds
  cachectl stats /mnt/data --json    one JSON object, for scripts (docs/stats.md)
  cachectl top                       who reads, and how fast
  cachectl push /mnt/data/train      puts files into the page cache ahead of their readers
  cachectl warm /mnt/data/train      stores all of it before it is read
  cachectl umount /mnt/data          unmounts cleanly; cleans up a dead mount
  cachectl doctor                    what is missing on this machine, and what to do

With one daemon running nothing need be named; with several, name the mountpoint or --cache-dir.
Exit code: 0 all is well, 1 problems were found, 2 it could not be done.";

/// Shows and steers epochcache's daemons.
#[derive(Parser)]
#[command(name = "cachectl", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints every figure of a daemon.
    Stats(stats::Args),
    /// Unmounts and ends a daemon, or cleans up a dead mount.
    Umount(umount::Args),
    /// Checks every stored byte against its checksum.
    Verify(verify::Args),
    /// Forgets what is stored of a path.
    Drop(drop::Args),
    /// Puts files into the kernel's page cache ahead of their readers.
    Push(push::Args),
    /// Stores what is below a path before it is read.
    Warm(warm::Args),
    /// Tells the order in which an epoch will be read.
    Order(order::Args),
    /// Checks this machine: what is missing, what it costs, what to do.
    Doctor(doctor::Args),
    /// Shows who reads: processes with files and bytes a second, hits and waits.
    Top(top::Args),
    /// Streams what happens to files: readings, misses, pushes, evictions.
    Trace(trace::Args),
    /// Plays a trace through eviction policies: hit ratios, bytes, waiting.
    Simulate(Box<simulate::Args>),
    /// Lists the daemons that run.
    List(list::Args),
}

/// How a command ended when nothing stood in its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// 0.
    Well,
    /// 1.
    Problems,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to standard output and are no error; a closed pipe is nobody's loss.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match run(args.command, &mut io::stdout().lock()) {
        Ok(Verdict::Well) => ExitCode::SUCCESS,
        Ok(Verdict::Problems) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cachectl: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command, out: &mut dyn io::Write) -> anyhow::Result<Verdict> {
    match command {
        Command::Stats(args) => stats::run(&args, out),
        Command::Umount(args) => umount::run(&args, out),
        Command::Verify(args) => verify::run(&args, out),
        Command::Drop(args) => drop::run(&args, out),
        Command::Push(args) => push::run(&args, out),
        Command::Warm(args) => warm::run(&args, out),
        Command::Order(args) => order::run(&args, out),
        Command::Doctor(args) => doctor::run(&args, out),
        Command::Top(args) => top::run(&args, out),
        Command::Trace(args) => trace::run(&args, out),
        Command::Simulate(args) => simulate::run(&args, out),
        Command::List(args) => list::run(&args, out),
    }
}

/// `cachectl ... | head` is done when head is.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let broken = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(broken)
}
