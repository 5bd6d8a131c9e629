//! Retries: when a failed request is sent again, and when the reader is told instead.
//!
//! The only place that repeats requests: object_store's own retries are off, so attempts, pauses and the
//! deadline are counted once. Pauses grow twofold from `first_pause` to [`LONGEST_PAUSE`], and each is
//! drawn evenly from its upper half, so that readers that failed together do not return together.
//! An origin's Retry-After is waited for in full.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout_at};

use super::OriginLimits;
use super::failure::{Cause, Failure};
use crate::stats::origin::OriginFigures;

/// No pause is longer, unless the origin asks for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Repeats requests.
#[derive(Debug)]
pub struct Retry {
    schedule: Schedule,
    jitter: Mutex<StdRng>,
    figures: Arc<OriginFigures>,
}

/// The last failure of a request that was given up.
#[derive(Debug)]
pub struct GivenUp {
    /// Attempts made.
    pub attempts: u32,
    /// What the last one failed with.
    pub failure: Failure,
}

impl Retry {
    /// Repeats within `limits`.
    pub fn new(limits: &OriginLimits, figures: Arc<OriginFigures>) -> Self {
        let jitter = match limits.jitter_seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_os_rng(),
        };
        let schedule = Schedule {
            attempts_max: limits.attempts_max.max(1),
            deadline: limits.deadline,
            first_pause: limits.first_pause,
        };
        Self { schedule, jitter: Mutex::new(jitter), figures }
    }

    /// Performs what `attempt` makes until it succeeds, fails for good, or the deadline has passed.
    pub async fn run<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, GivenUp>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let start = Instant::now();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let failure = match timeout_at(start + self.schedule.deadline, attempt()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(failure)) => failure,
                Err(_) => {
                    let deadline = self.schedule.deadline;
                    Failure::new(Cause::Timeout, format!("no answer within {deadline:?}"))
                }
            };
            self.figures.count_failed(failure.cause);
            let draw = self.jitter.lock().random();
            let Some(pause) = self.schedule.pause(attempts, start.elapsed(), &failure, draw) else {
                return Err(GivenUp { attempts, failure });
            };
            tracing::debug!(attempts, cause = failure.message, "asking the origin again");
            sleep(pause).await;
            self.figures.retries.increment();
        }
    }
}

/// When to try again: no clock and no dice in it.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    attempts_max: u32,
    deadline: Duration,
    first_pause: Duration,
}

impl Schedule {
    /// How long to wait after attempt number `attempts`, `elapsed` after the start; none to give up.
    /// `draw` is an even draw from 0 to 1.
    fn pause(&self, attempts: u32, elapsed: Duration, failure: &Failure, draw: f64) -> Option<Duration> {
        if !failure.cause.is_transient() || attempts >= self.attempts_max {
            return None;
        }
        let full = self.full_pause(attempts);
        let pause = full.mul_f64(0.5 + draw / 2.0).max(failure.retry_after.unwrap_or_default());
        (elapsed + pause < self.deadline).then_some(pause)
    }

    fn full_pause(&self, attempts: u32) -> Duration {
        let doublings = (attempts - 1).min(16);
        self.first_pause.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCHEDULE: Schedule = Schedule {
        attempts_max: 12,
        deadline: Duration::from_secs(60),
        first_pause: Duration::from_millis(100),
    };

    #[test]
    fn answers_that_would_not_change_are_not_asked_for_again() {
        for cause in [Cause::Gone, Cause::Replaced, Cause::Denied, Cause::Refused] {
            assert_eq!(SCHEDULE.pause(1, Duration::ZERO, &Failure::new(cause, ""), 0.5), None, "{cause:?}");
        }
    }

    #[test]
    fn retry_after_is_waited_for_unless_it_passes_the_deadline() {
        let asked = |seconds| Failure {
            retry_after: Some(Duration::from_secs(seconds)),
            ..Failure::new(Cause::Throttled, "")
        };
        assert_eq!(SCHEDULE.pause(1, Duration::ZERO, &asked(7), 1.0), Some(Duration::from_secs(7)));
        assert_eq!(SCHEDULE.pause(1, Duration::from_secs(55), &asked(7), 1.0), None);
        // Shorter than our own pause: ours counts.
        let pause = SCHEDULE.pause(8, Duration::ZERO, &asked(0), 0.0).unwrap();
        assert_eq!(pause, LONGEST_PAUSE / 2);
    }

    #[tokio::test]
    async fn a_stalled_attempt_ends_at_the_deadline() {
        let limits = OriginLimits { deadline: Duration::from_millis(20), ..OriginLimits::default() };
        let retry = Retry::new(&limits, Arc::default());
        let given_up = retry.run(std::future::pending::<Result<(), Failure>>).await.unwrap_err();
        assert_eq!((given_up.attempts, given_up.failure.cause), (1, Cause::Timeout));
    }

    proptest! {
        #[test]
        fn pauses_grow_within_their_bounds_and_no_attempt_starts_after_the_deadline(
            draws in prop::collection::vec(0.0..1.0_f64, 40), took_ms in prop::collection::vec(0_u64..20_000, 40),
            deadline_s in 1_u64..100, attempts_max in 1_u32..30,
        ) {
            let schedule = Schedule { attempts_max, deadline: Duration::from_secs(deadline_s), ..SCHEDULE };
            let failure = Failure::new(Cause::ServerError, "");
            let mut elapsed = Duration::ZERO;
            for attempts in 1..40 {
                prop_assert!(elapsed < schedule.deadline && attempts <= attempts_max);
                elapsed += Duration::from_millis(took_ms[attempts as usize]);
                let Some(pause) = schedule.pause(attempts, elapsed, &failure, draws[attempts as usize]) else { break };
                let full = Duration::from_millis(100 << (attempts - 1).min(16)).min(LONGEST_PAUSE);
                prop_assert!(pause >= full / 2 && pause <= full, "{:?} of {:?}", pause, full);
                elapsed += pause;
            }
        }
    }
}
