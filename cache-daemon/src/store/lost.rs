//! Lost places: those that could not be opened with the store, tried again for as long as it runs.
//!
//! A disk that comes late, or a file system that is mounted late, is not to cost its part of the cache until the
//! next restart. So it gets trials at the pace of a volume that failed (`health.rs`), one at a time on a thread
//! that nobody waits for. What is found then has to be what it was, a volume of this store: its headers are
//! read, its extents join the index, its threads start, and it is a volume like the others.
//!
//! Invariants
//! - The limit holds: while a place is lost the others do not grow (`plan.rs`), and it gets what they leave.
//! - Nothing of it is read or written by others before it is settled: it joins the roster last.

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Receiver;
use serde::{Deserialize, Serialize};

use super::config::StoreConfig;
use super::error::StoreError;
use super::health::Health;
use super::medium::Place;
use super::open::{join, new_volume, scan_all};
use super::plan::returned;
use super::{Shared, VolumeReport};

/// The longest between two looks at the clock.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A place that could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPlace {
    /// Where it is.
    pub place: String,
    /// What the last trial said.
    pub why: String,
}

impl LostPlace {
    pub(super) fn new(place: &Place, why: &StoreError) -> Self {
        Self { place: place.to_string(), why: why.to_string() }
    }
}

/// Tries lost places again.
pub(super) struct Seeker {
    config: StoreConfig,
    lost: Vec<(Place, Health)>,
    /// What the volumes that are there leave of the limit.
    room_bytes: u64,
}

impl Seeker {
    /// Seeks `lost`, for which `room_bytes` of the limit are left.
    pub(super) fn new(config: StoreConfig, lost: impl Iterator<Item = Place>, room_bytes: u64) -> Self {
        let now = (config.clock)();
        let lost = lost.map(|place| (place, Health::out(config.budget, now))).collect();
        Self { config, lost, room_bytes }
    }

    /// Works until all places are found or `stop` is closed.
    pub(super) fn run(mut self, shared: &Arc<Shared>, stop: &Receiver<()>) {
        while !self.lost.is_empty() && stop.recv_timeout(self.wait()).is_err_and(|error| error.is_timeout()) {
            let (config, room_bytes) = (&self.config, &mut self.room_bytes);
            self.lost.retain_mut(|(place, health)| {
                if !health.begin_trial((config.clock)()) {
                    return true;
                }
                let tried = adopt(shared, config, place, room_bytes);
                health.tried(tried.is_ok(), (config.clock)());
                tell(shared, place, &tried);
                tried.is_err()
            });
        }
    }

    fn wait(&self) -> Duration {
        let now = (self.config.clock)();
        let trials = self.lost.iter().filter_map(|(_, health)| health.next_trial());
        let next = trials.min().map_or(LOOK_EVERY, |at| at.saturating_duration_since(now));
        next.min(LOOK_EVERY)
    }
}

fn tell(shared: &Shared, place: &Place, tried: &Result<VolumeReport, StoreError>) {
    let mut lost = shared.lost.lock();
    let name = place.to_string();
    match tried {
        Ok(report) => {
            tracing::info!(%place, volume = report.number, segments = report.segments, "it is back: in use");
            shared.figures.lost_places.sub(1);
            lost.retain(|lost| lost.place != name);
        }
        Err(why) => {
            tracing::debug!(%place, %why, "still lost");
            lost.iter_mut().filter(|lost| lost.place == name).for_each(|lost| lost.why = why.to_string());
        }
    }
}

/// Opens `place` and makes it a volume of the store that runs.
fn adopt(
    shared: &Shared,
    config: &StoreConfig,
    place: &Place,
    room_bytes: &mut u64,
) -> Result<VolumeReport, StoreError> {
    let planned = returned(place, shared.uuid, *room_bytes)?;
    let number = planned.superblock.volume;
    let changed = |found| StoreError::Changed { place: place.to_string(), found };
    if shared.handle(number).is_some() {
        return Err(changed("it is a copy of another place"));
    }
    let segments = shared.residents.volume(number, planned.superblock.layout.segments);
    let segments = segments.ok_or_else(|| changed("its size is another than at the last trial"))?;
    planned.prepare()?;
    let taken_bytes = planned.limit_bytes();
    let volume = new_volume(config, &planned, segments.clone(), &shared.residents, &shared.figures);
    let planned = [planned];
    let joined = scan_all(config, &planned, std::slice::from_ref(&volume), None).and_then(|walked| {
        let [planned] = planned;
        join(shared, config, planned, volume, &walked.concat())
    });
    match &joined {
        Ok(_) => {
            *room_bytes = room_bytes.saturating_sub(taken_bytes);
            shared.figures.recovered_extents.add(segments.live_extents_total());
        }
        // The next trial begins anew.
        Err(_) => {
            shared.residents.retain(&mut |_, addr| addr.segment.volume() != number);
            (0..segments.count()).for_each(|segment| segments.retire(segment));
        }
    }
    joined
}
