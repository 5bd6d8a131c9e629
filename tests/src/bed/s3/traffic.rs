//! What the server was asked: requests by kind, bytes sent, and how many were in flight.

use std::sync::Mutex;
use std::time::Instant;

use http::{Method, Uri};
use serde::{Deserialize, Serialize};

/// The most requests that the log keeps.
const LOG_MAX: usize = 400_000;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Bytes of an object.
    Get,
    /// A page of a listing.
    List,
    /// An object's or a bucket's attributes.
    Head,
    /// A write.
    Put,
    /// Anything else.
    Other,
}

impl Kind {
    /// The kind of a request, path-style.
    pub fn of(method: &Method, uri: &Uri) -> Self {
        let names_object =
            uri.path().trim_start_matches('/').split_once('/').is_some_and(|(_, key)| !key.is_empty());
        match (method, names_object) {
            (&Method::GET, true) => Self::Get,
            (&Method::GET, false) => Self::List,
            (&Method::HEAD, _) => Self::Head,
            (&Method::PUT, _) => Self::Put,
            _ => Self::Other,
        }
    }
}

/// One request, when it is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Logged {
    /// What it asked for.
    pub kind: Kind,
    /// Path and query as sent.
    pub target: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// Whether it had an `If-Match` header.
    pub if_match: bool,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of body that were sent.
    pub body_bytes: u64,
    /// When it came, since the counters were reset.
    pub start_us: u64,
    /// How long until the last byte was handed to the kernel.
    pub elapsed_us: u64,
}

/// Counters since the last reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// GETs of objects.
    pub get: u64,
    /// Pages of listings.
    pub list: u64,
    /// HEADs.
    pub head: u64,
    /// PUTs.
    pub put: u64,
    /// Anything else.
    pub other: u64,
    /// Bytes of bodies sent, of all kinds.
    pub sent_bytes: u64,
    /// Bytes of objects sent.
    pub get_bytes: u64,
    /// GETs with a `Range`.
    pub ranged: u64,
    /// GETs without `If-Match`.
    pub unconditional: u64,
    /// Answers with status 412.
    pub precondition_failed: u64,
    /// Requests answered with 503 by injection.
    pub injected_503: u64,
    /// Bodies cut short by injection.
    pub injected_truncated: u64,
    /// Bodies held back by injection.
    pub injected_stalled: u64,
    /// GETs being answered now.
    pub gets_in_flight: u64,
    /// The most GETs that were in flight at once.
    pub gets_in_flight_max: u64,
    /// Their mean number, from the first GET to the end of the last.
    pub gets_in_flight_mean: f64,
}

/// Where requests are counted.
#[derive(Debug)]
pub struct Traffic {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    since: Instant,
    counters: Counters,
    log: Vec<Logged>,
    /// First arrival of a GET, and the last change of the number in flight.
    first: Option<Instant>,
    last: Instant,
    /// GETs in flight times seconds, up to `last`.
    area: f64,
}

impl State {
    fn new(gets_in_flight: u64) -> Self {
        let now = Instant::now();
        let counters = Counters { gets_in_flight, gets_in_flight_max: gets_in_flight, ..Counters::default() };
        Self { since: now, counters, log: Vec::new(), first: None, last: now, area: 0.0 }
    }

    fn change_in_flight(&mut self, now: Instant, delta: i64) {
        let from = self.first.map_or(now, |_| self.last);
        let held = now.saturating_duration_since(from).as_secs_f64();
        self.first.get_or_insert(now);
        self.area += held * self.counters.gets_in_flight as f64;
        self.last = now;
        self.counters.gets_in_flight = self.counters.gets_in_flight.saturating_add_signed(delta);
        self.counters.gets_in_flight_max = self.counters.gets_in_flight_max.max(self.counters.gets_in_flight);
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self { state: Mutex::new(State::new(0)) }
    }
}

impl Traffic {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("no panic while it is held"))
    }

    /// Counts a request that came in.
    pub fn began(&self, kind: Kind, ranged: bool, conditional: bool) -> Instant {
        let now = Instant::now();
        self.with(|state| {
            let counters = &mut state.counters;
            match kind {
                Kind::Get => counters.get += 1,
                Kind::List => counters.list += 1,
                Kind::Head => counters.head += 1,
                Kind::Put => counters.put += 1,
                Kind::Other => counters.other += 1,
            }
            if kind == Kind::Get {
                counters.ranged += u64::from(ranged);
                counters.unconditional += u64::from(!conditional);
                state.change_in_flight(now, 1);
            }
        });
        now
    }

    /// Counts its end. `logged.start_us` and `elapsed_us` are filled in here.
    pub fn ended(&self, began: Instant, mut logged: Logged) {
        let now = Instant::now();
        self.with(|state| {
            logged.start_us = began.saturating_duration_since(state.since).as_micros() as u64;
            logged.elapsed_us = now.duration_since(began).as_micros() as u64;
            state.counters.sent_bytes += logged.body_bytes;
            state.counters.precondition_failed += u64::from(logged.status == 412);
            if logged.kind == Kind::Get {
                state.counters.get_bytes += logged.body_bytes;
                state.change_in_flight(now, -1);
            }
            if state.log.len() < LOG_MAX {
                state.log.push(logged);
            }
        });
    }

    /// Counts an injected fault.
    pub fn injected(&self, count: impl FnOnce(&mut Counters)) {
        self.with(|state| count(&mut state.counters));
    }

    /// The counters now.
    pub fn counters(&self) -> Counters {
        self.with(|state| {
            let mut counters = state.counters.clone();
            let span = state.first.map_or(0.0, |first| state.last.duration_since(first).as_secs_f64());
            counters.gets_in_flight_mean = if span > 0.0 { state.area / span } else { 0.0 };
            counters
        })
    }

    /// The requests that are over, in the order of their ends.
    pub fn log(&self) -> Vec<Logged> {
        self.with(|state| state.log.clone())
    }

    /// Starts counting anew.
    pub fn reset(&self) {
        self.with(|state| *state = State::new(state.counters.gets_in_flight));
    }
}
