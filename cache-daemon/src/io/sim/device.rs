//! The device: media behind a plan of faults, a power switch, and a count of boundaries.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::faults::{Faults, Injected};
use super::media::{Media, Moment, SECTOR_BYTES, WriteId, torn_sectors};
use crate::io::{DeviceOffset, Waker};

/// A simulated device, or a part of one; clones are the same one. As a [`crate::io::DeviceFile`] it serves a
/// [`super::SimEngine`] or blocking calls.
#[derive(Clone, Debug)]
pub struct SimDevice {
    state: Arc<Mutex<State>>,
    /// What this handle reads, writes and syncs.
    part: Range<u64>,
}

#[derive(Debug)]
struct State {
    media: Media,
    faults: Faults,
    injected: Injected,
    rng: StdRng,
    powered: bool,
    boundaries: u64,
    cut_after: Option<u64>,
    snapshots: Option<Vec<Media>>,
    /// Grows when stalled operations are let go.
    releases: u64,
    /// The engines that may wait for that.
    wakers: Vec<Waker>,
}

/// A write or sync that has started, to be ended by [`SimDevice::finish`].
#[derive(Debug)]
pub(super) enum Started {
    /// Nothing more to do: the result as it is.
    Over(Result<usize, i32>),
    Write(WriteId, usize),
    Sync(Moment, Range<u64>),
}

impl SimDevice {
    /// A perfect device of zeros; `seed` decides everything that [`SimDevice::set_faults`] makes random.
    pub fn new(size_bytes: u64, seed: u64) -> Self {
        assert!(size_bytes.is_multiple_of(SECTOR_BYTES as u64), "a device is made of sectors");
        Self::of(Media::new(size_bytes), StdRng::seed_from_u64(seed))
    }

    fn of(media: Media, rng: StdRng) -> Self {
        let part = 0..media.size_bytes();
        let state = State {
            media,
            faults: Faults::default(),
            injected: Injected::default(),
            rng,
            powered: true,
            boundaries: 0,
            cut_after: None,
            snapshots: None,
            releases: 0,
            wakers: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), part }
    }

    /// A part of it, for a file: with the same power and the same faults, but its syncs cover only itself.
    pub fn part(&self, part: Range<u64>) -> Self {
        assert!(part.start <= part.end && self.part.start + part.end <= self.part.end, "{part:?}");
        let part = self.part.start + part.start..self.part.start + part.end;
        Self { state: self.state.clone(), part }
    }

    /// Makes it zeros that are durable, and forgets what was being written to it: like blocks that a file
    /// system gives to a new file.
    pub fn discard(&self) {
        self.state.lock().media.discard(&self.part);
    }

    /// Replaces the plan of faults, from the next operation on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// How often faults happened so far.
    pub fn injected(&self) -> Injected {
        self.state.lock().injected
    }

    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.part.end - self.part.start
    }

    /// Writes and syncs that have started: each is a point at which power may go.
    pub fn boundaries(&self) -> u64 {
        self.state.lock().boundaries
    }

    /// Cuts the power when `boundaries` writes and syncs have started and the next one starts: that one
    /// is caught in the middle, a write lands like any unsynced one.
    pub fn cut_after(&self, boundaries: u64) {
        self.state.lock().cut_after = Some(boundaries);
    }

    /// Cuts the power now: synced data stays, of the rest whatever `rng` likes. Every operation fails
    /// with EIO from now on, those in flight included.
    pub fn power_cut(&self, rng: &mut impl Rng) {
        let mut state = self.state.lock();
        state.media.power_cut(rng);
        state.power_off();
    }

    /// The device after a restart: another handle with what survived, perfect and powered again. Without a
    /// power cut before, the restart is only the process's: the volatile cache is still there. The old
    /// handle no longer reaches it.
    pub fn reopen(&self) -> Self {
        let mut state = self.state.lock();
        let rng = StdRng::from_rng(&mut state.rng);
        Self::of(state.media.clone(), rng)
    }

    /// Keeps a copy of the device at every boundary from now on, for [`SimDevice::take_snapshots`].
    pub fn keep_snapshots(&self) {
        self.state.lock().snapshots = Some(Vec::new());
    }

    /// The device as it was when each boundary started, its write in flight: what [`SimDevice::cut_after`]
    /// would show, without running the workload again for each. Cut their power and reopen them.
    pub fn take_snapshots(&self) -> Vec<Self> {
        let mut state = self.state.lock();
        let snapshots = state.snapshots.take().unwrap_or_default();
        snapshots.into_iter().map(|media| Self::of(media, StdRng::from_rng(&mut state.rng))).collect()
    }

    /// Flips `bits` random bits in pages that were written.
    pub fn rot(&self, bits: usize, rng: &mut impl Rng) {
        let mut state = self.state.lock();
        for _ in 0..bits {
            if let Some((at, len)) = state.media.written_page(rng) {
                state.media.rot(at, len, rng);
                state.injected.rotten_bits += 1;
            }
        }
    }

    /// Lets go of every operation that stalled.
    pub fn release_stalled(&self) {
        let mut state = self.state.lock();
        state.releases += 1;
        state.wake_engines();
    }

    /// Reads without an engine: faults apply, but nothing stalls.
    pub fn read_at(&self, into: &mut [u8], at: DeviceOffset) -> io::Result<usize> {
        result(self.state.lock().read(into, at.0, &self.part))
    }

    /// Writes without an engine: faults apply, but nothing stalls.
    pub fn write_at(&self, from: &[u8], at: DeviceOffset) -> io::Result<usize> {
        let mut state = self.state.lock();
        let started = state.start_write(from, at.0, &self.part);
        result(state.finish(started))
    }

    /// Syncs without an engine.
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let started = state.start_sync(&self.part);
        result(state.finish(started)).map(drop)
    }

    pub(super) fn attach(&self, waker: Waker) {
        self.state.lock().wakers.push(waker);
    }

    pub(super) fn start_read(&self, into: &mut [u8], at: u64) -> Started {
        Started::Over(self.state.lock().read(into, at, &self.part))
    }

    pub(super) fn start_write(&self, from: &[u8], at: u64) -> Started {
        self.state.lock().start_write(from, at, &self.part)
    }

    pub(super) fn start_sync(&self) -> Started {
        self.state.lock().start_sync(&self.part)
    }

    /// Ends what was started: its result as the caller gets it. Without power that is EIO, whatever landed.
    pub(super) fn finish(&self, started: Started) -> io::Result<usize> {
        result(self.state.lock().finish(started))
    }

    /// How many ticks the next operation takes.
    pub(super) fn latency_ticks(&self, rng: &mut impl Rng) -> u64 {
        1 + rng.random_range(0..=self.state.lock().faults.latency_ticks_max)
    }

    /// Whether the next operation stalls: if so, the release that it waits for.
    pub(super) fn stalls(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let stalls = state.chance(|faults| faults.stall);
        state.injected.stalls += u64::from(stalls);
        stalls.then_some(state.releases)
    }

    /// Whether what stalled at `release` may go on.
    pub(super) fn released(&self, release: u64) -> bool {
        let state = self.state.lock();
        state.releases > release || !state.powered
    }
}

fn result(done: Result<usize, i32>) -> io::Result<usize> {
    done.map_err(io::Error::from_raw_os_error)
}

/// Where on the device `at` of `part` is, and how much of `len` bytes from there lies in it.
fn within(part: &Range<u64>, at: u64, len: usize) -> (u64, usize) {
    let at = part.start.saturating_add(at);
    (at, usize::try_from(part.end.saturating_sub(at)).unwrap_or(usize::MAX).min(len))
}

impl State {
    fn chance(&mut self, rate: impl Fn(&Faults) -> f64) -> bool {
        let rate = rate(&self.faults);
        rate > 0.0 && self.rng.random_bool(rate)
    }

    fn power_off(&mut self) {
        self.powered = false;
        self.wake_engines();
    }

    fn wake_engines(&self) {
        self.wakers.iter().for_each(Waker::wake);
    }

    fn read(&mut self, into: &mut [u8], at: u64, part: &Range<u64>) -> Result<usize, i32> {
        if !self.powered {
            return Err(libc::EIO);
        }
        if self.chance(|faults| faults.interrupted) {
            self.injected.interrupted += 1;
            return Err(libc::EINTR);
        }
        let (at, len) = within(part, at, into.len());
        if self.faults.touches_bad(at, len) || self.chance(|faults| faults.read_error) {
            self.injected.read_errors += 1;
            return Err(libc::EIO);
        }
        let len = self.shorten(len);
        if len > 0 && self.chance(|faults| faults.rot) {
            self.injected.rotten_bits += 1;
            self.media.rot(at, len, &mut self.rng);
        }
        self.media.read(at, &mut into[..len]);
        Ok(len)
    }

    fn shorten(&mut self, len: usize) -> usize {
        if len <= SECTOR_BYTES || !self.chance(|faults| faults.short) {
            return len;
        }
        self.injected.short += 1;
        self.rng.random_range(1..len.div_ceil(SECTOR_BYTES)) * SECTOR_BYTES
    }

    fn start_write(&mut self, from: &[u8], at: u64, part: &Range<u64>) -> Started {
        if !self.powered {
            return Started::Over(Err(libc::EIO));
        }
        if self.chance(|faults| faults.interrupted) {
            self.injected.interrupted += 1;
            return Started::Over(Err(libc::EINTR));
        }
        let (at, len) = within(part, at, from.len());
        if (len == 0 && !from.is_empty()) || self.chance(|faults| faults.no_space) {
            self.injected.no_space += 1;
            return Started::Over(Err(libc::ENOSPC));
        }
        if self.faults.touches_bad(at, len) || self.chance(|faults| faults.write_error) {
            self.injected.write_errors += 1;
            return self.fail_write(&from[..len], at);
        }
        let len = self.shorten(len);
        let started = self.land(&from[..len], at);
        self.boundary();
        started
    }

    /// EIO, and nobody knows what landed.
    fn fail_write(&mut self, from: &[u8], at: u64) -> Started {
        if self.rng.random_bool(0.5) {
            self.land_torn(from, at);
        }
        self.boundary();
        Started::Over(Err(libc::EIO))
    }

    fn land(&mut self, from: &[u8], at: u64) -> Started {
        if self.chance(|faults| faults.torn_write) {
            self.injected.torn_writes += 1;
            self.land_torn(from, at);
            return Started::Over(Ok(from.len()));
        }
        let at =
            if self.chance(|faults| faults.misdirected_write) { self.misdirect(at, from.len()) } else { at };
        Started::Write(self.media.write(at, from), from.len())
    }

    fn land_torn(&mut self, from: &[u8], at: u64) {
        for sector in torn_sectors(from.len(), &mut self.rng) {
            let write = self.media.write(at + sector.start as u64, &from[sector]);
            self.media.complete(write);
        }
    }

    /// Somewhere else on the device where `len` bytes fit, if there is such a place.
    fn misdirect(&mut self, at: u64, len: usize) -> u64 {
        let places = (self.media.size_bytes() - len as u64) / 4096;
        let elsewhere = self.rng.random_range(0..=places) * 4096;
        self.injected.misdirected_writes += u64::from(elsewhere != at);
        elsewhere
    }

    fn start_sync(&mut self, part: &Range<u64>) -> Started {
        if !self.powered {
            return Started::Over(Err(libc::EIO));
        }
        let submitted = self.media.now();
        self.boundary();
        Started::Sync(submitted, part.clone())
    }

    /// One more write or sync has started: power may go now.
    fn boundary(&mut self) {
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.push(self.media.clone());
        }
        self.boundaries += 1;
        if self.cut_after.is_some_and(|cut| self.boundaries > cut) {
            self.media.power_cut(&mut self.rng);
            self.power_off();
        }
    }

    fn finish(&mut self, started: Started) -> Result<usize, i32> {
        if !self.powered {
            return Err(libc::EIO);
        }
        match started {
            Started::Over(result) => result,
            Started::Write(write, len) => {
                self.media.complete(write);
                Ok(len)
            }
            Started::Sync(submitted, part) if self.chance(|faults| faults.sync_error) => {
                self.injected.sync_errors += 1;
                self.media.fail_sync(submitted, &part, &mut self.rng);
                Err(libc::EIO)
            }
            Started::Sync(submitted, part) => {
                self.media.sync(submitted, &part);
                Ok(0)
            }
        }
    }
}
