//! Cases: a policy at a cache size, played through a trace, several at a time.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crossbeam::channel::Sender;
use serde::Serialize;

use super::origin::{Clock, Model};
use super::{Trace, TraceError, Use};
use crate::policy::eviction::{Access, Evictor, PolicyKind, Rules, Touched};

/// Uses between two looks at whether to stop, and two notes of how far a run is.
const STRIDE: u64 = 1 << 16;

/// A policy at a cache size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Case {
    /// The policy.
    pub policy: PolicyKind,
    /// The cache.
    pub cache_bytes: u64,
}

/// What all cases have in common.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What policies are told.
    pub rules: Rules,
    /// What time means.
    pub model: Model,
    /// The epoch, from 0, from which on uses count.
    pub from_epoch: u32,
}

/// What came of a case. Uses of what was never read before cannot hit and count only as fetched.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Outcome {
    /// Uses of objects that had been used before.
    pub uses: u64,
    /// Of these, found in the cache.
    pub hits: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of those found in the cache.
    pub hit_bytes: u64,
    /// Objects that were fetched: GETs of one object each.
    pub requests: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Objects that went for others.
    pub evicted: u64,
    /// Bytes that went.
    pub evicted_bytes: u64,
    /// What the epochs took, s.
    pub elapsed_s: f64,
    /// How long readers waited of that, s.
    pub waited_s: f64,
    /// Memory that the policy took in the end, bytes.
    pub memory_bytes: usize,
}

impl Outcome {
    /// Hits among the uses that could hit.
    pub fn hit_ratio(&self) -> f64 {
        self.hits as f64 / self.uses.max(1) as f64
    }

    /// The same in bytes.
    pub fn byte_hit_ratio(&self) -> f64 {
        self.hit_bytes as f64 / self.bytes.max(1) as f64
    }

    /// Bytes that were fetched again.
    pub fn fetched_again_bytes(&self) -> u64 {
        self.bytes - self.hit_bytes
    }
}

/// How far the runs are, and whether they are to go on.
#[derive(Debug, Default)]
pub struct Progress {
    uses: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Uses that were played so far, of all cases.
    pub fn uses(&self) -> u64 {
        self.uses.load(Relaxed)
    }

    /// Ends the runs soon.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }
}

/// Runs all cases on `threads` threads, each in turn taking the next; outcomes come with the number of their case.
pub fn run_all(
    trace: &dyn Trace,
    cases: &[Case],
    settings: &Settings,
    threads: usize,
    progress: &Progress,
    outcomes: &Sender<(usize, Result<Outcome, TraceError>)>,
) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, cases.len().max(1)) {
            scope.spawn(|| {
                while let Some((number, case)) = take(&next, cases)
                    && !progress.stop.load(Relaxed)
                {
                    // Nobody listens any more: nothing is lost.
                    let _ = outcomes.send((number, run(trace, *case, settings, progress)));
                }
            });
        }
    });
}

fn take<'a>(next: &AtomicUsize, cases: &'a [Case]) -> Option<(usize, &'a Case)> {
    let number = next.fetch_add(1, Relaxed);
    Some((number, cases.get(number)?))
}

/// Runs one case.
///
/// # Errors
/// If the trace cannot be read.
pub fn run(
    trace: &dyn Trace,
    case: Case,
    settings: &Settings,
    progress: &Progress,
) -> Result<Outcome, TraceError> {
    let mut run = Run {
        evictor: Evictor::new(case.policy, case.cache_bytes, &settings.rules),
        seen: vec![0; trace.objects().div_ceil(64) as usize],
        settings,
        victims: Vec::new(),
        outcome: Outcome::default(),
        epoch: 0,
        clock: Clock::default(),
        before_s: 0.0,
    };
    trace.replay(case.policy.is_offline(), &mut |used| {
        run.play(used);
        let look = used.position % STRIDE == STRIDE - 1;
        if look {
            progress.uses.fetch_add(STRIDE, Relaxed);
        }
        !(look && progress.stop.load(Relaxed))
    })?;
    progress.uses.fetch_add(trace.uses() % STRIDE, Relaxed);
    Ok(run.end())
}

struct Run<'a> {
    evictor: Evictor,
    /// A bit an object: it was used before.
    seen: Vec<u64>,
    settings: &'a Settings,
    victims: Vec<crate::policy::eviction::Victim>,
    outcome: Outcome,
    epoch: u32,
    clock: Clock,
    /// What the epochs before this one took.
    before_s: f64,
}

impl Run<'_> {
    fn play(&mut self, used: &Use) {
        if used.epoch != self.epoch {
            self.end_epoch();
            self.epoch = used.epoch;
        }
        let model = &self.settings.model;
        let now_ms =
            used.at_ms.unwrap_or_else(|| ((self.before_s + self.clock.elapsed_s(model)) * 1000.0) as u64);
        let Use { object, size_bytes, pattern, next_use, .. } = *used;
        let touched =
            self.evictor.touch(&Access { object, size_bytes, now_ms, pattern, next_use }, &mut self.victims);
        let hit = touched == Touched::Hit;
        self.clock.read();
        if !hit {
            self.clock.fetched(size_bytes, model);
        }
        let seen = self.was_seen(used);
        if self.epoch >= self.settings.from_epoch {
            self.count(size_bytes, hit, seen);
        }
    }

    fn was_seen(&mut self, used: &Use) -> bool {
        let (word, bit) = (&mut self.seen[(used.object.0 / 64) as usize], 1 << (used.object.0 % 64));
        let seen = *word & bit != 0;
        *word |= bit;
        seen
    }

    fn count(&mut self, size_bytes: u64, hit: bool, seen: bool) {
        let outcome = &mut self.outcome;
        if seen {
            outcome.uses += 1;
            outcome.bytes += size_bytes;
        }
        if hit {
            outcome.hits += 1;
            outcome.hit_bytes += size_bytes;
        } else {
            outcome.requests += 1;
            outcome.fetched_bytes += size_bytes;
        }
        outcome.evicted += self.victims.len() as u64;
        outcome.evicted_bytes += self.victims.iter().map(|victim| victim.size_bytes).sum::<u64>();
    }

    fn end_epoch(&mut self) {
        let model = &self.settings.model;
        self.before_s += self.clock.elapsed_s(model);
        if self.epoch >= self.settings.from_epoch {
            self.outcome.elapsed_s += self.clock.elapsed_s(model);
            self.outcome.waited_s += self.clock.waited_s(model);
        }
        self.clock = Clock::default();
    }

    fn end(mut self) -> Outcome {
        self.end_epoch();
        let memory_bytes = self.evictor.memory_bytes() + self.seen.capacity() * size_of::<u64>();
        Outcome { memory_bytes, ..self.outcome }
    }
}

/// The least bytes that any policy fetches again where each of `epochs` epochs uses each object once: at the boundary
/// before each epoch no more than the cache is in it.
pub fn bound_bytes(data_set_bytes: u64, cache_bytes: u64, epochs: u32) -> u64 {
    u64::from(epochs) * data_set_bytes.saturating_sub(cache_bytes)
}
