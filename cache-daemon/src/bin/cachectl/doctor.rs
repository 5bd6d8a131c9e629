//! `cachectl doctor`.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cache_daemon::control::{Client, Request, mountinfo};
use cache_daemon::doctor::{self, Check, State, resident};
use cache_daemon::stats::snapshot::{Degraded, Snapshot};

use super::find::{self, Target};
use super::{Verdict, table, units};

const EXAMPLES: &str = "\
Examples:
  cachectl doctor                             this machine, and the cache directory of the one daemon that runs
  cachectl doctor --cache-dir /nvme/cache     also before the first mount
  cachectl doctor --json | jq 'select(.state != \"ok\")'

States: ok; warn (works, slower or riskier); off (a feature is not there); bad (a mount will not work).
Exit code: 0 nothing is bad, 1 something is, 2 it could not be checked.";

/// `cachectl doctor`.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A mount whose settings are looked at as well.
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Prints one JSON object a check.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, out: &mut dyn Write) -> Result<Verdict> {
    // Without a daemon the machine is examined all the same.
    let daemons = find::running().unwrap_or_default();
    let mountpoint =
        args.mountpoint.as_ref().map(|path| mountinfo::resolve(path).unwrap_or_else(|_| path.clone()));
    let only = match (&daemons[..], &mountpoint) {
        ([only], None) => Some(only.clone()),
        (all, Some(path)) => all.iter().find(|daemon| daemon.mountpoint == *path).cloned(),
        _ => None,
    };
    let cache_dir = args.target.cache_dir.clone().or(only.as_ref().map(|daemon| daemon.cache_dir.clone()));
    let mountpoint = mountpoint.or(only.map(|daemon| daemon.mountpoint));
    let mut checks = doctor::examine(cache_dir.as_deref(), mountpoint.as_deref());
    checks.extend(cache_dir.iter().flat_map(|cache_dir| places(cache_dir)));
    if args.json {
        for check in &checks {
            writeln!(out, "{}", serde_json::to_string(check)?)?;
        }
    } else {
        show(out, &checks)?;
    }
    let bad = checks.iter().any(|check| check.state == State::Bad);
    Ok(if bad { Verdict::Problems } else { Verdict::Well })
}

/// The places of the daemon of `cache_dir`, as it sees them; nothing if none runs.
fn places(cache_dir: &Path) -> Vec<Check> {
    let Ok(snapshot) = Client::connect(cache_dir).and_then(|client| client.ask(&Request::Stats)) else {
        return Vec::new();
    };
    let Snapshot { store, degraded, .. } = snapshot;
    let checks = store.places.into_iter().map(|place| {
        let name = place.path.display().to_string();
        match degraded.iter().find(|degraded| degraded.what == name) {
            Some(Degraded { why, effect, do_what, .. }) => Check {
                name,
                state: State::Warn,
                found: format!("{}: {why}", place.state),
                effect: effect.clone(),
                do_what: do_what.clone(),
            },
            None => Check {
                name,
                state: State::Ok,
                found: place.state + &in_page_cache(&place.path),
                effect: String::new(),
                do_what: String::new(),
            },
        }
    });
    checks.collect()
}

/// What the page cache holds of a place, beside what it holds of the mount.
fn in_page_cache(place: &Path) -> String {
    let Ok(found) = resident::of_place(place) else { return String::new() };
    let least = if found.in_part { "at least " } else { "" };
    format!("; {least}{} of it in the page cache", units::bytes(found.bytes as f64))
}

/// What is well in one line each; what is not with its effect and its cure, which need room.
fn show(out: &mut dyn Write, checks: &[Check]) -> Result<()> {
    let mut table = table::plain(&["STATE", "CHECK", "FOUND"]);
    for check in checks {
        table.add_row([check.state.to_string(), check.name.clone(), check.found.clone()]);
    }
    table::print(out, &table)?;
    for check in checks.iter().filter(|check| check.state != State::Ok) {
        writeln!(out, "\n{}: {} ({})", check.name, check.found, check.state)?;
        writeln!(out, "    effect: {}", check.effect)?;
        writeln!(out, "    do:     {}", check.do_what)?;
    }
    Ok(())
}
