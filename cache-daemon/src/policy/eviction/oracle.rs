//! The policies written as their papers have them, with plain collections and linear searches.

use std::collections::{HashMap, VecDeque};

use super::Access;

pub(super) trait Oracle {
    fn used(&mut self, access: &Access);
    fn admit(&mut self, access: &Access);
    /// The cache is full: who goes for the newcomer, if it may come.
    fn evict(&mut self, newcomer: &Access) -> Option<u32>;
}

#[derive(Default)]
pub(super) struct Lru(Vec<u32>);

impl Oracle for Lru {
    fn used(&mut self, access: &Access) {
        self.0.retain(|&object| object != access.object.0);
        self.0.push(access.object.0);
    }

    fn admit(&mut self, access: &Access) {
        self.0.push(access.object.0);
    }

    fn evict(&mut self, _: &Access) -> Option<u32> {
        Some(self.0.remove(0))
    }
}

#[derive(Default)]
pub(super) struct Fifo(VecDeque<u32>);

impl Oracle for Fifo {
    fn used(&mut self, _: &Access) {}

    fn admit(&mut self, access: &Access) {
        self.0.push_back(access.object.0);
    }

    fn evict(&mut self, _: &Access) -> Option<u32> {
        self.0.pop_front()
    }
}

pub(super) struct NoReplacement;

impl Oracle for NoReplacement {
    fn used(&mut self, _: &Access) {}

    fn admit(&mut self, _: &Access) {}

    fn evict(&mut self, _: &Access) -> Option<u32> {
        None
    }
}

/// From the oldest to the latest, with marks; the hand is an index.
#[derive(Default)]
pub(super) struct Sieve {
    queue: Vec<(u32, bool)>,
    hand: usize,
}

impl Oracle for Sieve {
    fn used(&mut self, access: &Access) {
        for (object, marked) in &mut self.queue {
            *marked |= *object == access.object.0;
        }
    }

    fn admit(&mut self, access: &Access) {
        self.queue.push((access.object.0, false));
    }

    fn evict(&mut self, _: &Access) -> Option<u32> {
        loop {
            if self.hand >= self.queue.len() {
                self.hand = 0;
            }
            if !std::mem::take(&mut self.queue[self.hand].1) {
                let victim = self.queue.remove(self.hand).0;
                // After the latest comes the oldest, before anybody who enters now.
                if self.hand == self.queue.len() {
                    self.hand = 0;
                }
                return Some(victim);
            }
            self.hand += 1;
        }
    }
}

/// Algorithm 1 of the paper.
#[derive(Default)]
pub(super) struct S3Fifo {
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghost: VecDeque<u32>,
    uses: HashMap<u32, u8>,
}

impl Oracle for S3Fifo {
    fn used(&mut self, access: &Access) {
        let uses = self.uses.entry(access.object.0).or_default();
        *uses = 3.min(*uses + 1);
    }

    fn admit(&mut self, access: &Access) {
        let object = access.object.0;
        self.uses.insert(object, 0);
        match self.ghost.iter().position(|&ghost| ghost == object) {
            Some(at) => {
                self.ghost.remove(at);
                self.main.push_front(object);
            }
            None => self.small.push_front(object),
        }
    }

    fn evict(&mut self, _: &Access) -> Option<u32> {
        loop {
            let full = self.small.len() + self.main.len();
            if !self.small.is_empty() && (self.main.is_empty() || self.small.len() * 10 >= full) {
                let oldest = self.small.pop_back()?;
                if self.uses[&oldest] >= 2 {
                    self.uses.insert(oldest, 0);
                    self.main.push_front(oldest);
                    continue;
                }
                self.ghost.push_front(oldest);
                let left = full - 1;
                self.ghost.truncate(left - left / 10);
                return Some(oldest);
            }
            let oldest = self.main.pop_back()?;
            if self.uses[&oldest] == 0 {
                return Some(oldest);
            }
            *self.uses.get_mut(&oldest)? -= 1;
            self.main.push_front(oldest);
        }
    }
}

#[derive(Default)]
pub(super) struct Belady(HashMap<u32, u64>);

impl Oracle for Belady {
    fn used(&mut self, access: &Access) {
        self.0.insert(access.object.0, access.next_use);
    }

    fn admit(&mut self, access: &Access) {
        self.used(access);
    }

    fn evict(&mut self, newcomer: &Access) -> Option<u32> {
        // Of several that are never used again, the one with the largest number.
        let (&object, &next) = self.0.iter().max_by_key(|&(&object, &next)| (next, object))?;
        if next <= newcomer.next_use {
            return None;
        }
        self.0.remove(&object);
        Some(object)
    }
}
