//! `cachectl trace`: what the probes see and what the cache does, as it happens.

use std::time::{Duration, Instant};

use crossbeam::channel::select;

use super::watching::Watching;
use crate::cache::{Cache, Deed, Entry};
use crate::control::TraceLine;
use crate::probe::Event;
use fuse_frontend::source::Ino;

/// How long a client hears nothing at most; also how one that left is noticed.
const QUIET: Duration = Duration::from_secs(1);

/// Hands on lines until `take` says that the client left, or `ended` that the daemon ends; whether the client is there.
///
/// Events of the probes come as late as their ring is emptied, a fifth of a second: lines are in order only within each kind.
pub(super) fn trace(
    cache: &Cache,
    watching: &Watching,
    ended: &dyn Fn() -> bool,
    take: &mut dyn FnMut(&TraceLine) -> bool,
) -> bool {
    let (events, entries) = (watching.trace(), cache.journal().listen());
    let (tier, why) = watching.tier();
    if !take(&TraceLine::Watching { tier: tier.to_string(), why }) {
        return false;
    }
    let mut told = Instant::now();
    while !ended() {
        let line = select! {
            recv(events) -> event => event.ok().map(|event| reading(cache, event)),
            recv(entries) -> entry => entry.ok().map(|entry| line(cache, entry)),
            default(QUIET) => None,
        };
        let is_there = line.is_none_or(|line| take(&line));
        let is_due = told.elapsed() >= QUIET;
        let lost = || watching.lost() + cache.journal().lost();
        if !is_there || is_due && !take(&TraceLine::Quiet { lost: lost() }) {
            return false;
        }
        told = if is_due { Instant::now() } else { told };
    }
    true
}

fn path(cache: &Cache, ino: Ino) -> String {
    let path = cache.catalog().path(ino);
    path.map_or_else(|| format!("inode {}", ino.0), |path| String::from_utf8_lossy(&path).into())
}

fn reading(cache: &Cache, event: Event) -> TraceLine {
    TraceLine::Reading {
        at_ns: event.at_ns,
        path: path(cache, event.ino),
        pid: event.tgid,
        tid: event.tid,
        start: event.bytes.start,
        end: event.bytes.end,
        begins: event.begins,
        ends: event.ends,
        fault: event.fault,
    }
}

fn line(cache: &Cache, entry: Entry) -> TraceLine {
    let Entry { at_ns, ino, start, bytes, done } = entry;
    let (path, end) = (path(cache, ino), start + bytes);
    match done {
        Deed::Fetched { latency, ahead, failed } => {
            let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            TraceLine::Fetched { at_ns, path, start, end, latency_us, ahead, failed }
        }
        Deed::Pushed => TraceLine::Pushed { at_ns, path, start, end },
        Deed::Evicted => TraceLine::Evicted { at_ns, path, bytes },
    }
}
