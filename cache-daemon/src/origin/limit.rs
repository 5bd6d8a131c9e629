//! The limit on requests in flight, and how demand and readahead share it.
//!
//! Readahead may use three quarters; the rest is always there for a reader who waits. Otherwise a
//! window of prefetches on a slow origin would stand between a reader and its own GET.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::failure::{Cause, Failure};
use super::{RequestKind, RequestSource};
use crate::stats::origin::OriginFigures;

/// Admits requests, at most so many at once.
#[derive(Debug)]
pub struct Limit {
    all: Semaphore,
    readahead: Semaphore,
    request_timeout: Duration,
    figures: Arc<OriginFigures>,
}

impl Limit {
    /// At most `requests_in_flight_max` (at least 1) requests, each of at most `request_timeout`.
    pub fn new(
        requests_in_flight_max: usize,
        request_timeout: Duration,
        figures: Arc<OriginFigures>,
    ) -> Self {
        let all = requests_in_flight_max.max(1);
        let readahead = (all * 3 / 4).max(1);
        let [all, readahead] =
            [all, readahead].map(|permits| Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self { all, readahead, request_timeout, figures }
    }

    /// Performs `request` when its turn has come. Waiting does not count towards the request's timeout.
    pub async fn run<T>(
        &self,
        kind: RequestKind,
        source: RequestSource,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let _turn = self.turn(source).await;
        self.figures.count_sent(kind);
        if (kind, source) == (RequestKind::Get, RequestSource::Readahead) {
            self.figures.gets_readahead.increment();
        }
        let _in_flight = Level::raise(&self.figures.in_flight);
        match timeout(self.request_timeout, request).await {
            Ok(answer) => answer,
            Err(_) => {
                let waited = self.request_timeout;
                Err(Failure::new(Cause::Timeout, format!("no answer within {waited:?}")))
            }
        }
    }

    async fn turn(&self, source: RequestSource) -> (Option<SemaphorePermit<'_>>, SemaphorePermit<'_>) {
        const OPEN: &str = "these semaphores are never closed";
        let _waiting = Level::raise(&self.figures.waiting);
        let share = match source {
            RequestSource::Demand => None,
            RequestSource::Readahead => Some(self.readahead.acquire().await.expect(OPEN)),
        };
        (share, self.all.acquire().await.expect(OPEN))
    }
}

/// A gauge raised by one until dropped, also when the future that holds it is dropped.
struct Level<'a>(&'a crate::stats::Gauge);

impl<'a> Level<'a> {
    fn raise(gauge: &'a crate::stats::Gauge) -> Self {
        gauge.add(1);
        Self(gauge)
    }
}

impl Drop for Level<'_> {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn demand_finds_room_when_readahead_fills_its_share() {
        let figures = Arc::new(OriginFigures::default());
        let limit = Arc::new(Limit::new(4, Duration::from_secs(60), figures.clone()));
        let forever = || std::future::pending::<Result<(), Failure>>();
        let ahead: Vec<_> = (0..6)
            .map(|_| {
                let limit = limit.clone();
                tokio::spawn(
                    async move { limit.run(RequestKind::Get, RequestSource::Readahead, forever()).await },
                )
            })
            .collect();
        while (figures.in_flight.get(), figures.waiting.get()) != (3, 3) {
            tokio::task::yield_now().await;
        }
        let now = async { Ok(7) };
        assert_eq!(limit.run(RequestKind::Get, RequestSource::Demand, now).await.unwrap(), 7);
        for task in ahead {
            task.abort();
            let _ = task.await;
        }
        assert_eq!((figures.in_flight.get(), figures.waiting.get()), (0, 0));
    }

    #[tokio::test]
    async fn a_request_without_an_answer_times_out() {
        let limit = Limit::new(1, Duration::from_millis(5), Arc::default());
        let request = std::future::pending::<Result<(), Failure>>();
        let failure = limit.run(RequestKind::Get, RequestSource::Demand, request).await.unwrap_err();
        assert_eq!(failure.cause, Cause::Timeout);
    }
}
