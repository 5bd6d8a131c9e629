//! Admission: from requests to packed extents.
//!
//! Takes what waits in the channel as long as there are buffers for it, refuses what waits too long, and
//! finds the segment that each extent goes to.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use crossbeam::channel::TryRecvError;

use super::batch::{Batch, Open, Outcome};
use super::{Append, Appended, LendDone, Rejection, Request, Writer};
use crate::io::Buffer;
use crate::object::ExtentKey;
use crate::store::layout::extent_bytes;

/// Whether an extent can be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// Now.
    Ready,
    /// When a buffer is free, or a segment has been emptied.
    Wait,
    /// No: there is no segment for it.
    Full,
}

impl Writer {
    pub(super) fn take_requests(&mut self, now: Instant) {
        while self.syncs.is_empty() && !self.closing {
            let Some(request) = self.next_request() else { break };
            if let Some(append) = self.obey(request)
                && let Err(append) = self.append(append, now)
            {
                self.waiting = Some(append);
                break;
            }
        }
        // Full batches went out by themselves. A part of one goes out when nothing is there to join it, and what is moved
        // when it is all that was read: appends wait for that.
        if self.waiting.is_none() || self.is_moving() {
            self.write_batch(now);
        }
        self.refuse_late(now);
    }

    pub(super) fn next_request(&mut self) -> Option<Request> {
        if let Some(append) = self.waiting.take() {
            return Some(Request::Append(append));
        }
        let request = match self.requests.try_recv() {
            Ok(request) => request,
            Err(TryRecvError::Empty) => return None,
            Err(TryRecvError::Disconnected) => {
                // Nobody can ask any more: the store was not even opened to the end.
                self.closing = true;
                return None;
            }
        };
        if let Request::Append(append) = &request {
            self.volume.figures.appends_queued.sub(1);
            self.volume.queued_bytes.fetch_sub(append.data.len() as u64, Relaxed);
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
            if let Some(request) = self.next_request() {
                self.waiting = self.obey(request);
            }
        }
    }

    /// Does what is asked, or notes it; an append is given back: it may have to wait.
    fn obey(&mut self, request: Request) -> Option<Append> {
        match request {
            Request::Append(append) => return Some(append),
            Request::Sync(done) => self.syncs.push(done),
            Request::Close(done) => {
                self.syncs.push(done);
                self.closing = true;
            }
            Request::Lend { count, done } => self.lend(count, done),
            Request::TakeBack(segment) => self.allocator.take_back(segment),
        }
        None
    }

    /// Gives up `count` free segments. What is gained by moving is not to be lost before the move has ended.
    fn lend(&mut self, count: u32, done: LendDone) {
        self.reclaim();
        let reserve = self.reserve();
        let lent = match self.volume.is_in() && !self.is_moving() {
            true => self.allocator.lend(count, reserve),
            false => Vec::new(),
        };
        self.moves.wanted |= lent.is_empty();
        done(lent);
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
        // What is gained by moving is not to be eaten up before the move has ended. A policy that replaces has given up others
        // for this one already: it waits.
        if self.is_moving() {
            return Err(append);
        }
        match self.find_space(extent_bytes(append.data.len() as u32), false, now) {
            Space::Ready => {
                let Append { key, data, done, .. } = append;
                self.pack(key, &data, Outcome::Appended(done));
            }
            Space::Wait => return Err(append),
            Space::Full => {
                self.moves.wanted = true;
                self.reject(append.done, Rejection::Full);
            }
        }
        Ok(())
    }

    /// Makes sure that there are an open segment and a batch with room for an extent of `bytes`.
    pub(super) fn find_space(&mut self, bytes: u32, for_move: bool, now: Instant) -> Space {
        if self.batch.as_ref().is_some_and(|batch| !batch.has_room(bytes)) {
            self.write_batch(now);
        }
        let fits = self.open.as_ref().is_some_and(|open| open.has_room(bytes, &self.volume.layout));
        // The open segment stays open if there is no other: what is smaller may still fit.
        if !fits && !self.next_segment(bytes, for_move, now) {
            return Space::Full;
        }
        if self.batch.is_none() {
            let Some(buffer) = self.free_buffer(now) else { return Space::Wait };
            let open = self.open.as_mut().expect("there was one or was made one above");
            self.batch = Some(Batch::begin(&self.volume, open, buffer));
        }
        Space::Ready
    }

    /// Packs an extent for which [`Writer::find_space`] has found space.
    pub(super) fn pack(&mut self, key: ExtentKey, data: &[u8], outcome: Outcome) {
        let (Some(open), Some(batch)) = (&mut self.open, &mut self.batch) else {
            unreachable!("space was found")
        };
        self.packed.insert(key);
        batch.push(&self.volume, open, (key, data), outcome);
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
    pub(super) fn next_segment(&mut self, bytes: u32, for_move: bool, now: Instant) -> bool {
        self.reclaim();
        let reserve = if for_move { 0 } else { self.reserve() };
        // Generations run short only if the device failed to raise their ceiling in time.
        let allowed = self.ceiling.allows(self.allocator.next_generation());
        if bytes > self.volume.layout.room_bytes() || !allowed || self.allocator.free() <= reserve {
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
