//! Health: whether a volume is in use, by a budget of errors.
//!
//! A device that fails now and then costs misses. One that fails often costs every reader its deadline,
//! so the volume goes *out*: its extents are misses at once and nothing is written to it. After a while
//! one *trial* is made (a read of its superblock, which needs no admitted work); if it succeeds the
//! volume is *in* again, if not the next trial comes later, but it always comes: a slow minute never
//! disables a volume for good.
//!
//! A state machine: time comes in as a parameter.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much a volume may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorBudget {
    /// So many errors...
    pub errors: usize,
    /// ...within this time take the volume out.
    pub window: Duration,
    /// From going out to the first trial; doubles with every failure.
    pub backoff_min: Duration,
    /// The longest time between trials.
    pub backoff_max: Duration,
}

impl Default for ErrorBudget {
    fn default() -> Self {
        Self {
            errors: 10,
            window: Duration::from_secs(30),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        }
    }
}

/// Whether a volume is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In use.
    In,
    /// Not in use.
    Out,
    /// Not in use, and being tried.
    Trial,
}

/// The state of one volume and what led to it.
#[derive(Debug)]
pub struct Health {
    budget: ErrorBudget,
    state: State,
    errors: VecDeque<Instant>,
    backoff: Duration,
    trial_at: Instant,
    in_since: Instant,
}

impl Health {
    /// A volume in use.
    pub fn new(budget: ErrorBudget, now: Instant) -> Self {
        assert!(budget.errors > 0 && budget.backoff_min <= budget.backoff_max);
        Self {
            budget,
            state: State::In,
            errors: VecDeque::new(),
            backoff: budget.backoff_min,
            trial_at: now,
            in_since: now,
        }
    }

    /// A volume that could not even be opened.
    pub fn out(budget: ErrorBudget, now: Instant) -> Self {
        let mut health = Self::new(budget, now);
        health.go_out(now);
        health
    }

    /// The state now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Counts an error of the device; the state afterwards. Errors of a volume that is out are late news.
    pub fn error(&mut self, now: Instant) -> State {
        if self.state != State::In {
            return self.state;
        }
        while self.errors.front().is_some_and(|at| now.saturating_duration_since(*at) > self.budget.window) {
            self.errors.pop_front();
        }
        self.errors.push_back(now);
        if self.errors.len() >= self.budget.errors {
            self.go_out(now);
        }
        self.state
    }

    fn go_out(&mut self, now: Instant) {
        // A volume that lasted for the longest backoff starts anew; one that relapsed goes on where it was.
        if now.saturating_duration_since(self.in_since) > self.budget.backoff_max {
            self.backoff = self.budget.backoff_min;
        }
        self.state = State::Out;
        self.errors.clear();
        self.trial_at = now + self.backoff;
    }

    /// Whether a trial is to be made now. Says yes once; [`Health::tried`] must follow.
    pub fn begin_trial(&mut self, now: Instant) -> bool {
        let due = self.state == State::Out && now >= self.trial_at;
        if due {
            self.state = State::Trial;
        }
        due
    }

    /// When the next trial is due, if the volume is out.
    pub fn next_trial(&self) -> Option<Instant> {
        (self.state == State::Out).then_some(self.trial_at)
    }

    /// How a trial ended.
    pub fn tried(&mut self, succeeded: bool, now: Instant) {
        assert_eq!(self.state, State::Trial, "a trial ends once");
        self.backoff = (self.backoff * 2).min(self.budget.backoff_max);
        if succeeded {
            self.state = State::In;
            self.in_since = now;
        } else {
            self.state = State::Out;
            self.trial_at = now + self.backoff;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget() -> ErrorBudget {
        ErrorBudget { errors: 3, ..ErrorBudget::default() }
    }

    #[test]
    fn errors_far_apart_never_take_a_volume_out() {
        let start = Instant::now();
        let mut health = Health::new(budget(), start);
        for n in 0..100 {
            assert_eq!(health.error(start + Duration::from_secs(16) * n), State::In);
        }
    }

    #[test]
    fn a_relapse_waits_longer_and_a_long_good_time_forgives() {
        let start = Instant::now();
        let mut health = Health::new(budget(), start);
        let mut now = start;
        let mut wait = |health: &mut Health, good: Duration| {
            now += good;
            for _ in 0..3 {
                health.error(now);
            }
            let trial = health.next_trial().unwrap();
            let waited = trial - now;
            now = trial;
            assert!(health.begin_trial(now));
            health.tried(true, now);
            waited.as_secs()
        };
        let relapses = [0, 1, 1, 1].map(|good| wait(&mut health, Duration::from_secs(good)));
        assert_eq!(relapses, [1, 2, 4, 8]);
        assert_eq!(wait(&mut health, Duration::from_secs(61)), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Error,
        Trial { succeeds: bool },
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            5 => Just(Step::Error),
            3 => any::<bool>().prop_map(|succeeds| Step::Trial { succeeds }),
            2 => (0..90_000u64).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn whatever_happened_a_volume_that_works_is_back_within_the_longest_backoff(steps in steps()) {
            let mut now = Instant::now();
            let mut health = Health::new(budget(), now);
            for step in steps {
                match step {
                    Step::Error => _ = health.error(now),
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::Trial { succeeds } => {
                        if health.begin_trial(now) {
                            prop_assert!(!health.begin_trial(now), "one trial at a time");
                            health.tried(succeeds, now);
                        }
                    }
                }
                prop_assert!(health.errors.len() < budget().errors);
                prop_assert_eq!(health.next_trial().is_some(), health.state() == State::Out);
            }
            now += budget().backoff_max;
            if health.begin_trial(now) {
                health.tried(true, now);
            }
            prop_assert_eq!(health.state(), State::In);
        }
    }
}
