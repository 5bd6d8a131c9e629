//! Desks: readers of a volume that work on the threads which ask, one read at a time.
//!
//! Handing a read to a reader thread costs two wake-ups more than the device's. A thread that serves FUSE may as well wait
//! itself, as long as another is left to take the next request; so the store has fewer desks than there are such
//! threads, in all of its volumes together. Who finds none free, or wants more than a desk's buffer takes, hands over.
//!
//! Measured by `cargo xtask bench serve --cases small_noopen_miss`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;

use super::config::Clock;
use super::layout::Span;
use super::reader::{Reader, Request};

/// Operations in flight at a desk: a read takes two at most.
pub(super) const DEPTH: usize = 2;

/// What a desk's buffers hold. Of larger reads the copy is what costs, not the wake-up.
pub(super) const BUFFER_BYTES: usize = 512 << 10;

/// How many threads may wait for their own reads, on all volumes together.
#[derive(Clone, Debug)]
pub(super) struct Permits(Arc<AtomicUsize>);

/// The desks of a volume.
pub(super) struct Desks {
    free: ArrayQueue<Box<Reader>>,
    permits: Permits,
    clock: Clock,
}

impl Permits {
    pub(super) fn new(count: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(count)))
    }

    fn take(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn give_back(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Desks {
    /// Desks for `readers`, whose requests come from nowhere else.
    pub(super) fn new(readers: Vec<Reader>, permits: Permits, clock: Clock) -> Self {
        // A queue has room for one at least.
        let free = ArrayQueue::new(readers.len().max(1));
        for reader in readers {
            assert!(free.push(Box::new(reader)).is_ok(), "it has room for all");
        }
        Self { free, permits, clock }
    }

    /// Answers `request` on this thread, or gives it back.
    pub(super) fn read(&self, request: Request) -> Option<Request> {
        let span = Span::of(request.range.clone(), request.addr.len);
        if span.bytes as usize > BUFFER_BYTES || !self.permits.take() {
            return Some(request);
        }
        let refused = match self.free.pop() {
            Some(mut reader) => {
                let refused = reader.read_now(request, &self.clock);
                assert!(self.free.push(reader).is_ok(), "it has room for what was taken out");
                refused
            }
            None => Some(request),
        };
        self.permits.give_back();
        refused
    }

    /// Ends those that are free, without waiting for a device.
    pub(super) fn close(&self) {
        std::iter::from_fn(|| self.free.pop()).for_each(|reader| reader.end());
    }
}
