//! `epochcache`: parses, checks, forks if asked, and hands over to [`cache_daemon::daemon`].

use std::process::ExitCode;

use cache_daemon::config::{Args, Command, Config, MountArgs, create_cache_dir, one_line};
use cache_daemon::daemon::{self, End};
use cache_daemon::daemonize::{Outcome, Ready, Side, fork_daemon};
use clap::Parser;

/// It ran, and ended on an error.
const FAILED: u8 = 1;
/// It could not start: nothing is mounted.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if error.use_stderr() => return refuse(&one_line(&error, "epochcache mount --help")),
        Err(help) => {
            // Help and version go to standard output; a closed pipe there is the reader's wish.
            let _ = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let Command::Mount(mount) = args.command;
    match started(&mount) {
        Ok(End::Clean) => ExitCode::SUCCESS,
        Ok(End::Dirty) => ExitCode::from(FAILED),
        Err(error) => refuse(&format!("{error:#}")),
    }
}

fn started(args: &MountArgs) -> anyhow::Result<End> {
    let config = Config::new(args)?;
    create_cache_dir(&config.store.cache_dir)?;
    if !config.process.daemon {
        return daemon::run(config, |_| Ok(()));
    }
    match fork_daemon()? {
        Side::Parent(Outcome::Serves) => Ok(End::Clean),
        Side::Parent(Outcome::Failed(reason)) => anyhow::bail!(reason),
        Side::Daemon(ready) => Ok(in_background(config, ready)),
    }
}

/// The daemon's side of the fork: what goes wrong before it serves is its parent's to print.
fn in_background(config: Config, ready: Ready) -> End {
    let mut ready = Some(ready);
    let log = config.process.log_file.clone();
    let ended = daemon::run(config, |()| match ready.take() {
        Some(ready) => Ok(ready.serves(log.as_deref())?),
        None => Ok(()),
    });
    match (ended, ready) {
        (Ok(end), _) => end,
        (Err(error), Some(ready)) => {
            ready.failed(&format!("{error:#}"));
            End::Dirty
        }
        (Err(_), None) => End::Dirty,
    }
}

fn refuse(reason: &str) -> ExitCode {
    eprintln!("epochcache: {reason}");
    ExitCode::from(REFUSED)
}
