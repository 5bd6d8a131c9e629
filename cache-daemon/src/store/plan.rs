//! The plan: which places make up the store, and how much of the limit each gets.
//!
//! Nothing is written here, but that a directory and its file are made.

use std::collections::BTreeSet;

use super::checkpoint;
use super::config::StoreConfig;
use super::error::StoreError;
use super::files::{Inspection, inspect};
use super::known;
use super::layout::{LEAD_BYTES, Layout};
use super::medium::{FILE_NAME, Medium, Place};
use super::record::{FORMAT_VERSION, StoreUuid};
use super::share::{Room, share};
use super::superblock::{Found, GENERATIONS_AHEAD, Superblock};
use crate::index::SegmentId;
use crate::io::claim::ClaimError;

/// What a store will be.
pub(super) struct Plan {
    /// Its name.
    pub(super) store: StoreUuid,
    /// Its volumes.
    pub(super) volumes: Vec<Planned>,
    /// Places that could not be opened, and why: the others go on without.
    pub(super) lost: Lost,
}

type Lost = Vec<(Place, StoreError)>;

/// A volume to be.
pub(super) struct Planned {
    pub(super) medium: Medium,
    /// What it was, if it was one.
    pub(super) found: Option<Superblock>,
    /// What it will be.
    pub(super) superblock: Superblock,
    /// How many of its segments the limit allows, those included whose space is lent to files.
    pub(super) allowed: u32,
    /// The backing files that were found.
    pub(super) files: Inspection,
}

/// A place that could be opened.
struct Candidate {
    medium: Medium,
    found: Option<Superblock>,
    files: Inspection,
}

/// Looks at every place and divides the limit.
pub(super) fn plan(config: &StoreConfig) -> Result<Plan, StoreError> {
    config.check()?;
    let (candidates, lost) = find(config)?;
    let store = agreed_uuid(&candidates)?;
    let shares = divide(config, &candidates, !lost.is_empty())?;
    let mut numbers = (1..=u8::MAX)
        .filter(|number| candidates.iter().all(|candidate| candidate.number() != Some(*number)))
        .collect::<Vec<u8>>()
        .into_iter();
    let volumes = candidates.into_iter().zip(shares).map(|(Candidate { medium, found, files }, allowed)| {
        let superblock = match found {
            Some(found) => reopened(&found, allowed),
            None => {
                let layout = Layout { segment_bytes: config.segment_bytes, segments: allowed };
                let volume = numbers.next().expect("255 places at most");
                let generation_ceiling = 1 + GENERATIONS_AHEAD;
                Superblock { store, volume, layout, generation_ceiling, sequence: 1 }
            }
        };
        Planned { medium, found, superblock, allowed, files }
    });
    Ok(Plan { store, volumes: volumes.collect(), lost })
}

/// Opens every place. One that fails is left out, if it was used before and others are there.
fn find(config: &StoreConfig) -> Result<(Vec<Candidate>, Lost), StoreError> {
    let (mut candidates, mut lost) = (Vec::new(), Vec::new());
    // Later a missing directory is a file system that is not mounted: making it would fill the one below.
    let create = config.format || !checkpoint::exists(&config.state_dir);
    let known = known::load(&config.state_dir);
    // One that was never used is not lost: its path is mistyped, or it is to be made first.
    let was_used =
        |place: &Place| known.as_ref().is_none_or(|known| known.iter().any(|at| at == place.path()));
    for place in &config.places {
        match Candidate::open(place, config.format, create) {
            Ok(candidate) => candidates.push(candidate),
            Err(error) if is_loss(&error) && was_used(place) => lost.push((place.clone(), error)),
            Err(error) => return Err(error),
        }
    }
    let is_new = candidates.iter().all(|candidate| candidate.found.is_none());
    match lost.pop() {
        Some((_, error)) if is_new => Err(error),
        last => {
            lost.extend(last);
            lost.iter().for_each(|(_, error)| {
                tracing::error!(%error, "the store goes on without this place, and tries it again");
            });
            Ok((candidates, lost))
        }
    }
}

/// Whether the device has failed or is gone, rather than that the user has to decide something.
fn is_loss(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { .. } | StoreError::Claim(ClaimError::Missing(_) | ClaimError::Io { .. }))
}

/// The superblock of a volume that exists: as large as the limit wants it, with fresh generations.
fn reopened(found: &Superblock, allowed: u32) -> Superblock {
    let layout = Layout { segments: found.layout.segments.max(allowed), ..found.layout };
    let fresh = found.generation_ceiling.saturating_add(GENERATIONS_AHEAD);
    Superblock { layout, ..found.raised(fresh).unwrap_or(*found) }
}

/// The volume of `store` at `place`, which was lost, with as much of it as `room_bytes` of the limit allow.
///
/// # Errors
/// If it still cannot be opened, or is not what it was: what is new is made at a start only.
pub(super) fn returned(place: &Place, store: StoreUuid, room_bytes: u64) -> Result<Planned, StoreError> {
    if let Place::Directory(path) = place
        && !path.join(FILE_NAME).exists()
    {
        return Err(ClaimError::Missing(path.clone()).into());
    }
    let Candidate { medium, found, files } = Candidate::open(place, false, false)?;
    let changed = |found| StoreError::Changed { place: place.to_string(), found };
    let Some(found) = found.filter(|found| found.store == store) else {
        return Err(changed("nothing of this store is there: a restart would begin anew"));
    };
    let allowed = Layout::segments_in(room_bytes, found.layout.segment_bytes).min(found.layout.segments);
    if allowed < 2 {
        return Err(changed("the limit leaves no room for it: a restart would divide it anew"));
    }
    Ok(Planned { medium, found: Some(found), superblock: reopened(&found, allowed), allowed, files })
}

impl Candidate {
    fn open(place: &Place, format: bool, create: bool) -> Result<Self, StoreError> {
        let medium = Medium::open(place, format, create)?;
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
            Found::Version(_) | Found::Nothing => {
                if has_superblocks {
                    tracing::warn!(%place, "nothing here that can be used: begins anew");
                }
                None
            }
        };
        let of = found.map(|found: Superblock| (found.store, found.volume));
        let files = match medium.is_device() {
            true => Inspection::default(),
            false => inspect(place.path(), of)
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

    fn number(&self) -> Option<u8> {
        self.found.map(|found| found.volume)
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

/// How many segments the limit allows each candidate. What others have lost is not theirs: while a place `is_lost`
/// volumes do not grow.
fn divide(config: &StoreConfig, candidates: &[Candidate], is_lost: bool) -> Result<Vec<u32>, StoreError> {
    let of = |candidate: &Candidate| {
        candidate.found.map_or(config.segment_bytes, |found| found.layout.segment_bytes)
    };
    // Volumes may have segments of different sizes, from different starts: counted in the largest.
    let segment_bytes = candidates.iter().map(of).max().unwrap_or(config.segment_bytes);
    let leads = LEAD_BYTES * candidates.len() as u64;
    let total = config.volumes_bytes().saturating_sub(leads) / u64::from(segment_bytes);
    if total < 2 {
        let needed = config.limit_for(2 * u64::from(segment_bytes) + leads);
        return Err(StoreError::TooSmall { limit: config.limit_bytes, needed });
    }
    let rooms = candidates.iter().map(|candidate| candidate.room(segment_bytes));
    let mut rooms: Vec<Room> = rooms.collect::<Result<_, _>>()?;
    if is_lost {
        let there = rooms.iter_mut().zip(candidates).filter(|(_, candidate)| candidate.found.is_some());
        there.for_each(|(room, _)| room.max = room.max.min(room.now));
    }
    let shares = share(total, &rooms);
    let shared: u64 = shares.iter().map(|share| u64::from(*share)).sum();
    // A device is used as far as it goes; a file system has to have what was asked for.
    let is_files = candidates.iter().any(|candidate| !candidate.medium.is_device());
    if shared < total && (is_files && !is_lost || shared < 2) {
        return Err(no_space(candidates, total, &rooms, segment_bytes));
    }
    Ok(shares)
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

impl Planned {
    /// Reserves the space and makes the superblock durable.
    pub(super) fn prepare(&self) -> Result<(), StoreError> {
        // What a lowered limit does not allow is given back when it is known what is in it.
        match self.found {
            None => self.medium.reserve(&self.superblock.layout, &|_| false)?,
            // Those that are there already may be lent, and that is settled later.
            Some(found) => self.medium.extend(&self.superblock.layout, found.layout.segments)?,
        }
        let written = self.superblock.write(self.medium.file());
        written.map_err(|error| StoreError::io(self.medium.place(), "write the superblock", error))
    }

    /// Bytes of the limit that it is given.
    pub(super) fn limit_bytes(&self) -> u64 {
        LEAD_BYTES + u64::from(self.allowed) * u64::from(self.superblock.layout.segment_bytes)
    }

    /// Leaves nothing behind of a volume that is new and will not be.
    pub(super) fn abandon(&self) {
        if self.found.is_none() {
            self.medium.give_back();
        }
    }
}
