//! Completion: what became of writes, syncs and the rest, and what follows from it.

use std::io;
use std::time::{Duration, Instant};

use super::batch::{Outcome, Written};
use super::ceiling::Step;
use super::moving::Moved;
use super::{Appended, Rejection, SyncFailed, SyncWork, Work, Writer};
use crate::index::SegmentId;
use crate::io::{Buffer, Completion, Operation, Token};
use crate::store::answer::AppendAnswer;
use crate::store::in_flight::Ended;
use crate::store::layout::PAGE_BYTES;

impl Writer {
    pub(super) fn complete(&mut self, completion: Completion, now: Instant) {
        let Completion { token, result, buffer } = completion;
        match self.in_flight.end(token, now) {
            Ended::InTime(Work::Write(mut written), took) => {
                let passing = is_passing(&result, written.bytes as usize) && written.retries > 0;
                match buffer.filter(|_| passing) {
                    Some(buffer) => {
                        written.retries -= 1;
                        self.write_again(written, buffer, now);
                    }
                    None => self.written(written, result, took, now),
                }
            }
            Ended::InTime(Work::Sync(sync), took) => self.synced(sync, result.map(drop), took, now),
            Ended::InTime(Work::Move { start, len }, _) => {
                let whole = matches!(result, Ok(bytes) if bytes == len as usize);
                self.move_read(start, len, buffer.filter(|_| whole));
            }
            Ended::InTime(Work::Trial, _) => {
                let whole = matches!(result, Ok(bytes) if bytes >= PAGE_BYTES as usize);
                let ours =
                    whole && buffer.is_some_and(|page| self.ceiling.superblock().is_of_this_volume(&page));
                self.volume.tried(ours, now);
            }
            Ended::InTime(Work::Raise(step), _) => self.raised(step, result, now),
            Ended::TooLate => drop(self.late.remove(&token)),
        }
    }

    /// The same bytes to the same place: nothing has been believed of the first attempt.
    fn write_again(&mut self, written: Written, buffer: Buffer, now: Instant) {
        let operation = Operation::Write { buffer, len: written.bytes as usize, at: written.at };
        let token = self.in_flight.begin(Work::Write(written), now);
        self.disk.engine.submit(token, self.disk.slot, operation);
    }

    pub(super) fn written(
        &mut self,
        written: Written,
        result: io::Result<usize>,
        took: Duration,
        now: Instant,
    ) {
        self.volume.figures.writes_in_flight.sub(1);
        self.volume.figures.device_writes.increment();
        self.volume.figures.device_write_latency.record(took);
        let result = result.and_then(|bytes| whole(bytes, written.bytes as usize));
        match result {
            Ok(()) if self.unsynced.end_write(&written, now) => self.admit(written),
            Ok(()) => self.reject_all(written),
            Err(error) => {
                self.volume.device_failed("a write", &error, now);
                self.poison(written.segment, written.generation);
                self.reject_all(written);
            }
        }
    }

    fn admit(&mut self, written: Written) {
        let figures = &self.volume.figures;
        figures.device_write_bytes.add(u64::from(written.bytes));
        for extent in written.extents {
            self.packed.remove(&extent.key);
            match extent.outcome {
                Outcome::Moved { from } => {
                    self.moves.copied.push(Moved { key: extent.key, from, to: extent.addr });
                }
                Outcome::Appended(answer) => {
                    self.volume.residents.insert(extent.key, extent.addr);
                    figures.appended_extents.increment();
                    figures.appended_bytes.add(u64::from(extent.addr.len));
                    answer.give(Appended::Stored);
                }
            }
        }
    }

    pub(super) fn raised(&mut self, step: Step, result: io::Result<usize>, now: Instant) {
        let wanted = if matches!(step, Step::Write { .. }) { PAGE_BYTES as usize } else { 0 };
        let result = result.and_then(|bytes| whole(bytes, wanted));
        if let Err(error) = &result {
            self.volume.device_failed("raising the ceiling of generations", error, now);
        }
        if let Some(next) = self.ceiling.ended(step, result.is_ok()) {
            self.raise(next, now);
        }
    }

    pub(super) fn synced(&mut self, sync: SyncWork, result: io::Result<()>, took: Duration, now: Instant) {
        self.volume.figures.device_syncs.increment();
        self.volume.figures.device_sync_latency.record(took);
        let SyncWork { segments, copied, waiters } = sync;
        // Before segments are sealed: one that holds nothing but copies would seem dead.
        self.settle_moves(copied, result.is_ok());
        let outcome = match result {
            Ok(()) => {
                for sealed in self.unsynced.end_sync(&segments) {
                    self.allocator.seal(sealed, &self.volume.segments);
                }
                Ok(())
            }
            Err(error) => {
                self.volume.device_failed("a sync", &error, now);
                for segment in self.unsynced.leave_sync(&segments) {
                    self.poison(segment, self.volume.segments.generation(segment));
                }
                Err(SyncFailed)
            }
        };
        waiters.into_iter().for_each(|(done, covered)| done(outcome.map(|()| covered)));
    }

    /// Forgets what is in `segment`, if it is still in that incarnation.
    pub(super) fn poison(&mut self, segment: u32, generation: u32) {
        if !self.unsynced.remove(segment, generation) {
            return;
        }
        let extents = self.volume.residents.forget_segment(SegmentId::new(self.volume.number, segment));
        tracing::warn!(volume = %self.volume.name, segment, extents, "segment dropped after an error");
        self.volume.figures.poisoned_segments.increment();
        if self.open.as_ref().is_some_and(|open| open.segment == segment) {
            self.open = None;
            if let Some(batch) = self.batch.take() {
                self.reject_all(batch.into_operation(&self.volume).1);
            }
        }
        self.allocator.retire(segment, &self.volume.segments);
    }

    /// The deadline of an operation is over.
    pub(super) fn give_up(&mut self, token: Token, work: Work, now: Instant) {
        let error = io::Error::from(io::ErrorKind::TimedOut);
        match work {
            Work::Write(mut written) => {
                self.volume.figures.writes_in_flight.sub(1);
                self.volume.device_failed("a write", &error, now);
                self.late.extend(written.pin.take().map(|pin| (token, pin)));
                self.poison(written.segment, written.generation);
                self.reject_all(written);
            }
            Work::Sync(sync) => self.synced(sync, Err(error), self.limits.deadline, now),
            Work::Move { start, len } => self.move_read(start, len, None),
            Work::Raise(step) => self.raised(step, Err(error), now),
            Work::Trial => self.volume.tried(false, now),
        }
    }

    pub(super) fn reject_all(&mut self, written: Written) {
        for extent in written.extents {
            self.packed.remove(&extent.key);
            match extent.outcome {
                Outcome::Appended(answer) => self.reject(answer, Rejection::Failed),
                Outcome::Moved { .. } => self.move_ended(),
            }
        }
    }

    pub(super) fn reject(&self, done: AppendAnswer, why: Rejection) {
        let figures = &self.volume.figures;
        match why {
            Rejection::Full => figures.rejected_full.increment(),
            Rejection::Failed => figures.rejected_failed.increment(),
            Rejection::Busy => figures.rejected_busy.increment(),
            Rejection::Closed => figures.rejected_out.increment(),
        }
        done.give(Appended::Rejected(why));
    }
}

/// Whether the same write may succeed at once: it was interrupted, or done in part.
fn is_passing(result: &io::Result<usize>, wanted: usize) -> bool {
    match result {
        Ok(bytes) => *bytes < wanted,
        Err(error) => matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock),
    }
}

/// A write that did less than it should, again and again, has failed.
fn whole(bytes: usize, wanted: usize) -> io::Result<()> {
    if bytes == wanted { Ok(()) } else { Err(io::Error::new(io::ErrorKind::WriteZero, "short write")) }
}
