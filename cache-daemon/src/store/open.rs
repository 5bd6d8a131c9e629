//! Opening: from places and a limit to a store with its threads running.
//!
//! In this order: lock every place and read its superblock; divide the limit; reserve the space; make
//! the superblocks durable, with fresh generations; read the checkpoint and the headers; give up what a
//! lowered limit does not allow any more; start the threads.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use crossbeam::channel::bounded;
use parking_lot::Mutex;

use super::allocator::Allocator;
use super::checkpoint::{self, Checkpoint};
use super::config::StoreConfig;
use super::error::StoreError;
use super::files::{self, Files, Inspection, Opened};
use super::layout::{LEAD_BYTES, Layout, PAGE_BYTES};
use super::medium::{Medium, Place};
use super::reader::{self, Reader};
use super::record::{FORMAT_VERSION, StoreUuid};
use super::recovery::{Scan, Walked};
use super::residents::Residents;
use super::segments::Segments;
use super::share::{Room, share};
use super::superblock::{Found, GENERATIONS_AHEAD, Superblock};
use super::volume::Volume;
use super::writer::{self, Writer};
use super::{Handle, Shared};
use crate::index::SegmentId;
use crate::io::{BufferPool, Engine, EngineOptions, EngineReport, FileSlot, engine};
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

/// A place on the way to being a volume.
struct Candidate {
    medium: Medium,
    found: Option<Superblock>,
    /// Backing files of large objects.
    files: Inspection,
}

/// A volume whose content is known.
pub(super) struct Recovered {
    pub(super) allocator: Allocator,
    pub(super) tail: Option<(u32, u32)>,
    given_up: u32,
}

pub(super) fn open(
    config: StoreConfig,
    figures: Arc<StoreFigures>,
) -> Result<(Shared, OpenReport), StoreError> {
    config.check()?;
    let candidates: Vec<Candidate> =
        config.places.iter().map(|place| Candidate::open(place, config.format)).collect::<Result<_, _>>()?;
    let uuid = agreed_uuid(&candidates)?;
    let superblocks = plan(&config, &candidates, uuid)?;
    for (candidate, (superblock, _)) in candidates.iter().zip(&superblocks) {
        candidate.prepare(superblock)?;
    }
    let started = (config.clock)();
    let segments: Vec<_> =
        superblocks.iter().map(|(block, _)| Segments::new(block.layout.segments)).collect();
    let checkpoint = checkpoint::load(&config.state_dir, uuid);
    let expected = checkpoint.as_ref().map_or(0, Checkpoint::len);
    let numbered =
        superblocks.iter().zip(&segments).map(|((block, _), segments)| (block.volume, segments.clone()));
    let residents = Residents::new(numbered, expected);
    let volumes: Vec<_> = candidates
        .iter()
        .zip(&superblocks)
        .zip(segments)
        .map(|((candidate, (block, _)), segments)| {
            let identity = (block.volume, block.store, block.layout);
            let name = candidate.medium.place().to_string();
            Volume::new(
                identity,
                name,
                segments,
                residents.clone(),
                figures.clone(),
                (config.budget, started),
            )
        })
        .collect();
    let scans = scan_all(&config, &candidates, &volumes, checkpoint.as_ref())?;
    let extents = residents.index().len() as u64;
    figures.recovered_extents.add(extents);
    let recovery = (config.clock)().saturating_duration_since(started);
    figures.recovery_latency.record(recovery);

    let mut handles = Vec::new();
    let mut reports = Vec::new();
    let mut opened = Vec::new();
    for (((candidate, (block, allowed)), volume), walked) in
        candidates.into_iter().zip(superblocks).zip(volumes).zip(scans)
    {
        let mut candidate = candidate;
        let (recovered, lent) = settle(&mut candidate, &block, &volume, allowed, &walked)?;
        opened.push(Opened { inspection: candidate.files, lent });
        let formatted = candidate.found.is_none();
        let (handle, report) = start(&config, candidate.medium, block, volume, recovered, formatted)?;
        handles.push(handle);
        reports.push(report);
    }
    let report = OpenReport {
        store: uuid.to_string(),
        volumes: reports,
        extents,
        from_checkpoint: checkpoint.is_some(),
        recovery,
    };
    let files = Files::start(&config, &handles, opened, &figures)?;
    let shared = Shared {
        uuid,
        files,
        volumes: handles,
        residents,
        figures,
        limit_bytes: config.limit_bytes,
        checkpoint_bytes: config.checkpoint_bytes(),
        clock: config.clock,
        state_dir: config.state_dir,
        checkpoints: Mutex::new(checkpoint.map_or(0, |checkpoint| checkpoint.epoch)),
        closed: AtomicBool::new(false),
    };
    Ok((shared, report))
}

impl Candidate {
    fn open(place: &Place, format: bool) -> Result<Self, StoreError> {
        let medium = Medium::open(place, format)?;
        let has_superblocks = medium.length_bytes()? >= LEAD_BYTES;
        let found = match has_superblocks && !format {
            true => Superblock::load(medium.file()).map_err(|error| StoreError::io(place, "read", error))?,
            false => Found::Nothing,
        };
        let found = match found {
            Found::Ours(superblock) => Some(superblock),
            Found::Version(found) if found > FORMAT_VERSION => {
                return Err(StoreError::Newer { place: place.to_string(), found });
            }
            // An older format that nobody reads any more is a cache that has been forgotten.
            Found::Version(_) | Found::Nothing => None,
        };
        let of = found.map(|found: Superblock| (found.store, found.volume));
        let files = match medium.is_device() {
            true => Inspection::default(),
            false => files::inspect(place.path(), of)
                .map_err(|error| StoreError::io(place, "look at its files", error))?,
        };
        Ok(Self { medium, found, files })
    }

    /// What this place has and could have, in segments of `segment_bytes`.
    fn room(&self, segment_bytes: u32) -> Result<Room, StoreError> {
        let in_use = match &self.found {
            Some(found) => {
                let bytes = self.medium.used_bytes(&found.layout)?.min(found.layout.volume_bytes());
                Layout::segments_in(bytes, segment_bytes)
            }
            None => 0,
        };
        let in_files =
            u32::try_from(self.files.bytes().div_ceil(u64::from(segment_bytes))).unwrap_or(u32::MAX);
        let in_use = in_use.saturating_add(in_files);
        let max = Layout::segments_in(self.medium.room_bytes()? + self.files.bytes(), segment_bytes);
        Ok(Room { now: in_use, max: max.min(SegmentId::NUMBERS) })
    }

    /// Makes the volume that `superblock` describes.
    fn prepare(&self, superblock: &Superblock) -> Result<(), StoreError> {
        let place = self.medium.place();
        // What a lowered limit does not allow is given back when it is known what is in it.
        match self.found {
            Some(found) => self.medium.extend(&superblock.layout, found.layout.segments)?,
            None => {
                if let Err(error) = self.medium.reserve(&superblock.layout, &|_| false) {
                    self.medium.give_back();
                    return Err(error);
                }
            }
        }
        superblock
            .write(self.medium.file())
            .map_err(|error| StoreError::io(place, "write the superblock", error))
    }
}

/// The store that the places belong to; a new one if they are all new.
fn agreed_uuid(candidates: &[Candidate]) -> Result<StoreUuid, StoreError> {
    let mut agreed = None;
    let mut numbers = BTreeSet::new();
    for candidate in candidates {
        let Some(found) = candidate.found else { continue };
        let foreign = |found: &str| {
            Err(StoreError::Foreign { place: candidate.medium.place().to_string(), found: found.to_owned() })
        };
        if *agreed.get_or_insert(found.store) != found.store {
            return foreign("it belongs to another store than the places before it");
        }
        if !numbers.insert(found.volume) {
            return foreign("it is a copy of another place");
        }
    }
    Ok(agreed.unwrap_or_else(|| StoreUuid(rand::random())))
}

/// The superblock of each volume, and how many of its segments the limit allows.
fn plan(
    config: &StoreConfig,
    candidates: &[Candidate],
    store: StoreUuid,
) -> Result<Vec<(Superblock, u32)>, StoreError> {
    let segment_bytes = |candidate: &Candidate| {
        candidate.found.map_or(config.segment_bytes, |found| found.layout.segment_bytes)
    };
    let largest = candidates.iter().map(segment_bytes).max().unwrap_or(config.segment_bytes);
    let leads = LEAD_BYTES * candidates.len() as u64;
    let total = config.volumes_bytes().saturating_sub(leads) / u64::from(largest);
    if total < 2 {
        let needed = 2 * u64::from(largest) + leads + config.reserved_bytes;
        // The allowance for checkpoints grows with the limit: 1/256 of it.
        let needed = (needed + needed / 255 + 1).max(needed + config.checkpoint_bytes().min(256 << 10));
        return Err(StoreError::TooSmall { limit: config.limit_bytes, needed });
    }
    let rooms: Vec<Room> =
        candidates.iter().map(|candidate| candidate.room(largest)).collect::<Result<_, _>>()?;
    let shares = share(total, &rooms);
    let shared: u64 = shares.iter().map(|share| u64::from(*share)).sum();
    let is_files = candidates.iter().any(|candidate| !candidate.medium.is_device());
    if shared < total && (is_files || shared < 2) {
        return Err(no_space(candidates, total, &rooms, largest));
    }
    let mut numbers = (1..=u8::MAX).filter(|number| {
        candidates.iter().all(|candidate| candidate.found.is_none_or(|found| found.volume != *number))
    });
    let superblocks = candidates.iter().zip(shares).map(|(candidate, allowed)| match candidate.found {
        Some(found) => {
            let layout = Layout { segments: found.layout.segments.max(allowed), ..found.layout };
            let fresh = found.generation_ceiling.saturating_add(GENERATIONS_AHEAD);
            let raised = found.raised(fresh).unwrap_or(found);
            (Superblock { layout, ..raised }, allowed)
        }
        None => {
            let layout = Layout { segment_bytes: config.segment_bytes, segments: allowed };
            let volume = numbers.next().expect("255 places at most");
            let generation_ceiling = 1 + GENERATIONS_AHEAD;
            (Superblock { store, volume, layout, generation_ceiling, sequence: 1 }, allowed)
        }
    });
    Ok(superblocks.collect())
}

fn no_space(candidates: &[Candidate], total: u64, rooms: &[Room], segment_bytes: u32) -> StoreError {
    let bytes = |segments: u64| segments * u64::from(segment_bytes);
    let now: u64 = rooms.iter().map(|room| u64::from(room.now)).sum();
    let max: u64 = rooms.iter().map(|room| u64::from(room.max)).sum();
    let places: Vec<String> =
        candidates.iter().map(|candidate| candidate.medium.place().to_string()).collect();
    StoreError::NoSpace {
        place: places.join(", "),
        needed: bytes(total.saturating_sub(now)) + if now == 0 { LEAD_BYTES } else { 0 },
        available: bytes(max.saturating_sub(now)),
    }
}

/// An engine with the volume's file, and buffers for it.
fn disk(
    config: &StoreConfig,
    medium: &Medium,
    depth: usize,
    pool: &BufferPool,
) -> Result<(Box<dyn Engine>, FileSlot, EngineReport), StoreError> {
    let fail = |error| StoreError::io(medium.place(), "start an I/O engine for", error);
    let options = EngineOptions { depth, ..EngineOptions::default() };
    let (mut engine, report) = engine(config.engine, pool, &options).map_err(fail)?;
    let slot = engine.register(medium.file().clone()).map_err(fail)?;
    Ok((engine, slot, report))
}

/// Reads the headers of all volumes, each on a thread; what the walks of each found.
fn scan_all(
    config: &StoreConfig,
    candidates: &[Candidate],
    volumes: &[Arc<Volume>],
    checkpoint: Option<&Checkpoint>,
) -> Result<Vec<Vec<Walked>>, StoreError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = candidates
            .iter()
            .zip(volumes)
            .map(|(candidate, volume)| {
                scope.spawn(move || {
                    let fail = |error| StoreError::io(candidate.medium.place(), "read headers of", error);
                    if candidate.found.is_none() {
                        return Ok(Vec::new());
                    }
                    let pool = BufferPool::new(SCAN_DEPTH, PAGE_BYTES as usize).map_err(fail)?;
                    let (engine, slot, _) = disk(config, &candidate.medium, usize::from(SCAN_DEPTH), &pool)?;
                    Scan::new(volume, (engine, slot, pool), candidate.medium.file())
                        .recover(checkpoint)
                        .map_err(fail)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("recovery does not panic")).collect()
    })
}

/// Decides what becomes of each segment: free, sealed, appended to, given up, or lent to backing files.
fn settle(
    candidate: &mut Candidate,
    superblock: &Superblock,
    volume: &Volume,
    allowed: u32,
    walked: &[Walked],
) -> Result<(Recovered, Vec<u32>), StoreError> {
    let segments = &volume.segments;
    let segment_bytes = superblock.layout.segment_bytes;
    let lent = candidate.files.fit(allowed, segment_bytes, segments.live_bytes_total());
    let allowed = allowed - lent;
    let medium = &candidate.medium;
    let count = superblock.layout.segments;
    let mut by_content: Vec<u32> = (0..count).collect();
    // Those with the least in them go first: empty ones, if there are enough.
    by_content.sort_by_key(|segment| segments.live_bytes(*segment));
    let withheld: BTreeSet<u32> =
        by_content.into_iter().take(count.saturating_sub(allowed) as usize).collect();
    let mut given_up = 0;
    for segment in &withheld {
        let id = SegmentId::new(volume.number, *segment);
        if !segments.is_dead(*segment) {
            given_up += 1;
            volume.residents.forget_segment(id);
        }
        segments.retire(*segment);
    }
    // Some may have no blocks: they were withheld or lent before.
    let kept_bytes = superblock.layout.volume_bytes() - withheld.len() as u64 * u64::from(segment_bytes);
    if !withheld.is_empty() || medium.used_bytes(&superblock.layout)? < kept_bytes {
        medium.reserve(&superblock.layout, &|segment| withheld.contains(&segment))?;
    }
    let kept = (0..count).filter(|segment| !withheld.contains(segment));
    let recovered = Recovered { given_up, ..sort_segments(volume, superblock, kept, walked) };
    Ok((recovered, withheld.into_iter().take(lent as usize).collect()))
}

/// The allocator for the segments `kept`, and where appending goes on.
pub(super) fn sort_segments(
    volume: &Volume,
    superblock: &Superblock,
    kept: impl Iterator<Item = u32>,
    walked: &[Walked],
) -> Recovered {
    let segments = &volume.segments;
    let (mut free, mut live) = (Vec::new(), BTreeSet::new());
    for segment in kept {
        if segments.is_dead(segment) {
            segments.retire(segment);
            free.push(segment);
        } else {
            live.insert(segment);
        }
    }
    // The segment that was begun last goes on, or every restart would leave a part of one unused.
    let tail = walked
        .iter()
        .filter(|walked| live.contains(&walked.segment) && walked.end < volume.layout.segment_bytes)
        .max_by_key(|walked| walked.generation)
        .map(|walked| (walked.segment, walked.end));
    if let Some((segment, _)) = tail {
        live.remove(&segment);
    }
    segments.take_emptied();
    let newest = walked.iter().map(|walked| walked.generation).max().unwrap_or(0);
    let unused =
        superblock.generation_ceiling.saturating_sub(GENERATIONS_AHEAD).max(newest.saturating_add(1));
    Recovered { allocator: Allocator::new(free, live, unused), tail, given_up: 0 }
}

/// Starts the threads of a volume.
fn start(
    config: &StoreConfig,
    medium: Medium,
    superblock: Superblock,
    volume: Arc<Volume>,
    recovered: Recovered,
    formatted: bool,
) -> Result<(Handle, VolumeReport), StoreError> {
    let fail = |error| StoreError::io(medium.place(), "start threads for", error);
    let segment_bytes = superblock.layout.segment_bytes;
    let mut threads = Vec::new();

    let depth = config.writer.depth + writer::SPARE_DEPTH;
    let buffers = u16::try_from(depth).map_err(|_| StoreError::Config(format!("a depth of {depth}")))?;
    let pool = BufferPool::new(buffers, Writer::buffer_bytes(segment_bytes)).map_err(fail)?;
    let (engine, slot, report) = disk(config, &medium, depth, &pool)?;
    let writer_waker = engine.waker();
    let (writer, requests) = bounded(config.queue);
    let disk_of_writer = writer::Disk { engine, slot, file: medium.file().clone(), pool };
    let state = (superblock, recovered.allocator, recovered.tail);
    let run = Writer::new(volume.clone(), disk_of_writer, config.writer, requests, state, (config.clock)());
    let clock = config.clock.clone();
    let name = format!("store-w{}", volume.number);
    threads.push(std::thread::Builder::new().name(name).spawn(move || run.run(&clock)).map_err(fail)?);

    let mut readers = Vec::new();
    for number in 0..config.read_threads {
        let depth = config.read_depth;
        let buffers = u16::try_from(depth).map_err(|_| StoreError::Config(format!("a depth of {depth}")))?;
        let pool = BufferPool::new(buffers, Reader::buffer_bytes(segment_bytes)).map_err(fail)?;
        let (engine, slot, _) = disk(config, &medium, depth, &pool)?;
        let waker = engine.waker();
        let (sender, requests) = bounded(config.queue);
        let run =
            Reader::new(volume.clone(), reader::Disk { engine, slot, pool }, config.read_deadline, requests);
        let clock = config.clock.clone();
        let name = format!("store-r{}.{number}", volume.number);
        threads.push(std::thread::Builder::new().name(name).spawn(move || run.run(&clock)).map_err(fail)?);
        readers.push((sender, waker));
    }

    let report = VolumeReport {
        place: volume.name.clone(),
        number: volume.number,
        segments: superblock.layout.segments,
        segment_bytes,
        formatted,
        direct: medium.file().is_direct(),
        engine: report,
        given_up: recovered.given_up,
    };
    let handle = Handle {
        volume,
        medium,
        writer,
        writer_waker,
        readers,
        next_reader: AtomicUsize::new(0),
        threads: Mutex::new(threads),
    };
    Ok((handle, report))
}
