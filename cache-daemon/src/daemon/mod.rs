//! The daemon, put together: what is started in which order, and ended in the reverse.
//!
//! Whatever can be refused is refused before the mount appears, in this order: the lock of the cache
//! directory, the origin, the listing, the store. From then on nothing ends the daemon but a signal,
//! `cachectl umount`, or the mount's end. The end is clean when the mount is gone, everything fetched
//! is stored, and the store and the catalog are saved.

mod advice;
mod early;
mod epochs;
mod listing;
mod logging;
mod meter;
mod numbered;
mod orders;
mod parts;
mod planning;
mod pushing;
mod readers;
mod recalling;
mod sight;
mod status;
mod trace;
mod warming;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fuse_frontend::session::{Mount, Unmounted, become_io_flusher};
use fuse_frontend::source::{FileSource, Ino};
use fuse_frontend::transport::passthrough::{Revoke, Revoked};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::cache::{Announce, Cache, MountedCache, Overdue, Revalidation};
use crate::catalog::{Change, Replacement};
use crate::config::{Config, Revalidate};
use crate::control::{CacheDirLock, Registration, Registry, RunningDaemon, Server};
use crate::signals::{self, Reason, Shutdown};
use early::EarlySource;
use orders::OrderDirectory;
use parts::Parts;
use planning::Planning;
use status::{Served, Status};
use watching::Watching;

/// How long the kernel may believe names and attributes. It is told of every change that is noticed, so
/// this only bounds what a lost notification costs.
const TTL: Duration = Duration::from_secs(24 * 3600);

/// How long fills that are still being written hold up the end.
const SETTLE: Duration = Duration::from_secs(20);

/// How long the kernel may go on with a file that the store forgot or found damaged.
const COLLECT_EVERY: Duration = Duration::from_millis(500);

/// How a daemon ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Unmounted, everything saved.
    Clean,
    /// Something could not be saved: the next start fetches it again.
    Dirty,
}

/// Mounts what `config` says and serves it until it is unmounted. Calls `serves` once the mount answers.
///
/// # Errors
/// Why it does not come to serving; nothing is mounted then.
pub fn run(config: Config, mut serves: impl FnMut(()) -> anyhow::Result<()>) -> anyhow::Result<End> {
    logging::start(&config.process)?;
    let shutdown = Shutdown::default();
    let _signals = signals::listen(shutdown.clone()).context("taking signals")?;
    let runtime = runtime()?;
    let lock = CacheDirLock::take(&config.store.cache_dir)?;
    let orders = OrderDirectory::make(&config)
        .with_context(|| format!("the directory of orders, {}", config.prefetch.order_dir.display()))?;
    let parts = Parts::open(&config, runtime.handle())?;

    let mounted = Mounted::start(&config, &parts, &runtime, &shutdown, &mut serves)?;
    let Mounted { mount, cache, source, outdated, from_snapshot } = mounted;
    collect_overdue(&mount, source);
    let announce = Arc::new(Kernel { mount: mount.clone() });
    let revalidation = Revalidation::new(cache.clone(), announce, config.revalidate.interval());
    let at_once = from_snapshot && config.revalidate != Revalidate::Never;
    let revalidating = runtime.spawn(revalidation.run(outdated, at_once));
    let inodes = cache.catalog().len();
    let watching = Watching::start(config.probes, mount.report(), inodes, &config.store.places);
    let figures = &parts.figures;
    let planning = Planning::start(&config, &cache, &mount, figures, &watching, orders);
    let planning = Arc::new(planning);
    let served = Served { cache: cache.clone(), mount: mount.clone(), watching, planning: planning.clone() };
    let status = Arc::new(Status::new(&config, &parts, served, shutdown.clone()));
    // Before the socket: whoever finds the socket finds the mount's daemon, too.
    let registration = register(&config, &parts);
    let mut control = Server::start(lock, &config.limits, parts.figures.control.clone(), status.clone())?;
    status.log_start();
    if !config.mount.early {
        serves(())?;
    }

    end_with_mount(&mount, &shutdown);
    let reason = shutdown.wait();
    tracing::info!(?reason, "ending");
    let unmounted = unmount(&mount);
    revalidating.abort();
    planning.stop();
    let saved = save(&runtime, &cache, &parts);
    control.stop();
    // Last: `cachectl umount` waits until it is gone.
    drop(registration);
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(if unmounted && saved { End::Clean } else { End::Dirty })
}

/// A mount that serves its data set.
struct Mounted {
    mount: Arc<Mount>,
    cache: Arc<Cache>,
    source: Arc<MountedCache>,
    outdated: mpsc::Receiver<Ino>,
    from_snapshot: bool,
}

impl Mounted {
    /// Gets the catalog and mounts, in this order; with `--mount-early` the other way round.
    fn start(
        config: &Config,
        parts: &Parts,
        runtime: &Runtime,
        shutdown: &Shutdown,
        serves: &mut impl FnMut(()) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let early = match config.mount.early {
            true => {
                let source = Arc::new(EarlySource::new(TTL));
                let mount = start_mount(config, parts, source.clone(), 0.0)?;
                serves(())?;
                Some((source, mount))
            }
            false => None,
        };
        let opened = runtime.block_on(listing::catalog(config, parts, shutdown)).inspect_err(|_| {
            if let Some((source, _)) = &early {
                source.failed();
            }
        })?;
        let from_snapshot = opened.from_snapshot;
        let catalog = Arc::new(opened.catalog);
        let large_share = parts.settle_on(&catalog, config.store.file_from);
        let (cache, outdated) = parts.cache(catalog, runtime.handle(), config);
        let source = Arc::new(MountedCache::new(cache.clone(), TTL));
        let mount = match early {
            Some((early, mount)) => {
                early.serve(source.clone());
                mount
            }
            None => start_mount(config, parts, source.clone(), large_share)?,
        };
        Ok(Self { mount: Arc::new(mount), cache, source, outdated, from_snapshot })
    }
}

/// Stores what has arrived, and saves the store and the catalog; whether all of that is safe.
fn save(runtime: &Runtime, cache: &Cache, parts: &Parts) -> bool {
    // Nobody is left to read what is still on its way.
    cache.stop_fetching();
    let settled = runtime.block_on(async { tokio::time::timeout(SETTLE, cache.settle()).await.is_ok() });
    if !settled {
        tracing::warn!("fills were still under way: what they fetched is not kept");
    }
    parts.close(cache.catalog())
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(origin_threads())
        .thread_name("origin")
        // Answers of misses come from these. Where it is not allowed, the doctor says so.
        .on_thread_start(|| drop(become_io_flusher()))
        .enable_all()
        .build()
        .context("starting the threads for the origin")
}

/// GETs are waiting, not work: two threads carry the TLS of several GB/s, more only on machines that have them.
fn origin_threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

fn start_mount(
    config: &Config,
    parts: &Parts,
    source: Arc<dyn FileSource>,
    large_share: f64,
) -> anyhow::Result<Mount> {
    Ok(Mount::start(parts::mount_options(config, parts.origin.url(), large_share), source)?)
}

/// Takes back from the kernel what the store does not stand by any more, until the mount ends.
fn collect_overdue(mount: &Arc<Mount>, source: Arc<MountedCache>) {
    let mount = mount.clone();
    let collect = move || {
        while !mount.is_ended() {
            for Overdue { ino, is_damaged } in source.overdue() {
                let why = if is_damaged { Revoke::Damaged } else { Revoke::Gone };
                // Deferred, or on its way: the frontend says when.
                if mount.revoke(ino, why) == Revoked::Now {
                    source.returned(ino);
                }
            }
            std::thread::sleep(COLLECT_EVERY);
        }
    };
    std::thread::Builder::new().name("lending".into()).spawn(collect).expect("a thread can be started");
}

fn register(config: &Config, parts: &Parts) -> Option<Registration> {
    let daemon = RunningDaemon {
        pid: std::process::id(),
        mountpoint: config.mount.mountpoint.clone(),
        cache_dir: config.store.cache_dir.clone(),
        origin: parts.origin.url().to_owned(),
    };
    match Registry::of_user().register(&daemon) {
        Ok(registration) => Some(registration),
        Err(error) => {
            tracing::warn!(%error, "not in the list of running daemons: cachectl needs --cache-dir");
            None
        }
    }
}

/// Ends the daemon when somebody else ends the mount.
fn end_with_mount(mount: &Arc<Mount>, shutdown: &Shutdown) {
    let (mount, shutdown) = (mount.clone(), shutdown.clone());
    let wait = move || {
        if let Err(error) = mount.wait() {
            tracing::error!(%error, "serving ended");
        }
        shutdown.begin(Reason::Unmounted);
    };
    std::thread::Builder::new().name("mount-end".into()).spawn(wait).expect("a thread can be started");
}

fn unmount(mount: &Mount) -> bool {
    match mount.unmount() {
        Ok(Unmounted::Cleanly | Unmounted::AlreadyGone) => true,
        Ok(how) => {
            tracing::warn!(?how, "the mount was in use: its readers got an error");
            true
        }
        Err(error) => {
            tracing::error!(%error, "the mount stays: cachectl umount takes it away");
            false
        }
    }
}

/// Tells the kernel what changed.
struct Kernel {
    mount: Arc<Mount>,
}

impl Announce for Kernel {
    fn changed(&self, change: &Change) {
        let notifier = self.mount.notifier();
        let told = match change {
            Change::Replaced(Replacement { parent, name, .. })
            | Change::Added { parent, name, .. }
            | Change::Removed { parent, name, .. } => {
                // The directory's cached entries first: in between, a walk would read the old ones again.
                notifier.node_changed(*parent).and_then(|_| notifier.entry_changed(*parent, name))
            }
            Change::Touched { ino } => notifier.node_changed(*ino),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "the kernel was not told of a change");
        }
    }
}
