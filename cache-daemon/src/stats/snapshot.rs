//! A snapshot: every figure at one moment, and the state that explains them.
//!
//! The daemon makes it, the control socket carries it, `cachectl stats` prints it. Between the two it
//! is this struct; for users [`Snapshot::json`] makes the object that docs/stats.md promises.

use std::path::PathBuf;

use fuse_frontend::figures::{RequestCounts, Row};
use fuse_frontend::push;
use fuse_frontend::transport::passthrough;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::cache::CacheFigures;
use super::catalog::CatalogFigures;
use super::origin::OriginFigures;
use super::planner::{PlannerFigures, PlannerState};
use super::probe::ProbeFigures;
use super::store::{StoreFigures, USAGE};
use super::{Description, Figures, Value};
use crate::control::ControlFigures;
use crate::probe::LeftOut;

/// The version of what [`Snapshot::json`] gives: raised when a key changes its meaning or goes away, not when one is added.
pub const SNAPSHOT_VERSION: u32 = 1;

/// All that `cachectl stats` shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`SNAPSHOT_VERSION`] of the daemon.
    pub version: u32,
    /// The process.
    pub daemon: DaemonState,
    /// The mount.
    pub mount: MountState,
    /// The block store.
    pub store: StoreState,
    /// The eBPF probes.
    pub probes: ProbeState,
    /// What is recognised and fetched ahead.
    #[serde(default)]
    pub planner: PlannerState,
    /// Every figure, in the order of the catalogue.
    pub figures: Vec<Figure>,
    /// Shares of one figure in others.
    pub ratios: Vec<Ratio>,
    /// Figures and ratios that rest on reads that the probes of this tier do not see, or not to the byte (docs/probes.md).
    #[serde(default)]
    pub estimated: Vec<String>,
    /// What is off or slower than it could be; empty when all is well.
    pub degraded: Vec<Degraded>,
}

/// The process that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonState {
    /// Process id.
    pub pid: u32,
    /// Release of the daemon.
    pub release: String,
    /// Seconds since the mount serves.
    pub uptime_s: u64,
    /// The data set's URL, without credentials.
    pub origin: String,
    /// State, socket and bytes.
    pub cache_dir: PathBuf,
}

/// How the kernel is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountState {
    /// Where.
    pub mountpoint: PathBuf,
    /// `noopen` or `open`.
    pub serve: String,
    /// Why this mode.
    pub serve_why: String,
    /// `auto_cache`, `kernel_cache` or `direct_io`; empty from a daemon that has no choice.
    #[serde(default)]
    pub io_mode: String,
    /// Readahead of the mount in KiB; below 1024 a small file costs more than one READ.
    pub read_ahead_kb: Option<u32>,
}

/// How bytes are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreState {
    /// `io_uring` or `psync`.
    pub engine: String,
    /// Why this engine.
    pub engine_why: String,
    /// `--cache-size`.
    pub size_bytes: u64,
    /// Each directory and device.
    pub places: Vec<PlaceState>,
}

/// One place of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceState {
    /// Directory or device.
    pub path: PathBuf,
    /// `ok`, or what is wrong with it.
    pub state: String,
}

/// Which reads can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeState {
    /// `A`, `B` or `C` (docs/probes.md); C sees only what the daemon serves.
    pub tier: String,
    /// Why this tier.
    pub why: String,
    /// Programs that are attached.
    pub attached: Vec<String>,
    /// Programs that were tried and are not. Where another does its work nothing is missing: the tier says.
    #[serde(default)]
    pub left_out: Vec<LeftOut>,
    /// What programs cost, while the kernel measures it (sysctl `kernel.bpf_stats_enabled`).
    #[serde(default)]
    pub costs: Vec<ProgramCost>,
}

/// What the runs of a program cost so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCost {
    /// The program.
    pub program: String,
    /// How often it ran while that was measured, for other mounts and file systems too.
    pub runs: u64,
    /// Time of one run on average.
    pub ns_per_run: u64,
}

/// One figure with its description, so that a `cachectl` of any release can show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figure {
    /// Key in JSON.
    pub name: String,
    /// What one of it is.
    pub unit: String,
    /// One sentence.
    pub meaning: String,
    /// Its value now.
    pub value: Value,
}

/// A share, kept as its two counts, so that a difference of two snapshots has one too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ratio {
    /// Key in JSON.
    pub name: String,
    /// One sentence.
    pub meaning: String,
    /// How many had it.
    pub part: u64,
    /// Of how many.
    pub whole: u64,
}

impl Ratio {
    /// The share, 0 to 1; `None` of nothing.
    pub fn value(&self) -> Option<f64> {
        (self.whole > 0).then(|| self.part as f64 / self.whole as f64)
    }
}

/// Something that is off, for a user who asks why it is slow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Degraded {
    /// What is off.
    pub what: String,
    /// Why.
    pub why: String,
    /// What that costs.
    pub effect: String,
    /// What turns it on.
    #[serde(rename = "do")]
    pub do_what: String,
}

impl Snapshot {
    /// A snapshot without figures yet.
    pub fn new(daemon: DaemonState, mount: MountState, store: StoreState, probes: ProbeState) -> Self {
        Self {
            version: SNAPSHOT_VERSION,
            daemon,
            mount,
            store,
            probes,
            planner: PlannerState::default(),
            figures: Vec::new(),
            ratios: Vec::new(),
            estimated: Vec::new(),
            degraded: Vec::new(),
        }
    }

    /// Adds a component's figures.
    pub fn add<F: Figures>(&mut self, figures: &F) {
        for (description, value) in F::DESCRIPTIONS.iter().zip(figures.values()) {
            self.add_row(*description, value);
        }
    }

    /// Adds one figure that is kept elsewhere.
    pub fn add_row(&mut self, description: Description, value: Value) {
        let Description { name, unit, meaning } = description;
        debug_assert!(self.value(name).is_none(), "two figures are called {name}");
        self.figures.push(Figure { name: name.into(), unit: unit.into(), meaning: meaning.into(), value });
    }

    /// Adds the share of `part` in `whole`.
    pub fn add_ratio(&mut self, name: &str, meaning: &str, part: u64, whole: u64) {
        self.ratios.push(Ratio { name: name.into(), meaning: meaning.into(), part, whole });
    }

    /// Marks figures and ratios as estimated.
    pub fn estimate(&mut self, names: &[&str]) {
        for &name in names {
            let is_known = self.value(name).is_some() || self.ratios.iter().any(|ratio| ratio.name == name);
            debug_assert!(is_known, "nothing is called {name}");
            self.estimated.push(name.to_owned());
        }
    }

    /// Adds something that is off.
    pub fn degrade(&mut self, what: &str, why: &str, effect: &str, do_what: &str) {
        self.degraded.push(Degraded {
            what: what.into(),
            why: why.into(),
            effect: effect.into(),
            do_what: do_what.into(),
        });
    }

    /// The value of the figure called `name`.
    pub fn value(&self, name: &str) -> Option<Value> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// The stable object of `cachectl stats --json`: figures and ratios by name.
    pub fn json(&self) -> Json {
        let figures: Map<String, Json> =
            self.figures.iter().map(|figure| (figure.name.clone(), json!(figure.value))).collect();
        let ratios: Map<String, Json> =
            self.ratios.iter().map(|ratio| (ratio.name.clone(), json!(ratio.value()))).collect();
        json!({
            "version": self.version,
            "daemon": self.daemon,
            "mount": self.mount,
            "store": self.store,
            "probes": self.probes,
            "planner": self.planner,
            "figures": figures,
            "ratios": ratios,
            "estimated": self.estimated,
            "degraded": self.degraded,
        })
    }
}

/// Every figure that a daemon has. docs/stats.md is this, as a table.
pub fn catalogue() -> Vec<Description> {
    let fuse =
        [RequestCounts::default().snapshot(), passthrough::figures_at_start(), push::figures_at_start()]
            .concat();
    let fuse: Vec<Description> = fuse.iter().map(described).collect();
    [
        &fuse,
        CacheFigures::DESCRIPTIONS,
        CatalogFigures::DESCRIPTIONS,
        StoreFigures::DESCRIPTIONS,
        &USAGE,
        OriginFigures::DESCRIPTIONS,
        ProbeFigures::DESCRIPTIONS,
        PlannerFigures::DESCRIPTIONS,
        ControlFigures::DESCRIPTIONS,
    ]
    .concat()
}

/// The description of a row of the frontend's.
pub fn described(row: &Row) -> Description {
    Description { name: row.name, unit: row.unit, meaning: row.meaning }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stats::Latency;
    use crate::stats::planner::{EpochState, SlowFile, WorkerState};

    fn sample() -> Snapshot {
        let daemon = DaemonState {
            pid: 7,
            release: "0.1.0".into(),
            uptime_s: 60,
            origin: "s3://b/p".into(),
            cache_dir: "/c".into(),
        };
        let mount = MountState {
            mountpoint: "/m".into(),
            serve: "noopen".into(),
            serve_why: "small files".into(),
            io_mode: "auto_cache".into(),
            read_ahead_kb: Some(128),
        };
        let places = vec![PlaceState { path: "/c".into(), state: "ok".into() }];
        let store =
            StoreState { engine: "io_uring".into(), engine_why: "it works".into(), size_bytes: 5, places };
        let probes = ProbeState {
            tier: "C".into(),
            why: "no CAP_BPF".into(),
            attached: vec![],
            left_out: vec![LeftOut { program: "pages_got".into(), why: "old".into() }],
            costs: vec![ProgramCost { program: "page_added".into(), runs: 9, ns_per_run: 70 }],
        };
        let mut snapshot = Snapshot::new(daemon, mount, store, probes);
        let control = ControlFigures::default();
        control.requests.add(3);
        snapshot.add(&control);
        let latency = Latency::default();
        latency.record(Duration::from_micros(10));
        let description = Description { name: "fuse_read_latency", unit: "us", meaning: "READ to reply." };
        snapshot.add_row(description, Value::Latency(latency.get()));
        snapshot.add_ratio("hit_ratio", "Reads without the origin.", 1, 4);
        snapshot.add_ratio("hit_ratio_page_cache", "Unknown yet.", 0, 0);
        snapshot.estimate(&["hit_ratio_page_cache"]);
        snapshot.degrade("readahead", "not root", "1.35 READs a file", "run as root");
        snapshot.planner.epochs = vec![EpochState {
            page_cache_bytes: Some(5),
            per_worker: vec![WorkerState::default()],
            slowest: vec![SlowFile { path: "a/b".into(), waited_s: 1.5, why: "retried".into() }],
            ..EpochState::default()
        }];
        snapshot
    }

    #[test]
    fn the_json_of_version_1_stays_as_it_is() {
        let epoch = json!({
                "epoch": 0, "set": "", "files": 0, "of_files": 0, "bytes": 0, "seconds": 0.0, "is_exactly_once": false,
                "origin_bytes": 0, "bound_bytes": 0, "over_bound": null, "page_cache_bytes": 5, "store_bytes": 0,
                "origin_read_bytes": 0, "waited_s": 0.0, "waited_share": 0.0, "workers": 0,
                "per_worker": [{"pid": 0, "command": "", "files": 0, "bytes": 0, "waited_s": 0.0}],
                "ahead_files": 0, "used_files": 0, "wasted_files": 0, "ahead_accuracy": null,
                "slowest": [{"path": "a/b", "waited_s": 1.5, "why": "retried"}], "advice": "",
        });
        let expected = json!({
            "version": 1,
            "daemon": {"pid": 7, "release": "0.1.0", "uptime_s": 60, "origin": "s3://b/p", "cache_dir": "/c"},
            "mount": {"mountpoint": "/m", "serve": "noopen", "serve_why": "small files",
                      "io_mode": "auto_cache", "read_ahead_kb": 128},
            "store": {"engine": "io_uring", "engine_why": "it works", "size_bytes": 5,
                      "places": [{"path": "/c", "state": "ok"}]},
            "probes": {"tier": "C", "why": "no CAP_BPF", "attached": [],
                       "left_out": [{"program": "pages_got", "why": "old"}],
                       "costs": [{"program": "page_added", "runs": 9, "ns_per_run": 70}]},
            "planner": {"mode": "", "activity": "", "source": "", "workload": "", "set": "", "set_files": 0, "epoch": 0, "order": "", "epochs": [epoch]},
            "figures": {
                "control_requests": 3, "control_refused": 0, "control_clients": 0,
                "fuse_read_latency": {"count": 1, "p50_us": 10, "p90_us": 10, "p99_us": 10, "max_us": 10},
            },
            "ratios": {"hit_ratio": 0.25, "hit_ratio_page_cache": null},
            "estimated": ["hit_ratio_page_cache"],
            "degraded": [{"what": "readahead", "why": "not root", "effect": "1.35 READs a file", "do": "run as root"}],
        });
        assert_eq!(sample().json(), expected);
    }

    #[test]
    fn a_snapshot_survives_the_socket() {
        let value = serde_json::to_value(sample()).expect("string keys only");
        assert_eq!(serde_json::from_value::<Snapshot>(value).expect("it was just made"), sample());
    }

    /// The rows `| name | unit | meaning |` of docs/stats.md whose name is in backquotes, in its catalogue part.
    fn documented() -> Vec<String> {
        let text = include_str!("../../../docs/stats.md");
        let catalogue = text.split("## Every figure").nth(1).expect("the document has the section");
        catalogue.lines().filter(|line| line.starts_with("| `")).map(str::to_owned).collect()
    }

    #[test]
    fn docs_stats_md_lists_every_figure_and_no_other() {
        let row = |d: &Description| format!("| `{}` | {} | {} |", d.name, d.unit, d.meaning);
        let registered: Vec<String> = catalogue().iter().map(row).collect();
        let documented = documented();
        let missing: Vec<_> = registered.iter().filter(|row| !documented.contains(row)).collect();
        let gone: Vec<_> = documented.iter().filter(|row| !registered.contains(row)).collect();
        assert!(
            missing.is_empty() && gone.is_empty(),
            "docs/stats.md: add\n{}\nremove\n{}",
            missing.iter().map(|row| row.as_str()).collect::<Vec<_>>().join("\n"),
            gone.iter().map(|row| row.as_str()).collect::<Vec<_>>().join("\n"),
        );
    }

    #[test]
    fn no_two_figures_share_a_name() {
        let mut names: Vec<_> = catalogue().iter().map(|description| description.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
