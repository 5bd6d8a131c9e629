//! Operations in flight: what an engine has been asked to do, for whom, and until when.
//!
//! A device can fall silent: the kernel retries for 30 s and more, or for ever. Whoever waits is
//! answered at the deadline; the operation itself, and its buffer, stay with the kernel until it lets
//! go. So an operation has two ends here: [`InFlight::expire`] takes what it was for, and
//! [`InFlight::end`] its place. Readers use this with 3 s, writers with 10 s.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::io::Token;

/// What is in flight on one engine; all of it has the same time to complete.
#[derive(Debug)]
pub struct InFlight<T> {
    limit: Duration,
    next: u64,
    /// `None` when the deadline is over and nobody waits any more.
    operations: HashMap<Token, Option<Operation<T>>>,
    /// In order of their deadlines, which is that of their beginnings. Ended ones are skipped.
    deadlines: VecDeque<(Instant, Token)>,
}

#[derive(Debug)]
struct Operation<T> {
    purpose: T,
    started: Instant,
}

/// What an operation that is over was for.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended<T> {
    /// In time, after so long.
    InTime(T, Duration),
    /// Its purpose had been given up.
    TooLate,
}

impl<T> InFlight<T> {
    /// Nothing in flight; operations will have `limit` to complete.
    pub fn new(limit: Duration) -> Self {
        Self { limit, next: 0, operations: HashMap::new(), deadlines: VecDeque::new() }
    }

    /// An operation begins.
    pub fn begin(&mut self, purpose: T, now: Instant) -> Token {
        let token = Token(self.next);
        self.next += 1;
        self.operations.insert(token, Some(Operation { purpose, started: now }));
        self.deadlines.push_back((now + self.limit, token));
        token
    }

    /// An operation is over.
    ///
    /// # Panics
    /// If `token` is not in flight: an engine completes every operation once.
    pub fn end(&mut self, token: Token, now: Instant) -> Ended<T> {
        let operation = self.operations.remove(&token).expect("an operation completes once");
        while self.deadlines.front().is_some_and(|(_, token)| !self.operations.contains_key(token)) {
            self.deadlines.pop_front();
        }
        match operation {
            Some(operation) => {
                Ended::InTime(operation.purpose, now.saturating_duration_since(operation.started))
            }
            None => Ended::TooLate,
        }
    }

    /// An operation whose deadline is over, and its purpose; once for each.
    pub fn expire(&mut self, now: Instant) -> Option<(Token, T)> {
        while let Some((_, token)) = self.deadlines.front().copied().filter(|(deadline, _)| *deadline <= now)
        {
            self.deadlines.pop_front();
            if let Some(operation) = self.operations.get_mut(&token).and_then(Option::take) {
                return Some((token, operation.purpose));
            }
        }
        None
    }

    /// When the next deadline is over.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// Whether the engine holds nothing.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Operations that the engine holds, waited for or not.
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether nobody waits for any operation.
    pub fn is_idle(&self) -> bool {
        self.deadlines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_answered_once_and_keeps_its_place_until_it_completes() {
        let start = Instant::now();
        let mut in_flight = InFlight::new(Duration::from_secs(3));
        let slow = in_flight.begin("slow", start);
        let quick = in_flight.begin("quick", start + Duration::from_secs(1));
        assert_eq!(
            in_flight.end(quick, start + Duration::from_secs(2)),
            Ended::InTime("quick", Duration::from_secs(1))
        );
        assert_eq!(in_flight.expire(start + Duration::from_secs(2)), None);
        assert_eq!(in_flight.expire(start + Duration::from_secs(3)), Some((slow, "slow")));
        assert_eq!(in_flight.expire(start + Duration::from_secs(9)), None);
        assert_eq!((in_flight.len(), in_flight.is_idle()), (1, true));
        assert_eq!(in_flight.end(slow, start + Duration::from_secs(60)), Ended::TooLate);
        assert_eq!((in_flight.len(), in_flight.deadline()), (0, None));
    }
}
