//! Belady's bound: what is used farthest in the future goes first, and a newcomer that is used later still stays out.
//!
//! No policy without knowledge of the future hits more objects of equal size (Belady 1966, with bypass). With unequal
//! sizes it is a very good one, and no strict bound. It needs [`Access::next_use`]; positions from 2^32 on count as
//! never, which is as far as the bound goes.
//!
//! Told less than the whole future it is still the best use of what is known: unknown counts as never, and who is in
//! stays before a newcomer of whom as little is known.

use std::collections::BinaryHeap;

use super::{Access, ObjectNo, Order, Residents, slot};

const NEVER: u32 = u32::MAX;

/// A heap in which old entries stay until they come up or are half of it.
#[derive(Default)]
pub struct Belady {
    next_use: Vec<u32>,
    heap: BinaryHeap<(u32, ObjectNo)>,
}

fn position(access: &Access) -> u32 {
    u32::try_from(access.next_use).unwrap_or(NEVER)
}

impl Belady {
    fn note(&mut self, access: &Access, residents: &Residents) {
        let next = position(access);
        *slot(&mut self.next_use, access.object.index(), NEVER) = next;
        self.heap.push((next, access.object));
        if self.heap.len() as u64 > 2 * residents.count() + 1024 {
            let next_use = &self.next_use;
            self.heap
                .retain(|&(next, object)| residents.contains(object) && next_use[object.index()] == next);
        }
    }
}

impl Order for Belady {
    fn used(&mut self, access: &Access, residents: &Residents) {
        // An entry that says the same is in the heap already, and would survive its cleaning twice.
        if self.next_use[access.object.index()] != position(access) {
            self.note(access, residents);
        }
    }

    fn admitted(&mut self, access: &Access, residents: &Residents) {
        self.note(access, residents);
    }

    fn victim(&mut self, newcomer: &Access, residents: &Residents) -> Option<ObjectNo> {
        let (limit, mut pinned, mut found) = (position(newcomer), Vec::new(), None);
        while let Some(&(next, object)) = self.heap.peek().filter(|(next, _)| *next > limit) {
            self.heap.pop();
            if !residents.contains(object) || self.next_use[object.index()] != next {
                continue;
            }
            if !residents.is_pinned(object) {
                found = Some(object);
                break;
            }
            pinned.push((next, object));
        }
        self.heap.extend(pinned);
        found
    }

    fn put_back(&mut self, object: ObjectNo, _: &Residents) {
        self.heap.push((self.next_use[object.index()], object));
    }

    fn forgotten(&mut self, _: ObjectNo, _: &Residents) {}

    fn memory_bytes(&self) -> usize {
        self.next_use.capacity() * size_of::<u32>() + self.heap.capacity() * size_of::<(u32, ObjectNo)>()
    }
}
