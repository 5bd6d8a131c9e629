//! The server's bad days: delay, limited bandwidth, and faults for a share of the requests.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::traffic::Kind;

/// How the server behaves; every part can be changed while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weather {
    /// Time from a request's arrival until it is looked at.
    pub delay_ms: u64,
    /// The most bytes of bodies that are sent in a second, over all connections; 0: no limit.
    pub bytes_per_s: u64,
    /// Share of GETs and LISTs answered with 503.
    pub fail_share: f64,
    /// Share of GETs whose body ends, and whose connection is closed, half way.
    pub truncate_share: f64,
    /// Share of GETs whose body pauses half way.
    pub stall_share: f64,
    /// How long it pauses.
    pub stall_ms: u64,
    /// What decides which requests are hit.
    pub seed: u64,
}

impl Default for Weather {
    fn default() -> Self {
        Self {
            delay_ms: 0,
            bytes_per_s: 0,
            fail_share: 0.0,
            truncate_share: 0.0,
            stall_share: 0.0,
            stall_ms: 10_000,
            seed: 1,
        }
    }
}

/// What befalls one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 503 instead of an answer.
    Fail,
    /// Half of the body.
    Truncate,
    /// A pause in the middle of the body.
    Stall(Duration),
}

/// The weather now.
#[derive(Debug)]
pub struct Sky {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    weather: Weather,
    dice: StdRng,
    /// When the line is free again, if bandwidth is limited.
    line_free: Instant,
}

impl Sky {
    /// Starts with `weather`.
    pub fn new(weather: Weather) -> Self {
        let dice = StdRng::seed_from_u64(weather.seed);
        Self { state: Mutex::new(State { weather, dice, line_free: Instant::now() }) }
    }

    /// From now on, `weather`.
    pub fn change(&self, weather: Weather) {
        *self.state.lock().expect("no panic while it is held") =
            State { dice: StdRng::seed_from_u64(weather.seed), weather, line_free: Instant::now() };
    }

    /// The delay and the fault of the next request.
    pub fn next(&self, kind: Kind) -> (Duration, Option<Fault>) {
        let mut state = self.state.lock().expect("no panic while it is held");
        let weather = state.weather.clone();
        let roll: f64 = state.dice.random();
        let (fail, truncate) = (weather.fail_share, weather.fail_share + weather.truncate_share);
        let fault = match kind {
            Kind::Get | Kind::List if roll < fail => Some(Fault::Fail),
            Kind::Get if roll < truncate => Some(Fault::Truncate),
            Kind::Get if roll < truncate + weather.stall_share => {
                Some(Fault::Stall(Duration::from_millis(weather.stall_ms)))
            }
            _ => None,
        };
        (Duration::from_millis(weather.delay_ms), fault)
    }

    /// How long to wait before `bytes` are sent.
    pub fn pace(&self, bytes: usize) -> Duration {
        let mut state = self.state.lock().expect("no panic while it is held");
        if state.weather.bytes_per_s == 0 {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let start = state.line_free.max(now);
        state.line_free = start + Duration::from_secs_f64(bytes as f64 / state.weather.bytes_per_s as f64);
        state.line_free - now
    }
}
