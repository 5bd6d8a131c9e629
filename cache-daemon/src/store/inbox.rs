//! The inbox of a reader: the requests in its channel, and the one that was taken and could not begin yet.

use crossbeam::channel::{Receiver, TryRecvError};

/// See the head of the module.
pub(super) struct Inbox<T> {
    requests: Receiver<T>,
    waiting: Option<T>,
}

impl<T> Inbox<T> {
    /// The inbox at the end of a channel.
    pub(super) fn new(requests: Receiver<T>) -> Self {
        Self { requests, waiting: None }
    }

    /// The request that waits, or else the next one, of which `fresh` is told.
    ///
    /// # Errors
    /// If there is none now, or none will come any more.
    pub(super) fn take(&mut self, fresh: impl FnOnce(&T)) -> Result<T, TryRecvError> {
        match self.waiting.take() {
            Some(waiting) => Ok(waiting),
            None => self.requests.try_recv().inspect(fresh),
        }
    }

    /// `request` was taken and has to wait: it is the next.
    pub(super) fn put_back(&mut self, request: T) {
        assert!(self.waiting.is_none(), "one request at a time is taken");
        self.waiting = Some(request);
    }

    /// The request that waits.
    pub(super) fn waiting(&self) -> Option<&T> {
        self.waiting.as_ref()
    }
}
