//! Admission: from requests to packed extents.
//!
//! Takes what waits in the channel as long as there are buffers for it, refuses what waits too long, and
//! finds the segment that each extent goes to.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::batch::{Batch, Open};
use super::{Append, Appended, Rejection, Request, Writer};
use crate::io::Buffer;
use crate::store::layout::extent_bytes;

impl Writer {
    pub(super) fn take_requests(&mut self, now: Instant) {
        while self.syncs.is_empty() && !self.closing {
            let Some(request) = self.next_request() else { break };
            match request {
                Request::Append(append) => {
                    if let Err(append) = self.append(append, now) {
                        self.waiting = Some(append);
                        break;
                    }
                }
                Request::Sync(done) => self.syncs.push(done),
                Request::Close(done) => {
                    self.syncs.push(done);
                    self.closing = true;
                }
            }
        }
        // Full batches went out by themselves. A part of one goes out when nothing is there to join it.
        if self.waiting.is_none() {
            self.write_batch(now);
        }
        self.refuse_late(now);
    }

    pub(super) fn next_request(&mut self) -> Option<Request> {
        if let Some(append) = self.waiting.take() {
            return Some(Request::Append(append));
        }
        let request = self.requests.try_recv().ok()?;
        if matches!(request, Request::Append(_)) {
            self.volume.figures.appends_queued.sub(1);
        }
        Some(request)
    }

    /// Appends that wait longer than a write may take are refused, so that nothing waits for a silent device.
    pub(super) fn refuse_late(&mut self, now: Instant) {
        while let Some(append) = self.waiting.take() {
            if now.saturating_duration_since(append.asked) < self.limits.deadline {
                self.waiting = Some(append);
                break;
            }
            self.reject(append.done, Rejection::Failed);
            match self.next_request() {
                Some(Request::Append(append)) => self.waiting = Some(append),
                Some(Request::Sync(done)) => self.syncs.push(done),
                Some(Request::Close(done)) => {
                    self.syncs.push(done);
                    self.closing = true;
                }
                None => break,
            }
        }
    }

    /// Packs one extent, or gives it back if it has to wait for a buffer.
    pub(super) fn append(&mut self, append: Append, now: Instant) -> Result<(), Append> {
        if !self.volume.is_in() {
            self.reject(append.done, Rejection::Failed);
            return Ok(());
        }
        if self.volume.residents.get(&append.key).is_some() {
            append.done.give(Appended::Stored);
            return Ok(());
        }
        if self.packed.contains(&append.key) {
            self.reject(append.done, Rejection::Busy);
            return Ok(());
        }
        let bytes = extent_bytes(append.data.len() as u32);
        if self.batch.as_ref().is_some_and(|batch| !batch.has_room(bytes)) {
            self.write_batch(now);
        }
        let fits = self.open.as_ref().is_some_and(|open| open.has_room(bytes, &self.volume.layout));
        // The open segment stays open if there is no other: what is smaller may still fit.
        if !fits && !self.next_segment(bytes, now) {
            self.reject(append.done, Rejection::Full);
            return Ok(());
        }
        let buffer = match &self.batch {
            Some(_) => None,
            None => match self.free_buffer(now) {
                Some(buffer) => Some(buffer),
                None => return Err(append),
            },
        };
        let open = self.open.as_mut().expect("there is one or was made one above");
        if let Some(buffer) = buffer {
            self.batch = Some(Batch::begin(&self.volume, open, buffer));
        }
        let batch = self.batch.as_mut().expect("there was one or was made one above");
        self.packed.insert(append.key);
        batch.push(&self.volume, open, append);
        Ok(())
    }

    /// A buffer for the next batch, if one may be written now.
    pub(super) fn free_buffer(&mut self, now: Instant) -> Option<Buffer> {
        let reading = self.volume.reads_in_flight.load(Relaxed) > 0;
        let depth = if reading { self.limits.depth_under_reads } else { self.limits.depth };
        if self.in_flight.len() >= depth.max(1) || now < self.pace {
            return None;
        }
        self.disk.pool.take()
    }

    /// Seals the open segment and begins one that takes an extent of `bytes`: whether there was a free one.
    pub(super) fn next_segment(&mut self, bytes: u32, now: Instant) -> bool {
        self.reclaim();
        // Generations run short only if the device failed to raise their ceiling in time.
        let allowed = self.ceiling.allows(self.allocator.next_generation());
        if bytes > self.volume.layout.room_bytes() || !allowed {
            return false;
        }
        let Some((segment, generation)) = self.allocator.take(&self.volume.segments) else { return false };
        self.write_batch(now);
        self.seal();
        self.open = Some(Open::fresh(segment, generation));
        true
    }

    pub(super) fn reclaim(&mut self) {
        let reclaimed = self.allocator.reclaim(&self.volume.segments);
        self.volume.figures.segments_reclaimed.add(u64::from(reclaimed));
    }

    pub(super) fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            if self.unsynced.seal(open.segment) {
                return;
            }
            self.allocator.seal(open.segment, &self.volume.segments);
        }
    }
}
