//! The verifier: reads complete files of an earlier run before the kernel may be given them.
//!
//! What this run has filled it has seen. What an earlier one has filled is read once, in the background, at
//! a bounded rate; until then the file is served by reads, which are checked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use super::file::BackingFile;
use super::inventory::Inventory;
use super::reader::Request;
use super::volume_files::VolumeFiles;
use crate::store::answer::ReadAnswer;
use crate::store::config::Clock;
use crate::store::reader::{Miss, Purpose};
use crate::store::roster::Roster;

/// How often it looks whether there is something to verify.
const INTERVAL: Duration = Duration::from_millis(200);

/// See the head of the module.
pub struct Verifier {
    /// The volumes.
    pub volumes: Arc<Roster<Arc<VolumeFiles>>>,
    /// Their files.
    pub inventory: Arc<Inventory>,
    /// Bytes that are read a second at most.
    pub bytes_per_s: u64,
    /// The longest that a reader takes for an answer.
    pub deadline: Duration,
    /// Tells the time.
    pub clock: Clock,
    /// Closed when it is to end.
    pub stop: Receiver<()>,
}

/// It is to end.
struct Stopped;

impl Verifier {
    /// Works until it is told to stop.
    pub fn run(self) {
        while self.pause(INTERVAL).is_ok() {
            if self.inventory.take_unverified() && self.verify_all().is_err() {
                return;
            }
        }
    }

    fn verify_all(&self) -> Result<(), Stopped> {
        for object in self.inventory.objects() {
            // One file at a time: its space is counted as long as it is held here.
            let Some(file) = self.inventory.get(&object) else { continue };
            let number = file.identity().volume;
            let volume = self.volumes.iter().find(|volume| volume.volume.number == number);
            if let Some(volume) = volume.filter(|_| file.is_complete() && !file.is_verified()) {
                self.verify(volume, &file)?;
            }
        }
        Ok(())
    }

    fn verify(&self, volume: &VolumeFiles, file: &Arc<BackingFile>) -> Result<(), Stopped> {
        for chunk in file.unverified() {
            let began = Instant::now();
            match self.read(volume, file, chunk) {
                Ok(()) => {}
                Err(Miss::Absent | Miss::Corrupt) => break,
                Err(Miss::Failed | Miss::Busy) => {
                    // The device does not answer, or has better things to do: once more, later.
                    volume.inventory.ask_to_verify();
                    return self.pause(Duration::from_secs(1));
                }
            }
            let bytes = f64::from(file.identity().chunk_bytes(chunk));
            let cost = Duration::from_secs_f64(bytes / self.bytes_per_s.max(1) as f64);
            self.pause(cost.saturating_sub(began.elapsed()))?;
        }
        Ok(())
    }

    fn read(&self, volume: &VolumeFiles, file: &Arc<BackingFile>, chunk: u32) -> Result<(), Miss> {
        let (done, answer) = bounded(1);
        let request = Request {
            file: file.clone(),
            chunk,
            range: 0..file.identity().chunk_bytes(chunk),
            asked: (self.clock)(),
            purpose: Purpose::Scrub,
            done: ReadAnswer::to(Box::new(move |read| _ = done.send(read.map(|_| ())))),
        };
        if volume.read(request).is_err() {
            return Err(Miss::Busy);
        }
        answer.recv_timeout(2 * self.deadline).unwrap_or(Err(Miss::Failed))
    }

    fn pause(&self, wait: Duration) -> Result<(), Stopped> {
        match self.stop.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            _ => Err(Stopped),
        }
    }
}
