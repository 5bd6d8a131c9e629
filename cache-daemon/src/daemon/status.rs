//! What the control socket is answered: figures, errands, the wish to end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fuse_frontend::figures::RowValue;
use fuse_frontend::negotiate::NoPassthrough;
use fuse_frontend::session::Mount;
use serde_json::Value as Json;

use super::parts::{AllFigures, Parts};
use super::planning::Planning;
use super::watching::Watching;
use crate::cache::Cache;
use crate::config::Config;
use crate::control::{Answers, Pong, Readers, Refusal, Request, TraceLine, WarmProgress};
use crate::errands::{drop_path, files_below, follow, verify};
use crate::probe::{Event, ProbeReport, Tier};
use crate::signals::{Reason, Shutdown};
use crate::stats::snapshot::{
    DaemonState, MountState, PlaceState, ProbeState, Snapshot, StoreState, described,
};
use crate::stats::store::USAGE;
use crate::stats::{LatencySummary, Value};
use crate::store::Usage;
use crate::store::health::State;

/// How long a trace is silent at most.
const TRACE_QUIET: Duration = Duration::from_secs(1);

/// What a daemon serves, and with what.
pub(super) struct Served {
    pub cache: Arc<Cache>,
    pub mount: Arc<Mount>,
    pub watching: Watching,
    pub planning: Arc<Planning>,
}

/// Answers for a daemon that serves.
pub(super) struct Status {
    since: Instant,
    daemon: DaemonState,
    store: StoreState,
    figures: AllFigures,
    cache: Arc<Cache>,
    mount: Arc<Mount>,
    watching: Watching,
    planning: Arc<Planning>,
    shutdown: Shutdown,
}

impl Status {
    /// Answers for the daemon of these parts.
    pub fn new(config: &Config, parts: &Parts, served: Served, shutdown: Shutdown) -> Self {
        let Served { cache, mount, watching, planning } = served;
        let daemon = DaemonState {
            pid: std::process::id(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: 0,
            origin: parts.origin.url().to_owned(),
            cache_dir: config.store.cache_dir.clone(),
        };
        let engine = parts.report.volumes.first().map(|volume| &volume.engine);
        let store = StoreState {
            engine: engine.map_or_else(String::new, |engine| engine.name.to_owned()),
            engine_why: engine
                .and_then(|engine| engine.reason.clone())
                .unwrap_or_else(|| "it works here".to_owned()),
            size_bytes: config.store.size_bytes,
            places: Vec::new(),
        };
        Self {
            since: Instant::now(),
            daemon,
            store,
            figures: parts.figures.clone(),
            cache,
            mount,
            watching,
            planning,
            shutdown,
        }
    }

    /// One line that says what is served, and one for each thing that is off.
    pub fn log_start(&self) {
        let report = self.mount.report();
        tracing::info!(
            origin = %self.daemon.origin,
            mountpoint = %report.mountpoint.display(),
            serve = %report.mode,
            engine = %self.store.engine,
            "serving; `cachectl stats` shows what it does"
        );
        for degraded in &self.snapshot().degraded {
            tracing::warn!(what = %degraded.what, why = %degraded.why, effect = %degraded.effect, "off: {}", degraded.do_what);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let daemon = DaemonState { uptime_s: self.since.elapsed().as_secs(), ..self.daemon.clone() };
        let report = self.mount.report();
        let mount = MountState {
            mountpoint: report.mountpoint.clone(),
            serve: report.mode.to_string(),
            serve_why: report.mode_reason.clone(),
            read_ahead_kb: report.read_ahead_kb.as_ref().ok().copied(),
        };
        let usage = self.cache.store().usage();
        let places = usage.volumes.iter().map(|volume| PlaceState {
            path: volume.place.clone().into(),
            state: match volume.state {
                State::In => "ok".to_owned(),
                State::Out => "out of use: it failed too often".to_owned(),
                State::Trial => "out of use, being tried".to_owned(),
            },
        });
        let store = StoreState { places: places.collect(), ..self.store.clone() };
        let mut snapshot = Snapshot::new(daemon, mount, store, probe_state(&self.watching));
        snapshot.planner = self.planning.state();
        self.add_figures(&mut snapshot, &usage);
        self.add_degraded(&mut snapshot);
        snapshot
    }

    fn add_figures(&self, snapshot: &mut Snapshot, usage: &Usage) {
        for row in [self.mount.counts().snapshot(), self.mount.passthrough().snapshot()].concat() {
            snapshot.add_row(described(&row), value(row.value));
        }
        let cache = &self.figures.cache;
        snapshot.add(&**cache);
        self.figures.catalog.observe(self.cache.catalog());
        snapshot.add(&*self.figures.catalog);
        snapshot.add(&*self.figures.store);
        for (description, value) in USAGE.into_iter().zip([
            usage.used_bytes,
            usage.live_bytes,
            usage.extents,
            usage.index_bytes,
            usage.volumes.iter().map(|volume| u64::from(volume.segments)).sum(),
        ]) {
            snapshot.add_row(description, Value::Count(value));
        }
        snapshot.add(&*self.figures.origin);
        let none = Arc::default();
        snapshot.add(&*self.watching.probes().map_or(none, |probes| probes.figures()));
        snapshot.add(&**self.planning.figures());
        snapshot.add(&*self.figures.control);
        let store_hits = cache.store_hits.get();
        let all = store_hits + cache.landed_hits.get() + cache.joined.get() + cache.misses.get();
        snapshot.add_ratio(
            "hit_ratio",
            "Reads that reached the daemon and were answered from the store.",
            store_hits,
            all,
        );
        let written = self.figures.store.device_write_bytes.get();
        let appended = self.figures.store.appended_bytes.get();
        snapshot.add_ratio(
            "store_write_amplification",
            "Bytes written to devices for each byte stored.",
            written,
            appended,
        );
    }

    fn add_degraded(&self, snapshot: &mut Snapshot) {
        if let Err(why) = &self.mount.report().read_ahead_kb {
            snapshot.degrade(
                "readahead of the mount",
                why,
                "a file that is not in the page cache costs 1.35 READs instead of one",
                "run the daemon as root, or write 1024 to the mount's read_ahead_kb in /sys/class/bdi",
            );
        }
        self.add_degraded_probes(snapshot);
        if let Err(
            why @ (NoPassthrough::Capability | NoPassthrough::UserNamespace | NoPassthrough::Refused),
        ) = self.mount.passthrough().state()
        {
            snapshot.degrade(
                "passthrough",
                &why.to_string(),
                "large objects are copied through the daemon, at a fifth of the disk's speed",
                "run the daemon with CAP_SYS_ADMIN",
            );
        }
        if self.store.engine == "psync" {
            snapshot.degrade(
                "io_uring",
                &self.store.engine_why,
                "the store reads and writes with blocking threads, at more CPU per read",
                "allow io_uring: kernel.io_uring_disabled=0, and a seccomp profile that has its system calls",
            );
        }
        for volume in self.cache.store().usage().volumes {
            if volume.state != State::In {
                snapshot.degrade(
                    &volume.place,
                    "it failed more often than its error budget allows",
                    "what is stored there is fetched from the origin; it is tried again by itself",
                    "look at the kernel's log for the device",
                );
            }
        }
    }
}

impl Status {
    /// What the probes do not see and might; nothing while they load.
    fn add_degraded_probes(&self, snapshot: &mut Snapshot) {
        let Some(probes) = self.watching.probes().filter(|probes| probes.wait(Duration::ZERO)) else {
            return;
        };
        let report = probes.report();
        if report.tier == Tier::C {
            snapshot.degrade(
                "probes",
                &report.why,
                "reads that the page cache serves are not seen, and not in any figure",
                "give the daemon CAP_BPF and CAP_PERFMON: see docs/probes.md",
            );
        }
    }
}

/// Which reads the probes see.
fn probe_state(watching: &Watching) -> ProbeState {
    let Some(probes) = watching.probes() else {
        let why = "--probes off: only requests that reach the daemon are seen".to_owned();
        return ProbeState { tier: "C".to_owned(), why, attached: Vec::new() };
    };
    let ProbeReport { tier, why, attached, .. } = probes.report();
    ProbeState { tier: tier.to_string(), why, attached }
}

fn value(value: RowValue) -> Value {
    match value {
        RowValue::Count(count) => Value::Count(count),
        RowValue::Latency(latency) => Value::Latency(LatencySummary {
            count: latency.count,
            p50_us: latency.p50_us,
            p90_us: latency.p90_us,
            p99_us: latency.p99_us,
            max_us: latency.max_us,
        }),
    }
}

impl Answers for Status {
    fn answer(&self, request: Request, item: &mut dyn FnMut(Json) -> bool) -> Result<(), Refusal> {
        match request {
            Request::Ping => item(json(&self.pong())),
            Request::Stats => item(json(&self.snapshot())),
            Request::Verify { rate_bytes_per_s } => {
                verify(self.cache.store(), rate_bytes_per_s, &mut |progress| item(json(progress)));
                true
            }
            Request::Drop { path } => item(json(&drop_path(&self.cache, path.as_deref())?)),
            Request::Warm { path, order } => self.warm(path.as_deref(), order.as_deref(), item)?,
            Request::Order { path, name } => item(json(&self.planning.tell_order(path.as_ref(), &name)?)),
            Request::Top => item(json(&self.readers())),
            Request::Trace => self.trace(item)?,
            Request::Umount => {
                let sent = item(json(&self.pong()));
                self.shutdown.begin(Reason::Asked);
                sent
            }
        };
        Ok(())
    }
}

impl Status {
    /// Stores files ahead until that is done or the client leaves.
    fn warm(
        &self,
        path: Option<&str>,
        order: Option<&str>,
        item: &mut dyn FnMut(Json) -> bool,
    ) -> Result<bool, Refusal> {
        let warming = match order {
            Some(order) => self.planning.warm_order(order.as_ref())?,
            None => self.planning.warm(files_below(&self.cache, path)?)?,
        };
        let progress = || match self.shutdown.begun() {
            None => warming.progress(),
            Some(_) => WarmProgress { done: true, why: "the daemon ends".into(), ..warming.progress() },
        };
        let mut is_there = true;
        follow(progress, &mut |progress| {
            is_there = item(json(progress));
            is_there
        });
        Ok(is_there)
    }

    fn readers(&self) -> Readers {
        let Some(probes) = self.watching.probes() else { return Readers::default() };
        Readers { tier: probes.report().tier.to_string(), readers: probes.readers() }
    }

    /// Hands on what the probes see until the client leaves or the daemon ends.
    fn trace(&self, item: &mut dyn FnMut(Json) -> bool) -> Result<bool, Refusal> {
        let report = self.watching.probes().map(|probes| probes.report());
        if let Some(why) = match report {
            None => Some("--probes off".to_owned()),
            Some(report) if report.tier == Tier::C => Some(report.why),
            Some(_) => None,
        } {
            return Err(Refusal(format!("reads cannot be traced: {why}; see docs/probes.md")));
        }
        let events = self.watching.trace();
        while self.shutdown.begun().is_none() {
            let line = match events.recv_timeout(TRACE_QUIET) {
                Ok(event) => self.trace_line(event),
                // Also how a client that left is noticed while nobody reads.
                Err(_) => TraceLine::Quiet { lost: self.watching.lost() },
            };
            if !item(json(&line)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn trace_line(&self, event: Event) -> TraceLine {
        let path = self.cache.catalog().path(event.ino);
        let path = path
            .map_or_else(|| format!("inode {}", event.ino.0), |path| String::from_utf8_lossy(&path).into());
        TraceLine::Reading {
            at_ns: event.at_ns,
            path,
            pid: event.tgid,
            tid: event.tid,
            start: event.bytes.start,
            end: event.bytes.end,
            begins: event.begins,
            ends: event.ends,
            fault: event.fault,
        }
    }

    fn pong(&self) -> Pong {
        Pong {
            pid: self.daemon.pid,
            release: self.daemon.release.clone(),
            mountpoint: self.mount.report().mountpoint.clone(),
        }
    }
}

fn json(item: &impl serde::Serialize) -> Json {
    serde_json::to_value(item).expect("the protocol's types have string keys only")
}
