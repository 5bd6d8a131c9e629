//! Made-up traces: what a DataLoader reads, by a formula.
//!
//! Every position of every epoch is a function of the seed, and so is the next use of what is there: nothing is
//! stored, and 100 000 000 files are as good as a thousand.
//!
//! The order is that of a DataLoader: the sampler's permutation is dealt to the ranks in turn (`DistributedSampler`),
//! a rank's part is cut into batches, batches go to the workers in turn, and workers read side by side. What is
//! replayed is what the node of the first rank reads; the others' is the same by symmetry.

use std::sync::OnceLock;

use super::permutation::{Permutation, mix};
use super::sizes::{SizeOf, Sizes};
use super::{Trace, TraceError, Use, next_uses};
use crate::policy::eviction::{ObjectNo, Pattern, SetNo};

/// As many files as there can be: the two digits of a permutation must fit 32 bits.
pub const FILES_MAX: u32 = u32::MAX - (1 << 17);

/// In which order an epoch reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// A fresh permutation each epoch.
    Shuffle,
    /// The same order each epoch.
    Listing,
    /// Draws with replacement, as many as there are files.
    Replacement,
}

/// What a made-up trace is like.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    /// Files of the set.
    pub files: u32,
    /// Their sizes.
    pub sizes: Sizes,
    /// Epochs.
    pub epochs: u32,
    /// The order.
    pub order: Order,
    /// Worker processes of a node.
    pub workers: u32,
    /// Files of a batch.
    pub batch: u32,
    /// Nodes that the set is dealt to.
    pub ranks: u32,
    /// Epochs after the present one whose order is known, if not all: a next use beyond is one that never comes. Where an
    /// epoch reads a part of the files, the policy `epoch` is told of them too.
    pub told: Option<u32>,
    /// What everything follows from.
    pub seed: u64,
}

/// A made-up trace.
pub struct Synthetic {
    shape: Shape,
    /// Uses of this node in an epoch.
    share: u32,
    sizes: SizeOf,
    data_set_bytes: u64,
    epochs: Vec<Permutation>,
    /// Of draws with replacement.
    next_uses: OnceLock<Vec<u32>>,
}

impl Synthetic {
    /// The trace of that shape.
    ///
    /// # Panics
    /// If something is 0, there are more than [`FILES_MAX`] files, or fewer files than ranks.
    pub fn new(shape: Shape) -> Self {
        let Shape { files, epochs, workers, batch, ranks, seed, .. } = shape;
        assert!(files <= FILES_MAX && epochs > 0 && workers > 0 && batch > 0, "{shape:?}");
        assert!((1..=files).contains(&ranks), "{shape:?}");
        let sizes = SizeOf::new(shape.sizes, seed);
        let data_set_bytes = (0..files).map(|object| sizes.bytes(object)).sum();
        let permutation = |epoch| Permutation::new(files, mix(seed) ^ u64::from(epoch));
        Self {
            shape,
            share: files / ranks,
            sizes,
            data_set_bytes,
            epochs: (0..epochs).map(permutation).collect(),
            next_uses: OnceLock::new(),
        }
    }

    /// Bytes that this node reads in an epoch, on average.
    pub fn share_bytes(&self) -> u64 {
        self.data_set_bytes / u64::from(self.shape.ranks)
    }

    fn object(&self, epoch: u32, at: u32) -> u32 {
        let Shape { files, order, ranks, seed, .. } = self.shape;
        match order {
            Order::Shuffle => self.epochs[epoch as usize].at(self.dealt(at) * ranks),
            Order::Listing => self.dealt(at) * ranks,
            Order::Replacement => {
                let draw = mix(mix(seed ^ 0xd1ce ^ u64::from(epoch)) ^ u64::from(at));
                (((draw >> 32) * u64::from(files)) >> 32) as u32
            }
        }
    }

    /// Which of this node's samples is read at place `at`: batches of as many workers as there are, side by side.
    fn dealt(&self, at: u32) -> u32 {
        let Shape { workers, batch, .. } = self.shape;
        let Some(start) = self.whole_block(at) else { return at };
        let within = at - start;
        start + within % workers * batch + within / workers
    }

    /// The place at which sample `sample` is read.
    fn place_of(&self, sample: u32) -> u32 {
        let Shape { workers, batch, .. } = self.shape;
        let Some(start) = self.whole_block(sample) else { return sample };
        let within = sample - start;
        start + within % batch * workers + within / batch
    }

    /// The start of the block of batches, one a worker, that holds `at`; none for what is left at the end.
    fn whole_block(&self, at: u32) -> Option<u32> {
        let block = u64::from(self.shape.workers) * u64::from(self.shape.batch);
        let start = u64::from(at) / block * block;
        (start + block <= u64::from(self.share)).then_some(start as u32)
    }

    /// The epoch and the sample of the next use of an object after epoch `epoch`, as far as it is known.
    fn next(&self, epoch: u32, object: u32) -> Option<(u32, u32)> {
        let Shape { ranks, epochs, told, .. } = self.shape;
        let end = told.map_or(epochs, |told| epochs.min(epoch.saturating_add(told).saturating_add(1)));
        for later in epoch + 1..end {
            let position = match self.shape.order {
                Order::Shuffle => self.epochs[later as usize].position_of(object),
                _ => object,
            };
            let (sample, rank) = (position / ranks, position % ranks);
            if rank == 0 && sample < self.share {
                return Some((later, sample));
            }
        }
        None
    }

    fn position(&self, (epoch, sample): (u32, u32)) -> u64 {
        u64::from(epoch) * u64::from(self.share) + u64::from(self.place_of(sample))
    }
}

impl Trace for Synthetic {
    fn objects(&self) -> u32 {
        self.shape.files
    }

    fn uses(&self) -> u64 {
        u64::from(self.shape.epochs) * u64::from(self.share)
    }

    fn data_set_bytes(&self) -> u64 {
        self.data_set_bytes
    }

    fn epochs(&self) -> u32 {
        self.shape.epochs
    }

    fn is_exactly_once(&self) -> bool {
        self.shape.ranks == 1 && self.shape.order != Order::Replacement
    }

    fn replay(&self, future: bool, f: &mut dyn FnMut(&Use) -> bool) -> Result<(), TraceError> {
        let by_chance = self.shape.order == Order::Replacement;
        let next_uses = match future && by_chance {
            true if self.next_uses.get().is_none() => {
                let found = next_uses(self)?;
                Some(self.next_uses.get_or_init(|| found))
            }
            true => self.next_uses.get(),
            false => None,
        };
        let Shape { order, ranks, told, .. } = self.shape;
        let are_due = order == Order::Shuffle && ranks > 1 && told.is_some();
        let mut position = 0;
        for epoch in 0..self.shape.epochs {
            for at in 0..self.share {
                let object = self.object(epoch, at);
                let next =
                    if are_due || future && next_uses.is_none() { self.next(epoch, object) } else { None };
                let next_use = match next_uses {
                    _ if !future => 0,
                    None => next.map_or(u64::MAX, |next| self.position(next)),
                    Some(next) => match next[position as usize] {
                        u32::MAX => u64::MAX,
                        next => next.into(),
                    },
                };
                let pattern = match next {
                    // A sampler with replacement reads no epochs.
                    _ if by_chance => Pattern::General,
                    Some((due, _)) if are_due => Pattern::Due(SetNo(0), due),
                    None if are_due => Pattern::Due(SetNo(0), Pattern::NOT_TOLD),
                    _ => Pattern::Epoch(SetNo(0)),
                };
                let (object, size_bytes) = (ObjectNo(object), self.sizes.bytes(object));
                if !f(&Use { position, epoch, object, size_bytes, pattern, next_use, at_ms: None }) {
                    return Ok(());
                }
                position += 1;
            }
        }
        Ok(())
    }
}
