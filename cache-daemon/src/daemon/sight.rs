//! Sight: what the planner sees of the readers, from the probes or from the requests that reach the daemon.
//!
//! What is taken out of the queues is stamped then, a fraction of a second late: the history needs no better, and a
//! READ costs no clock.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam::channel::Receiver;
use fuse_frontend::source::Ino;

use super::watching::Watching;
use crate::access::{FileNo, Touch};
use crate::cache::{Asked, Cache, Noted, UNIT_BYTES};
use crate::policy::readahead::UnitRead;
use crate::probe::{Event, Probes, Tier, clock_ns};

/// Processes whose job is remembered.
const PROCESSES_MAX: usize = 4_096;

/// Programs that start jobs and are none themselves, by the first of their names' characters that the kernel keeps.
const STARTERS: &[&str] = &[
    "bash",
    "sh",
    "dash",
    "zsh",
    "fish",
    "tmux",
    "screen",
    "sshd",
    "login",
    "systemd",
    "init",
    "tini",
    "dumb-init",
    "docker-init",
    "containerd-shim",
    "conmon",
    "slurmstepd",
    "supervisord",
    "cron",
    "make",
    "sudo",
    "su",
];

/// Ancestors that are looked at.
const ANCESTORS_MAX: u32 = 32;

/// Where readings are seen.
pub(super) struct Sight {
    cache: Arc<Cache>,
    probes: Option<Arc<Probes>>,
    /// Nothing is looked at.
    is_blind: bool,
    events: Option<Receiver<Event>>,
    /// Reads within large objects.
    pub units: Vec<UnitRead>,
    /// The job of each process that reads.
    jobs: HashMap<u32, u32>,
    /// Every read is a request: `--io-mode direct_io`.
    is_direct: bool,
    /// The probes see every reading, so that requests are needed only within large objects.
    by_probes: bool,
    /// Since when: monotonic clock.
    by_probes_since_ns: u64,
    /// They count what is in the page cache.
    sees_residents: bool,
}

impl Sight {
    /// Sees what `watching` does and what `cache` is asked; nothing, if `is_blind`. `is_direct`: every read is a request.
    pub fn new(cache: Arc<Cache>, watching: &Watching, is_blind: bool, is_direct: bool) -> Self {
        Self {
            cache,
            probes: watching.probes().cloned(),
            is_blind,
            events: (!is_blind).then(|| watching.readings()),
            units: Vec::new(),
            jobs: HashMap::new(),
            is_direct,
            by_probes: false,
            by_probes_since_ns: 0,
            sees_residents: false,
        }
    }

    /// What was touched since the last time; all of it at `now_ns`.
    pub fn touches(&mut self, now_ns: u64) -> Vec<Touch> {
        if self.is_blind {
            return Vec::new();
        }
        let was_by_probes = self.by_probes;
        let report = self.probes.as_ref().map(|probes| probes.report());
        self.by_probes = match report.as_ref().map(|report| report.tier) {
            Some(Tier::A) => true,
            // It sees what is taken from the page cache, and so nothing of direct I/O (docs/probes.md).
            Some(Tier::B) => !self.is_direct,
            Some(Tier::C) | None => false,
        };
        if self.by_probes && !was_by_probes {
            // What was read before came as requests, and would be taken for another epoch if it came again.
            self.by_probes_since_ns = clock_ns();
        }
        self.sees_residents = report.is_some_and(|report| report.sees_residents);
        self.cache.requests().set(if self.by_probes { Noted::Large } else { Noted::All });
        let mut touches = Vec::new();
        while let Some(event) = self.events.as_ref().and_then(|events| events.try_recv().ok()) {
            if self.by_probes && event.at_ns >= self.by_probes_since_ns {
                let group = self.job(event.tgid);
                touches.extend(seen(&event, group, now_ns));
            }
        }
        while let Some(asked) = self.cache.requests().take() {
            self.units.extend(unit_read(&asked));
            if !was_by_probes {
                let group = if asked.by == 0 { 0 } else { self.job(asked.by) };
                touches.extend(requested(&asked, group, now_ns));
            }
        }
        touches
    }

    /// The job of process or thread `tgid`: the same for all workers of all ranks, whichever of them started which.
    pub fn job(&mut self, tgid: u32) -> u32 {
        if self.jobs.len() > PROCESSES_MAX {
            self.jobs.clear();
        }
        *self.jobs.entry(tgid).or_insert_with(|| topmost(tgid))
    }

    /// Whether no reading goes unseen.
    pub fn sees_all(&self) -> bool {
        self.by_probes || self.is_direct
    }

    /// Whether all of a file of `size_bytes` is in the page cache; `None` if nobody counts it.
    pub fn is_cached(&self, file: FileNo, size_bytes: u64) -> Option<bool> {
        let probes = self.probes.as_ref().filter(|_| self.sees_residents)?;
        Some(probes.heat(Ino(u64::from(file.0))).resident_bytes >= size_bytes)
    }

    /// Requests that there was no room for.
    pub fn lost(&self) -> u64 {
        self.cache.requests().lost()
    }

    /// `probes` or `requests`.
    pub fn source(&self) -> &'static str {
        if self.by_probes { "probes" } else { "requests" }
    }
}

/// The ancestor of `tgid` that a shell, a login or a container's first process has started; itself, if it is gone by now.
///
/// Not its session or its process group: torchrun gives every rank a session of its own, and one terminal's jobs share one.
fn topmost(tgid: u32) -> u32 {
    let mut top = tgid;
    for _ in 0..ANCESTORS_MAX {
        let above = parent_of(top).and_then(|parent| Some((parent, name_of(parent)?)));
        match above {
            Some((parent, name)) if parent > 1 && !is_starter(&name) => top = parent,
            _ => break,
        }
    }
    top
}

fn is_starter(name: &str) -> bool {
    // `(sd-pam)`, `tmux: server`, `sshd-session`: what follows the program's own name does not count.
    let word =
        name.split(|letter: char| !letter.is_alphanumeric() && letter != '-').next().unwrap_or_default();
    STARTERS
        .iter()
        .any(|starter| word == *starter || word.starts_with("sshd") || word.starts_with("containerd"))
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; state and parent follow it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn name_of(pid: u32) -> Option<String> {
    Some(std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

fn seen(event: &Event, group: u32, at_ns: u64) -> Option<Touch> {
    let file = FileNo(u32::try_from(event.ino.0).ok()?);
    let Event { bytes, tgid, begins, ends, .. } = event;
    let (first, end) = (bytes.start, bytes.end);
    Some(Touch { at_ns, file, reader: *tgid, group, first, end, begins: *begins, ends: *ends })
}

fn requested(asked: &Asked, group: u32, at_ns: u64) -> Option<Touch> {
    let file = FileNo(u32::try_from(asked.ino.0).ok()?);
    let (first, end) = (asked.offset, asked.offset + u64::from(asked.len));
    let (begins, ends) = (first == 0, end >= asked.size_bytes);
    Some(Touch { at_ns, file, reader: asked.by, group, first, end, begins, ends })
}

/// A read within an object of several units.
fn unit_read(asked: &Asked) -> Option<UnitRead> {
    let units = asked.size_bytes.div_ceil(UNIT_BYTES) as u32;
    let file = FileNo(u32::try_from(asked.ino.0).ok()?);
    let unit = (asked.offset / UNIT_BYTES) as u32;
    (units > 1).then_some(UnitRead { file, unit, units, unit_bytes: UNIT_BYTES })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_of_one_process_are_one_job_and_shells_are_none() {
        let own = std::process::id();
        let mut child =
            std::process::Command::new("sleep").arg("60").spawn().expect("every machine has sleep");
        assert_eq!(topmost(child.id()), topmost(own));
        child.kill().expect("it runs");
        child.wait().expect("it was killed");
        assert_eq!(topmost(u32::MAX), u32::MAX, "one that is gone stands for itself");
        for name in ["bash", "tmux: server", "sshd-session", "containerd-shim", "systemd"] {
            assert!(is_starter(name), "{name}");
        }
        for name in ["python", "pt_main_thread", "torchrun", "cp", "shuffle"] {
            assert!(!is_starter(name), "{name}");
        }
    }
}
