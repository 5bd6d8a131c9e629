//! The catalog at the start: from its snapshot, or from a listing of the whole data set.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::parts::{CATALOG_NAME, Parts};
use crate::catalog::{Builder, Catalog, SnapshotError};
use crate::config::Config;
use crate::signals::Shutdown;

/// Progress is shown of what takes longer.
const QUIET: Duration = Duration::from_secs(2);

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
    let began = Instant::now();
    let bar = ProgressBar::hidden();
    let mut builder = Builder::new(parts.origin.url());
    let mut pages = parts.origin.list();
    while let Some(page) = pages.recv().await {
        if shutdown.begun().is_some() {
            anyhow::bail!("interrupted while listing");
        }
        let page = page?;
        bar.inc(page.len() as u64);
        page.into_iter().for_each(|listed| builder.add(listed));
        show(&bar, began);
    }
    bar.finish_and_clear();
    let (catalog, report) = builder.finish(None);
    if catalog.files() == 0 && report.hidden.total() == 0 {
        anyhow::bail!("{}: nothing is there: look at the prefix's spelling", parts.origin.url());
    }
    let seconds = began.elapsed().as_secs_f64();
    parts.figures.catalog.listed(&report, began.elapsed());
    tracing::info!(files = report.files, bytes = report.bytes, seconds, "listed");
    if report.hidden.total() > 0 {
        tracing::warn!("hidden keys: {}", report.hidden);
    }
    Ok(catalog)
}

/// Shows the bar once the listing has taken [`QUIET`].
fn show(bar: &ProgressBar, began: Instant) {
    if bar.is_hidden() && began.elapsed() > QUIET {
        let style = ProgressStyle::with_template("{spinner} listing: {human_pos} keys, {per_sec}, {elapsed}");
        bar.set_style(style.expect("the template is fixed"));
        bar.set_draw_target(indicatif::ProgressDrawTarget::stderr());
        tracing::info!(keys = %HumanCount(bar.position()), "listing");
    }
}
