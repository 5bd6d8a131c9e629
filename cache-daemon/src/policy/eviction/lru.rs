//! LRU: what was used longest ago goes first.
//!
//! The order of page caches and of most rivals, and the worst one for epochs: with half of the set cached it hits
//! 15 %, because what was used longest ago is what this epoch still has to read.

use super::links::{Links, List};
use super::{Access, ObjectNo, Order, Residents};

/// Latest use at the front.
#[derive(Default)]
pub(super) struct Lru {
    links: Links,
    list: List,
}

impl Order for Lru {
    fn used(&mut self, access: &Access, _: &Residents) {
        self.list.move_to_front(&mut self.links, access.object);
    }

    fn admitted(&mut self, access: &Access, _: &Residents) {
        self.list.push_front(&mut self.links, access.object);
    }

    fn victim(&mut self, _: &Access, residents: &Residents) -> Option<ObjectNo> {
        // Who is pinned is in use.
        for _ in 0..self.list.len() {
            let oldest = self.list.back()?;
            if !residents.is_pinned(oldest) {
                self.list.remove(&mut self.links, oldest);
                return Some(oldest);
            }
            self.list.move_to_front(&mut self.links, oldest);
        }
        None
    }

    fn put_back(&mut self, object: ObjectNo, _: &Residents) {
        self.list.push_back(&mut self.links, object);
    }

    fn forgotten(&mut self, object: ObjectNo, _: &Residents) {
        self.list.remove(&mut self.links, object);
    }

    fn memory_bytes(&self) -> usize {
        self.links.memory_bytes()
    }
}
