//! The catalog at the start: from its snapshot, or from a listing of the whole data set.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressStyle};

use super::parts::{CATALOG_NAME, Parts};
use crate::catalog::{Builder, Catalog, SnapshotError};
use crate::config::Config;
use crate::signals::Shutdown;
use crate::stats::origin::OriginFigures;

/// Progress is shown of what takes longer.
const QUIET: Duration = Duration::from_secs(2);

/// The log tells of a long listing so often.
const LOG_EVERY: Duration = Duration::from_secs(10);

const BAR: &str = "{spinner} listing: {human_pos} keys, {elapsed}, {msg}";

/// A catalog, and where it came from.
pub(super) struct Opened {
    pub catalog: Catalog,
    /// From a snapshot: it may be out of date.
    pub from_snapshot: bool,
}

/// The catalog of the data set. A snapshot is served at once and revalidated later.
pub(super) async fn catalog(config: &Config, parts: &Parts, shutdown: &Shutdown) -> anyhow::Result<Opened> {
    let path = config.store.cache_dir.join(CATALOG_NAME);
    if let Some(catalog) = snapshot(&path, parts.origin.url())? {
        parts.figures.catalog.observe(&catalog);
        return Ok(Opened { catalog, from_snapshot: true });
    }
    let catalog = listed(parts, shutdown).await?;
    if let Err(error) = catalog.save(&path) {
        tracing::warn!(%error, path = %path.display(), "the catalog is not saved: the next start lists again");
    }
    parts.figures.catalog.observe(&catalog);
    Ok(Opened { catalog, from_snapshot: false })
}

/// The snapshot at `path`, if there is one of this data set. One that is damaged is as good as none.
fn snapshot(path: &Path, origin: &str) -> anyhow::Result<Option<Catalog>> {
    match Catalog::load(path, origin) {
        Ok(catalog) => Ok(Some(catalog)),
        Err(SnapshotError::Missing) => Ok(None),
        Err(SnapshotError::OtherOrigin { .. }) => {
            tracing::info!("the cache directory served another data set before: its bytes give way");
            Ok(None)
        }
        Err(error @ SnapshotError::Newer { .. }) => Err(error).with_context(|| format!("{}", path.display())),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the catalog's snapshot cannot be used: listing again");
            Ok(None)
        }
    }
}

async fn listed(parts: &Parts, shutdown: &Shutdown) -> anyhow::Result<Catalog> {
    let mut progress = Progress::begin(&parts.figures.origin);
    let mut builder = Builder::new(parts.origin.url());
    let mut pages = parts.origin.list();
    while let Some(page) = pages.recv().await {
        if shutdown.begun().is_some() {
            anyhow::bail!("interrupted while listing");
        }
        let page = page?;
        progress.listed(page.len());
        page.into_iter().for_each(|listed| builder.add(listed));
    }
    let elapsed = progress.end();
    let (catalog, report) = builder.finish(None);
    if catalog.files() == 0 && report.hidden.total() == 0 {
        anyhow::bail!("{}: nothing is there: look at the prefix's spelling", parts.origin.url());
    }
    let seconds = elapsed.as_secs_f64();
    parts.figures.catalog.listed(&report, elapsed);
    tracing::info!(files = report.files, bytes = report.bytes, seconds, "listed");
    if report.hidden.total() > 0 {
        tracing::warn!("hidden keys: {}", report.hidden);
    }
    Ok(catalog)
}

/// Tells how far a listing is: in a bar where somebody looks, in the log where nobody does.
struct Progress<'a> {
    bar: ProgressBar,
    began: Instant,
    logged: Instant,
    figures: &'a OriginFigures,
}

impl<'a> Progress<'a> {
    fn begin(figures: &'a OriginFigures) -> Self {
        let began = Instant::now();
        Self { bar: ProgressBar::hidden(), began, logged: began, figures }
    }

    fn listed(&mut self, keys: usize) {
        self.bar.inc(keys as u64);
        let elapsed = self.began.elapsed();
        if elapsed < QUIET {
            return;
        }
        let left = self.figures.listing_share().map(|share| left(elapsed, share));
        if self.bar.is_hidden() && self.logged == self.began {
            let style = ProgressStyle::with_template(BAR).expect("the template is fixed");
            self.bar.set_style(style);
            self.bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        }
        let rate = HumanCount((self.bar.position() as f64 / elapsed.as_secs_f64()) as u64);
        self.bar.set_message(match left {
            Some(left) => format!("{rate}/s, about {} left", HumanDuration(left)),
            None => format!("{rate}/s"),
        });
        if self.logged == self.began || self.logged.elapsed() > LOG_EVERY {
            self.logged = Instant::now();
            let left_s = left.map(|left| left.as_secs());
            tracing::info!(keys = %HumanCount(self.bar.position()), left_s, "listing");
        }
    }

    /// The listing is done; how long it took.
    fn end(self) -> Duration {
        self.bar.finish_and_clear();
        self.began.elapsed()
    }
}

/// How long the rest takes at the pace so far, when `share` took `elapsed`.
fn left(elapsed: Duration, share: f64) -> Duration {
    elapsed.mul_f64((1.0 / share - 1.0).max(0.0))
}
