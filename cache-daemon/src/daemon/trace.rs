//! `cachectl trace`: what the probes see and what the cache does, as it happens.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crossbeam::channel::select;

use super::readers::{command_of, process_of};
use super::watching::Watching;
use crate::cache::{Cache, Deed, Entry, WantedBy};
use crate::control::{Process, TraceLine};
use crate::probe::{Event, in_initial_pid_namespace};
use fuse_frontend::source::Ino;

/// How long a client hears nothing at most; also how one that left is noticed.
const QUIET: Duration = Duration::from_secs(1);

/// Hands on lines until `take` says that the client left, or `ended` that the daemon ends; whether the client is there.
///
/// Events of the probes come as late as their ring is emptied, a hundredth of a second: lines are in order only within each kind.
pub(super) fn trace(
    cache: &Cache,
    watching: &Watching,
    ended: &dyn Fn() -> bool,
    take: &mut dyn FnMut(&TraceLine) -> bool,
) -> bool {
    let (tracer, entries) = (watching.trace(), cache.journal().listen());
    let lost = || watching.lost() + cache.journal().lost();
    let lost_before = lost();
    let (tier, why) = watching.tier();
    if !take(&TraceLine::Watching { tier: tier.to_string(), why }) {
        return false;
    }
    let mut names = Names::default();
    let mut told = Instant::now();
    while !ended() {
        let line = select! {
            recv(tracer.events) -> event => event.ok().map(|event| {
                let command = names.command(watching, event.tgid);
                seen(cache, event, command)
            }),
            recv(entries) -> entry => entry.ok().map(|entry| line(cache, entry, &mut names)),
            default(QUIET) => None,
        };
        let is_there = line.is_none_or(|line| take(&line));
        let is_due = told.elapsed() >= QUIET;
        if !is_there || is_due && !take(&TraceLine::Quiet { lost: lost().saturating_sub(lost_before) }) {
            return false;
        }
        if is_due {
            told = Instant::now();
            names = Names::default();
        }
    }
    true
}

/// Who is who, as it was within the last second: numbers are used again, and names change.
///
/// Twice, because probes number processes as the host does, and requests as the daemon's pid namespace does.
#[derive(Default)]
struct Names {
    of_requests: HashMap<u32, Process>,
    of_events: HashMap<u32, String>,
}

impl Names {
    /// Whose thread it is that sent a request.
    fn process(&mut self, tid: u32) -> Process {
        let ask = || {
            let pid = process_of(tid);
            Process { pid, tid, command: command_of(pid) }
        };
        self.of_requests.entry(tid).or_insert_with(ask).clone()
    }

    /// The name of a process that the probes saw: from the probes, or of one that has read nothing yet from /proc, where that
    /// numbers processes as they do.
    fn command(&mut self, watching: &Watching, tgid: u32) -> String {
        if !self.of_events.contains_key(&tgid) {
            let rows = watching.probes().map_or_else(Vec::new, |probes| probes.readers());
            self.of_events.extend(rows.into_iter().map(|row| (row.tgid, row.command)));
        }
        let ask = || if in_initial_pid_namespace() { command_of(tgid) } else { String::new() };
        self.of_events.entry(tgid).or_insert_with(ask).clone()
    }
}

fn path(cache: &Cache, ino: Ino) -> String {
    let path = cache.catalog().path(ino);
    path.map_or_else(|| format!("inode {}", ino.0), |path| String::from_utf8_lossy(&path).into())
}

fn seen(cache: &Cache, event: Event, command: String) -> TraceLine {
    let (at_ns, path) = (event.at_ns, path(cache, event.ino));
    let by = Process { pid: event.tgid, tid: event.tid, command };
    if event.opens {
        // Only in no-open mode, in which nothing is passed through.
        return TraceLine::Opened { at_ns, path, by: Some(by), passed_through: false };
    }
    if event.maps {
        return TraceLine::Mapped { at_ns, path, by };
    }
    TraceLine::Reading {
        at_ns,
        path,
        by,
        start: event.bytes.start,
        end: event.bytes.end,
        begins: event.begins,
        ends: event.ends,
        fault: event.fault,
    }
}

fn line(cache: &Cache, entry: Entry, names: &mut Names) -> TraceLine {
    let Entry { at_ns, ino, start, bytes, done } = entry;
    let (path, end) = (path(cache, ino), start + bytes);
    match done {
        Deed::Fetched { latency, wanted_by, failed } => {
            let latency_us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            let (ahead, tid) = match wanted_by {
                WantedBy::Reader(tid) => (false, tid),
                WantedBy::Nobody => (true, None),
            };
            let by = tid.map(|tid| names.process(tid));
            TraceLine::Fetched { at_ns, path, start, end, by, latency_us, ahead, failed }
        }
        Deed::Opened { by, passed_through } => {
            TraceLine::Opened { at_ns, path, by: by.map(|tid| names.process(tid)), passed_through }
        }
        Deed::Pushed => TraceLine::Pushed { at_ns, path, start, end },
        Deed::Evicted => TraceLine::Evicted { at_ns, path, bytes },
    }
}
