//! The course of a GET: what its time went into, for whoever explains why a reader waited.

use std::fmt;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::failure::Cause;

/// What held a GET up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delay {
    /// The limit on requests in flight.
    Turn,
    /// Attempts that were refused because we ask too fast, with the pauses after them.
    Throttled,
    /// Attempts that failed otherwise, likewise.
    Retried,
    /// The origin, until its reply began.
    FirstByte,
    /// The origin, from there to the last byte.
    Body,
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Turn => "waited for --origin-requests",
            Self::Throttled => "throttled by the origin",
            Self::Retried => "retried",
            Self::FirstByte => "slow first byte",
            Self::Body => "slow body",
        })
    }
}

/// One GET, with all its attempts.
#[derive(Debug)]
pub struct Course(Mutex<Times>);

impl Course {
    /// Begins now.
    pub fn begin() -> Self {
        Self(Mutex::new(Times::begin(Instant::now())))
    }

    /// Another attempt waits for its turn.
    pub(super) fn asked(&self) {
        self.0.lock().asked = Instant::now();
    }

    /// Its turn has come.
    pub(super) fn sent(&self) {
        self.0.lock().sent(Instant::now());
    }

    /// Its reply has begun.
    pub(super) fn replied(&self) {
        self.0.lock().replied = Some(Instant::now());
    }

    /// It has failed.
    pub(super) fn failed(&self, cause: Cause) {
        self.0.lock().failed(cause);
    }

    /// The last attempt is over.
    pub(super) fn ended(&self) {
        self.0.lock().ended = Some(Instant::now());
    }

    /// How long it waited for its turns.
    pub fn turns(&self) -> Duration {
        self.0.lock().turns
    }

    /// What took longest, and how long.
    pub fn longest(&self) -> (Delay, Duration) {
        let times = *self.0.lock();
        times.longest(times.ended.unwrap_or_else(Instant::now))
    }
}

#[derive(Clone, Copy, Debug)]
struct Times {
    began: Instant,
    /// The last attempt: when it was to be sent, when its turn had come, when its reply began.
    asked: Instant,
    sent: Instant,
    replied: Option<Instant>,
    ended: Option<Instant>,
    /// Waiting for turns, in all attempts.
    turns: Duration,
    failed: u32,
    throttled: u32,
}

impl Times {
    fn begin(now: Instant) -> Self {
        Self {
            began: now,
            asked: now,
            sent: now,
            replied: None,
            ended: None,
            turns: Duration::ZERO,
            failed: 0,
            throttled: 0,
        }
    }

    fn sent(&mut self, now: Instant) {
        (self.sent, self.replied) = (now, None);
        self.turns += now - self.asked;
    }

    fn failed(&mut self, cause: Cause) {
        self.failed += 1;
        self.throttled += u32::from(cause == Cause::Throttled);
    }

    fn longest(&self, ended: Instant) -> (Delay, Duration) {
        let replied = self.replied.unwrap_or(ended);
        let (first_byte, body) = (replied - self.sent, ended - replied);
        let failing = (ended - self.began).saturating_sub(self.turns + first_byte + body);
        let failed = if self.throttled * 2 > self.failed { Delay::Throttled } else { Delay::Retried };
        let parts = [
            (Delay::Turn, self.turns),
            (failed, failing),
            (Delay::FirstByte, first_byte),
            (Delay::Body, body),
        ];
        parts.into_iter().max_by_key(|(_, took)| *took).expect("there are four")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// An attempt: its turn comes, its reply begins, it ends, each after so many ms.
    fn attempt(times: &mut Times, now: &mut Instant, [turn, first_byte, body]: [u32; 3]) {
        times.asked = *now;
        *now += MS * turn;
        times.sent(*now);
        *now += MS * first_byte;
        times.replied = Some(*now);
        *now += MS * body;
    }

    #[test]
    fn a_get_is_as_slow_as_what_took_longest() {
        for (took, delay) in
            [([50, 20, 10], Delay::Turn), ([10, 50, 20], Delay::FirstByte), ([10, 20, 50], Delay::Body)]
        {
            let mut now = Instant::now();
            let mut times = Times::begin(now);
            attempt(&mut times, &mut now, took);
            assert_eq!(times.longest(now), (delay, MS * 50));
        }
    }

    #[test]
    fn what_failed_is_told_by_why_it_failed_most_often() {
        for (causes, delay) in [
            ([Cause::Throttled, Cause::Throttled, Cause::Timeout], Delay::Throttled),
            ([Cause::Timeout, Cause::ServerError, Cause::Throttled], Delay::Retried),
        ] {
            let mut now = Instant::now();
            let mut times = Times::begin(now);
            for cause in causes {
                attempt(&mut times, &mut now, [5, 10, 0]);
                times.failed(cause);
                now += MS * 100;
            }
            attempt(&mut times, &mut now, [5, 40, 40]);
            assert_eq!((times.longest(now), times.turns), ((delay, MS * 330), MS * 20));
        }
    }
}
