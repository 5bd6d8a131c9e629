//! The end of a session, for those who wait for it.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Set once, when the serving threads are gone; holds the session's error if it had one.
#[derive(Debug, Default)]
pub(super) struct Ended {
    outcome: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
}

impl Ended {
    pub fn set(&self, outcome: Result<(), String>) {
        *self.outcome.lock() = Some(outcome);
        self.changed.notify_all();
    }

    pub fn is_set(&self) -> bool {
        self.outcome.lock().is_some()
    }

    pub fn wait(&self) -> Result<(), String> {
        let mut outcome = self.outcome.lock();
        loop {
            match &*outcome {
                Some(ended) => return ended.clone(),
                None => self.changed.wait(&mut outcome),
            }
        }
    }

    /// Whether the end came within `patience`.
    pub fn wait_for(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut outcome = self.outcome.lock();
        while outcome.is_none() {
            if self.changed.wait_until(&mut outcome, deadline).timed_out() {
                return outcome.is_some();
            }
        }
        true
    }
}
