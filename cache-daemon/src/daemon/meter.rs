//! Meter: what was fetched, and what there is room for, between two plans.

use std::sync::Arc;

use crate::cache::Cache;
use crate::policy::readahead::Sample;
use crate::stats::origin::OriginFigures;

/// Counts of fetches, to be told what came since.
pub(super) struct Meter {
    cache: Arc<Cache>,
    origin: Arc<OriginFigures>,
    fetched: u64,
    us: u64,
    refused: u64,
    not_admitted: u64,
    /// The room that the store had when it refused something for want of it.
    refused_room: Option<u64>,
}

impl Meter {
    /// Counts of `cache` and `origin` from now on.
    pub fn new(cache: &Arc<Cache>, origin: Arc<OriginFigures>) -> Self {
        let not_admitted = cache.figures().not_admitted.get();
        Self { cache: cache.clone(), origin, fetched: 0, us: 0, refused: 0, not_admitted, refused_room: None }
    }

    /// What was fetched since the last time.
    pub fn sample(&mut self) -> Sample {
        let fetched = self.cache.figures().fills.get();
        let us = self.cache.fill_us();
        let refused = self.origin.throttled.get() + self.origin.timeouts.get();
        let sample = Sample {
            fetched: (fetched - self.fetched) as u32,
            latency_us: us - self.us,
            refused: (refused - self.refused) as u32,
        };
        (self.fetched, self.us, self.refused) = (fetched, us, refused);
        sample
    }

    /// What the store has room for: nothing, once it has refused something, until it has more than it had then.
    pub fn room_bytes(&mut self) -> u64 {
        let room = self.cache.store().room_bytes();
        let not_admitted = self.cache.figures().not_admitted.get();
        if std::mem::replace(&mut self.not_admitted, not_admitted) != not_admitted {
            self.refused_room = Some(room.max(self.refused_room.unwrap_or(0)));
        }
        if self.refused_room.is_some_and(|then| room <= then) {
            return 0;
        }
        self.refused_room = None;
        room
    }
}
