//! What the control socket is answered: figures, errands, the wish to end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fuse_frontend::figures::RowValue;
use fuse_frontend::negotiate::NoPassthrough;
use fuse_frontend::session::Mount;
use serde_json::Value as Json;

use super::parts::{AllFigures, Parts};
use super::planning::Planning;
use super::readers::readers;
use super::trace::trace;
use super::watching::Watching;
use crate::cache::Cache;
use crate::config::{Config, IoMode, PageCacheSize};
use crate::control::{Answers, Pong, Refusal, Request, WarmProgress};
use crate::errands::{drop_path, files_below, follow, push, verify};
use crate::probe::{ProbeReport, Tier};
use crate::signals::{Reason, Shutdown};
use crate::stats::snapshot::{
    DaemonState, MountState, PlaceState, ProbeState, ProgramCost, Snapshot, StoreState, described,
};
use crate::stats::store::USAGE;
use crate::stats::{LatencySummary, Value};
use crate::store::Usage;
use crate::store::health::State;

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
    io_mode: IoMode,
    page_cache: PageCacheSize,
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
            io_mode: config.mount.io_mode,
            page_cache: config.mount.page_cache.clone(),
        }
    }

    /// One line that says what is served, and one for each thing that is off.
    pub fn log_start(&self) {
        let report = self.mount.report();
        tracing::info!(
            origin = %self.daemon.origin,
            mountpoint = %report.mountpoint.display(),
            serve = %report.mode,
            io_mode = %self.io_mode,
            page_cache_bytes = self.page_cache.bytes,
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
            io_mode: self.io_mode.to_string(),
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
        let lost = usage.lost.iter().map(|lost| PlaceState {
            path: lost.place.clone().into(),
            state: "lost: it cannot be opened; it is tried again".to_owned(),
        });
        let store = StoreState { places: places.chain(lost).collect(), ..self.store.clone() };
        let mut snapshot = Snapshot::new(daemon, mount, store, probe_state(&self.watching));
        snapshot.planner = self.planning.state();
        self.add_figures(&mut snapshot, &usage);
        self.add_degraded(&mut snapshot, &usage);
        snapshot
    }

    fn add_figures(&self, snapshot: &mut Snapshot, usage: &Usage) {
        let mount = &self.mount;
        let rows = [mount.counts().snapshot(), mount.passthrough().snapshot(), mount.pusher().snapshot()];
        for row in rows.concat() {
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
        self.add_page_cache_ratio(snapshot);
        let written = self.figures.store.device_write_bytes.get();
        let appended = self.figures.store.appended_bytes.get();
        snapshot.add_ratio(
            "store_write_amplification",
            "Bytes written to devices for each byte stored.",
            written,
            appended,
        );
    }

    fn add_degraded(&self, snapshot: &mut Snapshot, usage: &Usage) {
        if let Err(why) = &self.mount.report().read_ahead_kb {
            snapshot.degrade(
                "readahead of the mount",
                why,
                "a file that is not in the page cache costs 1.35 READs instead of one",
                "run the daemon as root, or write 1024 to the mount's read_ahead_kb in /sys/class/bdi",
            );
        }
        if self.page_cache.is_cut {
            snapshot.degrade(
                "page cache budget",
                &self.page_cache.why,
                "fewer files can be put into the page cache ahead of their readers",
                "give a smaller --page-cache-size, or the daemon's memory cgroup a larger limit",
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
        for lost in &usage.lost {
            snapshot.degrade(
                &lost.place,
                &lost.why,
                "what is stored there is fetched from the origin, and the other places do not grow into its share",
                "bring it back: it is opened within a minute; or leave it out of --cache-dev for good",
            );
        }
        for volume in &usage.volumes {
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
    /// Adds the share of reads that the page cache served, and marks what is not exact in this tier.
    fn add_page_cache_ratio(&self, snapshot: &mut Snapshot) {
        let figure = |name| match snapshot.value(name) {
            Some(Value::Count(count)) => count,
            _ => 0,
        };
        let (read, asked) = (figure("probe_read_bytes"), figure("fuse_read_bytes"));
        snapshot.add_ratio(
            HIT_RATIO_PAGE_CACHE,
            "Bytes that readers found in the page cache, of all that they read.",
            read.saturating_sub(asked),
            read,
        );
        let passes = self.mount.passthrough().state().is_ok();
        snapshot.estimate(estimated(
            self.watching.probes().map_or(Tier::C, |probes| probes.report().tier),
            passes,
        ));
    }

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

/// The share of reads that the page cache served.
const HIT_RATIO_PAGE_CACHE: &str = "hit_ratio_page_cache";

/// What is a lower bound, or counted in pages, in this tier; `passes`: large objects are read in passthrough.
fn estimated(tier: Tier, passes: bool) -> &'static [&'static str] {
    const UNSEEN: &[&str] =
        &["probe_reads", "probe_read_bytes", "probe_faults", "probe_readings", HIT_RATIO_PAGE_CACHE];
    const IN_PAGES: &[&str] = &["probe_read_bytes", HIT_RATIO_PAGE_CACHE];
    match tier {
        Tier::A => &[],
        Tier::B if !passes => IN_PAGES,
        Tier::B | Tier::C => UNSEEN,
    }
}

/// Which reads the probes see.
fn probe_state(watching: &Watching) -> ProbeState {
    let Some(probes) = watching.probes() else {
        let (tier, why) = watching.tier();
        return ProbeState { tier: tier.to_string(), why, ..ProbeState::default() };
    };
    let ProbeReport { tier, why, attached, left_out, .. } = probes.report();
    let costs = probes.costs().into_iter().filter(|cost| cost.runs > 0).map(|cost| ProgramCost {
        ns_per_run: u64::try_from(cost.time.as_nanos()).unwrap_or(u64::MAX) / cost.runs,
        program: cost.program,
        runs: cost.runs,
    });
    ProbeState { tier: tier.to_string(), why, attached, left_out, costs: costs.collect() }
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
            Request::Push { paths } => {
                push(&self.cache, &self.mount, &paths, &mut |progress| item(json(progress)))?;
                true
            }
            Request::Warm { path, order } => self.warm(path.as_deref(), order.as_deref(), item)?,
            Request::Order { path, name, epoch } => {
                item(json(&self.planning.tell_order(path.as_ref(), &name, epoch)?))
            }
            Request::Top => item(json(&readers(&self.mount, self.watching.probes().map(Arc::as_ref)))),
            Request::Trace => {
                let ended = || self.shutdown.begun().is_some();
                trace(&self.cache, &self.watching, &ended, &mut |line| item(json(line)))
            }
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
