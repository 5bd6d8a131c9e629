//! Flights: units on their way from the origin, each at most once.
//!
//! A flight *waits* until its bytes are there, then has *landed*: it answers from memory until its chunks
//! are stored. Whoever boards first fetches; the others wait or are answered at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fuse_frontend::errno::Errno;
use parking_lot::Mutex;

use super::UnitKey;
use super::parts::Sink;

/// One who waits for a range of a unit.
pub(super) struct Waiter {
    /// The bytes wanted, from the start of the unit.
    pub range: Range<usize>,
    /// Where they go.
    pub sink: Sink,
    /// Since when, if it is a reader who waits, and no push.
    pub since: Option<Instant>,
}

/// Those who waited for a flight that is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Waited {
    /// How many.
    pub readers: usize,
    /// The longest.
    pub longest: Duration,
}

impl Waited {
    fn of(waiters: &[Waiter]) -> Self {
        let first = waiters.iter().filter_map(|waiter| waiter.since).min();
        let longest = first.map_or(Duration::ZERO, |since| since.elapsed());
        Self { readers: waiters.iter().filter(|waiter| waiter.since.is_some()).count(), longest }
    }
}

/// What came of boarding a flight.
pub(super) enum Boarded {
    /// The flight is new: the caller fetches the unit.
    First,
    /// It was under way: the reader will be answered with the others.
    Joined,
    /// It had landed: these are the bytes, and the reader is still to be answered.
    Landed(Bytes, Waiter),
    /// There is none, and `unless` said that none is needed.
    NotNeeded(Waiter),
}

enum Flight {
    Waiting(Vec<Waiter>),
    Landed(Bytes),
}

/// The flights of all units. One map: entries live for milliseconds, and the lock is held for a push.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<UnitKey, Flight>>);

impl Flights {
    /// Boards the flight of `key`. `unless` is asked under the lock before a new one is made: what
    /// landed and was stored since the caller looked is not fetched again.
    pub fn board(&self, key: UnitKey, waiter: Waiter, unless: impl FnOnce() -> bool) -> Boarded {
        match self.0.lock().entry(key) {
            Entry::Vacant(_) if unless() => Boarded::NotNeeded(waiter),
            Entry::Vacant(vacant) => {
                vacant.insert(Flight::Waiting(vec![waiter]));
                Boarded::First
            }
            Entry::Occupied(mut flight) => match flight.get_mut() {
                Flight::Waiting(waiters) => {
                    waiters.push(waiter);
                    Boarded::Joined
                }
                Flight::Landed(bytes) => Boarded::Landed(bytes.clone(), waiter),
            },
        }
    }

    /// Begins the flight of `key` with nobody on board yet, unless there is one or `unless` says that none is needed.
    pub fn begin(&self, key: UnitKey, unless: impl FnOnce() -> bool) -> bool {
        match self.0.lock().entry(key) {
            Entry::Vacant(vacant) if !unless() => {
                vacant.insert(Flight::Waiting(Vec::new()));
                true
            }
            _ => false,
        }
    }

    /// Whether the unit is on its way.
    pub fn has(&self, key: UnitKey) -> bool {
        self.0.lock().contains_key(&key)
    }

    /// The bytes of `key` are there: answers all who wait, and keeps the bytes until [`Flights::end`].
    pub fn land(&self, key: UnitKey, bytes: &Bytes) -> Waited {
        let waiters = match self.0.lock().insert(key, Flight::Landed(bytes.clone())) {
            Some(Flight::Waiting(waiters)) => waiters,
            Some(Flight::Landed(_)) | None => unreachable!("a flight lands once, after it was boarded"),
        };
        let waited = Waited::of(&waiters);
        for Waiter { range, sink, .. } in waiters {
            sink(Ok(&bytes[range]));
        }
        waited
    }

    /// The unit cannot be had: answers all who wait with `errno`, and ends the flight.
    pub fn fail(&self, key: UnitKey, errno: Errno) -> Waited {
        let Some(Flight::Waiting(waiters)) = self.0.lock().remove(&key) else { return Waited::default() };
        let waited = Waited::of(&waiters);
        for waiter in waiters {
            (waiter.sink)(Err(errno));
        }
        waited
    }

    /// The unit's chunks are stored or refused: the flight is over.
    pub fn end(&self, key: UnitKey) {
        self.0.lock().remove(&key);
    }
}
