//! `cachectl stats --json`, as a user's script would read it.

use anyhow::Context;
use serde_json::Value;

/// One snapshot of a daemon's figures.
#[derive(Clone, Debug)]
pub struct Stats(pub Value);

impl Stats {
    /// The figure `name`; a latency's count.
    ///
    /// # Panics
    /// If there is none of that name: names are a promise (docs/stats.md).
    pub fn figure(&self, name: &str) -> u64 {
        let figure = &self.0["figures"][name];
        let count = figure.as_u64().or_else(|| figure["count"].as_u64());
        count.unwrap_or_else(|| panic!("`cachectl stats --json` has no figure {name}"))
    }

    /// How much the figure `name` grew since `before`.
    pub fn grown(&self, before: &Self, name: &str) -> u64 {
        self.figure(name).saturating_sub(before.figure(name))
    }

    /// The daemon's process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        let pid = self.0["daemon"]["pid"].as_u64().context("daemon.pid")?;
        Ok(u32::try_from(pid)?)
    }

    /// `noopen` or `open`.
    pub fn serve(&self) -> &str {
        self.0["mount"]["serve"].as_str().unwrap_or_default()
    }

    /// Whether the probes are still being loaded: until then their tier is C.
    pub fn probes_load(&self) -> bool {
        self.0["probes"]["why"] == "the probes are being loaded"
    }

    /// Readahead of the mount, KiB.
    pub fn read_ahead_kb(&self) -> Option<u64> {
        self.0["mount"]["read_ahead_kb"].as_u64()
    }

    /// All figures that count FUSE requests, by name.
    pub fn fuse_requests(&self) -> Vec<(String, u64)> {
        FUSE_REQUESTS.iter().map(|name| ((*name).to_owned(), self.figure(name))).collect()
    }
}

/// The figures that count what a reading program makes the kernel ask.
pub const FUSE_REQUESTS: &[&str] = &[
    "fuse_lookup",
    "fuse_getattr",
    "fuse_open",
    "fuse_read",
    "fuse_flush",
    "fuse_release",
    "fuse_opendir",
    "fuse_readdir",
    "fuse_readdirplus",
    "fuse_releasedir",
];
