//! What the control socket is answered: figures, errands, the wish to end.

use std::sync::Arc;
use std::time::Instant;

use fuse_frontend::figures::RowValue;
use fuse_frontend::session::Mount;
use serde_json::Value as Json;

use super::parts::{AllFigures, Parts};
use crate::cache::Cache;
use crate::config::Config;
use crate::control::{Answers, Pong, Refusal, Request};
use crate::errands::{drop_path, verify};
use crate::signals::{Reason, Shutdown};
use crate::stats::snapshot::{
    DaemonState, MountState, PlaceState, ProbeState, Snapshot, StoreState, described,
};
use crate::stats::store::USAGE;
use crate::stats::{LatencySummary, Value};
use crate::store::Usage;
use crate::store::health::State;

/// Answers for a daemon that serves.
pub(super) struct Status {
    since: Instant,
    daemon: DaemonState,
    store: StoreState,
    figures: AllFigures,
    cache: Arc<Cache>,
    mount: Arc<Mount>,
    shutdown: Shutdown,
}

impl Status {
    /// Answers for the daemon of these parts.
    pub fn new(
        config: &Config,
        parts: &Parts,
        cache: Arc<Cache>,
        mount: Arc<Mount>,
        shutdown: Shutdown,
    ) -> Self {
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
        Self { since: Instant::now(), daemon, store, figures: parts.figures.clone(), cache, mount, shutdown }
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
        let mut snapshot = Snapshot::new(daemon, mount, store, probes());
        self.add_figures(&mut snapshot, &usage);
        self.add_degraded(&mut snapshot);
        snapshot
    }

    fn add_figures(&self, snapshot: &mut Snapshot, usage: &Usage) {
        for row in self.mount.counts().snapshot() {
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

fn probes() -> ProbeState {
    ProbeState {
        tier: "C".to_owned(),
        why: "this version has no probes: only the daemon's own requests are seen".to_owned(),
        attached: Vec::new(),
    }
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
