//! Opening: from places and a limit to a store with its threads running.
//!
//! In this order: lock every place and read its superblock; divide the limit; reserve the space; make
//! the superblocks durable, with fresh generations; read the checkpoint and the headers; give up what a
//! lowered limit does not allow any more; start the threads. A place that was lost goes through the same
//! pieces later (`lost.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use super::Shared;
use super::checkpoint::{self, Checkpoint};
use super::config::StoreConfig;
use super::desks::Permits;
use super::error::StoreError;
use super::files::{Files, Opened};
use super::known;
use super::layout::PAGE_BYTES;
use super::lost::{LostPlace, Seeker};
use super::plan::{Plan, Planned, plan};
use super::recovery::{Scan, Walked};
use super::residents::Residents;
use super::roster::Roster;
use super::segments::Segments;
use super::settle::settle;
use super::threads::{disk, start};
use super::volume::Volume;
use crate::io::{BufferPool, EngineReport};
use crate::stats::store::StoreFigures;

/// Headers read at the same time during recovery.
const SCAN_DEPTH: u16 = 64;

/// What was found and done when a store was opened.
#[derive(Clone, Debug, serde::Serialize)]
pub struct OpenReport {
    /// The store's name, in hexadecimal.
    pub store: String,
    /// Its volumes.
    pub volumes: Vec<VolumeReport>,
    /// Places that could not be opened, and why: the store goes on without.
    pub lost: Vec<String>,
    /// Extents found.
    pub extents: u64,
    /// Whether a checkpoint was used.
    pub from_checkpoint: bool,
    /// How long it took, without the reserving of space.
    pub recovery: Duration,
}

/// What was found and done for one volume.
#[derive(Clone, Debug, serde::Serialize)]
pub struct VolumeReport {
    /// Where it is.
    pub place: String,
    /// Its number in the store.
    pub number: u8,
    /// Its segments.
    pub segments: u32,
    /// Bytes of each.
    pub segment_bytes: u32,
    /// Whether it was made now.
    pub formatted: bool,
    /// Whether the page cache is bypassed.
    pub direct: bool,
    /// The engine of its threads.
    pub engine: EngineReport,
    /// Segments given up because the limit was lowered, with what was in them.
    pub given_up: u32,
}

pub(super) fn open(
    config: StoreConfig,
    figures: Arc<StoreFigures>,
) -> Result<(Shared, Option<Seeker>, OpenReport), StoreError> {
    let Plan { store, volumes: planned, lost } = plan(&config)?;
    if let Err(error) = planned.iter().try_for_each(Planned::prepare) {
        planned.iter().for_each(Planned::abandon);
        return Err(error);
    }
    let started = (config.clock)();
    let checkpoint = checkpoint::load(&config.state_dir, store);
    let expected = checkpoint.as_ref().map_or(0, Checkpoint::len);
    let (residents, volumes) = volumes(&config, &planned, expected, &figures);
    let scans = scan_all(&config, &planned, &volumes, checkpoint.as_ref())?;
    let recovery = (config.clock)().saturating_duration_since(started);
    let extents = residents.index().len() as u64;
    figures.recovered_extents.add(extents);
    figures.recovery_latency.record(recovery);

    let given_bytes: u64 = planned.iter().map(Planned::limit_bytes).sum();
    let lost_places: Vec<_> = lost.iter().map(|(place, why)| LostPlace::new(place, why)).collect();
    figures.lost_places.set(lost.len() as u64);
    let mut report = OpenReport {
        store: store.to_string(),
        volumes: Vec::new(),
        lost: lost_places.iter().map(|lost| lost.why.clone()).collect(),
        extents,
        from_checkpoint: checkpoint.is_some(),
        recovery,
    };
    let shared = Shared {
        files: Files::start(&config, &figures)
            .map_err(|error| StoreError::io(&config.places[0], "start threads for", error))?,
        uuid: store,
        permits: Permits::new(config.desks),
        volumes: Roster::new(config.places.len()),
        lost: Mutex::new(lost_places),
        residents,
        figures,
        limit_bytes: config.limit_bytes,
        checkpoint_bytes: config.checkpoint_bytes(),
        queue_bytes: config.queue_bytes,
        clock: config.clock.clone(),
        state_dir: config.state_dir.clone(),
        checkpoints: Mutex::new(checkpoint.map_or(0, |checkpoint| checkpoint.epoch)),
        closed: AtomicBool::new(false),
    };
    for ((planned, volume), walked) in planned.into_iter().zip(volumes).zip(scans) {
        let joined = join(&shared, &config, planned, volume, &walked);
        report.volumes.push(joined.inspect_err(|_| shared.abandon())?);
    }
    if let Err(error) = known::save(&config.state_dir, &config.places) {
        tracing::warn!(%error, "the places of the store are not noted: a mistyped one will be taken for a lost one");
    }
    let room_bytes = config.volumes_bytes().saturating_sub(given_bytes);
    let lost = lost.into_iter().map(|(place, _)| place);
    let seeker = (lost.len() > 0).then(|| Seeker::new(config, lost, room_bytes));
    Ok((shared, seeker, report))
}

/// Makes a volume whose content is known part of the store: gives up what it may not keep, and starts its threads.
pub(super) fn join(
    shared: &Shared,
    config: &StoreConfig,
    mut planned: Planned,
    volume: Arc<Volume>,
    walked: &[Walked],
) -> Result<VolumeReport, StoreError> {
    let mut inspection = std::mem::take(&mut planned.files);
    let live_bytes = volume.segments.live_bytes_total();
    let lent = inspection.fit(planned.allowed, volume.layout.segment_bytes, live_bytes);
    let settled = settle(&planned.medium, &planned.superblock, &volume, planned.allowed - lent, walked)?;
    let lent = settled.withheld.iter().copied().take(lent as usize).collect();
    // The store may be closed meanwhile: that takes this lock after it has said so.
    let _not_closing = shared.checkpoints.lock();
    if shared.closed.load(Relaxed) {
        return Err(StoreError::io(planned.medium.place(), "use", std::io::ErrorKind::Interrupted.into()));
    }
    let place = planned.medium.place().clone();
    let (handle, report) = start(config, planned, (volume, settled), &shared.permits)?;
    // First: what is in files is found in the files only.
    let added = shared.files.add(config, &handle, Opened { inspection, lent });
    added.map_err(|error| StoreError::io(&place, "start threads for", error))?;
    shared.volumes.add(handle);
    Ok(report)
}

/// The volumes, of which nothing is known yet, and the index that they share.
fn volumes(
    config: &StoreConfig,
    planned: &[Planned],
    expected_extents: usize,
    figures: &Arc<StoreFigures>,
) -> (Arc<Residents>, Vec<Arc<Volume>>) {
    let segments: Vec<_> =
        planned.iter().map(|planned| Segments::new(planned.superblock.layout.segments)).collect();
    let numbers = planned.iter().map(|planned| planned.superblock.volume);
    let residents = Residents::new(numbers.zip(segments.iter().cloned()), expected_extents);
    let volumes = planned.iter().zip(segments);
    let volumes =
        volumes.map(|(planned, segments)| new_volume(config, planned, segments, &residents, figures));
    let volumes = volumes.collect();
    (residents, volumes)
}

/// The volume that is `planned`, of which nothing is known yet.
pub(super) fn new_volume(
    config: &StoreConfig,
    planned: &Planned,
    segments: Arc<Segments>,
    residents: &Arc<Residents>,
    figures: &Arc<StoreFigures>,
) -> Arc<Volume> {
    let superblock = &planned.superblock;
    Volume::new(
        (superblock.volume, superblock.store, superblock.layout),
        planned.medium.place().to_string(),
        segments,
        residents.clone(),
        figures.clone(),
        (config.budget, (config.clock)()),
    )
}

/// Reads the headers of all volumes, each on a thread; what the walks of each found.
pub(super) fn scan_all(
    config: &StoreConfig,
    planned: &[Planned],
    volumes: &[Arc<Volume>],
    checkpoint: Option<&Checkpoint>,
) -> Result<Vec<Vec<Walked>>, StoreError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = planned
            .iter()
            .zip(volumes)
            .map(|(planned, volume)| {
                scope.spawn(move || {
                    let fail = |error| StoreError::io(planned.medium.place(), "read headers of", error);
                    if planned.found.is_none() {
                        return Ok(Vec::new());
                    }
                    let pool = BufferPool::new(SCAN_DEPTH, PAGE_BYTES as usize).map_err(fail)?;
                    let (engine, slot, _) =
                        disk(config, &planned.medium, usize::from(SCAN_DEPTH), &pool, true)?;
                    Scan::new(volume, (engine, slot, pool), planned.medium.file())
                        .recover(checkpoint)
                        .map_err(fail)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("recovery does not panic")).collect()
    })
}
