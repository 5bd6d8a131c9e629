//! FIFO: what came first goes first.

use super::links::{Links, List};
use super::{Access, ObjectNo, Order, Residents};

/// Latest arrival at the front.
#[derive(Default)]
pub(super) struct Fifo {
    links: Links,
    list: List,
}

impl Order for Fifo {
    fn used(&mut self, _: &Access, _: &Residents) {}

    fn admitted(&mut self, access: &Access, _: &Residents) {
        self.list.push_front(&mut self.links, access.object);
    }

    fn victim(&mut self, _: &Access, residents: &Residents) -> Option<ObjectNo> {
        // Who is pinned begins anew.
        for _ in 0..self.list.len() {
            let first = self.list.pop_back(&mut self.links)?;
            if !residents.is_pinned(first) {
                return Some(first);
            }
            self.list.push_front(&mut self.links, first);
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
