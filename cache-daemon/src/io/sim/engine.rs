//! The engine over simulated devices: virtual time, an order of completions drawn from a seed.
//!
//! Time passes only here: each call that would wait jumps to the next completion instead of sleeping.
//! If nothing can complete (nothing is in flight, or all of it stalled), the wait is a real one, for the
//! waker, so that a store's thread works with this engine as with any.

use std::io;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::device::{SimDevice, Started};
use crate::io::file::sim_device;
use crate::io::slots::Slots;
use crate::io::{Buffer, Completion, DeviceFile, Engine, FileSlot, Operation, Token, Waker};

/// An engine whose devices are simulated. The same seed, devices and calls give the same completions.
#[derive(Debug)]
pub struct SimEngine {
    depth: usize,
    files: Slots<SimDevice>,
    rng: StdRng,
    queued: Vec<(Token, FileSlot, Operation)>,
    flying: Vec<Flying>,
    now_ticks: u64,
    wakes: Waker,
}

#[derive(Debug)]
struct Flying {
    token: Token,
    slot: FileSlot,
    buffer: Option<Buffer>,
    started: Started,
    due_ticks: u64,
    /// The release that a stalled operation waits for.
    stalled: Option<u64>,
}

impl SimEngine {
    /// An engine of `depth` whose completions are ordered by `seed`.
    pub fn new(depth: usize, seed: u64) -> io::Result<Self> {
        assert!(depth > 0, "an engine has a depth");
        Ok(Self {
            depth,
            files: Slots::new(),
            rng: StdRng::seed_from_u64(seed),
            queued: Vec::new(),
            flying: Vec::new(),
            now_ticks: 0,
            wakes: Waker::new()?,
        })
    }

    fn start_queued(&mut self) {
        for (token, slot, operation) in std::mem::take(&mut self.queued) {
            let device = self.files.get(slot);
            let stalled = device.stalls();
            let due_ticks = self.now_ticks + device.latency_ticks(&mut self.rng);
            let (started, buffer) = operation.by(
                |into, at| device.start_read(into, at),
                |from, at| device.start_write(from, at),
                || device.start_sync(),
            );
            self.flying.push(Flying { token, slot, buffer, started, due_ticks, stalled });
        }
    }

    /// Jumps to the next operation that can complete, and completes all that are due by then.
    fn land(&mut self, done: &mut Vec<Completion>) {
        let files = &self.files;
        let ready = |flying: &Flying| match flying.stalled {
            Some(release) => files.get(flying.slot).released(release),
            None => true,
        };
        let Some(next_ticks) = self.flying.iter().filter(|flying| ready(flying)).map(|it| it.due_ticks).min()
        else {
            return;
        };
        self.now_ticks = self.now_ticks.max(next_ticks);
        let now_ticks = self.now_ticks;
        let due = |flying: &Flying| flying.due_ticks <= now_ticks && ready(flying);
        let (mut over, flying): (Vec<_>, _) = std::mem::take(&mut self.flying).into_iter().partition(due);
        self.flying = flying;
        // In virtual time's order; the sort is stable, so ties stay in the order of submission.
        over.sort_by_key(|flying| flying.due_ticks);
        done.extend(over.into_iter().map(|flying| self.finish(flying)));
    }

    fn finish(&mut self, flying: Flying) -> Completion {
        let Flying { token, slot, buffer, started, .. } = flying;
        let result = self.files.get(slot).finish(started);
        self.files.end(slot);
        Completion { token, result, buffer }
    }
}

impl Engine for SimEngine {
    fn register(&mut self, file: DeviceFile) -> io::Result<FileSlot> {
        let device = sim_device(file)?;
        device.attach(self.wakes.clone());
        Ok(self.files.insert(device))
    }

    fn forget(&mut self, slot: FileSlot) {
        self.files.remove(slot);
    }

    fn submit(&mut self, token: Token, file: FileSlot, operation: Operation) {
        operation.check();
        assert!(self.queued.len() + self.flying.len() < self.depth, "more than the engine's depth in flight");
        self.files.begin(file);
        self.queued.push((token, file, operation));
    }

    fn complete(&mut self, timeout: Duration, done: &mut Vec<Completion>) -> io::Result<()> {
        let before = done.len();
        let woken = self.wakes.take();
        self.start_queued();
        self.land(done);
        if woken || done.len() > before || timeout.is_zero() {
            return Ok(());
        }
        self.wakes.wait(timeout)?;
        self.land(done);
        Ok(())
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn waker(&self) -> Waker {
        self.wakes.clone()
    }

    fn name(&self) -> &'static str {
        "sim"
    }
}
