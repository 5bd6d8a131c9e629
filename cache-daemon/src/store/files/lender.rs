//! The lender: how files get the space of free segments, and give it back.
//!
//! The writer of the volume owns the free segments; it is asked for some and answers with their numbers.
//! From then on they are nobody's else: their blocks are punched out here, and allocated again before
//! the writer gets them back. All of it blocks, on the threads that fill files.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use parking_lot::{Condvar, Mutex};

use super::space::{Charge, Space};
use crate::io::{DeviceFile, Waker};
use crate::store::volume::Volume;
use crate::store::writer::{self, Rejection};

/// See the head of the module.
pub struct Lender {
    space: Arc<Space>,
    volume: Arc<Volume>,
    /// The file of segments.
    segments: DeviceFile,
    writer: Sender<writer::Request>,
    writer_waker: Waker,
    /// How long an answer is waited for.
    deadline: Duration,
    /// Held by whoever asks: one at a time.
    asking: Mutex<()>,
    grants: Arc<Grants>,
}

/// Answers of the writer; one that comes after the deadline is not lost.
#[derive(Default)]
struct Grants {
    granted: Mutex<Granted>,
    answered: Condvar,
}

#[derive(Default)]
struct Granted {
    segments: Vec<u32>,
    answers: u64,
}

impl Lender {
    /// A lender between `space` and the writer behind `writer`.
    pub fn new(
        space: Arc<Space>,
        volume: Arc<Volume>,
        segments: DeviceFile,
        (writer, writer_waker): (Sender<writer::Request>, Waker),
        deadline: Duration,
    ) -> Self {
        let grants = Arc::default();
        Self { space, volume, segments, writer, writer_waker, deadline, asking: Mutex::new(()), grants }
    }

    /// `bytes` of space, from segments that are lent for it if need be.
    ///
    /// # Errors
    /// [`Rejection::Full`] if not enough segments are free.
    pub fn charge(&self, bytes: u64) -> Result<Charge, Rejection> {
        let _one_at_a_time = self.asking.lock();
        if let Some(charge) = self.space.charge(bytes) {
            return Ok(charge);
        }
        self.borrow(self.space.lacking(bytes))?;
        self.space.charge(bytes).ok_or(Rejection::Full)
    }

    fn borrow(&self, count: u32) -> Result<(), Rejection> {
        let before = self.grants.granted.lock().answers;
        let grants = self.grants.clone();
        let done = Box::new(move |segments| grants.answer(segments));
        let request = writer::Request::Lend { count, done };
        if self.writer.send_timeout(request, self.deadline).is_err() {
            return Err(Rejection::Failed);
        }
        self.writer_waker.wake();
        for segment in self.grants.wait(before, self.deadline) {
            self.punch(segment);
        }
        Ok(())
    }

    fn punch(&self, segment: u32) {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match self.fallocate(hole, segment) {
            Ok(()) => {
                self.space.lend(segment);
                self.volume.figures.lent_segments.add(1);
            }
            Err(error) => {
                self.volume.device_failed("giving up a segment", &error, Instant::now());
                self.give(segment);
            }
        }
    }

    /// Gives segments back that the files do not need any more.
    pub fn give_back(&self) {
        let _one_at_a_time = self.asking.lock();
        while let Some(segment) = self.space.give_back() {
            if let Err(error) = self.fallocate(FallocateFlags::empty(), segment) {
                // Somebody else took what was freed. It stays with the files, which reserve as well.
                self.volume.device_failed("taking a segment back", &error, Instant::now());
                self.space.lend(segment);
                break;
            }
            self.volume.figures.lent_segments.sub(1);
            self.give(segment);
        }
    }

    fn give(&self, segment: u32) {
        // Fails only when the writer has ended; the segment is found free at the next start.
        let _ = self.writer.send(writer::Request::TakeBack(segment));
        self.writer_waker.wake();
    }

    fn fallocate(&self, flags: FallocateFlags, segment: u32) -> io::Result<()> {
        // A simulated device has all of its blocks.
        let Some(file) = self.segments.as_file() else { return Ok(()) };
        let start = self.volume.layout.segment_at(segment).0;
        let start = i64::try_from(start).expect("files are shorter than 2^63");
        loop {
            match fallocate(file, flags, start, i64::from(self.volume.layout.segment_bytes)) {
                Err(Errno::EINTR) => {}
                done => return Ok(done?),
            }
        }
    }
}

impl Grants {
    fn answer(&self, segments: Vec<u32>) {
        let mut granted = self.granted.lock();
        granted.segments.extend(segments);
        granted.answers += 1;
        self.answered.notify_all();
    }

    /// What was granted once there is an answer after those `before`, or the deadline is over.
    fn wait(&self, before: u64, deadline: Duration) -> Vec<u32> {
        let mut granted = self.granted.lock();
        if granted.answers == before {
            self.answered.wait_for(&mut granted, deadline);
        }
        std::mem::take(&mut granted.segments)
    }
}
