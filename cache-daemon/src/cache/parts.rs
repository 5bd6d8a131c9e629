//! Parts: one answer put together from several chunks.
//!
//! Most reads lie in one chunk and never come here: they are answered from the device's buffer or the
//! fetched bytes without a copy of ours.

use std::sync::Arc;

use fuse_frontend::errno::Errno;
use fuse_frontend::ticket::ReadTicket;
use parking_lot::Mutex;

/// Takes the bytes of one part of a read, or why there are none; called exactly once, on any thread.
pub(super) type Sink = Box<dyn FnOnce(Result<&[u8], Errno>) + Send>;

/// A sink that answers `ticket` with what it gets.
pub(super) fn whole(ticket: ReadTicket) -> Sink {
    Box::new(move |result| answer(ticket, result))
}

/// Sinks for parts of `lengths`, in order; when the last is filled, `ticket` is answered with all of
/// them, or with the first error.
pub(super) fn gathered(ticket: ReadTicket, lengths: &[u32]) -> Vec<Sink> {
    let total: u32 = lengths.iter().sum();
    let gather = Arc::new(Mutex::new(Gather {
        bytes: vec![0; total as usize],
        error: None,
        missing: lengths.len(),
        ticket: Some(ticket),
    }));
    let mut start = 0;
    lengths
        .iter()
        .map(|&len| {
            let (at, gather) = (start as usize, gather.clone());
            start += len;
            Box::new(move |result: Result<&[u8], Errno>| gather.lock().put(at, len as usize, result)) as Sink
        })
        .collect()
}

struct Gather {
    bytes: Vec<u8>,
    error: Option<Errno>,
    missing: usize,
    ticket: Option<ReadTicket>,
}

impl Gather {
    fn put(&mut self, at: usize, len: usize, result: Result<&[u8], Errno>) {
        match result {
            Ok(bytes) => self.bytes[at..at + len].copy_from_slice(bytes),
            Err(errno) => self.error = self.error.or(Some(errno)),
        }
        self.missing -= 1;
        if self.missing == 0
            && let Some(ticket) = self.ticket.take()
        {
            answer(ticket, self.error.map_or(Ok(&self.bytes[..]), Err));
        }
    }
}

fn answer(ticket: ReadTicket, result: Result<&[u8], Errno>) {
    match result {
        Ok(bytes) => ticket.data(bytes),
        Err(errno) => ticket.error(errno),
    }
}
