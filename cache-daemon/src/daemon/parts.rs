//! The parts of a daemon that live as long as it: origin, store, figures.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use fuse_frontend::negotiate::ServeMode;
use fuse_frontend::session::MountOptions;
use fuse_frontend::source::Ino;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::cache::{Cache, CacheLimits};
use crate::catalog::Catalog;
use crate::config::{self, Config, EngineChoice, IoMode, SaveChoice, ServeChoice, VerifyChoice};
use crate::control::ControlFigures;
use crate::io::EngineKind;
use crate::origin::{Origin, OriginLimits, OriginOptions};
use crate::policy::eviction::{Objective, Rules};
use crate::stats::cache::CacheFigures;
use crate::stats::catalog::CatalogFigures;
use crate::stats::origin::OriginFigures;
use crate::stats::planner::PlannerFigures;
use crate::stats::store::StoreFigures;
use crate::store::{OpenReport, Place, Store, StoreConfig};

/// The catalog's snapshot in the cache directory.
pub(super) const CATALOG_NAME: &str = "catalog";

/// What the cache directory is allowed beside the store, of the limit: the catalog's snapshot (one and
/// the one that replaces it), orders of epochs, sockets, locks. A snapshot has about 100 bytes a file.
const RESERVED_SHARE: u64 = 64;
const RESERVED_BYTES_MAX: u64 = 2 << 30;

/// Every component's figures.
#[derive(Clone, Default)]
pub(super) struct AllFigures {
    pub origin: Arc<OriginFigures>,
    pub catalog: Arc<CatalogFigures>,
    pub cache: Arc<CacheFigures>,
    pub store: Arc<StoreFigures>,
    pub planner: Arc<PlannerFigures>,
    pub control: Arc<ControlFigures>,
}

/// Origin and store, open.
pub(super) struct Parts {
    pub origin: Origin,
    pub store: Arc<Store>,
    pub report: OpenReport,
    pub figures: AllFigures,
    catalog_path: std::path::PathBuf,
}

impl Parts {
    /// Opens the origin, looks whether it answers, and opens the store.
    pub fn open(config: &Config, runtime: &Handle) -> anyhow::Result<Self> {
        let figures = AllFigures::default();
        let origin = Origin::open(&config.origin.url, &origin_options(config), figures.origin.clone())?;
        runtime.block_on(origin.check())?;
        let (store, report) = Store::open(store_config(config), figures.store.clone())?;
        let catalog_path = config.store.cache_dir.join(CATALOG_NAME);
        Ok(Self { origin, store: Arc::new(store), report, figures, catalog_path })
    }

    /// A cache of `catalog` over these parts; it fetches on `runtime`.
    pub fn cache(
        &self,
        catalog: Arc<Catalog>,
        runtime: &Handle,
        config: &Config,
    ) -> (Arc<Cache>, mpsc::Receiver<Ino>) {
        let limits = CacheLimits {
            fill_bytes_max: config.limits.fill_bytes_max,
            policy: config.store.policy,
            rules: Rules {
                objective: match config.store.save {
                    SaveChoice::Bytes => Objective::Bytes,
                    SaveChoice::Requests => Objective::Requests,
                },
                ..Rules::default()
            },
        };
        let figures = self.figures.cache.clone();
        let (cache, outdated) =
            Cache::new(catalog, self.store.clone(), self.origin.clone(), runtime.clone(), limits, figures);
        let known = cache.clone();
        runtime.spawn_blocking(move || known.know_what_is_stored());
        (cache, outdated)
    }

    /// Forgets what is stored of objects that `catalog` does not have, and gives files to those that are large since
    /// `file_from` was lowered. Returns the share of its bytes, 0 to 1, in objects that get a file of their own: those
    /// of `file_from` bytes or more.
    pub fn settle_on(&self, catalog: &Catalog, file_from: u64) -> f64 {
        let mut live = HashSet::with_capacity(catalog.files() as usize);
        let mut large = Vec::new();
        catalog.fingerprints(&mut |ino, fingerprint| {
            live.insert(fingerprint);
            let size_bytes = catalog.attributes(ino).map_or(0, |attributes| attributes.size_bytes);
            if size_bytes >= file_from {
                large.push((fingerprint, size_bytes));
            }
        });
        let forgotten = self.store.retain(&|fingerprint| live.contains(fingerprint));
        if forgotten > 0 {
            tracing::info!(forgotten, "extents of objects that the data set no longer has give way");
        }
        let large_bytes: u64 = large.iter().map(|(_, bytes)| bytes).sum();
        self.store.promote(large);
        large_bytes as f64 / catalog.bytes().max(1) as f64
    }

    /// Saves the store and the catalog; whether both are.
    pub fn close(&self, catalog: &Catalog) -> bool {
        let synced = self.store.sync();
        if synced.is_err() {
            tracing::error!("the store could not be made durable: what was lost is fetched again");
        }
        self.store.close();
        let saved = catalog.save(&self.catalog_path);
        if let Err(error) = &saved {
            tracing::error!(%error, "the catalog could not be saved");
        }
        synced.is_ok() && saved.is_ok()
    }
}

fn origin_options(config: &Config) -> OriginOptions {
    let origin = &config.origin;
    OriginOptions {
        endpoint: origin.endpoint.clone(),
        region: origin.region.clone(),
        path_style: origin.path_style,
        allow_http: origin.allow_http,
        anonymous: origin.anonymous,
        profile: origin.profile.clone(),
        limits: OriginLimits {
            requests_in_flight_max: config.limits.origin_requests_max,
            deadline: origin.deadline,
            ..OriginLimits::default()
        },
    }
}

fn store_config(config: &Config) -> StoreConfig {
    let options = &config.store;
    let places = options.places.iter().map(|place| match place {
        config::Place::Directory(path) => Place::Directory(path.clone()),
        config::Place::Device(path) => Place::Device(path.clone()),
    });
    StoreConfig {
        reserved_bytes: reserved_bytes(&options.cache_dir, options.size_bytes),
        format: options.format,
        file_from: options.file_from,
        segment_bytes: options.segment_bytes,
        sqpoll: options.sqpoll,
        iopoll: options.iopoll,
        queue: config.limits.store_appends_max,
        // One serving thread is always free to take the next request.
        desks: config.limits.fuse_threads.saturating_sub(1),
        engine: match options.engine {
            EngineChoice::Auto => EngineKind::Auto,
            EngineChoice::IoUring => EngineKind::Uring,
            EngineChoice::Psync => EngineKind::Psync,
        },
        ..StoreConfig::new(places.collect(), options.cache_dir.clone(), options.size_bytes)
    }
}

/// Bytes of `limit_bytes` that the catalog may take; at least what a snapshot that is there takes, twice.
fn reserved_bytes(cache_dir: &Path, limit_bytes: u64) -> u64 {
    let there = std::fs::metadata(cache_dir.join(CATALOG_NAME)).map_or(0, |found| found.blocks() * 512);
    (limit_bytes / RESERVED_SHARE).min(RESERVED_BYTES_MAX).max(2 * there).max(1 << 20)
}

/// The mount that `config` asks for, of the data set at `origin`, `large_share` of it in large objects.
pub(super) fn mount_options(config: &Config, origin: &str, large_share: f64) -> MountOptions {
    let mount = &config.mount;
    MountOptions {
        threads: Some(config.limits.fuse_threads),
        allow_other: mount.allow_other,
        uid: mount.uid,
        gid: mount.gid,
        file_mode: mount.file_mode,
        dir_mode: mount.dir_mode,
        serve: match mount.serve {
            ServeChoice::Auto => ServeMode::Auto,
            ServeChoice::NoOpen => ServeMode::NoOpen,
            ServeChoice::Open => ServeMode::Open,
        },
        direct_io: mount.io_mode == IoMode::DirectIo,
        passthrough: mount.verify == VerifyChoice::Once,
        push_bytes_max: mount.page_cache.bytes,
        large_share,
        control_dir: Some(config.prefetch.order_dir.clone()),
        ..MountOptions::new(&mount.mountpoint, origin)
    }
}
