//! 2-random: of two at random, the one used longer ago goes. JuiceFS's default (`pkg/chunk/disk_cache.go`).

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Access, ObjectNo, Order, Residents, slot};

/// How often two are drawn again because the choice is pinned, before all are looked at.
const DRAWS_MAX: usize = 32;

pub(super) struct TwoRandom {
    random: SmallRng,
    linked: Vec<ObjectNo>,
    states: Vec<State>,
    /// Counts uses.
    clock: u32,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// Where in `linked`.
    place: u32,
    used: u32,
}

impl TwoRandom {
    pub fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), linked: Vec::new(), states: Vec::new(), clock: 0 }
    }

    fn link(&mut self, object: ObjectNo) {
        let place = self.linked.len() as u32;
        slot(&mut self.states, object.index(), State::default()).place = place;
        self.linked.push(object);
    }

    fn unlink(&mut self, object: ObjectNo) {
        let place = self.states[object.index()].place;
        self.linked.swap_remove(place as usize);
        if let Some(moved) = self.linked.get(place as usize) {
            self.states[moved.index()].place = place;
        }
    }

    fn stamp(&mut self, object: ObjectNo) {
        self.clock = self.clock.wrapping_add(1);
        slot(&mut self.states, object.index(), State::default()).used = self.clock;
    }

    /// Uses since it was used. Modulo 2^32: who was not used for so long may pass as fresh once.
    fn age(&self, object: ObjectNo) -> u32 {
        self.clock.wrapping_sub(self.states[object.index()].used)
    }

    fn draw(&mut self) -> Option<ObjectNo> {
        if self.linked.is_empty() {
            return None;
        }
        let mut one = || self.linked[self.random.random_range(0..self.linked.len())];
        let (first, second) = (one(), one());
        Some(if self.age(first) >= self.age(second) { first } else { second })
    }
}

impl Order for TwoRandom {
    fn used(&mut self, access: &Access, _: &Residents) {
        self.stamp(access.object);
    }

    fn admitted(&mut self, access: &Access, _: &Residents) {
        self.link(access.object);
        self.stamp(access.object);
    }

    fn victim(&mut self, _: &Access, residents: &Residents) -> Option<ObjectNo> {
        let free = |object: &ObjectNo| !residents.is_pinned(*object);
        let drawn = (0..DRAWS_MAX).find_map(|_| self.draw().filter(free));
        let victim = drawn.or_else(|| self.linked.iter().copied().find(free))?;
        self.unlink(victim);
        Some(victim)
    }

    fn put_back(&mut self, object: ObjectNo, _: &Residents) {
        self.link(object);
    }

    fn forgotten(&mut self, object: ObjectNo, _: &Residents) {
        self.unlink(object);
    }

    fn memory_bytes(&self) -> usize {
        self.linked.capacity() * size_of::<ObjectNo>() + self.states.capacity() * size_of::<State>()
    }
}
