//! Opening: from places and a limit to a store with its threads running.
//!
//! In this order: lock every place and read its superblock; divide the limit; reserve the space; make
//! the superblocks durable, with fresh generations; read the checkpoint and the headers; give up what a
//! lowered limit does not allow any more; start the threads.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Shared;
use super::checkpoint::{self, Checkpoint};
use super::config::StoreConfig;
use super::error::StoreError;
use super::files::{Files, Opened};
use super::layout::PAGE_BYTES;
use super::plan::{Plan, Planned, plan};
use super::recovery::{Scan, Walked};
use super::residents::Residents;
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
) -> Result<(Shared, OpenReport), StoreError> {
    let Plan { store, volumes: planned, lost } = plan(&config)?;
    if let Err(error) = planned.iter().try_for_each(Planned::prepare) {
        planned.iter().for_each(Planned::abandon);
        return Err(error);
    }
    let started = (config.clock)();
    let checkpoint = checkpoint::load(&config.state_dir, store);
    let expected = checkpoint.as_ref().map_or(0, Checkpoint::len);
    let (residents, volumes) = volumes(&config, &planned, expected, &figures, started);
    let scans = scan_all(&config, &planned, &volumes, checkpoint.as_ref())?;
    let recovery = (config.clock)().saturating_duration_since(started);
    let extents = residents.index().len() as u64;
    figures.recovered_extents.add(extents);
    figures.recovery_latency.record(recovery);

    let mut handles = Vec::new();
    let mut reports = Vec::new();
    let mut opened = Vec::new();
    for ((mut planned, volume), walked) in planned.into_iter().zip(volumes).zip(scans) {
        let mut inspection = std::mem::take(&mut planned.files);
        let live_bytes = volume.segments.live_bytes_total();
        let lent = inspection.fit(planned.allowed, volume.layout.segment_bytes, live_bytes);
        let allowed = planned.allowed - lent;
        let settled = settle(&planned.medium, &planned.superblock, &volume, allowed, &walked)?;
        let lent = settled.withheld.iter().copied().take(lent as usize).collect();
        opened.push(Opened { inspection, lent });
        let (handle, report) = start(&config, planned, volume, settled)?;
        handles.push(handle);
        reports.push(report);
    }
    let report = OpenReport {
        store: store.to_string(),
        volumes: reports,
        lost: lost.iter().map(StoreError::to_string).collect(),
        extents,
        from_checkpoint: checkpoint.is_some(),
        recovery,
    };
    let files = Files::start(&config, &handles, opened, &figures)?;
    let shared = Shared {
        files,
        uuid: store,
        volumes: handles,
        residents,
        figures,
        limit_bytes: config.limit_bytes,
        checkpoint_bytes: config.checkpoint_bytes(),
        queue_bytes: config.queue_bytes,
        clock: config.clock,
        state_dir: config.state_dir,
        checkpoints: Mutex::new(checkpoint.map_or(0, |checkpoint| checkpoint.epoch)),
        closed: AtomicBool::new(false),
    };
    Ok((shared, report))
}

/// The volumes, of which nothing is known yet, and the index that they share.
fn volumes(
    config: &StoreConfig,
    planned: &[Planned],
    expected_extents: usize,
    figures: &Arc<StoreFigures>,
    now: Instant,
) -> (Arc<Residents>, Vec<Arc<Volume>>) {
    let segments: Vec<_> =
        planned.iter().map(|planned| Segments::new(planned.superblock.layout.segments)).collect();
    let numbers = planned.iter().map(|planned| planned.superblock.volume);
    let residents = Residents::new(numbers.zip(segments.iter().cloned()), expected_extents);
    let volumes = planned.iter().zip(segments).map(|(planned, segments)| {
        let superblock = &planned.superblock;
        Volume::new(
            (superblock.volume, superblock.store, superblock.layout),
            planned.medium.place().to_string(),
            segments,
            residents.clone(),
            figures.clone(),
            (config.budget, now),
        )
    });
    let volumes = volumes.collect();
    (residents, volumes)
}

/// Reads the headers of all volumes, each on a thread; what the walks of each found.
fn scan_all(
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
